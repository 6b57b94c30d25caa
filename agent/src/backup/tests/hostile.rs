//! Corrupted disks: none stops a backup, none comes back changed, parsing costs counted steps,
//! and no byte is given away that a file has or that another reader calls used.
//!
//! The damage is made from seeds (`damage`), with checksums made right where whoever forges a
//! file system would; what must hold is in `judge`. e2fsprogs' own broken images are judged too.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests print seeds and figures")]

mod damage;
mod disks;
mod judge;

use std::panic::{AssertUnwindSafe, catch_unwind};

use judge::Verdict;

use super::*;
use crate::fixture::Random;

/// Corrupted disks of each base in CI; `UMBRA_TEST_FULL` makes it more.
const FEW: u64 = 3;
const MANY: u64 = 16;

fn is_full() -> bool {
    std::env::var_os("UMBRA_TEST_FULL").is_some()
}

fn seed() -> u64 {
    let set = std::env::var("UMBRA_TEST_SEED").ok();
    set.map_or(0x686f_7374, |seed| seed.parse().unwrap())
}

/// Says that something was not tested here, and why, as the end-to-end tests do.
fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    let log = std::env::var_os("UMBRA_SKIP_LOG").map(std::path::PathBuf::from);
    if let Some(log) = log
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(log)
    {
        let _ = std::io::Write::write_all(&mut file, format!("{test}: {reason}\n").as_bytes());
    }
}

/// Judges one disk; a panic is a verdict, too.
fn judge(name: &str, bytes: &[u8], vault: &MemoryVault, failures: &mut Vec<String>) -> Verdict {
    let judged = catch_unwind(AssertUnwindSafe(|| judge::judge(bytes, vault)));
    let failure = match judged {
        Ok(Ok(verdict)) => return verdict,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
            format!("panicked: {}", text.unwrap_or_default())
        }
    };
    eprintln!("{name}: {failure}");
    if let Some(dir) = std::env::var_os("UMBRA_TEST_KEEP") {
        std::fs::write(std::path::Path::new(&dir).join(name.replace(' ', "-")), bytes).unwrap();
    }
    failures.push(format!("{name}: {failure}"));
    Verdict::default()
}

#[test]
fn corrupted_disks_come_back_within_the_step_budget() {
    let test = "backup::hostile::corrupted_disks_come_back_within_the_step_budget";
    let (seed, each) = (seed(), if is_full() { MANY } else { FEW });
    println!("UMBRA_TEST_SEED={seed}");
    let only = std::env::var("UMBRA_TEST_ONLY").ok();
    let (mut failures, mut all) = (Vec::new(), Verdict::default());
    for base in disks::bases(|reason| skip(test, reason)) {
        let vault = MemoryVault::default();
        let bytes = base.read();
        let plan = damage::Plan::of(&bytes);
        for number in 0..each {
            let mut random = Random::new(seed ^ number << 32 ^ base.number);
            let (damaged, what) = plan.damage(&bytes, &mut random);
            let name = format!("{} {number} {what}", base.name);
            if only.as_ref().is_none_or(|only| name.starts_with(only)) {
                all.add(&judge(&name, &damaged, &vault, &mut failures));
            }
        }
        println!("{}: {all}", base.name);
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    // Damage that nothing gets past would test nothing.
    assert!(only.is_some() || all.volumes_with_files * 3 > all.disks, "{all}");
    assert!(only.is_some() || all.disks >= 7 * each, "{all}");
}

#[test]
fn the_broken_images_of_e2fsprogs_come_back_within_the_step_budget() {
    let test = "backup::hostile::the_broken_images_of_e2fsprogs_come_back_within_the_step_budget";
    let Some(images) = disks::of_e2fsprogs(|reason| skip(test, reason)) else { return };
    let step = if is_full() { 1 } else { 4 };
    let (mut failures, mut all) = (Vec::new(), Verdict::default());
    let vault = MemoryVault::default();
    for (name, bytes) in images.iter().step_by(step) {
        all.add(&judge(name, bytes, &vault, &mut failures));
    }
    println!("e2fsprogs: {all}");
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(all.disks * step as u64 > 150, "{all}");
}
