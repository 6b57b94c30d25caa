//! Extent trees.
//!
//! SOURCE: Linux `fs/ext4/ext4_extents.h` (layout), `fs/ext4/extents.c` (`__ext4_ext_check`,
//! `ext4_valid_extent_entries`).

use alloc::vec::Vec;

use super::{
    blocks::{Block, Blocks},
    features,
    fields::{Fields, join},
    inode::RawInode,
    mapping::{Mapping, Run},
    reader::Reader,
    zones::Zones,
};
use crate::{Error, Result};

const MAGIC: u16 = 0xf30a;
const MAX_DEPTH: u16 = 5;
const ENTRY: usize = 12;
/// A longer extent is unwritten, and that much shorter than it says.
const MAX_WRITTEN: u16 = 32768;

/// One entry of a node: an extent in a leaf, a child elsewhere.
struct Entry {
    logical: u32,
    /// Length field of an extent.
    len: u16,
    block: Block,
}

/// The entries of one node and its depth above the leaves.
struct Node {
    depth: u16,
    entries: Vec<Entry>,
}

/// The first block of content that no tree can have.
const END: u64 = 1 << 32;

/// A child to be visited, with what its parent says of it.
struct Child {
    logical: u32,
    /// Where the content of the next child begins.
    end: u64,
    block: Block,
    depth: u16,
}

/// Maps an inode through its extent tree.
///
/// # Errors
/// Only `Limit`: everything else is noted in the mapping.
pub(super) fn map(reader: &mut Reader<'_>, inode: &RawInode) -> Result<Mapping> {
    let mut mapping = Mapping::default();
    let mut children = Vec::new();
    match parse(&inode.block_map()) {
        Ok(root) => {
            let fields = inode.block_map();
            take(reader.blocks, reader.zones, &fields, root, END, &mut mapping, &mut children);
        }
        Err(error) => mapping.damaged(error),
    }
    while let Some(child) = children.pop()
        && !mapping.hopeless()
    {
        reader.steps.take(1)?;
        if let Err(error) = visit(reader, inode, &child, &mut mapping, &mut children) {
            mapping.damaged(error);
        }
    }
    Ok(mapping)
}

fn visit(
    reader: &mut Reader<'_>,
    inode: &RawInode,
    child: &Child,
    mapping: &mut Mapping,
    children: &mut Vec<Child>,
) -> Result<()> {
    let structure = "extent node";
    let checksums = reader.superblock.features.has(features::METADATA_CSUM);
    let at = reader.blocks.place(child.block);
    let entered = mapping.enter(child.block, reader.zones);
    entered.map_err(|reason| Error::Corrupt { structure, at, reason })?;
    let bytes = reader.nodes.block(reader.blocks, child.block);
    let fields =
        Fields::new(structure, at, bytes.map_err(|source| Error::Io { structure, source })?);
    let node = parse(&fields)?;
    if checksums {
        check_checksum(&fields, inode)?;
    }
    if node.depth != child.depth {
        return Err(fields.corrupt("its depth is not what its parent says"));
    }
    match node.entries.first() {
        Some(first) if first.logical != child.logical => {
            return Err(fields.corrupt("it starts elsewhere than its parent says"));
        }
        None if node.depth > 0 => return Err(fields.corrupt("an inner node without children")),
        _ => {}
    }
    take(reader.blocks, reader.zones, &fields, node, child.end, mapping, children);
    Ok(())
}

/// Takes the extents of a leaf, or the children of another node, first one last.
fn take(
    blocks: &Blocks<'_>,
    zones: &Zones,
    fields: &Fields<'_>,
    node: Node,
    end: u64,
    mapping: &mut Mapping,
    children: &mut Vec<Child>,
) {
    if let Some(depth) = node.depth.checked_sub(1) {
        let starts = node.entries.iter().map(|entry| u64::from(entry.logical));
        let mut ends: Vec<u64> = starts.skip(1).chain([end]).collect();
        children.extend(node.entries.iter().rev().map(|entry| Child {
            logical: entry.logical,
            end: ends.pop().unwrap_or(end),
            block: entry.block,
            depth,
        }));
        return;
    }
    for entry in &node.entries {
        let unwritten = entry.len > MAX_WRITTEN;
        let count = if unwritten { entry.len.saturating_sub(MAX_WRITTEN) } else { entry.len };
        let run = Run {
            logical: u64::from(entry.logical),
            first: entry.block,
            count: u64::from(count),
            unwritten,
        };
        let result = match count {
            0 => Err("an empty extent"),
            _ if run.logical_end() > end => Err("it reaches into another node's content"),
            _ => mapping.push(run, blocks, zones),
        };
        if let Err(reason) = result {
            mapping.damaged(fields.corrupt(reason));
        }
    }
}

fn parse(fields: &Fields<'_>) -> Result<Node> {
    if fields.u16(0)? != MAGIC {
        return Err(fields.corrupt("no extent header"));
    }
    let (count, room, depth) = (fields.u16(2)?, fields.u16(4)?, fields.u16(6)?);
    let bytes = ENTRY.saturating_mul(usize::from(room).saturating_add(1));
    if count > room || bytes > fields.len() {
        return Err(fields.corrupt("more extents than it has room for"));
    }
    if depth > MAX_DEPTH {
        return Err(fields.corrupt("an extent tree deeper than five"));
    }
    let mut entries = Vec::with_capacity(usize::from(count));
    for index in 1..=usize::from(count) {
        let at = ENTRY.saturating_mul(index);
        let logical = fields.u32(at)?;
        let (a, b) = (fields.u32(at.saturating_add(4))?, fields.u32(at.saturating_add(8))?);
        // A leaf has length, high and low half; an inner entry low and high half.
        let [len_low, len_high, high_low, high_high] = a.to_le_bytes();
        entries.push(match depth {
            0 => Entry {
                logical,
                len: u16::from_le_bytes([len_low, len_high]),
                block: Block(join(b, u32::from(u16::from_le_bytes([high_low, high_high])))),
            },
            _ => Entry { logical, len: 0, block: Block(join(a, b & 0xffff)) },
        });
    }
    let sorted = entries.is_sorted_by(|one, next| one.logical < next.logical);
    if !sorted {
        return Err(fields.corrupt("its extents are not in order"));
    }
    Ok(Node { depth, entries })
}

fn check_checksum(fields: &Fields<'_>, inode: &RawInode) -> Result<()> {
    let room = usize::from(fields.u16(4)?);
    let tail = ENTRY.saturating_mul(room.saturating_add(1));
    if inode.seed.of(fields.slice(0, tail)?).0 != fields.u32(tail)? {
        return Err(fields.corrupt("wrong checksum"));
    }
    Ok(())
}
