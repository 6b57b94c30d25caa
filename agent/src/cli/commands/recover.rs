//! `recover`: a disk back, byte for byte.

use std::time::Instant;

use serde_json::json;

use crate::catalog::Catalog;
use crate::cli::output::{bytes, duration};
use crate::cli::progress::Progress;
use crate::cli::{Global, Output, RecoverArgs};
use crate::connect::{Access, connect};
use crate::error::Result;
use crate::recover::{ReadBack, Recovered, recover};
use crate::target::{self, Target};
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
    let kind = target::inspect(&args.to, len, args.yes_destroy.as_deref())?;
    let counts = snapshot.manifest.counts;
    if args.plan || global.dry_run {
        output.text(&format!(
            "would write {} to {}: {} from at most {} chunks, the rest zeros",
            bytes(len.0),
            args.to.display(),
            bytes(counts.bytes_data),
            counts.chunks,
        ))?;
        let fields = json!({
            "snapshot": snapshot.reference.id.to_string(),
            "target": args.to,
            "bytes_total": len.0,
            "bytes_data": counts.bytes_data,
            "chunks": counts.chunks,
            "plan": true,
        });
        return output.object("summary", fields);
    }
    let progress = Progress::new(*output, global.no_progress);
    let nodes = VaultNodes::new(connection.client.reader());
    let target = Target::open(&args.to, kind, len)?;
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
    target.finish()?;
    report(&recovered, args, output, started)
}

fn report(
    recovered: &Recovered,
    args: &RecoverArgs,
    output: &Output,
    started: Instant,
) -> Result<()> {
    let took = started.elapsed();
    let hash: String = recovered.image_hash.iter().map(|byte| format!("{byte:02x}")).collect();
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
            "image_hash": hash,
            "verified": recovered.verified,
            "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }),
    )
}
