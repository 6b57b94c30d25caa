//! `disks`: what could be backed up, and how much of it would be understood.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::output::bytes;
use crate::cli::{DisksArgs, Global, Output};
use crate::error::Result;
use crate::monitor::{Monitor, Quiet};
use crate::mounts;
use crate::source::{Source, SourceKind};
use crate::survey::{Parse, ParsePolicy, survey};
use umbra_fsparse::ReadAt;

/// Lists disks, partitions and file systems.
///
/// # Errors
/// The first source that was named and cannot be opened; disks that were found and cannot be
/// opened are listed with the reason.
pub fn run(_global: &Global, args: &DisksArgs, output: &Output) -> Result<()> {
    let mut count = 0;
    if args.sources.is_empty() {
        for path in system_disks() {
            count += 1;
            match Source::open(&path) {
                Ok(source) => show(&path, &source, output)?,
                Err(error) => {
                    output.text(&format!("{}: {error}", path.display()))?;
                    let fields = json!({"path": path, "error": error.to_string()});
                    output.object("entry", fields)?;
                }
            }
        }
    }
    for path in &args.sources {
        count += 1;
        show(path, &Source::open(path)?, output)?;
    }
    output.object("summary", json!({"disks": count}))
}

/// Lists the whole disks of this system, without RAM disks and empty loop devices.
fn system_disks() -> Vec<PathBuf> {
    let mut disks: Vec<PathBuf> = std::fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|block| {
            let size = std::fs::read_to_string(block.path().join("size")).unwrap_or_default();
            let name = block.file_name();
            let skipped = ["ram", "zram", "loop", "sr", "fd"];
            let name = name.to_string_lossy();
            size.trim() != "0" && !skipped.iter().any(|prefix| name.starts_with(prefix))
        })
        .map(|block| Path::new("/dev").join(block.file_name()))
        .collect();
    disks.sort_unstable();
    disks
}

fn show(path: &Path, source: &Source, output: &Output) -> Result<()> {
    let quiet = Quiet::default();
    let found = survey(source, ParsePolicy::Parse, &quiet);
    let uses = match source.kind() {
        SourceKind::BlockDevice => mounts::uses_of_device(source.device_number()),
        SourceKind::ImageFile => mounts::uses_of_file(path),
    };
    let method = match uses.iter().find(|used| used.writable) {
        Some(used) => {
            format!("refused unless --inconsistent-ok: mounted read-write at {}", used.place)
        }
        None => "offline".into(),
    };
    let len = source.len().0;
    output.text(&format!("{}  {}  {method}", path.display(), bytes(len)))?;
    let mut volumes = Vec::new();
    for volume in &found.volumes {
        let (parsed, reason) = match &volume.parse {
            Parse::Full => ("full", None),
            Parse::Partial { reason } => ("partial", Some(reason.clone())),
            Parse::None { reason } => ("none", Some(reason.clone())),
        };
        let names = volume.tree.as_ref().map_or(0, |tree| tree.entry_count());
        let label = volume.label.clone().unwrap_or_default();
        let why = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        output.text(&format!(
            "  {:<8} {:<10} {:<12} {label:<16} {names} names, parsed: {parsed}{why}",
            volume.path,
            volume.kind,
            bytes(volume.range.len().0),
        ))?;
        volumes.push(json!({
            "path": volume.path,
            "kind": volume.kind,
            "label": volume.label,
            "uuid": volume.uuid,
            "offset": volume.range.start().0,
            "bytes": volume.range.len().0,
            "files": names,
            "parsed": parsed,
            "reason": reason,
            "encrypted": volume.kind == "luks",
        }));
    }
    let (warnings, count) = quiet.warnings();
    for notice in warnings.iter().take(5) {
        output.warning(notice);
    }
    let fields = json!({
        "path": path,
        "bytes": len,
        "sector_bytes": source.sector().0,
        "method": method,
        "volumes": volumes,
        "warnings": count,
    });
    output.object("entry", fields)
}
