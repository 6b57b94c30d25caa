//! The journal as a row of numbered blocks, wherever they stand in the volume.

use alloc::{vec, vec::Vec};

use super::JournalGeometry;
use crate::{ByteLen, ByteOffset, ByteRange, Error, ReadAt, Result};

/// The number of a block within the journal; block 0 holds the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogBlock(pub(super) u32);

/// The ring of blocks that transactions are written to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    /// `s_first`: the first block.
    pub(super) first: LogBlock,
    /// The block after the last one, above `first`.
    pub(super) end: LogBlock,
}

impl Ring {
    /// Returns the number of blocks.
    pub(super) fn len(self) -> u32 {
        self.end.0.saturating_sub(self.first.0)
    }

    /// Tells whether the block is one of the ring.
    pub(super) fn contains(self, block: LogBlock) -> bool {
        self.first <= block && block < self.end
    }

    /// Returns the block `count` places further round the ring.
    ///
    /// SOURCE: `wrap` in `fs/jbd2/recovery.c`.
    pub(super) fn forward(self, block: LogBlock, count: u32) -> LogBlock {
        let place = u64::from(block.0.saturating_sub(self.first.0)) + u64::from(count);
        let place = place.checked_rem(u64::from(self.len())).unwrap_or_default();
        let place = u32::try_from(place).unwrap_or_default();
        LogBlock(self.first.0.saturating_add(place))
    }
}

/// The journal's blocks in the volume.
pub(super) struct Log<'a> {
    volume: &'a dyn ReadAt,
    block_size: u32,
    /// Each run of blocks: its first block's number, its place in the volume.
    runs: Vec<(u64, ByteRange)>,
    blocks: u64,
}

impl<'a> Log<'a> {
    /// Makes the journal that the geometry describes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the geometry is impossible.
    pub(super) fn new(volume: &'a dyn ReadAt, geometry: &JournalGeometry<'_>) -> Result<Self> {
        let block_size = geometry.block_size;
        let at = geometry.blocks.first().map_or(ByteOffset(0), |range| range.start());
        let corrupt = |reason| Error::Corrupt { structure: "journal", at, reason };
        if !block_size.is_power_of_two() || !(1024..=65536).contains(&block_size) {
            return Err(corrupt("its block size is impossible"));
        }
        let mut runs = Vec::new();
        let mut blocks = 0_u64;
        for &range in geometry.blocks {
            if range.is_empty() || !range.len().0.is_multiple_of(u64::from(block_size)) {
                return Err(corrupt("a piece of it is not a number of blocks"));
            }
            runs.push((blocks, range));
            let more = range.len().0 / u64::from(block_size);
            blocks = blocks.checked_add(more).ok_or(corrupt("it is longer than any disk"))?;
        }
        Ok(Self { volume, block_size, runs, blocks })
    }

    /// Returns the number of blocks.
    pub(super) fn len(&self) -> u64 {
        self.blocks
    }

    /// Returns where the block stands in the volume.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the journal has no such block or the volume ends before it.
    pub(super) fn place(&self, block: LogBlock) -> Result<ByteRange> {
        let number = u64::from(block.0);
        let after = self.runs.partition_point(|&(first, _)| first <= number);
        let run = after.checked_sub(1).and_then(|at| self.runs.get(at));
        let whole = ByteRange::new(ByteOffset(0), self.volume.len()).unwrap_or_default();
        let range = run.and_then(|&(first, run)| {
            let skip = number.checked_sub(first)?.checked_mul(u64::from(self.block_size))?;
            let start = run.start().checked_add(ByteLen(skip))?;
            let range = ByteRange::new(start, ByteLen(u64::from(self.block_size)))?;
            (run.contains(range) && whole.contains(range)).then_some(range)
        });
        range.ok_or_else(|| self.corrupt("journal", block, "the journal or the volume ends here"))
    }

    /// Reads the block into `buf`, which is one block long.
    ///
    /// # Errors
    /// Those of [`Log::place`], and [`Error::Io`] where the volume does not give the bytes.
    pub(super) fn read(&self, block: LogBlock, buf: &mut [u8]) -> Result<()> {
        let place = self.place(block)?;
        self.volume
            .read_at(place.start(), buf)
            .map_err(|source| Error::Io { structure: "journal", source })
    }

    /// Makes a buffer for one block.
    pub(super) fn buffer(&self) -> Vec<u8> {
        vec![0; usize::try_from(self.block_size).unwrap_or_default()]
    }

    /// Makes the error of a damaged block.
    pub(super) fn corrupt(
        &self,
        structure: &'static str,
        block: LogBlock,
        reason: &'static str,
    ) -> Error {
        Error::Corrupt { structure, at: self.position(block), reason }
    }

    /// Returns where the block starts, the end of the journal for a block beyond it.
    pub(super) fn position(&self, block: LogBlock) -> ByteOffset {
        let number = u64::from(block.0);
        let after = self.runs.partition_point(|&(first, _)| first <= number);
        let run = after.checked_sub(1).and_then(|at| self.runs.get(at));
        run.map_or(ByteOffset(0), |&(first, run)| {
            let skip = number.saturating_sub(first).saturating_mul(u64::from(self.block_size));
            run.start().checked_add(ByteLen(skip)).unwrap_or_default().min(run.end())
        })
    }
}
