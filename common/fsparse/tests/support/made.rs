//! Images made by e2fsprogs without root.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use super::Image;

/// Tells whether e2fsprogs is there, and says so where it is not.
pub fn tools() -> bool {
    let missing = ["mke2fs", "debugfs"]
        .into_iter()
        .find(|name| Command::new(name).arg("-V").stderr(Stdio::null()).status().is_err());
    if let Some(name) = missing {
        println!("SKIPPED: no {name}");
    }
    missing.is_none()
}

/// Runs a program that must succeed.
pub fn run(command: &mut Command) -> Output {
    umbra_walkdiff::run(command).unwrap()
}

/// Returns bytes that repeat nowhere and hold no zero.
pub fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u8 | 1
    };
    (0..len).map(|_| next()).collect()
}

/// An image in a directory of its own, beside the tree that it was made from.
pub struct Made {
    pub dir: TempDir,
    path: PathBuf,
}

impl Made {
    /// Makes an image of that size ("64M") of the tree that `tree` writes.
    pub fn new(mkfs: &[&str], size: &str, tree: impl FnOnce(&Path)) -> Self {
        let dir = TempDir::new().unwrap();
        let source = dir.path().join("tree");
        fs::create_dir(&source).unwrap();
        tree(&source);
        let path = dir.path().join("image");
        let output = Command::new("mke2fs")
            .args(["-q", "-F"])
            .args(mkfs)
            .arg("-d")
            .arg(&source)
            .arg(&path)
            .arg(size)
            .output()
            .unwrap();
        assert!(output.status.success(), "{mkfs:?}: {output:?}");
        Self { dir, path }
    }

    /// Lets debugfs do the commands, one a line, and returns what it printed.
    pub fn debugfs(&self, commands: &str) -> String {
        let mut child = Command::new("debugfs")
            .args(["-w", "-f", "-"])
            .arg(&self.path)
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Reads the image.
    pub fn image(&self) -> Image {
        Image(fs::read(&self.path).unwrap())
    }
}
