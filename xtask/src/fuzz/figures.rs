//! What a run of libFuzzer says of itself, and the table of all of them.

use std::time::Duration;

/// What one target's run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Inputs that were run.
    pub(super) executions: u64,
    /// Edges of the program that some input reached.
    pub(super) edges: u64,
    /// Features: edges with how often they were taken, and values compared.
    pub(super) features: u64,
    /// Inputs that are worth keeping, committed ones among them.
    pub(super) inputs: u64,
    /// Most memory that the process held, in MiB.
    pub(super) peak_mib: u64,
}

impl Figures {
    /// Reads them out of what libFuzzer wrote to standard error: the last status line
    /// (`#N DONE cov: E ft: F corp: I/BYTES ...`) and the final statistics.
    pub(super) fn read(said: &str) -> Self {
        let status = said.lines().rfind(|line| line.starts_with('#') && line.contains(" cov: "));
        let word = |name: &str| {
            let mut words = status.unwrap_or_default().split_whitespace();
            words.find(|word| *word == name)?;
            words.next()?.split('/').next()?.parse().ok()
        };
        let statistic = |name: &str| {
            let rest = said.lines().rev().find_map(|line| line.strip_prefix(name))?;
            rest.trim().parse().ok()
        };
        Self {
            executions: statistic("stat::number_of_executed_units:").unwrap_or_default(),
            edges: word("cov:").unwrap_or_default(),
            features: word("ft:").unwrap_or_default(),
            inputs: word("corp:").unwrap_or_default(),
            peak_mib: statistic("stat::peak_rss_mb:").unwrap_or_default(),
        }
    }
}

/// One target's run.
pub(super) struct Row {
    /// The target.
    pub(super) target: String,
    /// How long it was fuzzed.
    pub(super) took: Duration,
    /// What libFuzzer counted.
    pub(super) figures: Figures,
    /// Where the input of a finding stands, or how else the run failed.
    pub(super) finding: Option<String>,
}

/// Returns the table, a line for each target and one for all.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<16} {:>7} {:>12} {:>8} {:>9} {:>8} {:>9}  finding\n",
        "target", "seconds", "executions", "edges", "features", "inputs", "peak MiB"
    );
    for Row { target, took, figures, finding } in rows {
        text += &format!(
            "{target:<16} {:>7} {:>12} {:>8} {:>9} {:>8} {:>9}  {}\n",
            took.as_secs(),
            figures.executions,
            figures.edges,
            figures.features,
            figures.inputs,
            figures.peak_mib,
            finding.as_deref().unwrap_or("none")
        );
    }
    let seconds: u64 = rows.iter().map(|row| row.took.as_secs()).sum();
    let executions: u64 = rows.iter().map(|row| row.figures.executions).sum();
    let findings = rows.iter().filter(|row| row.finding.is_some()).count();
    text + &format!("all {:<12} {seconds:>7} {executions:>12}  {findings} findings", rows.len())
}

#[cfg(test)]
mod tests {
    use super::Figures;

    #[test]
    fn the_last_status_line_and_the_statistics_count() {
        let said = "#2\tINITED cov: 5 ft: 6 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                    #512\tpulse  cov: 61 ft: 70 corp: 9/44b lim: 4 exec/s: 256 rss: 31Mb\n\
                    #900\tDONE   cov: 598 ft: 1460 corp: 156/126Kb lim: 5 exec/s: 450 rss: 35Mb\n\
                    Done 900 runs in 2 second(s)\n\
                    stat::number_of_executed_units: 900\n\
                    stat::average_exec_per_sec:     450\n\
                    stat::peak_rss_mb:              35\n";
        let expected =
            Figures { executions: 900, edges: 598, features: 1460, inputs: 156, peak_mib: 35 };
        assert_eq!(Figures::read(said), expected);
        assert_eq!(Figures::read("cannot start"), Figures::default());
    }
}
