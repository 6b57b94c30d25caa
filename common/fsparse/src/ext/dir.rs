//! Blocks of directories.
//!
//! Hash trees are read like linear directories: their inner nodes look like unused entries.
//!
//! SOURCE: Linux `fs/ext4/ext4.h` (`struct ext4_dir_entry_2`), `fs/ext4/dir.c`
//! (`__ext4_check_dir_entry`), `fs/ext4/namei.c` (`ext4_dirblock_csum_verify`,
//! `ext4_dx_csum_verify`).

use super::{checksum::Crc32c, dirhash::NameHash, fields::Fields};
use crate::{ByteOffset, Result};

const STRUCTURE: &str = "directory block";
/// Inode number, length of the record, length of the name, type.
const HEADER: usize = 8;
const MIN_RECORD: usize = 12;
const TAIL: usize = 12;
/// An unused entry of 12 bytes whose type says that it is a tail.
const TAIL_MARK: [u8; 8] = [0, 0, 0, 0, 12, 0, 0, 0xde];

/// A name of a directory.
pub(super) struct Entry<'b> {
    /// The inode that it names, never 0.
    pub(super) inode: u32,
    /// Its bytes, unchecked.
    pub(super) name: &'b [u8],
    /// What its record has behind the name, from the next multiple of four on.
    pub(super) behind: &'b [u8],
}

impl Entry<'_> {
    /// Returns the hash that a folded and encrypted directory stores behind each name.
    ///
    /// SOURCE: `struct ext4_dir_entry_hash`.
    pub(super) fn stored_hash(&self) -> NameHash {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(*self.behind.get(at..)?.first_chunk()?))
        };
        match (word(0), word(4)) {
            (Some(major), Some(minor)) => NameHash { major, minor },
            _ => NameHash::default(),
        }
    }
}

/// What a block of a directory is checked against.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// The seed of its checksum, where the file system has them.
    pub(super) seed: Option<Crc32c>,
    /// The directory has a hash tree.
    pub(super) indexed: bool,
}

/// The entries of one piece of a directory, in order; nothing comes after an error.
pub(super) struct Entries<'b> {
    fields: Fields<'b>,
    at: usize,
    end: usize,
}

impl<'b> Entries<'b> {
    /// Takes the block that stands at `at` of the volume, and checks its checksum.
    ///
    /// # Errors
    /// `Corrupt` where the checksum is missing or wrong.
    pub(super) fn of_block(rules: Rules, at: ByteOffset, bytes: &'b [u8]) -> Result<Self> {
        let fields = Fields::new(STRUCTURE, at, bytes);
        let whole = Self { fields, at: 0, end: bytes.len() };
        let Some(seed) = rules.seed else {
            return Ok(whole);
        };
        if rules.indexed
            && let Some(counts) = hash_node(&fields)?
        {
            check_hash_node(&fields, seed, counts)?;
            return Ok(whole);
        }
        let end = bytes.len().saturating_sub(TAIL);
        if fields.array(end)? != TAIL_MARK {
            return Err(fields.corrupt("its checksum is missing"));
        }
        if seed.of(fields.slice(0, end)?).0 != fields.u32(end.saturating_add(8))? {
            return Err(fields.corrupt("wrong checksum"));
        }
        Ok(Self { fields, at: 0, end })
    }

    /// Takes entries that stand in an inode.
    pub(super) fn of_inline(at: ByteOffset, bytes: &'b [u8]) -> Self {
        Self { fields: Fields::new("inline directory", at, bytes), at: 0, end: bytes.len() }
    }

    /// Decodes the record at the current place and goes past it.
    fn record(&mut self) -> Result<Option<Entry<'b>>> {
        let rest = self.end.saturating_sub(self.at);
        if rest < MIN_RECORD {
            return Err(self.fields.corrupt("a record that does not fill it"));
        }
        let len = record_len(self.fields.u16(self.at.saturating_add(4))?, self.fields.len());
        let name_len = usize::from(self.fields.u8(self.at.saturating_add(6))?);
        if len < MIN_RECORD || !len.is_multiple_of(4) || len > rest {
            return Err(self.fields.corrupt("absurd length of a record"));
        }
        let inode = self.fields.u32(self.at)?;
        if inode != 0 && HEADER.saturating_add(name_len) > len {
            return Err(self.fields.corrupt("a name longer than its record"));
        }
        let name_at = self.at.saturating_add(HEADER);
        let behind_at = name_at.saturating_add(name_len).next_multiple_of(4);
        self.at = self.at.saturating_add(len);
        if inode == 0 {
            return Ok(None);
        }
        let name = self.fields.slice(name_at, name_len)?;
        let behind = self.fields.slice(behind_at, self.at.saturating_sub(behind_at))?;
        Ok(Some(Entry { inode, name, behind }))
    }
}

impl<'b> Iterator for Entries<'b> {
    type Item = Result<Entry<'b>>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.end {
            match self.record() {
                Ok(Some(entry)) => return Some(Ok(entry)),
                Ok(None) => {}
                Err(error) => {
                    self.at = self.end;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Decodes the length of a record, which in blocks of 64 KiB does not fit its field.
fn record_len(field: u16, block_len: usize) -> usize {
    let len = usize::from(field);
    if block_len < 65536 {
        return len;
    }
    match len {
        0 | 65535 => block_len,
        _ => len & 0xfffc | (len & 3) << 16,
    }
}

/// Returns where the limit and count of a node of the hash tree stand, or `None` for a leaf.
fn hash_node(fields: &Fields<'_>) -> Result<Option<usize>> {
    let block_len = fields.len();
    let first = record_len(fields.u16(4)?, block_len);
    if first == block_len && fields.u32(0)? == 0 {
        return Ok(Some(8));
    }
    if first != 12 || record_len(fields.u16(16)?, block_len) != block_len.saturating_sub(12) {
        return Ok(None);
    }
    // The root: two entries, then four zeros, the hash version and the length of this part, 8.
    let root = fields.u32(24)? == 0 && fields.u8(29)? == 8;
    Ok(root.then_some(32))
}

fn check_hash_node(fields: &Fields<'_>, seed: Crc32c, counts: usize) -> Result<()> {
    let limit = usize::from(fields.u16(counts)?);
    let count = usize::from(fields.u16(counts.saturating_add(2))?);
    let tail = counts.saturating_add(limit.saturating_mul(8));
    let used = counts.saturating_add(count.saturating_mul(8));
    if used > tail || tail.saturating_add(8) > fields.len() {
        return Err(fields.corrupt("absurd counts of a hash node"));
    }
    let sum = seed.of(fields.slice(0, used)?).of(fields.slice(tail, 4)?).of(&[0; 4]);
    if sum.0 != fields.u32(tail.saturating_add(4))? {
        return Err(fields.corrupt("wrong checksum of a hash node"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_64_kib_blocks_use_the_low_bits() {
        for (field, expected) in [(0, 65536), (65535, 65536), (12, 12), (65532, 65532), (1, 65536)]
        {
            assert_eq!(record_len(field, 65536), expected, "{field}");
        }
        assert_eq!(record_len(65535, 4096), 65535);
    }

    #[test]
    fn a_record_past_the_end_ends_the_block() {
        let block = [5, 0, 0, 0, 16, 0, 1, 1, b'a', 0, 0, 0];
        let mut entries = Entries::of_inline(ByteOffset(0), &block);
        assert!(matches!(entries.next(), Some(Err(crate::Error::Corrupt { .. }))));
        assert!(entries.next().is_none());
    }
}
