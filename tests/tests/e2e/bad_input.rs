//! What bad input gets: a clear message, the exit code of CLI.md, and nothing half written that passes for whole.

mod disks;
mod stores;
mod targets;

use anyhow::{Result, ensure};
use umbra_tests::json::Answer;

/// A refusal names its reason on standard error (or as an `error` object), in words that a person can act on.
pub(crate) fn expect_refusal(answer: Answer, code: i32, words: &[&str]) -> Result<()> {
    let answer = answer.expect_code(code)?;
    let said = format!("{}{}", answer.stderr, String::from_utf8_lossy(&answer.stdout));
    let said = said.to_lowercase();
    for word in words {
        ensure!(said.contains(&word.to_lowercase()), "{word:?} is not said: {}", answer.describe());
    }
    ensure!(!said.contains("panicked"), "a panic: {}", answer.describe());
    Ok(())
}
