//! Crashes and faults at every operation of a collection, then a backup and a full restore.

use super::*;
use crate::testing::Fault;

/// A store with three snapshots, two of which are forgotten.
fn prepared(index: bool) -> (SimVfs, Rig, Disks) {
    let vfs = SimVfs::default();
    let rig = Rig { index: index.then(KeptIndex::default), ..sim_rig(&vfs) };
    init(&rig);
    let disks = disks();
    let store = rig.open();
    back_up(&store, "one", &disks.one);
    back_up(&store, "two", &disks.two);
    back_up(&store, "other", &disks.other);
    forget(&store, &[1, 3]);
    store.close().unwrap();
    (vfs, rig, disks)
}

/// The snapshot that counts is whole; a backup of what was forgotten is whole too; then the
/// collection is done to its end.
fn check(rig: &Rig, disks: &Disks, what: &str) {
    let store = match rig.try_open(OpenMode::ReadWrite) {
        Ok(store) => store,
        Err(error) => panic!("{what}: cannot be opened: {error}"),
    };
    assert_eq!(store.damage(), [], "{what}");
    assert_holds(&store, &disks.two);
    // Only what is not known is sent: what is known must be whole.
    let agent = begin(&store, "again", None);
    for (number, object) in (0u64..).zip(&disks.one) {
        if store.known(&agent.session, &[object.reference]).unwrap() == [false] {
            let put = store.put(&agent.session, number, object).unwrap();
            assert_eq!(put, Put::Accepted, "{what}");
        }
    }
    commit(&store, &agent, &disks.one);
    drop(agent);
    assert_holds(&store, &disks.one);
    collect(&store);
    assert_holds(&store, &disks.one);
    assert_holds(&store, &disks.two);
    let gone = only(&disks.other, &[&disks.one, &disks.two]);
    assert_eq!(there(&store, &gone), 0, "{what}");
    store.close().unwrap();
    assert_whole(rig);
}

fn operations(index: bool) -> std::ops::Range<u64> {
    let (vfs, rig, _) = prepared(index);
    let start = vfs.operations();
    let store = rig.open();
    assert!(collect(&store).packs_deleted > 0);
    drop(store);
    start..vfs.operations()
}

#[test]
fn a_crash_at_every_operation() {
    for index in [true, false] {
        let operations = operations(index);
        println!("{operations:?}");
        let start = operations.start;
        for at in operations {
            let (vfs, rig, disks) = prepared(index);
            // How many operations the preparation takes depends on its threads.
            vfs.fault_at(vfs.operations() + (at - start), Fault::Crash);
            if let Ok(store) = rig.try_open(OpenMode::ReadWrite) {
                let _ = try_collect(&store);
            }
            let what = format!("crash at {}, index {index}", at - start);
            let cuts = [vfs.after_power_cut(0), vfs.after_power_cut(at + 1), vfs.after_kill()];
            for (number, after) in cuts.into_iter().enumerate() {
                let index = rig.index.as_ref().map(KeptIndex::copied);
                let rig = Rig { index, ..sim_rig(&after) };
                check(&rig, &disks, &format!("{what}, {number}"));
            }
        }
    }
}

#[test]
fn a_fault_at_every_operation() {
    let operations = operations(true);
    let start = operations.start;
    for fault in [Fault::NoSpace, Fault::Io, Fault::Short] {
        for at in operations.clone() {
            let (vfs, rig, disks) = prepared(true);
            vfs.fault_at(vfs.operations() + (at - start), fault);
            if let Ok(store) = rig.try_open(OpenMode::ReadWrite) {
                let _ = try_collect(&store);
            }
            vfs.clear_faults();
            let what = format!("{fault:?} at {}", at - start);
            let after = vfs.after_power_cut(0);
            let index = rig.index.as_ref().map(KeptIndex::copied);
            check(&Rig { index, ..sim_rig(&after) }, &disks, &format!("{what}, power cut"));
            check(&rig, &disks, &what);
        }
    }
}

#[test]
fn an_index_of_before_is_noticed() {
    let (vfs, rig, disks) = prepared(true);
    let before = rig.index.as_ref().unwrap().copied();
    let store = rig.open();
    collect(&store);
    drop(store);
    let rig = Rig { index: Some(before), ..sim_rig(&vfs) };
    check(&rig, &disks, "an old copy of the index");
}

#[test]
fn a_rebuild_in_the_midst_of_a_sweep_takes_back_what_is_there() {
    let operations = operations(true);
    let start = operations.start;
    for at in operations {
        let (vfs, rig, disks) = prepared(true);
        vfs.fault_at(vfs.operations() + (at - start), Fault::Crash);
        if let Ok(store) = rig.try_open(OpenMode::ReadWrite) {
            let _ = try_collect(&store);
        }
        let rig = Rig { index: Some(KeptIndex::default()), ..sim_rig(&vfs.after_kill()) };
        check(&rig, &disks, &format!("crash at {}, index lost", at - start));
    }
}
