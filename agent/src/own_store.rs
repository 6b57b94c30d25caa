//! The store's own disk is never a source or a target.
//!
//! A snapshot of the disk that its own vault is written to never holds still, and a recovery onto
//! it would destroy what it reads from. So everything that a local store lies on is found: the
//! device of its file system, the disk of a partition, the members of a mapped device, the image
//! file under a loop device, and what those lie on in turn.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};

use crate::connect::VaultUrl;
use crate::error::{Error, Result};
use crate::mounts::{FileId, Number, System, block_number};

/// How deep file systems on files on file systems are followed.
const DEPTH: u32 = 8;

/// A local store, and everything that it lies on.
#[derive(Debug, Default)]
pub struct OwnStore {
    dir: PathBuf,
    /// The store's directory and those in it, which may be links to elsewhere.
    dirs: BTreeSet<FileId>,
    devices: BTreeSet<Number>,
    /// Image files under it.
    images: BTreeSet<FileId>,
}

/// What a disk shall be to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is read.
    Source,
    /// It is written.
    Target,
}

impl OwnStore {
    /// Finds what the vault at `url` lies on; nothing where it is reached over a network.
    pub fn of(url: &VaultUrl, system: &System) -> Self {
        let VaultUrl::Embedded { dir } = url else { return Self::default() };
        let mut own = Self { dir: dir.clone(), ..Self::default() };
        let inside = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let inside = inside.map(|entry| entry.path()).filter(|path| path.is_dir());
        for dir in std::iter::once(dir.clone()).chain(inside) {
            own.dirs.extend(std::fs::metadata(&dir).ok().as_ref().map(FileId::of));
            own.lies_in(&dir, system, 0);
        }
        own
    }

    /// Refuses a block device (`st_rdev`) that the store lies on.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn refuse_device(&self, path: &Path, rdev: u64, role: Role, system: &System) -> Result<()> {
        let mut number = Number::of(rdev);
        for _ in 0..DEPTH {
            if self.devices.contains(&number) {
                return Err(self.refused(path, "lies on it", role));
            }
            // A loop device shows the bytes of what it is attached to.
            let Some(backing) = system.backing(number) else { return Ok(()) };
            match block_number(backing) {
                Some(below) => number = below,
                None => return self.refuse_file(path, backing, role),
            }
        }
        Ok(())
    }

    /// Refuses the file `file`, existing or not, that `path` stands for, where the store lies in
    /// it or it in the store.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn refuse_file(&self, path: &Path, file: &Path, role: Role) -> Result<()> {
        let metadata = std::fs::metadata(file);
        if metadata.as_ref().is_ok_and(|metadata| self.images.contains(&FileId::of(metadata))) {
            return Err(self.refused(path, "lies in it", role));
        }
        let real = file.canonicalize().or_else(|_| std::path::absolute(file));
        let real = real.unwrap_or_else(|_| file.into());
        let is_own = |metadata: Metadata| self.dirs.contains(&FileId::of(&metadata));
        if real.ancestors().skip(1).any(|dir| std::fs::metadata(dir).is_ok_and(is_own)) {
            return Err(self.refused(path, "has it in its own directory", role));
        }
        Ok(())
    }

    fn refused(&self, path: &Path, how: &str, role: Role) -> Error {
        let hint = match role {
            Role::Source => {
                "a vault never backs up its own disk: keep it on another disk or on the network, \
                 and name that with --vault"
            }
            Role::Target => "it would destroy what it reads from: recover to another disk",
        };
        Error::Refused {
            path: path.into(),
            reason: format!("the vault file://{} {how}", self.dir.display()),
            hint: hint.into(),
        }
    }

    /// Adds what the file system lies on that has `path`.
    fn lies_in(&mut self, path: &Path, system: &System, depth: u32) {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
        let Some(opened) = opened.ok().map(File::from).filter(|_| depth < DEPTH) else { return };
        let (devices, upper) = system.under(&opened);
        for number in devices {
            self.lies_on(number, system, depth);
        }
        if let Some(upper) = upper {
            self.lies_in(&upper, system, depth + 1);
        }
    }

    /// Adds a device and what it is made of.
    fn lies_on(&mut self, number: Number, system: &System, depth: u32) {
        if !self.devices.insert(number) {
            return;
        }
        for below in system.below(number) {
            self.lies_on(below, system, depth);
        }
        let Some(backing) = system.backing(number) else { return };
        match block_number(backing) {
            Some(below) => self.lies_on(below, system, depth),
            None => {
                self.images.extend(std::fs::metadata(backing).ok().as_ref().map(FileId::of));
                self.lies_in(backing, system, depth + 1);
            }
        }
    }
}
