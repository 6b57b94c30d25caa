//! Torture without end, until the time is over: vaults that are killed and whose disks fail, then the simulator's schedules.
//!
//! The vaults are tormented by a program of its own (`umbra-torture`, in tests), which speaks to them over the wire. This
//! builds, starts it again and again, prints what it tells each minute, and keeps the record in the README.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::bench::pages;
use crate::env::BuildEnv;
use crate::process;
use crate::setup::{self, Purpose};
use crate::test;
use crate::transcript::mebibytes;

/// Time between changes from vaults to schedules.
const SLICE: Duration = Duration::from_secs(10 * 60);
/// Seeds that one slice may use up; the next one begins behind them.
const SLICE_SEEDS: u64 = 1 << 20;
/// Schedules that are run by one process.
const AT_ONCE: u64 = 500;
/// A slice that is worth beginning.
const MIN_SLICE: Duration = Duration::from_secs(5);
/// The markers in the README.
const KEY: &str = "torture";

/// What `cargo xtask torture` can be told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long, in hours; fractions count.
    #[arg(long, default_value_t = 0.0, conflicts_with = "minutes")]
    hours: f64,
    /// The same in minutes.
    #[arg(long, default_value_t = 0.0)]
    minutes: f64,
    /// Where the seeds begin [default: the time].
    #[arg(long)]
    seed: Option<u64>,
    /// Writes the table of the README.
    #[arg(long)]
    record: bool,
}

/// What one kind of torture came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    kills: u64,
    kills_at_points: u64,
    faults: u64,
    objects: u64,
    bytes: u64,
    seeds: u64,
    losses: u64,
}

impl Tally {
    fn read(told: &Value) -> Self {
        let number = |name: &str| told[name].as_u64().unwrap_or_default();
        Self {
            kills: number("kills"),
            kills_at_points: number("kills_at_points"),
            faults: number("faults"),
            objects: number("objects_checked"),
            bytes: number("bytes_compared"),
            seeds: number("seeds"),
            losses: number("losses"),
        }
    }

    fn add(&mut self, other: Self) {
        self.kills += other.kills;
        self.kills_at_points += other.kills_at_points;
        self.faults += other.faults;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.seeds += other.seeds;
        self.losses += other.losses;
    }

    fn line(self) -> String {
        format!(
            "{} kills ({} at points), {} failed calls, {} acknowledged objects checked, {} compared, {} losses, {} seeds",
            self.kills,
            self.kills_at_points,
            self.faults,
            self.objects,
            mebibytes(self.bytes),
            self.losses,
            self.seeds
        )
    }

    /// The table of the README.
    fn table(self, simulated: Simulated, stamp: &str) -> String {
        let rows = [
            ("the vault died, 8 writers at work", self.kills),
            ("of these at named points", self.kills_at_points),
            ("calls of the system that failed under it", self.faults),
            ("acknowledged objects read back and compared", self.objects),
            ("bytes of them", self.bytes),
            ("**lost or wrong**", self.losses),
            ("simulator: random schedules of a store's life", simulated.schedules),
            ("simulator: kills and power cuts", simulated.kills + simulated.power_cuts),
            ("simulator: objects read back and compared", simulated.objects),
            ("simulator: **lost or wrong**", 0),
        ];
        let rows: Vec<String> =
            rows.iter().map(|(what, count)| format!("| {what} | {count} |")).collect();
        format!("{stamp}\n\n| | |\n|---|---|\n{}", rows.join("\n"))
    }
}

/// Torments until the time is over, or something is lost.
///
/// # Errors
/// When something was lost, or cannot be built or run.
pub(crate) fn run(env: &BuildEnv, options: &Options) -> Result<()> {
    let seconds = options.hours * 3600.0 + options.minutes * 60.0;
    ensure!(seconds > 0.0, "say for how long: --hours N or --minutes N");
    let limit = Duration::try_from_secs_f64(seconds).context("no such time")?;
    setup::install(env, Purpose::Test)?;
    test::build(env)?;
    let first = options.seed.unwrap_or_else(time_seed);
    println!("seeds from {first} on (--seed)");
    let begin = Instant::now();
    let mut tally = Tally::default();
    let mut simulated = Simulated::default();
    let mut seed = first;
    while begin.elapsed() < limit {
        // Half of the time each.
        let slice = SLICE.min(limit.saturating_sub(begin.elapsed()) / 2).max(MIN_SLICE);
        tally.add(vaults(env, slice, seed, tally, begin)?);
        simulated.add(schedules(env, slice, seed)?);
        seed = seed.wrapping_add(SLICE_SEEDS);
    }
    println!("{}", tally.line());
    println!("{}", simulated.line());
    if options.record {
        record(env, tally, simulated, first, begin.elapsed())?;
    }
    Ok(())
}

/// Real vaults for a slice of the time.
fn vaults(
    env: &BuildEnv,
    slice: Duration,
    seed: u64,
    before: Tally,
    begin: Instant,
) -> Result<Tally> {
    let program = env.bin_dir().join("umbra-torture");
    let mut child = env
        .command(&program.to_string_lossy())
        .args([slice.as_secs().max(1).to_string(), seed.to_string()])
        .env("UMBRA_BIN_DIR", env.bin_dir())
        .env("UMBRA_TEST_CACHE_DIR", env.cache_dir.join("test"))
        .env("RUST_LIB_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let mut last = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let Ok(told) = serde_json::from_str::<Value>(&line?) else { continue };
            last = Tally::read(&told);
            let mut all = before;
            all.add(last);
            println!("{:>6} s: {}", begin.elapsed().as_secs(), all.line());
        }
    }
    let status = child.wait()?;
    if !status.success() {
        // What was lost, the store and the seed stand above, in the program's own words.
        bail!("umbra-torture: {status}; again: cargo xtask torture --minutes 10 --seed {seed}");
    }
    Ok(last)
}

/// What the simulator's schedules came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Simulated {
    schedules: u64,
    kills: u64,
    power_cuts: u64,
    objects: u64,
    bytes: u64,
}

impl Simulated {
    /// Reads the line of statistics that the test prints.
    fn read(line: &str) -> Self {
        let number = |name: &str| {
            let after = line.split_once(&format!(" {name}: ")).map_or("", |(_, after)| after);
            let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap_or_default()
        };
        Self {
            schedules: number("schedules"),
            kills: number("kills"),
            power_cuts: number("power_cuts"),
            objects: number("objects_read"),
            bytes: number("bytes_compared"),
        }
    }

    fn add(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.objects += other.objects;
        self.bytes += other.bytes;
    }

    fn line(self) -> String {
        format!(
            "simulator: {} schedules, {} kills, {} power cuts, {} objects read back, {} compared",
            self.schedules,
            self.kills,
            self.power_cuts,
            self.objects,
            mebibytes(self.bytes)
        )
    }
}

/// The simulator's random schedules for a slice of the time. They are a test of the store, which this
/// crate may not link.
fn schedules(env: &BuildEnv, slice: Duration, seed: u64) -> Result<Simulated> {
    let begin = Instant::now();
    let mut all = Simulated::default();
    let mut from = seed;
    while begin.elapsed() < slice {
        let to = from.wrapping_add(AT_ONCE);
        let mut command = env.cargo(&["test", "--release", "--workspace", "--locked", "--quiet"]);
        let only = ["--lib", "nothing_promised_is_lost", "--", "--nocapture"];
        command.args(only).env("UMBRA_TEST_SEED", format!("{from}..{to}"));
        let done = command.stdin(Stdio::null()).output().context("cannot run the schedules")?;
        let said = String::from_utf8_lossy(&done.stdout);
        if !done.status.success() {
            println!("{said}");
            bail!("a schedule of {from}..{to} failed; again with UMBRA_TEST_SEED");
        }
        let stats = said.lines().find(|line| line.starts_with("Crashes, seeds"));
        let stats = stats.context("the schedules did not tell what they did")?;
        all.add(Simulated::read(stats));
        from = to;
    }
    println!("         {}", all.line());
    Ok(all)
}

fn time_seed() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(1, |since| since.as_secs())
}

/// Writes the table of the README.
fn record(
    env: &BuildEnv,
    tally: Tally,
    simulated: Simulated,
    first: u64,
    took: Duration,
) -> Result<()> {
    let said = |program: &str, arguments: &[&str]| -> Result<String> {
        let told = process::output(env.command(program).args(arguments))?;
        Ok(String::from_utf8_lossy(&told).trim().to_owned())
    };
    let (date, commit) =
        (said("date", &["-u", "+%F"])?, said("git", &["rev-parse", "--short", "HEAD"])?);
    let stamp = format!(
        "Torture of the real vault (`cargo xtask torture`), {} minutes on {date} at {commit}, {} seeds from {first} on:",
        took.as_secs() / 60,
        tally.seeds
    );
    pages::update(&env.root.join(pages::README), KEY, |_| tally.table(simulated, &stamp))
}

#[cfg(test)]
mod tests {
    use super::{KEY, Simulated, Tally};

    #[test]
    fn what_is_told_is_read_and_added_up() {
        let told = serde_json::json!({
            "type": "summary", "kills": 3, "kills_at_points": 1, "faults": 5,
            "objects_checked": 7, "bytes_compared": 11, "seeds": 13, "losses": 0,
        });
        let mut tally = Tally::read(&told);
        tally.add(tally);
        assert_eq!((tally.kills, tally.objects, tally.bytes, tally.losses), (6, 14, 22, 0));
        assert!(tally.table(Simulated::default(), "now").contains("| **lost or wrong** | 0 |"));
    }

    #[test]
    fn statistics_of_schedules_are_read() {
        let line = "Crashes, seeds 1..3: Stats { schedules: 2, steps: {\"kills\": 9}, kills: 4, \
                    power_cuts: 5, objects_read: 6, bytes_compared: 7, checks: 1 }";
        let found = Simulated::read(line);
        assert_eq!((found.schedules, found.kills, found.power_cuts), (2, 4, 5));
        assert_eq!((found.objects, found.bytes), (6, 7));
    }

    #[test]
    fn the_readme_has_the_markers() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let readme = root.map(|root| std::fs::read_to_string(root.join("README.md")));
        let readme = readme.and_then(Result::ok).unwrap_or_default();
        assert!(readme.contains(&format!("<!-- bench: {KEY} -->\n")));
    }
}
