//! Extended attributes, in the inode and in a block of their own.
//!
//! SOURCE: Linux `fs/ext4/xattr.h` (layout, name indexes), `fs/ext4/xattr.c` (`check_xattrs`,
//! `ext4_xattr_block_csum`).

use alloc::vec::Vec;

use super::{
    acl,
    blocks::Block,
    features,
    fields::Fields,
    inode::{FLAG_EA_INODE, RawInode},
    reader::Reader,
};
use crate::{ByteLen, ByteOffset, Error, Result, Xattr};

const MAGIC: u32 = 0xea02_0000;
const BLOCK_STRUCTURE: &str = "block of extended attributes";
const BLOCK_HEADER: usize = 32;
const INODE_HEADER: usize = 4;
const ENTRY_HEADER: usize = 16;
const CHECKSUM_AT: usize = 16;
/// The longest name, prefix included, that Linux allows (`XATTR_NAME_MAX`).
const MAX_NAME: usize = 255;
/// The largest value that Linux allows.
const MAX_VALUE: u32 = 65536;
/// The most bytes of values outside the inode and its block that one inode may have.
const MAX_LARGE_VALUES: u64 = 1 << 20;

const INDEX_ACL_ACCESS: u8 = 2;
const INDEX_ACL_DEFAULT: u8 = 3;
const INDEX_SYSTEM: u8 = 7;
const INDEX_ENCRYPTION: u8 = 9;

/// The attributes of an inode.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Sorted by name.
    pub(super) list: Vec<Xattr>,
    /// Where the rest of inline data stands: offset in the inode, and length.
    pub(super) inline: Option<(usize, usize)>,
    /// What was left out and why.
    pub(super) damage: Vec<Error>,
}

/// One entry as it is stored.
struct Stored<'b> {
    index: u8,
    name: &'b [u8],
    value: Value,
}

enum Value {
    /// Offset and length in the same area.
    Here(usize, usize),
    /// The content of an inode, of that many bytes.
    Inode(u32, u32),
}

/// Reads the attributes of an inode whose bytes are `bytes`.
///
/// # Errors
/// Only `Limit`: everything else is noted in the answer.
pub(super) fn read(reader: &mut Reader<'_>, inode: &RawInode, bytes: &[u8]) -> Result<Attributes> {
    let mut attributes = Attributes::default();
    let mut large = Vec::new();
    let in_inode = in_inode(inode, bytes, &mut attributes, &mut large);
    if let Err(error) = in_inode {
        attributes.damage.push(error);
    }
    if inode.xattr_block != 0 {
        reader.steps.take(1)?;
        reader.uses(Block(inode.xattr_block), 1);
        if let Err(error) = in_block(reader, inode, &mut attributes, &mut large) {
            attributes.damage.push(error);
        }
    }
    let mut total = 0u64;
    for (name, number, len) in large {
        total = total.saturating_add(u64::from(len));
        match large_value(reader, inode, number, len, total) {
            Ok(value) => attributes.list.push(Xattr { name, value }),
            Err(error @ Error::Limit { .. }) => return Err(error),
            Err(error) => attributes.damage.push(error),
        }
    }
    // Where both places have a name the kernel shows the inode's: it came first, and the sort
    // keeps it there.
    attributes.list.sort_by(|one, other| one.name.cmp(&other.name));
    attributes.list.dedup_by(|later, first| later.name == first.name);
    Ok(attributes)
}

type Large = (Vec<u8>, u32, u32);

fn in_inode(
    inode: &RawInode,
    bytes: &[u8],
    attributes: &mut Attributes,
    large: &mut Vec<Large>,
) -> Result<()> {
    let area = bytes.get(inode.xattrs_at..).unwrap_or_default();
    let fields = Fields::new("extended attributes of the inode", inode.at, area);
    if area.len() < INODE_HEADER || fields.u32(0)? != MAGIC {
        return Ok(());
    }
    let rest = fields.slice(INODE_HEADER, area.len().saturating_sub(INODE_HEADER))?;
    let fields = Fields::new("extended attributes of the inode", inode.at, rest);
    entries(&fields, 0, |stored| {
        if let (INDEX_SYSTEM, b"data", Value::Here(at, len)) =
            (stored.index, stored.name, &stored.value)
        {
            let start = inode.xattrs_at.saturating_add(INODE_HEADER).saturating_add(*at);
            attributes.inline = Some((start, *len));
            return Ok(());
        }
        take(&fields, &stored, attributes, large)
    })
}

fn in_block(
    reader: &mut Reader<'_>,
    inode: &RawInode,
    attributes: &mut Attributes,
    large: &mut Vec<Large>,
) -> Result<()> {
    let structure = BLOCK_STRUCTURE;
    let block = Block(inode.xattr_block);
    let at = reader.blocks.place(block);
    if reader.zones.overlap(block, 1) {
        let reason = "it lies in the file system's own structures";
        return Err(Error::Corrupt { structure, at, reason });
    }
    let bytes = reader.nodes.block(reader.blocks, block);
    let bytes = bytes.map_err(|source| Error::Io { structure, source })?;
    let fields = Fields::new(structure, at, bytes);
    if fields.u32(0)? != MAGIC || fields.u32(8)? != 1 {
        return Err(fields.corrupt("no header"));
    }
    if reader.superblock.features.has(features::METADATA_CSUM) {
        let sum = reader.superblock.seed.of(&block.0.to_le_bytes());
        let sum = sum.of(fields.slice(0, CHECKSUM_AT)?).of(&[0; 4]);
        let rest = CHECKSUM_AT.saturating_add(4);
        let sum = sum.of(fields.slice(rest, fields.len().saturating_sub(rest))?);
        if sum.0 != fields.u32(CHECKSUM_AT)? {
            return Err(fields.corrupt("wrong checksum"));
        }
    }
    entries(&fields, BLOCK_HEADER, |stored| take(&fields, &stored, attributes, large))
}

/// Gives each entry of an area whose entries start at `start`; values count from its own start.
fn entries<'b>(
    fields: &Fields<'b>,
    start: usize,
    mut give: impl FnMut(Stored<'b>) -> Result<()>,
) -> Result<()> {
    let mut at = start;
    let mut values = 0usize;
    // Four zeros end the list; so does the area's end.
    while at.saturating_add(4) <= fields.len() && fields.u32(at)? != 0 {
        let name_len = usize::from(fields.u8(at)?);
        let name = fields.slice(at.saturating_add(ENTRY_HEADER), name_len)?;
        let size = fields.u32(at.saturating_add(8))?;
        if size > MAX_VALUE {
            return Err(fields.corrupt("a value longer than Linux allows"));
        }
        let value = match fields.u32(at.saturating_add(4))? {
            0 => {
                let len = usize::try_from(size).unwrap_or(usize::MAX);
                // Values do not overlap: together they cannot be longer than the area.
                values = values.saturating_add(len);
                if values > fields.len() {
                    return Err(fields.corrupt("more bytes of values than it has"));
                }
                let offset = match len {
                    0 => 0,
                    _ => usize::from(fields.u16(at.saturating_add(2))?),
                };
                fields.slice(offset, len)?;
                Value::Here(offset, len)
            }
            number => Value::Inode(number, size),
        };
        give(Stored { index: fields.u8(at.saturating_add(1))?, name, value })?;
        let len = ENTRY_HEADER.saturating_add(name_len).next_multiple_of(4);
        at = at.saturating_add(len);
    }
    Ok(())
}

/// Takes one entry as the VFS shows it.
fn take(
    fields: &Fields<'_>,
    stored: &Stored<'_>,
    attributes: &mut Attributes,
    large: &mut Vec<Large>,
) -> Result<()> {
    let prefix: &[u8] = match stored.index {
        1 => b"user.",
        INDEX_ACL_ACCESS => b"system.posix_acl_access",
        INDEX_ACL_DEFAULT => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        10 => b"gnu.",
        // The VFS shows neither.
        INDEX_SYSTEM | INDEX_ENCRYPTION => return Ok(()),
        // Nor the others, for which Linux has no handler: names without a prefix (0), Lustre's
        // (5), rich ACLs (8).
        _ => {
            attributes.damage.push(fields.unsupported("an unknown name index"));
            return Ok(());
        }
    };
    let name = [prefix, stored.name].concat();
    // As `ext4_xattr_check_entries` and the VFS: such a name can be neither listed nor asked for.
    if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) {
        attributes.damage.push(fields.corrupt("a name that is empty, too long or holds a NUL"));
        return Ok(());
    }
    match stored.value {
        Value::Here(at, len) => {
            let value = fields.slice(at, len)?;
            let value = match stored.index {
                INDEX_ACL_ACCESS | INDEX_ACL_DEFAULT => acl::to_vfs(fields, value),
                _ => Ok(value.to_vec()),
            };
            match value {
                Ok(value) => attributes.list.push(Xattr { name, value }),
                Err(error) => attributes.damage.push(error),
            }
        }
        Value::Inode(number, len) => large.push((name, number, len)),
    }
    Ok(())
}

/// Reads a value of `owner` that is the content of an inode (feature ea_inode).
///
/// SOURCE: Linux `fs/ext4/xattr.c` (`ext4_xattr_inode_get`, `ext4_xattr_inode_iget`).
fn large_value(
    reader: &mut Reader<'_>,
    owner: &RawInode,
    number: u32,
    len: u32,
    total: u64,
) -> Result<Vec<u8>> {
    let mut scratch = Vec::new();
    let inode = reader.inode(number, &mut scratch)?;
    let fields = Fields::new("inode of an extended attribute", inode.at, &[]);
    if !reader.superblock.features.has(features::EA_INODE) || !inode.has(FLAG_EA_INODE) {
        return Err(fields.corrupt("it is not one that holds a value"));
    }
    if total > MAX_LARGE_VALUES {
        return Err(fields.unsupported("more than 1 MiB of large values"));
    }
    if inode.size != u64::from(len) {
        return Err(fields.corrupt("its size is not the value's"));
    }
    let mapping = reader.map(&inode)?;
    let value = reader.content(&inode, &mapping, usize::try_from(len).unwrap_or(usize::MAX))?;
    // Lustre wrote no checksum; its inodes name the one inode that they belong to.
    let of_lustre = inode.value_user == owner.number && inode.generation == owner.generation;
    if reader.superblock.seed.of(&value).0 != inode.value_checksum && !of_lustre {
        return Err(fields.corrupt("wrong checksum of the value"));
    }
    Ok(value)
}

/// Returns where in the volume the byte `within` an inode stands.
pub(super) fn place(inode: &RawInode, within: usize) -> ByteOffset {
    let within: ByteLen = super::fields::byte_len(within);
    inode.at.checked_add(within).unwrap_or(inode.at)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::vec;

    fn entry(index: u8, name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; ENTRY_HEADER];
        bytes[0] = name.len().try_into().unwrap();
        bytes[1] = index;
        bytes.extend_from_slice(name);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// Found by the fuzz target `ext`: no record takes such a name, so the file would be lost.
    #[test]
    fn names_that_no_one_can_ask_for_are_damage() {
        let area = [
            entry(1, b"good"),
            // An index without a prefix and no name; the hash keeps it from ending the list.
            [&[0, 0, 1, 0][..], &[0; ENTRY_HEADER - 4]].concat(),
            entry(1, b"a\0b"),
            entry(6, &[b'x'; 247]),
            entry(6, &[b'y'; 246]),
            vec![0; 4],
        ]
        .concat();
        let fields = Fields::new(BLOCK_STRUCTURE, ByteOffset(0), &area);
        let (mut attributes, mut large) = (Attributes::default(), Vec::new());
        entries(&fields, 0, |stored| take(&fields, &stored, &mut attributes, &mut large)).unwrap();
        let names: Vec<usize> = attributes.list.iter().map(|xattr| xattr.name.len()).collect();
        assert_eq!(names, [9, 255]);
        assert_eq!(attributes.damage.len(), 3);
    }
}
