//! Random damage to valid tables: never a panic, never a range that is not the disk's.

use std::{println, vec::Vec};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngSeed, TestRunner};

use super::build::{Disk, GptLayout, gpt, mbr_entry, mbr_with_logicals, seal};
use crate::partition::{TableKind, read};

/// What is done to a table: bytes set, entries of boot records replaced, the end cut off.
#[derive(Clone, Debug)]
struct Damage {
    base: usize,
    bytes: Vec<(prop::sample::Index, u8)>,
    words: Vec<(prop::sample::Index, u32)>,
    link: Option<(usize, usize, u8, u32, u32)>,
    reseal: bool,
    cut: Option<prop::sample::Index>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = || any::<prop::sample::Index>();
    let word = prop_oneof![0_u32..600, any::<u32>(), Just(u32::MAX), Just(1 << 31)];
    let kind = prop_oneof![Just(0x05_u8), Just(0x0f), Just(0x83), any::<u8>()];
    let record = prop::sample::select(&[0_usize, 200, 320, 390][..]);
    (
        0_usize..3,
        prop::collection::vec((place(), any::<u8>()), 0..4),
        prop::collection::vec((place(), word), 0..4),
        prop::option::of((record, 0_usize..4, kind, 0_u32..700, 0_u32..700)),
        any::<bool>(),
        prop::option::weighted(0.2, place()),
    )
        .prop_map(|(base, bytes, words, link, reseal, cut)| Damage {
            base,
            bytes,
            words,
            link,
            reseal,
            cut,
        })
}

/// The bytes of a base that tables stand in, so that damage hits something.
fn hot(base: usize, len: usize) -> Vec<usize> {
    match base {
        0 => [0, 200, 320, 390].iter().flat_map(|r| r * 512 + 440..r * 512 + 512).collect(),
        1 => (440..604).chain(1024..1536).chain(len - 512..len - 420).collect(),
        _ => (440..512).chain(4096..4188).chain(8192..8704).chain(len - 4096..len - 4004).collect(),
    }
}

fn damaged(damage: &Damage, bases: &[Disk; 3]) -> Disk {
    let mut disk = Disk::zeros(0);
    disk.bytes.clone_from(&bases[damage.base].bytes);
    let hot = hot(damage.base, disk.bytes.len());
    for (place, byte) in &damage.bytes {
        disk.bytes[*place.get(&hot)] = *byte;
    }
    for (place, word) in &damage.words {
        let at = place.get(&hot) & !3;
        disk.bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    if let Some((record, slot, kind, start, len)) = damage.link {
        mbr_entry(&mut disk, record, slot, kind, start..start + len);
    }
    if damage.reseal && damage.base > 0 {
        // So that the parser sees nonsense behind correct checksums.
        let sector = if damage.base == 1 { 512 } else { 4096 };
        let array = disk.bytes[2 * sector..2 * sector + 128 * 128].to_vec();
        seal(&mut disk.bytes, sector, &array);
    }
    if let Some(cut) = &damage.cut {
        let len = cut.index(disk.bytes.len());
        disk.bytes.truncate(len);
    }
    disk
}

#[test]
fn damage_never_gives_a_wrong_range() {
    let seed = std::env::var("UMBRA_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed: u64 = seed.unwrap_or_else(|| u64::from(now.subsec_nanos()) ^ now.as_secs());
    println!("UMBRA_TEST_SEED={seed}");
    let config = ProptestConfig {
        cases: 2500,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..ProptestConfig::default()
    };
    let wide = GptLayout { sector: 4096, ..GptLayout::default() };
    let bases = [mbr_with_logicals(0x05), gpt(&GptLayout::default()), gpt(&wide)];
    let mut kinds = [0_u32; 3];
    TestRunner::new(config)
        .run(&damage(), |damage| {
            let disk = damaged(&damage, &bases);
            let table = read(&disk);
            let mut end = 0;
            for partition in &table.partitions {
                prop_assert!(!partition.range.is_empty());
                prop_assert!(partition.range.start().0 >= end && partition.range.start().0 > 0);
                end = partition.range.end().0;
            }
            prop_assert!(end <= disk.bytes.len() as u64);
            prop_assert!(table.partitions.len() <= 4096 && table.warnings.len() <= 8300);
            prop_assert!(disk.reads.get() <= 1100, "{} reads", disk.reads.get());
            if table.kind == TableKind::None {
                prop_assert!(table.partitions.is_empty());
            }
            Ok(())
        })
        .unwrap();
    // The damage must leave enough tables standing for the test to mean something.
    let mut runner = TestRunner::new(ProptestConfig {
        rng_seed: RngSeed::Fixed(seed),
        ..ProptestConfig::default()
    });
    for _ in 0..300 {
        let damage = damage().new_tree(&mut runner).unwrap().current();
        let kind = match read(&damaged(&damage, &bases)).kind {
            TableKind::None => 0,
            TableKind::Mbr => 1,
            TableKind::Gpt { .. } => 2,
        };
        kinds[kind] += 1;
    }
    println!("none, mbr, gpt: {kinds:?} of 300");
    assert!(kinds.iter().all(|count| *count >= 10), "{kinds:?}");
}
