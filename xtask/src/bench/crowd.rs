//! A disk with a million files.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::shelf::remove;
use crate::disks::{Disk, Maker, Numbers, noise, write_noise};
use crate::transcript::timed;

const DIRS: u64 = 1000;
const FILES_IN_EACH: u64 = 1000;
const ROOT_BYTES: u64 = 6 << 30;
/// So many inodes as there are files, and some.
const INODES: &str = "1100000";
/// The one large file.
pub(super) const LETTER: &str = "d500/letter";
const LETTER_BYTES: u64 = 1 << 20;
const LETTER_SEED: u64 = 77;

/// Makes it: a thousand directories with a thousand files of 200 to 4 000 bytes each, all different.
///
/// # Errors
/// When a tool fails.
pub(super) fn make(maker: &Maker<'_>, name: &str) -> Result<Disk> {
    let tree = maker.place.join("crowd");
    timed("a million files", || fill(&tree))?;
    let disk = maker.make(name, ROOT_BYTES, Some(&tree), &["-N", INODES])?;
    remove(&tree)?;
    Ok(disk)
}

/// What the large file holds.
pub(super) fn letter() -> Vec<u8> {
    noise(&mut Numbers(LETTER_SEED << 32), LETTER_BYTES)
}

fn fill(tree: &Path) -> Result<()> {
    let mut numbers = Numbers(3);
    for dir in 0..DIRS {
        let dir = tree.join(format!("d{dir}"));
        fs::create_dir_all(&dir)?;
        for file in 0..FILES_IN_EACH {
            let len = 200 + numbers.next() % 3801;
            fs::write(dir.join(format!("f{file}")), noise(&mut numbers, len))?;
        }
    }
    write_noise(&tree.join(LETTER), LETTER_BYTES, LETTER_SEED)
}
