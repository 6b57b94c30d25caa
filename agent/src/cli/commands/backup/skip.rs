//! `--skip-unchanged`: the base that files are taken from, and what is said of it afterwards.

use serde_json::{Value, json};
use umbra_common::node::NodeSource;
use umbra_common::{Kind, ObjectId, Reference};
use umbra_net::Client;

use crate::backup::{Base, Skip, Skipped};
use crate::catalog::manifest_of;
use crate::cli::output::bytes;
use crate::cli::{BackupArgs, Output, SkipArg, SkipArgs};
use crate::error::{Error, Result};

/// Refuses what can never skip anything.
///
/// # Errors
/// [`Error::Usage`].
pub(super) fn check(args: &BackupArgs) -> Result<()> {
    if args.skip.skip_unchanged == SkipArg::Off {
        return Ok(());
    }
    let usage = |what: &str, hint: &str| Err(Error::Usage { what: what.into(), hint: hint.into() });
    if args.sources.iter().any(|source| source.as_os_str() == "-") {
        let what = "standard input has no files, and is read to its end in any case";
        return usage(what, "leave --skip-unchanged out, or name the disk");
    }
    if args.no_parse {
        let what = "with --no-parse no file is known, and so none that has not changed";
        return usage(what, "leave --skip-unchanged or --no-parse out");
    }
    if args.inconsistent_ok {
        let what = "what is written while it is read has no file that is known to be unchanged";
        return usage(what, "leave --skip-unchanged or --inconsistent-ok out");
    }
    Ok(())
}

/// Makes the order to skip, on the base that the vault has pinned for the session.
///
/// # Errors
/// Where the system gives no randomness.
pub(super) fn order<'a>(
    args: &SkipArgs,
    client: &Client,
    pinned: Option<ObjectId>,
    nodes: &'a dyn NodeSource,
) -> Result<Skip<'a>> {
    let base = match pinned {
        None => Err("this machine knows no earlier snapshot of the disk that the vault has".into()),
        Some(snapshot) => open(client, snapshot).map_err(|error| error.to_string()),
    };
    Ok(Skip {
        base,
        nodes,
        reread_per_million: args.reread_share.per_million,
        full_every: args.full_every,
        seed: super::random()?,
    })
}

fn open(client: &Client, snapshot: ObjectId) -> Result<Base> {
    let manifest = manifest_of(client.reader().open(snapshot)?, snapshot)?;
    Ok(Base { reference: Reference { kind: Kind::Manifest, id: snapshot }, manifest })
}

/// Says what was skipped, or why nothing was.
pub(super) fn say(skipped: &Skipped, output: &Output) -> Result<()> {
    if let Some(because) = &skipped.read_all_because {
        return output.note(&format!("everything was read: {because}"));
    }
    output.text(&format!(
        "{} unchanged files ({}) and {} windows taken from the snapshot before; {} of them ({}) \
         read again and equal",
        skipped.files_inherited + skipped.files_reread,
        bytes(skipped.bytes_inherited + skipped.bytes_reread),
        skipped.windows_inherited,
        skipped.files_reread,
        bytes(skipped.bytes_reread),
    ))
}

/// Adds what was skipped to a summary.
pub(super) fn add_to(summary: &mut Value, args: &SkipArgs, skipped: &Skipped) {
    let mode = match args.skip_unchanged {
        SkipArg::Off => "off",
        SkipArg::Metadata => "metadata",
    };
    let fields = json!({
        "skip_unchanged": mode,
        "files_inherited": skipped.files_inherited,
        "bytes_inherited": skipped.bytes_inherited,
        "windows_inherited": skipped.windows_inherited,
        "files_reread": skipped.files_reread,
        "bytes_reread": skipped.bytes_reread,
        "files_differing": skipped.files_differing,
        "runs_since_full": skipped.runs_since_full,
        "read_all_because": skipped.read_all_because,
    });
    if let (Value::Object(summary), Value::Object(fields)) = (summary, fields) {
        summary.extend(fields);
    }
}
