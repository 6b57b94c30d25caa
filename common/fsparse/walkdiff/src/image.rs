//! Images that the parsers read: in memory, or in a file that is not read whole.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use anyhow::{Context, Result};
use umbra_fsparse::{ByteLen, ByteOffset, ByteRange, ReadAt, ReadError};

/// An image in memory.
pub struct Image(pub Vec<u8>);

impl ReadAt for Image {
    fn len(&self) -> ByteLen {
        ByteLen(self.0.len() as u64)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0[..].read_at(offset, buf)
    }
}

/// An image file or a block device.
pub struct ImageFile {
    file: File,
    len: ByteLen,
}

impl ImageFile {
    /// Opens it for reading.
    ///
    /// # Errors
    /// When it cannot be opened or has no length.
    pub fn open(path: &Path) -> Result<Self> {
        let context = || format!("cannot open {}", path.display());
        let mut file = File::open(path).with_context(context)?;
        // The length that a block device has in its metadata is 0.
        let len = file.seek(SeekFrom::End(0)).with_context(context)?;
        Ok(Self { file, len: ByteLen(len) })
    }
}

impl ReadAt for ImageFile {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let range = ByteRange::new(offset, ByteLen(buf.len() as u64)).unwrap_or_default();
        self.file.read_exact_at(buf, offset.0).map_err(|_| ReadError::Unreadable(range))
    }
}
