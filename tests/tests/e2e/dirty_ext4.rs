//! A file system that was in use when its disk was read: the journal holds what the blocks do not.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umbra_tests::images::{Mount, Noise};
use umbra_tests::json::{Answer, text};
use umbra_tests::listing::raw_path;
use umbra_tests::programs::{Home, Programs};
use umbra_tests::{is_root, must, skip};

/// Files that each writer makes before the copy is taken.
const FILES: u64 = 120;
const WRITERS: u64 = 3;

#[test]
fn a_disk_copied_while_written_to_lists_as_the_kernel_shows_it() -> Result<()> {
    let test = "dirty_ext4::a_disk_copied_while_written_to_lists_as_the_kernel_shows_it";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    if !is_root() {
        skip(test, "mounting needs root");
        return Ok(());
    }
    let home = Home::new(&programs)?;
    let dirty = make_dirty(&home)?;
    let superblock = String::from_utf8(must(Command::new("dumpe2fs").arg("-h").arg(&dirty))?)?;
    ensure!(superblock.contains("needs_recovery"), "the copy is clean, nothing would be tested");

    home.init_store()?;
    let backup = home.backup_with(&dirty, "d", &["--free", "keep"])?;
    let snapshot = text(&backup, "snapshot")?;
    let back = home.path("back.img");
    home.recover(snapshot, &back)?;
    umbra_tests::images::expect_equal(&dirty, &back)?;

    // The kernel replays the journal of a copy; what it then shows is the truth.
    let replayed = home.path("replayed.img");
    fs::copy(&dirty, &replayed)?;
    Mount::new(&replayed, &home.path("kernel"), "")?.unmount()?;
    let kernel = Mount::new(&replayed, &home.path("kernel"), "ro")?;
    let unreplayed = home.path("unreplayed.img");
    fs::copy(&dirty, &unreplayed)?;
    let raw = Mount::new(&unreplayed, &home.path("raw"), "ro,noload")?;
    ensure!(
        metadata_of(kernel.dir())? != metadata_of(raw.dir()).unwrap_or_default(),
        "the journal makes no difference, nothing would be tested"
    );
    let tree = home.path("tree");
    let mut restore = home.umbra();
    restore.args(["--json", "restore", snapshot, "--target"]).arg(&tree);
    Answer::of(&mut restore)?.expect_code(0)?;
    must(Command::new("diff").args(["-r", "--no-dereference"]).arg(kernel.dir()).arg(&tree))?;
    let (theirs, ours) = (metadata_of(kernel.dir())?, metadata_of(&tree)?);
    let different: Vec<&String> = theirs.symmetric_difference(&ours).take(6).collect();
    ensure!(different.is_empty(), "owners, modes or times differ: {different:#?}");
    same_listing(&home, snapshot, kernel.dir())
}

/// Mounts a fresh file system, lets writers that fsync work on it, and copies the image while it is still mounted.
///
/// The writers have stopped by then: a copy that takes a while is one state only while no new transaction is committed
/// (`commit=300` keeps the journal quiet). What they wrote last stands in the journal alone, which is what this is about.
fn make_dirty(home: &Home) -> Result<PathBuf> {
    let (live, dirty) = (home.path("live.img"), home.path("dirty.img"));
    File::create(&live)?.set_len(192 << 20)?;
    must(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&live))?;
    let mount = Mount::new(&live, &home.path("live"), "commit=300")?;
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (dir, is_over) = (writer_dir(&mount, number), &is_over);
                scope.spawn(move || write_files(&dir, Noise::new(seed + number), is_over))
            })
            .collect();
        let is_enough = || (0..WRITERS).all(|n| count(&writer_dir(&mount, n)) >= FILES);
        while !is_enough() && !writers.iter().any(|writer| writer.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        is_over.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        Ok(())
    })?;
    fs::copy(&live, &dirty)?;
    mount.unmount()?;
    Ok(dirty)
}

fn writer_dir(mount: &Mount, number: u64) -> PathBuf {
    mount.dir().join(format!("w{number}"))
}

fn count(dir: &Path) -> u64 {
    fs::read_dir(dir).map_or(0, |entries| entries.count().try_into().unwrap_or(u64::MAX))
}

fn write_files(dir: &Path, mut noise: Noise, is_over: &AtomicBool) -> Result<()> {
    fs::create_dir(dir)?;
    let mut number = 0_u64;
    while !is_over.load(Ordering::SeqCst) {
        let path = dir.join(format!("file-{number:05}"));
        let mut file = File::create(&path)?;
        let len = usize::try_from(noise.below(40_000))?;
        file.write_all(&noise.bytes(len))?;
        file.sync_all()?;
        if number % 5 == 4 {
            fs::rename(&path, dir.join(format!("renamed-{number:05}")))?;
        }
        if number % 7 == 6 {
            // The file may have been renamed away above.
            let _ = fs::remove_file(dir.join(format!("file-{:05}", number - 3)));
        }
        number += 1;
    }
    Ok(())
}

/// What find shows of every file, by path. A directory's size is the file system's own business.
fn metadata_of(dir: &Path) -> Result<BTreeSet<String>> {
    let mut find = Command::new("find");
    find.arg(dir).args(["-type", "d", "-printf", "%P %y %m %U %G %T@ %n\\0"]);
    find.args(["-o", "-printf", "%P %y %m %U %G %s %T@ %n %l\\0"]);
    let said = must(&mut find)?;
    Ok(said
        .split(|byte| *byte == 0)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect())
}

fn same_listing(home: &Home, snapshot: &str, kernel: &Path) -> Result<()> {
    let mut ls = home.umbra();
    ls.args(["--json", "ls", &format!("{snapshot}:/"), "-R"]);
    let entries = Answer::of(&mut ls)?.expect_code(0)?.of_type("entry")?;
    let mut ours = Vec::new();
    for entry in &entries {
        let path = raw_path(entry)?;
        if !path.is_empty() {
            ours.push((path, entry["inode"].as_u64().context("an inode number")?));
        }
    }
    ours.sort();
    let found =
        must(Command::new("find").arg(kernel).args(["-mindepth", "1", "-printf", "%i %P\\0"]))?;
    let mut theirs = Vec::new();
    for line in found.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let space = line.iter().position(|byte| *byte == b' ').context("find's line")?;
        let (inode, path) = line.split_at(space);
        theirs.push((path[1..].to_vec(), String::from_utf8(inode.to_vec())?.parse::<u64>()?));
    }
    theirs.sort();
    ensure!(theirs.len() > 200, "only {} entries: nothing was tested", theirs.len());
    ensure!(
        ours == theirs,
        "our listing has {} entries, the kernel's {}",
        ours.len(),
        theirs.len()
    );
    Ok(())
}
