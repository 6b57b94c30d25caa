//! `umbra-vault gc`.

use super::output::{Output, size};
use super::{StoreArg, ask, unexpected};
use crate::admin::{Answer, Request};
use crate::collect::{GcAsked, GcDone};
use crate::error::Result;
use crate::place::{Mode, Place};
use clap::Args;
use std::num::NonZeroU64;

/// What `gc` is told.
#[derive(Debug, Args)]
pub(super) struct GcArgs {
    #[command(flatten)]
    pub(super) store: StoreArg,
    /// Take forgotten snapshots at once: forgetting them cannot be undone any more.
    #[arg(long)]
    now: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for backups that began before: seconds, or a number with s, m, h or d.
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = super::seconds)]
    wait: u64,
    /// Copy at most so many bytes a second: a number with K, M or G.
    #[arg(long, value_name = "RATE", value_parser = super::rate)]
    limit: Option<NonZeroU64>,
}

/// Collects, in the running vault or in the store itself.
pub(super) fn run(place: &Place, args: &GcArgs, output: &Output) -> Result<u8> {
    let asked = GcAsked {
        at_once: args.now,
        dry_run: args.dry_run,
        limit: args.limit.map(NonZeroU64::get),
        wait_seconds: args.wait,
    };
    let Answer::Collected(done) = ask(place, Mode::ReadWrite, &Request::Gc(asked))? else {
        return Err(unexpected());
    };
    tell(&done, output)?;
    Ok(if done.kept.is_empty() { 0 } else { 4 })
}

fn tell(done: &GcDone, output: &Output) -> Result<()> {
    let (would, be) = if done.dry_run { ("would ", "would be ") } else { ("", "were ") };
    let gone = done.expunged.len();
    output.text(&format!(
        "{} snapshots count, {gone} {} gone for good",
        done.snapshots,
        if done.dry_run { "would be" } else { "are" }
    ))?;
    if done.forgotten > 0 {
        output.text(&format!(
            "{} forgotten snapshots stay for now: that can be undone until their time is over \
             (`gc --now` does not wait for it), or they are protected or held",
            done.forgotten
        ))?;
    }
    output.text(&format!(
        "{} of {} packs {be}deleted: {} of {}; {would}cop{} {} of use out of them first",
        done.packs_deleted,
        done.packs,
        size(done.bytes_freed),
        size(done.bytes),
        if done.dry_run { "y" } else { "ied" },
        size(done.bytes_copied),
    ))?;
    if done.bytes_dead_kept > 0 {
        output.text(&format!(
            "{} that nothing needs stay in packs that are mostly of use",
            size(done.bytes_dead_kept)
        ))?;
    }
    for (pack, reason) in &done.kept {
        let line =
            format!("KEPT: {pack}: {reason}; run `umbra-vault check --repair`, then `gc` again");
        output.text(&line)?;
        output.object("warning", serde_json::json!({ "message": line, "path": pack }))?;
    }
    output.summary(serde_json::to_value(done).unwrap_or_default())
}
