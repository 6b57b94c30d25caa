//! Partition tables: MBR with logical partitions, and GPT.
//!
//! [`read`] answers with byte ranges that lie inside the disk and never overlap, numbered as
//! Linux numbers the device nodes. It never fails: what is broken becomes a warning, and a disk
//! without a usable table is [`TableKind::None`]. When in doubt a disk has NO table, because a
//! stale table over a whole-disk file system would show stale volumes.
//!
//! Rules, and where they come from:
//! - GPT: UEFI specification 2.10, section 5.2.3 (protective MBR) and 5.3 (headers, entries,
//!   CRC32). As in Linux (`block/partitions/efi.c`) a GPT counts only behind a protective MBR (an
//!   entry of type EE that starts at sector 1); hybrid entries beside it are ignored. Unlike
//!   there the backup header is used where the primary is bad, and a header whose usable area
//!   reaches beyond the disk is accepted, because a truncated image must still show its files.
//!   The logical sector size (512 or 4096) is found by where the header stands.
//! - MBR: Linux `block/partitions/msdos.c`, which counts in the sectors of the device; here in
//!   sectors of 512 bytes, or of 4096 where only those lead to something known (`unit`). An
//!   extended partition is no volume and is left out; BSD, Solaris and Minix tables inside a
//!   partition are not read.
//! - A sector that ends in 55 AA is often the boot sector of a file system instead: boot
//!   indicators other than 00 and 80, a table without entries, and FAT, exFAT, NTFS or BitLocker
//!   parameters beside entries that are not sound all mean that there is no table.

mod boot;
mod gpt;
mod mbr;
mod unit;

use alloc::{format, string::String, vec::Vec};
use core::fmt;

use crate::{ByteLen, ByteOffset, ByteRange, Error, ReadAt};

/// Which kind of table a disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// No table, or none that can be used: the disk may be one volume.
    None,
    /// A table in the master boot record, in sectors of 512 or 4096 bytes.
    Mbr,
    /// A GUID partition table.
    Gpt {
        /// Logical sector size: 512 or 4096 bytes.
        sector: ByteLen,
    },
}

/// What a partition says that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartitionType {
    /// The type byte of an MBR entry (`83` for Linux).
    Mbr(u8),
    /// The type GUID of a GPT entry, as its 16 bytes stand on the disk.
    Gpt([u8; 16]),
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number as Linux numbers it: MBR primary 1 to 4, logical from 5 on; GPT entry + 1.
    pub number: u32,
    /// Its bytes, never empty, inside the disk.
    pub range: ByteRange,
    /// What it is for.
    pub type_id: PartitionType,
    /// Its own GUID (GPT only), as the 16 bytes stand on the disk.
    pub guid: Option<[u8; 16]>,
    /// Its name (GPT only, where not empty); broken UTF-16 becomes U+FFFD.
    pub name: Option<String>,
    /// Whether a BIOS shall boot from it: MBR indicator 80, GPT attribute bit 2.
    pub bootable: bool,
    /// GPT attribute bits; 0 in an MBR.
    pub attributes: u64,
}

/// The table of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionTable {
    /// Which kind.
    pub kind: TableKind,
    /// The disk's GUID (GPT only), as its 16 bytes stand on the disk.
    pub disk_guid: Option<[u8; 16]>,
    /// The disk signature at byte 440 of an MBR (MBR only).
    pub disk_signature: Option<u32>,
    /// The partitions, sorted by start, inside the disk, never overlapping; at most 4096.
    pub partitions: Vec<Partition>,
    /// What was wrong: damaged structures, and partitions that were clamped or left out.
    pub warnings: Vec<Error>,
}

/// Why a partition was clamped or left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionProblem {
    /// It ends before it starts.
    #[error("is empty: left out")]
    Empty,
    /// It starts at sector 0, where the table itself stands.
    #[error("holds the partition table itself: left out")]
    HoldsTable,
    /// It starts at or after the end of the disk.
    #[error("lies beyond the end of the disk ({0}): left out")]
    BeyondEnd(ByteLen),
    /// It starts on the disk and ends after it.
    #[error("reaches beyond the end of the disk ({0}): cut off there")]
    Clamped(ByteLen),
    /// It shares bytes with a partition that starts before it.
    #[error("overlaps partition {0}: left out")]
    Overlaps(u32),
}

/// Reads the partition table of a disk.
///
/// Never fails: what cannot be read or trusted becomes a warning. A boot sector that is plainly
/// something else (no 55 AA, no entry, or a file system's own) gives no warning.
pub fn read(disk: &dyn ReadAt) -> PartitionTable {
    let mut table = PartitionTable {
        kind: TableKind::None,
        disk_guid: None,
        disk_signature: None,
        partitions: Vec::new(),
        warnings: Vec::new(),
    };
    let mut sector = [0; mbr::SECTOR_BYTES];
    if disk.len().0 < mbr::SECTOR.0 {
        return table;
    }
    if let Err(source) = disk.read_at(ByteOffset(0), &mut sector) {
        table.warnings.push(Error::Io { structure: "boot sector", source });
        return table;
    }
    match boot::classify(&sector, disk.len()) {
        boot::Sector::NoTable => {}
        boot::Sector::Broken(reason) => table.warnings.push(boot::corrupt(reason)),
        boot::Sector::Protective => read_gpt(disk, &mut table),
        boot::Sector::Table { entries, file_system } => {
            if file_system {
                table.warnings.push(boot::corrupt(
                    "a file system's parameters stand there too; the entries are sound and used",
                ));
            }
            read_mbr(disk, &sector, &entries, &mut table);
        }
    }
    table
}

/// Formats a GUID as `sgdisk` prints it: the first three fields are little-endian on the disk.
pub fn format_guid(guid: &[u8; 16]) -> String {
    let [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, e0, e1, e2, e3, e4, e5] = *guid;
    format!(
        "{:08X}-{:04X}-{:04X}-{:04X}-{:02X}{:02X}{:02X}{:02X}{:02X}{:02X}",
        u32::from_le_bytes([a0, a1, a2, a3]),
        u16::from_le_bytes([b0, b1]),
        u16::from_le_bytes([c0, c1]),
        u16::from_be_bytes([d0, d1]),
        e0,
        e1,
        e2,
        e3,
        e4,
        e5
    )
}

impl fmt::Display for PartitionType {
    /// Writes `83` or the GUID's text form, as `sfdisk` does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mbr(byte) => write!(f, "{byte:x}"),
            Self::Gpt(guid) => f.write_str(&format_guid(guid)),
        }
    }
}

fn read_gpt(disk: &dyn ReadAt, table: &mut PartitionTable) {
    let Some(gpt) = gpt::read(disk, &mut table.warnings) else {
        table.warnings.push(boot::corrupt("protective, but no intact GPT was found"));
        return;
    };
    table.kind = TableKind::Gpt { sector: gpt.sector };
    table.disk_guid = Some(gpt.disk_guid);
    table.partitions = settle(gpt.partitions, disk.len(), &mut table.warnings);
}

fn read_mbr(
    disk: &dyn ReadAt,
    sector: &[u8; mbr::SECTOR_BYTES],
    entries: &[mbr::Entry; 4],
    table: &mut PartitionTable,
) {
    let unit = unit::of(disk, entries);
    let found = mbr::partitions(disk, entries, unit, &mut table.warnings);
    table.partitions = settle(found, disk.len(), &mut table.warnings);
    if !table.partitions.is_empty() {
        table.kind = TableKind::Mbr;
        table.disk_signature = mbr::disk_signature(sector);
    }
}

/// Keeps the partitions that can be used: inside the disk, sorted, not overlapping.
fn settle(found: Vec<Partition>, disk: ByteLen, warnings: &mut Vec<Error>) -> Vec<Partition> {
    let whole = ByteRange::new(ByteOffset(0), disk).unwrap_or_default();
    let mut inside = Vec::with_capacity(found.len());
    for mut partition in found {
        let wanted = partition.range;
        let problem = if wanted.is_empty() {
            Some(PartitionProblem::Empty)
        } else if wanted.start().0 == 0 {
            Some(PartitionProblem::HoldsTable)
        } else if let Some(range) = wanted.intersection(whole) {
            partition.range = range;
            (range != wanted).then_some(PartitionProblem::Clamped(disk))
        } else {
            Some(PartitionProblem::BeyondEnd(disk))
        };
        if let Some(problem) = problem {
            warnings.push(Error::Partition { number: partition.number, range: wanted, problem });
        }
        if matches!(problem, None | Some(PartitionProblem::Clamped(_))) {
            inside.push(partition);
        }
    }
    inside.sort_by_key(|partition| (partition.range.start(), partition.number));
    let mut kept: Vec<Partition> = Vec::with_capacity(inside.len());
    for partition in inside {
        match kept.last() {
            Some(before) if partition.range.start() < before.range.end() => {
                warnings.push(Error::Partition {
                    number: partition.number,
                    range: partition.range,
                    problem: PartitionProblem::Overlaps(before.number),
                });
            }
            _ => kept.push(partition),
        }
    }
    kept
}

/// Returns the `N` bytes of a structure from `at` on, or `None` where it is shorter.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
