//! Fuzzing: the corpus as ordinary tests, then libFuzzer by cargo-fuzz, which is installed on demand.
//!
//! `fuzz/` is a package of its own with a target directory of its own, so that neither its
//! features nor the fuzzer's compiler flags reach the workspace's builds.

mod figures;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::figures::{Figures, Row};

use crate::env::BuildEnv;
use crate::process;

/// What an input may take of memory, as libFuzzer measures the whole process.
const RSS_LIMIT: &str = "-rss_limit_mb=256";
/// The largest single allocation.
const MALLOC_LIMIT: &str = "-malloc_limit_mb=256";
/// An input that takes longer is a finding, in seconds.
const TIMEOUT: &str = "-timeout=10";
/// Seconds of fuzzing in CI, divided among the targets.
const CI_SECONDS: u32 = 180;
/// Seconds for each target with `--full`.
const FULL_SECONDS: u32 = 60;
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// What `cargo xtask fuzz` can be told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Targets to fuzz, as in fuzz/fuzz_targets.
    #[arg(conflicts_with_all = ["all", "replay"])]
    targets: Vec<String>,
    /// Fuzzes every target, one after the other.
    #[arg(long, conflicts_with = "replay")]
    all: bool,
    /// Only runs the committed inputs through their targets, without the fuzzer.
    #[arg(long)]
    replay: bool,
    /// How long each target is fuzzed.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u32,
}

/// How long the stage of CI fuzzes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Three minutes for all targets together.
    Push,
    /// A minute for each target.
    Full,
}

/// Replays the corpus or fuzzes, as told; without any argument it replays.
///
/// # Errors
/// When something does not hold, or cargo-fuzz cannot be installed.
pub(crate) fn run(env: &BuildEnv, options: &Options) -> Result<()> {
    let known = targets(env)?;
    if options.replay || (options.targets.is_empty() && !options.all) {
        return replay(env);
    }
    if let Some(unknown) = options.targets.iter().find(|name| !known.contains(name)) {
        bail!("no target {unknown}; there are {}", known.join(", "));
    }
    let chosen = if options.all { &known } else { &options.targets };
    fuzz_all(env, chosen, options.seconds)
}

/// The stage of CI: the replay, then some fuzzing of each target.
///
/// # Errors
/// When something does not hold, or cargo-fuzz cannot be installed.
pub(crate) fn ci(env: &BuildEnv, depth: Depth) -> Result<()> {
    replay(env)?;
    let targets = targets(env)?;
    let seconds = match depth {
        Depth::Push => CI_SECONDS / u32::try_from(targets.len())?.max(1),
        Depth::Full => FULL_SECONDS,
    };
    fuzz_all(env, &targets, seconds.max(1))
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

/// Finds cargo-fuzz among the tools of the cache directory, or installs it there: once, a minute.
fn install(env: &BuildEnv) -> Result<PathBuf> {
    let root = env.cache_dir.join("tools");
    let program = root.join("bin/cargo-fuzz");
    if program.exists() {
        return Ok(program);
    }
    println!("installing cargo-fuzz {CARGO_FUZZ_VERSION} into {}", root.display());
    let build_dir = root.join("build");
    let mut cargo = env.cargo(&["install", "--locked", "cargo-fuzz", "--version"]);
    cargo.arg(CARGO_FUZZ_VERSION).arg("--root").arg(&root).env("CARGO_TARGET_DIR", &build_dir);
    process::run(&mut cargo).with_context(|| {
        format!(
            "cargo-fuzz cannot be installed; by hand: cargo install --locked cargo-fuzz --version \
             {CARGO_FUZZ_VERSION} --root {}",
            root.display()
        )
    })?;
    fs::remove_dir_all(&build_dir).context("cargo-fuzz's build results")?;
    Ok(program)
}

/// Fuzzes these targets one after the other and prints what each came to.
fn fuzz_all(env: &BuildEnv, targets: &[String], seconds: u32) -> Result<()> {
    let cargo_fuzz = install(env)?;
    // All at once, so that no target's time holds another's compilation.
    process::run(&mut cargo_fuzz_command(env, &cargo_fuzz, "build"))?;
    let mut rows = Vec::new();
    for target in targets {
        rows.push(fuzz(env, &cargo_fuzz, target, seconds)?);
    }
    println!("{}", figures::table(&rows));
    let findings: Vec<String> = rows
        .iter()
        .filter_map(|row| Some(format!("{}: {}", row.target, row.finding.as_ref()?)))
        .collect();
    if !findings.is_empty() {
        bail!("the fuzzer found something:\n    {}", findings.join("\n    "));
    }
    Ok(())
}

/// Fuzzes one target. New inputs go to the target directory, from where a person may commit some;
/// the committed ones are only read. A finding's input stands in fuzz/artifacts.
fn fuzz(env: &BuildEnv, cargo_fuzz: &Path, target: &str, seconds: u32) -> Result<Row> {
    let found = env.target_dir.join("fuzz-corpus").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    let log = env.target_dir.join("fuzz-corpus").join(format!("{target}.log"));
    let mut command = cargo_fuzz_command(env, cargo_fuzz, "run");
    command.arg(target).arg(&found).arg(Path::new("fuzz/corpus").join(target));
    let max_time = format!("-max_total_time={seconds}");
    command.args(["--", RSS_LIMIT, MALLOC_LIMIT, TIMEOUT, "-print_final_stats=1", &max_time]);
    let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    println!("{target}: {seconds} s, told in {}", log.display());
    let begin = Instant::now();
    let status = command.stdin(Stdio::null()).stderr(file).status();
    let status = status.context("cannot start cargo-fuzz")?;
    // Bytes of inputs may stand in it.
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let finding = (!status.success()).then(|| finding(&said, &log));
    let took = begin.elapsed().max(Duration::from_secs(1));
    Ok(Row { target: target.to_owned(), took, figures: Figures::read(&said), finding })
}

/// Says what was found: where its input stands, and the panic's words.
fn finding(said: &str, log: &Path) -> String {
    let input = said.lines().find_map(|line| line.split("Test unit written to ").nth(1));
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    let words = lines.nth(1).or_else(|| said.lines().find(|line| line.contains("ERROR: ")));
    format!(
        "{} ({}; all of it: {})",
        input.unwrap_or("no input was written"),
        words.unwrap_or("no panic"),
        log.display()
    )
}

/// `cargo fuzz COMMAND` as all targets are built.
fn cargo_fuzz_command(env: &BuildEnv, cargo_fuzz: &Path, command: &str) -> Command {
    let mut cargo = env.calling_cargo(&cargo_fuzz.to_string_lossy());
    // The address sanitizer needs a nightly toolchain, and there is no unsafe code to watch.
    cargo.args(["fuzz", command, "--release", "--sanitizer", "none", "--debug-assertions"]);
    cargo.env("CARGO_TARGET_DIR", env.target_dir.join("fuzz-run"));
    // Coverage flags of the compiler on a stable toolchain.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo
}

/// Cargo with a target directory of its own below the common one.
fn cargo(env: &BuildEnv, arguments: &[&str], directory: &str) -> Command {
    let mut command = env.cargo(arguments);
    command.env("CARGO_TARGET_DIR", env.target_dir.join(directory));
    command
}
