//! `umbra-vault hold`.

use super::output::Output;
use super::{StoreArg, ask, unexpected};
use crate::admin::{Answer, Request};
use crate::care::{HoldRequest, SnapshotName};
use crate::error::Result;
use crate::place::{Mode, Place};
use clap::Args;
use serde_json::json;

#[derive(Debug, Args)]
pub(super) struct HoldArgs {
    #[command(flatten)]
    pub(super) store: StoreArg,
    /// What is held: * (all), MACHINE, MACHINE/DISK, or a snapshot (digits of its id,
    /// MACHINE/DISK@TIME).
    #[arg(value_name = "SCOPE")]
    on: String,
    /// End the hold.
    #[arg(long)]
    release: bool,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(place: &Place, args: &HoldArgs, output: &Output) -> Result<u8> {
    let request = HoldRequest {
        on: args.on.clone(),
        snapshot: SnapshotName::parse(&args.on).ok(),
        reason: args.reason.clone(),
        release: args.release,
        dry_run: args.dry_run,
    };
    let mode = if args.dry_run { Mode::ReadOnly } else { Mode::ReadWrite };
    let Answer::Hold(done) = ask(place, mode, &Request::Hold(request))? else {
        return Err(unexpected());
    };
    let (on, snapshots) = (&done.on, done.snapshots);
    let line = match (args.release, done.changed) {
        (false, true) => format!("held: {on}, {snapshots} snapshots now and those to come"),
        (false, false) => format!("held already: {on}, {snapshots} snapshots"),
        (true, true) => {
            format!("not held any more: {on}; what it kept goes by policy and `forget` again")
        }
        (true, false) => format!("there was no hold on {on}"),
    };
    output.text(&line)?;
    if args.dry_run {
        output.text("dry run: nothing was changed")?;
    }
    output.summary(json!({
        "on": on,
        "held": !args.release,
        "changed": done.changed,
        "snapshots": snapshots,
        "dry_run": args.dry_run,
    }))?;
    Ok(0)
}
