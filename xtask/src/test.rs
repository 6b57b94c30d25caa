//! Builds both programs and runs every test; counts what ran and names what was skipped and why.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::env::{BuildEnv, is_root};
use crate::process;
use crate::setup::{self, Purpose};

/// What `cargo xtask test` can be told.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Runs the large forms of the randomised and of the slow tests too.
    #[arg(long)]
    pub(crate) full: bool,
    /// Handed to `cargo test`: `-p PACKAGE`, part of a test's name.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) cargo_arguments: Vec<String>,
}

/// How many tests ran, and how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// The closing line, in the form that any language's reader of test results understands.
    pub(crate) fn closing_line(self) -> String {
        format!("tests: {} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Installs what is missing, builds, tests, prints the closing line.
///
/// # Errors
/// When something cannot be installed or built, or a test fails.
pub(crate) fn run(env: &BuildEnv, options: &Options) -> Result<()> {
    setup::install(env, Purpose::Test)?;
    build(env)?;
    let counts = run_tests(env, options)?;
    println!("{}", counts.closing_line());
    Ok(())
}

/// Builds the whole workspace: the one selection of packages that all commands share.
///
/// # Errors
/// When it does not compile.
pub(crate) fn build(env: &BuildEnv) -> Result<()> {
    process::run(&mut env.cargo(&["build", "--release", "--workspace", "--locked"]))
}

/// Runs every test of the workspace against the programs that [`build`] made.
///
/// # Errors
/// When a test fails, or none ran.
pub(crate) fn run_tests(env: &BuildEnv, options: &Options) -> Result<Counts> {
    let skip_log = env.target_dir.join(format!("skipped-{}.log", std::process::id()));
    fs::write(&skip_log, b"").with_context(|| format!("cannot write {}", skip_log.display()))?;
    if !is_root() {
        println!("not root: the tests that mount file systems or use loop devices will be skipped");
    }
    let mut command =
        env.cargo(&["test", "--release", "--workspace", "--locked", "--no-fail-fast"]);
    command
        .args(&options.cargo_arguments)
        .env("UMBRA_BIN_DIR", env.bin_dir())
        .env("UMBRA_PYTHON", env.python())
        .env("UMBRA_TEST_CACHE_DIR", env.cache_dir.join("test"))
        .env("UMBRA_SKIP_LOG", &skip_log)
        // Errors that tests return would each print a page of frames that say nothing.
        .env("RUST_LIB_BACKTRACE", "0");
    if options.full {
        command.env("UMBRA_TEST_FULL", "1");
    }
    let (succeeded, mut counts) = run_and_count(&mut command)?;
    counts.skipped += report_skipped(&skip_log);
    if !succeeded {
        bail!("tests failed ({})", counts.closing_line());
    }
    if counts.passed == 0 {
        bail!("no test ran");
    }
    Ok(counts)
}

fn run_and_count(command: &mut Command) -> Result<(bool, Counts)> {
    println!("$ {}", process::command_line(command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            counts.add_result_line(&line);
        }
    }
    Ok((child.wait()?.success(), counts))
}

impl Counts {
    /// Adds a line like `test result: ok. 12 passed; 0 failed; 1 ignored; ...`; any other line counts nothing.
    fn add_result_line(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        for part in rest.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// A test that cannot run here leaves a line in the log and counts as passed for the test runner; here it is told.
fn report_skipped(log: &Path) -> u64 {
    let text = fs::read_to_string(log).unwrap_or_default();
    // The log has been read; one that stays behind does no harm.
    let _ = fs::remove_file(log);
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        println!("skipped on this machine: nothing");
    } else {
        println!("skipped on this machine (counted as passed above):");
        for line in &lines {
            println!("    {line}");
        }
    }
    u64::try_from(lines.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn result_lines_are_added_up_and_other_lines_are_not() {
        let mut counts = Counts::default();
        counts.add_result_line(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.20s",
        );
        counts.add_result_line("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured");
        counts.add_result_line("test decode::short ... ok");
        counts.add_result_line("99 passed; 99 failed");
        assert_eq!(counts, Counts { passed: 14, failed: 3, skipped: 1 });
        assert_eq!(counts.closing_line(), "tests: 14 passed, 3 failed, 1 skipped");
    }
}
