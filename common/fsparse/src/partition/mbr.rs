//! The table of the master boot record and the chain of logical partitions.
//!
//! Layout (UEFI 2.10, tables 5-1 and 5-2): four entries of 16 bytes from byte 446 on, each boot
//! indicator (0), type (4), first sector (8, le32), sectors (12, le32); disk signature at 440;
//! 55 AA at 510. An extended boot record (EBR) has the same shape: its partitions count from the
//! record itself, its link to the next record from the start of the extended partition.

use alloc::{collections::BTreeSet, vec::Vec};

use super::{Partition, PartitionType, boot, field, le32};
use crate::{ByteLen, ByteOffset, ByteRange, Error, ReadAt};

/// The sector that MBR tables are read in at first; see `unit` for the other.
pub(super) const SECTOR: ByteLen = ByteLen(512);
/// The same, as the size of a buffer.
pub(super) const SECTOR_BYTES: usize = 512;

const SIGNATURE_AT: usize = 440;
const ENTRY_AT: [usize; 4] = [446, 462, 478, 494];
const ENTRY_BYTES: usize = 16;
const EXTENDED_TYPES: [u8; 3] = [0x05, 0x0F, 0x85];
const FIRST_LOGICAL: u32 = 5;
/// Linux gives a disk 256 minor numbers, so logical partitions are 5 to 255.
const LAST_LOGICAL: u32 = 255;
/// Records followed, over all extended partitions: room for as many empty ones.
const MAX_RECORDS: u64 = 512;
const EBR: &str = "extended partition table (EBR)";

/// One entry of a table, its sectors turned into bytes.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    indicator: u8,
    /// The type byte.
    pub(super) type_byte: u8,
    /// Distance from whatever the entry counts from.
    pub(super) start: ByteLen,
    /// Length.
    pub(super) len: ByteLen,
}

impl Entry {
    fn parse(bytes: [u8; ENTRY_BYTES]) -> Option<Self> {
        let bytes_of = |sectors: u32| u64::from(sectors).checked_mul(SECTOR.0).map(ByteLen);
        Some(Self {
            indicator: *bytes.first()?,
            type_byte: *bytes.get(4)?,
            start: bytes_of(le32(&bytes, 8)?)?,
            len: bytes_of(le32(&bytes, 12)?)?,
        })
    }

    /// Tells whether the boot indicator is one of the two that exist.
    pub(super) fn has_sane_indicator(&self) -> bool {
        matches!(self.indicator, 0x00 | 0x80)
    }

    /// Tells whether the entry names no sector; like Linux this ignores the type.
    pub(super) fn is_unused(&self) -> bool {
        self.len.0 == 0
    }

    /// Returns the entry as it is where it counts in sectors of that size.
    pub(super) fn in_sectors_of(self, unit: ByteLen) -> Self {
        let times = unit.0.checked_div(SECTOR.0).unwrap_or(1);
        let scaled = |len: ByteLen| ByteLen(len.0.saturating_mul(times));
        Self { start: scaled(self.start), len: scaled(self.len), ..self }
    }

    /// Tells whether it is the frame around logical partitions.
    pub(super) fn is_extended(&self) -> bool {
        !self.is_unused() && EXTENDED_TYPES.contains(&self.type_byte)
    }

    /// Returns the entry's bytes where it counts from `base`.
    pub(super) fn range(&self, base: ByteOffset) -> Option<ByteRange> {
        ByteRange::new(base.checked_add(self.start)?, self.len)
    }

    fn partition(&self, number: u32, range: ByteRange) -> Partition {
        Partition {
            number,
            range,
            type_id: PartitionType::Mbr(self.type_byte),
            guid: None,
            name: None,
            bootable: self.indicator == 0x80,
            attributes: 0,
        }
    }
}

/// Parses the four entries of a boot record.
pub(super) fn entries(sector: &[u8; SECTOR_BYTES]) -> Option<[Entry; 4]> {
    let [a, b, c, d] = ENTRY_AT.map(|at| field(sector, at).and_then(Entry::parse));
    Some([a?, b?, c?, d?])
}

/// Returns the disk signature, which Linux shows as part of PARTUUID.
pub(super) fn disk_signature(sector: &[u8; SECTOR_BYTES]) -> Option<u32> {
    le32(sector, SIGNATURE_AT)
}

/// Lists primary and logical partitions in the order and with the numbers of Linux.
///
/// Their ranges are what the table says in sectors of `unit`, not yet compared with the disk.
pub(super) fn partitions(
    disk: &dyn ReadAt,
    entries: &[Entry; 4],
    unit: ByteLen,
    warnings: &mut Vec<Error>,
) -> Vec<Partition> {
    let mut chain = Chain {
        disk,
        unit,
        found: Vec::new(),
        next_number: FIRST_LOGICAL,
        visited: BTreeSet::new(),
        records: 0,
    };
    let mut primary = Vec::new();
    for (entry, number) in entries.iter().zip(1..) {
        let entry = entry.in_sectors_of(unit);
        let Some(range) = entry.range(ByteOffset(0)) else { continue };
        if entry.is_extended() {
            if let Err(error) = chain.follow(range) {
                warnings.push(error);
            }
        } else if !entry.is_unused() {
            primary.push(entry.partition(number, range));
        }
    }
    primary.append(&mut chain.found);
    primary
}

/// The walk over extended boot records.
struct Chain<'a> {
    disk: &'a dyn ReadAt,
    unit: ByteLen,
    found: Vec<Partition>,
    next_number: u32,
    visited: BTreeSet<ByteOffset>,
    records: u64,
}

impl Chain<'_> {
    /// Follows the chain of one extended partition to its end; what was found before an error
    /// is kept.
    fn follow(&mut self, extended: ByteRange) -> Result<(), Error> {
        let mut record = Some(extended);
        while let Some(range) = record {
            let at = range.start();
            self.records = self.records.saturating_add(1);
            if self.records > MAX_RECORDS {
                let limit = MAX_RECORDS;
                return Err(Error::Limit { structure: EBR, at, limit, unit: "records" });
            }
            if !self.visited.insert(at) {
                let reason = "the chain comes back to a record that was read before";
                return Err(Error::Corrupt { structure: EBR, at, reason });
            }
            record = self.step(extended, range)?;
        }
        Ok(())
    }

    /// Reads one record; returns the range that its link names, where it has one.
    fn step(&mut self, extended: ByteRange, record: ByteRange) -> Result<Option<ByteRange>, Error> {
        let at = record.start();
        let corrupt = |reason| Error::Corrupt { structure: EBR, at, reason };
        let mut sector = [0; SECTOR_BYTES];
        let read = self.disk.read_at(at, &mut sector);
        read.map_err(|source| Error::Io { structure: EBR, source })?;
        if !boot::has_signature(&sector) {
            return Err(corrupt("it does not end in 55 AA"));
        }
        let entries = entries(&sector).ok_or(corrupt("its entries cannot be read"))?;
        let entries = entries.map(|entry| entry.in_sectors_of(self.unit));
        for (entry, slot) in entries.iter().zip(0_u8..) {
            if entry.is_unused() || entry.is_extended() {
                continue;
            }
            let range = entry.range(at).ok_or(corrupt("a partition ends past 2^64"))?;
            // The third and fourth entry sometimes hold garbage; Linux has the same test.
            if slot >= 2 && !(record.contains(range) && extended.contains(range)) {
                continue;
            }
            if self.next_number > LAST_LOGICAL {
                let limit = u64::from(LAST_LOGICAL);
                return Err(Error::Limit { structure: EBR, at, limit, unit: "partitions" });
            }
            self.found.push(entry.partition(self.next_number, range));
            self.next_number = self.next_number.saturating_add(1);
        }
        let link = entries.iter().find(|entry| entry.is_extended());
        let next = link.map(|entry| entry.range(extended.start()));
        match next {
            Some(None) => Err(corrupt("its link ends past 2^64")),
            Some(range) => Ok(range),
            None => Ok(None),
        }
    }
}
