//! Something is missing or damaged: nothing is deleted.

use super::*;
use crate::index::Key;

/// A store with two snapshots, of which the second is forgotten.
fn prepared() -> (SimVfs, Rig, Vec<Object>) {
    let vfs = SimVfs::default();
    let rig = sim_rig(&vfs);
    init(&rig);
    let kept = disk_objects("kept", 0, 60);
    let store = rig.open();
    back_up(&store, "kept", &kept);
    store.close().unwrap();
    let store = rig.open();
    back_up(&store, "gone", &disk_objects("gone", 500, 60));
    forget(&store, &[2]);
    store.close().unwrap();
    (vfs, rig, kept)
}

fn packs(vfs: &SimVfs) -> Vec<String> {
    let is_pack = |name: &String| name.starts_with("packs/") && !name.contains('.');
    vfs.files().into_iter().filter(is_pack).collect()
}

#[test]
fn a_pack_that_is_gone_stops_it() {
    for (needed, number) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
        let (vfs, rig, kept) = prepared();
        let before = packs(&vfs);
        let store = rig.open();
        let place = |object: &Object| {
            let key = Key { domain: DOMAIN, id: object.reference.id };
            store.inner.index.find(&key).unwrap().unwrap().pack
        };
        let mut of_kept: Vec<String> =
            kept.iter().map(|object| crate::pack::sealed_name(place(object))).collect();
        of_kept.sort();
        of_kept.dedup();
        drop(store);
        let lost = before.iter().filter(|name| of_kept.contains(name) == needed).nth(number);
        assert!(vfs.lose(lost.unwrap()));
        let collected = try_collect(&rig.open());
        if needed {
            assert!(matches!(collected, Err(Error::NotCollected { .. })), "{collected:?}");
            assert_eq!(packs(&vfs).len(), before.len() - 1, "something was deleted");
        } else {
            assert_eq!(collected.unwrap().expunged, [2]);
        }
    }
}

#[test]
fn a_damaged_table_stops_it() {
    let (vfs, rig, kept) = prepared();
    let store = rig.open();
    let before = packs(&vfs);
    let flip = |name: &str| {
        assert!(vfs.damage(name, |bytes| {
            let at = bytes.len() - 10;
            bytes[at] ^= 1;
        }));
    };
    for name in &before {
        flip(name);
        let error = try_collect(&store).unwrap_err();
        assert!(matches!(error, Error::NotCollected { .. }), "{error}");
        flip(name);
    }
    assert_eq!(packs(&vfs), before);
    assert_eq!(collect(&store).expunged, [2]);
    assert_holds(&store, &kept);
}

#[test]
fn a_damaged_record_is_not_copied_and_its_pack_stays() {
    let vfs = SimVfs::default();
    let rig = sim_rig(&vfs);
    init(&rig);
    let store = rig.open();
    let (one, two) = (disk_objects("one", 0, 200), disk_objects("two", 190, 20));
    back_up(&store, "one", &one);
    back_up(&store, "two", &two);
    forget(&store, &[1]);
    // Where a chunk stands that must be copied.
    let key = Key { domain: DOMAIN, id: two[0].reference.id };
    let place = store.inner.index.find(&key).unwrap().unwrap();
    store.inner.lanes.iter().for_each(Lane::seal_all);
    let name = crate::pack::sealed_name(place.pack);
    let at = usize::try_from(place.offset).unwrap() + 125;
    assert!(vfs.damage(&name, |bytes| bytes[at] ^= 1));
    let report = try_collect(&store).unwrap();
    assert_eq!(report.kept.len(), 1, "{report:?}");
    assert_eq!(report.kept[0].0, name);
    assert_eq!(there(&store, &two), two.len() - 1);
    assert!(vfs.files().contains(&name));
    // Mended, it goes.
    assert!(vfs.damage(&name, |bytes| bytes[at] ^= 1));
    collect(&store);
    assert!(!vfs.files().contains(&name));
    assert_holds(&store, &two);
}
