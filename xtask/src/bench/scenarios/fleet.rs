//! Four disks in one store: a system, its next day, the same files elsewhere in pieces, another system.

use anyhow::Result;

use super::{Samples, Section, Table};
use crate::bench::figures::Sample;
use crate::bench::measure::Cost;
use crate::bench::table::Target;
use crate::bench::tools::{Kind, Source};
use crate::bench::{Bench, Scenario, stored_bytes};

/// Measures it.
///
/// # Errors
/// When a tool fails.
pub(super) fn run(bench: &Bench<'_>) -> Result<Section> {
    let shelf = &bench.shelf;
    let disks = [shelf.system()?, shelf.next_day()?, shelf.fragmented()?, shelf.server()?];
    let [system, next_day, fragmented, server] = &disks;
    let sources = [
        Source { disk: system, machine: "workstation", label: "day-1" },
        Source { disk: next_day, machine: "workstation", label: "day-2" },
        Source { disk: fragmented, machine: "twin", label: "twin" },
        Source { disk: server, machine: "server", label: "server" },
    ];
    let mut samples = Samples::default();
    // A running vault stores the same bytes.
    for round in 1..=bench.rounds {
        for kind in Kind::ALL.iter().copied().filter(|kind| *kind != Kind::Running) {
            let tool = bench.open(kind)?;
            let mut cost = Cost::default();
            for source in sources {
                let done = bench.backup(tool.as_ref(), source)?;
                bench.tell(round, &format!("{}: {}", kind.name(), source.disk.name), &done);
                cost.then(done.cost);
            }
            let stored = stored_bytes(tool.as_ref());
            samples.add(kind, Sample { cost, stored_bytes: Some(stored) });
        }
    }
    let stored = |kind| samples.row(kind).and_then(|row| row.stored_bytes);
    let best_peer =
        Kind::ALL.iter().copied().filter(|kind| kind.is_peer()).filter_map(stored).min();
    Ok(Section {
        scenario: Scenario::Fleet,
        method:
            "Four disks one after the other into one store: a Debian system, its next day, the \
                 same files in another order in many pieces, another Debian system. Times and CPU \
                 are those of all four."
                .to_owned(),
        targets: vec![Target::stored(
            "fleet of four disks: stored bytes to the best peer's",
            0.55,
            stored(Kind::Embedded),
            best_peer,
        )],
        tables: vec![Table { title: String::new(), rows: samples.rows(Kind::Embedded) }],
    })
}
