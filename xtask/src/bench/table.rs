//! Tables and targets as Markdown.

use std::fmt::{Display, Formatter, Write as _};
use std::time::Duration;

use super::figures::{Row, ratio};
use super::watch::Peak;

/// Something that a target limits.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) enum Amount {
    /// A part of something else.
    Ratio(f64),
    /// Memory.
    Bytes(u64),
    /// A time.
    Time(Duration),
}

impl Display for Amount {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ratio(ratio) => write!(f, "{ratio:.2}"),
            Self::Bytes(bytes) => write!(f, "{}", size(*bytes)),
            Self::Time(time) => write!(f, "{}", seconds(*time)),
        }
    }
}

/// What umbra has promised, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// What is limited; no two targets of the bench say the same.
    pub(super) what: String,
    /// The limit.
    pub(super) at_most: Amount,
    /// What was measured; absent where it could not be.
    pub(super) measured: Option<Amount>,
}

impl Target {
    /// A quotient of two rows' wall times.
    pub(super) fn time(what: &str, at_most: f64, ours: Option<&Row>, theirs: Option<&Row>) -> Self {
        let measured = ours.zip(theirs).map(|(ours, theirs)| time_ratio(ours, theirs));
        Self {
            what: what.to_owned(),
            at_most: Amount::Ratio(at_most),
            measured: measured.map(Amount::Ratio),
        }
    }

    /// A quotient of two stores' bytes.
    pub(super) fn stored(what: &str, at_most: f64, ours: Option<u64>, theirs: Option<u64>) -> Self {
        let measured = ours.zip(theirs).map(|(ours, theirs)| ratio(ours, theirs));
        Self {
            what: what.to_owned(),
            at_most: Amount::Ratio(at_most),
            measured: measured.map(Amount::Ratio),
        }
    }

    /// A program's peak memory.
    pub(super) fn memory(what: &str, at_most_bytes: u64, row: Option<&Row>, program: &str) -> Self {
        let measured = row.and_then(|row| row.peak_bytes(program));
        Self {
            what: what.to_owned(),
            at_most: Amount::Bytes(at_most_bytes),
            measured: measured.map(Amount::Bytes),
        }
    }

    /// A wall time.
    pub(super) fn within(what: &str, at_most: Duration, row: Option<&Row>) -> Self {
        Self {
            what: what.to_owned(),
            at_most: Amount::Time(at_most),
            measured: row.map(|row| Amount::Time(row.wall())),
        }
    }

    /// The verdict.
    pub(super) fn verdict(&self) -> &'static str {
        match &self.measured {
            None => "not measured",
            Some(measured) if *measured <= self.at_most => "met",
            Some(_) => "**missed**",
        }
    }

    /// The row of a table: what, limit, measured, verdict.
    pub(super) fn line(&self) -> String {
        let measured = self.measured.map_or_else(|| "-".to_owned(), |amount| amount.to_string());
        format!("| {} | {} | {measured} | {} |", self.what, self.at_most, self.verdict())
    }
}

/// The quotient of two rows' wall times.
fn time_ratio(ours: &Row, theirs: &Row) -> f64 {
    ours.wall().as_secs_f64() / theirs.wall().as_secs_f64()
}

/// The rows as a table. The last two columns say how the first row compares with each other one.
pub(super) fn rows(rows: &[Row]) -> String {
    let first = rows.first().map_or("", |row| row.name.as_str());
    let mut text = format!(
        "| | wall (from - to) | CPU | peak memory | stored | time of {first} to its | bytes |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for (number, row) in rows.iter().enumerate() {
        let ours = rows.first().filter(|_| number > 0);
        let time = ours.map_or("-".into(), |ours| format!("{:.2}", time_ratio(ours, row)));
        let bytes = ours.and_then(|ours| Some(ratio(ours.stored_bytes?, row.stored_bytes?)));
        let bytes = bytes.map_or("-".into(), |bytes| format!("{bytes:.2}"));
        let stored = row.stored_bytes.map_or("-".into(), size);
        let [median, shortest, longest] = row.wall.map(seconds);
        let spread =
            if shortest == longest { median } else { format!("{median} ({shortest} - {longest})") };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {spread} | {} | {} | {stored} | {time} | {bytes} |",
            row.name,
            seconds(row.cpu),
            memory(&row.peaks),
        );
    }
    text
}

/// The targets as a table.
pub(super) fn targets(targets: &[Target]) -> String {
    let mut text = "| target | at most | measured | |\n|---|---|---|---|\n".to_owned();
    for target in targets {
        text.push_str(&target.line());
        text.push('\n');
    }
    text
}

/// One program: its memory; several: each with its name.
fn memory(peaks: &[Peak]) -> String {
    match peaks {
        [] => "-".to_owned(),
        [only] => size(only.bytes),
        several => {
            let each = several.iter().map(|peak| {
                let name = match peak.program.as_str() {
                    "umbra" => "agent",
                    "umbra-vault" => "vault",
                    other => other,
                };
                format!("{name} {}", size(peak.bytes))
            });
            each.collect::<Vec<String>>().join(", ")
        }
    }
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{:.2} s", time.as_secs_f64())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

fn size(bytes: u64) -> String {
    if bytes < 10 << 20 {
        format!("{:.2} MiB", ratio(bytes, 1 << 20))
    } else {
        format!("{:.0} MiB", ratio(bytes, 1 << 20))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::{Amount, Row, Target, rows, targets};
    use crate::bench::watch::Peak;

    fn row(name: &str, wall_ms: u64, stored_bytes: Option<u64>) -> Row {
        let wall = Duration::from_millis(wall_ms);
        let peak = |program: &str, bytes| Peak { program: program.to_owned(), bytes };
        Row {
            name: name.to_owned(),
            wall: [wall, wall / 2, wall * 2],
            cpu: wall * 3,
            peaks: vec![peak("umbra", 145 << 20), peak("umbra-vault", 3 << 19)],
            stored_bytes,
        }
    }

    #[test]
    fn a_table_compares_the_first_row_with_the_others() {
        let mut restic = row("restic", 7000, Some(200 << 20));
        restic.peaks = vec![Peak { program: "restic".into(), bytes: 99 << 20 }];
        let text = rows(&[row("umbra", 3500, Some(100 << 20)), restic]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].contains("time of umbra to its"));
        assert_eq!(
            lines[2],
            "| umbra | 3.50 s (1.75 s - 7.00 s) | 10.5 s | agent 145 MiB, vault 1.50 MiB | 100 MiB | - | - |"
        );
        assert_eq!(
            lines[3],
            "| restic | 7.00 s (3.50 s - 14.0 s) | 21.0 s | 99 MiB | 200 MiB | 0.50 | 0.50 |"
        );
        // As many columns everywhere.
        let columns: Vec<usize> = lines.iter().map(|line| line.matches('|').count()).collect();
        assert_eq!(columns, [8, 8, 8, 8]);
    }

    #[test]
    fn what_is_not_stored_has_no_bytes() {
        let text = rows(&[row("cat", 100, None), row("dump", 200, None)]);
        assert!(text.ends_with("| - | 0.50 | - |\n"), "{text}");
    }

    #[test]
    fn a_missed_target_stands_as_missed() {
        let (ours, theirs) = (row("umbra", 400, Some(55)), row("restic", 1000, Some(100)));
        let verdict = |limit| Target::time("x", limit, Some(&ours), Some(&theirs)).verdict();
        assert_eq!(verdict(0.45), "met");
        assert_eq!(verdict(0.4), "met");
        assert_eq!(verdict(0.39), "**missed**");
        assert_eq!(Target::time("x", 1.0, Some(&ours), None).verdict(), "not measured");
        let stored = Target::stored("bytes", 0.5, ours.stored_bytes, theirs.stored_bytes);
        assert_eq!(stored.line(), "| bytes | 0.50 | 0.55 | **missed** |");
        let memory = Target::memory("agent", 256 << 20, Some(&ours), "umbra");
        assert_eq!(memory.line(), "| agent | 256 MiB | 145 MiB | met |");
        assert_eq!(Target::memory("agent", 1, Some(&ours), "borg").verdict(), "not measured");
        let within = Target::within("cat", Duration::from_secs(1), Some(&ours));
        assert_eq!(within.line(), "| cat | 1.00 s | 0.40 s | met |");
        assert!(targets(&[within, memory]).lines().count() == 4);
    }

    #[test]
    fn amounts_of_one_kind_compare() {
        assert!(Amount::Bytes(1) < Amount::Bytes(2));
        assert!(Amount::Time(Duration::from_millis(1)) < Amount::Time(Duration::from_secs(1)));
    }
}
