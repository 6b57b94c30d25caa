//! Reading little-endian fields of untrusted structures without indexing.

use crate::{ByteLen, ByteOffset, Error, Result};

/// The bytes of one structure, with its name and place for errors.
#[derive(Clone, Copy)]
pub(super) struct Fields<'b> {
    bytes: &'b [u8],
    structure: &'static str,
    at: ByteOffset,
}

impl<'b> Fields<'b> {
    /// Takes the bytes of the structure that starts at `at` of the volume.
    pub(super) fn new(structure: &'static str, at: ByteOffset, bytes: &'b [u8]) -> Self {
        Self { bytes, structure, at }
    }

    /// Returns the number of bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns `N` bytes from `offset` on.
    pub(super) fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N]> {
        let rest = self.bytes.get(offset..).unwrap_or_default();
        rest.first_chunk().copied().ok_or_else(|| self.corrupt("a field lies past its end"))
    }

    /// Returns the `len` bytes from `offset` on.
    pub(super) fn slice(&self, offset: usize, len: usize) -> Result<&'b [u8]> {
        let bytes = offset.checked_add(len).and_then(|end| self.bytes.get(offset..end));
        bytes.ok_or_else(|| self.corrupt("a field lies past its end"))
    }

    /// Returns the byte at `offset`.
    pub(super) fn u8(&self, offset: usize) -> Result<u8> {
        self.array(offset).map(u8::from_le_bytes)
    }

    /// Returns the 16-bit number at `offset`.
    pub(super) fn u16(&self, offset: usize) -> Result<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    /// Returns the 32-bit number at `offset`.
    pub(super) fn u32(&self, offset: usize) -> Result<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    /// Returns the error that the structure is damaged.
    pub(super) fn corrupt(&self, reason: &'static str) -> Error {
        Error::Corrupt { structure: self.structure, at: self.at, reason }
    }

    /// Returns the error that the structure uses something that this version cannot read.
    pub(super) fn unsupported(&self, feature: &'static str) -> Error {
        Error::Unsupported { structure: self.structure, at: self.at, feature }
    }
}

/// Joins the halves of a 64-bit number.
pub(super) fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Returns a length in memory as a length in bytes.
pub(super) fn byte_len(len: usize) -> ByteLen {
    ByteLen(u64::try_from(len).unwrap_or(u64::MAX))
}
