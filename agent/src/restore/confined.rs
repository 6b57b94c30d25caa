//! Directories below a restore's target, held open, and what may be done in them.
//!
//! Every step goes from an open directory to ONE name in it, so no name and no link of a hostile
//! image, and nobody who changes the target meanwhile, can lead outside: `openat2` with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS` opens, the rest are calls that
//! never follow a last component. SOURCE: openat2(2), rename(2), linkat(2).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, Dev, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, XattrFlags, linkat,
    mknodat, renameat, renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

/// The longest name that Linux file systems take, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The extended attribute of a directory that a restore has made and not finished.
const UNFINISHED: &str = "user.umbra-partial";
/// How often a taken temporary name is tried anew.
const TEMPORARY_TRIES: u32 = 1000;

/// One name in a directory: not empty, neither `.` nor `..`, without `/` and NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks a name that comes from an image.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let special = bytes.is_empty() || bytes == b"." || bytes == b"..";
        let broken = bytes.iter().any(|byte| matches!(byte, 0 | b'/'));
        (!special && !broken && bytes.len() <= MAX_NAME_BYTES).then_some(Self(bytes))
    }

    /// Returns the bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Whether a new object may take the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    /// Only where nothing stands.
    New,
    /// What is no directory is replaced.
    Replace,
}

/// A directory at or below the target.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Opens `name` in `dir` without following anything.
fn open_beneath(dir: BorrowedFd<'_>, name: Name<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(dir, name.bytes(), flags, Mode::empty(), BENEATH) {
        // Kernels before 5.6 and some sandboxes lack openat2. For a single checked name
        // O_NOFOLLOW says the same.
        Err(Errno::NOSYS | Errno::PERM) => {
            Ok(rustix::fs::openat(dir, name.bytes(), flags, Mode::empty())?)
        }
        Err(Errno::LOOP) => Err(Errno::NOTDIR.into()),
        other => Ok(other?),
    }
}

impl Dir {
    /// Opens the target itself; links in ITS path are the user's own and are followed.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_target(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// `NotADirectory` where a link or anything else stands there, and what the system says.
    pub fn open_dir(&self, name: Name<'_>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = match open_beneath(self.fd.as_fd(), name, flags) {
            // A directory that may be entered and not listed is still a way.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                open_beneath(self.fd.as_fd(), name, OFlags::PATH | OFlags::DIRECTORY)?
            }
            other => other?,
        };
        Ok(Self { fd })
    }

    /// Makes a directory that only its owner may use; its final mode comes later.
    ///
    /// # Errors
    /// `AlreadyExists`, and what the system says.
    pub fn make_dir(&self, name: Name<'_>) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name.bytes(), Mode::RWXU)?)
    }

    /// Marks the directory as made by a restore that is not finished, so that the next one knows
    /// that owner, mode and times are not anybody's choice. Where the file system takes no such
    /// mark, that one leaves them as they are.
    pub fn mark_unfinished(&self) {
        let _ = rustix::fs::fsetxattr(&self.fd, UNFINISHED, b"", XattrFlags::empty());
    }

    /// Tells whether a restore made the directory and did not finish it.
    pub fn is_unfinished(&self) -> bool {
        rustix::fs::fgetxattr(&self.fd, UNFINISHED, &mut [0_u8; 0]).is_ok()
    }

    /// Takes the mark away.
    pub fn mark_finished(&self) {
        let _ = rustix::fs::fremovexattr(&self.fd, UNFINISHED);
    }

    /// Looks at what stands under a name, at the link itself where it is one.
    ///
    /// # Errors
    /// What the system says.
    pub fn find(&self, name: Name<'_>) -> io::Result<Option<Stat>> {
        match statat(&self.fd, name.bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_file(&self, name: Name<'_>) -> io::Result<File> {
        // Without O_NONBLOCK a fifo put there meanwhile would stop the run for ever.
        open_beneath(self.fd.as_fd(), name, OFlags::RDONLY | OFlags::NONBLOCK).map(File::from)
    }

    /// Opens an object of any type for changes of its metadata only (`O_PATH`).
    ///
    /// # Errors
    /// What the system says.
    pub fn open_object(&self, name: Name<'_>) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, name.bytes(), flags, Mode::empty())?)
    }

    /// Reads the target of a symbolic link.
    ///
    /// # Errors
    /// What the system says.
    pub fn read_link(&self, name: Name<'_>) -> io::Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(&self.fd, name.bytes(), Vec::new())?;
        Ok(target.into_bytes())
    }

    /// Makes an empty file under a temporary name.
    ///
    /// # Errors
    /// What the system says.
    pub fn new_file(self: &Arc<Self>) -> io::Result<(File, Temporary)> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        self.make(|name| rustix::fs::openat(&self.fd, name, flags, mode))
            .map(|(fd, temporary)| (File::from(fd), temporary))
    }

    /// Makes a symbolic link under a temporary name.
    ///
    /// # Errors
    /// What the system says.
    pub fn new_symlink(self: &Arc<Self>, target: &[u8]) -> io::Result<Temporary> {
        self.make(|name| symlinkat(target, &self.fd, name)).map(|((), temporary)| temporary)
    }

    /// Makes a device node, a fifo or a socket under a temporary name.
    ///
    /// # Errors
    /// What the system says; `PermissionDenied` for device nodes without the right to make them.
    pub fn new_node(self: &Arc<Self>, kind: FileType, device: Dev) -> io::Result<Temporary> {
        let mode = Mode::RUSR | Mode::WUSR;
        self.make(|name| mknodat(&self.fd, name, kind, mode, device))
            .map(|((), temporary)| temporary)
    }

    /// Makes another name of the object `name` in `from`, under a temporary name.
    ///
    /// # Errors
    /// What the system says.
    pub fn new_link(self: &Arc<Self>, from: &Dir, name: Name<'_>) -> io::Result<Temporary> {
        // Without AT_SYMLINK_FOLLOW a symbolic link is linked itself.
        self.make(|new| linkat(&from.fd, name.bytes(), &self.fd, new, AtFlags::empty()))
            .map(|((), temporary)| temporary)
    }

    fn make<T>(
        self: &Arc<Self>,
        try_name: impl Fn(&str) -> rustix::io::Result<T>,
    ) -> io::Result<(T, Temporary)> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        for _ in 0..TEMPORARY_TRIES {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!(".umbra-partial-{}-{count}", std::process::id());
            match try_name(&name) {
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
                Ok(made) => {
                    return Ok((made, Temporary { dir: Arc::clone(self), name, placed: false }));
                }
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `DirectoryNotEmpty`, and what the system says.
    pub fn remove_dir(&self, name: Name<'_>) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name.bytes(), AtFlags::REMOVEDIR)?)
    }

    /// Removes what is no directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove_file(&self, name: Name<'_>) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name.bytes(), AtFlags::empty())?)
    }

    /// Tells whether the directory has no entries.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_empty(&self) -> io::Result<bool> {
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until everything written to the file system is on the medium.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.fd)?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An object under a temporary name; it is removed again unless it gets its final one.
#[derive(Debug)]
pub struct Temporary {
    dir: Arc<Dir>,
    name: String,
    placed: bool,
}

impl Temporary {
    /// Returns the name.
    pub fn name(&self) -> Name<'_> {
        Name(self.name.as_bytes())
    }

    /// Gives the object its final name.
    ///
    /// # Errors
    /// `AlreadyExists` with [`Placing::New`], `IsADirectory` for a directory in its place, and
    /// what the system says.
    pub fn place(mut self, name: Name<'_>, placing: Placing) -> io::Result<()> {
        let dir = &self.dir.fd;
        match placing {
            Placing::New => {
                let flags = RenameFlags::NOREPLACE;
                match renameat_with(dir, self.name.as_str(), dir, name.bytes(), flags) {
                    // File systems without that flag: nothing stood there when it was looked at.
                    Err(Errno::INVAL | Errno::NOSYS) if self.dir.find(name)?.is_none() => {
                        renameat(dir, self.name.as_str(), dir, name.bytes())?;
                    }
                    other => other?,
                }
            }
            Placing::Replace => renameat(dir, self.name.as_str(), dir, name.bytes())?,
        }
        // Between two names of one inode rename does nothing; then the temporary name is left and
        // must go. SOURCE: rename(2).
        self.placed = placing == Placing::New;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // Gone already after a rename; whatever else stops it, the name says what it is.
            let _ = unlinkat(&self.dir.fd, self.name.as_str(), AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests;
