//! The blocks that hold the file system's own structures, where no file's content can be.
//!
//! SOURCE: Linux `fs/ext4/block_validity.c`, which refuses the same blocks.

use alloc::vec::Vec;

use super::{
    blocks::Block,
    group::{self, Groups},
    superblock::Superblock,
};

/// Sorted, disjoint ranges of blocks.
#[derive(Clone, Debug, Default)]
pub(super) struct Zones {
    ranges: Vec<(u64, u64)>,
}

impl Zones {
    /// Collects the blocks of superblocks, descriptors, bitmaps and inode tables that lie before
    /// `end`, which bounds them.
    pub(super) fn new(superblock: &Superblock, groups: &Groups, end: Block) -> Self {
        let per_block = superblock.block_size.checked_div(superblock.descriptor_size).unwrap_or(1);
        let tables = superblock.groups.div_ceil(per_block);
        let table_bytes = superblock.inodes_per_group.saturating_mul(superblock.inode_size);
        let table_blocks = u64::from(table_bytes.div_ceil(superblock.block_size));
        let mut ranges = alloc::vec![(0, superblock.own_block().saturating_add(1))];
        ranges.push((0, u64::from(superblock.first_data_block)));
        let tables = (0..tables).map(|number| group::descriptor_block(superblock, number));
        ranges.extend(tables.take_while(|&block| block < end).map(|block| (block.0, 1)));
        for number in 0..superblock.groups {
            let first = group::first_block(superblock, number);
            if first >= end.0 {
                break;
            }
            if group::has_superblock(superblock, number) {
                ranges.push((first, 1));
            }
        }
        for group in groups.values() {
            ranges.push((group.block_bitmap.0, 1));
            ranges.push((group.inode_bitmap.0, 1));
            ranges.push((group.inode_table.0, table_blocks));
        }
        Self::of(ranges)
    }

    /// Adds ranges: first block and count.
    pub(super) fn with(self, more: impl Iterator<Item = (Block, u64)>) -> Self {
        let mut ranges: Vec<(u64, u64)> =
            self.ranges.iter().map(|&(from, to)| (from, to.saturating_sub(from))).collect();
        ranges.extend(more.map(|(first, count)| (first.0, count)));
        Self::of(ranges)
    }

    /// Tells whether one of `count` blocks from `first` on is in a zone.
    pub(super) fn overlap(&self, first: Block, count: u64) -> bool {
        let end = first.0.saturating_add(count);
        let next = self.ranges.partition_point(|&(_, to)| to <= first.0);
        self.ranges.get(next).is_some_and(|&(from, _)| from < end)
    }

    /// Returns the ranges: first block and the block behind the last.
    pub(super) fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    fn of(mut ranges: Vec<(u64, u64)>) -> Self {
        ranges.retain(|&(_, count)| count > 0);
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (from, count) in ranges {
            let to = from.saturating_add(count);
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Self { ranges: merged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_ranges_overlap_what_they_cover() {
        let zones = Zones::of(alloc::vec![(10, 5), (15, 5), (0, 2), (12, 1)]);
        assert_eq!(zones.ranges, [(0, 2), (10, 20)]);
        for (first, count, expected) in
            [(0, 1, true), (2, 8, false), (2, 9, true), (19, 1, true), (20, 100, false)]
        {
            assert_eq!(zones.overlap(Block(first), count), expected, "{first} {count}");
        }
    }
}
