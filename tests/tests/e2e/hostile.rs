//! Corrupted disks through the programs: exit code 0, since nothing is unreadable, and the disk
//! comes back. The hundreds that are made with more care are judged inside the agent's own tests.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use umbra_tests::corpus::Corpus;
use umbra_tests::images::{Noise, expect_equal};
use umbra_tests::is_full;
use umbra_tests::json::{Answer, text};
use umbra_tests::programs::{Home, Programs};

/// Most of what describes a file system or a disk of the corpus stands in its first bytes.
const HEAD_BYTES: u64 = 2 << 20;
const SEED: u64 = 0x0bad_d15c;

#[test]
fn a_corrupted_disk_is_backed_up_and_comes_back() -> Result<()> {
    let test = "hostile::a_corrupted_disk_is_backed_up_and_comes_back";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let Some(corpus) = Corpus::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let names = corpus.names()?;
    let wanted = |name: &&String| ["ext", "h-ext", "disk-"].iter().any(|s| name.starts_with(s));
    let rounds = if is_full() { 6 } else { 1 };
    let step = if is_full() { 1 } else { 3 };
    for name in names.iter().filter(wanted).step_by(step) {
        for round in 0..rounds {
            let seed = SEED + round;
            comes_back(&home, &corpus.image(name)?, seed)
                .with_context(|| format!("{name}, seed {seed:#x}"))?;
        }
    }
    Ok(())
}

/// Damages a copy of the image, backs it up with and without its free space, and recovers both.
fn comes_back(home: &Home, image: &Path, seed: u64) -> Result<()> {
    let mut noise = Noise::new(seed);
    let mut bytes = fs::read(image)?;
    for _ in 0..200 {
        let at = usize::try_from(noise.below(HEAD_BYTES.min(bytes.len() as u64)))?;
        // Neither the superblock nor the tables of partitions: with those gone nothing is parsed.
        if !(0..2048).contains(&(at % (1 << 20))) {
            bytes[at] = noise.bytes(1)[0];
        }
    }
    if noise.below(3) == 0 {
        let len = bytes.len() as u64;
        bytes.truncate(usize::try_from(len / 2 + noise.below(len / 2))?);
    }
    let damaged = home.path("damaged.img");
    fs::write(&damaged, &bytes)?;
    let back = home.path("back.img");
    for free in ["keep", "skip"] {
        let backup = home.backup_with(&damaged, &format!("d-{free}"), &["--free", free])?;
        let snapshot = text(&backup, "snapshot")?;
        let recover = home.recover(snapshot, &back)?;
        ensure!(recover["verified"] == true, "recover did not verify: {recover}");
        if free == "keep" {
            expect_equal(&damaged, &back)?;
        }
        let mut verify = home.umbra();
        verify.args(["--json", "verify", snapshot, "--against"]).arg(&damaged);
        Answer::of(&mut verify)?.expect_code(0)?;
        fs::remove_file(&back)?;
    }
    Ok(())
}
