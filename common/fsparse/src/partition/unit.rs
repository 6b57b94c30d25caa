//! Which sectors an MBR counts in: those of the disk, which the table does not name.
//!
//! An image file has no sector size, so what stands where the entries point decides. Sectors of
//! 512 bytes are assumed unless no entry leads to anything known in them, and in sectors of 4096
//! bytes all entries lie on the disk and one does. A wrong answer costs names, never bytes.
//!
//! SOURCES of the marks: Linux `fs/ext4/ext4.h`, `fs/xfs/libxfs/xfs_format.h`, `fs/btrfs/fs.h`,
//! `include/linux/swap.h`; LUKS2 and LVM2 on-disk formats; the rest as in `boot`.

use super::{
    boot,
    mbr::{self, Entry},
};
use crate::{ByteLen, ByteOffset, ByteRange, ReadAt};

const LARGE: ByteLen = ByteLen(4096);

/// Marks of what a partition may hold: distance from its start, and bytes.
const MARKS: [(u64, &[u8]); 7] = [
    (0, b"XFSB"),
    (0, b"LUKS\xba\xbe"),
    (512, b"LABELONE"),
    (1080, b"\x53\xef"),
    (4096, b"LABELONE"),
    (4086, b"SWAPSPACE2"),
    (65600, b"_BHRfS_M"),
];
/// The longest of them.
const MARK_BYTES: usize = 10;

/// Returns the sector size that the entries of the boot record count in: 512 or 4096 bytes.
pub(super) fn of(disk: &dyn ReadAt, entries: &[Entry; 4]) -> ByteLen {
    let whole = ByteRange::new(ByteOffset(0), disk.len()).unwrap_or_default();
    let leads_somewhere = |entry: Entry| {
        let range = entry.range(ByteOffset(0));
        range.is_some_and(|range| !entry.is_unused() && is_known(disk, &entry, range.start()))
    };
    if entries.iter().any(|&entry| leads_somewhere(entry)) {
        return mbr::SECTOR;
    }
    let large = entries.map(|entry| entry.in_sectors_of(LARGE));
    let all_inside = large
        .iter()
        .filter(|entry| !entry.is_unused())
        .all(|entry| entry.range(ByteOffset(0)).is_some_and(|range| whole.contains(range)));
    match all_inside && large.into_iter().any(leads_somewhere) {
        true => LARGE,
        false => mbr::SECTOR,
    }
}

/// Tells whether something known stands where the entry leads.
fn is_known(disk: &dyn ReadAt, entry: &Entry, start: ByteOffset) -> bool {
    if start.0 == 0 {
        return false;
    }
    let mut sector = [0; mbr::SECTOR_BYTES];
    if disk.read_at(start, &mut sector).is_err() {
        return false;
    }
    if entry.is_extended() {
        return boot::has_signature(&sector);
    }
    boot::has_boot_parameters(&sector) || MARKS.iter().any(|&(at, mark)| has(disk, start, at, mark))
}

fn has(disk: &dyn ReadAt, start: ByteOffset, at: u64, mark: &[u8]) -> bool {
    let mut bytes = [0; MARK_BYTES];
    let Some(bytes) = bytes.get_mut(..mark.len()) else { return false };
    let Some(at) = start.checked_add(ByteLen(at)) else { return false };
    disk.read_at(at, bytes).is_ok() && bytes == mark
}
