//! What an inode's content is: extents, inline data, target, device.

use alloc::vec::Vec;

use super::{
    features,
    inode::{BLOCK_MAP_AT, BLOCK_MAP_LEN, FLAG_ENCRYPT, FLAG_EXTENTS, FLAG_INLINE, RawInode},
    mapping::{self, Mapping},
    reader::Reader,
    xattr::{Attributes, place},
};
use crate::{ByteLen, ByteOffset, Extent, FileType, Inode, Result};

/// The number of the parent directory, before the entries of an inline directory.
const INLINE_PARENT: usize = 4;

/// A piece of an inline directory.
pub(super) struct InlinePiece<'b> {
    /// Where it stands in the volume.
    pub(super) at: ByteOffset,
    pub(super) bytes: &'b [u8],
}

/// Returns the inode with its content, but without its attributes.
///
/// # Errors
/// Any damage that would make the content wrong. A directory's damage is not told here: its
/// sound part is worth having, and the walk tells when it lists it.
pub(super) fn complete(
    reader: &mut Reader<'_>,
    raw: &RawInode,
    attributes: &Attributes,
) -> Result<Inode> {
    let mut inode = raw.to_model();
    match raw.file_type {
        FileType::Fifo | FileType::Socket => {}
        FileType::Char | FileType::Block => inode.rdev = Some(raw.device()?),
        FileType::Symlink => symlink(reader, raw, attributes, &mut inode)?,
        FileType::File | FileType::Dir if raw.has(FLAG_INLINE) => {
            inode.extents = inline_extents(raw, attributes)?;
        }
        FileType::Dir => inode.extents = reader.map(raw)?.extents(reader.blocks),
        FileType::File => inode.extents = sound(reader.map(raw)?)?.extents(reader.blocks),
    }
    Ok(inode)
}

/// Returns the two pieces of an inline directory's entries.
pub(super) fn inline_directory<'b>(
    raw: &RawInode,
    bytes: &'b [u8],
    attributes: &Attributes,
) -> Result<[InlinePiece<'b>; 2]> {
    let (second_at, second_len) = rest_of_inline(raw, attributes)?;
    let first_at = BLOCK_MAP_AT.saturating_add(INLINE_PARENT);
    let first_len = BLOCK_MAP_LEN.saturating_sub(INLINE_PARENT);
    let piece = |at: usize, len: usize| InlinePiece {
        at: place(raw, at),
        bytes: bytes.get(at..at.saturating_add(len)).unwrap_or_default(),
    };
    Ok([piece(first_at, first_len), piece(second_at, second_len)])
}

/// Returns the mapping, or the first thing that is wrong with it.
fn sound(mapping: Mapping) -> Result<Mapping> {
    match mapping.damage.first() {
        Some(error) => Err(error.clone()),
        None => Ok(mapping),
    }
}

/// Returns where the inline data past its first 60 bytes stands in the inode, and its length.
///
/// # Errors
/// `Corrupt` without the attribute: the kernel refuses such an inode, too.
fn rest_of_inline(raw: &RawInode, attributes: &Attributes) -> Result<(usize, usize)> {
    let missing = || raw.block_map().corrupt("inline data without its attribute");
    attributes.inline.ok_or_else(missing)
}

/// Returns the extents of inline data. Content past them is a hole: a file made longer by
/// truncate stays inline.
fn inline_extents(raw: &RawInode, attributes: &Attributes) -> Result<Vec<Extent>> {
    let (rest_at, rest_len) = rest_of_inline(raw, attributes)?;
    let first_len = super::fields::byte_len(BLOCK_MAP_LEN).0;
    let first = raw.size.min(first_len);
    let rest = raw.size.saturating_sub(first).min(super::fields::byte_len(rest_len).0);
    let mut extents = Vec::new();
    if first > 0 {
        let at = place(raw, BLOCK_MAP_AT);
        extents.push(mapping::inline(ByteOffset(0), at, ByteLen(first)));
    }
    if rest > 0 {
        let at = place(raw, rest_at);
        extents.push(mapping::inline(ByteOffset(first_len), at, ByteLen(rest)));
    }
    Ok(extents)
}

/// Fills in the target of a symbolic link, and the extents where it has blocks.
fn symlink(
    reader: &mut Reader<'_>,
    raw: &RawInode,
    attributes: &Attributes,
    inode: &mut Inode,
) -> Result<()> {
    let len = usize::try_from(raw.size).unwrap_or(usize::MAX);
    let too_long = raw.size > u64::from(reader.superblock.block_size);
    if raw.size == 0 || too_long {
        return Err(raw.block_map().corrupt("absurd length of a symbolic link"));
    }
    if raw.has(FLAG_ENCRYPT) {
        // Ciphertext with its length before it: not a target, and none is made of it.
        if !raw.has(FLAG_INLINE) && !is_fast(reader, raw) {
            inode.extents = sound(reader.map(raw)?)?.extents(reader.blocks);
        }
        return Ok(());
    }
    let target = if raw.has(FLAG_INLINE) {
        inline_target(reader, raw, attributes, len)?
    } else if is_fast(reader, raw) {
        raw.block_map().slice(0, len)?.to_vec()
    } else {
        let mapping = sound(reader.map(raw)?)?;
        inode.extents = mapping.extents(reader.blocks);
        reader.content(raw, &mapping, len)?
    };
    if target.contains(&0) {
        return Err(raw.block_map().corrupt("a symbolic link's target holds a NUL"));
    }
    inode.target = Some(target);
    Ok(())
}

/// Reads the target of a link that stands in the inode and its attribute.
fn inline_target(
    reader: &mut Reader<'_>,
    raw: &RawInode,
    attributes: &Attributes,
    len: usize,
) -> Result<Vec<u8>> {
    let (rest_at, rest_len) = rest_of_inline(raw, attributes)?;
    let mut bytes = Vec::new();
    reader.inode(raw.number, &mut bytes)?;
    let rest = bytes.get(rest_at..rest_at.saturating_add(rest_len)).unwrap_or_default();
    let mut target = raw.block_map().slice(0, BLOCK_MAP_LEN)?.to_vec();
    target.extend_from_slice(rest);
    if target.len() < len {
        return Err(raw.block_map().corrupt("a symbolic link's target is cut off"));
    }
    target.truncate(len);
    Ok(target)
}

/// Tells whether the target stands in the inode's block map.
///
/// SOURCE: Linux `fs/ext4/inode.c` (`ext4_inode_is_fast_symlink`).
fn is_fast(reader: &Reader<'_>, raw: &RawInode) -> bool {
    if raw.has(FLAG_EXTENTS) {
        return false;
    }
    let superblock = reader.superblock;
    if superblock.features.has(features::EA_INODE) {
        return raw.size < super::fields::byte_len(BLOCK_MAP_LEN).0;
    }
    let attributes = match raw.xattr_block {
        0 => 0,
        _ => superblock.cluster_size / 512,
    };
    raw.sectors == attributes
}
