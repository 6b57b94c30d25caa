//! Bits anywhere in the packs.

use super::*;

/// Bits that are flipped.
const FLIPS: u64 = 200;

/// Every byte of a pack that was sealed in order is covered: header and table by their checksums,
/// records by their checks, and there is nothing between them. So is every byte of its parity.
#[test]
fn every_flipped_bit_of_a_pack_is_found() {
    let (world, disks) = world();
    let whole = world.check(ReadData::Everything);
    assert_eq!(whole.bytes_void, 0);
    let packs: Vec<(String, u64)> = world
        .files("packs")
        .into_iter()
        .map(|name| {
            let len = std::fs::metadata(world.dir().join(&name)).unwrap().len();
            (name, len)
        })
        .collect();
    let total: u64 = packs.iter().map(|(_, len)| len).sum();
    let is_parity = |name: &str| name.ends_with(".parity");
    let parity = packs.iter().filter(|(name, _)| is_parity(name)).map(|(_, len)| len).sum::<u64>();
    assert_eq!(total - parity, whole.bytes);
    assert_eq!(whole.packs_without_parity, 0);
    let seed = 20_261_130u64;
    println!("seed {seed}, {total} bytes in {} packs", packs.len());
    let mut state = seed;
    for number in 0..FLIPS {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut bit = (state >> 13) % (total * 8);
        let (name, _) = packs
            .iter()
            .find(|(_, len)| {
                let here = bit < len * 8;
                bit -= if here { 0 } else { len * 8 };
                here
            })
            .unwrap();
        let at = usize::try_from(bit / 8).unwrap();
        let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1 << (bit % 8);
        world.harm(name, flip);
        let report = world.check(ReadData::Everything);
        let place = format!("flip {number}: {name} bit {bit}");
        assert!(report.is_damaged(), "{place}: unseen");
        let [finding] = report.findings.list.as_slice() else {
            panic!("{place}: {:?}", report.findings.list)
        };
        assert_eq!(&finding.path, name, "{place}");
        assert_eq!(finding.kind == FindingKind::Parity, is_parity(name), "{place}");
        // Where a record was hit, some snapshot is: all of them are needed.
        let record = finding.kind == FindingKind::Record;
        assert_eq!(record, !report.snapshots.is_empty(), "{place}: {finding:?}");
        if record {
            let (key, kind) = finding.object.unwrap();
            let hit = Reference { kind, id: key.id };
            let has = |disk: &&Disk| disk.objects.iter().any(|object| object.reference == hit);
            let expected: Vec<&str> = disks.iter().filter(has).map(|disk| disk.machine).collect();
            let found: Vec<&str> =
                report.snapshots.iter().map(|hit| hit.machine.as_str()).collect();
            assert_eq!(found, expected, "{place}");
            let start = usize::try_from(finding.at).unwrap();
            assert!(start <= at, "{place}");
        }
        world.harm(name, flip);
    }
    assert_whole(&world.check(ReadData::Everything));
}
