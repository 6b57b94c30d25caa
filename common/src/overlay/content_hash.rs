//! The hash of a file's content, or why there is none.

use crate::Result;
use crate::cbor::{Reader, Writer};

/// BLAKE3-256 of a file's logical content (what `b3sum` prints), or why it was not made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ContentHash {
    /// Not a regular file.
    #[default]
    NotAFile,
    /// The hash.
    Blake3([u8; 32]),
    /// It shares extents that belong to another file.
    Shared,
    /// A range of it could not be read.
    Unreadable,
    /// Hashing its holes would have passed the budget.
    HoleBudget,
    /// It was left out on request.
    Excluded,
    /// Its extents contradict the file system (damage).
    Damaged,
    /// What stands on the disk is ciphertext, and the key is not there.
    Encrypted,
}

impl ContentHash {
    /// Returns the hash, where there is one.
    pub fn blake3(self) -> Option<[u8; 32]> {
        match self {
            Self::Blake3(hash) => Some(hash),
            _ => None,
        }
    }

    /// Returns in words why there is no hash.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Blake3(_) => None,
            Self::NotAFile => Some("not a file"),
            Self::Shared => Some("shared extents"),
            Self::Unreadable => Some("unreadable range"),
            Self::HoleBudget => Some("hole budget"),
            Self::Excluded => Some("excluded"),
            Self::Damaged => Some("damaged"),
            Self::Encrypted => Some("encrypted"),
        }
    }

    pub(super) fn write(self, writer: &mut Writer) {
        match self {
            Self::Blake3(hash) => writer.bytes(&hash),
            Self::NotAFile => writer.uint(0_u64),
            Self::Shared => writer.uint(1_u64),
            Self::Unreadable => writer.uint(2_u64),
            Self::HoleBudget => writer.uint(3_u64),
            Self::Excluded => writer.uint(4_u64),
            Self::Damaged => writer.uint(5_u64),
            Self::Encrypted => writer.uint(6_u64),
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        if reader.at_bytes() {
            return Ok(Self::Blake3(reader.exactly()?));
        }
        match reader.uint()? {
            0 => Ok(Self::NotAFile),
            1 => Ok(Self::Shared),
            2 => Ok(Self::Unreadable),
            3 => Ok(Self::HoleBudget),
            4 => Ok(Self::Excluded),
            5 => Ok(Self::Damaged),
            6 => Ok(Self::Encrypted),
            number => Err(reader.unknown(number)),
        }
    }
}
