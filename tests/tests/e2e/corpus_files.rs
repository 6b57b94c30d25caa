//! Listing, restored tree and extents of every ext volume of the corpus agree with the kernel's, as the manifests hold them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umbra_tests::corpus::{Corpus, write_lines};
use umbra_tests::json::{Answer, text};
use umbra_tests::listing::{Frame, normalise_manifest, raw_path, to_manifest_lines};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::{is_root, must, skip};

/// File systems as they are made, without a partition table.
const BARE: &[&str] = &["ext3-indirect", "ext4-1k", "ext4-default-4k", "ext4-nojournal-128inode"];

/// Disks with partitions; FAT, NTFS, swap and opaque partitions are left out by the name that the meta file gives them.
const DISKS: &[&str] = &["disk-gpt-512", "disk-gpt-4096", "disk-mbr-extended", "disk-grub-bios"];
const LEFT_OUT: &[&str] = &["fat", "ntfs", "swap", "opaque"];

/// Fields of a listing that are compared; content is compared by the sha256 of the restored files.
const LISTING_FIELDS: &str =
    "type,size,sha256,mode,uid,gid,mtime_ns,ctime_ns,target,rdev,xattrs,nlink,ino,extents,links";

struct Volume {
    /// As CLI.md names it in `SNAP:PATH` and in restored trees; empty for a bare file system.
    place: String,
    partition: Option<u64>,
    offset: u64,
}

#[test]
fn bare_file_systems_agree_with_the_kernel() -> Result<()> {
    each_agrees("corpus_files::bare_file_systems_agree_with_the_kernel", BARE)
}

#[test]
fn partitions_agree_with_the_kernel() -> Result<()> {
    each_agrees("corpus_files::partitions_agree_with_the_kernel", DISKS)
}

fn each_agrees(test: &str, names: &[&str]) -> Result<()> {
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let Some(corpus) = Corpus::find(test) else { return Ok(()) };
    if !is_root() {
        skip(test, "owners and trusted xattrs of restored files need root; only listings compared");
    }
    let home = Home::new(&programs)?;
    home.init_store()?;
    let mut failures = Vec::new();
    for name in names {
        if let Err(error) = image_agrees(&home, &corpus, name) {
            failures.push(format!("{name}: {error:#}"));
        }
    }
    ensure!(failures.is_empty(), "{} images failed:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

fn image_agrees(home: &Home, corpus: &Corpus, name: &str) -> Result<()> {
    let backup = home.backup(&corpus.image(name)?, name)?;
    let snapshot = text(&backup, "snapshot")?;
    let manifest = corpus.manifest(name)?;
    let volumes = ext_volumes(&corpus.meta(name)?)?;
    ensure!(!volumes.is_empty(), "no ext volume to compare");
    let tree = home.path(&format!("tree-{name}"));
    let mut restore = home.umbra();
    restore.args(["--json", "restore", snapshot, "--target"]).arg(&tree);
    Answer::of(&mut restore)?.expect_code(0)?;
    for volume in &volumes {
        let tree = match volumes_in_tree(&tree, volume) {
            dir if dir.is_dir() => dir,
            dir => anyhow::bail!("restore made no {}", dir.display()),
        };
        volume_agrees(home, corpus, &manifest, snapshot, volume, &tree)
            .with_context(|| format!("volume {:?}", volume.place))?;
    }
    Ok(())
}

fn volumes_in_tree(tree: &Path, volume: &Volume) -> PathBuf {
    // A disk with one file system restores without `part/N`.
    let with_place = tree.join(&volume.place);
    if with_place.is_dir() { with_place } else { tree.to_owned() }
}

fn ext_volumes(meta: &Value) -> Result<Vec<Volume>> {
    let Some(partitions) = meta["partitions"].as_array() else {
        return Ok(vec![Volume { place: String::new(), partition: None, offset: 0 }]);
    };
    let mut volumes = Vec::new();
    for partition in partitions {
        let content = partition["content"].as_str().context("a partition's content")?;
        if LEFT_OUT.contains(&content) {
            continue;
        }
        ensure!(content.starts_with("ext"), "a partition of unknown content {content:?}");
        let number = partition["index"].as_u64().context("a partition's number")?;
        let offset = partition["offset"].as_u64().context("a partition's offset")?;
        volumes.push(Volume { place: format!("part/{number}"), partition: Some(number), offset });
    }
    Ok(volumes)
}

fn volume_agrees(
    home: &Home,
    corpus: &Corpus,
    manifest: &[Value],
    snapshot: &str,
    volume: &Volume,
    tree: &Path,
) -> Result<()> {
    let (lines, extents) = normalise_manifest(manifest, volume.partition)?;
    ensure!(extents > 0, "the manifest has no extents: nothing would be compared");
    let manifest_path = home.path("manifest.jsonl");
    write_lines(&manifest_path, &lines)?;

    let prefix = volume.partition.map_or(String::new(), |number| format!("p{number}"));
    let entries = listing(home, snapshot, volume)?;
    let frame = Frame {
        partition_offset: volume.offset,
        path_prefix: &prefix,
        block_size: block_size(&lines),
    };
    let sums = sha256_of_tree(tree)?;
    let ours = to_manifest_lines(&entries, frame, |path| {
        sums.get(path).cloned().context("listed and not restored")
    })?;
    let ours_path = home.path("listing.jsonl");
    write_lines(&ours_path, &ours)?;
    let listed = ours_path.to_string_lossy().into_owned();
    let mut arguments = vec!["--listing", &listed, "--fields", LISTING_FIELDS];
    let root_is_listed = entries.iter().any(|entry| raw_path(entry).is_ok_and(|p| p.is_empty()));
    if !root_is_listed {
        // `ls -R` lists what is below the root; the restored tree's comparison covers the root itself.
        arguments.extend(["--ignore-path", &prefix]);
    }
    corpus.verify(&manifest_path, &arguments).context("listing")?;
    let compared =
        ours.iter().filter_map(|line| line["extents"].as_array()).map(Vec::len).sum::<usize>();
    ensure!(compared > 0, "no extents were compared");
    if is_root() {
        let bare: Vec<Value> = lines.iter().map(|line| without_prefix(line, &prefix)).collect();
        let bare_path = home.path("manifest-bare.jsonl");
        write_lines(&bare_path, &bare)?;
        let tree = tree.to_string_lossy().into_owned();
        corpus.verify(&bare_path, &["--tree", &tree]).context("restored tree")?;
    }
    Ok(())
}

fn listing(home: &Home, snapshot: &str, volume: &Volume) -> Result<Vec<Value>> {
    let place = match volume.place.is_empty() {
        true => format!("{snapshot}:/"),
        false => format!("{snapshot}:{}/", volume.place),
    };
    let mut ls = home.umbra();
    ls.args(["--json", "ls", &place, "-l", "-R", "--extents"]);
    Answer::of(&mut ls)?.expect_code(0)?.of_type("entry")
}

/// The block size shows in the oracle's own extents: the largest power of two that divides all of them, 64 KiB at most.
fn block_size(lines: &[Value]) -> u64 {
    let mut bits: u64 = 64 << 10;
    for line in lines {
        for extent in line["extents"].as_array().into_iter().flatten() {
            bits |= extent[1].as_u64().unwrap_or(0) | extent[2].as_u64().unwrap_or(0);
        }
    }
    1 << bits.trailing_zeros()
}

fn without_prefix(line: &Value, prefix: &str) -> Value {
    let mut line = line.clone();
    if let Some(path) = line["path"].as_str() {
        let rest = path.strip_prefix(prefix).unwrap_or(path).trim_start_matches('/').to_owned();
        line["path"] = rest.into();
    }
    line
}

/// sha256 of every regular file below a directory, by its path as raw bytes. `sha256sum` is the witness.
fn sha256_of_tree(tree: &Path) -> Result<BTreeMap<Vec<u8>, String>> {
    let found = must(Command::new("find").arg(tree).args(["-type", "f", "-printf", "%P\\0"]))?;
    let mut sums = BTreeMap::new();
    for path in found.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
        let full = tree.join(OsStr::from_bytes(path));
        let said = must(Command::new("sha256sum").arg("--zero").arg(full))?;
        let sum = said.get(..64).context("sha256sum printed no sum")?;
        sums.insert(path.to_vec(), String::from_utf8(sum.to_vec())?);
    }
    Ok(sums)
}
