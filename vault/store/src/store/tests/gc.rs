//! Collections: what nothing needs goes, what somebody needs stays, whoever works meanwhile.

use std::cell::Cell;

use super::*;
use crate::retention::Scope;
use crate::store::check::{CheckOptions, ReadData};
use crate::{GcOptions, GcReport};

mod beside;
mod crash;
mod damage;

/// A day, in nanoseconds.
const DAY: i64 = 24 * 3600 * 1_000_000_000;

/// Forgets snapshots; they are due at once.
fn forget(store: &Store, sequences: &[u64]) {
    let disk = Scope::of_disk("m", "d").unwrap();
    let sequences = sequences.iter().copied().collect();
    store.log().append(Entry::Forgotten { disk, sequences }, Timestamp(30)).unwrap();
}

fn options<'a>(clock: &'a dyn Fn() -> Timestamp, stop: &'a dyn Fn() -> bool) -> GcOptions<'a> {
    GcOptions { at_once: true, dry_run: false, limit: None, wait: None, clock, stop }
}

fn try_collect(store: &Store) -> Result<GcReport> {
    store.gc(&options(&|| Timestamp(40), &|| false))
}

fn collect(store: &Store) -> GcReport {
    let report = try_collect(store).unwrap();
    assert_eq!(report.kept, [], "{report:?}");
    report
}

/// Tells how many of the objects are there.
fn there(store: &Store, objects: &[Object]) -> usize {
    objects.iter().filter(|object| store.get(DOMAIN, &object.reference).is_ok()).count()
}

/// The check finds nothing, and every record is read.
fn assert_whole(rig: &Rig) {
    let mut options = CheckOptions::new(rig.opener(), ReadData::Everything);
    options.objects = rig.objects.clone();
    options.cipher = rig.cipher.clone();
    let report = crate::check(&rig.vfs, &options).unwrap();
    // Manifests of these tests are none.
    let not_decoded = |finding: &&crate::Finding| !finding.reason.contains("manifest is damaged");
    let found: Vec<_> = report.findings.list.iter().filter(not_decoded).collect();
    assert!(found.is_empty(), "{found:?}");
    let is_manifest = |lost: &crate::LostObject| lost.reference.kind == Kind::Manifest;
    assert!(report.lost.iter().all(is_manifest), "{:?}", report.lost);
}

/// Two disks that share a part, and one that shares nothing.
struct Disks {
    one: Vec<Object>,
    two: Vec<Object>,
    other: Vec<Object>,
}

fn disks() -> Disks {
    Disks {
        one: disk_objects("one", 0, 60),
        two: disk_objects("two", 40, 60),
        other: disk_objects("other", 500, 60),
    }
}

/// The objects of `gone` that none of `stay` has.
fn only(gone: &[Object], stay: &[&[Object]]) -> Vec<Object> {
    let kept: BTreeSet<Reference> =
        stay.iter().flat_map(|objects| objects.iter()).map(|object| object.reference).collect();
    gone.iter().filter(|object| !kept.contains(&object.reference)).cloned().collect()
}

#[test]
fn what_nothing_needs_goes_on_every_storage() {
    let dir = tempfile::tempdir().unwrap();
    for rig in rigs(dir.path()) {
        println!("on {}", rig.name);
        let store = rig.open();
        let Disks { one, two, other } = disks();
        back_up(&store, "one", &one);
        back_up(&store, "two", &two);
        back_up(&store, "other", &other);
        let before = store.status().unwrap();
        // Nothing is forgotten: nothing goes.
        let report = collect(&store);
        assert_eq!((report.roots, report.packs_deleted), (3, 0));
        assert_eq!(store.status().unwrap().objects, before.objects);
        forget(&store, &[1, 3]);
        let dry = GcOptions { dry_run: true, ..options(&|| Timestamp(40), &|| false) };
        let foretold = store.gc(&dry).unwrap();
        assert!(foretold.bytes_freed > foretold.bytes_copied && foretold.bytes_copied > 0);
        assert_eq!(foretold.expunged, [1, 3]);
        assert_eq!(there(&store, &other), other.len(), "a dry run changed something");
        let report = collect(&store);
        assert_eq!((report.roots, &report.expunged), (1, &vec![1, 3]));
        // With what stands beside the packs.
        assert!(report.bytes_freed >= foretold.bytes_freed, "{report:?} {foretold:?}");
        assert_eq!(report.packs_deleted, foretold.packs_deleted);
        assert_holds(&store, &two);
        assert_eq!(there(&store, &only(&one, &[&two])), 0);
        assert_eq!(there(&store, &only(&other, &[&two])), 0);
        assert_eq!(store.receipts().len(), 1);
        // Again: nothing is left to do.
        assert_eq!(collect(&store).packs_deleted, 0);
        // Numbers of receipts are never used twice, and the chain goes on.
        let receipt = back_up(&store, "again", &one);
        assert_eq!(receipt.sequence, 4);
        store.close().unwrap();
        assert_whole(&rig);
        let store = rig.open();
        assert_eq!(store.damage(), []);
        assert_holds(&store, &two);
        assert_holds(&store, &one);
        let ids = |store: &Store| {
            let mut ids = Vec::new();
            store.inner.index.for_each(&mut |key, _| {
                ids.push(key);
                Ok(())
            })?;
            Ok::<_, Error>(ids)
        };
        let before = ids(&store).unwrap();
        store.rebuild_index(Timestamp(50)).unwrap();
        assert_eq!(ids(&store).unwrap(), before, "a rebuild finds the same ids");
        assert_holds(&store, &two);
    }
}

#[test]
fn the_last_receipt_is_not_numbered_again() {
    let rig = sim_rig(&SimVfs::default());
    init(&rig);
    let store = rig.open();
    let objects = disk_objects("a", 0, 10);
    let receipt = back_up(&store, "a", &objects);
    forget(&store, &[1]);
    let report = collect(&store);
    assert_eq!(report.roots, 0);
    assert!(report.packs_deleted > 0);
    assert_eq!(store.status().unwrap().objects, 0);
    drop(store);
    let store = rig.open();
    let next = back_up(&store, "b", &objects);
    assert_eq!(next.sequence, 2);
    assert_eq!(next.previous, Some(receipt.hash().unwrap()));
    assert_holds(&store, &objects);
    drop(store);
    assert_whole(&rig);
}

#[test]
fn a_reader_of_another_process_follows() {
    let dir = tempfile::tempdir().unwrap();
    for rig in rigs(dir.path()) {
        let store = rig.open();
        let Disks { one, two, .. } = disks();
        back_up(&store, "one", &one);
        back_up(&store, "two", &two);
        store.close().unwrap();
        let store = rig.open();
        let reader = rig.open_reader();
        assert_holds(&reader, &two);
        forget(&store, &[1]);
        let report = collect(&store);
        assert!(report.bytes_copied > 0, "{report:?}");
        assert_holds(&reader, &two);
        assert_holds(&rig.open_reader(), &two);
    }
}
