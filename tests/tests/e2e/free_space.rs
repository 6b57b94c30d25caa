//! Free space is left out by default, and nothing that another program calls used goes with it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umbra_tests::corpus::Corpus;
use umbra_tests::images::{Noise, expect_equal, make_ext4, write_noise};
use umbra_tests::json::{Answer, number, text};
use umbra_tests::must;
use umbra_tests::programs::{Home, Programs};

/// partclone's list of what each image uses is the judge: those bytes come back, and where it has
/// no list, or the volume is no ext, all do.
#[test]
fn what_partclone_calls_used_comes_back() -> Result<()> {
    let test = "free_space::what_partclone_calls_used_comes_back";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let Some(corpus) = Corpus::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let mut judged = 0;
    let mut failures = Vec::new();
    for name in corpus.names()? {
        match comes_back(&home, &corpus, &name) {
            Ok(was_judged) => judged += usize::from(was_judged),
            Err(error) => failures.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(failures.is_empty(), "{} images failed:\n{}", failures.len(), failures.join("\n"));
    ensure!(judged >= 6, "only {judged} images have a list of what is used");
    Ok(())
}

/// Backs one image up, recovers it and compares; true where partclone's list was the judge.
fn comes_back(home: &Home, corpus: &Corpus, name: &str) -> Result<bool> {
    let image = corpus.image(name)?;
    let backup = home.backup(&image, name)?;
    let back = home.path(&format!("{name}.img"));
    let recover = home.recover(text(&backup, "snapshot")?, &back)?;
    ensure!(recover["verified"] == true, "recover did not verify");
    let free = number(&backup, "bytes_free")?;
    if free == 0 {
        expect_equal(&image, &back)?;
        fs::remove_file(back)?;
        return Ok(false);
    }
    let used = used_ranges(&corpus.meta(name)?);
    let (before, after) = (fs::read(&image)?, fs::read(&back)?);
    ensure!(before.len() == after.len(), "the lengths differ");
    for &(start, len) in &used {
        let part = start..start + len;
        ensure!(before[part.clone()] == after[part], "bytes {start}..{} differ", start + len);
    }
    let differ = before.iter().zip(&after).filter(|(before, after)| before != after);
    let lost = differ.clone().filter(|(_, after)| **after != 0).count();
    ensure!(lost == 0, "{lost} bytes became something else than zeros");
    ensure!(differ.count() as u64 <= free, "more bytes differ than are free");
    // The snapshot agrees with the disk that it was made of, whatever stands in its free space.
    let mut verify = home.umbra();
    let snapshot = text(&backup, "snapshot")?;
    verify.args(["--json", "verify", snapshot, "--against"]).arg(&image);
    Answer::of(&mut verify)?.expect_code(0)?;
    fs::remove_file(back)?;
    Ok(!used.is_empty())
}

/// Returns partclone's list: first byte and length.
fn used_ranges(meta: &Value) -> Vec<(usize, usize)> {
    let ranges = meta["alloc"]["used"].as_array().cloned().unwrap_or_default();
    let number = |range: &Value, at: usize| usize::try_from(range[at].as_u64()?).ok();
    ranges.iter().filter_map(|range| Some((number(range, 0)?, number(range, 1)?))).collect()
}

/// What was deleted costs nothing, is not there afterwards, and is kept on request.
#[test]
fn deleted_files_are_left_out_unless_asked_for() -> Result<()> {
    let test = "free_space::deleted_files_are_left_out_unless_asked_for";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let tree = home.path("tree");
    fs::create_dir(&tree)?;
    let mut noise = Noise::new(11);
    for name in ["kept", "gone"] {
        write_noise(&tree.join(name), 8 << 20, &mut noise)?;
    }
    let image = home.path("disk.img");
    make_ext4(&image, 48 << 20, &tree, &[])?;
    must(Command::new("debugfs").args(["-w", "-R", "rm gone"]).arg(&image))?;

    let skipped = home.backup(&image, "skip")?;
    ensure!(number(&skipped, "bytes_free")? > 30 << 20, "{skipped}");
    ensure!(number(&skipped, "bytes_new")? < 10 << 20, "{skipped}");
    let back = home.path("back.img");
    home.recover(text(&skipped, "snapshot")?, &back)?;
    must(Command::new("e2fsck").args(["-f", "-n"]).arg(&back))?;
    let dumped = must(Command::new("debugfs").args(["-R", "cat kept"]).arg(&back))?;
    ensure!(dumped == fs::read(tree.join("kept"))?, "the file that is there changed");
    let gone = fs::read(tree.join("gone"))?;
    let piece = &gone[1 << 20..(1 << 20) + 4096];
    ensure!(!fs::read(&back)?.chunks(4096).any(|block| block == piece), "deleted and kept");

    let kept = home.backup_with(&image, "keep", &["--free", "keep"])?;
    ensure!(number(&kept, "bytes_free")? == 0, "{kept}");
    ensure!(number(&kept, "bytes_new")? > 7 << 20, "{kept}");
    let whole = home.path("whole.img");
    home.recover(text(&kept, "snapshot")?, &whole)?;
    expect_equal(&image, &whole)?;

    for (snapshot, free) in [(&skipped, "skip"), (&kept, "keep")] {
        let mut show = home.umbra();
        show.args(["--json", "show", text(snapshot, "snapshot")?]);
        let shown = Answer::of(&mut show)?.expect_code(0)?.summary()?;
        ensure!(text(&shown, "free")? == free, "{shown}");
        let bytes = number(&shown, "bytes_free")?;
        ensure!(bytes == number(snapshot, "bytes_free").context("summary")?, "{shown}");
    }
    Ok(())
}
