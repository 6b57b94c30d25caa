//! `restore`: files back into a directory.

use std::time::Instant;

use serde_json::{Value, json};

use crate::browse::{Browser, damage_in};
use crate::cli::output::{bytes, duration};
use crate::cli::progress::Progress;
use crate::cli::{Global, Output, OverwriteArg, RestoreArgs};
use crate::error::{Error, Result};
use crate::restore::{
    Filter, Named, Options, Overwrite, Selection, Strip, Summary, check_distinct, paths_in, plan,
    restore, select, select_all,
};
use crate::select::split_target;

use super::open::Opened;

/// Brings files back below a directory.
///
/// # Errors
/// [`Error::Usage`], [`Error::NotFound`] before anything is written; [`Error::Io`] with
/// `StorageFull` where the target is full; at the end [`Error::Damage`] or [`Error::Partial`] where
/// files were left out.
pub fn run(global: &Global, args: &RestoreArgs, output: &Output) -> Result<()> {
    let started = Instant::now();
    let filter = Filter::new(&args.include, &args.exclude)?;
    let (snapshot, mut paths) = split_targets(args)?;
    let opened = Opened::new(global, snapshot)?;
    let browser = Browser::new(&opened.snapshot, &opened.nodes);
    if let Some(file) = &args.files_from {
        for path in paths_in(file)? {
            let rooted = path.starts_with(b"/") || browser.names_volume(&path);
            paths.push(if rooted { path } else { [b"/", path.as_slice()].concat() });
        }
    }
    let (selections, unknown) = selections(&browser, args, &paths)?;
    let progress = Progress::new(*output, global.no_progress);
    let summary = if global.dry_run {
        plan(&browser, &selections, &filter)?
    } else {
        let overwrite = match args.overwrite {
            OverwriteArg::Never => Overwrite::Never,
            OverwriteArg::IfChanged => Overwrite::IfChanged,
            OverwriteArg::Always => Overwrite::Always,
        };
        let options = Options { overwrite, filter };
        let content = opened.content()?;
        let done = restore(&browser, content, &selections, &args.target, &options, &progress);
        progress.finish();
        done?
    };
    for volume in &unknown {
        let message = "its files are not known; `umbra recover` brings the whole disk back";
        output.text(&format!("note: {volume}: {message}"))?;
        output.object("warning", json!({"subject": volume, "message": message}))?;
    }
    let fields = report(&summary, args, global, output, &opened, started)?;
    output.finish(fields, verdict(&summary, args, &opened))
}

/// Returns the one snapshot that all targets name, and their paths.
fn split_targets(args: &RestoreArgs) -> Result<(&[u8], Vec<Vec<u8>>)> {
    let mut paths = Vec::new();
    let mut named: Option<&[u8]> = None;
    let mut whole = false;
    for target in &args.targets {
        let (snapshot, path) = split_target(target);
        if named.is_some_and(|named| named != snapshot) {
            return Err(Error::Usage {
                what: "the targets name several snapshots".into(),
                hint: "restore from one snapshot at a time".into(),
            });
        }
        named = Some(snapshot);
        match path {
            Some(path) => paths.push(path.to_vec()),
            None => whole = true,
        }
    }
    if whole && !paths.is_empty() {
        return Err(Error::Usage {
            what: "a snapshot is named both whole and by a path".into(),
            hint: "name the snapshot alone for everything, or only paths of it".into(),
        });
    }
    Ok((named.unwrap_or_default(), paths))
}

fn selections(
    browser: &Browser<'_>,
    args: &RestoreArgs,
    paths: &[Vec<u8>],
) -> Result<(Vec<Selection>, Vec<String>)> {
    if paths.is_empty() && args.files_from.is_none() {
        return select_all(browser);
    }
    let strip = if args.strip { Strip::LastName } else { Strip::Keep };
    let selected = paths.iter().map(|path| select(browser, path, strip));
    let selections = selected.collect::<Result<Vec<_>>>()?;
    check_distinct(browser, &selections)?;
    Ok((selections, Vec::new()))
}

/// Names what has to be named, and returns the summary.
fn report(
    summary: &Summary,
    args: &RestoreArgs,
    global: &Global,
    output: &Output,
    opened: &Opened,
    started: Instant,
) -> Result<Value> {
    let named = [
        ("damaged", &summary.damaged),
        ("failed", &summary.failed),
        ("kept", &summary.kept),
        ("incomplete", &summary.incomplete),
        ("encrypted", &summary.encrypted),
    ];
    for (what, list) in named {
        for line in &list.list {
            output.text(&format!("{what}: {line}"))?;
            output.object("warning", json!({"subject": what, "message": line}))?;
        }
        let more = list.total.saturating_sub(list.list.len() as u64);
        if more > 0 {
            output.text(&format!("{what}: and {more} more"))?;
        }
    }
    let refused = refused_text(summary);
    if let Some(text) = &refused {
        output.text(&format!(
            "note: not set, for lack of the right or on this file system: {text}"
        ))?;
    }
    if summary.dirs_kept > 0 {
        output.text(&format!(
            "note: {} there already with another owner or mode, and kept it (see --overwrite)",
            count(summary.dirs_kept, "directory was", "directories were")
        ))?;
    }
    let took = started.elapsed();
    let verb = if global.dry_run { "would restore" } else { "restored" };
    output.text(&format!(
        "{verb} {}, {}, {}, {} ({}) into {} in {}; {} there already",
        count(summary.files, "file", "files"),
        count(summary.dirs, "directory", "directories"),
        count(summary.hard_links + summary.symlinks, "link", "links"),
        count(summary.special, "other", "others"),
        bytes(summary.bytes_written),
        args.target.display(),
        duration(took),
        count(summary.equal, "was", "were"),
    ))?;
    Ok(json!({
        "snapshot": opened.id(),
        "target": args.target,
        "dry_run": global.dry_run,
        "files": summary.files,
        "dirs": summary.dirs,
        "hard_links": summary.hard_links,
        "symlinks": summary.symlinks,
        "special": summary.special,
        "bytes_written": summary.bytes_written,
        "equal": summary.equal,
        "kept": summary.kept.total,
        "dirs_kept": summary.dirs_kept,
        "failed": summary.failed.total,
        "damaged": summary.damaged.total,
        "incomplete": summary.incomplete.total,
        "encrypted": summary.encrypted.total,
        "refused": refused_json(summary),
        "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    }))
}

/// Counts in words.
fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn refused_json(summary: &Summary) -> Value {
    let refused = summary.refused;
    json!({
        "owners": refused.owners,
        "modes": refused.modes,
        "times": refused.times,
        "xattrs": refused.xattrs,
        "devices": refused.devices,
    })
}

fn refused_text(summary: &Summary) -> Option<String> {
    let refused = summary.refused;
    let counts = [
        (refused.owners, "owners"),
        (refused.modes, "modes"),
        (refused.times, "times"),
        (refused.xattrs, "extended attributes"),
        (refused.devices, "device nodes"),
    ];
    let texts = counts.iter().filter(|(count, _)| *count > 0);
    let texts: Vec<String> = texts.map(|(count, what)| format!("{count} {what}")).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// Decides how the command ends.
fn verdict(summary: &Summary, args: &RestoreArgs, opened: &Opened) -> Result<()> {
    let first = |named: &Named| named.list.first().cloned().unwrap_or_default();
    if summary.damaged.total > 0 {
        let detail =
            format!("{} files were left out: {}", summary.damaged.total, first(&summary.damaged));
        return Err(damage_in(&opened.snapshot, "its files", detail));
    }
    let reasons = [
        (&summary.failed, "could not be written"),
        (&summary.kept, "with other content in the way, not written over (see --overwrite)"),
        (&summary.incomplete, "with zeros where the backup could not read the disk"),
        (
            &summary.encrypted,
            "left out, being encrypted without their key (`umbra recover` the whole disk, and \
             unlock them there)",
        ),
    ];
    for (named, reason) in reasons {
        if named.total > 0 {
            let files = count(named.total, "file", "files");
            let what = format!("{files} {reason}: {}", first(named));
            return Err(Error::Partial { what });
        }
    }
    match refused_text(summary).filter(|_| args.strict) {
        Some(text) => Err(Error::Partial { what: format!("not set (--strict): {text}") }),
        None => Ok(()),
    }
}
