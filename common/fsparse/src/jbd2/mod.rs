//! The jbd2 journal of ext3 and ext4, replayed in memory, read only.
//!
//! The answer is a map from file-system blocks to the journal's copies of them: whoever reads
//! the file system looks a block up there first. Nothing is written and no content is kept.
//!
//! SOURCE: Linux `include/linux/jbd2.h` (layouts) and `fs/jbd2/recovery.c` (the three passes).

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use self::{log::Log, scan::Scan, superblock::Superblock};
use crate::{ByteOffset, ByteRange, Error, ReadAt, Result, Warning};

mod apply;
mod checksum;
mod fast_commit;
mod layout;
mod log;
mod scan;
mod superblock;
#[cfg(test)]
mod tests;

/// Which blocks of the file system have a newer copy in the journal, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    blocks: BTreeMap<u64, ReplayedBlock>,
    lost: BTreeSet<u64>,
}

/// Where the newest committed copy of a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayedBlock {
    /// The journal's copy, one block long, in the volume.
    pub volume: ByteRange,
    /// True where the first four bytes of the copy stand for the jbd2 magic (C0 3B 39 98), which
    /// the journal replaced by zeros.
    pub escaped: bool,
}

impl Replay {
    /// Makes the replay of a journal that holds nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Returns the journal's copy of the block, or `None` where the block's own place is right
    /// or the block is one of [`Replay::lost`].
    pub fn block(&self, fs_block: u64) -> Option<ReplayedBlock> {
        self.blocks.get(&fs_block).copied()
    }

    /// Tells whether the journal replaces no block.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Returns the number of blocks that the journal replaces.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Goes through the blocks whose newest copy is damaged, in ascending order: what stands in
    /// their own place, or in an older copy, is known to be out of date.
    pub fn lost(&self) -> impl Iterator<Item = u64> {
        self.lost.iter().copied()
    }

    /// Goes through the replaced blocks in ascending order of block numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, ReplayedBlock)> {
        self.blocks.iter().map(|(&block, &copy)| (block, copy))
    }
}

/// What the replay needs to know of the file system.
#[derive(Clone, Copy, Debug)]
pub struct JournalGeometry<'a> {
    /// Bytes of a block, of the file system and of the journal alike.
    pub block_size: u32,
    /// Number of blocks of the file system: no block from here on exists.
    pub fs_blocks: u64,
    /// The journal's blocks as ranges of the volume in logical order, adjacent ones merged; each
    /// is a whole number of blocks long.
    pub blocks: &'a [ByteRange],
    /// The file system's UUID. A journal within the file system does not need it (its checksums
    /// are seeded with the journal's own UUID); one on another device finds its users by it.
    pub fs_uuid: [u8; 16],
}

/// Replays the journal in memory.
///
/// Call it only where the file system's superblock says `needs_recovery`: the kernel discards the
/// log of one that does not (`ext4_load_journal`, `jbd2_journal_wipe`). The warnings (1000 at
/// most) name what was left out: copies and commit blocks that fail their checksums, blocks
/// beyond the end of the file system. A block whose newest copy fails is lost: the kernel leaves
/// an older state of it in place, and refuses to mount.
///
/// # Errors
/// [`Error::NotFound`] where no journal superblock stands at the first block;
/// [`Error::Corrupt`] where it, or a block of a committed transaction that is needed to follow
/// the log, contradicts itself or its checksum (the kernel refuses to mount then);
/// [`Error::Unsupported`] for features that this version cannot read: external and shared
/// journals, fast commits after the last full one;
/// [`Error::Limit`] for a log of absurd size;
/// [`Error::Io`] where the log cannot be read.
pub fn replay(
    volume: &dyn ReadAt,
    geometry: &JournalGeometry<'_>,
) -> Result<(Replay, Vec<Warning>)> {
    if geometry.blocks.is_empty() {
        let feature = "a journal on another device";
        return Err(Error::Unsupported { structure: "journal", at: ByteOffset(0), feature });
    }
    let log = Log::new(volume, geometry)?;
    let superblock = Superblock::read(&log)?;
    let Some(tail) = superblock.tail else { return Ok((Replay::empty(), Vec::new())) };
    let Scan { records, end, damage } = scan::scan(&log, &superblock, tail)?;
    if let Some(blocks) = superblock.fast_commits
        && fast_commit::holds_commit(&log, blocks, end)?
    {
        let at = log.position(blocks.first);
        return Err(Error::Unsupported { structure: "journal", at, feature: "fast commits" });
    }
    let (replay, mut warnings) = apply::apply(&log, &superblock, geometry.fs_blocks, &records)?;
    warnings.extend(damage.map(|error| Warning { inode: None, error }));
    Ok((replay, warnings))
}
