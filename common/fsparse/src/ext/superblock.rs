//! The superblock: geometry and features.
//!
//! SOURCE: Linux `fs/ext4/ext4.h` (`struct ext4_super_block`), `fs/ext4/super.c`.

use super::{
    checksum::Crc32c,
    dirhash::HashRules,
    features::{self, Features},
    fields::{Fields, join},
};
use crate::{ByteLen, ByteOffset, Error, ReadAt, Result};

/// Where the superblock starts, whatever the block size.
pub(super) const AT: ByteOffset = ByteOffset(1024);
/// Its length in bytes.
pub(super) const LEN: usize = 1024;

const MAGIC: u16 = 0xef53;
const CRC32C_TYPE: u8 = 1;
const CREATOR_LINUX: u32 = 0;
const CREATOR_HURD: u32 = 1;
/// 64 KiB blocks: the largest that the format knows.
const MAX_LOG_BLOCK_SIZE: u32 = 6;
/// The largest cluster that mke2fs makes.
const MAX_CLUSTER_SIZE: u64 = 1 << 29;
/// The smallest number mke2fs makes; smaller ones only swell the table of groups.
const MIN_BLOCKS_PER_GROUP: u32 = 256;

/// What the parser needs of the superblock. Its numbers agree with each other.
#[derive(Clone, Debug)]
pub(super) struct Superblock {
    /// Bytes of a block: a power of two from 1024 to 65536.
    pub(super) block_size: u32,
    /// Bytes of a cluster: the block size but for bigalloc.
    pub(super) cluster_size: u64,
    /// Number of blocks; times the block size it does not overflow.
    pub(super) blocks: u64,
    /// Where group 0 starts, in blocks.
    pub(super) first_data_block: u32,
    /// Blocks of a group, at least 256.
    pub(super) blocks_per_group: u32,
    /// Inodes of a group, at least one block full of them.
    pub(super) inodes_per_group: u32,
    /// Number of inodes: the groups' together.
    pub(super) inodes: u32,
    /// Bytes of an inode: a power of two from 128 to the block size.
    pub(super) inode_size: u32,
    /// The first inode that a name may lead to, the root apart.
    pub(super) first_inode: u32,
    /// Bytes of a group descriptor: a power of two from 32 to 1024.
    pub(super) descriptor_size: u32,
    /// Number of groups.
    pub(super) groups: u32,
    /// From which descriptor block on they stand in their own groups (with meta_bg).
    pub(super) first_meta_group: u32,
    /// The two groups with copies of the superblock (with sparse_super2).
    pub(super) backup_groups: [u32; 2],
    /// The features in use.
    pub(super) features: Features,
    /// Identity of the file system.
    pub(super) uuid: [u8; 16],
    /// Name given by the user, padded with NULs.
    pub(super) label: [u8; 16],
    /// Seed of the checksums of all other metadata.
    pub(super) seed: Crc32c,
    /// The journal's inode, 0 where there is none.
    pub(super) journal_inode: u32,
    /// Made by Linux; in the others' file systems inodes have no checksums.
    pub(super) linux: bool,
    /// Made by the Hurd, whose inodes use some fields otherwise.
    pub(super) hurd: bool,
    /// Whether it was unmounted cleanly and without known errors, as far as it says.
    pub(super) state: State,
    /// Blocks that follow the descriptors for a file system that grows (with resize_inode).
    pub(super) reserved_descriptor_blocks: u32,
    /// How names are hashed.
    pub(super) hashes: HashRules,
    /// The block of multiple-mount protection, 0 where there is none.
    pub(super) mmp_block: u64,
}

/// What the superblock says of the file system's soundness.
///
/// SOURCE: Linux `fs/ext4/ext4.h` (`EXT4_VALID_FS`, `EXT4_ERROR_FS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// It was unmounted; with a journal this says nothing.
    pub(super) valid: bool,
    /// The kernel found errors.
    pub(super) errors: bool,
}

impl Superblock {
    /// Reads and checks the superblock of the volume itself, whatever its journal holds.
    ///
    /// # Errors
    /// `NotFound` without the magic, `Corrupt`, `Unsupported`, `Io`.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self> {
        let structure = "ext superblock";
        let end = AT.0.saturating_add(super::fields::byte_len(LEN).0);
        if volume.len().0 < end {
            return Err(Error::NotFound { structure, at: AT });
        }
        let mut bytes = [0; LEN];
        volume.read_at(AT, &mut bytes).map_err(|source| Error::Io { structure, source })?;
        Self::parse(&bytes)
    }

    /// Checks the 1024 bytes of a superblock.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let fields = Fields::new("ext superblock", AT, bytes);
        if fields.u16(0x38)? != MAGIC {
            return Err(Error::NotFound { structure: "ext superblock", at: AT });
        }
        let features = Features::parse(&fields)?;
        check_checksum(&fields, features)?;
        let uuid = fields.array(0x68)?;
        let seed = match features.has(features::CSUM_SEED) {
            true => Crc32c(fields.u32(0x270)?),
            false => Crc32c::START.of(&uuid),
        };
        let mut superblock = Self {
            block_size: block_size(&fields)?,
            cluster_size: cluster_size(&fields, features)?,
            blocks: blocks(&fields, features)?,
            first_data_block: fields.u32(0x14)?,
            blocks_per_group: fields.u32(0x20)?,
            inodes_per_group: fields.u32(0x28)?,
            inodes: fields.u32(0)?,
            inode_size: 128,
            first_inode: 11,
            descriptor_size: 32,
            groups: 0,
            first_meta_group: fields.u32(0x104)?,
            backup_groups: [fields.u32(0x24c)?, fields.u32(0x250)?],
            features,
            uuid,
            label: fields.array(0x78)?,
            seed,
            journal_inode: fields.u32(0xe0)?,
            linux: fields.u32(0x48)? == CREATOR_LINUX,
            hurd: fields.u32(0x48)? == CREATOR_HURD,
            state: state(&fields)?,
            reserved_descriptor_blocks: u32::from(fields.u16(0xce)?),
            hashes: HashRules::parse(&fields)?,
            mmp_block: join(fields.u32(0x168)?, fields.u32(0x16c)?),
        };
        superblock.check_inodes(&fields)?;
        superblock.check_groups(&fields)?;
        Ok(superblock)
    }

    /// Returns the length of the file system.
    pub(super) fn len(&self) -> ByteLen {
        ByteLen(self.blocks.saturating_mul(u64::from(self.block_size)))
    }

    /// Returns the block that holds the superblock.
    pub(super) fn own_block(&self) -> u64 {
        if self.block_size == 1024 { 1 } else { 0 }
    }

    fn check_inodes(&mut self, fields: &Fields<'_>) -> Result<()> {
        if fields.u32(0x4c)? != 0 {
            self.inode_size = u32::from(fields.u16(0x58)?);
            self.first_inode = fields.u32(0x54)?;
        }
        let size = self.inode_size;
        if !size.is_power_of_two() || size < 128 || size > self.block_size {
            return Err(fields.corrupt("absurd inode size"));
        }
        if self.first_inode < 11 {
            return Err(fields.corrupt("the first free inode is a reserved one"));
        }
        let per_block = self.block_size.checked_div(size).unwrap_or(1);
        let most = self.block_size.saturating_mul(8);
        if self.inodes_per_group < per_block || self.inodes_per_group > most {
            return Err(fields.corrupt("absurd number of inodes per group"));
        }
        Ok(())
    }

    fn check_groups(&mut self, fields: &Fields<'_>) -> Result<()> {
        if self.features.has(features::SIXTY_FOUR_BIT) {
            self.descriptor_size = u32::from(fields.u16(0xfe)?);
            let size = self.descriptor_size;
            if !size.is_power_of_two() || !(64..=1024).contains(&size) {
                return Err(fields.corrupt("absurd size of a group descriptor"));
            }
        }
        let clusters = match self.features.has(features::BIGALLOC) {
            true => fields.u32(0x24)?,
            false => self.blocks_per_group,
        };
        if clusters > self.block_size.saturating_mul(8)
            || self.blocks_per_group < MIN_BLOCKS_PER_GROUP
        {
            return Err(fields.corrupt("absurd number of blocks per group"));
        }
        if self.len().0 == u64::MAX {
            return Err(fields.corrupt("more bytes than an offset can tell"));
        }
        let in_groups = self.blocks.checked_sub(u64::from(self.first_data_block));
        let in_groups = in_groups.filter(|&blocks| blocks > 0);
        let in_groups = in_groups.ok_or_else(|| fields.corrupt("no block in any group"))?;
        let groups = in_groups.div_ceil(u64::from(self.blocks_per_group));
        let inodes = groups.saturating_mul(u64::from(self.inodes_per_group));
        if inodes != u64::from(self.inodes) {
            return Err(fields.corrupt("the groups' inodes are not all inodes"));
        }
        let tables = inodes.saturating_mul(u64::from(self.inode_size));
        if tables > self.len().0 {
            return Err(fields.corrupt("more inodes than the blocks can hold"));
        }
        self.groups = u32::try_from(groups).map_err(|_| fields.corrupt("too many groups"))?;
        Ok(())
    }
}

fn state(fields: &Fields<'_>) -> Result<State> {
    let bits = fields.u16(0x3a)?;
    Ok(State { valid: bits & 1 != 0, errors: bits & 2 != 0 })
}

fn block_size(fields: &Fields<'_>) -> Result<u32> {
    let log = fields.u32(0x18)?;
    if log > MAX_LOG_BLOCK_SIZE {
        return Err(fields.corrupt("absurd block size"));
    }
    Ok(1024 << log)
}

fn cluster_size(fields: &Fields<'_>, features: Features) -> Result<u64> {
    let block_size = block_size(fields)?;
    if !features.has(features::BIGALLOC) {
        return Ok(u64::from(block_size));
    }
    let size = 1024u64.checked_shl(fields.u32(0x1c)?).unwrap_or(0);
    if size < u64::from(block_size) || size > MAX_CLUSTER_SIZE {
        return Err(fields.corrupt("absurd cluster size"));
    }
    Ok(size)
}

fn blocks(fields: &Fields<'_>, features: Features) -> Result<u64> {
    let high = match features.has(features::SIXTY_FOUR_BIT) {
        true => fields.u32(0x150)?,
        false => 0,
    };
    Ok(join(fields.u32(4)?, high))
}

fn check_checksum(fields: &Fields<'_>, features: Features) -> Result<()> {
    if !features.has(features::METADATA_CSUM) {
        return Ok(());
    }
    if fields.u8(0x175)? != CRC32C_TYPE {
        return Err(fields.unsupported("an unknown checksum type"));
    }
    if Crc32c::START.of(fields.slice(0, 0x3fc)?).0 != fields.u32(0x3fc)? {
        return Err(fields.corrupt("wrong checksum"));
    }
    Ok(())
}
