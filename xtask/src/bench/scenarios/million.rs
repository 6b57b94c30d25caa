//! A file system with a million files: parsing, a backup, one file out of it.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Section, Table, memory_targets};
use crate::bench::crowd::{self, LETTER};
use crate::bench::figures::{Row, Sample};
use crate::bench::table::Target;
use crate::bench::tools::{Source, Tool, Umbra};
use crate::bench::{Bench, Reads, Scenario, Writes, stored_bytes};
use crate::disks::ROOT_PARTITION;
use crate::programs::summary;

/// What a parse may take.
const PARSE_LIMIT: Duration = Duration::from_secs(10);
/// What one file may take.
const CAT_LIMIT: Duration = Duration::from_secs(1);

/// Measures it.
///
/// # Errors
/// When umbra fails, or the file that it brings is not the one that was written.
pub(super) fn run(bench: &Bench<'_>) -> Result<Section> {
    let disk = bench.shelf.crowded()?;
    let source = Source { disk: &disk, machine: "machine", label: "first" };
    let letter = crowd::letter();
    let (mut parses, mut backups, mut cats) = (Vec::new(), Vec::new(), Vec::new());
    let mut files = 0;
    for round in 1..=bench.rounds {
        let umbra = Umbra::embedded(bench.env, &bench.empty_dir("store")?)?;
        let (reads, writes) = (|| Reads(&disk.path), || Writes(umbra.store()));
        let mut disks = umbra.command(source);
        disks.arg("disks").arg(&disk.path);
        let done = bench.run(disks, reads(), writes(), None)?;
        bench.tell(round, "umbra disks", &done);
        parses.push(Sample { cost: done.cost, stored_bytes: None });

        let done = bench.backup(&umbra, source)?;
        bench.tell(round, "first backup", &done);
        files = summary(&done.said)?["files"].as_u64().unwrap_or_default();
        let stored = Some(stored_bytes(&umbra));
        backups.push(Sample { cost: done.cost, stored_bytes: stored });

        let mut cat = umbra.command(source);
        cat.args(["cat", &format!("latest:part/{ROOT_PARTITION}/{LETTER}")]);
        let done = bench.run(cat, Reads(umbra.store()), writes(), None)?;
        bench.tell(round, "umbra cat", &done);
        ensure!(done.said == letter, "cat brings something else than was written");
        cats.push(Sample { cost: done.cost, stored_bytes: None });
    }
    let parse = Row::of("`umbra disks`: the whole file system parsed", &parses);
    let backup = Row::of("first backup", &backups);
    let cat = Row::of("`umbra cat` of 1 MiB, nothing running before", &cats);
    let mut targets = vec![
        Target::within("a million files: parsing", PARSE_LIMIT, parse.as_ref()),
        Target::within("a million files: `cat` of 1 MiB, cold cache", CAT_LIMIT, cat.as_ref()),
    ];
    targets.extend(memory_targets("a million files", files, backup.as_ref()));
    Ok(Section {
        scenario: Scenario::Million,
        method: format!(
            "An ext4 of 6 GiB with {files} names in 1 000 directories, 200 to 4 000 bytes each; vault \
             in a directory."
        ),
        tables: vec![Table {
            title: String::new(),
            rows: [backup, parse, cat].into_iter().flatten().collect(),
        }],
        targets,
    })
}
