//! Content hashes of files whose bytes are not chunked as theirs: read once more, if they are few.

use umbra_common::overlay::ContentHash;
use umbra_common::{ByteLen, ByteOffset, ByteRange};
use umbra_fsparse::{Codec, ExtentKind, Inode};

use crate::source::Device;

/// Most bytes that are read for one such file.
const FILE_LIMIT: u64 = 64 << 20;

/// Hashes the content of `inode`, whose volume starts at `base`; what of `lost` is in it the
/// snapshot has as zeros, whatever the device says now. `lost` is sorted and disjoint.
pub fn hash(
    device: &dyn Device,
    inode: &Inode,
    base: ByteOffset,
    lost: &[ByteRange],
) -> ContentHash {
    if inode.size.0 > FILE_LIMIT {
        return ContentHash::Shared;
    }
    let Ok(size) = usize::try_from(inode.size.0) else { return ContentHash::Shared };
    let mut content = vec![0_u8; size];
    for extent in inode.extents.iter().filter(|extent| extent.kind != ExtentKind::Unwritten) {
        if !matches!(extent.codec, Codec::None | Codec::Jbd2Escaped) {
            // A hash of packed bytes would be that of no content.
            return ContentHash::Shared;
        }
        let Ok(start) = usize::try_from(extent.logical.0) else { continue };
        let Some(rest) = content.get_mut(start..) else { continue };
        let len = usize::try_from(extent.volume.len().0).unwrap_or(usize::MAX).min(rest.len());
        let Some(target) = rest.get_mut(..len) else { continue };
        let Some(disk) = base.checked_add(ByteLen(extent.volume.start().0)) else {
            return ContentHash::Unreadable;
        };
        let range = ByteRange::new(disk, ByteLen(target.len() as u64)).unwrap_or_default();
        let behind = lost.partition_point(|lost| lost.end() <= range.start());
        let is_lost = lost.get(behind).is_some_and(|lost| lost.intersection(range).is_some());
        if is_lost || device.read_at(disk, target).is_err() {
            return ContentHash::Unreadable;
        }
        decode(extent.codec, target);
    }
    ContentHash::Blake3(*blake3::hash(&content).as_bytes())
}

/// Turns the bytes of an extent into content, in place.
pub fn decode(codec: Codec, bytes: &mut [u8]) {
    if codec == Codec::Jbd2Escaped
        && let Some(magic) = bytes.first_chunk_mut::<4>()
    {
        *magic = 0xC03B_3998_u32.to_be_bytes();
    }
}
