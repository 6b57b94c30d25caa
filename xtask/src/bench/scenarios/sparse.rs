//! A sparse image of 1 TiB with 1 GiB in it, beside a disk of 2 GiB with the same files.

use anyhow::Result;

use super::{Section, Table, memory_targets};
use crate::bench::figures::{Row, Sample};
use crate::bench::table::Target;
use crate::bench::tools::{Kind, Source};
use crate::bench::{Bench, Scenario, stored_bytes};
use crate::programs::summary;

/// How much longer the large one may take: the time is that of the data, and some for what an ext4 of
/// 1 TiB has of structures.
const TIME_LIMIT: f64 = 1.25;

/// Measures it.
///
/// # Errors
/// When umbra fails.
pub(super) fn run(bench: &Bench<'_>) -> Result<Section> {
    let [filled, sparse] = bench.shelf.sparse()?;
    let (mut small, mut large) = (Vec::new(), Vec::new());
    let mut files = 0;
    for round in 1..=bench.rounds {
        for (disk, samples) in [(&filled, &mut small), (&sparse, &mut large)] {
            let tool = bench.open(Kind::Embedded)?;
            let source = Source { disk, machine: "machine", label: "first" };
            let done = bench.backup(tool.as_ref(), source)?;
            bench.tell(round, &disk.name, &done);
            files = summary(&done.said)?["files"].as_u64().unwrap_or_default();
            let stored = Some(stored_bytes(tool.as_ref()));
            samples.push(Sample { cost: done.cost, stored_bytes: stored });
        }
    }
    let large = Row::of("sparse image of 1 TiB", &large);
    let small = Row::of("disk of 2 GiB with the same files", &small);
    let what = "sparse image of 1 TiB";
    let time = format!("{what}: time to that of 2 GiB with the same files");
    let mut targets = vec![Target::time(&time, TIME_LIMIT, large.as_ref(), small.as_ref())];
    targets.extend(memory_targets(what, files, large.as_ref()));
    Ok(Section {
        scenario: Scenario::Sparse,
        method:
            "First backups by umbra, vault in a directory. The others would read 1 TiB of zeros."
                .to_owned(),
        tables: vec![Table {
            title: String::new(),
            rows: large.into_iter().chain(small).collect(),
        }],
        targets,
    })
}
