//! One disk: first backup, the unchanged disk again, the disk back.

use anyhow::Result;

use super::{Samples, Section, Table, memory_targets};
use crate::bench::figures::Sample;
use crate::bench::table::Target;
use crate::bench::tools::{Kind, Source, Tool};
use crate::bench::{Bench, Scenario, stored_bytes};
use crate::disks::Disk;
use crate::programs::summary;

/// What is left out at 16 GiB: one takes minutes, the other has no second backup.
const LARGE_KINDS: &[Kind] = &[Kind::Running, Kind::Embedded, Kind::Restic, Kind::Borg];

/// The samples of the steps.
#[derive(Default)]
struct Steps {
    first: Samples,
    again: Samples,
    recover: Samples,
    files: u64,
}

/// The disk of 2 GiB.
///
/// # Errors
/// When a tool fails or something wrong comes back.
pub(super) fn small(bench: &Bench<'_>, wanted: &[Scenario]) -> Result<Vec<Section>> {
    let disk = bench.shelf.system()?;
    let steps = measure(bench, &disk, Kind::ALL, wanted)?;
    let section = |scenario: &Scenario| match scenario {
        Scenario::Again => steps.again_section(Scenario::Again, "2 GiB", 0.4),
        Scenario::Recover => steps.recover_section(),
        _ => steps.first_section(),
    };
    Ok(wanted.iter().map(section).collect())
}

/// The disk of 16 GiB.
///
/// # Errors
/// When a tool fails.
pub(super) fn large(bench: &Bench<'_>) -> Result<Section> {
    let disk = bench.shelf.large()?;
    let steps = measure(bench, &disk, LARGE_KINDS, &[Scenario::Again])?;
    Ok(steps.again_section(Scenario::Large, "16 GiB", 0.2))
}

fn measure(bench: &Bench<'_>, disk: &Disk, kinds: &[Kind], wanted: &[Scenario]) -> Result<Steps> {
    let mut steps = Steps::default();
    for round in 1..=bench.rounds {
        for kind in kinds {
            let tool = bench.open(*kind)?;
            steps.take(bench, *kind, tool.as_ref(), disk, wanted, round)?;
        }
    }
    Ok(steps)
}

impl Steps {
    fn take(
        &mut self,
        bench: &Bench<'_>,
        kind: Kind,
        tool: &dyn Tool,
        disk: &Disk,
        wanted: &[Scenario],
        round: u32,
    ) -> Result<()> {
        let first = Source { disk, machine: "machine", label: "first" };
        let done = bench.backup(tool, first)?;
        bench.tell(round, &format!("{}: first backup", kind.name()), &done);
        if !kind.is_peer() {
            self.files = summary(&done.said)?["files"].as_u64().unwrap_or_default();
        }
        let stored = stored_bytes(tool);
        self.first.add(kind, Sample { cost: done.cost, stored_bytes: Some(stored) });
        let mut last = first;
        if wanted.contains(&Scenario::Again) {
            last = Source { label: "again", ..first };
            let done = bench.backup(tool, last)?;
            bench.tell(round, &format!("{}: unchanged", kind.name()), &done);
            let grown = stored_bytes(tool).saturating_sub(stored);
            self.again.add(kind, Sample { cost: done.cost, stored_bytes: Some(grown) });
        }
        if wanted.contains(&Scenario::Recover) {
            let done = bench.restore(tool, last)?;
            bench.tell(round, &format!("{}: disk back", kind.name()), &done);
            self.recover.add(kind, Sample { cost: done.cost, stored_bytes: None });
        }
        Ok(())
    }

    fn first_section(&self) -> Section {
        let ours = self.first.row(Kind::Embedded);
        let peer = |kind| self.first.row(kind);
        let (restic, borg) = (peer(Kind::Restic), peer(Kind::Borg));
        let stored = ours.as_ref().and_then(|row| row.stored_bytes);
        let theirs = restic.as_ref().and_then(|row| row.stored_bytes);
        let mut targets = vec![
            Target::time(
                "first backup, 2 GiB: time to restic's",
                0.45,
                ours.as_ref(),
                restic.as_ref(),
            ),
            Target::time("first backup, 2 GiB: time to borg's", 0.45, ours.as_ref(), borg.as_ref()),
            Target::stored("first backup, 2 GiB: stored bytes to restic's", 1.0, stored, theirs),
        ];
        targets.extend(memory_targets("first backup, 2 GiB", self.files, ours.as_ref()));
        Section {
            scenario: Scenario::First,
            method: format!(
                "A disk of 2 GiB with {} names of a Debian system into an empty store.",
                self.files
            ),
            tables: vec![Table { title: String::new(), rows: self.first.rows(Kind::Embedded) }],
            targets,
        }
    }

    fn again_section(&self, scenario: Scenario, size: &str, at_most: f64) -> Section {
        let (ours, restic) = (self.again.row(Kind::Running), self.again.row(Kind::Restic));
        let what = format!("unchanged disk read in full, {size}: time to restic's");
        Section {
            scenario,
            method: format!(
                "The same disk of {size} once more, read in full; stored is what the store grew by. \
                 partclone keeps a whole copy again."
            ),
            tables: vec![Table { title: String::new(), rows: self.again.rows(Kind::Running) }],
            targets: vec![Target::time(&what, at_most, ours.as_ref(), restic.as_ref())],
        }
    }

    fn recover_section(&self) -> Section {
        let (ours, restic) = (self.recover.row(Kind::Embedded), self.recover.row(Kind::Restic));
        Section {
            scenario: Scenario::Recover,
            method: "The disk back into a new file, which is then compared with the source (not \
                     measured). umbra reads back what it wrote and checks it; nobody else does. \
                     restic 0.14 writes the zeros too, the others leave holes."
                .to_owned(),
            tables: vec![Table { title: String::new(), rows: self.recover.rows(Kind::Embedded) }],
            targets: vec![Target::time(
                "disk back, 2 GiB: time to restic's restore",
                0.5,
                ours.as_ref(),
                restic.as_ref(),
            )],
        }
    }
}
