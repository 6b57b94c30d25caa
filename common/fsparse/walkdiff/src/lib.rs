//! Our walk of a file system beside an independent witness: the kernel's mount of the same bytes,
//! or a manifest that was made from one.
//!
//! Development only: the tests of `umbra-fsparse` and `cargo xtask diff-walk` compare with the
//! code here, and nothing that is shipped depends on it. What the witness says is a manifest: one
//! JSON object for each path.

pub mod compare;
pub mod content;
pub mod image;
pub mod kernel;
pub mod made;
pub mod tree;
pub mod volume;

use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// Runs a program that must succeed.
///
/// # Errors
/// When it cannot be started or fails; what it said is part of the message.
pub fn run(command: &mut Command) -> Result<Output> {
    let line = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot start {line}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{line} failed ({}): {}", output.status, said.trim());
    }
    Ok(output)
}
