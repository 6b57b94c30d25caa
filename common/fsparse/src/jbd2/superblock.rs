//! The journal's superblock.
//!
//! SOURCE: Linux `include/linux/jbd2.h` (`journal_superblock_t`), `fs/jbd2/journal.c`
//! (`journal_check_superblock`, `journal_load_superblock`).

use super::{
    checksum::Crc32c,
    layout::{Checksums, Format, MAGIC, SUPERBLOCK_V1, SUPERBLOCK_V2, Tid, be32},
    log::{Log, LogBlock, Ring},
};
use crate::{Error, Result};

const STRUCTURE: &str = "journal superblock";
/// `sizeof(journal_superblock_t)`.
const LEN: usize = 1024;
/// Where `s_checksum` stands.
const CHECKSUM_AT: usize = 0xfc;
/// `JBD2_CRC32C_CHKSUM`.
const CRC32C_TYPE: u8 = 4;

const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_REVOKE: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const INCOMPAT_KNOWN: u32 = INCOMPAT_REVOKE
    | INCOMPAT_64BIT
    | INCOMPAT_ASYNC_COMMIT
    | INCOMPAT_CSUM_V2
    | INCOMPAT_CSUM_V3
    | INCOMPAT_FAST_COMMIT;

/// `JBD2_DEFAULT_FAST_COMMIT_BLOCKS`: what `s_num_fc_blks` = 0 means.
const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;

/// What the superblock says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superblock {
    /// How the log's blocks are laid out.
    pub(super) format: Format,
    /// Where transactions stand.
    pub(super) ring: Ring,
    /// The blocks of fast commits, where the journal has them; they are no part of `ring`.
    pub(super) fast_commits: Option<Ring>,
    /// Where the log begins, and its first transaction; `None` where the log is empty.
    pub(super) tail: Option<Tail>,
}

/// Where the log begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    /// `s_start`.
    pub(super) block: LogBlock,
    /// `s_sequence`.
    pub(super) tid: Tid,
}

impl Superblock {
    /// Reads and checks the superblock.
    ///
    /// # Errors
    /// As [`super::replay`].
    pub(super) fn read(log: &Log<'_>) -> Result<Self> {
        let mut block = log.buffer();
        log.read(LogBlock(0), &mut block)?;
        let at = log.position(LogBlock(0));
        let corrupt = |reason| Error::Corrupt { structure: STRUCTURE, at, reason };
        let unsupported = |feature| Error::Unsupported { structure: STRUCTURE, at, feature };
        let short = corrupt("it is cut short");
        let bytes = block.get(..LEN).ok_or(short.clone())?;
        let field = |offset| be32(bytes, offset).ok_or(short.clone());

        if field(0)? != MAGIC {
            return Err(Error::NotFound { structure: STRUCTURE, at });
        }
        // Version 1 has no feature words; whatever stands in their place means nothing.
        let (compat, incompat, ro_compat) = match field(4)? {
            SUPERBLOCK_V1 => (0, 0, 0),
            SUPERBLOCK_V2 => (field(0x24)?, field(0x28)?, field(0x2c)?),
            _ => return Err(unsupported("an unknown version")),
        };
        if usize::try_from(field(0xc)?).ok() != Some(block.len()) {
            return Err(corrupt("its block size is not the file system's"));
        }
        if incompat & !INCOMPAT_KNOWN != 0 || ro_compat != 0 {
            return Err(unsupported("unknown features"));
        }
        if field(4)? == SUPERBLOCK_V2 && field(0x40)? > 1 {
            return Err(unsupported("a journal shared by several file systems"));
        }
        let checksums = checksums(bytes, compat, incompat).map_err(corrupt)?;
        let format = Format {
            wide: incompat & INCOMPAT_64BIT != 0,
            async_commit: incompat & INCOMPAT_ASYNC_COMMIT != 0,
            checksums,
        };
        let (ring, fast_commits) = rings(log, bytes, incompat).ok_or(corrupt(
            "its length, first block and number of fast-commit blocks contradict each other",
        ))?;
        let tail = match field(0x1c)? {
            0 => None,
            start => Some(Tail { block: LogBlock(start), tid: Tid(field(0x18)?) }),
        };
        if tail.is_some_and(|tail| !ring.contains(tail.block)) {
            return Err(corrupt("the log begins outside of the journal"));
        }
        Ok(Self { format, ring, fast_commits, tail })
    }
}

/// Finds which checksums the log has, and checks the superblock's own.
fn checksums(bytes: &[u8], compat: u32, incompat: u32) -> Result<Checksums, &'static str> {
    let v1 = compat & COMPAT_CHECKSUM != 0;
    let v2 = incompat & INCOMPAT_CSUM_V2 != 0;
    let v3 = incompat & INCOMPAT_CSUM_V3 != 0;
    match (v1, v2, v3) {
        (false, false, false) => return Ok(Checksums::None),
        (true, false, false) => return Ok(Checksums::V1),
        (false, true, false) | (false, false, true) => {}
        _ => return Err("it asks for several kinds of checksum at once"),
    }
    if bytes.get(0x50) != Some(&CRC32C_TYPE) {
        return Err("its kind of checksum is unknown");
    }
    let before = bytes.get(..CHECKSUM_AT).unwrap_or_default();
    let after = bytes.get(CHECKSUM_AT + 4..).unwrap_or_default();
    let sum = Crc32c::seeded(u32::MAX).update(before).update(&[0; 4]).update(after).value();
    if be32(bytes, CHECKSUM_AT) != Some(sum) {
        return Err("its checksum does not hold");
    }
    let uuid = bytes.get(0x30..0x40).unwrap_or_default();
    let seed = Crc32c::seeded(u32::MAX).update(uuid);
    Ok(if v2 { Checksums::V2(seed) } else { Checksums::V3(seed) })
}

/// Finds the log's ring and the fast-commit blocks, or `None` where they do not fit.
///
/// The kernel refuses journals of less than 1024 blocks as well; reading them harms nobody.
fn rings(log: &Log<'_>, bytes: &[u8], incompat: u32) -> Option<(Ring, Option<Ring>)> {
    let length = be32(bytes, 0x10)?;
    let first = be32(bytes, 0x14)?;
    let fast_commit_blocks = match (incompat & INCOMPAT_FAST_COMMIT != 0, be32(bytes, 0x54)?) {
        (false, _) => 0,
        (true, 0) => DEFAULT_FAST_COMMIT_BLOCKS,
        (true, blocks) => blocks,
    };
    let end = length.checked_sub(fast_commit_blocks)?;
    if u64::from(length) > log.len() || first == 0 || first >= end {
        return None;
    }
    // `j_fc_first` is `j_last + 1`: the block between the two areas is never used.
    let fast = (fast_commit_blocks > 1)
        .then(|| Some(Ring { first: LogBlock(end.checked_add(1)?), end: LogBlock(length) }))
        .flatten();
    Some((Ring { first: LogBlock(first), end: LogBlock(end) }, fast))
}
