//! What the first sector of a disk is: a table, a protective MBR, a file system, or nothing.

use super::mbr::{self, Entry};
use super::{le16, le32};
use crate::{ByteLen, ByteOffset, ByteRange, Error};

/// The boot signature's place and bytes (UEFI 2.10, table 5-1).
const SIGNATURE_AT: usize = 510;
const SIGNATURE: u16 = 0xAA55;
/// The type of the entry that protects a GPT, and where that entry must start.
const PROTECTIVE: u8 = 0xEE;
const PROTECTIVE_START: ByteLen = mbr::SECTOR;

/// What the first sector is.
pub(super) enum Sector {
    /// No partition table, and nothing that claims to be one.
    NoTable,
    /// It ends like a table and contradicts itself.
    Broken(&'static str),
    /// A protective or hybrid MBR: the table is a GPT.
    Protective,
    /// An MBR table with at least one entry.
    Table {
        /// Its four entries.
        entries: [Entry; 4],
        /// Whether a file system's boot parameters stand in the sector too.
        file_system: bool,
    },
}

/// Makes the error of a boot sector.
pub(super) fn corrupt(reason: &'static str) -> Error {
    Error::Corrupt { structure: "partition table (MBR)", at: ByteOffset(0), reason }
}

/// Tells what the first sector of a disk of this length is.
pub(super) fn classify(sector: &[u8; mbr::SECTOR_BYTES], disk: ByteLen) -> Sector {
    if !has_signature(sector) {
        return Sector::NoTable;
    }
    let Some(entries) = mbr::entries(sector) else { return Sector::NoTable };
    let file_system = has_boot_parameters(sector);
    // Boot code and its messages reach into the four entries, and hardly ever leave 00 or 80
    // in these four bytes. Linux and libblkid use the same test.
    if !entries.iter().all(Entry::has_sane_indicator) {
        return match file_system {
            true => Sector::NoTable,
            false => Sector::Broken("boot indicators are neither 00 nor 80"),
        };
    }
    if entries.iter().any(|entry| entry.type_byte == PROTECTIVE) {
        // Without this test a byte of boot code could wake the stale backup GPT of a disk that
        // is one file system now.
        return match entries
            .iter()
            .any(|entry| entry.type_byte == PROTECTIVE && entry.start == PROTECTIVE_START)
        {
            true => Sector::Protective,
            false => Sector::Broken("an entry of type EE does not start at sector 1"),
        };
    }
    if entries.iter().all(Entry::is_unused) || (file_system && !are_sound(&entries, disk)) {
        return Sector::NoTable;
    }
    Sector::Table { entries, file_system }
}

/// Tells whether the sector ends in 55 AA.
pub(super) fn has_signature(sector: &[u8; mbr::SECTOR_BYTES]) -> bool {
    le16(sector, SIGNATURE_AT) == Some(SIGNATURE)
}

/// Tells whether every used entry could have been written by a partitioning program for this
/// very disk: typed, after sector 0, inside the disk, apart from the others.
fn are_sound(entries: &[Entry; 4], disk: ByteLen) -> bool {
    let mut before: [Option<ByteRange>; 4] = [None; 4];
    for (entry, slot) in entries.iter().zip(0..before.len()) {
        if entry.is_unused() {
            continue;
        }
        let Some(range) = ByteRange::new(ByteOffset(entry.start.0), entry.len) else {
            return false;
        };
        if entry.type_byte == 0 || entry.start.0 == 0 || range.end().0 > disk.0 {
            return false;
        }
        if before.iter().flatten().any(|other| other.intersection(range).is_some()) {
            return false;
        }
        if let Some(place) = before.get_mut(slot) {
            *place = Some(range);
        }
    }
    true
}

/// Tells whether the sector holds the boot parameters of NTFS, BitLocker, exFAT or FAT.
///
/// Sources: Microsoft, "FAT32 File System Specification" 1.03 (BPB) and "exFAT file system
/// specification" 3.1; NTFS and BitLocker by the name at byte 3.
pub(super) fn has_boot_parameters(sector: &[u8; mbr::SECTOR_BYTES]) -> bool {
    match sector.get(3..11) {
        Some(b"NTFS    " | b"-FVE-FS-") => true,
        // MustBeZero: where the parameters of FAT would stand.
        Some(b"EXFAT   ") => sector.get(11..64).is_some_and(|bytes| bytes.iter().all(|b| *b == 0)),
        _ => has_fat_parameters(sector).unwrap_or(false),
    }
}

fn has_fat_parameters(sector: &[u8; mbr::SECTOR_BYTES]) -> Option<bool> {
    let sectors_per_cluster = *sector.get(13)?;
    let media = *sector.get(21)?;
    let fat_sectors = (le16(sector, 22)?, le32(sector, 36)?);
    let total_sectors = (le16(sector, 19)?, le32(sector, 32)?);
    Some(
        matches!(sector.first(), Some(0xEB | 0xE9))
            && matches!(le16(sector, 11)?, 512 | 1024 | 2048 | 4096)
            && sectors_per_cluster.is_power_of_two()
            && le16(sector, 14)? != 0
            && matches!(sector.get(16), Some(1..=4))
            && (media == 0xF0 || media >= 0xF8)
            && fat_sectors != (0, 0)
            && total_sectors != (0, 0),
    )
}
