//! What a backup reads: a raw image file, a block device, or standard input.
//!
//! Parser and data path see the same device: there is one open file, beside which the same inode is
//! read past the system's cache (O_DIRECT) where nobody writes it and most of a span is not cached.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use umbra_fsparse::{ByteLen, ByteOffset, ByteRange, ReadAt, ReadError};

use crate::error::{Error, Result};
use crate::mounts::{Access, System, Use};
use crate::{device, mounts};

/// The unit in which an unreadable place is narrowed down and recorded.
pub const SECTOR_BYTES: u64 = 4096;
/// What reads past the system's cache begins and ends here, in the file and in memory: enough for
/// every sector size that Linux knows.
pub const DIRECT_ALIGNMENT: usize = 4096;
/// How often a failing sector is asked for.
const SECTOR_TRIES: u32 = 3;
/// Sectors that fail one after the other in one read until each is asked for but once.
const HOPELESS_SECTORS: u32 = 8;

/// What stands behind a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A regular file that holds a raw image.
    ImageFile,
    /// A block device.
    BlockDevice,
}

/// Where the bytes of a disk come from: positioned reads of exact length.
pub trait Device: ReadAt + Send + Sync {
    /// Returns the parts of `range` that the device knows to be zeros without reading them
    /// (holes of a sparse image file), sorted.
    fn holes(&self, range: ByteRange) -> Vec<ByteRange>;

    /// Reads past the system's cache into `buf`, as far as the device reaches, and tells whether
    /// it did; where not, `buf` holds anything. `offset`, and the address and the length of `buf`,
    /// are multiples of [`DIRECT_ALIGNMENT`].
    fn read_direct(&self, offset: ByteOffset, buf: &mut [u8]) -> bool {
        let _ = (offset, buf);
        false
    }

    /// Tells whether two readings of one place may differ.
    fn may_change(&self) -> bool {
        false
    }

    /// Tells after the last reading why what was read may not be one state of the disk; `None`
    /// where nothing speaks against it.
    ///
    /// # Errors
    /// [`Error::Refused`] where such a reading is not wanted.
    fn settled(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// What is done about a source that changes while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// Nothing is known to write it; where something does all the same, it is refused.
    Refused,
    /// Nothing is known to write it; where something does all the same, the snapshot is fuzzy.
    Marked,
    /// It is written while it is read, and the snapshot says so.
    Expected,
}

/// An open image file or block device.
#[derive(Debug)]
pub struct Source {
    file: File,
    /// The same file, read past the system's cache; absent where that is not known to work.
    direct: Option<File>,
    /// Bytes of an image file that are no hole, as the file system said last: it looks through the
    /// whole run up to the next hole, which a full image asked for each file would pay for each
    /// time. What becomes a hole meanwhile is read as the zeros that it is.
    data: Mutex<ByteRange>,
    path: PathBuf,
    kind: SourceKind,
    len: ByteLen,
    sector: ByteLen,
    opened: Metadata,
    /// What had been written to the device when it was opened, where the system counts it.
    writes: Option<u64>,
    changes: Changes,
}

impl Source {
    /// Opens `path` for reading.
    ///
    /// A block device's cached blocks are dropped first (`BLKFLSBUF`), so that what is read is
    /// what the device holds.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be opened, [`Error::Refused`] where it is neither a regular
    /// file nor a block device, or is empty.
    pub fn open(path: &Path) -> Result<Self> {
        let context = |source| Error::Io { what: "open the source", path: path.into(), source };
        // Looked at before it is opened: opening a pipe would wait for somebody who writes.
        let named = std::fs::metadata(path).map_err(context)?.file_type();
        if !named.is_block_device() && !named.is_file() {
            return Err(neither(path));
        }
        let file = File::open(path).map_err(context)?;
        let opened = file.metadata().map_err(context)?;
        let (kind, len, sector) = if opened.file_type().is_block_device() {
            device::drop_cached_blocks(&file);
            let len = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
                .map_err(|error| context(error.into()))?;
            (SourceKind::BlockDevice, len, device::sector_bytes(&file))
        } else if opened.is_file() {
            (SourceKind::ImageFile, opened.len(), 512)
        } else {
            return Err(neither(path));
        };
        if len == 0 {
            return Err(empty(path));
        }
        let (len, sector) = (ByteLen(len), ByteLen(sector));
        let (path, changes) = (path.into(), Changes::Refused);
        let direct = device::open_direct(&file, kind == SourceKind::BlockDevice);
        let writes = None;
        let data = Mutex::default();
        let mut source =
            Self { file, direct, data, path, kind, len, sector, opened, writes, changes };
        source.writes = source.count_writes();
        Ok(source)
    }

    /// Says what is done where the source changes; without this it is refused.
    pub fn on_changes(self, changes: Changes) -> Self {
        Self { changes, ..self }
    }

    /// Returns the path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells what it is.
    pub fn kind(&self) -> SourceKind {
        self.kind
    }

    /// Returns the logical sector size (512 for image files).
    pub fn sector(&self) -> ByteLen {
        self.sector
    }

    /// Returns what the system said of it when it was opened.
    pub fn metadata(&self) -> &Metadata {
        &self.opened
    }

    /// Lists what uses it.
    pub fn uses(&self, system: &System) -> Vec<Use> {
        let mut uses = match self.kind {
            SourceKind::BlockDevice => system.uses_of_device(self.opened.rdev()),
            SourceKind::ImageFile => system.uses_of_file(&self.opened),
        };
        // A mount in another namespace, a pool of ZFS: what is held and not listed is written.
        if uses.is_empty() && self.kind == SourceKind::BlockDevice && device::is_claimed(&self.path)
        {
            let what = "held by a program, or mounted where this one cannot see it".into();
            uses.push(Use { what, access: Access::Writes });
        }
        uses.extend(mounts::use_by_emulator(&self.file));
        uses
    }

    /// Finds the next bytes of a file, at or after `at`, up to the hole behind them. Empty, at the
    /// end of all files, where nothing but a hole follows.
    fn data_at(&self, at: u64) -> rustix::io::Result<ByteRange> {
        let start = match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)) {
            Err(rustix::io::Errno::NXIO) => u64::MAX,
            other => other?,
        };
        let end = match start {
            u64::MAX => start,
            start => rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(start))?,
        };
        let range = ByteRange::between(ByteOffset(start.max(at)), ByteOffset(end));
        range.ok_or(rustix::io::Errno::INVAL)
    }

    /// Returns its length now, where that is less than it was.
    fn cut_to(&self) -> Option<u64> {
        let now = match self.kind {
            SourceKind::ImageFile => self.file.metadata().ok()?.len(),
            // One that was pulled out has none.
            SourceKind::BlockDevice => {
                rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0)).ok()?
            }
        };
        Some(now).filter(|now| *now < self.len.0)
    }

    /// Counts what was written to the device so far, by whomever and whatever way.
    fn count_writes(&self) -> Option<u64> {
        if self.kind != SourceKind::BlockDevice {
            return None;
        }
        // What a program wrote and the kernel still holds counts too. A device that cannot take
        // it any more has other ways to say so.
        let _ = self.file.sync_data();
        mounts::write_count(self.opened.rdev())
    }

    /// Finds what changed since the source was opened.
    fn change(&self) -> Option<String> {
        if let Some(now) = self.cut_to() {
            return Some(format!("it was cut to {now} bytes while it was read"));
        }
        let written = || "it was written while it was read".to_owned();
        if self.kind == SourceKind::ImageFile {
            let now = self.file.metadata().ok().and_then(|now| now.modified().ok());
            if now.is_none() || now != self.opened.modified().ok() {
                return Some(written());
            }
        }
        let uses = System::read().map(|system| self.uses(&system)).unwrap_or_default();
        let by = uses.into_iter().find(|used| used.access == Access::Writes);
        if let Some(by) = by {
            return Some(format!("now it is {}", by.what));
        }
        // Without a mount: a virtual machine on a volume of it, a program with the device open.
        (self.count_writes() != self.writes).then(written)
    }
}

fn neither(path: &Path) -> Error {
    Error::Refused {
        path: path.into(),
        reason: "it is neither a raw image file nor a block device".into(),
        hint: "name a device such as /dev/sda, an image file, or `-`".into(),
    }
}

/// The refusal of a source without a byte: a snapshot of nothing would pass for the newest good
/// one.
pub fn empty(path: &Path) -> Error {
    Error::Refused {
        path: path.into(),
        reason: "it is empty (0 bytes)".into(),
        hint: "attach the medium, or find out why nothing was written to it".into(),
    }
}

impl ReadAt for Source {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let range = ByteRange::new(offset, ByteLen(buf.len() as u64)).unwrap_or_default();
        if range.end().0 > self.len.0 || range.len().0 != buf.len() as u64 {
            return Err(ReadError::PastEnd(range, self.len));
        }
        self.file.read_exact_at(buf, offset.0).map_err(|_| ReadError::Unreadable(range))
    }
}

impl Device for Source {
    fn holes(&self, range: ByteRange) -> Vec<ByteRange> {
        if self.kind != SourceKind::ImageFile {
            return Vec::new();
        }
        // A file that was cut short has no holes behind its end: those bytes are lost.
        let now = self.file.metadata().map_or(0, |now| now.len());
        let end = range.end().0.min(self.len.0).min(now);
        let mut known = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let mut holes = Vec::new();
        let mut at = range.start().0;
        while at < end {
            if !(known.start().0..known.end().0).contains(&at) {
                let Ok(data) = self.data_at(at) else { break };
                *known = data;
                if let Some(hole) =
                    ByteRange::between(ByteOffset(at), data.start().min(ByteOffset(end)))
                    && !hole.is_empty()
                {
                    holes.push(hole);
                }
                if known.is_empty() {
                    break;
                }
            }
            at = known.end().0;
        }
        holes
    }

    fn read_direct(&self, offset: ByteOffset, buf: &mut [u8]) -> bool {
        // What is written meanwhile may stand in the cache alone.
        let Some(direct) = self.direct.as_ref().filter(|_| !self.may_change()) else {
            return false;
        };
        let Some(wanted) = self.len.0.checked_sub(offset.0) else { return false };
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(buf.len());
        let range = ByteRange::new(offset, ByteLen(wanted as u64)).unwrap_or_default();
        if device::cached_bytes(&self.file, range) >= range.len().0 / 2 {
            return false;
        }
        let mut done = 0;
        while done < wanted {
            let (Some(rest), Some(at)) = (buf.get_mut(done..), offset.0.checked_add(done as u64))
            else {
                return false;
            };
            match direct.read_at(rest, at) {
                // The kernel ends a reading short of a unit at the end of the file alone.
                Ok(read) if read > 0 && (read % DIRECT_ALIGNMENT == 0 || done + read >= wanted) => {
                    done += read;
                }
                _ => return false,
            }
        }
        true
    }

    fn may_change(&self) -> bool {
        self.changes == Changes::Expected
    }

    fn settled(&self) -> Result<Option<String>> {
        if self.changes == Changes::Expected {
            return Ok(None);
        }
        let Some(change) = self.change() else { return Ok(None) };
        // What was cut off is recorded as unreadable; the rest of the disk is worth keeping.
        if self.changes == Changes::Marked || self.cut_to().is_some() {
            return Ok(Some(change));
        }
        Err(Error::Refused {
            path: self.path.clone(),
            reason: change,
            hint: "stop what writes it and run this again (what was sent is not sent twice), or \
                   keep a fuzzy snapshot with --inconsistent-ok"
                .into(),
        })
    }
}

/// Reads `buf.len()` bytes from `offset`, with zeros where the device does not give them.
///
/// A failed read is repeated sector by sector, each a few times, but only once where one after the
/// other has failed: a disk may take many seconds for each. Returns the ranges that stayed
/// unreadable, merged and sorted.
pub fn read_salvaging(device: &dyn Device, offset: ByteOffset, buf: &mut [u8]) -> Vec<ByteRange> {
    if device.read_at(offset, buf).is_ok() {
        return Vec::new();
    }
    let mut lost: Vec<ByteRange> = Vec::new();
    let mut failed_in_a_row = 0;
    let mut at = offset.0;
    let mut rest = buf;
    while !rest.is_empty() {
        let to_boundary = SECTOR_BYTES - at % SECTOR_BYTES;
        let take = usize::try_from(to_boundary).unwrap_or(usize::MAX).min(rest.len());
        let (sector, tail) = std::mem::take(&mut rest).split_at_mut(take);
        let tries = if failed_in_a_row < HOPELESS_SECTORS { SECTOR_TRIES } else { 1 };
        if (0..tries).any(|_| device.read_at(ByteOffset(at), sector).is_ok()) {
            failed_in_a_row = 0;
        } else {
            failed_in_a_row += 1;
            sector.fill(0);
            let range = ByteRange::new(ByteOffset(at), ByteLen(take as u64)).unwrap_or_default();
            match lost.last_mut() {
                Some(last) if last.end() == range.start() => {
                    *last = ByteRange::between(last.start(), range.end()).unwrap_or(range);
                }
                _ => lost.push(range),
            }
        }
        at += take as u64;
        rest = tail;
    }
    lost
}

#[cfg(test)]
mod tests;
