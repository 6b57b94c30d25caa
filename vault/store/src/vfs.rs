//! The lowest layer: files and directories of one store, where a simulator crashes and reorders.
//!
//! Names are relative to the store's directory, `/` between their parts, ASCII, no `..`.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use umbra_common::ByteRange;

use crate::bytes::{narrow, wide};

mod real;

pub use real::RealVfs;

/// Most bytes that are read at once: a pack with its footer, and room.
pub(crate) const MAX_READ_BYTES: u64 = 64 << 20;

/// Room on the file system that holds the store, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free for an ordinary user.
    pub free_bytes: u64,
    /// In all.
    pub total_bytes: u64,
}

/// What an opened file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing; only the lock file is ever opened so.
    Write,
}

/// Files of one directory tree. Nothing is durable before the sync that covers it.
pub trait Vfs: Send + Sync {
    /// Opens a file that exists.
    ///
    /// # Errors
    /// `NotFound` where there is none, else what the system says.
    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn VfsFile>>;

    /// Makes a file that must not exist, for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` where there is one, else what the system says.
    fn create_new(&self, path: &str) -> io::Result<Arc<dyn VfsFile>>;

    /// Lists the names in a directory (without its own), sorted.
    ///
    /// # Errors
    /// `NotFound` where there is no such directory, else what the system says.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Makes a directory; it is no error that it exists. True where it is new.
    ///
    /// # Errors
    /// What the system says.
    fn mkdir(&self, dir: &str) -> io::Result<bool>;

    /// Makes the names in a directory durable. The empty name is the store's own directory.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Renames a file; never replaces one.
    ///
    /// # Errors
    /// `AlreadyExists` where the new name is taken, else what the system says.
    fn rename_no_replace(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound` where there is none, else what the system says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes a file of `len` bytes whose blocks nobody else can take; false where that cannot be
    /// had here.
    ///
    /// # Errors
    /// `AlreadyExists` where there is one, else what the system says; then there is no file.
    fn reserve(&self, _path: &str, _len: u64) -> io::Result<bool> {
        Ok(false)
    }

    /// Tells how much room is left.
    ///
    /// # Errors
    /// What the system says.
    fn space(&self) -> io::Result<Space>;
}

/// An open file.
pub trait VfsFile: Send + Sync {
    /// Reads up to `buf.len()` bytes at `offset`; 0 at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn pread(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes up to `buf.len()` bytes at `offset`; may write fewer.
    ///
    /// # Errors
    /// What the system says.
    fn pwrite(&self, buf: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes the content durable (fdatasync).
    ///
    /// # Errors
    /// What the system says. After a failure nothing is known about unsynced writes, ever.
    fn sync_data(&self) -> io::Result<()>;

    /// Returns the length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Tells whether the file is empty.
    ///
    /// # Errors
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Takes the exclusive lock of this file until the handle is dropped; false where it is taken.
    ///
    /// # Errors
    /// What the system says.
    fn try_lock(&self) -> io::Result<bool>;
}

/// Reads exactly the bytes of a range, or says which file is too short.
pub(crate) fn read_exact(
    file: &dyn VfsFile,
    path: &str,
    start: u64,
    len: u64,
) -> crate::Result<Vec<u8>> {
    let fail = |source| crate::Error::io("read", path, source);
    if len > MAX_READ_BYTES {
        let limit = MAX_READ_BYTES;
        return Err(crate::Error::Limit { what: "one reading", found: len, limit });
    }
    let mut bytes = vec![0; narrow(len)];
    let mut done = 0usize;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.pread(rest, start.saturating_add(wide(done))) {
            Ok(0) => return Err(fail(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => done = done.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Ok(bytes)
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all(
    file: &dyn VfsFile,
    path: &str,
    bytes: &[u8],
    offset: u64,
) -> crate::Result<()> {
    let fail = |source| crate::Error::io("write", path, source);
    let mut done = 0usize;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match file.pwrite(rest, offset.saturating_add(wide(done))) {
            Ok(0) => return Err(fail(io::ErrorKind::WriteZero.into())),
            Ok(count) => done = done.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Ok(())
}

/// Reads several ranges of one file.
pub(crate) fn read_ranges(
    file: &dyn VfsFile,
    path: &str,
    ranges: &[ByteRange],
) -> crate::Result<Vec<Vec<u8>>> {
    ranges.iter().map(|range| read_exact(file, path, range.start().0, range.len().0)).collect()
}

/// Makes a directory, parents first, and its name durable where it is new.
///
/// One that was there may have a name that is not durable yet: the owner syncs all directories at
/// its opening, unless the owner before ended in order.
pub(crate) fn make_dirs(vfs: &dyn Vfs, dir: &str) -> crate::Result<()> {
    let above = parent(dir);
    if !above.is_empty() {
        make_dirs(vfs, above)?;
    }
    if vfs.mkdir(dir).map_err(|error| crate::Error::io("make", dir, error))? {
        vfs.sync_dir(above).map_err(|error| crate::Error::io("sync", above, error))?;
    }
    Ok(())
}

/// Directories whose names this process knows to be durable.
///
/// That a directory exists says nothing: whoever made it may have failed to sync its name, this
/// process too.
#[derive(Default)]
pub(crate) struct DurableDirs {
    known: Mutex<BTreeSet<String>>,
}

impl DurableDirs {
    /// Makes a directory where it is not there, parents first, and its name durable.
    pub(crate) fn ensure(&self, vfs: &dyn Vfs, dir: &str) -> crate::Result<()> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if dir.is_empty() || known().contains(dir) {
            return Ok(());
        }
        let above = parent(dir);
        self.ensure(vfs, above)?;
        vfs.mkdir(dir).map_err(|error| crate::Error::io("make", dir, error))?;
        vfs.sync_dir(above).map_err(|error| crate::Error::io("sync", above, error))?;
        known().insert(dir.to_owned());
        Ok(())
    }
}

/// Returns the directory of a name.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
