//! Reads inodes and their mappings: what both the walk and the search for the journal need.

use alloc::vec::Vec;

use super::{
    block_map,
    blocks::{Block, Blocks, Cache},
    extent_tree, features,
    fields::Fields,
    group::Groups,
    inode::{FLAG_EXTENTS, RawInode},
    mapping::Mapping,
    superblock::Superblock,
    zones::Zones,
};
use crate::{ByteLen, Error, Result};

/// The shortest entry of a directory, in bytes: no two entries share a byte.
const SMALLEST_ENTRY: u64 = 12;
/// Names above what fits the volume, and bytes of attributes above its length, so that small
/// volumes need no exact count. Blocks and values of attributes may be shared, and are given for
/// each inode; together they are a few hundredths of a file system.
const SPARE_NAMES: u64 = 4096;
const SPARE_ATTRIBUTES: u64 = 16 << 20;

/// A file system while it is read, with its caches and what is left of its budgets.
pub(super) struct Reader<'e> {
    pub(super) superblock: &'e Superblock,
    pub(super) blocks: &'e Blocks<'e>,
    pub(super) zones: &'e Zones,
    pub(super) nodes: Cache,
    /// Blocks and inodes that are read, and extents that are given.
    pub(super) steps: Budget,
    /// Entries of directories.
    pub(super) names: Budget,
    /// Bytes of names and values of attributes.
    pub(super) attributes: Budget,
    /// Blocks that what was read uses: first and count. Whoever reads takes them out.
    pub(super) used: Vec<(Block, u64)>,
    groups: &'e Groups,
    tables: Cache,
}

impl<'e> Reader<'e> {
    /// Makes a reader with empty caches.
    pub(super) fn new(
        superblock: &'e Superblock,
        blocks: &'e Blocks<'e>,
        groups: &'e Groups,
        zones: &'e Zones,
    ) -> Self {
        let bytes = blocks.end().0.saturating_mul(u64::from(superblock.block_size));
        let names = bytes.checked_div(SMALLEST_ENTRY).unwrap_or(0).saturating_add(SPARE_NAMES);
        let attributes = bytes.saturating_add(SPARE_ATTRIBUTES);
        Self {
            superblock,
            blocks,
            zones,
            nodes: Cache::nodes(superblock.block_size),
            steps: steps(superblock, blocks),
            names: Budget::new(names, "entries of directories"),
            attributes: Budget::new(attributes, "bytes of extended attributes"),
            used: Vec::new(),
            groups,
            tables: Cache::tables(superblock.block_size),
        }
    }

    /// Reads an inode; `scratch` then holds its bytes.
    ///
    /// # Errors
    /// `Limit`; `Corrupt` and `Io` where the inode cannot be used.
    pub(super) fn inode(&mut self, number: u32, scratch: &mut Vec<u8>) -> Result<RawInode> {
        let structure = "inode";
        let sb = self.superblock;
        let fields = Fields::new(structure, super::superblock::AT, &[]);
        let index = number.checked_sub(1).filter(|_| number <= sb.inodes);
        let index = index.ok_or_else(|| fields.corrupt("no inode has such a number"))?;
        let group = index.checked_div(sb.inodes_per_group).unwrap_or(0);
        let index = index.checked_rem(sb.inodes_per_group).unwrap_or(0);
        let group = self.groups.get(&group);
        let group = group.ok_or_else(|| fields.corrupt("its group's descriptor is damaged"))?;
        let byte = u64::from(index).saturating_mul(u64::from(sb.inode_size));
        let ahead = byte.checked_div(u64::from(sb.block_size)).unwrap_or(0);
        let block = Block(group.inode_table.0.saturating_add(ahead));
        let within = byte.checked_rem(u64::from(sb.block_size)).unwrap_or(0);
        let at = self.blocks.place(block).checked_add(ByteLen(within)).unwrap_or_default();
        if block < self.blocks.end() {
            self.steps.take(1)?;
        }
        let bytes = self.tables.block(self.blocks, block);
        let bytes = bytes.map_err(|source| Error::Io { structure, source })?;
        let offset = usize::try_from(within).unwrap_or(usize::MAX);
        let len = usize::try_from(sb.inode_size).unwrap_or(usize::MAX);
        scratch.clear();
        scratch.extend_from_slice(Fields::new(structure, at, bytes).slice(offset, len)?);
        RawInode::parse(sb, number, at, scratch)
    }

    /// Notes blocks that what is read uses. A block that the volume does not have, to which a
    /// damaged tree may lead, is used by nobody.
    pub(super) fn uses(&mut self, first: Block, count: u64) {
        let count = count.min(self.blocks.end().0.saturating_sub(first.0));
        if count > 0 {
            self.used.push((first, count));
        }
    }

    /// Maps the content of an inode whose content is in blocks.
    ///
    /// # Errors
    /// Only `Limit`: everything else is noted in the mapping.
    pub(super) fn map(&mut self, inode: &RawInode) -> Result<Mapping> {
        let mut mapping = match inode.has(FLAG_EXTENTS) {
            true => extent_tree::map(self, inode)?,
            false => block_map::map(self, inode)?,
        };
        mapping.used().for_each(|(first, count)| self.uses(first, count));
        if !self.superblock.features.has(features::SHARED_BLOCKS) && mapping.shares_blocks() {
            mapping.damaged(inode.block_map().corrupt("two parts of it share a block"));
        }
        Ok(mapping)
    }
}

impl Reader<'_> {
    /// Reads the first `len` bytes of content, a short one: a target or an attribute's value.
    ///
    /// # Errors
    /// `Corrupt` where a part is not mapped, `Io`, `Limit`.
    pub(super) fn content(
        &mut self,
        inode: &RawInode,
        mapping: &Mapping,
        len: usize,
    ) -> Result<Vec<u8>> {
        let structure = "content of an inode";
        let missing = || inode.block_map().corrupt("a part of its content is missing");
        if let Some(error) = mapping.damage.first() {
            return Err(error.clone());
        }
        let mut bytes = Vec::new();
        let mut next = 0u64;
        for run in &mapping.runs {
            if run.logical != next || run.unwritten {
                break;
            }
            next = run.logical_end();
            for ahead in 0..run.count {
                if bytes.len() >= len {
                    break;
                }
                self.steps.take(1)?;
                let block = Block(run.first.0.saturating_add(ahead));
                let read = self.nodes.block(self.blocks, block);
                bytes.extend_from_slice(read.map_err(|source| Error::Io { structure, source })?);
            }
        }
        if bytes.len() < len {
            return Err(missing());
        }
        bytes.truncate(len);
        Ok(bytes)
    }
}

/// A sound walk visits each inode twice (as name and as directory), its attributes once, each
/// block of metadata twice, and finds each block of content in one extent.
fn steps(superblock: &Superblock, blocks: &Blocks<'_>) -> Budget {
    let bytes = blocks.end().0.saturating_mul(u64::from(superblock.block_size));
    let inodes = bytes.checked_div(u64::from(superblock.inode_size)).unwrap_or(0);
    let inodes = inodes.min(u64::from(superblock.inodes));
    let limit = blocks.end().0.saturating_add(inodes).saturating_mul(4).saturating_add(4096);
    Budget::new(limit, "blocks and inodes read, and extents found")
}

/// A bound on what a walk costs: no sound file system needs as much.
///
/// Damage and malice make structures shared that belong to one owner: thousands of directories
/// of the same blocks, of which each name is given again, thousands of files of the same tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    left: u64,
    limit: u64,
    unit: &'static str,
}

impl Budget {
    fn new(limit: u64, unit: &'static str) -> Self {
        Self { left: limit, limit, unit }
    }

    /// Takes as much of it, before a block or an inode is read and after other things are found.
    ///
    /// # Errors
    /// `Limit` where there is not as much left.
    pub(super) fn take(&mut self, count: u64) -> Result<()> {
        let structure = "ext file system";
        let at = super::superblock::AT;
        let limit = Error::Limit { structure, at, limit: self.limit, unit: self.unit };
        self.left = self.left.checked_sub(count).ok_or(limit)?;
        Ok(())
    }
}
