//! The one way in which a parser reads: positioned reads of exact length.

use crate::{ByteLen, ByteOffset, ByteRange};

/// A disk or volume that a parser reads. Positions count from its start.
pub trait ReadAt {
    /// Returns its length.
    fn len(&self) -> ByteLen;

    /// Tells whether it holds no byte.
    fn is_empty(&self) -> bool {
        self.len().0 == 0
    }

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`ReadError::PastEnd`] where the range leaves the device, [`ReadError::Unreadable`] where
    /// the device does not give the bytes.
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError>;
}

/// A read that gave no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The range leaves the device.
    #[error("{0} lie beyond the end of the device ({1})")]
    PastEnd(ByteRange, ByteLen),
    /// The device failed; the caller who owns it knows the system's error.
    #[error("{0} cannot be read")]
    Unreadable(ByteRange),
}

/// A part of a device as a device of its own (a partition).
#[derive(Clone, Copy)]
pub struct Slice<'a> {
    inner: &'a dyn ReadAt,
    range: ByteRange,
}

impl<'a> Slice<'a> {
    /// Makes the part of `inner` that `range` names; what lies past the end fails when read.
    pub fn new(inner: &'a dyn ReadAt, range: ByteRange) -> Self {
        Self { inner, range }
    }
}

impl ReadAt for Slice<'_> {
    fn len(&self) -> ByteLen {
        self.range.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = ByteLen(buf.len().try_into().unwrap_or(u64::MAX));
        let wanted = ByteRange::new(offset, len).unwrap_or_default();
        let inside = ByteRange::new(ByteOffset(0), self.range.len()).unwrap_or_default();
        if wanted.len() != len || !inside.contains(wanted) {
            return Err(ReadError::PastEnd(wanted, self.range.len()));
        }
        let start = self.range.start().checked_add(ByteLen(offset.0));
        let start = start.ok_or(ReadError::PastEnd(wanted, self.range.len()))?;
        self.inner.read_at(start, buf)
    }
}

impl ReadAt for [u8] {
    fn len(&self) -> ByteLen {
        ByteLen(<[u8]>::len(self).try_into().unwrap_or(u64::MAX))
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = ByteLen(buf.len().try_into().unwrap_or(u64::MAX));
        let wanted = ByteRange::new(offset, len).unwrap_or_default();
        let past_end = ReadError::PastEnd(wanted, ReadAt::len(self));
        let start = usize::try_from(offset.0).map_err(|_| past_end)?;
        let end = start.checked_add(buf.len()).ok_or(past_end)?;
        buf.copy_from_slice(self.get(start..end).ok_or(past_end)?);
        Ok(())
    }
}
