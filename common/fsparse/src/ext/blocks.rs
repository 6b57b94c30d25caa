//! Blocks of the volume as they are after the journal's replay, and a cache of them.

use alloc::vec::Vec;

use crate::{
    ByteLen, ByteOffset, ByteRange, ReadAt, ReadError,
    jbd2::{Replay, ReplayedBlock},
};

/// What jbd2 replaces by zeros where it escapes a block.
const JBD2_MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

/// The number of a block of the file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Block(pub(super) u64);

/// The blocks of a file system, each read from where its newest committed bytes stand.
#[derive(Clone)]
pub(super) struct Blocks<'a> {
    volume: &'a dyn ReadAt,
    block_size: u32,
    end: u64,
    replayed: Vec<(u64, ReplayedBlock)>,
    lost: Vec<u64>,
}

impl<'a> Blocks<'a> {
    /// Takes the volume, its geometry and what the journal replaces.
    pub(super) fn new(
        volume: &'a dyn ReadAt,
        block_size: u32,
        fs_blocks: u64,
        replay: &Replay,
    ) -> Self {
        let whole = volume.len().0.checked_div(u64::from(block_size)).unwrap_or(0);
        let (replayed, lost) = (replay.iter().collect(), replay.lost().collect());
        Self { volume, block_size, end: fs_blocks.min(whole), replayed, lost }
    }

    /// Returns the bytes of a block.
    pub(super) fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Returns the first block that is not there: the file system's or the volume's end.
    pub(super) fn end(&self) -> Block {
        Block(self.end)
    }

    /// Returns where the block's own bytes start, whether the volume reaches there or not.
    pub(super) fn offset(&self, block: Block) -> ByteOffset {
        ByteOffset(block.0.saturating_mul(u64::from(self.block_size)))
    }

    /// Returns the volume's bytes for `count` blocks.
    pub(super) fn range(&self, first: Block, count: u64) -> ByteRange {
        let len = ByteLen(count.saturating_mul(u64::from(self.block_size)));
        ByteRange::new(self.offset(first), len).unwrap_or_default()
    }

    /// Returns where the bytes of the block start that a reader gets: its own place, or its copy
    /// in the journal.
    pub(super) fn place(&self, block: Block) -> ByteOffset {
        match self.replayed_in(block, 1) {
            [(_, copy), ..] => copy.volume.start(),
            [] => self.offset(block),
        }
    }

    /// Returns the replaced blocks among `count` blocks from `first` on, in ascending order.
    pub(super) fn replayed_in(&self, first: Block, count: u64) -> &[(u64, ReplayedBlock)] {
        let from = self.replayed.partition_point(|&(block, _)| block < first.0);
        let end = first.0.saturating_add(count);
        let to = self.replayed.partition_point(|&(block, _)| block < end);
        self.replayed.get(from..to).unwrap_or_default()
    }

    /// Returns the first of `count` blocks from `first` on whose newest copy in the journal is
    /// damaged.
    pub(super) fn lost_in(&self, first: Block, count: u64) -> Option<Block> {
        let next = self.lost.partition_point(|&block| block < first.0);
        let end = first.0.saturating_add(count);
        self.lost.get(next).copied().filter(|&block| block < end).map(Block)
    }

    /// Fills `buf`, whole blocks long, with the blocks from `first` on.
    fn read(&self, first: Block, buf: &mut [u8]) -> Result<(), ReadError> {
        let block_len = usize::try_from(self.block_size).unwrap_or(usize::MAX);
        let count = super::fields::byte_len(buf.len()).0;
        let count = count.checked_div(u64::from(self.block_size)).unwrap_or(0);
        let replayed = self.replayed_in(first, count);
        if let Some(lost) = self.lost_in(first, count) {
            return Err(ReadError::Unreadable(self.range(lost, 1)));
        }
        // A block that the journal replaces is not read at home, where its sector may be bad.
        if count != 1 || replayed.is_empty() {
            self.volume.read_at(self.offset(first), buf)?;
        }
        for (block, copy) in replayed {
            let index = usize::try_from(block.saturating_sub(first.0)).unwrap_or(usize::MAX);
            let Some(bytes) = buf.chunks_exact_mut(block_len).nth(index) else { continue };
            self.volume.read_at(copy.volume.start(), bytes)?;
            if let (true, Some(start)) = (copy.escaped, bytes.first_chunk_mut()) {
                *start = JBD2_MAGIC;
            }
        }
        Ok(())
    }
}

/// Blocks in memory.
///
/// Each aligned piece of the file system has one slot that it may stand in. The first block that
/// is wanted of a piece is read alone, the second brings the whole piece: what lies scattered
/// does not cost a piece for each block.
pub(super) struct Cache {
    piece_blocks: u64,
    slots: Vec<Slot>,
}

#[derive(Clone, Default)]
struct Slot {
    piece: Option<u64>,
    /// The one block of the piece that is there; `None` where all are.
    only: Option<Block>,
    bytes: Vec<u8>,
}

impl Slot {
    /// Reads `count` blocks from `first` on.
    fn fill(&mut self, blocks: &Blocks<'_>, first: Block, count: u64) -> Result<(), ReadError> {
        let len = count.saturating_mul(u64::from(blocks.block_size));
        self.bytes.resize(usize::try_from(len).unwrap_or(0), 0);
        blocks.read(first, &mut self.bytes)
    }
}

impl Cache {
    /// Makes a cache for inode tables: 64 KiB a read, 4 MiB in all.
    pub(super) fn tables(block_size: u32) -> Self {
        Self::new(65536, 64, block_size)
    }

    /// Makes a cache for everything that stands in single blocks: 16 KiB a read, 4 MiB in all.
    pub(super) fn nodes(block_size: u32) -> Self {
        Self::new(16384, 256, block_size)
    }

    fn new(piece_bytes: u32, slots: usize, block_size: u32) -> Self {
        let piece_blocks = piece_bytes.checked_div(block_size).unwrap_or(1).max(1);
        Self { piece_blocks: u64::from(piece_blocks), slots: alloc::vec![Slot::default(); slots] }
    }

    /// Returns the bytes of the block.
    pub(super) fn block(&mut self, blocks: &Blocks<'_>, block: Block) -> Result<&[u8], ReadError> {
        if block >= blocks.end() {
            let len = blocks.volume.len();
            return Err(ReadError::PastEnd(blocks.range(block, 1), len));
        }
        let piece = block.0.checked_div(self.piece_blocks).unwrap_or(0);
        let first = piece.saturating_mul(self.piece_blocks);
        // Multiplying spreads pieces that lie a power of two apart over the slots.
        let spread = piece.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let slots = super::fields::byte_len(self.slots.len()).0;
        let slot = usize::try_from(spread.checked_rem(slots).unwrap_or(0)).unwrap_or(0);
        let slot = self.slots.get_mut(slot).ok_or(ReadError::Unreadable(blocks.range(block, 1)))?;
        let known = slot.piece.take() == Some(piece);
        if !known || slot.only.is_some_and(|only| only != block) {
            let count = self.piece_blocks.min(blocks.end.saturating_sub(first));
            if known && slot.fill(blocks, Block(first), count).is_ok() {
                slot.only = None;
            } else {
                // Also after a piece that failed: the bad sector may be a neighbour's.
                slot.fill(blocks, block, 1)?;
                slot.only = Some(block);
            }
        }
        slot.piece = Some(piece);
        if slot.only.is_some() {
            return Ok(&slot.bytes);
        }
        let block_len = usize::try_from(blocks.block_size).unwrap_or(usize::MAX);
        let index = usize::try_from(block.0.saturating_sub(first)).unwrap_or(usize::MAX);
        let bytes = slot.bytes.chunks_exact(block_len).nth(index);
        bytes.ok_or(ReadError::Unreadable(blocks.range(block, 1)))
    }
}
