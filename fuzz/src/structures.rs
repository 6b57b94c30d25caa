//! Single structures of ext, forged inside a real image with their checksums made right: the
//! fuzzer need not find its way to them.

use umbra_fsparse::testing::Mender;

use crate::ext::check_image;
use crate::input::{BASES, base_image};

/// Inodes that a forged image has at most: all of the bases have fewer in their first group.
const INODES: u64 = 64;
/// A file of the bases with content, which becomes the owner of forged extents: the first inode
/// that a name may lead to after lost+found.
const OWNER: u64 = 12;
const ROOT: u64 = 2;
/// Where flags, block map and size's high half stand in an inode.
const FLAGS_AT: u64 = 0x20;
const BLOCK_MAP_AT: u64 = 0x28;
const ATTRIBUTE_BLOCK_AT: u64 = 0x68;
const EXTENTS: u32 = 0x8_0000;

/// A real image that is being forged.
struct Forged {
    image: Vec<u8>,
    mender: Mender,
    mend: bool,
}

impl Forged {
    /// Takes the base that the first byte names; its highest bit leaves checksums wrong.
    fn of(input: &[u8]) -> Option<(Self, &[u8])> {
        let (first, rest) = input.split_first()?;
        let image = base_image(usize::from(first & 0x7f) % BASES.len());
        let mender = Mender::of(&image).expect("the bases are sound");
        Some((Self { image, mender, mend: first & 0x80 == 0 }, rest))
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let places = self.image.iter_mut().skip(at).zip(bytes);
        places.for_each(|(place, byte)| *place = *byte);
    }

    /// Makes checksums right unless the input wants them wrong. A mender that finds nothing to
    /// mend, as the structure is too absurd, leaves it.
    fn mend(&mut self, mend: impl FnOnce(&Mender, &mut [u8]) -> Option<()>) {
        if self.mend {
            let _ = mend(&self.mender, &mut self.image);
        }
    }

    fn inode_at(&self, number: u64) -> u64 {
        self.mender.inode_at(&self.image, number).expect("the bases are sound")
    }

    fn word(&self, at: u64) -> u32 {
        let bytes = usize::try_from(at).ok().and_then(|at| self.image.get(at..)?.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// Returns where the first block of content of an inode of a base stands.
    fn first_block(&self, number: u64) -> u64 {
        let map = self.inode_at(number) + BLOCK_MAP_AT;
        let has_extents = self.word(map - BLOCK_MAP_AT + FLAGS_AT) & EXTENTS != 0;
        let block = self.word(map + if has_extents { 20 } else { 0 });
        u64::from(block) * self.mender.block_size
    }

    /// Returns blocks that nothing of a base stands in: forged ones go there.
    fn spare_block(&self, index: usize) -> u64 {
        let size = self.mender.block_size;
        let last = self.image.len() as u64 / size - 1;
        (last - index as u64) * size
    }
}

/// Takes the next patch: offset (u16, below `limit`), length (u8), bytes.
fn next_patch<'a>(rest: &mut &'a [u8], limit: usize) -> Option<(u64, &'a [u8])> {
    let ([low, high, len], behind) = rest.split_first_chunk()?;
    let at = usize::from(u16::from_le_bytes([*low, *high])) % limit;
    let (bytes, behind) = behind.split_at(usize::from(*len).min(behind.len()).min(limit - at));
    *rest = behind;
    Some((at as u64, bytes))
}

/// Base (u8), then patches of the superblock and of the kibibyte of descriptors behind it.
pub(crate) fn superblock(input: &[u8]) {
    let Some((mut forged, mut rest)) = Forged::of(input) else { return };
    let descriptors = forged.mender.descriptor_at(0).expect("the bases are sound");
    while let Some((at, bytes)) = next_patch(&mut rest, 2048) {
        let place = if at < 1024 { 1024 + at } else { descriptors + at - 1024 };
        forged.put(place, bytes);
    }
    // The forged superblock says where and how its checksums stand.
    if let Some(mender) = Mender::of(&forged.image) {
        forged.mender = mender;
        for group in 0..mender.groups.min(8) {
            forged.mend(|mender, image| mender.bitmaps(image, group));
        }
        forged.mend(Mender::superblock);
    }
    check_image(&forged.image);
}

/// Base (u8), then patches: number of the inode (u8), and as in [`superblock`] within it.
pub(crate) fn inode(input: &[u8]) {
    let Some((mut forged, mut rest)) = Forged::of(input) else { return };
    let mut changed = Vec::new();
    while let Some((number, behind)) = rest.split_first() {
        rest = behind;
        let number = u64::from(*number) % INODES + 1;
        let size = usize::try_from(forged.mender.inode_size).expect("a small number");
        let Some((at, bytes)) = next_patch(&mut rest, size) else { break };
        let place = forged.inode_at(number) + at;
        forged.put(place, bytes);
        changed.push(number);
    }
    for number in changed {
        forged.mend(|mender, image| mender.inode(image, number));
    }
    check_image(&forged.image);
}

/// Base (u8), size (u32) of a file with these extents, then nodes of its tree: the root, then
/// blocks that stand at the end of the image, the last one first. A node: entries (u8), depth
/// (u8), entries of 12 bytes.
pub(crate) fn extents(input: &[u8]) {
    let Some((mut forged, rest)) = Forged::of(input) else { return };
    let Some((size, mut rest)) = rest.split_first_chunk::<4>() else { return };
    let inode = forged.inode_at(OWNER);
    let mut nodes = Vec::new();
    for index in 0..8 {
        let Some(([count, depth], behind)) = rest.split_first_chunk() else { break };
        let room = if index == 0 { 4 } else { (forged.mender.block_size as usize - 16) / 12 };
        let len = (usize::from(*count) * 12).min(behind.len());
        let (entries, behind) = behind.split_at(len);
        rest = behind;
        let mut node = vec![0x0a, 0xf3, *count, 0, room as u8, 0, *depth, 0, 0, 0, 0, 0];
        node.extend_from_slice(entries.get(..room * 12).unwrap_or(entries));
        let at = match index {
            0 => inode + BLOCK_MAP_AT,
            _ => {
                let at = forged.spare_block(index - 1);
                nodes.push(at);
                at
            }
        };
        forged.put(at, &node);
    }
    // A file that may have any length, in one piece with its blocks counted by nobody.
    forged.put(inode, &0o100_644_u16.to_le_bytes());
    forged.put(inode + 4, size);
    forged.put(inode + FLAGS_AT, &EXTENTS.to_le_bytes());
    forged.mend(|mender, image| mender.inode(image, OWNER));
    for at in nodes {
        forged.mend(|mender, image| mender.extent_node(image, at, OWNER));
    }
    check_image(&forged.image);
}

/// Base (u8), then the block of the root directory as far as the bytes go. The tail with the
/// checksum, where the base has one, is the base's unless the bytes reach it.
pub(crate) fn entries(input: &[u8]) {
    let Some((mut forged, rest)) = Forged::of(input) else { return };
    let at = forged.first_block(ROOT);
    let size = usize::try_from(forged.mender.block_size).expect("a small number");
    let bytes = rest.get(..size).unwrap_or(rest);
    forged.put(at, bytes);
    forged.mend(|mender, image| mender.directory_block(image, at, ROOT));
    check_image(&forged.image);
}

/// Base (u8), how many of the bytes (u8) go into the inode behind its fields, those, then the
/// block of attributes behind its header.
pub(crate) fn attributes(input: &[u8]) {
    let Some((mut forged, rest)) = Forged::of(input) else { return };
    let Some((inside, rest)) = rest.split_first() else { return };
    let room = forged.mender.inode_size.saturating_sub(128 + 32 + 4);
    let inside = usize::from(*inside).min(rest.len()).min(room as usize);
    let (inside, outside) = rest.split_at(inside);
    let inode = forged.inode_at(OWNER);
    if !inside.is_empty() {
        forged.put(inode + 128, &32_u16.to_le_bytes());
        forged.put(inode + 160, &0xea02_0000_u32.to_le_bytes());
        forged.put(inode + 164, inside);
    }
    if !outside.is_empty() {
        let at = forged.spare_block(0);
        let block = u32::try_from(at / forged.mender.block_size).expect("a small image");
        let mut header = 0xea02_0000_u32.to_le_bytes().to_vec();
        header.extend_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
        header.resize(32, 0);
        forged.put(at, &header);
        let len = outside.len().min(forged.mender.block_size as usize - header.len());
        forged.put(at + 32, &outside[..len]);
        forged.put(inode + ATTRIBUTE_BLOCK_AT, &block.to_le_bytes());
        forged.mend(|mender, image| mender.attribute_block(image, at));
    }
    forged.mend(|mender, image| mender.inode(image, OWNER));
    check_image(&forged.image);
}
