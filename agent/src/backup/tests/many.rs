//! Disks that have, or make the parsers say, more than a manifest can hold.

use umbra_common::snapshot::{MAX_VOLUMES, MAX_WARNINGS};

use super::*;
use crate::monitor::Notice;
use crate::survey::{Options, ParsePolicy, survey};

/// CRC-32 of IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(u32::MAX, byte)
}

/// A disk with a GPT of `count` partitions of one sector each, all noise.
fn gpt_disk(count: usize) -> Vec<u8> {
    let first = 2 + count.div_ceil(4);
    let sectors = first + count + 40;
    let mut disk = noise(1, sectors * 512);
    disk[..first * 512].fill(0);
    disk[446..462].copy_from_slice(&[0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 0, 8, 0, 0]);
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    for number in 0..count {
        let lba = (first + number) as u64;
        let entry = &mut disk[1024 + number * 128..][..128];
        entry[..16].fill(0xAF);
        entry[16..32].copy_from_slice(&noise(number as u64, 16));
        entry[32..40].copy_from_slice(&lba.to_le_bytes());
        entry[40..48].copy_from_slice(&lba.to_le_bytes());
    }
    let entries = crc32(&disk[1024..][..count * 128]);
    let mut header = [0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
    let numbers = [1, sectors as u64 - 1, first as u64, sectors as u64 - 34];
    for (field, number) in header[24..56].chunks_mut(8).zip(numbers) {
        field.copy_from_slice(&number.to_le_bytes());
    }
    header[56..72].fill(7);
    header[72..80].copy_from_slice(&2_u64.to_le_bytes());
    header[80..84].copy_from_slice(&u32::try_from(count).unwrap().to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    header[88..92].copy_from_slice(&entries.to_le_bytes());
    let crc = crc32(&header);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    disk[512..604].copy_from_slice(&header);
    disk
}

#[test]
fn more_partitions_than_a_manifest_holds_are_kept_as_disk() {
    let bytes = gpt_disk(MAX_VOLUMES + 76);
    let disk = MemoryDisk::new(bytes.clone());
    let monitor = Quiet::default();
    let options = Options { parse: ParsePolicy::Parse, free: FreePolicy::Keep };
    let survey = survey(&disk, options, &monitor);
    assert_eq!(survey.table.partitions.len(), MAX_VOLUMES + 76);
    assert!(monitor.warnings().0.iter().any(|notice| notice.message.starts_with("76 partitions")));
    let vault = MemoryVault::default();
    let outcome = back_up(&disk, &survey, &vault);
    assert_eq!(vault.manifest(outcome.snapshot).volumes.len(), MAX_VOLUMES);
    assert!(vault.reassemble(outcome.snapshot) == bytes);
}

#[test]
fn more_warnings_than_a_manifest_holds_are_counted() {
    let bytes = noise(2, MAX_VOLUMES * 512);
    let mut survey = survey_of(bytes.len() as u64, Vec::new());
    let volume = |number: usize| Volume {
        path: format!("part/{number}"),
        range: span(number as u64 * 512, 512),
        kind: "unknown",
        label: None,
        uuid: None,
        parse: Parse::None { reason: "r".repeat(2000) },
        tree: None,
        free: Vec::new(),
        left: Left::Clean,
    };
    survey.volumes = (0..MAX_VOLUMES).map(volume).collect();
    let monitor = Quiet::default();
    for _ in 0..MAX_WARNINGS {
        let (subject, message) = ("s".repeat(500), "m".repeat(500));
        monitor.warning(Notice { subject, at: None, message });
    }
    let vault = MemoryVault::default();
    let labels = labels();
    let job = Job { uplink: &vault, known: &NoneKnown, policy: SendPolicy::Send, labels: &labels };
    let disk = MemoryDisk::new(bytes.clone());
    let outcome = run(&job, Input::Disk { device: &disk, survey: &survey }, &monitor).unwrap();
    let manifest = vault.manifest(outcome.snapshot);
    assert_eq!(manifest.warnings_total, MAX_WARNINGS as u64);
    assert!((100..MAX_WARNINGS).contains(&manifest.warnings.len()));
    assert!(vault.reassemble(outcome.snapshot) == bytes);
}
