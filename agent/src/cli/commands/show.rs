//! `show`: what one snapshot holds.

use serde_json::{Value, json};
use umbra_common::snapshot::{
    Counts, FreePolicy, Manifest, ManifestWarning, Parsed, Receipt, Volume,
};

use crate::browse::display;
use crate::cli::output::bytes;
use crate::cli::{Global, Output, SnapArgs};
use crate::error::Result;
use crate::listing::rfc3339;

use super::open::Opened;

/// Warnings that people see; `--json` has all that the snapshot keeps.
const SHOWN_WARNINGS: usize = 20;

/// Label under which the agent leaves how many bytes were new to the vault, before compression.
const NEW_BYTES: &str = "bytes_new";

/// Label under which the agent leaves how many bytes the vault wrote for them.
const STORED_BYTES: &str = "bytes_stored";

/// Shows partitions, volumes, sizes, hashes and warnings of a snapshot.
///
/// # Errors
/// [`crate::Error::NotFound`], [`crate::Error::Vault`].
pub fn run(global: &Global, args: &SnapArgs, output: &Output) -> Result<()> {
    let opened = Opened::new(global, args.snapshot.as_bytes())?;
    if output.json {
        return json_form(&opened, output);
    }
    head(&opened, output)?;
    let manifest = &opened.snapshot.manifest;
    for volume in &manifest.volumes {
        volume_lines(volume, output)?;
    }
    let kept = manifest.warnings.iter().take(SHOWN_WARNINGS);
    for warning in kept {
        output.text(&format!("warning: {}", warning_text(warning)))?;
    }
    let more = manifest.warnings_total.saturating_sub(SHOWN_WARNINGS as u64);
    if more > 0 {
        output.text(&format!("and {more} more warnings (--json shows up to 1000)"))?;
    }
    Ok(())
}

fn head(opened: &Opened, output: &Output) -> Result<()> {
    let (manifest, receipt) = (&opened.snapshot.manifest, &opened.snapshot.receipt);
    let counts = manifest.counts;
    let row = |name: &str, value: String| output.text(&format!("{name:<14}{value}"));
    row("snapshot", opened.id())?;
    row("machine", receipt.machine_name.clone())?;
    row("disk", format!("{} ({})", receipt.disk, display(manifest.disk.source.as_bytes())))?;
    row("received", rfc3339(receipt.received))?;
    row("begun", format!("{} by the clock of {}", rfc3339(manifest.agent_time), manifest.host))?;
    row(
        "consistency",
        format!("{}, {}", manifest.method.consistency.name(), manifest.method.text),
    )?;
    if !receipt.tags.is_empty() {
        row("tags", receipt.tags.join(", "))?;
    }
    row("size", format!("{} ({} bytes)", bytes(counts.bytes_total), counts.bytes_total))?;
    let mut parts =
        format!("{} data, {} zeros", bytes(counts.bytes_data), bytes(counts.bytes_zero));
    for (count, name) in [
        (counts.bytes_free, "free and not kept"),
        (counts.bytes_unreadable, "unreadable"),
        (counts.bytes_excluded, "left out"),
    ] {
        if count > 0 {
            parts.push_str(&format!(", {} {name}", bytes(count)));
        }
    }
    row("", parts)?;
    let count = |name| label(receipt, name).map_or_else(|| "unknown".to_owned(), bytes);
    row(
        "new",
        format!("{} when it came, {} stored for it", count(NEW_BYTES), count(STORED_BYTES)),
    )?;
    row("chunks", counts.chunks.to_string())?;
    inherited_rows(&counts, &row)?;
    row("image hash", manifest.image_hash.to_string())?;
    row("partitions", partition_table(manifest))
}

/// Says what was taken from the snapshot before, where something was or could not be.
fn inherited_rows(counts: &Counts, row: &dyn Fn(&str, String) -> Result<()>) -> Result<()> {
    if counts.runs_since_full > 0 {
        row(
            "unread",
            format!(
                "{} unchanged files ({}) taken from the snapshot before, {} ({}) read again and \
                 equal; all was read {} snapshots before",
                counts.files_inherited,
                bytes(counts.bytes_inherited),
                counts.files_reread,
                bytes(counts.bytes_reread),
                counts.runs_since_full,
            ),
        )?;
    }
    if counts.files_differing > 0 {
        let differing = counts.files_differing;
        row("differing", format!("{differing} files had changed and their times had not"))?;
    }
    Ok(())
}

/// Returns what the agent counted and left as a label.
fn label(receipt: &Receipt, name: &str) -> Option<u64> {
    receipt.labels.get(name).and_then(|text| text.parse().ok())
}

fn partition_table(manifest: &Manifest) -> String {
    let table = manifest.partition_table.as_str();
    if table.is_empty() || table == "none" { "none".into() } else { table.to_uppercase() }
}

fn volume_lines(volume: &Volume, output: &Output) -> Result<()> {
    let (parsed, reason) = parsed(volume);
    let label = if volume.label.is_empty() {
        String::new()
    } else {
        format!(" {:?}", display(volume.label.as_bytes()))
    };
    let uuid = if volume.uuid.is_empty() { String::new() } else { format!(" {}", volume.uuid) };
    output.text(&format!(
        "{:<14}{}{label}{uuid}, {} at byte {}",
        volume.path,
        volume.kind,
        bytes(volume.range.len().0),
        volume.range.start().0,
    ))?;
    let reason = reason.map(|reason| format!(": {}", display(reason.as_bytes())));
    let files =
        format!("{} files in {} directories, {}", volume.files, volume.dirs, bytes(volume.bytes));
    let files = if volume.overlay.is_some() { format!(", {files}") } else { String::new() };
    output.text(&format!("{:<14}parsed {parsed}{}{files}", "", reason.unwrap_or_default()))
}

fn parsed(volume: &Volume) -> (&'static str, Option<&str>) {
    match &volume.parsed {
        Parsed::Full => ("full", None),
        Parsed::Partial { reason } => ("partial", Some(reason)),
        Parsed::None { reason } => ("none", Some(reason)),
    }
}

fn warning_text(warning: &ManifestWarning) -> String {
    let mut text = String::new();
    for part in [&warning.volume, &warning.structure] {
        if !part.is_empty() {
            text.push_str(&format!("{}: ", display(part.as_bytes())));
        }
    }
    if let Some(inode) = warning.inode {
        text.push_str(&format!("inode {inode}: "));
    }
    text.push_str(&display(warning.message.as_bytes()));
    if let Some(offset) = warning.offset {
        text.push_str(&format!(" (at {offset})"));
    }
    text
}

fn json_form(opened: &Opened, output: &Output) -> Result<()> {
    let (manifest, receipt) = (&opened.snapshot.manifest, &opened.snapshot.receipt);
    for warning in &manifest.warnings {
        let fields = json!({
            "volume": warning.volume,
            "subject": warning.structure,
            "offset": warning.offset.map(|offset| offset.0),
            "inode": warning.inode,
            "message": warning.message,
        });
        output.object("warning", fields)?;
    }
    let volumes: Vec<Value> = manifest.volumes.iter().map(volume_json).collect();
    let roots = manifest.volumes.iter().filter_map(|volume| volume.overlay);
    let roots: Vec<String> = roots.map(|root| root.id.to_string()).collect();
    let counts = manifest.counts;
    output.object(
        "summary",
        json!({
            "snapshot": opened.id(),
            "machine": receipt.machine_name,
            "disk": receipt.disk,
            "run": receipt.run.to_string(),
            "sequence": receipt.sequence,
            "received": rfc3339(receipt.received),
            "begun": rfc3339(manifest.agent_time),
            "host": manifest.host,
            "source": manifest.disk.source,
            "sector_bytes": manifest.disk.sector_bytes,
            "tags": receipt.tags,
            "labels": receipt.labels,
            "consistency": manifest.method.consistency.name(),
            "method": manifest.method.text,
            "free": if manifest.free == FreePolicy::Skip { "skip" } else { "keep" },
            "partition_table": partition_table(manifest).to_lowercase(),
            "bytes_total": counts.bytes_total,
            "bytes_data": counts.bytes_data,
            "bytes_zero": counts.bytes_zero,
            "bytes_free": counts.bytes_free,
            "bytes_unreadable": counts.bytes_unreadable,
            "bytes_excluded": counts.bytes_excluded,
            "bytes_new": label(receipt, NEW_BYTES),
            "bytes_stored": label(receipt, STORED_BYTES),
            "unreadable_ranges": manifest.unreadable_ranges,
            "chunks": counts.chunks,
            "files": counts.files,
            "files_read": counts.files_read,
            "files_inherited": counts.files_inherited,
            "bytes_inherited": counts.bytes_inherited,
            "windows_inherited": counts.windows_inherited,
            "files_reread": counts.files_reread,
            "bytes_reread": counts.bytes_reread,
            "files_differing": counts.files_differing,
            "runs_since_full": counts.runs_since_full,
            "image_hash": manifest.image_hash.to_string(),
            "map_root": manifest.map.reference.id.to_string(),
            "overlay_roots": roots,
            "warnings": manifest.warnings_total,
            "volumes": volumes,
        }),
    )
}

fn volume_json(volume: &Volume) -> Value {
    let (parsed, reason) = parsed(volume);
    json!({
        "path": volume.path,
        "kind": volume.kind,
        "label": volume.label,
        "uuid": volume.uuid,
        "offset": volume.range.start().0,
        "bytes": volume.range.len().0,
        "bytes_files": volume.bytes,
        "files": volume.files,
        "dirs": volume.dirs,
        "parsed": parsed,
        "reason": reason,
        "overlay_root": volume.overlay.map(|root| root.id.to_string()),
    })
}
