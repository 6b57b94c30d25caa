//! What the end-to-end tests stand on: the built programs, places to work in, the corpus, independent witnesses.
//!
//! The tests run `umbra` and `umbra-vault` as programs, found by `UMBRA_BIN_DIR` (`cargo xtask test` sets it), and link
//! nothing of them. A test that cannot run on a machine says so with [`skip`] and is told in the summary.

pub mod corpus;
pub mod images;
pub mod json;
pub mod listing;
pub mod programs;
pub mod proxy;
pub mod reader;
pub mod torture;
pub mod vault;

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Tells that a test, or a part of one, did not run here, and why. Goes to standard error, past the capture of the test
/// runner, and to the file `UMBRA_SKIP_LOG`, from which `cargo xtask test` makes its summary.
pub fn skip(test: &str, reason: &str) {
    // Without standard error or a log there is nobody to tell; the test is skipped all the same.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
    if let Some(log) = std::env::var_os("UMBRA_SKIP_LOG")
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(log)
    {
        let _ = writeln!(file, "{test}: {reason}");
    }
}

/// True where the tests run as the superuser.
pub fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// True where the large forms of the tests are asked for.
pub fn is_full() -> bool {
    std::env::var_os("UMBRA_TEST_FULL").is_some()
}

/// The Python that has the modules blake3 and zstandard, as `cargo xtask setup` made it; else the one in the path.
pub fn python() -> Command {
    Command::new(std::env::var_os("UMBRA_PYTHON").unwrap_or_else(|| "python3".into()))
}

/// Makes and checks GPT tables. By itself sgdisk ends with a sync of the whole machine, which no test
/// image needs.
pub fn sgdisk() -> Command {
    let mut command = Command::new("eatmydata");
    command.arg("sgdisk");
    command
}

/// Runs a helper program that must succeed, and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails; what it said is part of the message.
pub fn must(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}
