//! Reads inodes and their mappings: what both the walk and the search for the journal need.

use alloc::vec::Vec;

use super::{
    block_map,
    blocks::{Block, Blocks, Cache},
    extent_tree, features,
    fields::Fields,
    group::Group,
    inode::{FLAG_EXTENTS, RawInode},
    mapping::Mapping,
    superblock::Superblock,
    zones::Zones,
};
use crate::{ByteLen, Error, Result};

/// A file system while it is read, with its caches and its count of steps.
pub(super) struct Reader<'e> {
    pub(super) superblock: &'e Superblock,
    pub(super) blocks: &'e Blocks<'e>,
    pub(super) zones: &'e Zones,
    pub(super) nodes: Cache,
    pub(super) steps: Steps,
    groups: &'e [Option<Group>],
    tables: Cache,
}

impl<'e> Reader<'e> {
    /// Makes a reader with empty caches.
    pub(super) fn new(
        superblock: &'e Superblock,
        blocks: &'e Blocks<'e>,
        groups: &'e [Option<Group>],
        zones: &'e Zones,
    ) -> Self {
        Self {
            superblock,
            blocks,
            zones,
            nodes: Cache::nodes(superblock.block_size),
            steps: Steps::of(superblock, blocks),
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
        let group = usize::try_from(group).ok().and_then(|group| self.groups.get(group));
        let group = group.copied().flatten();
        let group = group.ok_or_else(|| fields.corrupt("its group's descriptor is damaged"))?;
        let byte = u64::from(index).saturating_mul(u64::from(sb.inode_size));
        let ahead = byte.checked_div(u64::from(sb.block_size)).unwrap_or(0);
        let block = Block(group.inode_table.0.saturating_add(ahead));
        let within = byte.checked_rem(u64::from(sb.block_size)).unwrap_or(0);
        let at = self.blocks.place(block).checked_add(ByteLen(within)).unwrap_or_default();
        if block < self.blocks.end() {
            self.steps.take()?;
        }
        let bytes = self.tables.block(self.blocks, block);
        let bytes = bytes.map_err(|source| Error::Io { structure, source })?;
        let offset = usize::try_from(within).unwrap_or(usize::MAX);
        let len = usize::try_from(sb.inode_size).unwrap_or(usize::MAX);
        scratch.clear();
        scratch.extend_from_slice(Fields::new(structure, at, bytes).slice(offset, len)?);
        RawInode::parse(sb, number, at, scratch)
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
                self.steps.take()?;
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

/// The bound on the work: no sound file system needs as much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    left: u64,
    limit: u64,
}

impl Steps {
    /// A sound walk visits each inode twice (as name and as directory), its attributes once, and
    /// each block of metadata twice.
    fn of(superblock: &Superblock, blocks: &Blocks<'_>) -> Self {
        let bytes = blocks.end().0.saturating_mul(u64::from(superblock.block_size));
        let inodes = bytes.checked_div(u64::from(superblock.inode_size)).unwrap_or(0);
        let inodes = inodes.min(u64::from(superblock.inodes));
        let limit = blocks.end().0.saturating_add(inodes).saturating_mul(4).saturating_add(4096);
        Self { left: limit, limit }
    }

    /// Counts a block or an inode that is about to be read.
    ///
    /// # Errors
    /// `Limit` where the bound is reached.
    pub(super) fn take(&mut self) -> Result<()> {
        let structure = "ext file system";
        let at = super::superblock::AT;
        let limit =
            Error::Limit { structure, at, limit: self.limit, unit: "blocks and inodes read" };
        self.left = self.left.checked_sub(1).ok_or(limit)?;
        Ok(())
    }
}
