//! What demo and bench print: headings, times and sizes as people read them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Prints an underlined line.
pub(crate) fn heading(text: &str) {
    println!("\n{text}");
    println!("{}", "-".repeat(text.len()));
}

/// Does something and prints what it was and how long it took.
///
/// # Errors
/// Whatever the work fails with, below what it was.
pub(crate) fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let done = work().with_context(|| what.to_owned())?;
    println!("{what}: {}", seconds(begin.elapsed()));
    Ok(done)
}

/// A duration in seconds with one digit behind the point.
pub(crate) fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

/// A size in MiB with one digit behind the point.
pub(crate) fn mebibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// How many hundredths of the whole a part is.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    // Both are far below 2^53; this is only printed.
    #[allow(clippy::cast_precision_loss)]
    let quotient = part as f64 / whole as f64;
    quotient * 100.0
}
