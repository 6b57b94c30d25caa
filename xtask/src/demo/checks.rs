//! The demo's witnesses: programs that are not ours say whether what came back is what went in.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::disks::{Disk, ROOT_PARTITION};
use crate::env::BuildEnv;
use crate::process;
use crate::programs::Machine;
use crate::transcript::seconds;

/// What e2fsck says of how fragmented the files of a disk are.
///
/// # Errors
/// When the file system is not clean.
pub(super) fn fragmentation(env: &BuildEnv, disk: &Disk) -> Result<String> {
    let said = process::output(env.command("e2fsck").arg("-fn").arg(disk.root_in(&disk.path)))?;
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().find(|line| line.contains("non-contiguous"));
    let line = line.context("e2fsck told no figures")?;
    let figures = line.split_once(": ").map_or(line, |(_, figures)| figures);
    Ok(format!("e2fsck: {figures}"))
}

/// A recovered disk equals the source, and its file system and partition table are sound.
///
/// # Errors
/// When one of the witnesses says otherwise.
pub(super) fn recovered(env: &BuildEnv, disk: &Disk, back: &Path) -> Result<()> {
    process::output(env.command("cmp").arg(&disk.path).arg(back))?;
    println!("    cmp: equal");
    process::output(env.command("e2fsck").arg("-fn").arg(disk.root_in(back)))?;
    println!("    e2fsck -fn: clean");
    let said = process::output(env.command("sgdisk").arg("-v").arg(back))?;
    let said = String::from_utf8_lossy(&said);
    ensure!(said.contains("No problems found"), "sgdisk -v: {said}");
    println!("    sgdisk -v: no problems found");
    Ok(())
}

/// `ls`, `cat` and `restore` of one directory agree with what debugfs gets out of the disk.
///
/// # Errors
/// When they differ.
pub(super) fn files(
    env: &BuildEnv,
    place: &Path,
    machine: &Machine<'_>,
    snapshot: &str,
    disk: &Disk,
    dir: &str,
) -> Result<()> {
    let witness = place.join("debugfs");
    fs::create_dir(&witness)?;
    debugfs(env, disk, &format!("rdump /{dir} {}", witness.display()))?;
    let base = dir.rsplit('/').next().unwrap_or(dir);
    let expected = witness.join(base);
    let place_in_snapshot = format!("{snapshot}:part/{ROOT_PARTITION}/{dir}");

    let (said, took) = machine.run(&["--json", "ls", &place_in_snapshot, "-R"])?;
    let ours = listed_names(&said, dir)?;
    let theirs = names_below(&expected, Path::new(""))?;
    ensure!(theirs.len() > 10, "debugfs shows only {} names in {dir}", theirs.len());
    if ours != theirs {
        let only_ours: Vec<_> = ours.difference(&theirs).take(5).collect();
        let only_theirs: Vec<_> = theirs.difference(&ours).take(5).collect();
        bail!("ls differs from debugfs: only in ours {only_ours:?}, only in its {only_theirs:?}");
    }
    println!("    {} names, the same as debugfs shows; {}", ours.len(), seconds(took));

    let file = largest_file(&expected)?;
    let (said, took) = machine.run(&["cat", &format!("{place_in_snapshot}/{file}")])?;
    ensure!(said == fs::read(expected.join(&file))?, "cat of {file} differs from debugfs");
    println!("    {} bytes, the same as debugfs dumps; {}", said.len(), seconds(took));

    let target = machine.home.join("restored");
    let target_text = target.to_string_lossy().into_owned();
    let (_, took) =
        machine.run(&["--json", "restore", &place_in_snapshot, "--target", &target_text])?;
    let restored = target.join(format!("part/{ROOT_PARTITION}/{dir}"));
    process::output(
        env.command("diff").args(["-r", "--no-dereference"]).arg(&expected).arg(&restored),
    )?;
    println!("    diff -r with what debugfs dumps: equal; {}", seconds(took));
    Ok(())
}

fn debugfs(env: &BuildEnv, disk: &Disk, request: &str) -> Result<Vec<u8>> {
    process::output(env.command("debugfs").args(["-R", request]).arg(disk.root_in(&disk.path)))
}

/// The paths of `ls --json` entries, relative to the listed directory.
fn listed_names(said: &[u8], dir: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for line in String::from_utf8_lossy(said).lines() {
        let entry: Value = serde_json::from_str(line)?;
        if entry["type"] != "entry" {
            continue;
        }
        let path = entry["path"].as_str().context("an entry without a path")?;
        let path = path.trim_start_matches('/');
        let below = path.strip_prefix(dir).with_context(|| format!("{path} is not in {dir}"))?;
        let below = below.trim_start_matches('/');
        if !below.is_empty() {
            names.insert(below.to_owned());
        }
    }
    Ok(names)
}

fn names_below(dir: &Path, prefix: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = prefix.join(entry.file_name());
        names.insert(path.to_string_lossy().into_owned());
        if entry.file_type()?.is_dir() {
            names.append(&mut names_below(&entry.path(), &path)?);
        }
    }
    Ok(names)
}

fn largest_file(dir: &Path) -> Result<String> {
    let mut best: Option<(u64, String)> = None;
    for name in names_below(dir, Path::new(""))? {
        let metadata = fs::symlink_metadata(dir.join(&name))?;
        if metadata.is_file() && best.as_ref().is_none_or(|(len, _)| metadata.len() > *len) {
            best = Some((metadata.len(), name));
        }
    }
    Ok(best.context("no file to print")?.1)
}
