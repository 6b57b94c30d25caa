//! A disk whose files lie in many pieces and in another order.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;

use anyhow::Result;

use super::noise::shuffle;
use super::{Disk, System};
use crate::process;

/// Size of the files that are written and removed to leave holes.
const FILLER_BYTES: u64 = 96 << 10;
const FILLERS_PER_DIR: u64 = 200;

impl System<'_> {
    /// The second machine's disk: full of small files of which every other one was removed, then the same files in
    /// another order in what was left, then the rest of the small files removed.
    ///
    /// # Errors
    /// When a tool fails.
    pub(crate) fn fragmented_disk(&self, name: &str) -> Result<Disk> {
        let root_bytes = self.tree_bytes * 3 + (64 << 20);
        let options = ["-i", "8192", "-O", "^flex_bg,^resize_inode"];
        let disk = self.maker.make(name, root_bytes, None, &options)?;
        let filler = self.maker.place.join("filler");
        File::create(&filler)?.write_all(&vec![b'f'; usize::try_from(FILLER_BYTES)?])?;
        // As many as fit beside the file system's own structures; the last ones fail, which is what fills the disk.
        let fillers = root_bytes / FILLER_BYTES;
        let mut script = String::new();
        for number in 0..fillers {
            if number % FILLERS_PER_DIR == 0 {
                writeln!(script, "mkdir /fill{}", number / FILLERS_PER_DIR)?;
            }
            writeln!(script, "write {} {}", filler.display(), filler_path(number))?;
        }
        for number in (0..fillers).step_by(2) {
            writeln!(script, "rm {}", filler_path(number))?;
        }
        self.copy_in_another_order(&mut script)?;
        for number in (1..fillers).step_by(2) {
            writeln!(script, "rm {}", filler_path(number))?;
        }
        for number in 0..fillers.div_ceil(FILLERS_PER_DIR) {
            writeln!(script, "rmdir /fill{number}")?;
        }
        self.maker.debugfs(&disk, &script)?;
        Ok(disk)
    }

    /// Requests that copy the tree: directories first, everything else shuffled (always the same way).
    fn copy_in_another_order(&self, script: &mut String) -> Result<()> {
        let listed = process::output(self.maker.env.command("find").arg(&self.tree).args([
            "-mindepth",
            "1",
            "-printf",
            "%y%P\\0",
        ]))?;
        let mut dirs = Vec::new();
        let mut others = Vec::new();
        for item in listed.split(|byte| *byte == 0).filter(|item| !item.is_empty()) {
            // debugfs reads words between quotes; a name that it cannot be told is left out.
            let Ok(item) = std::str::from_utf8(item) else { continue };
            if item.contains(['"', '\n']) {
                continue;
            }
            match item.split_at(1) {
                ("d", path) => dirs.push(path),
                other => others.push(other),
            }
        }
        dirs.sort_unstable();
        shuffle(&mut others);
        for dir in dirs {
            writeln!(script, "mkdir \"/{dir}\"")?;
        }
        for (kind, path) in others {
            let source = self.tree.join(path);
            match kind {
                "f" if File::open(&source).is_ok() => {
                    writeln!(script, "write \"{}\" \"/{path}\"", source.display())?;
                }
                "l" => {
                    let target = fs::read_link(&source)?;
                    writeln!(script, "symlink \"/{path}\" \"{}\"", target.display())?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn filler_path(number: u64) -> String {
    format!("/fill{}/{number}", number / FILLERS_PER_DIR)
}
