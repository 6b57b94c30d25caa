//! The kernel as a witness: an image mounted through a loop device, and what it then shows.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use umbra_fsparse::ByteRange;

use crate::run;

/// The programs that mounting and asking need.
const PROGRAMS: &[&str] = &["mke2fs", "debugfs", "e2fsck", "mount", "losetup", "python3"];
const SCRIPT: &str = include_str!("kernel_tree.py");

/// Says why nothing can be mounted here.
pub fn skip_reason() -> Option<String> {
    // The owner of our own process directory is the user.
    let user = fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    if user.ok() != Some(0) {
        return Some("mounting needs root".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices".into());
    }
    let missing = |name: &&&str| Command::new(name).arg("-V").output().is_err();
    PROGRAMS.iter().find(missing).map(|name| format!("there is no program {name}"))
}

/// A mounted image; unmounted, and its loop device freed, when dropped.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
}

impl Mount {
    /// Mounts the ext file system in a range of an image, or that of the whole image.
    ///
    /// With `ro` among the options the device stays writable, so that the kernel replays a
    /// journal and nothing else is written: the image must be a copy.
    ///
    /// # Errors
    /// When the kernel refuses, with what it says of it.
    pub fn new(image: &Path, range: Option<ByteRange>, at: PathBuf, options: &str) -> Result<Self> {
        fs::create_dir_all(&at).with_context(|| format!("cannot make {}", at.display()))?;
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show"]);
        if let Some(range) = range {
            attach.arg(format!("--offset={}", range.start().0));
            attach.arg(format!("--sizelimit={}", range.len().0));
        }
        let attached = run(attach.arg(image))?;
        let device = String::from_utf8_lossy(&attached.stdout).trim().to_owned();
        let mounted =
            run(Command::new("mount").args(["-t", "ext4", "-o", options]).args([&device]).arg(&at));
        // Frees it now, or when the mount ends.
        let freed = run(Command::new("losetup").args(["-d", &device]));
        let context = || refusal(&device);
        mounted.with_context(context)?;
        let mount = Self { dir: at };
        freed?;
        Ok(mount)
    }

    /// Returns the directory where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Commits everything and writes it home.
    ///
    /// # Errors
    /// When the kernel does not.
    pub fn sync(&self) -> Result<()> {
        run(Command::new("sync").arg("-f").arg(&self.dir)).map(|_| ())
    }

    /// Returns what the kernel says of the tree, as a manifest.
    ///
    /// # Errors
    /// When the script fails; what the kernel refuses to read is a line of the manifest.
    pub fn manifest(&self) -> Result<Vec<Value>> {
        let output = run(Command::new("python3").args(["-c", SCRIPT]).arg(&self.dir))?;
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().map(serde_json::from_str);
        Ok(lines.collect::<Result<_, _>>()?)
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// When it is in use.
    pub fn unmount(self) -> Result<()> {
        let unmounted = Command::new("umount").arg(&self.dir).output()?;
        let dir = self.dir.clone();
        std::mem::forget(self);
        if !unmounted.status.success() {
            bail!("umount {}: {}", dir.display(), String::from_utf8_lossy(&unmounted.stderr));
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Nothing to do about a failure: the loop device stays, and the directory with it.
        let _ = Command::new("umount").arg(&self.dir).status();
    }
}

/// Returns the kernel's own words about a device that it did not mount.
fn refusal(device: &str) -> String {
    let name = device.trim_start_matches("/dev/");
    let said = Command::new("dmesg").output().map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    let mark = format!("EXT4-fs ({name}): ");
    let last = said.lines().rev().find_map(|line| line.split_once(&mark));
    match last {
        Some((_, words)) => format!("the kernel does not mount it: {words}"),
        None => "the kernel does not mount it".into(),
    }
}
