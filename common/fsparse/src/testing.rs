//! Checksums of an ext made right again after its bytes were changed.
//!
//! Fuzz targets and tests of damage need it: without it whatever they change is caught by the
//! first checksum, and nothing behind it is ever reached. Whoever forges a file system forges its
//! checksums too. Nothing of the parser is used here but the two sums.
//!
//! SOURCE: Linux Documentation/filesystems/ext4 (`checksums.rst`, `super.rst`, `group_descr.rst`,
//! `inodes.rst`, `directory.rst`, `attributes.rst`).

use alloc::vec::Vec;

use crate::ext::checksum::{Crc32c, crc16};

/// Where the superblock starts.
const SUPERBLOCK: u64 = 1024;
/// Read-only compatible features.
const GDT_CSUM: u32 = 0x10;
const METADATA_CSUM: u32 = 0x400;
const SPARSE_SUPER: u32 = 0x1;
const BIGALLOC: u32 = 0x200;
/// Compatible and incompatible ones.
const SPARSE_SUPER2: u32 = 0x200;
const META_BG: u32 = 0x10;
const SIXTY_FOUR_BIT: u32 = 0x80;
const CSUM_SEED: u32 = 0x2000;

/// The geometry of an ext, by which its checksums are found and made right.
#[derive(Clone, Copy, Debug)]
pub struct Mender {
    /// Bytes of a block.
    pub block_size: u64,
    /// Bytes of an inode.
    pub inode_size: u64,
    /// Inodes of a group.
    pub inodes_per_group: u64,
    /// Number of groups.
    pub groups: u64,
    first_block: u64,
    blocks_per_group: u64,
    clusters_per_group: u64,
    descriptor_size: u64,
    first_meta_group: u64,
    backups: [u64; 2],
    compatible: u32,
    incompatible: u32,
    read_only: u32,
    uuid: [u8; 16],
    seed: Crc32c,
}

fn field<const N: usize>(bytes: &[u8], at: u64) -> Option<[u8; N]> {
    bytes.get(usize::try_from(at).ok()?..)?.first_chunk().copied()
}

fn half(bytes: &[u8], at: u64) -> Option<u64> {
    field(bytes, at).map(u16::from_le_bytes).map(u64::from)
}

fn word(bytes: &[u8], at: u64) -> Option<u64> {
    field(bytes, at).map(u32::from_le_bytes).map(u64::from)
}

fn piece(bytes: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let at = usize::try_from(at).ok()?;
    bytes.get(at..at.checked_add(usize::try_from(len).ok()?)?)
}

fn put(bytes: &mut [u8], at: u64, value: &[u8]) -> Option<()> {
    let at = usize::try_from(at).ok()?;
    bytes.get_mut(at..at.checked_add(value.len())?)?.copy_from_slice(value);
    Some(())
}

impl Mender {
    /// Reads the geometry of a volume; `None` where it has none that can be used.
    pub fn of(volume: &[u8]) -> Option<Self> {
        let at = |offset: u64| SUPERBLOCK.saturating_add(offset);
        let read = |offset| word(volume, at(offset));
        if half(volume, at(0x38))? != 0xef53 || read(0x18)? > 6 {
            return None;
        }
        let features = |offset| field(volume, at(offset)).map(u32::from_le_bytes);
        let incompatible = features(0x60)?;
        let uuid = field(volume, at(0x68))?;
        let seed = match incompatible & CSUM_SEED {
            0 => Crc32c::START.of(&uuid),
            _ => Crc32c(features(0x270)?),
        };
        let descriptor_size = match incompatible & SIXTY_FOUR_BIT {
            0 => 32,
            _ => half(volume, at(0xfe))?,
        };
        let (first_block, blocks_per_group) = (read(0x14)?, read(0x20)?.max(1));
        let blocks = read(4)?.saturating_sub(first_block);
        Some(Self {
            block_size: 1024 << read(0x18)?,
            inode_size: if read(0x4c)? == 0 { 128 } else { half(volume, at(0x58))? },
            inodes_per_group: read(0x28)?.max(1),
            groups: blocks.div_ceil(blocks_per_group),
            first_block,
            blocks_per_group,
            // Without bigalloc nobody looks at that field.
            clusters_per_group: if features(0x64)? & BIGALLOC == 0 {
                blocks_per_group
            } else {
                read(0x24)?.max(1)
            },
            descriptor_size: descriptor_size.clamp(32, 1024),
            first_meta_group: read(0x104)?,
            backups: [read(0x24c)?, read(0x250)?],
            compatible: features(0x5c)?,
            incompatible,
            read_only: features(0x64)?,
            uuid,
            seed,
        })
    }

    /// Returns the group that has the block, and which block of the group it is.
    pub fn group_of(&self, block: u64) -> Option<(u64, u64)> {
        let block = block.checked_sub(self.first_block)?;
        let group = block.checked_div(self.blocks_per_group)?;
        Some((group, block.checked_rem(self.blocks_per_group)?))
    }

    /// Returns the blocks of a cluster, 1 where there are none.
    pub fn cluster_blocks(&self) -> u64 {
        self.blocks_per_group.checked_div(self.clusters_per_group).unwrap_or(1).max(1)
    }

    /// Tells whether the flags of group descriptors mean something.
    pub fn has_group_flags(&self) -> bool {
        self.read_only & (GDT_CSUM | METADATA_CSUM) != 0
    }

    fn sums(&self) -> bool {
        self.read_only & METADATA_CSUM != 0
    }

    /// Makes the superblock's checksum right.
    pub fn superblock(&self, volume: &mut [u8]) -> Option<()> {
        if self.sums() {
            let sum = Crc32c::START.of(piece(volume, SUPERBLOCK, 1020)?).0;
            put(volume, SUPERBLOCK.checked_add(1020)?, &sum.to_le_bytes())?;
        }
        Some(())
    }

    /// Returns where the descriptor of a group starts.
    pub fn descriptor_at(&self, group: u64) -> Option<u64> {
        let per_block = self.block_size.checked_div(self.descriptor_size)?;
        let table = group.checked_div(per_block)?;
        let mut block = u64::from(self.block_size == 1024).checked_add(1)?.checked_add(table)?;
        if self.incompatible & META_BG != 0 && table >= self.first_meta_group {
            let first = table.checked_mul(per_block)?;
            block = first.checked_mul(self.blocks_per_group)?.checked_add(self.first_block)?;
            block = block.checked_add(u64::from(self.has_superblock(first)))?;
        }
        let within = group.checked_rem(per_block)?.checked_mul(self.descriptor_size)?;
        block.checked_mul(self.block_size)?.checked_add(within)
    }

    fn has_superblock(&self, group: u64) -> bool {
        let power = |base: u64| (0..40).any(|exponent| base.checked_pow(exponent) == Some(group));
        match (self.compatible & SPARSE_SUPER2, self.read_only & SPARSE_SUPER) {
            (0, 0) => true,
            (0, _) => group == 0 || [3, 5, 7].into_iter().any(power),
            _ => group == 0 || self.backups.contains(&group),
        }
    }

    /// Returns where the block starts that the descriptor names at `low`: 0 the bitmap of
    /// blocks, 4 that of inodes, 8 the table of inodes.
    pub fn block_at(&self, volume: &[u8], group: u64, low: u64) -> Option<u64> {
        let at = self.descriptor_at(group)?;
        let mut block = word(volume, at.checked_add(low)?)?;
        if self.descriptor_size >= 64 {
            block |= word(volume, at.checked_add(low)?.checked_add(0x20)?)? << 32;
        }
        block.checked_mul(self.block_size)
    }

    /// Makes the checksum of a group's descriptor right.
    pub fn group(&self, volume: &mut [u8], group: u64) -> Option<()> {
        let at = self.descriptor_at(group)?;
        let before = piece(volume, at, 0x1e)?;
        let after = piece(volume, at.checked_add(0x20)?, self.descriptor_size.checked_sub(0x20)?)?;
        let number = u32::try_from(group).ok()?.to_le_bytes();
        let sum = if self.sums() {
            let sum = self.seed.of(&number).of(before).of(&[0; 2]).of(after).0;
            u16::try_from(sum & 0xffff).ok()?
        } else if self.read_only & GDT_CSUM != 0 {
            crc16(&[&self.uuid, &number, before, after])
        } else {
            return Some(());
        };
        put(volume, at.checked_add(0x1e)?, &sum.to_le_bytes())
    }

    /// Makes the checksums of both of a group's bitmaps right, then the descriptor's. A bitmap
    /// that was never written has none.
    pub fn bitmaps(&self, volume: &mut [u8], group: u64) -> Option<()> {
        if self.sums() {
            let lens = [self.clusters_per_group, self.inodes_per_group].map(|bits| bits / 8);
            let flags = half(volume, self.descriptor_at(group)?.checked_add(0x12)?)?;
            for (low, len, place, uninit) in [(0, lens[0], 0x18, 2), (4, lens[1], 0x1a, 1)] {
                if flags & uninit != 0 {
                    continue;
                }
                let block = self.block_at(volume, group, low)?;
                let sum = self.seed.of(piece(volume, block, len)?).0;
                let at = self.descriptor_at(group)?.checked_add(place)?;
                let [a, b, c, d] = sum.to_le_bytes();
                put(volume, at, &[a, b])?;
                if self.descriptor_size >= 64 {
                    put(volume, at.checked_add(0x20)?, &[c, d])?;
                }
            }
        }
        self.group(volume, group)
    }

    /// Returns where an inode starts; the first has the number 1.
    pub fn inode_at(&self, volume: &[u8], number: u64) -> Option<u64> {
        let index = number.checked_sub(1)?;
        let table = self.block_at(volume, index.checked_div(self.inodes_per_group)?, 8)?;
        let within = index.checked_rem(self.inodes_per_group)?.checked_mul(self.inode_size)?;
        table.checked_add(within)
    }

    fn inode_seed(&self, volume: &[u8], number: u64) -> Option<Crc32c> {
        let generation = self.inode_at(volume, number)?.checked_add(0x64)?;
        let number = u32::try_from(number).ok()?.to_le_bytes();
        Some(self.seed.of(&number).of(&field::<4>(volume, generation)?))
    }

    /// Makes an inode's checksum right.
    pub fn inode(&self, volume: &mut [u8], number: u64) -> Option<()> {
        if !self.sums() {
            return Some(());
        }
        let at = self.inode_at(volume, number)?;
        let mut bytes = Vec::from(piece(volume, at, self.inode_size)?);
        let wide = self.inode_size > 128 && half(&bytes, 0x80)? >= 4;
        put(&mut bytes, 0x7c, &[0; 2])?;
        if wide {
            put(&mut bytes, 0x82, &[0; 2])?;
        }
        let [a, b, c, d] = self.inode_seed(volume, number)?.of(&bytes).0.to_le_bytes();
        put(volume, at.checked_add(0x7c)?, &[a, b])?;
        if wide {
            put(volume, at.checked_add(0x82)?, &[c, d])?;
        }
        Some(())
    }

    /// Makes the checksum of a node of an inode's extent tree right.
    pub fn extent_node(&self, volume: &mut [u8], at: u64, inode: u64) -> Option<()> {
        let room = half(volume, at.checked_add(4)?)?;
        let len = room.checked_add(1)?.checked_mul(12)?;
        if !self.sums() || len.checked_add(4)? > self.block_size {
            return Some(());
        }
        let sum = self.inode_seed(volume, inode)?.of(piece(volume, at, len)?).0;
        put(volume, at.checked_add(len)?, &sum.to_le_bytes())
    }

    /// Makes the checksum of a block of a directory right: of a leaf, or of a node of its hash
    /// tree.
    pub fn directory_block(&self, volume: &mut [u8], at: u64, inode: u64) -> Option<()> {
        if !self.sums() {
            return Some(());
        }
        let seed = self.inode_seed(volume, inode)?;
        let end = self.block_size.checked_sub(12)?;
        if field(volume, at.checked_add(end)?)? == [0, 0, 0, 0, 12, 0, 0, 0xde] {
            let sum = seed.of(piece(volume, at, end)?).0;
            return put(volume, at.checked_add(end)?.checked_add(8)?, &sum.to_le_bytes());
        }
        // The root has the two entries for itself and its parent before the counts, others none.
        let counts: u64 = if half(volume, at.checked_add(4)?)? == 12 { 0x20 } else { 8 };
        let limit = half(volume, at.checked_add(counts)?)?;
        let count = half(volume, at.checked_add(counts)?.checked_add(2)?)?;
        let used = counts.checked_add(count.checked_mul(8)?)?;
        let tail = counts.checked_add(limit.checked_mul(8)?)?;
        if tail.checked_add(8)? > self.block_size || used > tail {
            return Some(());
        }
        let reserved: [u8; 4] = field(volume, at.checked_add(tail)?)?;
        let sum = seed.of(piece(volume, at, used)?).of(&reserved).of(&[0; 4]).0;
        put(volume, at.checked_add(tail)?.checked_add(4)?, &sum.to_le_bytes())
    }

    /// Makes the checksum of a block of extended attributes right.
    pub fn attribute_block(&self, volume: &mut [u8], at: u64) -> Option<()> {
        if !self.sums() {
            return Some(());
        }
        let number = at.checked_div(self.block_size)?;
        put(volume, at.checked_add(0x10)?, &[0; 4])?;
        let sum = self.seed.of(&number.to_le_bytes()).of(piece(volume, at, self.block_size)?).0;
        put(volume, at.checked_add(0x10)?, &sum.to_le_bytes())
    }

    /// Makes the checksum of the journal's superblock right, where its features say that it has
    /// one.
    pub fn journal_superblock(&self, volume: &mut [u8], at: u64) -> Option<()> {
        let features: [u8; 4] = field(volume, at.checked_add(0x28)?)?;
        if u32::from_be_bytes(features) & 0x18 != 0 {
            put(volume, at.checked_add(0xfc)?, &[0; 4])?;
            let sum = Crc32c::START.of(piece(volume, at, 1024)?).0;
            put(volume, at.checked_add(0xfc)?, &sum.to_be_bytes())?;
        }
        Some(())
    }
}
