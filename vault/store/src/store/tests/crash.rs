//! Crashes and faults at every operation: nothing acknowledged is lost, and the store goes on.

use super::*;
use crate::testing::Fault;

/// What was promised before a crash.
#[derive(Default)]
struct Promised {
    objects: Vec<Object>,
    receipts: Vec<Arc<Receipt>>,
}

/// Backs two disks up, as far as it goes; returns what was promised.
fn work(rig: &Rig) -> Promised {
    let mut promised = Promised::default();
    let Ok(store) = rig.try_open(OpenMode::ReadWrite) else { return promised };
    for (name, first) in [("one", 0), ("two", 10)] {
        let objects = disk_objects(name, first, 20);
        let agent = begin(&store, name, None);
        let mut failed = false;
        for (number, object) in (0u64..).zip(&objects) {
            failed |= !matches!(store.put(&agent.session, number, object), Ok(Put::Accepted));
            if number % 9 == 8 {
                let _ = store.flush();
            }
        }
        if let Ok(Commit::Committed(receipt)) =
            store.commit(&agent.session, &request(&objects), Timestamp(20))
        {
            assert!(!failed);
            promised.receipts.push(receipt);
        }
        let durable = agent.durable();
        let numbered = (0u64..).zip(&objects);
        let kept = numbered.filter(|(number, _)| durable.contains(number));
        promised.objects.extend(kept.map(|(_, object)| object.clone()));
    }
    promised
}

/// Whatever was promised is there, whatever is known is whole; then the work is done to its end,
/// and what is promised now is returned.
fn check(rig: &Rig, promised: &Promised, what: &str) -> Promised {
    let store = match rig.try_open(OpenMode::ReadWrite) {
        Ok(store) => store,
        Err(error) => panic!("{what}: cannot be opened: {error}"),
    };
    assert_eq!(store.damage(), [], "{what}");
    for object in &promised.objects {
        let found = store.get(DOMAIN, &object.reference);
        assert_eq!(found.as_ref().ok(), Some(object), "{what}: {found:?}");
    }
    for receipt in &promised.receipts {
        assert!(store.receipts().contains(receipt), "{what}: a receipt is gone");
    }
    assert_closed(&store, what);
    let mut now = Promised::default();
    for (name, first) in [("one", 0), ("two", 10)] {
        let objects = disk_objects(name, first, 20);
        let receipt = back_up(&store, name, &objects);
        now.receipts.push(Arc::clone(&receipt));
        let before = promised.receipts.iter().find(|r| r.snapshot == receipt.snapshot);
        assert!(before.is_none_or(|before| *before == receipt), "{what}: committed twice");
        assert_holds(&store, &objects);
        now.objects.extend(objects);
    }
    assert!(store.receipts().len() <= 2, "{what}");
    drop(store);
    // Footers, rows and receipts agree: a reader makes its own index from them.
    let reader = rig.open_reader();
    assert_eq!(reader.damage(), [], "{what}");
    for (name, first) in [("one", 0), ("two", 10)] {
        assert_holds(&reader, &disk_objects(name, first, 20));
    }
    now
}

/// Every object that is known reads back, and its children are known.
fn assert_closed(store: &Store, what: &str) {
    let agent = begin(store, "probe", None);
    for (name, first) in [("one", 0), ("two", 10)] {
        for object in disk_objects(name, first, 20) {
            if store.known(&agent.session, &[object.reference]).unwrap() == [true] {
                let found = store.get(DOMAIN, &object.reference).unwrap();
                assert_eq!(found, object, "{what}");
                let children = store.known(&agent.session, &found.refs).unwrap();
                assert!(children.iter().all(|known| *known), "{what}: a child is not there");
            }
        }
    }
}

/// A new store on a simulated disk, and that disk.
fn simulated(index: bool) -> (SimVfs, Rig) {
    let vfs = SimVfs::default();
    let rig = Rig { index: index.then(KeptIndex::default), ..sim_rig(&vfs) };
    init(&rig);
    (vfs, rig)
}

/// How many operations the whole work takes, at least.
fn operations() -> std::ops::Range<u64> {
    let (vfs, rig) = simulated(false);
    let start = vfs.operations();
    assert_eq!(work(&rig).receipts.len(), 2);
    start..vfs.operations()
}

#[test]
fn a_power_cut_at_every_operation() {
    let operations = operations();
    println!("{operations:?}");
    for at in operations {
        let with_index = at % 2 == 0;
        let (vfs, rig) = simulated(with_index);
        vfs.fault_at(at, Fault::Crash);
        let promised = work(&rig);
        for seed in [0, at + 1] {
            let after = vfs.after_power_cut(seed);
            let index = rig.index.as_ref().map(KeptIndex::copied);
            let rig = Rig { index, ..sim_rig(&after) };
            check(&rig, &promised, &format!("operation {at}, seed {seed}"));
        }
    }
}

#[test]
fn a_kill_at_every_operation_and_then_a_power_cut() {
    for at in operations() {
        let (vfs, rig) = simulated(at % 2 == 0);
        vfs.fault_at(at, Fault::Crash);
        let promised = work(&rig);
        let what = format!("killed at operation {at}");
        let after = vfs.after_kill();
        let rig = Rig { index: rig.index.as_ref().map(KeptIndex::copied), ..sim_rig(&after) };
        check(&rig, &promised, &what);
        // What the new process promised must not rest on pages that were never synced.
        let after = after.after_power_cut(0);
        let index = rig.index.as_ref().map(KeptIndex::copied);
        check(&Rig { index, ..sim_rig(&after) }, &promised, &format!("{what}, then a power cut"));
    }
}

#[test]
fn a_power_cut_that_takes_the_end_of_the_index_too() {
    for at in operations() {
        let (vfs, rig) = simulated(true);
        let early = rig.index.as_ref().unwrap().copied();
        let promised_early = work(&rig);
        let middle = rig.index.as_ref().unwrap().copied();
        vfs.fault_at(vfs.operations() + (at % 40), Fault::Crash);
        let late = rig.try_open(OpenMode::ReadWrite).map(|store| {
            let objects = disk_objects("three", 100, 20);
            let agent = begin(&store, "three", None);
            for (number, object) in (0u64..).zip(&objects) {
                let _ = store.put(&agent.session, number, object);
            }
            let _ = store.commit(&agent.session, &request(&objects), Timestamp(20));
            let durable = agent.durable();
            let numbered = (0u64..).zip(objects);
            numbered.filter(|(n, _)| durable.contains(n)).map(|(_, o)| o).collect::<Vec<_>>()
        });
        for index in [&early, &middle] {
            let after = vfs.after_power_cut(at);
            let rig = Rig { index: Some(index.copied()), ..sim_rig(&after) };
            let store = rig.open();
            let what = format!("operation {at}");
            assert_eq!(store.damage(), [], "{what}");
            for object in promised_early.objects.iter().chain(late.iter().flatten()) {
                let found = store.get(DOMAIN, &object.reference);
                assert_eq!(found.as_ref().ok(), Some(object), "{what}: {found:?}");
            }
            assert_closed(&store, &what);
        }
    }
}

#[test]
fn a_fault_at_every_operation() {
    for fault in [Fault::NoSpace, Fault::Io, Fault::Short] {
        for at in operations() {
            let (vfs, rig) = simulated(at % 2 == 0);
            vfs.fault_at(at, fault);
            let promised = work(&rig);
            vfs.clear_faults();
            let what = format!("{fault:?} at operation {at}");
            // The same process, or the next, goes on; what it promised outlives a power cut.
            let after = vfs.after_power_cut(0);
            let index = rig.index.as_ref().map(KeptIndex::copied);
            check(&Rig { index, ..sim_rig(&after) }, &promised, &format!("{what}, power cut"));
            let promised = check(&rig, &promised, &what);
            // What it promises after the fault must not rest on what the fault left unsynced.
            let after = vfs.after_power_cut(0);
            let index = rig.index.as_ref().map(KeptIndex::copied);
            let what = format!("{what}, done, power cut");
            check(&Rig { index, ..sim_rig(&after) }, &promised, &what);
        }
    }
}

/// What becomes of a store that crashed while it was opened after a crash.
fn crash_again(first: &SimVfs, index: Option<&KeptIndex>, promised: &Promised, what: &str) {
    for again in 0.. {
        let second = first.after_kill();
        second.fault_at(again, Fault::Crash);
        let rig = Rig { index: index.map(KeptIndex::copied), ..sim_rig(&second) };
        drop(rig.try_open(OpenMode::ReadWrite));
        let cuts =
            [second.after_kill(), second.after_power_cut(0), second.after_power_cut(again + 1)];
        for (number, after) in cuts.into_iter().enumerate() {
            let index = rig.index.as_ref().map(KeptIndex::copied);
            let what = format!("{what}, again at {again}, {number}");
            check(&Rig { index, ..sim_rig(&after) }, promised, &what);
        }
        if second.operations() <= again {
            return;
        }
    }
}

#[test]
fn a_crash_while_the_store_is_opened_after_a_crash() {
    for (number, at) in operations().rev().step_by(37).enumerate() {
        let (vfs, rig) = simulated(number % 2 == 0);
        vfs.fault_at(at, Fault::Crash);
        let promised = work(&rig);
        let first = if number % 3 == 0 { vfs.after_power_cut(at) } else { vfs.after_kill() };
        crash_again(&first, rig.index.as_ref(), &promised, &format!("operation {at}"));
    }
}

#[test]
fn one_process_survives_a_failed_sync() {
    let (vfs, rig) = simulated(false);
    let store = rig.open();
    let objects = disk_objects("one", 0, 20);
    let agent = begin(&store, "one", None);
    put_all(&store, &agent, &objects[..8]);
    store.flush().unwrap();
    assert_eq!(agent.durable().len(), 8);
    // The next sync is that of the lane: its pack is poisoned.
    let chunk = object(Kind::Chunk, &[], b"unlucky");
    vfs.fault_at(vfs.operations() + 1, Fault::Io);
    store.put(&agent.session, 100, &chunk).unwrap();
    store.flush().unwrap();
    assert_eq!(locked(&agent.told).failed.keys().copied().collect::<Vec<_>>(), [100]);
    assert_eq!(store.known(&agent.session, &[chunk.reference]).unwrap(), [false]);
    store.put(&agent.session, 101, &chunk).unwrap();
    store.flush().unwrap();
    assert!(agent.durable().contains(&101));
    put_all(&store, &agent, &objects);
    let receipt = commit(&store, &agent, &objects);
    assert_eq!(store.status().unwrap().packs_open, 3);
    drop(store);
    let rig = sim_rig(&vfs.after_power_cut(0));
    let store = rig.open();
    assert_eq!(store.receipts(), [receipt]);
    assert_holds(&store, &objects);
    store.verify_object(DOMAIN, &chunk.reference).unwrap();
    assert_eq!(store.status().unwrap().packs_open, 0);
}
