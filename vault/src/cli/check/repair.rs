//! `umbra-vault check --repair`.

use super::CheckArgs;
use crate::admin::{Answer, Request};
use crate::cli::output::Output;
use crate::cli::{ask, unexpected};
use crate::error::Result;
use crate::place::{Mode, Place};
use crate::repair::{Repair, Repaired};
use serde_json::{Value, json};

/// Repairs the store, through the vault that serves it where one does, and says what was done.
pub(super) fn run(place: &Place, args: &CheckArgs, output: &Output) -> Result<Repaired> {
    let repair = Repair { dry_run: args.dry_run, limit_bytes: args.limit };
    let answer = ask(place, Mode::ReadWrite, &Request::Repair(repair))?;
    let Answer::Repaired(done) = answer else { return Err(unexpected()) };
    tell(&done, output)?;
    if done.index_wrong {
        if done.dry_run {
            output.text("the index would be made anew")?;
        } else {
            ask(place, Mode::ReadWrite, &Request::RebuildIndex)?;
            output.text("the index was made anew")?;
        }
    }
    Ok(*done)
}

fn tell(done: &Repaired, output: &Output) -> Result<()> {
    let word = if done.dry_run { "WOULD REPAIR" } else { "REPAIRED" };
    for pack in &done.packs {
        output.text(&format!("{word}: {}: {}", pack.path, pack.message))?;
        output.object(
            "status",
            json!({
                "status": if done.dry_run { "would-repair" } else { "repaired" },
                "path": pack.path,
                "message": pack.message,
            }),
        )?;
    }
    let told = u64::try_from(done.packs.len()).unwrap_or(u64::MAX);
    let rest = done.packs_total.saturating_sub(told);
    if rest > 0 {
        output.text(&format!("... and {rest} more packs"))?;
    }
    if done.packs_total == 0 {
        return output.text("every record was read, and there is nothing to repair");
    }
    output.text(&format!(
        "{} records from parity, {} from other copies, {} lost{}",
        done.from_parity,
        done.from_copies,
        done.lost,
        if done.lost > 0 { ": the next backup that has them sends them again" } else { "" },
    ))
}

/// What the summary says of it.
pub(super) fn object_of(done: &Repaired) -> Value {
    json!({
        "dry_run": done.dry_run,
        "findings": done.findings,
        "bytes_read": done.bytes_read,
        "from_parity": done.from_parity,
        "from_copies": done.from_copies,
        "lost": done.lost,
        "lifted": done.lifted,
        "quarantined": done.quarantined,
        "incomplete": done.incomplete,
        "index_rebuilt": done.index_wrong && !done.dry_run,
        "packs": done.packs_total,
    })
}
