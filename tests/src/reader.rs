//! The independent reader `docs/formats/read_store.py`, and stores that it is tried on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::json::Answer;
use crate::{python, skip};

/// The reader, on one store.
#[derive(Clone, Debug)]
pub struct Reader {
    store: PathBuf,
}

impl Reader {
    /// A reader of a store; without Python's modules the test is skipped.
    pub fn find(test: &str, store: &Path) -> Option<Self> {
        let imports = ["-c", "import blake3, zstandard"];
        if !python().args(imports).output().is_ok_and(|output| output.status.success()) {
            skip(test, "Python has no modules blake3 and zstandard; run cargo xtask setup");
            return None;
        }
        Some(Self { store: store.to_owned() })
    }

    /// The reader with a command, `list`, `recover` or `cat`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = python();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats/read_store.py");
        // The C locale of a rescue system must do for names that are not ASCII.
        command.arg(script).arg(&self.store).args(arguments).env("LC_ALL", "C");
        command
    }

    /// What a command answers.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Answer> {
        Answer::of(&mut self.command(arguments))
    }

    /// The lines of `list`, cut into words.
    ///
    /// # Errors
    /// When it finds damage.
    pub fn list(&self) -> Result<Vec<Vec<String>>> {
        let said = String::from_utf8(self.run(&["list"])?.expect_code(0)?.stdout)?;
        Ok(said.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect())
    }

    /// The content of a file.
    ///
    /// # Errors
    /// When it is not found or not proven.
    pub fn cat(&self, snapshot: &str, path: &str) -> Result<Vec<u8>> {
        Ok(self.run(&["cat", snapshot, path])?.expect_code(0)?.stdout)
    }

    /// Writes the disk of a snapshot into a new file.
    ///
    /// # Errors
    /// When it is not found or not proven.
    pub fn recover(&self, snapshot: &str, to: &Path) -> Result<()> {
        let to = to.to_str().context("the path of the target is not text")?;
        self.run(&["recover", snapshot, to])?.expect_code(0)?;
        Ok(())
    }
}

/// Copies a directory with what is below it.
///
/// # Errors
/// When something in it cannot be read, or the copy cannot be written.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_tree(&path, &copy)?;
        } else {
            fs::copy(&path, &copy).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// The packs of a store, in the order of their paths.
///
/// # Errors
/// When the directories cannot be read.
pub fn packs(store: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for part in fs::read_dir(store.join("packs"))? {
        for pack in fs::read_dir(part?.path())? {
            let path = pack?.path();
            // Not what stands beside one.
            if path.extension().is_none() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
