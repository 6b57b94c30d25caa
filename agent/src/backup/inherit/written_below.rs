//! Files that are written without their file system: their times never say so.

use umbra_common::ByteOffset;
use umbra_fsparse::{ExtentKind, Inode};

use crate::source::Device;

/// What boot loaders write into by block number: GRUB's `save_env`, the data area of extlinux.
const BOOT_LOADER_NAMES: [&[u8]; 3] = [b"grubenv", b"ldlinux.sys", b"extlinux.sys"];

/// Page sizes at whose end the kernel looks for the mark of a swap area.
/// SOURCE: Linux mm/swapfile.c (`setup_swap_map_and_extents`, `union swap_header`).
const PAGE_SIZES: [u64; 4] = [4096, 8192, 16_384, 65_536];
/// Marks of swap areas, also while a suspended system stands in them.
/// SOURCE: util-linux libblkid/src/superblocks/swap.c.
const SWAP_MARKS: [&[u8]; 6] =
    [b"SWAPSPACE2", b"SWAP-SPACE", b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"];
const MARK_BYTES: usize = 10;
/// The shortest swap area: ten pages.
const MIN_SWAP_PAGES: u64 = 10;

/// Tells whether a boot loader writes files of this name.
pub(super) fn by_boot_loader(name: &[u8]) -> bool {
    BOOT_LOADER_NAMES.contains(&name)
}

/// Tells whether a file is a swap area, to which the kernel writes by block number, or cannot be
/// told not to be one; adds what was read to `bytes_read`.
pub(super) fn by_swapping(
    device: &dyn Device,
    inode: &Inode,
    volume_start: ByteOffset,
    bytes_read: &mut u64,
) -> bool {
    let size = inode.size.0;
    let is_whole = |page: &u64| size >= MIN_SWAP_PAGES * page && size.is_multiple_of(4096);
    for page in PAGE_SIZES.into_iter().filter(is_whole) {
        let at = page - MARK_BYTES as u64;
        let holds = inode.extents.iter().find(|extent| {
            let start = extent.logical.0;
            start <= at && at - start < extent.volume.len().0
        });
        // A hole holds no mark; blocks never written through the file system neither.
        let Some(extent) = holds.filter(|extent| extent.kind == ExtentKind::Data) else { continue };
        let inside = at - extent.logical.0;
        let place = extent.volume.start().0.checked_add(inside);
        let Some(place) = place.and_then(|place| place.checked_add(volume_start.0)) else {
            return true;
        };
        let mut mark = [0; MARK_BYTES];
        if device.read_at(ByteOffset(place), &mut mark).is_err() {
            return true;
        }
        *bytes_read += MARK_BYTES as u64;
        if SWAP_MARKS.iter().any(|known| mark.starts_with(known)) {
            return true;
        }
    }
    false
}
