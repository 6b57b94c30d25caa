//! The image hash of bytes that come in order; the plain rule, without subtrees.

use crate::{ByteLen, ByteOffset, ByteRange, Error, Result};

use super::{ImageHash, WINDOW_BYTES, WindowHash, image_hash};

/// Makes the hash of a disk whose bytes come in order, from the first to the last.
#[derive(Debug)]
pub struct SequentialImageHasher {
    disk_len: ByteLen,
    /// How many bytes have come.
    at: u64,
    /// The hash of the window at `at`, of those of its bytes that have come.
    window: blake3::Hasher,
    windows: Vec<WindowHash>,
}

impl SequentialImageHasher {
    /// Starts the hash of a disk of this length.
    pub fn new(disk_len: ByteLen) -> Self {
        Self { disk_len, at: 0, window: blake3::Hasher::new(), windows: Vec::new() }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// `ImageHash` where they go past the end of the disk; then none of them was taken.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.check(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = WINDOW_BYTES - self.at % WINDOW_BYTES;
            let step = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
            let (part, after) = rest.split_at(step);
            self.window.update(part);
            self.advance(u64::try_from(step).expect("usize has at most 64 bits"));
            rest = after;
        }
        Ok(())
    }

    /// Takes the next `len` bytes, which are zeros; whole windows are not hashed.
    ///
    /// # Errors
    /// `ImageHash` where they go past the end of the disk; then none of them was taken.
    pub fn push_zeros(&mut self, len: ByteLen) -> Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        self.check(len.0)?;
        let mut left = len.0;
        while left > 0 {
            if self.at.is_multiple_of(WINDOW_BYTES) && left >= WINDOW_BYTES {
                self.windows.push(WindowHash::of_zeros(ByteLen(WINDOW_BYTES)));
                self.at += WINDOW_BYTES;
                left -= WINDOW_BYTES;
                continue;
            }
            let to_end = WINDOW_BYTES - self.at % WINDOW_BYTES;
            let most = usize::try_from(left.min(to_end)).unwrap_or(ZEROS.len());
            let part = &ZEROS[..most.min(ZEROS.len())];
            self.push(part)?;
            left -= u64::try_from(part.len()).expect("usize has at most 64 bits");
        }
        Ok(())
    }

    /// Returns the hashes of the windows that are complete, in order.
    pub fn windows(&self) -> &[WindowHash] {
        &self.windows
    }

    /// Returns the hash of the disk.
    ///
    /// # Errors
    /// `ImageHash` where bytes are missing at the end.
    pub fn finish(self) -> Result<ImageHash> {
        if self.at < self.disk_len.0 {
            let (at, end) = (ByteOffset(self.at), ByteOffset(self.disk_len.0));
            let range = ByteRange::between(at, end).unwrap_or_default();
            return Err(Error::ImageHash { range, reason: "bytes are missing" });
        }
        image_hash(self.disk_len, self.windows)
    }

    fn check(&self, len: u64) -> Result<()> {
        if self.disk_len.0 - self.at < len {
            let at = ByteOffset(self.at);
            let range = ByteRange::new(at, ByteLen(len)).unwrap_or_default();
            return Err(Error::ImageHash { range, reason: "past the end of the disk" });
        }
        Ok(())
    }

    fn advance(&mut self, len: u64) {
        self.at += len;
        if self.at.is_multiple_of(WINDOW_BYTES) || self.at == self.disk_len.0 {
            self.windows.push(WindowHash(*self.window.finalize().as_bytes()));
            self.window.reset();
        }
    }
}
