//! Disks with tables, written without the code that reads them.

use std::cell::Cell;
use std::ops::Range;
use std::{vec, vec::Vec};

use crate::{ByteLen, ByteOffset, ByteRange, ReadAt, ReadError};

/// Sectors of the disks that [`gpt`] makes.
pub(super) const SMALL_SECTORS: u64 = 2304;
/// Type GUID "Linux file system" as it stands on the disk.
pub(super) const LINUX: [u8; 16] =
    *b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4";

/// A disk in memory that counts reads and may have one bad range.
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pub(super) bad: Option<ByteRange>,
    pub(super) reads: Cell<u64>,
}

impl Disk {
    pub(super) fn zeros(sectors: usize) -> Self {
        Self { bytes: vec![0; sectors * 512], bad: None, reads: Cell::new(0) }
    }
}

impl ReadAt for Disk {
    fn len(&self) -> ByteLen {
        ReadAt::len(self.bytes.as_slice())
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.reads.set(self.reads.get() + 1);
        let wanted = ByteRange::new(offset, ByteLen(buf.len().try_into().unwrap())).unwrap();
        if self.bad.and_then(|bad| bad.intersection(wanted)).is_some() {
            return Err(ReadError::Unreadable(wanted));
        }
        self.bytes.as_slice().read_at(offset, buf)
    }
}

/// Writes the entry of a boot record: `sectors` as the entry counts them.
pub(super) fn mbr_entry(
    disk: &mut Disk,
    record: usize,
    slot: usize,
    kind: u8,
    sectors: Range<u32>,
) {
    let at = record * 512 + 446 + slot * 16;
    let entry = &mut disk.bytes[at..at + 16];
    entry.fill(0);
    entry[4] = kind;
    entry[8..12].copy_from_slice(&sectors.start.to_le_bytes());
    entry[12..16].copy_from_slice(&(sectors.end - sectors.start).to_le_bytes());
}

/// Ends a boot record with 55 AA.
pub(super) fn sign(disk: &mut Disk, record: usize) {
    disk.bytes[record * 512 + 510..record * 512 + 512].copy_from_slice(&[0x55, 0xAA]);
}

/// 1024 sectors: two primary partitions around an extended one of this type with three logical.
pub(super) fn mbr_with_logicals(extended: u8) -> Disk {
    let mut disk = Disk::zeros(1024);
    disk.bytes[440..444].copy_from_slice(&0xdead_beef_u32.to_le_bytes());
    mbr_entry(&mut disk, 0, 0, 0x83, 64..164);
    disk.bytes[446] = 0x80;
    mbr_entry(&mut disk, 0, 1, extended, 200..480);
    mbr_entry(&mut disk, 0, 3, 0x07, 500..524);
    sign(&mut disk, 0);
    mbr_entry(&mut disk, 200, 0, 0x83, 64..114);
    mbr_entry(&mut disk, 200, 1, extended, 120..160);
    sign(&mut disk, 200);
    mbr_entry(&mut disk, 320, 0, 0x82, 8..38);
    mbr_entry(&mut disk, 320, 1, extended, 190..270);
    sign(&mut disk, 320);
    mbr_entry(&mut disk, 390, 0, 0x0c, 10..70);
    sign(&mut disk, 390);
    disk
}

/// What [`gpt`] writes.
#[derive(Clone)]
pub(super) struct GptLayout {
    pub(super) sector: u64,
    pub(super) disk_guid: [u8; 16],
    /// As the header says; the array that is written holds what fits the disk.
    pub(super) entry_count: u32,
    pub(super) entry_bytes: u32,
    /// Number, first and last sector.
    pub(super) partitions: Vec<(u8, u64, u64)>,
}

impl Default for GptLayout {
    fn default() -> Self {
        Self {
            sector: 512,
            disk_guid: [0x11; 16],
            entry_count: 128,
            entry_bytes: 128,
            partitions: vec![(4, 96, 159), (1, 64, 95)],
        }
    }
}

/// CRC-32 of zlib, bit by bit.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

fn entries(layout: &GptLayout) -> Vec<u8> {
    let room = usize::try_from(SMALL_SECTORS * layout.sector / 2).unwrap();
    let total = u64::from(layout.entry_count) * u64::from(layout.entry_bytes);
    let mut array = vec![0; room.min(total.try_into().unwrap())];
    for (number, first, last) in &layout.partitions {
        let at = (usize::from(*number) - 1) * usize::try_from(layout.entry_bytes).unwrap();
        let Some(entry) = array.get_mut(at..at + 128) else { continue };
        entry[..16].copy_from_slice(&LINUX);
        entry[16..32].fill(*number);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        entry[48..56].copy_from_slice(&4_u64.to_le_bytes());
        for (unit, at) in std::format!("é𝄞{number}").encode_utf16().zip((56..).step_by(2)) {
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    array
}

/// Recomputes both checksums of the header that starts at a byte.
pub(super) fn seal(bytes: &mut [u8], at: usize, array: &[u8]) {
    bytes[at + 88..at + 92].copy_from_slice(&crc32(array).to_le_bytes());
    bytes[at + 16..at + 20].fill(0);
    let crc = crc32(&bytes[at..at + 92]);
    bytes[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
}

/// A disk of [`SMALL_SECTORS`] sectors with a protective MBR, a GPT and its backup.
///
/// Where the array is too long for the places between, its backup lies in the first half too.
pub(super) fn gpt(layout: &GptLayout) -> Disk {
    let sector = usize::try_from(layout.sector).unwrap();
    let mut disk = Disk::zeros(usize::try_from(SMALL_SECTORS).unwrap() * sector / 512);
    mbr_entry(&mut disk, 0, 0, 0xEE, 1..u32::try_from(SMALL_SECTORS).unwrap());
    sign(&mut disk, 0);
    let array = entries(layout);
    let last = SMALL_SECTORS - 1;
    let array_sectors = u64::try_from(array.len().div_ceil(sector)).unwrap();
    for (own, other, entries_at) in [(1, last, 2), (last, 1, last - array_sectors)] {
        let at = usize::try_from(own).unwrap() * sector;
        let header = &mut disk.bytes[at..at + 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..16].copy_from_slice(b"\x00\x00\x01\x00\x5C\x00\x00\x00");
        header[24..32].copy_from_slice(&own.to_le_bytes());
        header[32..40].copy_from_slice(&other.to_le_bytes());
        header[40..48].copy_from_slice(&(2 + array_sectors).to_le_bytes());
        header[48..56].copy_from_slice(&(last - array_sectors - 1).to_le_bytes());
        header[56..72].copy_from_slice(&layout.disk_guid);
        header[72..80].copy_from_slice(&entries_at.to_le_bytes());
        header[80..84].copy_from_slice(&layout.entry_count.to_le_bytes());
        header[84..88].copy_from_slice(&layout.entry_bytes.to_le_bytes());
        let at_entries = usize::try_from(entries_at).unwrap() * sector;
        disk.bytes[at_entries..at_entries + array.len()].copy_from_slice(&array);
        seal(&mut disk.bytes, at, &array);
    }
    disk
}
