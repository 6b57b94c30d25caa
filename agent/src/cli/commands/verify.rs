//! `verify`: whether a snapshot can be given back.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::browse::damage_in;
use crate::cli::output::{bytes, duration};
use crate::cli::progress::Progress;
use crate::cli::{Global, Output, VerifyArgs};
use crate::error::{Error, Result};
use crate::listing::hex;
use crate::source::Source;
use crate::verify::{Depth, Report, against, verify};

use super::open::Opened;

/// Reads a snapshot and proves it.
///
/// # Errors
/// [`Error::Damage`] where something is damaged, or differs from the disk of `--against`.
pub fn run(global: &Global, args: &VerifyArgs, output: &Output) -> Result<()> {
    if args.quick && args.deep {
        return Err(Error::Usage {
            what: "--quick and --deep exclude each other".into(),
            hint: "leave out one of them".into(),
        });
    }
    let started = Instant::now();
    // A source that cannot be opened is said before anything is read.
    let other = args.against.as_deref().map(Source::open).transpose()?;
    let opened = Opened::new(global, args.snapshot.as_bytes())?;
    let progress = Progress::new(*output, global.no_progress);
    if let (Some(other), Some(path)) = (&other, &args.against) {
        return compare(&opened, other, path, output, &progress, started);
    }
    let depth = match (args.quick, args.deep) {
        (true, _) => Depth::References,
        (_, true) => Depth::Files,
        _ => Depth::Chunks,
    };
    let report = verify(&opened.snapshot, opened.content()?, depth, &progress);
    progress.finish();
    let report = report?;
    damage_lines(&report, output)?;
    let took = started.elapsed();
    let hash = report.image_hash.map(|hash| hex(&hash));
    if !report.is_damaged() {
        let what = match depth {
            Depth::References => format!("{} entries reachable", report.entries),
            Depth::Chunks => format!("{} read, the image hash is right", bytes(report.bytes_read)),
            Depth::Files => format!(
                "{} read, the image hash is right, {} files proven ({} have no hash of their own)",
                bytes(report.bytes_read),
                report.files_proven,
                report.files_without_hash,
            ),
        };
        output.text(&format!("snapshot is whole: {what}, in {}", duration(took)))?;
    }
    let fields = json!({
        "snapshot": opened.id(),
        "whole": !report.is_damaged(),
        "bytes_read": report.bytes_read,
        "windows": report.windows,
        "image_hash": hash,
        "entries": report.entries,
        "files_proven": report.files_proven,
        "files_without_hash": report.files_without_hash,
        "damaged_ranges": report.ranges_total,
        "damaged_files": report.paths.total,
        "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    });
    let verdict = if report.is_damaged() {
        let (ranges, files) = (report.ranges_total, report.paths.total);
        let detail = format!("{ranges} ranges of the disk and {files} files are hit");
        Err(damage_in(&opened.snapshot, "its data", detail))
    } else {
        Ok(())
    };
    output.finish(fields, verdict)
}

fn damage_lines(report: &Report, output: &Output) -> Result<()> {
    for (range, reason) in &report.ranges {
        output.text(&format!("damaged: {range} of the disk: {reason}"))?;
        let fields = json!({
            "subject": "disk",
            "offset": range.start().0,
            "length": range.len().0,
            "message": reason,
        });
        output.object("warning", fields)?;
    }
    for path in &report.paths.list {
        output.text(&format!("damaged: {path}"))?;
        output.object("warning", json!({"subject": "file", "message": path}))?;
    }
    for text in &report.other {
        output.text(&format!("damaged: {text}"))?;
        output.object("warning", json!({"subject": "snapshot", "message": text}))?;
    }
    Ok(())
}

fn compare(
    opened: &Opened,
    other: &Source,
    path: &Path,
    output: &Output,
    progress: &Progress,
    started: Instant,
) -> Result<()> {
    let difference = against(&opened.content()?, other, progress);
    progress.finish();
    let difference = difference?;
    for range in &difference.ranges {
        output.text(&format!("different: {range}"))?;
        let fields = json!({
            "subject": path,
            "offset": range.start().0,
            "length": range.len().0,
            "message": "different",
        });
        output.object("warning", fields)?;
    }
    for (range, why) in &difference.unreadable {
        output.text(&format!("not compared: {range}: {why}"))?;
        output.object(
            "warning",
            json!({"subject": path, "offset": range.start().0, "message": why}),
        )?;
    }
    let lengths = difference.lengths.map(|(ours, theirs)| {
        format!("it has {} bytes and the snapshot's disk {}", theirs.0, ours.0)
    });
    let took = started.elapsed();
    if difference.is_equal() {
        output.text(&format!(
            "{} is equal to the snapshot ({} not kept and not compared), in {}",
            path.display(),
            bytes(difference.not_compared),
            duration(took),
        ))?;
    }
    let fields = json!({
        "snapshot": opened.id(),
        "against": path,
        "equal": difference.is_equal(),
        "bytes_different": difference.bytes,
        "bytes_not_compared": difference.not_compared,
        "unreadable_ranges": difference.unreadable.len(),
        "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    });
    if difference.is_equal() {
        return output.finish(fields, Ok(()));
    }
    let first = difference.ranges.first().map(|range| format!("first at {range}"));
    let detail = lengths.into_iter().chain(first).collect::<Vec<_>>().join("; ");
    let verdict = Err(Error::Damage {
        what: path.display().to_string(),
        detail: format!("{} bytes differ from the snapshot; {detail}", difference.bytes),
        hint: "whether the snapshot itself is whole, `umbra verify` without --against says".into(),
    });
    output.finish(fields, verdict)
}
