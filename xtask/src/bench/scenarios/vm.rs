//! A virtual machine's disk before and after writes.

use anyhow::Result;

use super::{Samples, Section, Table};
use crate::bench::figures::Sample;
use crate::bench::tools::{Kind, Source};
use crate::bench::{Bench, Scenario, stored_bytes};

const KINDS: &[Kind] = &[Kind::Running, Kind::Embedded, Kind::Restic, Kind::Borg, Kind::Casync];

/// Measures it.
///
/// # Errors
/// When a tool fails.
pub(super) fn run(bench: &Bench<'_>) -> Result<Section> {
    let disks = bench.shelf.vm()?;
    let [first, random, clustered] = &disks;
    let steps = [(first, "first"), (random, "random"), (clustered, "clustered")];
    let mut samples = [Samples::default(), Samples::default(), Samples::default()];
    for round in 1..=bench.rounds {
        for kind in KINDS.iter().copied() {
            let tool = bench.open(kind)?;
            for ((disk, label), samples) in steps.into_iter().zip(&mut samples) {
                let before = stored_bytes(tool.as_ref());
                let done = bench.backup(tool.as_ref(), Source { disk, machine: "guest", label })?;
                bench.tell(round, &format!("{}: {label}", kind.name()), &done);
                let grown = stored_bytes(tool.as_ref()).saturating_sub(before);
                samples.add(kind, Sample { cost: done.cost, stored_bytes: Some(grown) });
            }
        }
    }
    let titles = [
        "First backup",
        "After 1 % was written at random, in pages of 4 KiB",
        "After another 1 % was written in pieces of 4 MiB",
    ];
    let table = |(title, samples): (&str, &Samples)| Table {
        title: title.to_owned(),
        rows: samples.rows(Kind::Running),
    };
    Ok(Section {
        scenario: Scenario::Vm,
        method: "The image of a virtual machine's disk, 4 GiB, with a Debian system and a database of \
                 2.5 GiB in a file; then the image after writes into that file (41 MiB each). Stored \
                 is what the store grew by. partclone would keep a whole copy each time."
            .to_owned(),
        tables: titles.into_iter().zip(&samples).map(table).collect(),
        targets: Vec::new(),
    })
}
