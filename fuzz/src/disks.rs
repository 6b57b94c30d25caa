//! Partition tables and journals.

use umbra_fsparse::jbd2::{self, JournalGeometry};
use umbra_fsparse::{ByteLen, ByteOffset, ByteRange, Error, ReadAt, partition};

use crate::limits::CountingDisk;

/// The largest disk that is made of an input, in bytes.
const MAX_DISK_BYTES: usize = 2 << 20;

/// CRC-32 as GPT uses it.
const CRC32: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// The disk: flags (u8), length in sectors (u16), how many of the bytes stand at its end (u16).
pub(crate) fn partition(input: &[u8]) {
    let Some(([flags, a, b, c, d], bytes)) = input.split_first_chunk() else { return };
    let sectors = usize::from(u16::from_le_bytes([*a, *b]));
    let tail = usize::from(u16::from_le_bytes([*c, *d])).min(bytes.len());
    let len = (sectors * 512).min(MAX_DISK_BYTES).max(bytes.len());
    let (head, tail) = bytes.split_at(bytes.len() - tail);
    let mut disk = head.to_vec();
    disk.resize(len - tail.len(), 0);
    disk.extend_from_slice(tail);
    if flags & 1 == 0 {
        for sector in [512, 4096] {
            mend_gpt(&mut disk, sector, 1);
            let last = (disk.len() / sector).saturating_sub(1);
            mend_gpt(&mut disk, sector, last);
        }
    }
    check_partitions(&disk);
}

fn check_partitions(disk: &[u8]) {
    let counted = CountingDisk::new(disk);
    let table = partition::read(&counted);
    counted.check(8, 8 << 20);
    assert!(table.partitions.len() <= 4096, "too many partitions");
    assert!(table.warnings.len() <= 100_000, "too many warnings");
    let mut end = ByteOffset(1);
    for partition in &table.partitions {
        assert!(!partition.range.is_empty(), "an empty partition");
        assert!(end <= partition.range.start(), "two partitions overlap, or one is at 0");
        assert!(partition.range.end().0 <= ReadAt::len(disk).0, "a partition leaves the disk");
        assert!(partition.name.as_ref().is_none_or(|name| !name.is_empty()), "an empty name");
        end = partition.range.end();
    }
    assert_eq!(partition::read(&CountingDisk::new(disk)), table, "another reading finds the same");
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Mends both checksums of a GPT header, where one stands in this sector.
fn mend_gpt(disk: &mut [u8], sector: usize, lba: usize) -> Option<()> {
    let at = lba.checked_mul(sector)?;
    if !disk.get(at..)?.starts_with(b"EFI PART") {
        return None;
    }
    let header_len = u32::from_le_bytes(number(disk, at + 12)?) as usize;
    let entries = usize::try_from(u64::from_le_bytes(number(disk, at + 72)?)).ok()?;
    let count = u32::from_le_bytes(number(disk, at + 80)?) as usize;
    let entry_len = u32::from_le_bytes(number(disk, at + 84)?) as usize;
    let start = entries.checked_mul(sector)?;
    let end = start.checked_add(count.checked_mul(entry_len)?)?;
    if let Some(list) = disk.get(start..end) {
        let sum = CRC32.checksum(list);
        disk.get_mut(at + 88..at + 92)?.copy_from_slice(&sum.to_le_bytes());
    }
    disk.get_mut(at + 16..at + 20)?.fill(0);
    let sum = CRC32.checksum(disk.get(at..at.checked_add(header_len)?)?);
    disk.get_mut(at + 16..at + 20)?.copy_from_slice(&sum.to_le_bytes());
    Some(())
}

/// The journal: flags (u8: checksums stay, two pieces, block size), blocks of the file system
/// (u16), then its blocks. The volume is nothing but the journal.
pub(crate) fn jbd2(input: &[u8]) {
    let Some(([flags, low, high], bytes)) = input.split_first_chunk() else { return };
    let block_size = 1024_u32 << ((flags >> 2) & 3);
    let mut log = bytes.to_vec();
    log.resize(log.len().next_multiple_of(block_size as usize).min(MAX_DISK_BYTES), 0);
    if flags & 1 == 0 {
        // No checksums, of any version.
        for (at, clear) in [(0x27, 1), (0x2b, 0x18)] {
            if let Some(byte) = log.get_mut(at) {
                *byte &= !clear;
            }
        }
    }
    let whole = ByteRange::new(ByteOffset(0), ByteLen(log.len() as u64)).unwrap_or_default();
    let middle = ByteOffset(whole.len().0 / u64::from(block_size) / 2 * u64::from(block_size));
    let halves = [
        ByteRange::between(whole.start(), middle).unwrap_or_default(),
        ByteRange::between(middle, whole.end()).unwrap_or_default(),
    ];
    if flags & 2 != 0 && !halves[0].is_empty() {
        // Logical order first half, second half; on the volume the other way round.
        log.rotate_left(middle.0 as usize);
        let cut = ByteOffset(halves[1].len().0);
        let pieces = [
            ByteRange::between(cut, whole.end()).unwrap_or_default(),
            ByteRange::between(ByteOffset(0), cut).unwrap_or_default(),
        ];
        replay(&log, block_size, u64::from(u16::from_le_bytes([*low, *high])), &pieces);
    } else {
        replay(&log, block_size, u64::from(u16::from_le_bytes([*low, *high])), &[whole]);
    }
}

fn replay(log: &[u8], block_size: u32, fs_blocks: u64, blocks: &[ByteRange]) {
    let geometry = JournalGeometry { block_size, fs_blocks, blocks, fs_uuid: [7; 16] };
    let counted = CountingDisk::new(log);
    let answer = jbd2::replay(&counted, &geometry);
    counted.check(16, 1 << 20);
    match answer {
        Ok((replay, warnings)) => {
            assert!(warnings.len() <= 1000, "more warnings than it says");
            for (block, copy) in replay.iter() {
                assert!(block < fs_blocks, "a block beyond the file system");
                assert_eq!(copy.volume.len(), ByteLen(u64::from(block_size)));
                assert!(blocks.iter().any(|range| range.contains(copy.volume)), "not of the log");
                assert_eq!(replay.block(block), Some(copy));
            }
            for block in replay.lost() {
                assert!(block < fs_blocks && replay.block(block).is_none(), "lost and found");
            }
        }
        Err(Error::Io { .. }) => panic!("the log lies inside the volume"),
        Err(_) => {}
    }
}
