//! Units as types: offsets, lengths and ranges, all in bytes.

use core::fmt;

/// A position in bytes from the start of a disk, a volume or a file's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteOffset(pub u64);

/// A length in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteLen(pub u64);

/// A half-open range of bytes: `start` is in it, `start + len` is not.
///
/// The end never overflows: [`ByteRange::new`] refuses such a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    start: u64,
    len: u64,
}

impl ByteOffset {
    /// Returns the offset `len` bytes further on, or `None` past 2^64.
    pub fn checked_add(self, len: ByteLen) -> Option<Self> {
        self.0.checked_add(len.0).map(Self)
    }
}

impl ByteRange {
    /// Makes the range of `len` bytes from `start`, or `None` where its end is past 2^64.
    pub fn new(start: ByteOffset, len: ByteLen) -> Option<Self> {
        start.0.checked_add(len.0)?;
        Some(Self { start: start.0, len: len.0 })
    }

    /// Makes the range between two positions, or `None` where `end` lies before `start`.
    pub fn between(start: ByteOffset, end: ByteOffset) -> Option<Self> {
        Some(Self { start: start.0, len: end.0.checked_sub(start.0)? })
    }

    /// Returns the first position.
    pub fn start(self) -> ByteOffset {
        ByteOffset(self.start)
    }

    /// Returns the first position after the range.
    pub fn end(self) -> ByteOffset {
        ByteOffset(self.start.saturating_add(self.len))
    }

    /// Returns the length.
    pub fn len(self) -> ByteLen {
        ByteLen(self.len)
    }

    /// Tells whether the range holds no byte.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Tells whether every byte of `other` lies in this range.
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Returns the bytes that both ranges have, or `None` where there are none.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        if start >= end.0 {
            return None;
        }
        Self::between(ByteOffset(start), end)
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}", self.0)
    }
}

impl fmt::Display for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{}", self.start, self.end().0)
    }
}
