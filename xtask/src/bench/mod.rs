//! The bench: umbra beside what Debian ships, on the same disks, so that anybody can repeat the figures.
//!
//! It is a measurement, no test: nothing fails because something is slow, and it is no stage of ci.

mod changes;
mod cold;
mod crowd;
mod figures;
mod machine;
mod measure;
pub(crate) mod pages;
mod report;
mod scenarios;
mod shelf;
mod table;
mod tools;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::env::{BuildEnv, make_world_readable_dir};
use crate::process;
use crate::programs::tree_bytes;
use crate::setup::{self, Purpose};
use crate::test;
use crate::transcript::{heading, seconds};
use cold::Cold;
use measure::{Done, Job, Meter};
use report::Report;
use shelf::{Shelf, Zeros, remove};
use tools::{Kind, Source, Tool};

/// What `cargo xtask bench` can be told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each tool runs; the medians stand in the table.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<Scenario>,
    /// The ones that need another hour and 60 GB too: a disk of 16 GiB, 64 GiB of unique data.
    #[arg(long)]
    large: bool,
    /// Writes out the zeros of the disks, as on a device: no hole in the image tells where nothing is.
    #[arg(long)]
    dense: bool,
    /// Leaves the disks where they are, for the next run.
    #[arg(long)]
    keep: bool,
    /// Where disks and stores are made; needs to be on the disk that is to be measured.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Writes the tables into docs/performance.md and the README although there were fewer than three
    /// rounds; each says how many.
    #[arg(long)]
    record: bool,
    /// Takes the programs as they were built last.
    #[arg(long)]
    no_build: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// First backup of a 2 GiB disk.
    First,
    /// The unchanged disk again, read in full.
    Again,
    /// The whole disk back.
    Recover,
    /// The unchanged disk again at 16 GiB.
    Large,
    /// Four disks in one store.
    Fleet,
    /// A virtual machine's disk after 1 % of random and of clustered writes.
    Vm,
    /// A sparse image of 1 TiB.
    Sparse,
    /// A file system with a million files.
    Million,
    /// 64 GiB of unique data from standard input.
    Stream,
}

impl Scenario {
    /// All, in the order in which they run.
    const ALL: &[Self] = &[
        Self::First,
        Self::Again,
        Self::Recover,
        Self::Fleet,
        Self::Vm,
        Self::Sparse,
        Self::Million,
        Self::Large,
        Self::Stream,
    ];

    /// The name on the command line and in the markers of the pages.
    fn key(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Again => "again",
            Self::Recover => "recover",
            Self::Large => "large",
            Self::Fleet => "fleet",
            Self::Vm => "vm",
            Self::Sparse => "sparse",
            Self::Million => "million",
            Self::Stream => "stream",
        }
    }

    /// True for those that run only when asked for.
    fn is_large(self) -> bool {
        matches!(self, Self::Large | Self::Stream)
    }
}

/// Free bytes without which nothing is begun, and with the large scenarios.
const FREE_BYTES: u64 = 34 << 30;
const FREE_BYTES_LARGE: u64 = 60 << 30;

/// Installs what is missing, builds, makes the disks, measures, writes the tables.
///
/// # Errors
/// When a tool fails; what was measured until then is written.
pub(crate) fn run(env: &BuildEnv, options: &Options) -> Result<()> {
    let chosen = chosen(options);
    let place = match &options.work_dir {
        Some(dir) => std::path::absolute(dir)?,
        None => env.cache_dir.join("bench"),
    };
    make_world_readable_dir(&place)?;
    announce(&chosen, &place, options);
    let needed = if chosen.iter().any(|s| s.is_large()) { FREE_BYTES_LARGE } else { FREE_BYTES };
    let free = setup::free_bytes(env, &place)?;
    if free < needed && chosen.len() > 1 {
        bail!(
            "{} has {} GiB free, and all of it needs {}: make room, give --work-dir, or choose with \
             --only",
            place.display(),
            free >> 30,
            needed >> 30
        );
    }
    setup::install(env, Purpose::Bench)?;
    if !options.no_build {
        test::build(env)?;
    }
    let claim = claim(&place)?;
    let measured = measure(env, options, &place, &chosen);
    if options.keep {
        println!("\nthe disks are left in {}", place.display());
    } else {
        remove(&disks_dir(&place, options))?;
        remove(&place.join("run"))?;
    }
    fs::remove_file(&claim).with_context(|| claim.display().to_string())?;
    measured
}

/// Says in a file who works in the directory: two benches would throw away each other's disks.
fn claim(place: &Path) -> Result<PathBuf> {
    let file = place.join("in-use");
    if let Ok(pid) = fs::read_to_string(&file)
        && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "xtask\n")
    {
        bail!("{} is used by another bench, process {pid}", place.display());
    }
    fs::write(&file, std::process::id().to_string())
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn chosen(options: &Options) -> Vec<Scenario> {
    let is_chosen = |scenario: &Scenario| match options.only.as_slice() {
        [] => options.large || !scenario.is_large(),
        only => only.contains(scenario),
    };
    Scenario::ALL.iter().copied().filter(is_chosen).collect()
}

fn announce(chosen: &[Scenario], place: &Path, options: &Options) {
    let names: Vec<&str> = chosen.iter().map(|scenario| scenario.key()).collect();
    println!("This measures umbra, restic, borg, casync and partclone on the same disks:");
    println!("{}; {} rounds.", names.join(", "), options.rounds);
    println!("All of it takes about an hour and a half and 34 GB of disk in");
    println!("{} (with --large another hour, and 60 GB),", place.display());
    println!("and about 450 MB of downloads for two Debian systems, once. Let nothing else run");
    println!("meanwhile. As root the page cache is dropped before each run; nothing else of the");
    println!("machine is touched beside the packages to be installed.\n");
}

fn disks_dir(place: &Path, options: &Options) -> PathBuf {
    place.join(if options.dense { "disks-dense" } else { "disks" })
}

fn measure(env: &BuildEnv, options: &Options, place: &Path, chosen: &[Scenario]) -> Result<()> {
    let run_dir = place.join("run");
    remove(&run_dir)?;
    make_world_readable_dir(&run_dir)?;
    let zeros = if options.dense { Zeros::Written } else { Zeros::Holes };
    let cold = Cold::find();
    println!("{}", cold.sentence());
    let bench = Bench {
        env,
        shelf: Shelf::new(env, disks_dir(place, options), zeros)?,
        meter: Meter::new(env, &run_dir)?,
        cold,
        rounds: options.rounds,
        record: options.record,
        programs: if options.no_build { Programs::BuiltEarlier } else { Programs::BuiltNow },
        run_dir,
    };
    let mut report = Report::begin(env, place, &bench)?;
    let mut failures = Vec::new();
    for group in scenarios::groups(chosen) {
        let names: Vec<&str> = group.iter().map(|scenario| scenario.key()).collect();
        heading(&names.join(", "));
        let load = machine::load();
        let outcome = scenarios::run(&bench, &group)
            .and_then(|sections| sections.iter().try_for_each(|s| report.add(s, &load)));
        if let Err(error) = outcome {
            println!("FAILED: {error:#}");
            failures.push(names.join(", "));
        }
    }
    report.end();
    ensure!(failures.is_empty(), "not everything could be measured: {}", failures.join("; "));
    Ok(())
}

/// What all scenarios need.
struct Bench<'e> {
    env: &'e BuildEnv,
    shelf: Shelf<'e>,
    meter: Meter<'e>,
    cold: Cold,
    rounds: u32,
    record: bool,
    programs: Programs,
    run_dir: PathBuf,
}

/// Whether the programs are those of this checkout.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Programs {
    /// They are.
    BuiltNow,
    /// Nobody knows.
    BuiltEarlier,
}

impl<'e> Bench<'e> {
    /// A tool with a new, empty store. The one before must have ended: its store is removed.
    fn open(&self, kind: Kind) -> Result<Box<dyn Tool + 'e>> {
        kind.open(self.env, &self.empty_dir("store")?)
    }

    /// A directory with nothing in it.
    fn empty_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.run_dir.join(name);
        remove(&dir)?;
        make_world_readable_dir(&dir)?;
        Ok(dir)
    }

    /// Backs a disk up, the cache cold.
    fn backup(&self, tool: &dyn Tool, source: Source<'_>) -> Result<Done> {
        tool.prepare(source)?;
        let command = tool.backup(source);
        self.run(command, Reads(&source.disk.path), Writes(tool.store()), tool.vault())
    }

    /// Brings a disk back, the cache cold, and compares it, which is not measured.
    fn restore(&self, tool: &dyn Tool, source: Source<'_>) -> Result<Done> {
        let into = self.empty_dir("back")?;
        let command = tool.restore(source, &into);
        let done = self.run(command, Reads(tool.store()), Writes(&into), tool.vault())?;
        let restored = tool.restored(source, &into);
        process::output(self.env.command("cmp").arg(&restored.copy).arg(&restored.original))
            .context("what came back is not what went in")?;
        remove(&into)?;
        Ok(done)
    }

    /// Runs something, the cache cold.
    fn run(
        &self,
        command: Command,
        Reads(source): Reads<'_>,
        Writes(written): Writes<'_>,
        vault: Option<u32>,
    ) -> Result<Done> {
        self.cold.make(self.env, source)?;
        self.meter.run(Job { command, vault, written, feed: None })
    }

    /// Tells on the terminal what a run cost.
    fn tell(&self, round: u32, what: &str, done: &Done) {
        let took = seconds(done.cost.wall);
        println!("    round {round} of {}: {what}: {took}", self.rounds);
    }
}

/// What a program reads.
struct Reads<'p>(&'p Path);

/// What a program writes into.
struct Writes<'p>(&'p Path);

/// The bytes of all files of a store. What umbra only keeps free for a full disk is no backup.
fn stored_bytes(tool: &dyn Tool) -> u64 {
    let reserve = std::fs::metadata(tool.store().join("reserve")).map_or(0, |found| found.len());
    tree_bytes(tool.store()).saturating_sub(reserve)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::{Options, Scenario, chosen};

    fn options(only: &[Scenario], large: bool) -> Options {
        Options {
            rounds: 1,
            only: only.to_vec(),
            large,
            dense: false,
            keep: false,
            work_dir: None,
            record: false,
            no_build: true,
        }
    }

    #[test]
    fn large_scenarios_run_only_when_asked_for() {
        let ordinary = chosen(&options(&[], false));
        assert!(!ordinary.iter().any(|scenario| scenario.is_large()));
        assert_eq!(chosen(&options(&[], true)), Scenario::ALL);
        assert_eq!(ordinary.len() + 2, Scenario::ALL.len());
        assert_eq!(chosen(&options(&[Scenario::Large], false)), [Scenario::Large]);
    }

    #[test]
    fn every_scenario_has_the_name_of_its_option() {
        assert_eq!(Scenario::ALL.len(), Scenario::value_variants().len());
        for scenario in Scenario::value_variants() {
            let value = scenario.to_possible_value();
            assert_eq!(value.map(|v| v.get_name().to_owned()), Some(scenario.key().to_owned()));
        }
    }
}
