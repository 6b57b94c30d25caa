//! Inodes as they stand in the inode table.
//!
//! SOURCE: Linux `fs/ext4/ext4.h` (`struct ext4_inode`), `fs/ext4/inode.c` (`__ext4_iget`,
//! `ext4_inode_csum`).

use super::{
    checksum::Crc32c,
    features,
    fields::{Fields, join},
    superblock::Superblock,
    time,
};
use crate::{ByteLen, ByteOffset, DeviceNumber, FileType, InodeNumber, Result, Timestamp};

/// Bytes of the part that every inode has.
const GOOD_OLD_SIZE: usize = 128;
/// Where the block map, extent tree, short target or inline data starts in an inode.
pub(super) const BLOCK_MAP_AT: usize = 0x28;
/// How long it is.
pub(super) const BLOCK_MAP_LEN: usize = 60;

/// Has an extent tree instead of a block map.
pub(super) const FLAG_EXTENTS: u32 = 0x8_0000;
/// Is a directory with a hash tree.
pub(super) const FLAG_INDEX: u32 = 0x1000;
/// Holds the value of an extended attribute of other inodes.
pub(super) const FLAG_EA_INODE: u32 = 0x20_0000;
/// Has its content in the inode itself.
pub(super) const FLAG_INLINE: u32 = 0x1000_0000;
/// Content and names are encrypted.
pub(super) const FLAG_ENCRYPT: u32 = 0x800;
/// Is a directory that folds the case of its names.
pub(super) const FLAG_CASEFOLD: u32 = 0x4000_0000;
const FLAG_HUGE_FILE: u32 = 0x4_0000;

const EXTRA_OF_STRUCT: u16 = 32;

/// An inode's fields, decoded and checked; its content is not yet looked at.
#[derive(Clone, Debug)]
pub(super) struct RawInode {
    /// Its number.
    pub(super) number: u32,
    /// Where its bytes start in the volume, after the replay.
    pub(super) at: ByteOffset,
    pub(super) file_type: FileType,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) crtime: Option<Timestamp>,
    pub(super) nlink: u32,
    pub(super) generation: u32,
    pub(super) flags: u32,
    pub(super) project: u32,
    /// `i_atime`, where an inode that holds an attribute's value has the value's checksum.
    pub(super) value_checksum: u32,
    /// `i_mtime`, where such an inode made by Lustre has the number of its only user.
    pub(super) value_user: u32,
    /// Space taken, in 512-byte sectors, the block of attributes with it.
    pub(super) sectors: u64,
    /// The block of extended attributes, 0 where there is none.
    pub(super) xattr_block: u64,
    /// Block map, extent tree, short target or inline data.
    pub(super) block_map: [u8; BLOCK_MAP_LEN],
    /// Where the attributes in the inode start, from its start; equal to its size where there
    /// is no room for any.
    pub(super) xattrs_at: usize,
    /// Seed of the checksums of its extent blocks and directory blocks.
    pub(super) seed: Crc32c,
}

impl RawInode {
    /// Decodes the inode `number` whose bytes start at `at` of the volume.
    ///
    /// # Errors
    /// `Corrupt` where the checksum or a field is wrong, and for an inode that is not in use.
    pub(super) fn parse(
        superblock: &Superblock,
        number: u32,
        at: ByteOffset,
        bytes: &[u8],
    ) -> Result<Self> {
        let fields = Fields::new("inode", at, bytes);
        let declared = extra_size(&fields)?;
        let generation = fields.u32(0x64)?;
        let seed = superblock.seed.of(&number.to_le_bytes()).of(&generation.to_le_bytes());
        // `ext4_inode_csum_verify` looks at the creator, too.
        if superblock.features.has(features::METADATA_CSUM) && superblock.linux {
            check_checksum(&fields, seed, declared)?;
        }
        let nlink = u32::from(fields.u16(0x1a)?);
        if nlink == 0 {
            return Err(fields.corrupt("it has no link and is not in use"));
        }
        // The kernel, too, takes the extra fields of an inode that declares none as zeros.
        let extra = if declared == 0 { EXTRA_OF_STRUCT } else { declared };
        let extra = Extra { fields: &fields, end: GOOD_OLD_SIZE.saturating_add(extra.into()) };
        let (file_type, mode) = file_type(&fields)?;
        let flags = fields.u32(0x20)?;
        if flags & FLAG_INLINE != 0 && !superblock.features.has(features::INLINE_DATA) {
            return Err(fields.corrupt("inline data, which the superblock does not allow"));
        }
        // Behind undeclared fields it looks for no attributes.
        let xattrs_at = if declared == 0 { fields.len() } else { extra.end.min(fields.len()) };
        Ok(Self {
            number,
            at,
            file_type,
            mode,
            uid: u32::from(fields.u16(0x78)?) << 16 | u32::from(fields.u16(2)?),
            gid: u32::from(fields.u16(0x7a)?) << 16 | u32::from(fields.u16(0x18)?),
            size: size(superblock, &fields, file_type)?,
            mtime: time::decode(fields.u32(0x10)?, extra.u32(0x88)?),
            ctime: time::decode(fields.u32(0xc)?, extra.u32(0x84)?),
            crtime: match extra.u32(0x90)? {
                Some(seconds) => Some(time::decode(seconds, extra.u32(0x94)?)),
                None => None,
            },
            nlink,
            generation,
            flags,
            project: match superblock.features.has(features::PROJECT) {
                true => extra.u32(0x9c)?.unwrap_or(0),
                false => 0,
            },
            value_checksum: fields.u32(8)?,
            value_user: fields.u32(0x10)?,
            sectors: sectors(superblock, &fields, flags)?,
            xattr_block: xattr_block(superblock, &fields)?,
            block_map: fields.array(BLOCK_MAP_AT)?,
            xattrs_at,
            seed,
        })
    }

    /// Returns its number as the model has it.
    pub(super) fn id(&self) -> InodeNumber {
        InodeNumber(u64::from(self.number))
    }

    /// Tells whether the flag is set.
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Returns the number of the device node.
    ///
    /// SOURCE: `old_decode_dev` and `new_decode_dev` of Linux `include/linux/kdev_t.h`.
    pub(super) fn device(&self) -> Result<DeviceNumber> {
        let fields = self.block_map();
        let old = fields.u16(0)?;
        if fields.u32(0)? != 0 {
            return Ok(DeviceNumber { major: u32::from(old >> 8), minor: u32::from(old & 0xff) });
        }
        let new = fields.u32(4)?;
        Ok(DeviceNumber { major: new >> 8 & 0xfff, minor: new & 0xff | new >> 12 & 0xf_ff00 })
    }

    /// Returns the fields of the block map.
    pub(super) fn block_map(&self) -> Fields<'_> {
        Fields::new("inode", self.at, &self.block_map)
    }

    /// Returns the metadata as the model has it, without content, target and attributes.
    pub(super) fn to_model(&self) -> crate::Inode {
        crate::Inode {
            number: self.id(),
            file_type: self.file_type,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size: ByteLen(self.size),
            mtime: self.mtime,
            ctime: self.ctime,
            crtime: self.crtime,
            nlink: self.nlink,
            generation: self.generation,
            rdev: None,
            target: None,
            xattrs: alloc::vec::Vec::new(),
            project: self.project,
            flags: self.flags,
            extents: alloc::vec::Vec::new(),
        }
    }
}

/// The fields that only inodes of more than 128 bytes have, as far as this one has them.
struct Extra<'f, 'b> {
    fields: &'f Fields<'b>,
    end: usize,
}

impl Extra<'_, '_> {
    /// Returns the field, or `None` where the inode ends before it.
    fn u32(&self, offset: usize) -> Result<Option<u32>> {
        let end = offset.saturating_add(4);
        if end > self.end || end > self.fields.len() {
            return Ok(None);
        }
        self.fields.u32(offset).map(Some)
    }
}

/// Returns how many bytes past the first 128 hold fields; 0 where the inode does not say.
fn extra_size(fields: &Fields<'_>) -> Result<u16> {
    if fields.len() <= GOOD_OLD_SIZE {
        return Ok(0);
    }
    let extra = fields.u16(0x80)?;
    if GOOD_OLD_SIZE.saturating_add(extra.into()) > fields.len() || !extra.is_multiple_of(4) {
        return Err(fields.corrupt("absurd size of its extra fields"));
    }
    Ok(extra)
}

fn check_checksum(fields: &Fields<'_>, seed: Crc32c, extra: u16) -> Result<()> {
    let [a, b] = fields.array(0x7c)?;
    let mut sum = seed.of(fields.slice(0, 0x7c)?).of(&[0; 2]).of(fields.slice(0x7e, 2)?);
    let mut found = [a, b, 0, 0];
    let mut mask = 0xffff;
    let after = fields.len().saturating_sub(0x82);
    if extra >= 4 {
        let [c, d] = fields.array(0x82)?;
        found = [a, b, c, d];
        mask = u32::MAX;
        sum = sum.of(fields.slice(0x80, 2)?).of(&[0; 2]);
        sum = sum.of(fields.slice(0x84, after.saturating_sub(2))?);
    } else if fields.len() > GOOD_OLD_SIZE {
        sum = sum.of(fields.slice(0x80, 2)?).of(fields.slice(0x82, after)?);
    }
    if sum.0 & mask != u32::from_le_bytes(found) {
        return Err(fields.corrupt("wrong checksum"));
    }
    Ok(())
}

fn file_type(fields: &Fields<'_>) -> Result<(FileType, u16)> {
    let mode = fields.u16(0)?;
    let file_type = match mode >> 12 {
        0x1 => FileType::Fifo,
        0x2 => FileType::Char,
        0x4 => FileType::Dir,
        0x6 => FileType::Block,
        0x8 => FileType::File,
        0xa => FileType::Symlink,
        0xc => FileType::Socket,
        _ => return Err(fields.corrupt("unknown file type")),
    };
    Ok((file_type, mode & 0o7777))
}

fn size(superblock: &Superblock, fields: &Fields<'_>, file_type: FileType) -> Result<u64> {
    let wide = file_type == FileType::File || superblock.features.has(features::LARGEDIR);
    let high = if wide { fields.u32(0x6c)? } else { 0 };
    let size = join(fields.u32(4)?, high);
    if i64::try_from(size).is_err() {
        return Err(fields.corrupt("negative size"));
    }
    Ok(size)
}

fn sectors(superblock: &Superblock, fields: &Fields<'_>, flags: u32) -> Result<u64> {
    let low = fields.u32(0x1c)?;
    if !superblock.features.has(features::HUGE_FILE) {
        return Ok(u64::from(low));
    }
    let count = join(low, u32::from(fields.u16(0x74)?));
    let unit = match flags & FLAG_HUGE_FILE {
        0 => 1,
        _ => u64::from(superblock.block_size / 512),
    };
    Ok(count.saturating_mul(unit))
}

fn xattr_block(superblock: &Superblock, fields: &Fields<'_>) -> Result<u64> {
    let wide = superblock.features.has(features::SIXTY_FOUR_BIT) && !superblock.hurd;
    let high = if wide { u32::from(fields.u16(0x76)?) } else { 0 };
    Ok(join(fields.u32(0x68)?, high))
}
