//! Tables built by hand, intact and broken. `corpus`, `programs` and `mutation` go further.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod build;
mod corpus;
mod mutation;
mod programs;

use std::string::ToString as _;
use std::{collections::BTreeMap, vec};

use self::build::{Disk, GptLayout, LINUX, SMALL_SECTORS, gpt, mbr_entry, mbr_with_logicals, sign};
use super::*;

/// Number, first sector and sectors of each partition, in sectors of `sector` bytes.
fn sectors(table: &PartitionTable, sector: u64) -> Vec<(u32, u64, u64)> {
    let of = |p: &Partition| (p.number, p.range.start().0 / sector, p.range.len().0 / sector);
    table.partitions.iter().map(of).collect()
}

fn problems(table: &PartitionTable) -> BTreeMap<u32, PartitionProblem> {
    let named = table.warnings.iter().filter_map(|warning| match warning {
        Error::Partition { number, problem, .. } => Some((*number, *problem)),
        _ => None,
    });
    named.collect()
}

fn warned(table: &PartitionTable, words: &str) -> bool {
    table.warnings.iter().any(|warning| warning.to_string().contains(words))
}

#[track_caller]
fn assert_no_table(table: &PartitionTable) {
    assert_eq!(table.kind, TableKind::None, "{table:?}");
    assert!(table.partitions.is_empty(), "{table:?}");
}

#[test]
fn guid_is_printed_as_sgdisk_does() {
    // UEFI 2.10, table 5-7: the EFI system partition, and its bytes on a disk.
    let esp = *b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b";
    assert_eq!(format_guid(&esp), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
    assert_eq!(PartitionType::Gpt(esp).to_string(), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
    assert_eq!(PartitionType::Mbr(0x0c).to_string(), "c");
}

#[test]
fn reads_primary_and_logical_partitions() {
    for extended in [0x05, 0x0f, 0x85] {
        let table = read(&mbr_with_logicals(extended));
        assert_eq!(table.kind, TableKind::Mbr);
        assert_eq!(table.disk_signature, Some(0xdead_beef));
        let expected = [(1, 64, 100), (5, 264, 50), (6, 328, 30), (7, 400, 60), (4, 500, 24)];
        assert_eq!(sectors(&table, 512), expected);
        assert!(table.partitions[0].bootable && !table.partitions[1].bootable);
        assert_eq!(table.partitions[2].type_id, PartitionType::Mbr(0x82));
        assert_eq!(table.warnings, []);
    }
}

#[test]
fn follows_two_extended_partitions_and_odd_records() {
    let mut disk = Disk::zeros(1024);
    mbr_entry(&mut disk, 0, 0, 0x05, 100..200);
    mbr_entry(&mut disk, 0, 1, 0x0f, 300..600);
    sign(&mut disk, 0);
    // DR-DOS puts the link first; OS/2 uses all four entries; a third one may be garbage.
    mbr_entry(&mut disk, 100, 0, 0x05, 50..100);
    sign(&mut disk, 100);
    mbr_entry(&mut disk, 150, 0, 0x83, 1..10);
    sign(&mut disk, 150);
    mbr_entry(&mut disk, 300, 0, 0x83, 1..10);
    mbr_entry(&mut disk, 300, 1, 0x83, 10..20);
    mbr_entry(&mut disk, 300, 2, 0x83, 20..30);
    mbr_entry(&mut disk, 300, 3, 0x83, 20..700);
    sign(&mut disk, 300);
    let table = read(&disk);
    let expected = [(5, 151, 9), (6, 301, 9), (7, 310, 10), (8, 320, 10)];
    assert_eq!(sectors(&table, 512), expected);
    assert_eq!(table.warnings, []);
}

#[test]
fn a_loop_of_records_ends() {
    for target in [200, 260, 320, 390] {
        let mut disk = mbr_with_logicals(0x05);
        // The last record (sector 390) links to this sector; links count from sector 200.
        mbr_entry(&mut disk, 390, 1, 0x05, target - 200..target - 190);
        let table = read(&disk);
        let expected = [(1, 64, 100), (5, 264, 50), (6, 328, 30), (7, 400, 60), (4, 500, 24)];
        assert_eq!(sectors(&table, 512), expected, "link to {target}");
        let words = if target == 260 { "55 AA" } else { "comes back" };
        assert!(warned(&table, words), "{:?}", table.warnings);
    }
}

#[test]
fn a_long_chain_is_bounded() {
    for (used, expected) in [(true, 251), (false, 0)] {
        let mut disk = Disk::zeros(4096);
        mbr_entry(&mut disk, 0, 0, 0x05, 1..4096);
        sign(&mut disk, 0);
        for record in (1..4000).step_by(2) {
            if used {
                mbr_entry(&mut disk, record, 0, 0x83, 1..2);
            }
            let next = u32::try_from(record).unwrap() + 1;
            mbr_entry(&mut disk, record, 1, 0x05, next..next + 2);
            sign(&mut disk, record);
        }
        let table = read(&disk);
        assert_eq!(table.partitions.len(), expected);
        assert!(warned(&table, "passes the limit"), "{:?}", table.warnings);
        assert!(disk.reads.get() < 600, "{} reads", disk.reads.get());
    }
}

/// 1024 sectors of `unit` bytes: a primary partition and a logical one. The marks of what they
/// hold are not written.
fn mbr_in_sectors_of(unit: usize) -> Disk {
    let times = unit / 512;
    let mut disk = Disk::zeros(1024 * times);
    mbr_entry(&mut disk, 0, 0, 0x83, 16..128);
    mbr_entry(&mut disk, 0, 1, 0x05, 128..1024);
    sign(&mut disk, 0);
    mbr_entry(&mut disk, 128 * times, 0, 0x82, 16..64);
    mbr_entry(&mut disk, 128 * times, 1, 0x05, 400..600);
    sign(&mut disk, 128 * times);
    mbr_entry(&mut disk, 528 * times, 0, 0x07, 8..100);
    sign(&mut disk, 528 * times);
    disk
}

#[test]
fn reads_mbr_with_both_sector_sizes() {
    for unit in [512, 4096] {
        let table = read(&mbr_in_sectors_of(unit));
        assert_eq!(table.kind, TableKind::Mbr);
        let expected = [(1, 16, 112), (5, 144, 48), (6, 536, 92)];
        assert_eq!(sectors(&table, unit as u64), expected, "{unit}");
        assert_eq!(table.warnings, []);
    }
}

#[test]
fn sectors_of_an_mbr_are_512_bytes_unless_only_4096_lead_to_something() {
    let primary = |marks: &[usize], end: u32| {
        let mut disk = Disk::zeros(8192);
        mbr_entry(&mut disk, 0, 2, 0x83, 16..end);
        sign(&mut disk, 0);
        for at in marks {
            disk.bytes[at + 1080..at + 1082].copy_from_slice(&[0x53, 0xef]);
        }
        let table = read(&disk);
        table.partitions.first().map(|p| p.range.start().0)
    };
    let (small, large) = (16 * 512, 16 * 4096);
    assert_eq!(primary(&[large], 1024), Some(large as u64));
    assert_eq!(primary(&[], 1024), Some(small as u64), "nothing is known there");
    assert_eq!(primary(&[small, large], 1024), Some(small as u64), "both lead to something");
    assert_eq!(primary(&[large], 1025), Some(small as u64), "it would leave the disk");
}

#[test]
fn reads_gpt_with_both_sector_sizes() {
    for sector in [512, 4096] {
        let layout = GptLayout { sector, ..GptLayout::default() };
        let table = read(&gpt(&layout));
        assert_eq!(table.kind, TableKind::Gpt { sector: ByteLen(sector) });
        assert_eq!(table.disk_guid, Some([0x11; 16]));
        assert_eq!(table.disk_signature, None);
        assert_eq!(sectors(&table, sector), [(1, 64, 32), (4, 96, 64)]);
        let first = &table.partitions[0];
        assert_eq!(first.type_id, PartitionType::Gpt(LINUX));
        assert_eq!((first.guid, first.name.as_deref()), (Some([1; 16]), Some("é𝄞1")));
        assert_eq!((first.attributes, first.bootable), (4, true));
        assert_eq!(table.warnings, []);
    }
}

#[test]
fn reads_entries_of_other_sizes() {
    for (entry_count, entry_bytes) in [(4, 128), (5, 256), (8, 4096), (4096, 128)] {
        let layout = GptLayout { entry_count, entry_bytes, ..GptLayout::default() };
        let table = read(&gpt(&layout));
        assert_eq!(table.partitions.len(), 2, "{entry_count} x {entry_bytes}: {table:?}");
        assert_eq!(table.warnings, []);
    }
}

#[test]
fn a_damaged_primary_gives_way_to_the_backup() {
    for sector in [512_u64, 4096] {
        let layout = GptLayout { sector, ..GptLayout::default() };
        let intact = read(&gpt(&layout));
        let at = usize::try_from(sector).unwrap();
        // Magic, header checksum, disk GUID, number of entries, first entry, last entry.
        for byte in [at, at + 16, at + 60, at + 80, 2 * at, 2 * at + 127 * 128] {
            let mut disk = gpt(&layout);
            disk.bytes[byte] ^= 0x40;
            let table = read(&disk);
            assert_eq!(table.partitions, intact.partitions, "byte {byte}");
            assert_eq!(table.kind, intact.kind);
            assert!(warned(&table, "read from its backup"), "{:?}", table.warnings);
            assert!(table.warnings.len() >= 2);
        }
    }
}

#[test]
fn a_header_of_another_sector_is_refused() {
    // A copy of the backup header at sector 1, its checksums intact.
    let mut disk = gpt(&GptLayout::default());
    let last = disk.bytes.len() - 512;
    disk.bytes.copy_within(last.., 512);
    let table = read(&disk);
    assert_eq!(table.partitions.len(), 2);
    assert!(warned(&table, "names another sector"), "{:?}", table.warnings);
    assert!(warned(&table, "read from its backup"));
}

#[test]
fn an_unreadable_primary_gives_way_to_the_backup() {
    let mut disk = gpt(&GptLayout::default());
    disk.bad = Some(ByteRange::new(ByteOffset(512), ByteLen(512)).unwrap());
    let table = read(&disk);
    assert_eq!(table.partitions.len(), 2);
    assert!(warned(&table, "cannot be read"), "{:?}", table.warnings);
    disk.bad = Some(ByteRange::new(ByteOffset(0), ByteLen(512)).unwrap());
    let table = read(&disk);
    assert_no_table(&table);
    assert!(warned(&table, "cannot be read"));
}

#[test]
fn a_damaged_backup_is_named() {
    let layout = GptLayout::default();
    let intact = read(&gpt(&layout));
    let mut disk = gpt(&layout);
    let last = disk.bytes.len() - 512;
    disk.bytes[last + 20..last + 92].fill(7);
    let table = read(&disk);
    assert_eq!(table.partitions, intact.partitions);
    assert!(warned(&table, "backup GPT header"), "{:?}", table.warnings);
    // And with both gone there is no table.
    disk.bytes[512] = 0;
    let table = read(&disk);
    assert_no_table(&table);
    assert!(warned(&table, "no intact GPT"));
}

#[test]
fn a_backup_of_another_table_is_named() {
    let mut disk = gpt(&GptLayout::default());
    let other = gpt(&GptLayout { disk_guid: [0x22; 16], ..GptLayout::default() });
    let end = disk.bytes.len() - 512;
    disk.bytes[end..].copy_from_slice(&other.bytes[end..]);
    let table = read(&disk);
    assert_eq!(table.disk_guid, Some([0x11; 16]));
    assert!(warned(&table, "differs from the first"), "{:?}", table.warnings);
}

#[test]
fn absurd_headers_are_refused() {
    for (entry_count, entry_bytes) in
        [(4097, 128), (u32::MAX, 128), (128, 0), (128, 64), (128, 192), (1, 8192), (1, 1 << 31)]
    {
        let layout = GptLayout { entry_count, entry_bytes, ..GptLayout::default() };
        let disk = gpt(&layout);
        let table = read(&disk);
        assert_no_table(&table);
        assert!(warned(&table, "entries"), "{:?}", table.warnings);
        assert!(disk.reads.get() < 20);
    }
}

#[test]
fn extreme_sector_numbers_do_no_harm() {
    let max = u64::MAX;
    let cases = [(max, max), (0, max), (64, max), (max / 512, max / 512 + 1), (70, 64), (64, 63)];
    for (first, last) in cases {
        let layout = GptLayout { partitions: vec![(1, first, last)], ..GptLayout::default() };
        let table = read(&gpt(&layout));
        let expected = match (first, last) {
            (0, _) => PartitionProblem::HoldsTable,
            (70, _) | (_, 63) => PartitionProblem::Empty,
            (64, _) => PartitionProblem::Clamped(ByteLen(SMALL_SECTORS * 512)),
            _ => PartitionProblem::BeyondEnd(ByteLen(SMALL_SECTORS * 512)),
        };
        if first == max {
            assert!(matches!(
                problems(&table).get(&1),
                Some(PartitionProblem::Empty | PartitionProblem::BeyondEnd(_))
            ));
        } else {
            assert_eq!(problems(&table).get(&1), Some(&expected), "{first} {last}");
        }
        let kept = usize::from(matches!(expected, PartitionProblem::Clamped(_)));
        assert_eq!(table.partitions.len(), kept);
    }
}

#[test]
fn a_truncated_image_keeps_what_it_has() {
    for (len, expected) in [(130, vec![(1, 64, 32), (4, 96, 34)]), (90, vec![(1, 64, 26)])] {
        let mut disk = gpt(&GptLayout::default());
        disk.bytes.truncate(len * 512);
        let table = read(&disk);
        let end = ByteLen(disk.bytes.len().try_into().unwrap());
        assert_eq!(sectors(&table, 512), expected);
        let last = if len == 130 {
            PartitionProblem::Clamped(end)
        } else {
            PartitionProblem::BeyondEnd(end)
        };
        assert_eq!(problems(&table).get(&4), Some(&last));
        assert!(warned(&table, "backup GPT header"), "{:?}", table.warnings);
    }
    let mut disk = mbr_with_logicals(0x05);
    disk.bytes.truncate(330 * 512 + 100);
    let table = read(&disk);
    assert_eq!(sectors(&table, 512), [(1, 64, 100), (5, 264, 50), (6, 328, 2)]);
    assert_eq!(table.partitions[2].range.end(), ByteOffset(330 * 512 + 100));
    assert_eq!(problems(&table).len(), 2, "{:?}", table.warnings);
    assert!(warned(&table, "extended partition table (EBR)"));
}

#[test]
fn overlapping_partitions_keep_the_first_by_start() {
    let partitions = vec![(2, 100, 139), (1, 64, 109), (3, 110, 119), (4, 110, 129)];
    let table = read(&gpt(&GptLayout { partitions, ..GptLayout::default() }));
    assert_eq!(sectors(&table, 512), [(1, 64, 46), (3, 110, 10)]);
    let expected = [(2, PartitionProblem::Overlaps(1)), (4, PartitionProblem::Overlaps(3))];
    assert_eq!(problems(&table), BTreeMap::from(expected));
    assert!(warned(&table, "partition 2 (bytes 51200..71680) overlaps partition 1: left out"));
}

#[test]
fn a_hybrid_table_is_a_gpt() {
    let mut disk = gpt(&GptLayout::default());
    mbr_entry(&mut disk, 0, 1, 0x83, 70..80);
    let table = read(&disk);
    assert_eq!(sectors(&table, 512), [(1, 64, 32), (4, 96, 64)]);
    assert_eq!(table.warnings, []);
}

#[test]
fn a_gpt_without_protection_does_not_count() {
    // As in Linux: the first sector was written over, so the table is stale.
    let mut disk = gpt(&GptLayout::default());
    disk.bytes[..512].fill(0);
    assert_no_table(&read(&disk));
    // The boot code of a whole-disk file system happens to hold EE where a type would be.
    disk.bytes[512..1024].fill(0);
    disk.bytes[3..11].copy_from_slice(b"NTFS    ");
    disk.bytes[446..510].fill(0xEE);
    sign(&mut disk, 0);
    let table = read(&disk);
    assert_no_table(&table);
    assert_eq!(table.warnings, []);
    // Sane indicators, and a start that is not sector 1.
    disk.bytes[..512].fill(0);
    mbr_entry(&mut disk, 0, 0, 0xEE, 2..100);
    sign(&mut disk, 0);
    let table = read(&disk);
    assert_no_table(&table);
    assert!(warned(&table, "EE"));
}

/// A FAT16 boot sector as `mkfs.fat` lays it out, and a text where the entries would be.
fn fat_boot_sector() -> Disk {
    let mut disk = Disk::zeros(1024);
    disk.bytes[..11].copy_from_slice(b"\xEB\x3C\x90mkfs.fat");
    disk.bytes[11..24].copy_from_slice(b"\x00\x02\x04\x04\x00\x02\x00\x02\x00\x04\xF8\x20\x00");
    disk.bytes[54..62].copy_from_slice(b"FAT16   ");
    disk.bytes[440..488].copy_from_slice(b"This is not a bootable disk.  Please insert a di");
    sign(&mut disk, 0);
    disk
}

#[test]
fn a_boot_sector_of_a_file_system_is_no_table() {
    let mut disk = fat_boot_sector();
    let table = read(&disk);
    assert_no_table(&table);
    assert_eq!(table.warnings, []);
    // mkfs.fat --mbr: one entry from sector 0 over the whole disk.
    disk.bytes[440..510].fill(0);
    mbr_entry(&mut disk, 0, 0, 0x0c, 0..1024);
    assert_no_table(&read(&disk));
    // Entries that overlap or leave the disk.
    mbr_entry(&mut disk, 0, 0, 0x0c, 10..1025);
    assert_no_table(&read(&disk));
    mbr_entry(&mut disk, 0, 0, 0x0c, 10..100);
    mbr_entry(&mut disk, 0, 1, 0x0c, 99..110);
    assert_no_table(&read(&disk));
    // A real table beside the parameters of a file system that was there before.
    mbr_entry(&mut disk, 0, 1, 0x0c, 100..110);
    let table = read(&disk);
    assert_eq!(sectors(&table, 512), [(1, 10, 90), (2, 100, 10)]);
    assert!(warned(&table, "entries are sound"), "{:?}", table.warnings);
}

#[test]
fn boot_code_alone_is_no_table() {
    let mut disk = Disk::zeros(1024);
    sign(&mut disk, 0);
    let table = read(&disk);
    assert_no_table(&table);
    assert_eq!(table.warnings, [], "55 AA and no entry");
    for (at, name) in [(3, b"EXFAT   "), (3, b"NTFS    "), (3, b"-FVE-FS-")] {
        disk.bytes[at..at + 8].copy_from_slice(name);
        disk.bytes[446..510].fill(0x41);
        let table = read(&disk);
        assert_no_table(&table);
        assert_eq!(table.warnings, []);
    }
    // Unknown code: no table, but somebody should know.
    disk.bytes[..440].fill(0x90);
    let table = read(&disk);
    assert_no_table(&table);
    assert!(warned(&table, "boot indicators"));
}

#[test]
fn partitions_that_cannot_be_are_left_out() {
    let mut disk = Disk::zeros(1024);
    mbr_entry(&mut disk, 0, 0, 0x17, 0..1000);
    mbr_entry(&mut disk, 0, 1, 0xef, 100..200);
    mbr_entry(&mut disk, 0, 2, 0x83, 1024..2000);
    mbr_entry(&mut disk, 0, 3, 0x83, 200..u32::MAX);
    sign(&mut disk, 0);
    let table = read(&disk);
    let end = ByteLen(1024 * 512);
    assert_eq!(sectors(&table, 512), [(2, 100, 100), (4, 200, 824)]);
    let expected = [
        (1, PartitionProblem::HoldsTable),
        (3, PartitionProblem::BeyondEnd(end)),
        (4, PartitionProblem::Clamped(end)),
    ];
    assert_eq!(problems(&table), BTreeMap::from(expected));
    // Where nothing usable is left there is no table.
    mbr_entry(&mut disk, 0, 1, 0, 0..0);
    mbr_entry(&mut disk, 0, 3, 0, 0..0);
    let table = read(&disk);
    assert_no_table(&table);
    assert_eq!(table.warnings.len(), 2);
}

#[test]
fn tiny_disks_have_no_table() {
    for source in [gpt(&GptLayout::default()), mbr_with_logicals(0x05)] {
        for len in (0..=1100).chain([4096, 8191, 8192, 8193]) {
            let mut disk = Disk::zeros(0);
            disk.bytes = source.bytes[..len].to_vec();
            assert_no_table(&read(&disk));
        }
    }
}
