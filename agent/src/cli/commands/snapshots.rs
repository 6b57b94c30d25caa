//! `snapshots`: what the vault holds.

use serde_json::{Value, json};
use umbra_common::snapshot::{Manifest, Receipt};

use crate::browse::short;
use crate::catalog::Catalog;
use crate::cli::output::bytes;
use crate::cli::{Global, Output, SnapshotsArgs};
use crate::connect::{Access, connect};
use crate::error::{Error, Result};
use crate::listing::rfc3339;
use crate::select::{DayEdge, parse_time, received};

/// Label under which the agent leaves how much was new to the vault.
const NEW_BYTES_LABEL: &str = "bytes_new";

/// Lists snapshots, oldest first.
///
/// # Errors
/// [`Error::Usage`] for a time that is none, [`Error::Vault`], [`Error::Damage`] after the list
/// where receipts cannot be read.
pub fn run(global: &Global, args: &SnapshotsArgs, output: &Output) -> Result<()> {
    let since = args.since.as_deref().map(|text| parse_time(text, DayEdge::Start)).transpose()?;
    let until = args.until.as_deref().map(|text| parse_time(text, DayEdge::End)).transpose()?;
    let connection = connect(global, Access::Read)?;
    let catalog = Catalog::read_with_manifests(&connection, global)?;
    let scope = catalog.scope();
    let mut shown: Vec<(&Receipt, Option<&Manifest>)> = catalog
        .snapshots()
        .filter(|(r, _)| args.all_machines || scope.machine.is_none_or(|m| m == r.machine_name))
        .filter(|(r, _)| scope.disk.is_none_or(|disk| disk == r.disk))
        .filter(|(r, _)| args.tag.as_ref().is_none_or(|tag| r.tags.contains(tag)))
        .filter(|(r, _)| since.is_none_or(|since| received(r) >= since))
        .filter(|(r, _)| until.is_none_or(|until| received(r) <= until))
        .collect();
    if let Some(last) = args.last {
        shown.drain(..shown.len().saturating_sub(last));
    }
    if !shown.is_empty() {
        output.text(&format!(
            "{:<20} {:<16} {:<20} {:>11} {:>11} {:<11} {}",
            "TIME", "MACHINE", "DISK", "SIZE", "NEW", "CONSISTENCY", "ID"
        ))?;
    }
    for (receipt, manifest) in &shown {
        line(receipt, *manifest, output)?;
    }
    if shown.is_empty() {
        output.note("no snapshots (of this machine; --all-machines lists all)")?;
    }
    let damaged = catalog.damaged();
    let verdict = match damaged {
        0 => Ok(()),
        _ => Err(Error::Damage {
            what: "the vault's receipts".into(),
            detail: format!("{damaged} cannot be read"),
            hint: "`umbra-vault status` names the damaged places".into(),
        }),
    };
    output.finish(json!({"snapshots": shown.len(), "damaged_receipts": damaged}), verdict)
}

fn line(receipt: &Receipt, manifest: Option<&Manifest>, output: &Output) -> Result<()> {
    let id = receipt.snapshot.to_string();
    let time = rfc3339(receipt.received);
    let size = manifest.map(|manifest| manifest.disk.length.0);
    let new: Option<u64> = receipt.labels.get(NEW_BYTES_LABEL).and_then(|text| text.parse().ok());
    let consistency = manifest.map(|manifest| manifest.method.consistency.name());
    let or_dash = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), bytes);
    output.text(&format!(
        "{:<20} {:<16} {:<20} {:>11} {:>11} {:<11} {}{}",
        time.get(..19).map_or_else(|| time.clone(), |time| format!("{time}Z")),
        receipt.machine_name,
        receipt.disk,
        or_dash(size),
        or_dash(new),
        consistency.unwrap_or("unreadable"),
        short(&id),
        tags(receipt),
    ))?;
    let run: Value = receipt.run.to_string().into();
    output.object(
        "entry",
        json!({
            "snapshot": id,
            "time": time,
            "machine": receipt.machine_name,
            "disk": receipt.disk,
            "run": run,
            "sequence": receipt.sequence,
            "bytes_total": size,
            "bytes_new": new,
            "consistency": consistency,
            "tags": receipt.tags,
        }),
    )
}

fn tags(receipt: &Receipt) -> String {
    if receipt.tags.is_empty() { String::new() } else { format!("  [{}]", receipt.tags.join(", ")) }
}
