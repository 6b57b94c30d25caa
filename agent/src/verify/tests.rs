#![allow(clippy::unwrap_used)]

use umbra_common::Kind;
use umbra_fsparse::{ReadAt, ReadError};

use super::*;
use crate::fixture::{Fixture, Piece as Part, Random, Spec, What, file, spec};
use crate::monitor::Quiet;

struct Disk(Vec<u8>);

impl ReadAt for Disk {
    fn len(&self) -> ByteLen {
        ByteLen(self.0.len() as u64)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let start = offset.0 as usize;
        let range = ByteRange::new(offset, ByteLen(buf.len() as u64)).unwrap();
        let bytes = self.0.get(start..start + buf.len());
        buf.copy_from_slice(bytes.ok_or(ReadError::PastEnd(range, self.len()))?);
        Ok(())
    }
}

fn specs(seed: u64) -> Vec<Spec> {
    let mut random = Random::new(seed);
    let mut specs: Vec<Spec> =
        (0..30).map(|n| file(format!("d{}/f{n}", n % 3), &random.bytes(3000 * n))).collect();
    let mut unread = spec("unread", What::File(vec![Part::Unreadable(2), Part::Data(vec![1; 9])]));
    // Too much for its record.
    let value = random.bytes(6000);
    unread.xattrs.push(umbra_fsparse::Xattr { name: b"user.large".to_vec(), value });
    specs.push(unread);
    specs.push(file("large", &random.bytes(18 << 20)));
    specs
}

fn check(fixture: &Fixture, depth: Depth) -> Report {
    verify(&fixture.snapshot, fixture.content(), depth, &Quiet::default()).unwrap()
}

#[test]
fn a_whole_snapshot_is_found_whole_at_every_depth() {
    let fixture = Fixture::new(60, &specs(60));
    for depth in [Depth::References, Depth::Chunks, Depth::Files] {
        let report = check(&fixture, depth);
        assert!(!report.is_damaged(), "{depth:?}: {report:?}");
        assert_eq!(report.entries, 36, "{depth:?}");
        let hash = (depth > Depth::References).then_some(fixture.snapshot.manifest.image_hash.0);
        assert_eq!(report.image_hash, hash);
        let files = if depth == Depth::Files { (31, 1) } else { (0, 0) };
        assert_eq!((report.files_proven, report.files_without_hash), files);
    }
}

#[test]
fn a_lost_chunk_is_found_where_it_lies_and_in_its_files() {
    let mut fixture = Fixture::new(61, &specs(61));
    let lost = fixture.first_chunk[&b"d2/f20"[..]];
    let bytes = fixture.chunks.table.remove(&lost).unwrap();
    assert!(!check(&fixture, Depth::References).is_damaged());
    for depth in [Depth::Chunks, Depth::Files] {
        let report = check(&fixture, depth);
        let total: u64 = report.ranges.iter().map(|(range, _)| range.len().0).sum();
        assert_eq!(total, bytes.len() as u64, "{report:?}");
        for (range, reason) in &report.ranges {
            assert!(reason.contains("lost it"));
            let start = range.start().0 as usize;
            let on_disk = &fixture.disk[start..start + range.len().0 as usize];
            assert!(bytes.windows(on_disk.len()).any(|window| window == on_disk));
        }
        assert_eq!(report.paths.total, 1, "{depth:?}: {:?}", report.paths);
        assert!(report.paths.list[0].starts_with("disk/d2/f20: "), "{:?}", report.paths);
        assert_eq!(report.image_hash, None);
    }
}

#[test]
fn a_wrong_chunk_that_passes_for_right_is_found_by_the_windows() {
    let mut fixture = Fixture::new(62, &specs(62));
    let wrong = fixture.first_chunk[&b"d1/f10"[..]];
    fixture.chunks.table.get_mut(&wrong).unwrap()[5] ^= 0x40;
    let report = check(&fixture, Depth::Chunks);
    assert_eq!((report.ranges_total, report.other.len()), (1, 1), "{report:?}");
    assert_ne!(report.image_hash, Some(fixture.snapshot.manifest.image_hash.0));
    let report = check(&fixture, Depth::Files);
    let hit = report.paths.list.iter().any(|p| p.contains("d1/f10") && p.contains("hashes to"));
    assert!(hit, "{:?}", report.paths);
}

#[test]
fn lost_nodes_of_every_kind_are_found_even_by_a_quick_look() {
    let fixture = Fixture::new(63, &specs(63));
    let all: Vec<_> = fixture.nodes.iter().map(|(reference, _)| *reference).collect();
    let mut kinds = std::collections::BTreeSet::new();
    for reference in all.into_iter().filter(|reference| reference.kind != Kind::Manifest) {
        let mut broken = Fixture::new(63, &specs(63));
        broken.nodes.remove(&reference).unwrap();
        let report = check(&broken, Depth::References);
        assert!(report.is_damaged(), "{reference:?}");
        kinds.insert(reference.kind);
    }
    assert_eq!(kinds.len(), 5);
}

#[test]
fn a_disk_is_compared_byte_for_byte() {
    let fixture = Fixture::new(64, &specs(64));
    let compare = |disk: Vec<u8>| against(&fixture.content(), &Disk(disk), &Quiet::default());
    let same = compare(fixture.disk.clone()).unwrap();
    assert!(same.is_equal() && same.ranges.is_empty(), "{same:?}");
    let asked = fixture.chunks.asked.load(std::sync::atomic::Ordering::Relaxed);
    // Nothing had to be fetched; what the snapshot did not keep was zeros on the disk too.
    assert_eq!(asked, 0);
    for position in [0, 5000, 16 << 20, fixture.disk.len() - 1] {
        let mut disk = fixture.disk.clone();
        disk[position] ^= 1;
        let found = compare(disk).unwrap();
        let at = position as u64 / 4096 * 4096;
        let unread = fixture.snapshot.manifest.counts.bytes_unreadable;
        assert_eq!(unread, 8192);
        assert_eq!(found.bytes, 4096, "{position}: {found:?}");
        assert_eq!(found.ranges[0].start().0, at, "{found:?}");
    }
    let mut short = fixture.disk.clone();
    short.truncate(20 << 20);
    let found = compare(short).unwrap();
    assert!(!found.is_equal() && found.lengths.is_some() && found.bytes == 0, "{found:?}");
}

#[test]
fn what_was_not_kept_is_not_compared() {
    let fixture = Fixture::new(65, &[spec("u", What::File(vec![Part::Unreadable(2)]))]);
    let mut disk = fixture.disk.clone();
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let entry = browser.find(b"/u", crate::browse::Links::Keep).unwrap().entry;
    let extent = entry.extents(&fixture.nodes, ByteOffset(0)).unwrap().next().unwrap().unwrap();
    disk[extent.disk.start().0 as usize] = 77;
    let found = against(&fixture.content(), &Disk(disk), &Quiet::default()).unwrap();
    assert!(found.is_equal(), "{found:?}");
    assert_eq!(found.not_compared, 8192);
}
