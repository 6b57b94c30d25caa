//! The index beside the packs.

use super::*;
use umbra_store::{Batch, Key, Location};

fn key(reference: Reference) -> Key {
    Key { domain: world::DOMAIN, id: reference.id }
}

fn apply(world: &World, batch: &Batch) {
    let index = world.index();
    index.apply(batch).unwrap();
    index.sync().unwrap();
}

#[test]
fn a_missing_row_is_named_with_whom_it_hits() {
    let (world, _) = world();
    let place = world.find(chunk(2));
    let pack = world.pack_of(chunk(2));
    apply(&world, &Batch { remove: vec![(key(chunk(2)), place)], ..Batch::default() });
    let report = world.check(ReadData::Nothing);
    let [finding] = report.findings.list.as_slice() else { panic!("{:?}", report.findings.list) };
    assert_eq!((finding.kind, &finding.path), (FindingKind::IndexRow, &pack));
    assert_eq!((finding.at, finding.reach), (place.offset, Reach::Snapshots));
    assert_eq!(report.lost[0].cause, LossCause::Unindexed);
    assert_eq!(hits(&report), ["alpha/sda: etc/one"]);
    // The record itself is there, which whoever heals wants to know.
    let sound = report.lost[0].sound_copy.unwrap();
    assert_eq!((sound.pack, sound.offset), (place.pack, place.offset));
}

#[test]
fn a_row_that_leads_elsewhere_is_named_with_whom_it_hits() {
    let (world, _) = world();
    let right = world.find(chunk(6));
    let elsewhere = [
        Location { offset: right.offset + 8, ..right },
        Location { record_len: right.record_len + 1, ..right },
        Location { plain_len: 1, ..right },
        Location { ..world.find(chunk(2)) },
        Location { pack: umbra_store::PackId([0xee; 16]), ..right },
    ];
    for wrong in elsewhere {
        apply(&world, &Batch { put: vec![(key(chunk(6)), wrong)], ..Batch::default() });
        let report = world.check(ReadData::Everything);
        let found = &report.findings.list;
        let rows = [FindingKind::IndexRow, FindingKind::Record];
        assert!(found.iter().all(|f| rows.contains(&f.kind)) && !found.is_empty(), "{found:?}");
        assert!(found.iter().any(|f| f.at == wrong.offset), "{found:?}");
        let expected = ["alpha/sda: usr/same", "beta/vda: home/same again"];
        assert_eq!(hits(&report), expected, "{wrong:?}: {found:?}");
    }
    apply(&world, &Batch { put: vec![(key(chunk(6)), right)], ..Batch::default() });
    assert_whole(&world.check(ReadData::Everything));
}

#[test]
fn a_row_for_what_no_pack_has_is_named() {
    let (world, _) = world();
    let row = Location { offset: 5_000_000, ..world.find(chunk(2)) };
    apply(&world, &Batch { put: vec![(key(chunk(77)), row)], ..Batch::default() });
    let report = world.check(ReadData::Nothing);
    assert_eq!(kinds(&report), [FindingKind::IndexRow]);
    assert_eq!(report.findings.list[0].object.unwrap().0, key(chunk(77)));
    assert_eq!(report.findings.list[0].reach, Reach::Nothing);
    assert_eq!(hits(&report), [""; 0]);
}

#[test]
fn an_index_that_cannot_be_opened_is_named_and_the_packs_are_checked() {
    let (world, _) = world();
    world.flip_in(chunk(2));
    for name in world.files("index").iter().filter(|name| name.contains("MANIFEST")) {
        world.harm(name, |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 0x55));
    }
    let report = world.check(ReadData::Everything);
    assert_eq!(kinds(&report), [FindingKind::Record, FindingKind::Index]);
    assert_eq!(hits(&report), ["alpha/sda: etc/one"]);
    assert!(matches!(report.index, IndexChecked::NotCompared(_)));
}

/// An index that is behind the packs is none that is damaged: the next opening catches up.
#[test]
fn packs_that_the_index_does_not_know_yet_are_no_damage() {
    let (world, disks) = world();
    let pack = world.find(chunk(2)).pack;
    let index = world.index();
    let mut gone = Vec::new();
    index
        .for_each(&mut |key, row| {
            if row.pack == pack {
                gone.push((key, row));
            }
            Ok(())
        })
        .unwrap();
    assert!(!gone.is_empty());
    let batch = Batch { remove: gone, remove_packs: vec![pack], ..Batch::default() };
    index.apply(&batch).unwrap();
    drop(index);
    assert_whole(&world.check(ReadData::Everything));
    let store = world.open();
    let wanted = disks[0].of_kind(Kind::Chunk);
    assert!(wanted.iter().all(|chunk| store.get(world::DOMAIN, chunk).is_ok()));
}
