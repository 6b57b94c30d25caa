//! The file system of the kernel.
//!
//! No name is followed through a symlink: root may open a store that is somebody else's, and what
//! that user puts in the place of `LOCK` or `tmp/` must not be written or emptied elsewhere.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Access, Space, Vfs, VfsFile, parent};

/// A directory of the kernel's file systems.
#[derive(Debug)]
pub struct RealVfs {
    root: PathBuf,
}

/// Returns the last part of a name.
fn last(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}

impl RealVfs {
    /// Stands for the directory `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens a directory as a place for names, part by part.
    fn dir(&self, dir: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut found = rustix::fs::open(&self.root, flags, Mode::empty())?;
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            found = rustix::fs::openat(&found, part, flags | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(found)
    }

    /// Opens a directory to be read or synced.
    fn readable_dir(&self, dir: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.dir(dir)?, ".", flags, Mode::empty())?)
    }

    fn file(&self, path: &str, flags: OFlags) -> io::Result<Arc<dyn VfsFile>> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o640);
        let file = rustix::fs::openat(self.dir(parent(path))?, last(path), flags, mode)?;
        Ok(Arc::new(RealFile { file: File::from(file) }))
    }
}

impl Vfs for RealVfs {
    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn VfsFile>> {
        match access {
            Access::Read => self.file(path, OFlags::RDONLY),
            Access::Write => self.file(path, OFlags::RDWR),
        }
    }

    fn create_new(&self, path: &str) -> io::Result<Arc<dyn VfsFile>> {
        self.file(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::new(self.readable_dir(dir)?)? {
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn mkdir(&self, dir: &str) -> io::Result<bool> {
        if dir.is_empty() {
            match DirBuilder::new().mode(0o750).create(&self.root) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                other => other?,
            }
            // Nobody else can sync the name of the store's own directory.
            let above = self.root.parent().filter(|above| !above.as_os_str().is_empty());
            File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
            return Ok(true);
        }
        let mode = Mode::from_raw_mode(0o750);
        match rustix::fs::mkdirat(self.dir(parent(dir))?, last(dir), mode) {
            // It must be a directory, not a symlink to one.
            Err(Errno::EXIST) => self.dir(dir).map(|_| false),
            other => Ok(other.map(|()| true)?),
        }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.readable_dir(dir)?)?)
    }

    fn rename_no_replace(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_dir, to_dir) = (self.dir(parent(from))?, self.dir(parent(to))?);
        let (from, to) = (last(from), last(to));
        match rustix::fs::renameat_with(&from_dir, from, &to_dir, to, RenameFlags::NOREPLACE) {
            // A file system without the flag (NFS, some FUSE): a second name never replaces.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(&from_dir, from, &to_dir, to, AtFlags::empty())?;
                Ok(rustix::fs::unlinkat(&from_dir, from, AtFlags::empty())?)
            }
            other => Ok(other?),
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.dir(parent(path))?, last(path), AtFlags::empty())?)
    }

    fn reserve(&self, path: &str, len: u64) -> io::Result<bool> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o640);
        let file = rustix::fs::openat(self.dir(parent(path))?, last(path), flags, mode)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(true),
            Err(error) => {
                // Some of it may have been had.
                self.remove(path)?;
                match error {
                    Errno::OPNOTSUPP | Errno::NOSYS => Ok(false),
                    other => Err(other.into()),
                }
            }
        }
    }

    fn space(&self) -> io::Result<Space> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok(Space {
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
}

impl VfsFile for RealFile {
    fn pread(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn pwrite(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn try_lock(&self) -> io::Result<bool> {
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let vfs = RealVfs::new(dir.path());
        vfs.create_new("a").unwrap().pwrite(b"one", 0).unwrap();
        vfs.create_new("b").unwrap().pwrite(b"two", 0).unwrap();
        let error = vfs.rename_no_replace("a", "b").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"two");
        vfs.rename_no_replace("a", "c").unwrap();
        assert_eq!(vfs.list("").unwrap(), ["b", "c"]);
        assert_eq!(vfs.create_new("c").err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn no_symlink_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (store, other) = (dir.path().join("store"), dir.path().join("other"));
        std::fs::create_dir(&store).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("file"), b"theirs").unwrap();
        std::os::unix::fs::symlink(&other, store.join("tmp")).unwrap();
        std::os::unix::fs::symlink(other.join("file"), store.join("LOCK")).unwrap();
        let vfs = RealVfs::new(&store);
        assert!(vfs.open("LOCK", Access::Write).is_err());
        assert!(vfs.create_new("LOCK").is_err());
        assert!(vfs.mkdir("tmp").is_err());
        assert!(vfs.list("tmp").is_err());
        assert!(vfs.sync_dir("tmp").is_err());
        assert!(vfs.open("tmp/file", Access::Read).is_err());
        assert!(vfs.create_new("tmp/new").is_err());
        assert!(vfs.remove("tmp/file").is_err());
        vfs.create_new("a").unwrap();
        assert!(vfs.rename_no_replace("a", "tmp/a").is_err());
        assert!(vfs.rename_no_replace("tmp/file", "b").is_err());
        assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
        assert_eq!(std::fs::read(other.join("file")).unwrap(), b"theirs");
        // The way to the store may well be one.
        std::os::unix::fs::symlink(&store, dir.path().join("way")).unwrap();
        assert_eq!(RealVfs::new(dir.path().join("way")).list("").unwrap(), ["LOCK", "a", "tmp"]);
    }

    #[test]
    fn a_lock_is_held_until_the_handle_goes() {
        let dir = tempfile::tempdir().unwrap();
        let vfs = RealVfs::new(dir.path());
        let first = vfs.create_new("LOCK").unwrap();
        let second = vfs.open("LOCK", Access::Write).unwrap();
        assert!(first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        drop(first);
        assert!(second.try_lock().unwrap());
    }
}
