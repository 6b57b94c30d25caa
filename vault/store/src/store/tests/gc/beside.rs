//! Collections beside sessions, readers and each other.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Runs a collection until it waits for those who began before; then `meanwhile`, which lets go of
/// what it waits for.
fn during_the_wait(store: &Store, meanwhile: impl FnOnce()) -> GcReport {
    let waiting = AtomicBool::new(false);
    let waiting = &waiting;
    std::thread::scope(|scope| {
        let collector = scope.spawn(move || {
            // Asked for the first time while it waits.
            let stop = || {
                waiting.store(true, Ordering::Release);
                false
            };
            store.gc(&options(&|| Timestamp(40), &stop)).unwrap()
        });
        while !waiting.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        meanwhile();
        collector.join().unwrap()
    })
}

fn references(objects: &[Object]) -> Vec<Reference> {
    objects.iter().map(|object| object.reference).collect()
}

#[test]
fn who_began_before_may_rely_on_what_is_condemned() {
    let rig = sim_rig(&SimVfs::default());
    init(&rig);
    let store = rig.open();
    let Disks { one, two, .. } = disks();
    back_up(&store, "one", &one);
    let agent = begin(&store, "two", None);
    let known = store.known(&agent.session, &references(&one)).unwrap();
    assert!(known.iter().all(|known| *known));
    forget(&store, &[1]);
    let report = during_the_wait(&store, || {
        // Condemned by now, and still known to the one who was told so.
        assert!(store.known(&agent.session, &references(&one)).unwrap().iter().all(|known| *known));
        // Only what "one" does not have is sent, and the rest is relied on.
        let shared = references(&one);
        let new: Vec<Object> =
            two.iter().filter(|o| !shared.contains(&o.reference)).cloned().collect();
        assert!(new.len() < two.len());
        put_all(&store, &agent, &new);
        commit(&store, &agent, &two);
        drop(agent);
    });
    assert_eq!(report.expunged, [1]);
    assert_holds(&store, &two);
    assert_eq!(there(&store, &only(&one, &[&two])), 0);
    drop(store);
    assert_whole(&rig);
    assert_holds(&rig.open(), &two);
}

#[test]
fn who_begins_later_sends_again_what_is_condemned() {
    let rig = sim_rig(&SimVfs::default());
    init(&rig);
    let store = rig.open();
    let Disks { one, two, .. } = disks();
    back_up(&store, "one", &one);
    let before = begin(&store, "before", None);
    forget(&store, &[1]);
    let report = during_the_wait(&store, || {
        let later = begin(&store, "two", None);
        let known = store.known(&later.session, &references(&one)).unwrap();
        assert!(known.iter().all(|known| !known), "condemned is not known");
        // A node that stands on it is refused.
        let page = one.iter().find(|object| !object.refs.is_empty()).unwrap();
        let missing = store.put(&later.session, 900, page).unwrap();
        assert_eq!(missing, Put::Missing(page.refs.clone()));
        put_all(&store, &later, &two);
        commit(&store, &later, &two);
        drop(before);
    });
    assert_eq!(report.expunged, [1]);
    assert_holds(&store, &two);
    drop(store);
    assert_whole(&rig);
    assert_holds(&rig.open(), &two);
}

#[test]
fn a_node_that_stands_on_what_is_condemned_is_condemned_with_it() {
    for committed in [false, true] {
        let rig = sim_rig(&SimVfs::default());
        init(&rig);
        let store = rig.open();
        let one = disk_objects("one", 0, 30);
        back_up(&store, "one", &one);
        let before = begin(&store, "new", None);
        // It stands on the pages of "one", all of which are condemned soon.
        let map = one.iter().find(|object| object.reference.kind == Kind::MapNode).unwrap();
        let root = object(Kind::Directory, &[], b"new root");
        let manifest =
            object(Kind::Manifest, &[map.reference, root.reference], b"a manifest on old pages");
        let new = [root, manifest];
        forget(&store, &[1]);
        during_the_wait(&store, || {
            put_all(&store, &before, &new);
            store.flush().unwrap();
            assert_eq!(before.durable().len(), 2);
            let later = begin(&store, "later", None);
            let known = store.known(&later.session, &references(&new)).unwrap();
            assert_eq!(known, [true, false], "the manifest must not be known to who came later");
            if committed {
                commit(&store, &before, &new);
            }
            drop((later, before));
        });
        let probe = begin(&store, "probe", None);
        let known = store.known(&probe.session, &references(&new)).unwrap();
        assert_eq!(known, [true, committed]);
        let kept = only(&one, &[&one[one.len() - 3..]]);
        if committed {
            assert_holds(&store, &kept);
        } else {
            assert_eq!(there(&store, &kept), 0);
        }
        drop((probe, store));
        // What was acknowledged and not committed has lost its children: no damage to a snapshot.
        assert_whole(&rig);
    }
}

#[test]
fn a_silent_session_ends_after_a_day() {
    let rig = sim_rig(&SimVfs::default());
    init(&rig);
    let store = rig.open();
    let one = disk_objects("one", 0, 30);
    back_up(&store, "one", &one);
    forget(&store, &[1]);
    let silent = begin(&store, "silent", None);
    let now = Cell::new(40);
    // Each look at the clock is six hours later.
    let clock = || {
        now.set(now.get() + DAY / 4);
        Timestamp(now.get())
    };
    let report = store.gc(&options(&clock, &|| false)).unwrap();
    assert_eq!(report.expunged, [1]);
    assert!(now.get() > DAY);
    let error = store.known(&silent.session, &references(&one)).unwrap_err();
    assert!(matches!(error, Error::LeaseEnded), "{error}");
    assert!(matches!(store.put(&silent.session, 0, &one[0]), Err(Error::LeaseEnded)));
    let committed = store.commit(&silent.session, &request(&one), Timestamp(50));
    assert!(matches!(committed, Err(Error::LeaseEnded)));
}

#[test]
fn two_collections_at_once_and_a_rebuild_beside_one() {
    let rig = sim_rig(&SimVfs::default());
    init(&rig);
    let store = rig.open();
    let one = disk_objects("one", 0, 30);
    back_up(&store, "one", &one);
    forget(&store, &[1]);
    let before = begin(&store, "before", None);
    during_the_wait(&store, || {
        assert!(matches!(try_collect(&store), Err(Error::Busy { .. })));
        assert!(matches!(store.rebuild_index(Timestamp(41)), Err(Error::Busy { .. })));
        drop(before);
    });
    store.rebuild_index(Timestamp(42)).unwrap();
    collect(&store);
}

#[test]
fn one_that_is_stopped_while_it_waits_changes_nothing() {
    let rig = sim_rig(&SimVfs::default());
    init(&rig);
    let store = rig.open();
    let one = disk_objects("one", 0, 30);
    back_up(&store, "one", &one);
    forget(&store, &[1]);
    let before = begin(&store, "before", None);
    let stopped = store.gc(&options(&|| Timestamp(40), &|| true));
    assert!(matches!(stopped, Err(Error::Stopped)));
    let later = begin(&store, "later", None);
    let known = store.known(&later.session, &references(&one)).unwrap();
    assert!(known.iter().all(|known| *known), "nothing is condemned any more");
    assert_holds(&store, &one);
    drop((before, later));
    assert_eq!(collect(&store).expunged, [1]);
}

#[test]
fn a_snapshot_that_is_read_stays_until_the_reader_ends() {
    let rig = sim_rig(&SimVfs::default());
    init(&rig);
    let store = rig.open();
    let one = disk_objects("one", 0, 30);
    let receipt = back_up(&store, "one", &one);
    let pin = store.pin(&receipt.snapshot).unwrap();
    forget(&store, &[1]);
    collect(&store);
    assert_holds(&store, &one);
    assert!(store.pin(&receipt.snapshot).is_none(), "nobody can open it any more");
    drop(pin);
    collect(&store);
    assert_eq!(there(&store, &one), 0);
}

#[test]
fn readers_writers_and_collections_together() {
    let dir = tempfile::tempdir().unwrap();
    for rig in rigs(dir.path()) {
        println!("on {}", rig.name);
        let store = rig.open();
        let kept = disk_objects("kept", 0, 120);
        back_up(&store, "kept", &kept);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (store, kept, done) = (&store, &kept, &done);
            for writer in 0..2u64 {
                scope.spawn(move || {
                    for round in 0..12u64 {
                        write_and_forget(store, writer, round);
                    }
                    done.store(true, Ordering::Release);
                });
            }
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    assert_holds(store, kept);
                }
            });
            while !done.load(Ordering::Acquire) {
                collect(store);
            }
        });
        collect(&store);
        assert_holds(&store, &kept);
        println!("{} objects are left of {} needed", store.status().unwrap().objects, kept.len());
        drop(store);
        assert_whole(&rig);
        let store = rig.open();
        assert_eq!(store.damage(), []);
        assert_holds(&store, &kept);
    }
}

/// Sends what is not known, commits, reads all of it back, and forgets it.
fn write_and_forget(store: &Store, writer: u64, round: u64) {
    let name = format!("w{writer}-{round}");
    // Every second backup has what the one before had.
    let objects = disk_objects(&name, 40 * (writer + 1) + round / 2 * 30, 40);
    let agent = begin(store, &name, None);
    let known = store.known(&agent.session, &references(&objects)).unwrap();
    for ((number, object), known) in (0u64..).zip(&objects).zip(known) {
        if !known {
            let put = store.put(&agent.session, number, object).unwrap();
            assert_eq!(put, Put::Accepted);
        }
    }
    let receipt = commit(store, &agent, &objects);
    assert_holds(store, &objects);
    drop(agent);
    forget(store, &[receipt.sequence]);
}
