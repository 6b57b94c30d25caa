//! `disks`: what could be backed up, and how much of it would be understood.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use umbra_common::snapshot::FreePolicy;

use crate::cli::output::bytes;
use crate::cli::{DisksArgs, Global, Output};
use crate::connect::vault_url;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Quiet};
use crate::mounts::{Access, System};
use crate::own_store::{OwnStore, Role};
use crate::source::{Source, SourceKind};
use crate::survey::{Options, Parse, ParsePolicy, survey};
use umbra_fsparse::ReadAt;

/// Lists disks, partitions and file systems.
///
/// # Errors
/// The first source that was named and cannot be opened; disks that were found and cannot be
/// opened are listed with the reason.
pub fn run(global: &Global, args: &DisksArgs, output: &Output) -> Result<()> {
    let system = System::read()?;
    // Disks can be listed before there is a vault.
    let own = vault_url(global).map(|url| OwnStore::of(&url, &system)).unwrap_or_default();
    let around = Surroundings { own: &own, system: &system };
    let mut count = 0;
    if args.sources.is_empty() {
        for path in system_disks() {
            count += 1;
            match Source::open(&path) {
                Ok(source) => show(&path, &source, around, output)?,
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
        show(path, &Source::open(path)?, around, output)?;
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

/// What decides how a disk may be read.
#[derive(Clone, Copy)]
struct Surroundings<'a> {
    own: &'a OwnStore,
    system: &'a System,
}

/// Says how a disk would be read, or why not.
fn method(path: &Path, source: &Source, around: Surroundings<'_>) -> String {
    let own = match source.kind() {
        SourceKind::BlockDevice => {
            let rdev = source.metadata().rdev();
            around.own.refuse_device(path, rdev, Role::Source, around.system)
        }
        SourceKind::ImageFile => around.own.refuse_file(path, path, Role::Source),
    };
    if let Err(Error::Refused { reason, .. }) = own {
        return format!("refused: {reason}");
    }
    match source.uses(around.system).iter().find(|used| used.access == Access::Writes) {
        Some(used) => format!("refused unless --inconsistent-ok: {}", used.what),
        None => "offline".into(),
    }
}

fn show(path: &Path, source: &Source, around: Surroundings<'_>, output: &Output) -> Result<()> {
    let quiet = Quiet::default();
    let found =
        survey(source, Options { parse: ParsePolicy::Parse, free: FreePolicy::Keep }, &quiet);
    let method = method(path, source, around);
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
