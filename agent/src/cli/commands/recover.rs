//! `recover`: a disk back, byte for byte.

use std::time::Instant;

use serde_json::json;
use umbra_common::snapshot::Manifest;

use crate::catalog::{Catalog, Snapshot};
use crate::cli::output::{bytes, duration};
use crate::cli::progress::Progress;
use crate::cli::{Global, Output, RecoverArgs};
use crate::connect::{Access, connect};
use crate::error::Result;
use crate::monitor::Notice;
use crate::mounts::System;
use crate::own_store::OwnStore;
use crate::recover::{ReadBack, Recovered, recover};
use crate::target::{self, Found, Target};
use crate::vault_nodes::VaultNodes;

/// Writes a snapshot's disk to a file or device.
///
/// # Errors
/// [`crate::Error::Refused`] for a target that may not be written, [`crate::Error::Damage`]
/// where what arrives is not what was backed up.
pub fn run(global: &Global, args: &RecoverArgs, output: &Output) -> Result<()> {
    let started = Instant::now();
    let connection = connect(global, Access::Read)?;
    let catalog = Catalog::read(&connection, global)?;
    let snapshot = catalog.open(&args.snapshot)?;
    let len = snapshot.manifest.disk.length;
    let system = System::read()?;
    let own = OwnStore::of(&connection.url, &system);
    let mut found = target::inspect(&args.to, len, &own, &system)?;
    let mut notes = notes(&snapshot.manifest, &found, args);
    if args.plan || global.dry_run {
        return plan(&snapshot, &found, &notes, args, output);
    }
    found.confirm(args.yes_destroy.as_deref())?;
    let progress = Progress::new(*output, global.no_progress);
    let nodes = VaultNodes::new(connection.client.reader());
    let target = Target::open(&mut found)?;
    let read_back = if args.no_verify { ReadBack::Skip } else { ReadBack::Verify };
    let reader = connection.client.reader();
    let recovered = recover(&snapshot, &reader, &nodes, &target, read_back, &progress);
    progress.finish();
    let recovered = match recovered {
        Ok(recovered) => recovered,
        Err(error) => {
            target.abandon();
            return Err(error);
        }
    };
    notes.extend(target.finish()?);
    show_notes(&notes, args, output);
    report(&recovered, &found, args, output, started)
}

/// Says what a person should know of this target beside its bytes.
fn notes(manifest: &Manifest, found: &Found, args: &RecoverArgs) -> Vec<String> {
    let mut notes = Vec::new();
    let has_table = manifest.partition_table != "none" && !manifest.partition_table.is_empty();
    let beyond = found.beyond().0;
    if beyond > 0 {
        let mut note =
            format!("the target is larger than the disk: its last {beyond} bytes stay as they are");
        if manifest.partition_table == "gpt" {
            note.push_str(&format!(
                "; the GPT keeps its second header where the disk ended: move it to the end with \
                 `sgdisk --move-second-header {}`",
                args.to.display()
            ));
        }
        notes.push(note);
    }
    let own = u64::from(manifest.disk.sector_bytes);
    if let Some(sector) = found.sector().filter(|sector| has_table && sector.0 != own) {
        notes.push(format!(
            "the disk had sectors of {own} bytes and the target has {}: every byte is where it \
             was, but systems will not find the partitions there",
            sector.0
        ));
    }
    notes
}

fn show_notes(notes: &[String], args: &RecoverArgs, output: &Output) {
    for note in notes {
        let subject = args.to.display().to_string();
        output.warning(&Notice { subject, at: None, message: note.clone() });
    }
}

/// Tells what would be done; nothing is written.
fn plan(
    snapshot: &Snapshot,
    found: &Found,
    notes: &[String],
    args: &RecoverArgs,
    output: &Output,
) -> Result<()> {
    let (len, counts) = (snapshot.manifest.disk.length, snapshot.manifest.counts);
    show_notes(notes, args, output);
    output.text(&format!(
        "would write {} to {}: {} from at most {} chunks, the rest zeros",
        bytes(len.0),
        args.to.display(),
        bytes(counts.bytes_data),
        counts.chunks,
    ))?;
    let unconfirmed = found.confirm(args.yes_destroy.as_deref()).err();
    if let Some(error) = &unconfirmed {
        output.text(&format!("would be refused as it stands: {error}"))?;
    }
    let fields = json!({
        "snapshot": snapshot.reference.id.to_string(),
        "target": args.to,
        "bytes_total": len.0,
        "bytes_data": counts.bytes_data,
        "bytes_beyond": found.beyond().0,
        "chunks": counts.chunks,
        "confirmed": unconfirmed.is_none(),
        "plan": true,
    });
    output.object("summary", fields)
}

fn report(
    recovered: &Recovered,
    found: &Found,
    args: &RecoverArgs,
    output: &Output,
    started: Instant,
) -> Result<()> {
    let took = started.elapsed();
    let hash = crate::listing::hex(&recovered.image_hash);
    let proof = if recovered.verified { "read back and equal" } else { "not read back" };
    output.text(&format!(
        "recovered {} to {} in {}: image hash {}, {proof}",
        bytes(recovered.written),
        args.to.display(),
        duration(took),
        hash.get(..16).unwrap_or(&hash),
    ))?;
    output.object(
        "summary",
        json!({
            "bytes_written": recovered.written,
            "bytes_skipped_equal": 0,
            "bytes_zeroed": recovered.zeroed,
            "bytes_fetched": recovered.fetched,
            "bytes_beyond": found.beyond().0,
            "image_hash": hash,
            "verified": recovered.verified,
            "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }),
    )
}
