//! Group descriptors: where the inode tables and bitmaps stand.
//!
//! SOURCE: Linux `fs/ext4/ext4.h` (`struct ext4_group_desc`), `fs/ext4/super.c`
//! (`descriptor_loc`, `ext4_group_desc_csum`), `fs/ext4/balloc.c` (`ext4_bg_has_super`).

use alloc::{collections::BTreeMap, vec::Vec};

use super::{
    blocks::{Block, Blocks, Cache},
    checksum::crc16,
    features,
    fields::{Fields, join},
    superblock::Superblock,
};
use crate::{ByteLen, Error, Result, Warning};

const STRUCTURE: &str = "group descriptor";
const CHECKSUM_AT: usize = 0x1e;
/// The most warnings that are kept.
const MAX_WARNINGS: usize = 1000;

/// The groups whose descriptors can be used, by number.
pub(super) type Groups = BTreeMap<u32, Group>;

/// What the parser needs of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// First block of its inode table.
    pub(super) inode_table: Block,
    /// Block of its block bitmap.
    pub(super) block_bitmap: Block,
    /// Block of its inode bitmap.
    pub(super) inode_bitmap: Block,
    /// Its block bitmap was never written: nothing in the group is used but structures.
    pub(super) blocks_uninit: bool,
    /// How many clusters the group says are free.
    pub(super) free_clusters: u32,
    /// Checksum of the block bitmap (with metadata_csum), and which of its bits are kept.
    pub(super) bitmap_checksum: (u32, u32),
}

/// The block bitmap was not initialised (`EXT4_BG_BLOCK_UNINIT`).
const BLOCK_UNINIT: u16 = 0x2;

/// Reads all descriptors that the volume has; a damaged one is left out with a warning, at most
/// 1000 of which are kept.
///
/// A superblock may claim four thousand million groups: the work and what is kept of it are
/// bounded by the volume.
pub(super) fn read_all(
    superblock: &Superblock,
    blocks: &Blocks<'_>,
    warnings: &mut Vec<Warning>,
) -> Groups {
    let mut cache = Cache::nodes(superblock.block_size);
    let mut groups = Groups::new();
    for number in 0..superblock.groups {
        let place = place(superblock, number);
        let error = match read_one(superblock, blocks, &mut cache, number, place) {
            Ok(group) => {
                groups.insert(number, group);
                continue;
            }
            Err(error) => error,
        };
        if warnings.len() < MAX_WARNINGS {
            warnings.push(Warning { inode: None, error });
        }
        if place.block >= blocks.end() {
            // All that follow lie further on.
            break;
        }
    }
    groups
}

/// Tells whether the group starts with a copy of the superblock.
pub(super) fn has_superblock(superblock: &Superblock, group: u32) -> bool {
    if group == 0 {
        return true;
    }
    if superblock.features.has(features::SPARSE_SUPER2) {
        return superblock.backup_groups.contains(&group);
    }
    if group == 1 || !superblock.features.has(features::SPARSE_SUPER) {
        return true;
    }
    [3, 5, 7].into_iter().any(|base| is_power_of(group, base))
}

fn is_power_of(number: u32, base: u32) -> bool {
    let mut power = base;
    while power < number {
        power = power.saturating_mul(base);
    }
    power == number
}

/// Returns the first block of the group.
pub(super) fn first_block(superblock: &Superblock, group: u32) -> u64 {
    let before = u64::from(group).saturating_mul(u64::from(superblock.blocks_per_group));
    before.saturating_add(u64::from(superblock.first_data_block))
}

/// Returns the block that holds the `number`th block full of descriptors.
pub(super) fn descriptor_block(superblock: &Superblock, number: u32) -> Block {
    let in_group =
        superblock.features.has(features::META_BG) && number >= superblock.first_meta_group;
    if !in_group {
        let after = superblock.own_block().saturating_add(1);
        return Block(after.saturating_add(u64::from(number)));
    }
    let per_block = superblock.block_size.checked_div(superblock.descriptor_size).unwrap_or(1);
    let group = number.saturating_mul(per_block);
    let mut skipped = u64::from(has_superblock(superblock, group));
    if superblock.block_size == 1024 && number == 0 && superblock.first_data_block == 0 {
        skipped = skipped.saturating_add(1);
    }
    Block(first_block(superblock, group).saturating_add(skipped))
}

/// Where a descriptor stands.
#[derive(Clone, Copy)]
struct Place {
    block: Block,
    /// Bytes into the block.
    offset: u32,
}

fn place(superblock: &Superblock, number: u32) -> Place {
    let size = superblock.descriptor_size;
    let per_block = superblock.block_size.checked_div(size).unwrap_or(1);
    let table = number.checked_div(per_block).unwrap_or(0);
    let index = number.checked_rem(per_block).unwrap_or(0);
    Place { block: descriptor_block(superblock, table), offset: index.saturating_mul(size) }
}

fn read_one(
    superblock: &Superblock,
    blocks: &Blocks<'_>,
    cache: &mut Cache,
    number: u32,
    place: Place,
) -> Result<Group> {
    let Place { block, offset } = place;
    let at = blocks.offset(block).checked_add(ByteLen(u64::from(offset))).unwrap_or_default();
    let bytes = cache.block(blocks, block);
    let bytes = bytes.map_err(|source| Error::Io { structure: STRUCTURE, source })?;
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let len = usize::try_from(superblock.descriptor_size).unwrap_or(usize::MAX);
    let bytes = Fields::new(STRUCTURE, at, bytes).slice(offset, len)?;
    parse(superblock, number, &Fields::new(STRUCTURE, at, bytes))
}

fn parse(superblock: &Superblock, number: u32, fields: &Fields<'_>) -> Result<Group> {
    if checksum(superblock, number, fields)?.is_some_and(|sum| Ok(sum) != fields.u16(CHECKSUM_AT)) {
        return Err(fields.corrupt("wrong checksum"));
    }
    let wide = superblock.descriptor_size >= 64;
    let block = |low, high| -> Result<Block> {
        let high = if wide { fields.u32(high)? } else { 0 };
        Ok(Block(join(fields.u32(low)?, high)))
    };
    // The flag means something only where descriptors have checksums.
    let has_flags = superblock.features.has(features::METADATA_CSUM)
        || superblock.features.has(features::GDT_CSUM);
    let half = |low, high| -> Result<u32> {
        let high = if wide { fields.u16(high)? } else { 0 };
        Ok(u32::from(high) << 16 | u32::from(fields.u16(low)?))
    };
    let group = Group {
        block_bitmap: block(0, 0x20)?,
        inode_bitmap: block(4, 0x24)?,
        inode_table: block(8, 0x28)?,
        blocks_uninit: has_flags && fields.u16(0x12)? & BLOCK_UNINIT != 0,
        free_clusters: half(0xc, 0x2c)?,
        bitmap_checksum: (half(0x18, 0x38)?, if wide { u32::MAX } else { 0xffff }),
    };
    let bytes = superblock.inodes_per_group.saturating_mul(superblock.inode_size);
    let table_blocks = u64::from(bytes.div_ceil(superblock.block_size));
    let end = group.inode_table.0.saturating_add(table_blocks);
    if group.inode_table.0 <= u64::from(superblock.first_data_block) || end > superblock.blocks {
        return Err(fields.corrupt("the inode table lies outside the file system"));
    }
    Ok(group)
}

/// Returns what the checksum must be, where the descriptors have one.
fn checksum(superblock: &Superblock, number: u32, fields: &Fields<'_>) -> Result<Option<u16>> {
    let before = fields.slice(0, CHECKSUM_AT)?;
    let after = fields.slice(0x20, fields.len().saturating_sub(0x20))?;
    let number = number.to_le_bytes();
    if superblock.features.has(features::METADATA_CSUM) {
        let sum = superblock.seed.of(&number).of(before).of(&[0; 2]).of(after);
        let [low, high, ..] = sum.0.to_le_bytes();
        Ok(Some(u16::from_le_bytes([low, high])))
    } else if superblock.features.has(features::GDT_CSUM) {
        Ok(Some(crc16(&[&superblock.uuid, &number, before, after])))
    } else {
        Ok(None)
    }
}
