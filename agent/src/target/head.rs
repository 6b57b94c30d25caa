//! The first bytes of a device, which make it pass for a disk: written last.
//!
//! There stand the partition table and, where the disk has none, the superblock of its file
//! system. Until everything else is on the medium they are zeros, so that neither a kernel nor a
//! person takes for whole what a killed recovery has left.

use std::sync::{Mutex, MutexGuard, PoisonError};

use umbra_common::{ByteLen, ByteOffset, ByteRange};

/// How much is held back: a GPT of 4096-byte sectors ends at 24 KiB, superblocks begin by 64 KiB.
const HEAD_BYTES: u64 = 1 << 20;

/// Bytes that are held back; zeros where nothing was written.
#[derive(Debug)]
pub(super) struct Head(Mutex<Vec<u8>>);

impl Head {
    /// Makes one of zeros for a disk of this length.
    pub(super) fn new(disk_len: ByteLen) -> Self {
        let len = usize::try_from(disk_len.0.min(HEAD_BYTES)).unwrap_or_default();
        Self(Mutex::new(vec![0; len]))
    }

    /// Returns its bytes.
    pub(super) fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        // Bytes are copied under it, which cannot panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what of `bytes` lies in the head, and returns the rest.
    pub(super) fn keep<'b>(&self, offset: ByteOffset, bytes: &'b [u8]) -> (ByteOffset, &'b [u8]) {
        let mut head = self.bytes();
        let at = usize::try_from(offset.0).unwrap_or(usize::MAX).min(head.len());
        let rest = head.get_mut(at..).unwrap_or_default();
        let (kept, beyond) = bytes.split_at(rest.len().min(bytes.len()));
        rest.iter_mut().zip(kept).for_each(|(to, from)| *to = *from);
        (ByteOffset(offset.0 + kept.len() as u64), beyond)
    }

    /// Returns what of `range` lies behind the head.
    pub(super) fn beyond(&self, range: ByteRange) -> ByteRange {
        let start = range.start().0.max(self.bytes().len() as u64);
        ByteRange::between(ByteOffset(start), range.end()).unwrap_or_default()
    }
}
