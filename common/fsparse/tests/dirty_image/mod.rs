//! Makes dirty ext images: file systems copied while the kernel has them mounted.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;
use umbra_fsparse::{ByteLen, ByteOffset, ReadAt, ReadError};

/// What to make.
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    /// Arguments of mke2fs; the size is 64 MiB.
    pub(crate) mkfs: &'static [&'static str],
    /// Options of the mount that makes it dirty.
    pub(crate) mount: &'static str,
}

/// A file system copied while it was mounted.
pub(crate) struct Dirty {
    dir: TempDir,
    pub(crate) bytes: Vec<u8>,
}

impl Dirty {
    /// Writes the image to a file of its own.
    pub(crate) fn copy(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, &self.bytes).unwrap();
        path
    }
}

/// Says why such images cannot be made here.
pub(crate) fn skip_reason() -> Option<String> {
    // The owner of our own process directory is the user.
    if fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).ok() != Some(0) {
        return Some("not root".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no loop devices".into());
    }
    let missing = |name: &&str| Command::new(name).arg("-V").output().is_err();
    let programs = ["mke2fs", "debugfs", "e2fsck", "mount", "python3"];
    programs.into_iter().find(missing).map(|name| format!("no {name}"))
}

/// Makes a file system, lets writers work on it, and copies it in between.
///
/// `finish` is called when the writers have stopped and nothing was synced.
pub(crate) fn make(variant: &Variant, seed: u32, finish: impl FnOnce(&Mount)) -> Dirty {
    let dir = directory();
    let image = dir.path().join("live.img");
    let image_file = fs::File::create(&image).unwrap();
    image_file.set_len(64 << 20).unwrap();
    run(Command::new("mke2fs").arg("-q").args(variant.mkfs).arg(&image));
    let mount = Mount::new(&image, dir.path().join("live"), variant.mount);
    work(&mount, seed);
    // So far everything comes home; what follows stands in the journal alone.
    sync(&mount);
    work(&mount, seed + 1);
    finish(&mount);
    let bytes = fs::read(&image).unwrap();
    drop(mount);
    fs::remove_file(&image).unwrap();
    Dirty { dir, bytes }
}

/// Makes a directory in memory where there is room: each fsync of the writers costs a real one
/// elsewhere.
fn directory() -> TempDir {
    let memory = fs::metadata("/dev/shm").and_then(|_| TempDir::new_in("/dev/shm"));
    memory.or_else(|_| TempDir::new()).unwrap()
}

/// Lets three writers work for a while.
fn work(mount: &Mount, seed: u32) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dirty_image/workload.py");
    run(Command::new("python3").arg(script).arg(&mount.0).arg(format!("{seed}")));
}

/// Commits everything and writes it home.
pub(crate) fn sync(mount: &Mount) {
    run(Command::new("sync").arg("-f").arg(&mount.0));
}

/// A mounted image; unmounted when dropped.
pub(crate) struct Mount(pub(crate) PathBuf);

impl Mount {
    pub(crate) fn new(image: &Path, at: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        let options = format!("loop,{options}");
        run(Command::new("mount").args(["-t", "ext4", "-o"]).arg(options).arg(image).arg(&at));
        Self(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Nothing to do about a failure: the loop device stays, and the directory with it.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Runs a program that must succeed.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// An image in memory.
pub(crate) struct Image<'a>(pub(crate) &'a [u8]);

impl ReadAt for Image<'_> {
    fn len(&self) -> ByteLen {
        ReadAt::len(self.0)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_at(offset, buf)
    }
}
