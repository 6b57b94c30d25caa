//! Which blocks hold an inode's content.

use alloc::{collections::BTreeSet, vec::Vec};

use super::{
    blocks::{Block, Blocks},
    zones::Zones,
};
use crate::{ByteLen, ByteOffset, ByteRange, Codec, Error, Extent, ExtentKind};

/// Of one inode no more than this many errors are kept: the first tells enough.
const MAX_DAMAGE: usize = 16;

/// Consecutive blocks of content in consecutive blocks of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First block of content.
    pub(super) logical: u64,
    /// First block of the file system.
    pub(super) first: Block,
    /// How many, at least one.
    pub(super) count: u64,
    /// Allocated and never written.
    pub(super) unwritten: bool,
}

impl Run {
    /// Returns the first block of content after it.
    pub(super) fn logical_end(&self) -> u64 {
        self.logical.saturating_add(self.count)
    }
}

/// The runs of an inode, sorted by content, and what was wrong with the rest.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    /// Sorted, without overlap in the content nor on the volume, inside the volume, outside the
    /// file system's own structures.
    pub(super) runs: Vec<Run>,
    /// What was left out and why.
    pub(super) damage: Vec<Error>,
    blocks: u64,
    /// Blocks of the map or tree itself.
    nodes: BTreeSet<Block>,
}

impl Mapping {
    /// Notes a part that cannot be used.
    pub(super) fn damaged(&mut self, error: Error) {
        if self.damage.len() < MAX_DAMAGE {
            self.damage.push(error);
        }
    }

    /// Tells whether so much is wrong that the rest is not worth reading.
    pub(super) fn hopeless(&self) -> bool {
        self.damage.len() >= MAX_DAMAGE
    }

    /// Notes a block of the map or tree itself, before it is read.
    ///
    /// # Errors
    /// The reason, where no such block can be there: a tree that leads back into itself would
    /// have no end.
    pub(super) fn enter(&mut self, block: Block, zones: &Zones) -> Result<(), &'static str> {
        if zones.overlap(block, 1) {
            return Err("it lies in the file system's own structures");
        }
        match self.nodes.insert(block) {
            true => Ok(()),
            false => Err("it is part of the same tree twice"),
        }
    }

    /// Adds the next run of the content, or says what is wrong with it.
    ///
    /// # Errors
    /// The reason, where the run goes back in the content or lies where no content can.
    pub(super) fn push(
        &mut self,
        run: Run,
        blocks: &Blocks<'_>,
        zones: &Zones,
    ) -> Result<(), &'static str> {
        let end = run.first.0.checked_add(run.count).ok_or("it ends past the last offset")?;
        if end > blocks.end().0 {
            return Err("its content lies past the end of the file system or volume");
        }
        if zones.overlap(run.first, run.count) {
            return Err("its content lies in the file system's own structures");
        }
        if !run.unwritten && blocks.lost_in(run.first, run.count).is_some() {
            return Err("the newest copy of its content is damaged in the journal");
        }
        self.blocks = self.blocks.saturating_add(run.count);
        if self.blocks > blocks.end().0 {
            return Err("it has more blocks than the file system");
        }
        let Some(last) = self.runs.last_mut() else {
            self.runs.push(run);
            return Ok(());
        };
        if run.logical < last.logical_end() {
            return Err("a part of its content is mapped twice");
        }
        let adjoins = last.first.0.saturating_add(last.count) == run.first.0;
        if run.logical == last.logical_end() && adjoins && run.unwritten == last.unwritten {
            last.count = last.count.saturating_add(run.count);
        } else {
            self.runs.push(run);
        }
        Ok(())
    }

    /// Returns the blocks of content, written or not, and those of the map or tree itself.
    pub(super) fn used(&self) -> impl Iterator<Item = (Block, u64)> + '_ {
        let runs = self.runs.iter().map(|run| (run.first, run.count));
        runs.chain(self.nodes.iter().map(|&node| (node, 1)))
    }

    /// Tells whether two runs, or a run and the map or tree, share a block of the file system.
    pub(super) fn shares_blocks(&self) -> bool {
        if self.runs.len() < 2 && self.nodes.is_empty() {
            return false;
        }
        let runs = self.runs.iter().map(|run| (run.first.0, run.count));
        let nodes = self.nodes.iter().map(|node| (node.0, 1));
        let mut places: Vec<(u64, u64)> = runs.chain(nodes).collect();
        places.sort_unstable();
        places.windows(2).any(|pair| match pair {
            [(first, count), (next, _)] => first.saturating_add(*count) > *next,
            _ => false,
        })
    }

    /// Returns the extents of the runs, with the journal's copies where those are newer.
    pub(super) fn extents(&self, blocks: &Blocks<'_>) -> Vec<Extent> {
        let mut extents = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            if run.unwritten {
                extents.push(extent(blocks, run, run.first, run.count, ExtentKind::Unwritten));
            } else {
                written(blocks, run, &mut extents);
            }
        }
        extents
    }
}

/// Adds the extents of a written run, cut around the blocks that the journal replaces.
fn written(blocks: &Blocks<'_>, run: &Run, extents: &mut Vec<Extent>) {
    let mut next = run.first;
    let end = run.first.0.saturating_add(run.count);
    for &(block, copy) in blocks.replayed_in(run.first, run.count) {
        let before = block.saturating_sub(next.0);
        if before > 0 {
            extents.push(extent(blocks, run, next, before, ExtentKind::Data));
        }
        let mut piece = extent(blocks, run, Block(block), 1, ExtentKind::Data);
        piece.volume = copy.volume;
        piece.codec = if copy.escaped { Codec::Jbd2Escaped } else { Codec::None };
        push_merged(extents, piece);
        next = Block(block.saturating_add(1));
    }
    let rest = end.saturating_sub(next.0);
    if rest > 0 {
        extents.push(extent(blocks, run, next, rest, ExtentKind::Data));
    }
}

/// Adds the extent to the last one where both are plain and adjoin.
fn push_merged(extents: &mut Vec<Extent>, piece: Extent) {
    if let Some(last) = extents.last_mut() {
        let logical_end = last.logical.checked_add(last.volume.len());
        let plain = last.codec == Codec::None && piece.codec == Codec::None;
        let both = ByteRange::between(last.volume.start(), piece.volume.end());
        if plain
            && last.kind == piece.kind
            && logical_end == Some(piece.logical)
            && last.volume.end() == piece.volume.start()
            && let Some(both) = both
        {
            last.volume = both;
            return;
        }
    }
    extents.push(piece);
}

fn extent(blocks: &Blocks<'_>, run: &Run, first: Block, count: u64, kind: ExtentKind) -> Extent {
    let logical = run.logical.saturating_add(first.0.saturating_sub(run.first.0));
    let logical = logical.saturating_mul(u64::from(blocks.block_size()));
    Extent {
        logical: ByteOffset(logical),
        volume: blocks.range(first, count),
        kind,
        codec: Codec::None,
    }
}

/// Returns the extent of `len` bytes of content that stand in a metadata block.
pub(super) fn inline(logical: ByteOffset, at: ByteOffset, len: ByteLen) -> Extent {
    Extent {
        logical,
        volume: ByteRange::new(at, len).unwrap_or_default(),
        kind: ExtentKind::Inline,
        codec: Codec::None,
    }
}
