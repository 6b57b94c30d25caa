//! What `recover` writes: a new file beside its final name, or a block device.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use umbra_common::{ByteLen, ByteOffset, ByteRange};

use crate::error::{Error, Result};
use crate::{device, mounts};

/// Bytes written between two syncs.
const SYNC_BYTES: u64 = 256 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A target that was found fit and confirmed.
#[derive(Debug)]
pub struct Target {
    file: File,
    /// What the caller named.
    path: PathBuf,
    /// Where the bytes go until they are proven; absent for devices.
    aside: Option<PathBuf>,
    unsynced: std::sync::atomic::AtomicU64,
    /// True where unwritten ranges read as zeros already (a new file).
    zeroed: bool,
}

/// What a target is, before anything is opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// Nothing stands there yet.
    New,
    /// A regular file.
    File,
    /// A block device.
    Device,
}

fn refused(path: &Path, reason: String, hint: &str) -> Error {
    Error::Refused { path: path.into(), reason, hint: hint.into() }
}

/// Finds out what stands at `path` and whether `len` bytes may go there.
///
/// # Errors
/// [`Error::Refused`] for a target that is mounted, too small, neither file nor device, or exists
/// and is not the one that `confirmed` names.
pub fn inspect(path: &Path, len: ByteLen, confirmed: Option<&Path>) -> Result<TargetKind> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            if parent.is_some_and(|parent| !parent.is_dir()) {
                let reason = "its directory does not exist".into();
                return Err(refused(path, reason, "make the directory first"));
            }
            return Ok(TargetKind::New);
        }
        Err(source) => return Err(Error::Io { what: "look at", path: path.into(), source }),
    };
    let file_type = metadata.file_type();
    let (kind, uses) = if file_type.is_block_device() {
        (TargetKind::Device, mounts::uses_of_device(metadata.rdev()))
    } else if file_type.is_file() {
        (TargetKind::File, mounts::uses_of_file(path))
    } else {
        let reason = "it is neither a file nor a block device".into();
        return Err(refused(path, reason, "name a device such as /dev/sdb, or a new file"));
    };
    if let Some(used) = uses.first() {
        let reason = format!("it is in use ({})", used.place);
        return Err(refused(path, reason, "unmount it, or recover to another target"));
    }
    if kind == TargetKind::Device {
        let open = File::open(path).map_err(|source| Error::Io {
            what: "open",
            path: path.into(),
            source,
        })?;
        let has = rustix::fs::seek(&open, rustix::fs::SeekFrom::End(0)).unwrap_or_default();
        if has < len.0 {
            let reason =
                format!("it is too small: it has {has} bytes and the disk needs {}", len.0);
            return Err(refused(path, reason, "use a target at least as large"));
        }
    }
    let same = |confirmed: &Path| {
        confirmed == path
            || matches!((confirmed.canonicalize(), path.canonicalize()), (Ok(a), Ok(b)) if a == b)
    };
    if !confirmed.is_some_and(same) {
        let what = if kind == TargetKind::Device { "it is a device" } else { "it exists already" };
        let hint = format!(
            "what is on it would be lost; if that is meant, add --yes-destroy {}",
            path.display()
        );
        return Err(refused(path, what.into(), &hint));
    }
    Ok(kind)
}

impl Target {
    /// Opens the target for `len` bytes. A file is written aside until [`Target::finish`].
    ///
    /// # Errors
    /// [`Error::Io`]; a full disk is `StorageFull` in it.
    pub fn open(path: &Path, kind: TargetKind, len: ByteLen) -> Result<Self> {
        let context = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::Io { what: "open for writing", path, source }
        };
        let unsynced = std::sync::atomic::AtomicU64::new(0);
        if kind == TargetKind::Device {
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            let file = device::open_exclusive(&mut options, path).map_err(context(path))?;
            return Ok(Self { file, path: path.into(), aside: None, unsynced, zeroed: false });
        }
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".umbra-partial");
        let aside = path.with_file_name(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(&aside).map_err(context(&aside))?;
        let target =
            Self { file, path: path.into(), aside: Some(aside.clone()), unsynced, zeroed: true };
        // From here on a failure takes the partial file away again.
        if let Err(error) = target.file.set_len(len.0) {
            target.abandon();
            return Err(context(&aside)(error));
        }
        Ok(target)
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// [`Error::Io`] with the target.
    pub fn write(&self, offset: ByteOffset, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset.0).map_err(|source| self.failed("write", source))?;
        let len = bytes.len() as u64;
        let before = self.unsynced.fetch_add(len, std::sync::atomic::Ordering::Relaxed);
        if before / SYNC_BYTES != (before + len) / SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes `range` read as zeros; returns the bytes that had to be changed for it.
    ///
    /// # Errors
    /// [`Error::Io`] with the target.
    pub fn zero(&self, range: ByteRange) -> Result<u64> {
        if self.zeroed || range.is_empty() {
            return Ok(0);
        }
        let (start, len) = (range.start().0, range.len().0);
        let fast = rustix::fs::fallocate(&self.file, FallocateFlags::ZERO_RANGE, start, len);
        if fast.is_ok() {
            return Ok(len);
        }
        let mut at = start;
        while at < range.end().0 {
            let take = (range.end().0 - at).min(ZEROS.len() as u64);
            let zeros = ZEROS.get(..take as usize).unwrap_or_default();
            self.write(ByteOffset(at), zeros)?;
            at += take;
        }
        Ok(len)
    }

    /// Reads back what was written.
    ///
    /// # Errors
    /// [`Error::Io`] with the target.
    pub fn read(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buf, offset.0).map_err(|source| self.failed("read back", source))
    }

    /// Writes everything to the medium and drops the kernel's copies, so that reading back asks
    /// the medium.
    ///
    /// # Errors
    /// [`Error::Io`] with the target.
    pub fn settle(&self) -> Result<()> {
        self.sync()?;
        // Advice; a kernel that ignores it reads its own copy.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        if self.aside.is_none() {
            device::drop_cached_blocks(&self.file);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|source| self.failed("sync", source))
    }

    /// Gives a file its final name; call it when everything is proven.
    ///
    /// # Errors
    /// [`Error::Io`] with the target.
    pub fn finish(self) -> Result<()> {
        let Some(aside) = &self.aside else { return self.sync() };
        self.file.sync_all().map_err(|source| self.failed("sync", source))?;
        std::fs::rename(aside, &self.path).map_err(|source| self.failed("name", source))?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir = File::open(parent.unwrap_or(Path::new(".")));
        dir.and_then(|dir| dir.sync_all()).map_err(|source| self.failed("sync", source))
    }

    /// Removes a file that did not get its final name; a device stays as it is.
    pub fn abandon(&self) {
        if let Some(aside) = &self.aside {
            // The command ends with the error that led here; a partial file's name says what it is.
            let _ = std::fs::remove_file(aside);
        }
    }

    fn failed(&self, what: &'static str, source: std::io::Error) -> Error {
        Error::Io { what, path: self.path.clone(), source }
    }
}
