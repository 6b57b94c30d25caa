//! The GUID partition table.
//!
//! Layout (UEFI 2.10, tables 5-5 and 5-6; little-endian, offsets in bytes). Header, at sector 1
//! and again at the last sector: `EFI PART` 0, header size 12, CRC32 of the header with this
//! field zero 16, own sector 24, other header's sector 32, first and last usable sector 40 and
//! 48, disk GUID 56, first sector of the entries 72, their number 80, their size 84, CRC32 of
//! all entries 88. Entry: type GUID 0 (zero: unused), own GUID 16, first sector 32, LAST sector
//! 40, attributes 48, name 56 (36 UTF-16 units).

use alloc::{string::String, vec, vec::Vec};

use crc::{CRC_32_ISO_HDLC, Crc};

use super::{Partition, PartitionType, field, le16, le32, le64};
use crate::{ByteLen, ByteOffset, ByteRange, Error, ReadAt, ReadError};

static CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Logical sector sizes that a table may be written for, in the order of trying.
const SECTORS: [ByteLen; 2] = [ByteLen(512), ByteLen(4096)];
const MAGIC: &[u8; 8] = b"EFI PART";
const MIN_HEADER_BYTES: usize = 92;
const CRC_FIELD: core::ops::Range<usize> = 16..20;
const MAX_ENTRIES: u32 = 4096;
const MIN_ENTRY_BYTES: u32 = 128;
const MAX_ENTRY_BYTES: u32 = 4096;
/// Entries are read in pieces of this size, a multiple of every size of an entry.
const PIECE_BYTES: usize = 65536;
const NAME_AT: usize = 56;
const NAME_UNITS: usize = 36;
const BIOS_BOOTABLE: u64 = 1 << 2;

const PRIMARY: &str = "GPT header";
const BACKUP: &str = "backup GPT header";
const ENTRIES: &str = "GPT entries";

/// A table whose header and entries match their checksums.
pub(super) struct Gpt {
    /// Logical sector size.
    pub(super) sector: ByteLen,
    /// GUID of the disk.
    pub(super) disk_guid: [u8; 16],
    /// Used entries in the table's order; their ranges are what the table says.
    pub(super) partitions: Vec<Partition>,
}

/// Where a header is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    structure: &'static str,
    sector: ByteLen,
    at: ByteOffset,
}

/// A header that matches its checksum.
struct Header {
    sector: ByteLen,
    alternate: Place,
    disk_guid: [u8; 16],
    entries_at: ByteOffset,
    entry_count: u32,
    entry_bytes: u32,
    entries_crc: u32,
}

/// Reads the table of a disk that has a protective MBR; `None` where no copy is intact.
pub(super) fn read(disk: &dyn ReadAt, warnings: &mut Vec<Error>) -> Option<Gpt> {
    let mut backups = Vec::new();
    let mut silent = true;
    for sector in SECTORS {
        let place = Place { structure: PRIMARY, sector, at: ByteOffset(sector.0) };
        let found = match Header::read(disk, place) {
            Ok(header) => header,
            Err(Error::NotFound { .. }) => continue,
            Err(error) => {
                warnings.push(error);
                silent = false;
                continue;
            }
        };
        match found.partitions(disk) {
            Ok(partitions) => {
                found.compare_backup(disk, warnings);
                return Some(found.into_table(partitions));
            }
            Err(error) => {
                warnings.push(error);
                silent = false;
                backups.push(found.alternate);
            }
        }
    }
    if silent {
        let [sector, _] = SECTORS;
        warnings.push(Error::NotFound { structure: PRIMARY, at: ByteOffset(sector.0) });
    }
    for place in SECTORS.into_iter().filter_map(|sector| last_sector(disk, sector)) {
        if !backups.contains(&place) {
            backups.push(place);
        }
    }
    backups.into_iter().find_map(|place| read_backup(disk, place, warnings))
}

fn read_backup(disk: &dyn ReadAt, place: Place, warnings: &mut Vec<Error>) -> Option<Gpt> {
    let table = Header::read(disk, place).and_then(|header| {
        let partitions = header.partitions(disk)?;
        Ok(header.into_table(partitions))
    });
    match table {
        Ok(table) => {
            warnings.push(Error::Corrupt {
                structure: PRIMARY,
                at: ByteOffset(place.sector.0),
                reason: "the table is read from its backup",
            });
            Some(table)
        }
        Err(Error::NotFound { .. }) => None,
        Err(error) => {
            warnings.push(error);
            None
        }
    }
}

/// Returns where the backup header of a disk with such sectors belongs.
fn last_sector(disk: &dyn ReadAt, sector: ByteLen) -> Option<Place> {
    let number = disk.len().0.checked_div(sector.0)?.checked_sub(1)?;
    let at = ByteOffset(number.checked_mul(sector.0)?);
    (at.0 > sector.0).then_some(Place { structure: BACKUP, sector, at })
}

impl Header {
    /// Reads and checks the header that should stand at a place.
    ///
    /// A place that lies beyond the end of the disk holds none.
    fn read(disk: &dyn ReadAt, place: Place) -> Result<Self, Error> {
        let Place { structure, sector, at } = place;
        let not_found = Error::NotFound { structure, at };
        let mut bytes = vec![0; usize::try_from(sector.0).map_err(|_| not_found.clone())?];
        match disk.read_at(at, &mut bytes) {
            Ok(()) => {}
            Err(ReadError::PastEnd(..)) => return Err(not_found),
            Err(source) => return Err(Error::Io { structure, source }),
        }
        if !bytes.starts_with(MAGIC) {
            return Err(not_found);
        }
        let short = Error::Corrupt { structure, at, reason: "it is shorter than a header" };
        Self::parse(&bytes, place).ok_or(short)?
    }

    /// Parses a sector that starts with the magic; `None` where it is too short.
    fn parse(bytes: &[u8], place: Place) -> Option<Result<Self, Error>> {
        let Place { structure, sector, at } = place;
        let corrupt = |reason| Some(Err(Error::Corrupt { structure, at, reason }));
        let byte_of = |number: u64| number.checked_mul(sector.0).map(ByteOffset);

        let header_bytes = usize::try_from(le32(bytes, 12)?).ok()?;
        if header_bytes < MIN_HEADER_BYTES || header_bytes > bytes.len() {
            return corrupt("its size is not between 92 and the sector's size");
        }
        let mut digest = CRC32.digest();
        digest.update(bytes.get(..CRC_FIELD.start)?);
        digest.update(&[0; 4]);
        digest.update(bytes.get(CRC_FIELD.end..header_bytes)?);
        if digest.finalize() != le32(bytes, CRC_FIELD.start)? {
            return corrupt("its CRC32 does not match");
        }
        if byte_of(le64(bytes, 24)?) != Some(at) {
            return corrupt("it names another sector as its own");
        }
        let (Some(alternate), Some(entries_at)) =
            (byte_of(le64(bytes, 32)?), byte_of(le64(bytes, 72)?))
        else {
            return corrupt("it names a sector past 2^64 bytes");
        };
        let (entry_count, entry_bytes) = (le32(bytes, 80)?, le32(bytes, 84)?);
        if entry_count > MAX_ENTRIES {
            let limit = u64::from(MAX_ENTRIES);
            return Some(Err(Error::Limit { structure, at, limit, unit: "entries" }));
        }
        let sizes = MIN_ENTRY_BYTES..=MAX_ENTRY_BYTES;
        if !(entry_bytes.is_power_of_two() && sizes.contains(&entry_bytes)) {
            return corrupt("the size of its entries is not 128 times a power of two to 4096");
        }
        Some(Ok(Self {
            sector,
            alternate: Place { structure: BACKUP, sector, at: alternate },
            disk_guid: field(bytes, 56)?,
            entries_at,
            entry_count,
            entry_bytes,
            entries_crc: le32(bytes, 88)?,
        }))
    }

    /// Reads the used entries and checks the array's checksum.
    fn partitions(&self, disk: &dyn ReadAt) -> Result<Vec<Partition>, Error> {
        let at = self.entries_at;
        let corrupt = |reason| Error::Corrupt { structure: ENTRIES, at, reason };
        let overflow = || corrupt("they end past 2^64 bytes");
        let entry_bytes = usize::try_from(self.entry_bytes).map_err(|_| overflow())?;
        let total = u64::from(self.entry_count).saturating_mul(u64::from(self.entry_bytes));
        let mut left = usize::try_from(total).map_err(|_| overflow())?;

        let mut partitions = Vec::new();
        let mut digest = CRC32.digest();
        let mut numbers = 1..=self.entry_count;
        let mut piece = vec![0; PIECE_BYTES.min(left)];
        let mut from = at;
        while left > 0 {
            let wanted = left.min(PIECE_BYTES);
            let bytes = piece.get_mut(..wanted).ok_or_else(overflow)?;
            let read = disk.read_at(from, bytes);
            read.map_err(|source| Error::Io { structure: ENTRIES, source })?;
            digest.update(bytes);
            for (entry, number) in bytes.chunks_exact(entry_bytes).zip(&mut numbers) {
                partitions.extend(self.partition(entry, number));
            }
            let step = ByteLen(u64::try_from(wanted).map_err(|_| overflow())?);
            from = from.checked_add(step).ok_or_else(overflow)?;
            left = left.saturating_sub(wanted);
        }
        if digest.finalize() != self.entries_crc {
            return Err(corrupt("their CRC32 does not match"));
        }
        Ok(partitions)
    }

    /// Parses one entry; `None` where it is unused.
    fn partition(&self, entry: &[u8], number: u32) -> Option<Partition> {
        let type_guid: [u8; 16] = field(entry, 0)?;
        if type_guid == [0; 16] {
            return None;
        }
        // Saturated positions lie beyond the end of every disk and are reported as such.
        let start = ByteOffset(le64(entry, 32)?.saturating_mul(self.sector.0));
        let end = le64(entry, 40)?.saturating_add(1).saturating_mul(self.sector.0);
        let end = ByteOffset(end.max(start.0));
        let attributes = le64(entry, 48)?;
        Some(Partition {
            number,
            range: ByteRange::between(start, end)?,
            type_id: PartitionType::Gpt(type_guid),
            guid: Some(field(entry, 16)?),
            name: name(entry),
            bootable: attributes & BIOS_BOOTABLE != 0,
            attributes,
        })
    }

    /// Warns where the other header is missing, damaged or of another table.
    fn compare_backup(&self, disk: &dyn ReadAt, warnings: &mut Vec<Error>) {
        let other = Self::read(disk, self.alternate).and_then(|header| {
            header.partitions(disk)?;
            Ok(header)
        });
        match other {
            Err(error) => warnings.push(error),
            Ok(other) => {
                if (other.disk_guid, other.entries_crc) != (self.disk_guid, self.entries_crc) {
                    warnings.push(Error::Corrupt {
                        structure: BACKUP,
                        at: self.alternate.at,
                        reason: "it differs from the first header, which is used",
                    });
                }
            }
        }
    }

    fn into_table(self, partitions: Vec<Partition>) -> Gpt {
        Gpt { sector: self.sector, disk_guid: self.disk_guid, partitions }
    }
}

/// Returns the name of an entry, where it is not empty.
fn name(entry: &[u8]) -> Option<String> {
    let units = (NAME_AT..).step_by(2).take(NAME_UNITS);
    let units = units.map_while(|at| le16(entry, at)).take_while(|unit| *unit != 0);
    let name: String =
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    (!name.is_empty()).then_some(name)
}
