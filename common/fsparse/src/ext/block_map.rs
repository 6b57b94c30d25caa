//! Block maps of ext2 and ext3: direct, indirect, double and triple indirect blocks.
//!
//! SOURCE: Linux `fs/ext4/indirect.c` (`ext4_block_to_path`).

use alloc::vec::Vec;

use super::{
    blocks::{Block, Blocks},
    fields::Fields,
    inode::RawInode,
    mapping::{Mapping, Run},
    reader::Reader,
    zones::Zones,
};
use crate::{Error, Result};

const DIRECT: usize = 12;
const POINTERS: usize = 15;

/// A block of pointers to be visited.
struct Indirect {
    block: Block,
    /// 0 where its pointers lead to content.
    level: u32,
    logical: u64,
}

/// Maps an inode through its block map.
///
/// # Errors
/// Only `Limit`: everything else is noted in the mapping.
pub(super) fn map(reader: &mut Reader<'_>, inode: &RawInode) -> Result<Mapping> {
    let mut mapping = Mapping::default();
    let per_block = u64::from(reader.superblock.block_size / 4);
    let root = inode.block_map();
    let mut logical = 0u64;
    for index in 0..DIRECT {
        content(reader.blocks, reader.zones, &root, index, logical, &mut mapping)?;
        logical = logical.saturating_add(1);
    }
    for (level, index) in (0..).zip(DIRECT..POINTERS) {
        let mut pending = Vec::new();
        pointer(&root, index, level, logical, &mut pending)?;
        while let Some(indirect) = pending.pop()
            && !mapping.hopeless()
        {
            reader.steps.take(1)?;
            if let Err(error) = visit(reader, &indirect, &mut mapping, &mut pending) {
                mapping.damaged(error);
            }
        }
        logical = logical.saturating_add(span(per_block, level).saturating_mul(per_block));
    }
    Ok(mapping)
}

/// Returns how many blocks of content one pointer of a block of that level leads to.
fn span(per_block: u64, level: u32) -> u64 {
    per_block.saturating_pow(level)
}

fn visit(
    reader: &mut Reader<'_>,
    indirect: &Indirect,
    mapping: &mut Mapping,
    pending: &mut Vec<Indirect>,
) -> Result<()> {
    let structure = "indirect block";
    let at = reader.blocks.place(indirect.block);
    let entered = mapping.enter(indirect.block, reader.zones);
    entered.map_err(|reason| Error::Corrupt { structure, at, reason })?;
    let count = usize::try_from(reader.superblock.block_size / 4).unwrap_or(0);
    let step = span(u64::from(reader.superblock.block_size / 4), indirect.level);
    let (blocks, zones) = (reader.blocks, reader.zones);
    let bytes = reader.nodes.block(blocks, indirect.block);
    let bytes = bytes.map_err(|source| Error::Io { structure, source })?;
    let fields = Fields::new(structure, at, bytes);
    let first = pending.len();
    let mut logical = indirect.logical;
    for index in 0..count {
        match indirect.level.checked_sub(1) {
            None => content(blocks, zones, &fields, index, logical, mapping)?,
            Some(level) => pointer(&fields, index, level, logical, pending)?,
        }
        logical = logical.saturating_add(step);
    }
    if let Some(added) = pending.get_mut(first..) {
        added.reverse();
    }
    Ok(())
}

/// Takes the pointer `index` to a block of content.
fn content(
    blocks: &Blocks<'_>,
    zones: &Zones,
    fields: &Fields<'_>,
    index: usize,
    logical: u64,
    mapping: &mut Mapping,
) -> Result<()> {
    let block = fields.u32(index.saturating_mul(4))?;
    if block != 0 {
        let first = Block(u64::from(block));
        let run = Run { logical, first, count: 1, unwritten: false };
        if let Err(reason) = mapping.push(run, blocks, zones) {
            mapping.damaged(fields.corrupt(reason));
        }
    }
    Ok(())
}

/// Takes the pointer `index` to a block of pointers.
fn pointer(
    fields: &Fields<'_>,
    index: usize,
    level: u32,
    logical: u64,
    pending: &mut Vec<Indirect>,
) -> Result<()> {
    let block = fields.u32(index.saturating_mul(4))?;
    if block != 0 {
        pending.push(Indirect { block: Block(u64::from(block)), level, logical });
    }
    Ok(())
}
