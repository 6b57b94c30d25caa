//! What `recover` writes: a new file beside its final name, or a block device.

mod aside;
mod head;
mod read_back;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::FallocateFlags;
use umbra_common::{ByteLen, ByteOffset, ByteRange};

use crate::error::{Error, Result};
use crate::mounts::System;
use crate::own_store::{OwnStore, Role};
use crate::{device, mounts};

pub use read_back::{Medium, PIECE_BYTES, Piece};

use aside::Aside;
use head::Head;

/// Bytes written between two syncs.
const SYNC_BYTES: u64 = 256 << 20;
/// Bytes written until the kernel is told to begin with them: left to itself it collects gigabytes,
/// and the disk idles until the next sync.
const WRITE_OUT_BYTES: u64 = 8 << 20;
/// Bytes that the kernel is asked to zero in one call.
const ZERO_CALL_BYTES: u64 = 256 << 20;
/// What the kernel zeroes begins and ends here, so that it never touches half a cached page.
const ZERO_ALIGNMENT: u64 = 64 << 10;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

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

/// A target that was found fit; nothing of it was written yet.
#[derive(Debug)]
pub struct Found {
    named: PathBuf,
    /// Where the name leads.
    real: PathBuf,
    kind: TargetKind,
    metadata: Option<Metadata>,
    room: ByteLen,
    sector: ByteLen,
    len: ByteLen,
}

fn refused(path: &Path, reason: String, hint: &str) -> Error {
    Error::Refused { path: path.into(), reason, hint: hint.into() }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { what, path: path.into(), source }
}

/// Finds out what stands at `path` and whether `len` bytes may go there.
///
/// # Errors
/// [`Error::Refused`] for a target that is in use, too small, the vault's own disk, or neither
/// file nor device.
pub fn inspect(path: &Path, len: ByteLen, own: &OwnStore, system: &System) -> Result<Found> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let real = place_of_new(path)?;
            own.refuse_file(path, &real, Role::Target)?;
            return Ok(Found::new(path, real, TargetKind::New, len));
        }
        Err(source) => return Err(io_error("look at", path, source)),
    };
    let file_type = metadata.file_type();
    if !file_type.is_block_device() && !file_type.is_file() {
        let reason = "it is neither a file nor a block device".into();
        return Err(refused(path, reason, "name a device such as /dev/sdb, or a new file"));
    }
    let real = path.canonicalize().map_err(|source| io_error("look at", path, source))?;
    let (mut found, mut uses) = if file_type.is_block_device() {
        own.refuse_device(path, metadata.rdev(), Role::Target, system)?;
        (Found::new(path, real, TargetKind::Device, len), system.uses_of_device(metadata.rdev()))
    } else {
        own.refuse_file(path, path, Role::Target)?;
        (Found::new(path, real, TargetKind::File, len), system.uses_of_file(&metadata))
    };
    // What may not even be read shows itself when it is opened for writing.
    uses.extend(File::open(path).ok().and_then(|file| mounts::use_by_emulator(&file)));
    if let Some(used) = uses.first() {
        let reason = format!("it is in use ({})", used.what);
        return Err(refused(path, reason, "unmount or detach it, or recover to another target"));
    }
    if found.kind == TargetKind::Device {
        if system.is_read_only(metadata.rdev()) {
            let reason = "it is read-only".into();
            return Err(refused(path, reason, "make it writable, or recover to another target"));
        }
        let open = File::open(path).map_err(|source| io_error("open", path, source))?;
        found.measure(&open)?;
    }
    found.metadata = Some(metadata);
    Ok(found)
}

/// Returns the path of a file that does not exist yet, with the links above it followed.
fn place_of_new(path: &Path) -> Result<PathBuf> {
    if std::fs::symlink_metadata(path).is_ok() {
        let reason = "it is a symlink that leads nowhere".into();
        return Err(refused(path, reason, "remove it, or name the file that is meant"));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    if !parent.is_dir() {
        let reason = "its directory does not exist".into();
        return Err(refused(path, reason, "make the directory first"));
    }
    let is_dir_name = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let (Some(name), false) = (path.file_name(), is_dir_name) else {
        return Err(refused(path, "it is no name of a file".into(), "name a file or a device"));
    };
    let parent = parent.canonicalize().map_err(|source| io_error("look at", parent, source))?;
    Ok(parent.join(name))
}

impl Found {
    fn new(named: &Path, real: PathBuf, kind: TargetKind, len: ByteLen) -> Self {
        let (room, sector) = (len, ByteLen(512));
        Self { named: named.into(), real, kind, metadata: None, room, sector, len }
    }

    /// Takes the size of an open device.
    fn measure(&mut self, device: &File) -> Result<()> {
        let has = rustix::fs::seek(device, rustix::fs::SeekFrom::End(0))
            .map_err(|error| io_error("measure", &self.named, error.into()))?;
        if has < self.len.0 {
            let needs = self.len.0;
            let reason = format!("it is too small: it has {has} bytes and the disk needs {needs}");
            return Err(refused(&self.named, reason, "use a target at least as large"));
        }
        (self.room, self.sector) = (ByteLen(has), ByteLen(device::sector_bytes(device)));
        Ok(())
    }

    /// Tells what it is.
    pub fn kind(&self) -> TargetKind {
        self.kind
    }

    /// Returns the bytes of a device behind the disk, which stay as they are.
    pub fn beyond(&self) -> ByteLen {
        ByteLen(self.room.0.saturating_sub(self.len.0))
    }

    /// Returns the logical sector size of a device; absent for files.
    pub fn sector(&self) -> Option<ByteLen> {
        (self.kind == TargetKind::Device).then_some(self.sector)
    }

    /// Checks that whatever stands there may be destroyed: `confirmed` is what the user named.
    ///
    /// # Errors
    /// [`Error::Refused`] where that is missing or something else.
    pub fn confirm(&self, confirmed: Option<&Path>) -> Result<()> {
        let what = match self.kind {
            TargetKind::New => return Ok(()),
            TargetKind::File => "it exists already",
            TargetKind::Device => "it is a device",
        };
        let same = |confirmed: &Path| {
            confirmed == self.named
                || confirmed.canonicalize().is_ok_and(|confirmed| confirmed == self.real)
        };
        if confirmed.is_some_and(same) {
            return Ok(());
        }
        let hint = format!(
            "what is on it would be lost; if that is meant, add --yes-destroy {}",
            self.named.display()
        );
        let other = confirmed.map(|other| format!(", and --yes-destroy names {}", other.display()));
        Err(refused(&self.named, format!("{what}{}", other.unwrap_or_default()), &hint))
    }
}

/// A target that is being written.
#[derive(Debug)]
pub struct Target {
    file: File,
    /// What the caller named.
    path: PathBuf,
    /// Where the bytes of a file go until they are proven; absent for devices.
    aside: Option<Aside>,
    /// The first bytes of a device, until all others are on it.
    head: Option<Head>,
    /// True once the head was written.
    completed: AtomicBool,
    unsynced: AtomicU64,
    /// True where unwritten ranges read as zeros already (a new file).
    zeroed: bool,
    /// True until the kernel has refused to zero ranges by itself.
    zeroes_ranges: AtomicBool,
}

impl Target {
    /// Opens what was found and confirmed. A file is written aside until [`Target::finish`]; the
    /// first bytes of a device become zeros and are written last.
    ///
    /// # Errors
    /// [`Error::Refused`] where it may not be written, or somebody else writes it;
    /// [`Error::Io`].
    pub fn open(found: &mut Found) -> Result<Self> {
        if found.kind == TargetKind::Device {
            let file = open_device(found)?;
            let mut target = Self::over(file, &found.named, None);
            target.head = Some(Head::new(found.len));
            target.blank_head()?;
            return Ok(target);
        }
        let (aside, file) = Aside::open(found)?;
        let target = Self::over(file, &found.named, Some(aside));
        // From here on a failure takes the partial file away again.
        if let Err(source) = target.file.set_len(found.len.0) {
            target.abandon();
            if source.kind() == ErrorKind::FileTooLarge {
                let reason = format!("its file system holds no file of {} bytes", found.len.0);
                return Err(refused(&found.named, reason, "recover to another file system"));
            }
            return Err(target.failed("make", source));
        }
        Ok(target)
    }

    fn over(file: File, path: &Path, aside: Option<Aside>) -> Self {
        Self {
            file,
            path: path.into(),
            zeroed: aside.is_some(),
            aside,
            head: None,
            completed: AtomicBool::new(false),
            unsynced: AtomicU64::new(0),
            zeroes_ranges: AtomicBool::new(true),
        }
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// [`Error::Io`] with the target.
    pub fn write(&self, offset: ByteOffset, bytes: &[u8]) -> Result<()> {
        let (offset, bytes) = match &self.head {
            Some(head) => head.keep(offset, bytes),
            None => (offset, bytes),
        };
        self.file.write_all_at(bytes, offset.0).map_err(|source| self.failed("write", source))?;
        let len = bytes.len() as u64;
        let before = self.unsynced.fetch_add(len, Ordering::Relaxed);
        if before / SYNC_BYTES != (before + len) / SYNC_BYTES {
            self.sync()?;
        } else if before / WRITE_OUT_BYTES != (before + len) / WRITE_OUT_BYTES {
            device::begin_write_out(&self.file);
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
        let whole = range.len().0;
        let range = self.head.as_ref().map_or(range, |head| head.beyond(range));
        let (start, end) = (range.start().0, range.end().0);
        let inner_end = end / ZERO_ALIGNMENT * ZERO_ALIGNMENT;
        let mut at = start.next_multiple_of(ZERO_ALIGNMENT).min(end);
        self.write_zeros(start, at)?;
        while at < inner_end && self.zeroes_ranges.load(Ordering::Relaxed) {
            let take = (inner_end - at).min(ZERO_CALL_BYTES);
            let zeroed = rustix::fs::fallocate(&self.file, FallocateFlags::ZERO_RANGE, at, take);
            if zeroed.is_err() {
                // Whatever it said: written zeros tell whether the target is sound.
                self.zeroes_ranges.store(false, Ordering::Relaxed);
                break;
            }
            at += take;
        }
        self.write_zeros(at, end)?;
        Ok(whole)
    }

    fn write_zeros(&self, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            let take = (end - at).min(ZEROS.len() as u64);
            let zeros = ZEROS.get(..take as usize).unwrap_or_default();
            self.write(ByteOffset(at), zeros)?;
            at += take;
        }
        Ok(())
    }

    /// Makes the first bytes of a device zeros, durably.
    fn blank_head(&self) -> Result<()> {
        let Some(head) = &self.head else { return Ok(()) };
        let zeros = vec![0; head.bytes().len()];
        self.file.write_all_at(&zeros, 0).map_err(|source| self.failed("write", source))?;
        self.sync()
    }

    /// Puts everything on the medium, the first bytes of a device last.
    fn complete(&self) -> Result<()> {
        self.sync()?;
        let Some(head) = self.head.as_ref().filter(|_| !self.completed.load(Ordering::Relaxed))
        else {
            return Ok(());
        };
        self.file.write_all_at(&head.bytes(), 0).map_err(|source| self.failed("write", source))?;
        self.completed.store(true, Ordering::Relaxed);
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|source| self.failed("sync", source))
    }

    /// Gives a file its final name; call it when everything is proven. Of a device the kernel
    /// reads the partitions again; returns what a person has to do where it cannot.
    ///
    /// # Errors
    /// [`Error::Io`] with the target, [`Error::Refused`] where something has taken the name.
    pub fn finish(self) -> Result<Option<String>> {
        let Some(aside) = &self.aside else {
            self.complete()?;
            return Ok(match device::reread_partitions(&self.file) {
                Err(rustix::io::Errno::BUSY) => Some(
                    "the kernel still has its old partitions, because one of them is in use: run \
                     `partprobe` or attach it anew before using it"
                        .into(),
                ),
                // A partition, or a device that never has any, is no disk with a table.
                _ => None,
            });
        };
        self.file.sync_all().map_err(|source| self.failed("sync", source))?;
        aside.name()?;
        Ok(None)
    }

    /// Removes a file that did not get its final name; a device does not pass for a disk.
    pub fn abandon(&self) {
        if let Some(aside) = &self.aside {
            aside.remove();
        }
        // The command ends with the error that led here, and says that the target is not whole.
        let _ = rustix::fs::fcntl_setfl(&self.file, rustix::fs::OFlags::empty());
        let _ = self.blank_head();
    }

    fn failed(&self, what: &'static str, source: io::Error) -> Error {
        io_error(what, &self.path, source)
    }
}

/// Opens a device for this program alone, and looks whether it is still what was found.
fn open_device(found: &mut Found) -> Result<File> {
    let mut options = OpenOptions::new();
    let opened = device::open_exclusive(options.read(true).write(true), &found.named);
    let file = opened.map_err(|source| match source.kind() {
        ErrorKind::ResourceBusy => {
            let reason = "another program has it, or it is mounted where this one cannot see it";
            let hint = "end that program, or recover to another target";
            refused(&found.named, reason.into(), hint)
        }
        kind => unwritable(&found.named, kind)
            .unwrap_or_else(|| io_error("open for writing", &found.named, source)),
    })?;
    let now = file.metadata().map_err(|source| io_error("look at", &found.named, source))?;
    let before = found.metadata.as_ref().map(MetadataExt::rdev);
    if !now.file_type().is_block_device() || Some(now.rdev()) != before {
        let reason = "it became another device a moment ago".into();
        return Err(refused(&found.named, reason, "look at it and run this again"));
    }
    found.measure(&file)?;
    Ok(file)
}

/// The refusal of what may not be written; `None` for other failures.
fn unwritable(path: &Path, kind: ErrorKind) -> Option<Error> {
    let reason = match kind {
        ErrorKind::PermissionDenied => "you may not write there, or the device is read-only",
        ErrorKind::ReadOnlyFilesystem => "it is read-only",
        _ => return None,
    };
    Some(refused(path, reason.into(), "run this as root, or recover to another target"))
}

#[cfg(test)]
mod tests;
