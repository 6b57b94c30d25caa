//! The layouts of the log's blocks: header, descriptor tags, revoke records, commit block.
//!
//! All fields are big-endian. SOURCE: Linux `include/linux/jbd2.h` (`journal_header_t`,
//! `journal_block_tag_t`, `journal_block_tag3_t`, `struct jbd2_journal_block_tail`,
//! `jbd2_journal_revoke_header_t`, `struct commit_header`), `fs/jbd2/recovery.c`.

use super::checksum::{CRC32_BE, Crc32c};

/// `JBD2_MAGIC_NUMBER`: the first four bytes of every block of the log that is not a copy.
pub(super) const MAGIC: u32 = 0xc03b_3998;

/// `JBD2_DESCRIPTOR_BLOCK`, `JBD2_COMMIT_BLOCK`, ...: what a block of the log is.
pub(super) const DESCRIPTOR: u32 = 1;
pub(super) const COMMIT: u32 = 2;
pub(super) const SUPERBLOCK_V1: u32 = 3;
pub(super) const SUPERBLOCK_V2: u32 = 4;
pub(super) const REVOKE: u32 = 5;

/// `sizeof(journal_header_t)`.
const HEADER_LEN: usize = 12;
/// `sizeof(jbd2_journal_revoke_header_t)`.
const REVOKE_HEADER_LEN: usize = 16;
/// `sizeof(struct commit_header)` with its padding.
const COMMIT_HEADER_LEN: usize = 64;
/// `sizeof(struct jbd2_journal_block_tail)`.
const TAIL_LEN: usize = 4;
/// Where `h_chksum[0]` of a commit block stands.
const COMMIT_CHECKSUM_AT: usize = 16;
/// The UUID after a tag that does not say `JBD2_FLAG_SAME_UUID`.
const UUID_LEN: usize = 16;

const FLAG_ESCAPE: u16 = 1;
const FLAG_SAME_UUID: u16 = 2;
const FLAG_LAST_TAG: u16 = 8;

/// `JBD2_CRC32_CHKSUM` and `JBD2_CRC32_CHKSUM_SIZE`.
const CRC32_TYPE: u8 = 1;
const CRC32_SIZE: u8 = 4;

/// A transaction's number; they count up and wrap at 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tid(pub(super) u32);

impl Tid {
    /// Returns the next transaction's number.
    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Tells whether this transaction is younger than `other` (`tid_gt`: the difference as a
    /// signed number is positive).
    pub(super) fn is_after(self, other: Self) -> bool {
        let difference = self.0.wrapping_sub(other.0);
        difference != 0 && difference < 1 << 31
    }
}

/// Which checksums the log carries; the kernel allows one kind at a time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Checksums {
    /// None at all.
    None,
    /// `JBD2_FEATURE_COMPAT_CHECKSUM`: one CRC-32 of a transaction's blocks in its commit block.
    V1,
    /// `JBD2_FEATURE_INCOMPAT_CSUM_V2`: block tails, and 16 bits in each tag.
    V2(Crc32c),
    /// `JBD2_FEATURE_INCOMPAT_CSUM_V3`: block tails, and 32 bits in each tag.
    V3(Crc32c),
}

/// How the log's blocks are laid out, from the features of the journal's superblock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// `JBD2_FEATURE_INCOMPAT_64BIT`: tags and revoke records hold 64-bit block numbers.
    pub(super) wide: bool,
    /// `JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT`: a commit block may reach the disk before the blocks
    /// that it commits.
    pub(super) async_commit: bool,
    /// Which checksums there are.
    pub(super) checksums: Checksums,
}

/// What every block of the log begins with, copies excepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// `h_blocktype`.
    pub(super) kind: u32,
    /// `h_sequence`.
    pub(super) tid: Tid,
}

impl Header {
    /// Reads the header, or `None` where the magic is missing.
    pub(super) fn parse(block: &[u8]) -> Option<Self> {
        (be32(block, 0)? == MAGIC)
            .then_some(Self { kind: be32(block, 4)?, tid: Tid(be32(block, 8)?) })
    }
}

/// One copied block, as a descriptor block names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    /// The block of the file system that was copied.
    pub(super) fs_block: u64,
    /// Whether the copy's first four bytes stand for the magic.
    pub(super) escaped: bool,
    checksum: u32,
}

impl Format {
    /// `journal_tag_bytes`.
    fn tag_len(&self) -> usize {
        match (self.checksums, self.wide) {
            (Checksums::V3(_), _) => 16,
            (Checksums::V2(_), true) => 14,
            (Checksums::V2(_), false) => 10,
            (_, true) => 12,
            (_, false) => 8,
        }
    }

    /// The block's bytes without its tail, where the format has tails.
    fn without_tail<'b>(&self, block: &'b [u8]) -> Option<&'b [u8]> {
        match self.checksums {
            Checksums::None | Checksums::V1 => Some(block),
            Checksums::V2(_) | Checksums::V3(_) => block.get(..block.len().checked_sub(TAIL_LEN)?),
        }
    }

    /// Goes through the tags of a descriptor block; one block of the log follows for each.
    ///
    /// SOURCE: `count_tags`, `read_tag_block`. The flags are read as 16 bits at byte 6 in every
    /// format, as the kernel does (version 3 has 32 bits from byte 4 on, all known flags in the
    /// lower half).
    pub(super) fn tags<'b>(&self, block: &'b [u8]) -> impl Iterator<Item = Tag> + use<'b> {
        let format = *self;
        let mut rest = self.without_tail(block).and_then(|b| b.get(HEADER_LEN..));
        core::iter::from_fn(move || {
            let tag = rest?.get(..format.tag_len())?;
            let flags = be16(tag, 6)?;
            let high = if format.wide { be32(tag, 8)? } else { 0 };
            let checksum = match format.checksums {
                Checksums::V3(_) => be32(tag, 12)?,
                _ => u32::from(be16(tag, 4)?),
            };
            let uuid_len = if flags & FLAG_SAME_UUID == 0 { UUID_LEN } else { 0 };
            let last = flags & FLAG_LAST_TAG != 0;
            rest = if last { None } else { rest?.get(tag.len().checked_add(uuid_len)?..) };
            Some(Tag {
                fs_block: u64::from(high) << 32 | u64::from(be32(tag, 0)?),
                escaped: flags & FLAG_ESCAPE != 0,
                checksum,
            })
        })
    }

    /// Goes through the records of a revoke block, or `None` where its count is impossible.
    ///
    /// SOURCE: `scan_revoke_records`. `r_count` counts bytes, the header included.
    pub(super) fn revokes<'b>(
        &self,
        block: &'b [u8],
    ) -> Option<impl Iterator<Item = u64> + use<'b>> {
        let count = usize::try_from(be32(block, HEADER_LEN)?).ok()?;
        let used = self.without_tail(block)?.get(..count)?;
        let records = used.get(REVOKE_HEADER_LEN..).unwrap_or_default();
        let wide = self.wide;
        let records = records.chunks_exact(if wide { 8 } else { 4 });
        Some(records.filter_map(move |record| {
            if wide { be64(record, 0) } else { be32(record, 0).map(u64::from) }
        }))
    }

    /// Tells whether a descriptor or revoke block agrees with its tail.
    ///
    /// SOURCE: `jbd2_descriptor_block_csum_verify`.
    pub(super) fn tail_holds(&self, block: &[u8]) -> bool {
        let (Checksums::V2(seed) | Checksums::V3(seed)) = self.checksums else { return true };
        let Some(body) = self.without_tail(block) else { return false };
        let expected = be32(block, body.len());
        expected == Some(seed.update(body).update(&[0; TAIL_LEN]).value())
    }

    /// Tells whether the log's copy of a block agrees with its tag.
    ///
    /// SOURCE: `jbd2_block_tag_csum_verify`; over the copy as it stands, escaped or not.
    pub(super) fn copy_holds(&self, tag: &Tag, tid: Tid, copy: &[u8]) -> bool {
        match self.checksums {
            Checksums::None | Checksums::V1 => true,
            Checksums::V2(seed) => {
                let sum = seed.update(&tid.0.to_be_bytes()).update(copy).value();
                sum & 0xffff == tag.checksum
            }
            Checksums::V3(seed) => {
                seed.update(&tid.0.to_be_bytes()).update(copy).value() == tag.checksum
            }
        }
    }

    /// Tells whether copies carry checksums, so that checking one means reading it.
    pub(super) fn checks_copies(&self) -> bool {
        matches!(self.checksums, Checksums::V2(_) | Checksums::V3(_))
    }

    /// Tells whether a commit block commits: agrees with its own checksum, or for version 1 with
    /// `transaction`, the CRC-32 of the descriptor blocks and copies before it.
    ///
    /// SOURCE: `do_one_pass`, `jbd2_commit_block_csum_verify`. A block whose header alone is
    /// right, the rest being stale, commits too (`jbd2_commit_block_csum_verify_partial`): a disk
    /// may write sectors, not blocks.
    pub(super) fn commit_holds(&self, block: &[u8], transaction: u32) -> bool {
        let Some(found) = be32(block, COMMIT_CHECKSUM_AT) else { return false };
        match self.checksums {
            Checksums::None => true,
            Checksums::V1 => match (block.get(HEADER_LEN), block.get(HEADER_LEN + 1)) {
                (Some(&CRC32_TYPE), Some(&CRC32_SIZE)) => found == transaction,
                (Some(0), Some(0)) => found == 0,
                _ => false,
            },
            Checksums::V2(seed) | Checksums::V3(seed) => {
                let Some(before) = block.get(..COMMIT_CHECKSUM_AT) else { return false };
                let rest = block.get(COMMIT_CHECKSUM_AT + 4..).unwrap_or_default();
                let sum = seed.update(before).update(&[0; 4]);
                let header_len = COMMIT_HEADER_LEN - COMMIT_CHECKSUM_AT - 4;
                sum.update(rest).value() == found
                    || rest.split_at_checked(header_len).is_some_and(|(header, stale)| {
                        sum.update(header).update_zeros(stale.len()).value() == found
                    })
            }
        }
    }
}

/// Adds a descriptor block or a copy to the version 1 checksum of a transaction.
///
/// SOURCE: `calc_chksums`; the sum starts as [`TRANSACTION_SUM_START`].
pub(super) fn add_to_transaction_sum(sum: u32, block: &[u8]) -> u32 {
    let mut digest = CRC32_BE.digest_with_initial(sum);
    digest.update(block);
    digest.finalize()
}

/// What the version 1 checksum of a transaction starts with.
pub(super) const TRANSACTION_SUM_START: u32 = u32::MAX;

/// Returns `h_commit_sec` of a commit block, seconds since 1970.
pub(super) fn commit_seconds(block: &[u8]) -> u64 {
    be64(block, 48).unwrap_or_default()
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}
