//! The target read back from the medium, past the kernel's copies.

use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, OFlags, SeekFrom};
use rustix::io::Errno;
use umbra_common::ByteOffset;

use super::Target;
use crate::device;
use crate::error::Result;
use crate::source::DIRECT_ALIGNMENT as ALIGNMENT;

/// Bytes read back at a time. Whoever reads in order asks for whole pieces, the last one excepted.
pub const PIECE_BYTES: usize = 4 << 20;

/// A settled target, to be read in pieces.
#[derive(Debug)]
pub struct Medium<'t> {
    target: &'t Target,
    direct: bool,
}

/// Room for a piece, aligned as reading past the page cache wants it.
#[derive(Debug)]
pub struct Piece {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Default for Piece {
    /// Makes room for [`PIECE_BYTES`].
    fn default() -> Self {
        let bytes = vec![0_u8; PIECE_BYTES + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, start, len: 0 }
    }
}

impl Piece {
    /// Returns what was read last.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).and_then(|rest| rest.get(..self.len)).unwrap_or_default()
    }

    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        self.bytes.get_mut(self.start..)?.get_mut(..len)
    }
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
        Ok(Medium { target: self, direct })
    }
}

impl Medium<'_> {
    /// Returns where the next bytes stand that the file system has given a place to, at or after
    /// `offset` and not after `end`, rounded down to the alignment. What lies before is a hole of
    /// the file, which reads as zeros. A device has none.
    pub fn next_data(&self, offset: ByteOffset, end: ByteOffset) -> ByteOffset {
        if self.target.aside.is_none() {
            return offset;
        }
        let data = match rustix::fs::seek(&self.target.file, SeekFrom::Data(offset.0)) {
            Ok(data) => data.min(end.0),
            // Nothing but holes up to the end of the file.
            Err(Errno::NXIO) => end.0,
            Err(_) => offset.0,
        };
        let aligned = if data == end.0 { data } else { data - data % ALIGNMENT as u64 };
        ByteOffset(aligned.max(offset.0))
    }

    /// Reads `len` bytes, at most [`PIECE_BYTES`], at a multiple of the alignment.
    ///
    /// # Errors
    /// [`crate::Error::Io`] with the target.
    pub fn read(&mut self, offset: ByteOffset, len: usize, piece: &mut Piece) -> Result<()> {
        let failed = |source| self.target.failed("read back", source);
        let whole = len.next_multiple_of(ALIGNMENT);
        piece.len = 0;
        let room = piece.room(whole).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let mut read = fill(self.target, offset, room, len);
        if self.direct
            && read.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
        {
            // It took the flag and does not do it: the kernel's copies were dropped above.
            rustix::fs::fcntl_setfl(&self.target.file, OFlags::empty())
                .map_err(|error| failed(error.into()))?;
            self.direct = false;
            read = fill(self.target, offset, room, len);
        }
        read.map_err(failed)?;
        piece.len = len;
        Ok(())
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
