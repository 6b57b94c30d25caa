//! The target read back from the medium, past the kernel's copies.

use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, OFlags};
use umbra_common::ByteOffset;

use super::Target;
use crate::device;
use crate::error::Result;

/// Bytes read back at a time. Whoever reads in order asks for whole pieces, the last one excepted.
pub const PIECE_BYTES: usize = 4 << 20;
/// Where reading past the page cache begins in memory and on the medium; no common device has
/// larger sectors.
const ALIGNMENT: usize = 4096;

/// A settled target, to be read in pieces.
#[derive(Debug)]
pub struct Medium<'t> {
    target: &'t Target,
    buffer: Vec<u8>,
    /// First aligned byte of the buffer.
    start: usize,
    direct: bool,
}

impl Target {
    /// Writes everything to the medium and drops the kernel's copies; what is read of the answer
    /// comes from the medium: by `O_DIRECT` where the file system can do that. Nothing may be
    /// written afterwards.
    ///
    /// # Errors
    /// [`crate::Error::Io`] with the target.
    pub fn settle(&self) -> Result<Medium<'_>> {
        self.complete()?;
        // Advice; `O_DIRECT` below does not depend on it.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
        if self.aside.is_none() {
            device::drop_cached_blocks(&self.file);
        }
        let direct = rustix::fs::fcntl_setfl(&self.file, OFlags::DIRECT).is_ok();
        let buffer = vec![0_u8; PIECE_BYTES + ALIGNMENT];
        let start = buffer.as_ptr().align_offset(ALIGNMENT);
        Ok(Medium { target: self, buffer, start, direct })
    }
}

impl Medium<'_> {
    /// Reads `len` bytes, at most [`PIECE_BYTES`], at a multiple of the alignment.
    ///
    /// # Errors
    /// [`crate::Error::Io`] with the target.
    pub fn read(&mut self, offset: ByteOffset, len: usize) -> Result<&[u8]> {
        let failed = |source| self.target.failed("read back", source);
        let whole = len.next_multiple_of(ALIGNMENT);
        let piece = self.buffer.get_mut(self.start..).and_then(|rest| rest.get_mut(..whole));
        let piece = piece.ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let mut read = fill(self.target, offset, piece, len);
        if self.direct
            && read.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
        {
            // It took the flag and does not do it: the kernel's copies were dropped above.
            rustix::fs::fcntl_setfl(&self.target.file, OFlags::empty())
                .map_err(|error| failed(error.into()))?;
            self.direct = false;
            read = fill(self.target, offset, piece, len);
        }
        read.map_err(failed)?;
        Ok(piece.get(..len).unwrap_or_default())
    }
}

/// Reads at least `len` bytes into `piece`, which is longer where the last sector is.
fn fill(target: &Target, offset: ByteOffset, piece: &mut [u8], len: usize) -> io::Result<()> {
    let mut have = 0;
    while have < len {
        let rest = piece.get_mut(have..).unwrap_or_default();
        match target.file.read_at(rest, offset.0 + have as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => have += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
