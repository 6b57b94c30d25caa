//! What is measured, and what umbra promised of it.

mod disk;
mod fleet;
mod million;
mod sparse;
mod stream;
mod vm;

use anyhow::Result;

use super::figures::{Row, Sample};
use super::table::Target;
use super::tools::Kind;
use super::{Bench, Scenario};

/// What one scenario brought.
pub(super) struct Section {
    /// The scenario.
    pub(super) scenario: Scenario,
    /// What was done, in a sentence or two.
    pub(super) method: String,
    /// Its tables, each with a title where there are several.
    pub(super) tables: Vec<Table>,
    /// Its targets; empty where nothing was promised.
    pub(super) targets: Vec<Target>,
}

/// A table of a section.
pub(super) struct Table {
    /// What it shows; may be empty.
    pub(super) title: String,
    /// The rows; the first is compared with the others.
    pub(super) rows: Vec<Row>,
}

/// The chosen scenarios; those that share disk and stores run together.
pub(super) fn groups(chosen: &[Scenario]) -> Vec<Vec<Scenario>> {
    let shares = |s: &Scenario| matches!(s, Scenario::First | Scenario::Again | Scenario::Recover);
    let (together, alone): (Vec<Scenario>, Vec<Scenario>) = chosen.iter().partition(|s| shares(s));
    let mut groups: Vec<Vec<Scenario>> = alone.into_iter().map(|scenario| vec![scenario]).collect();
    if !together.is_empty() {
        groups.insert(0, together);
    }
    groups
}

/// Measures a group.
///
/// # Errors
/// When a tool fails or something wrong comes back.
pub(super) fn run(bench: &Bench<'_>, group: &[Scenario]) -> Result<Vec<Section>> {
    match group {
        [Scenario::Large] => disk::large(bench).map(|section| vec![section]),
        [Scenario::Fleet] => fleet::run(bench).map(|section| vec![section]),
        [Scenario::Vm] => vm::run(bench).map(|section| vec![section]),
        [Scenario::Sparse] => sparse::run(bench).map(|section| vec![section]),
        [Scenario::Million] => million::run(bench).map(|section| vec![section]),
        [Scenario::Stream] => stream::run(bench).map(|section| vec![section]),
        several => disk::small(bench, several),
    }
}

/// Memory that an agent may take beside what it needs for each file.
const AGENT_BYTES: u64 = 256 << 20;
/// Memory that an agent may take for each file.
const AGENT_BYTES_PER_FILE: u64 = 64;
/// Memory that a vault may take.
const VAULT_BYTES: u64 = 512 << 20;

/// The two targets of memory for a backup.
fn memory_targets(what: &str, files: u64, row: Option<&Row>) -> [Target; 2] {
    let agent = AGENT_BYTES + files * AGENT_BYTES_PER_FILE;
    [
        Target::memory(&format!("{what}: memory of the agent"), agent, row, "umbra"),
        Target::memory(&format!("{what}: memory of the vault"), VAULT_BYTES, row, "umbra-vault"),
    ]
}

/// The samples of several tools.
#[derive(Default)]
struct Samples(Vec<(Kind, Vec<Sample>)>);

impl Samples {
    fn add(&mut self, kind: Kind, sample: Sample) {
        match self.0.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, samples)) => samples.push(sample),
            None => self.0.push((kind, vec![sample])),
        }
    }

    fn row(&self, kind: Kind) -> Option<Row> {
        let (_, samples) = self.0.iter().find(|(known, _)| *known == kind)?;
        Row::of(kind.name(), samples)
    }

    /// All rows, this tool's first.
    fn rows(&self, first: Kind) -> Vec<Row> {
        let others = self.0.iter().map(|(kind, _)| *kind).filter(|kind| *kind != first);
        std::iter::once(first).chain(others).filter_map(|kind| self.row(kind)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Sample, Samples, Scenario, groups};
    use crate::bench::measure::Cost;

    #[test]
    fn what_shares_a_disk_runs_together() {
        assert_eq!(groups(&[]), Vec::<Vec<Scenario>>::new());
        let chosen = [Scenario::Again, Scenario::Recover, Scenario::Vm];
        assert_eq!(groups(&chosen), [vec![Scenario::Again, Scenario::Recover], vec![Scenario::Vm]]);
        assert_eq!(groups(Scenario::ALL).concat(), Scenario::ALL);
    }

    #[test]
    fn the_row_that_is_compared_comes_first() {
        let mut samples = Samples::default();
        for kind in [Kind::Embedded, Kind::Running, Kind::Restic, Kind::Running] {
            samples.add(kind, Sample { cost: Cost::default(), stored_bytes: Some(1) });
        }
        let names: Vec<String> =
            samples.rows(Kind::Running).into_iter().map(|row| row.name).collect();
        let kinds = [Kind::Running, Kind::Embedded, Kind::Restic];
        assert_eq!(names, kinds.map(Kind::name));
        assert_eq!(samples.row(Kind::Borg), None);
    }
}
