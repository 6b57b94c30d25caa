//! What a backup reads: a raw image file, a block device, or standard input.
//!
//! There is ONE descriptor for parser and data path, so that both see the same device.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use umbra_fsparse::{ByteLen, ByteOffset, ByteRange, ReadAt, ReadError};

use crate::device;
use crate::error::{Error, Result};

/// The unit in which an unreadable place is narrowed down and recorded.
pub const SECTOR_BYTES: u64 = 4096;
/// How often a failing sector is asked for again.
const SECTOR_RETRIES: u32 = 3;

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

    /// Tells the system which bytes will be wanted soon.
    fn will_need(&self, range: ByteRange);
}

/// An open image file or block device.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
    kind: SourceKind,
    len: ByteLen,
    sector: ByteLen,
    rdev: u64,
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
        let file = File::open(path).map_err(context)?;
        let metadata = file.metadata().map_err(context)?;
        let file_type = metadata.file_type();
        let (kind, len, sector) = if file_type.is_block_device() {
            device::drop_cached_blocks(&file);
            let len = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
                .map_err(|error| context(error.into()))?;
            (SourceKind::BlockDevice, len, device::sector_bytes(&file))
        } else if file_type.is_file() {
            (SourceKind::ImageFile, metadata.len(), 512)
        } else {
            return Err(Error::Refused {
                path: path.into(),
                reason: "it is neither a raw image file nor a block device".into(),
                hint: "name a device such as /dev/sda, an image file, or `-`".into(),
            });
        };
        let rdev = metadata.rdev();
        Ok(Self { file, path: path.into(), kind, len: ByteLen(len), sector: ByteLen(sector), rdev })
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

    /// Returns the device number of a block device.
    pub fn device_number(&self) -> u64 {
        self.rdev
    }

    /// Names the file system and inode that hold an image file.
    pub fn file_identity(&self) -> io::Result<(u64, u64)> {
        self.file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
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
        let mut holes = Vec::new();
        let mut at = range.start().0;
        let end = range.end().0.min(self.len.0);
        while at < end {
            let data = match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                Err(rustix::io::Errno::NXIO) => end,
                Err(_) => return holes,
            };
            if let Some(hole) = ByteRange::between(ByteOffset(at), ByteOffset(data))
                && !hole.is_empty()
            {
                holes.push(hole);
            }
            if data >= end {
                break;
            }
            match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(data)) {
                Ok(hole) if hole > data => at = hole,
                _ => break,
            }
        }
        holes
    }

    fn will_need(&self, range: ByteRange) {
        let len = std::num::NonZeroU64::new(range.len().0);
        // Advice only: a kernel that refuses it reads a little later.
        let _ = rustix::fs::fadvise(&self.file, range.start().0, len, rustix::fs::Advice::WillNeed);
    }
}

/// Reads `buf.len()` bytes from `offset`, with zeros where the device does not give them.
///
/// A failed read is repeated sector by sector, each a few times; returns the ranges that stayed
/// unreadable, merged and sorted.
pub fn read_salvaging(device: &dyn Device, offset: ByteOffset, buf: &mut [u8]) -> Vec<ByteRange> {
    if device.read_at(offset, buf).is_ok() {
        return Vec::new();
    }
    let mut lost: Vec<ByteRange> = Vec::new();
    let mut at = offset.0;
    let mut rest = buf;
    while !rest.is_empty() {
        let to_boundary = SECTOR_BYTES - at % SECTOR_BYTES;
        let take = usize::try_from(to_boundary).unwrap_or(usize::MAX).min(rest.len());
        let (sector, tail) = std::mem::take(&mut rest).split_at_mut(take);
        let readable = (0..SECTOR_RETRIES).any(|_| device.read_at(ByteOffset(at), sector).is_ok());
        if !readable {
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
