//! Fuzzing: the corpus as ordinary tests, and libFuzzer where cargo-fuzz is there.
//!
//! `fuzz/` is a package of its own with a target directory of its own, so that neither its
//! features nor the fuzzer's compiler flags reach the workspace's builds.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::env::BuildEnv;
use crate::process;

/// What an input may take of memory, as libFuzzer measures the whole process.
const RSS_LIMIT: &str = "-rss_limit_mb=256";
/// An input that takes longer is a finding, in seconds.
const TIMEOUT: &str = "-timeout=10";
/// Seconds for each target in CI.
const CI_SECONDS: u32 = 5;

/// What `cargo xtask fuzz` can be told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Targets to fuzz, as in fuzz/fuzz_targets.
    #[arg(conflicts_with_all = ["all", "replay"])]
    targets: Vec<String>,
    /// Fuzzes every target, one after the other.
    #[arg(long, conflicts_with = "replay")]
    all: bool,
    /// Only runs the committed inputs through their targets; needs no cargo-fuzz.
    #[arg(long)]
    replay: bool,
    /// How long each target is fuzzed.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u32,
}

/// What the stage of CI does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The committed inputs only: what fails today failed yesterday.
    Replay,
    /// A few seconds of fuzzing for each target on top.
    Fuzz,
}

/// Replays the corpus or fuzzes, as told; without any argument it replays.
///
/// # Errors
/// When something does not hold, or cargo-fuzz is missing.
pub(crate) fn run(env: &BuildEnv, options: &Options) -> Result<()> {
    let known = targets(env)?;
    if options.replay || (options.targets.is_empty() && !options.all) {
        return replay(env);
    }
    if let Some(unknown) = options.targets.iter().find(|name| !known.contains(name)) {
        bail!("no target {unknown}; there are {}", known.join(", "));
    }
    if !has_cargo_fuzz(env) {
        bail!("cargo-fuzz is missing: cargo install cargo-fuzz");
    }
    let chosen = if options.all { &known } else { &options.targets };
    chosen.iter().try_for_each(|target| fuzz(env, target, options.seconds))
}

/// The stage of CI: the replay, and a few seconds a target where cargo-fuzz is there.
///
/// # Errors
/// When something does not hold.
pub(crate) fn ci(env: &BuildEnv, depth: Depth) -> Result<()> {
    replay(env)?;
    if depth == Depth::Replay {
        return Ok(());
    }
    if !has_cargo_fuzz(env) {
        println!("cargo-fuzz is missing: only the committed inputs were run");
        return Ok(());
    }
    targets(env)?.iter().try_for_each(|target| fuzz(env, target, CI_SECONDS))
}

/// The targets, by the files that stand for them.
fn targets(env: &BuildEnv) -> Result<Vec<String>> {
    let dir = env.root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn replay(env: &BuildEnv) -> Result<()> {
    let arguments = ["test", "--release", "--no-default-features", "--locked"];
    process::run(cargo(env, &arguments, "fuzz").args(["--manifest-path", "fuzz/Cargo.toml"]))
}

fn has_cargo_fuzz(env: &BuildEnv) -> bool {
    let mut command = env.cargo(&["fuzz", "--version"]);
    command.output().is_ok_and(|output| output.status.success())
}

/// Fuzzes one target. New inputs go to the target directory, from where a person may commit some;
/// the committed ones are only read. A finding's input stands in fuzz/artifacts.
fn fuzz(env: &BuildEnv, target: &str, seconds: u32) -> Result<()> {
    let found = env.target_dir.join("fuzz-corpus").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    // The address sanitizer needs a nightly toolchain, and there is no unsafe code to watch.
    let arguments = ["fuzz", "run", "--release", "--sanitizer", "none", "--debug-assertions"];
    let mut command = cargo(env, &arguments, "fuzz-run");
    command.arg(target).arg(&found).arg(Path::new("fuzz/corpus").join(target));
    let max_time = format!("-max_total_time={seconds}");
    command.args(["--", RSS_LIMIT, TIMEOUT, "-print_final_stats=1", &max_time]);
    // Coverage flags of the compiler on a stable toolchain.
    process::run(command.env("RUSTC_BOOTSTRAP", "1"))
}

/// Cargo with a target directory of its own below the common one.
fn cargo(env: &BuildEnv, arguments: &[&str], directory: &str) -> Command {
    let mut command = env.cargo(arguments);
    command.env("CARGO_TARGET_DIR", env.target_dir.join(directory));
    command
}
