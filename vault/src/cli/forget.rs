//! `umbra-vault forget`, `protect` and `unprotect`.

use super::output::Output;
use super::{StoreArg, ask, policy, unexpected};
use crate::admin::{Answer, Request};
use crate::care::{CareDone, CareRequest, Picked, SnapshotName, Verb};
use crate::error::{Result, VaultError};
use crate::place::{Mode, Place};
use clap::Args;
use serde_json::json;

/// Which snapshots are meant.
#[derive(Debug, Args)]
struct PickArgs {
    /// Names of snapshots: 4 or more digits of an id, MACHINE/DISK@TIME, MACHINE/DISK (with
    /// --all), or latest.
    #[arg(value_name = "SNAP")]
    names: Vec<String>,
    /// The machine, where a name does not say it.
    #[arg(long, value_name = "MACHINE")]
    machine: Option<String>,
    /// The disk, where a name does not say it.
    #[arg(long, value_name = "DISK")]
    disk: Option<String>,
    /// MACHINE/DISK stands for every snapshot of the disk.
    #[arg(long)]
    all: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    #[command(flatten)]
    pub(super) store: StoreArg,
    #[command(flatten)]
    pick: PickArgs,
    /// Show forgotten snapshots again, while their space is not given back.
    #[arg(long, conflicts_with = "policy")]
    undo: bool,
    /// Forget what the policy does not keep.
    #[arg(long, conflicts_with_all = ["names", "machine", "disk", "all"])]
    policy: bool,
}

#[derive(Debug, Args)]
pub(super) struct ProtectArgs {
    #[command(flatten)]
    pub(super) store: StoreArg,
    #[command(flatten)]
    pick: PickArgs,
}

pub(super) fn run(place: &Place, args: &ForgetArgs, output: &Output) -> Result<u8> {
    if args.policy {
        return policy::apply(place, args.pick.dry_run, output);
    }
    let verb = if args.undo { Verb::Undo } else { Verb::Forget };
    let done = change(place, &args.pick, verb)?;
    say(&done, args.pick.dry_run, verb, output)
}

pub(super) fn protect(
    place: &Place,
    args: &ProtectArgs,
    verb: Verb,
    output: &Output,
) -> Result<u8> {
    let done = change(place, &args.pick, verb)?;
    say(&done, args.pick.dry_run, verb, output)
}

fn change(place: &Place, args: &PickArgs, verb: Verb) -> Result<CareDone> {
    let names = args.names.iter().map(|name| read(name, args.all));
    let names = names.collect::<Result<Vec<SnapshotName>>>()?;
    if names.is_empty() {
        let or = match verb {
            Verb::Forget => ", or --policy for what the policy does not keep",
            _ => "",
        };
        return Err(VaultError::Usage {
            what: "no snapshot is named".to_owned(),
            hint: format!(
                "name snapshots by 4 or more digits of their ids, MACHINE/DISK@TIME, MACHINE/DISK \
                 with --all{or}"
            ),
        });
    }
    let (machine, disk) = (args.machine.clone(), args.disk.clone());
    let picked = Picked { names, machine, disk };
    let request = CareRequest { verb, picked, dry_run: args.dry_run };
    let mode = if args.dry_run { Mode::ReadOnly } else { Mode::ReadWrite };
    match ask(place, mode, &Request::Care(request))? {
        Answer::Care(done) => Ok(done),
        _ => Err(unexpected()),
    }
}

fn read(name: &str, all: bool) -> Result<SnapshotName> {
    let read = SnapshotName::parse(name)?;
    if matches!(read, SnapshotName::Disk { .. }) && !all {
        return Err(VaultError::Usage {
            what: format!("{name} is every snapshot of that disk"),
            hint: format!("add --all if that is meant, or name one: {name}@TIME"),
        });
    }
    Ok(read)
}

fn say(done: &CareDone, dry_run: bool, verb: Verb, output: &Output) -> Result<u8> {
    let (now, before) = match verb {
        Verb::Forget => ("forgotten", "is forgotten already"),
        Verb::Undo => ("there again", "is not forgotten"),
        Verb::Protect => ("protected", "is protected already"),
        Verb::Unprotect => ("not protected any more", "is not protected"),
    };
    let would = if dry_run { "would be " } else { "" };
    for (list, is_changed) in [(&done.changed, true), (&done.already, false)] {
        for snapshot in list {
            let line = snapshot.line();
            match is_changed {
                true => output.text(&format!("{line}  {would}{now}"))?,
                false => output.text(&format!("{line}  {before}"))?,
            }
            let mut object = serde_json::to_value(snapshot).unwrap_or_default();
            if let Some(fields) = object.as_object_mut() {
                fields.insert("changed".to_owned(), is_changed.into());
            }
            output.object("entry", object)?;
        }
    }
    for disk in &done.emptied {
        let line = format!(
            "WARNING: no snapshot of {disk} {} left that can be listed or restored",
            if dry_run { "would be" } else { "is" }
        );
        output.text(&line)?;
        output.object("warning", json!({ "message": line, "disk": disk }))?;
    }
    if dry_run {
        output.text("dry run: nothing was changed")?;
    } else if verb == Verb::Forget && !done.changed.is_empty() {
        say_when(&done.undo_until, output)?;
    }
    let until = (verb == Verb::Forget).then_some(&done.undo_until);
    output.summary(json!({
        "changed": done.changed.len(),
        "already": done.already.len(),
        "emptied": done.emptied,
        "dry_run": dry_run,
        "undo_until": until,
    }))?;
    Ok(0)
}

/// Says when the space of what was forgotten returns.
pub(super) fn say_when(undo_until: &str, output: &Output) -> Result<()> {
    let day = undo_until.get(..10).unwrap_or(undo_until);
    output.text(&format!(
        "hidden now; can be undone with `umbra-vault forget --undo SNAP` until about {day}; space \
         returns with the first `umbra-vault gc` after that, or at once with `umbra-vault gc --now`"
    ))
}
