//! Forgetting, undoing it, protection, holds and policy, on the whole store.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::log::HoldOn;
use crate::retention::{Keep, Scope, Verdict};
use crate::store::check::{CheckOptions, ReadData};
use crate::testing::Fault;

const DAY: i64 = 86_400 * 1_000_000_000;

/// Backs a disk up once more, at the noon of a day.
fn back_up_at(store: &Store, disk: &str, day: i64) -> Arc<Receipt> {
    let objects = disk_objects(&format!("{disk} on day {day}"), 0, 3);
    let agent = begin(store, disk, None);
    put_all(store, &agent, &objects);
    let time = Timestamp(day * DAY + DAY / 2);
    match store.commit(&agent.session, &request(&objects), time).unwrap() {
        Commit::Committed(receipt) => receipt,
        Commit::Missing(missing) => panic!("missing: {missing:?}"),
    }
}

/// A store with a snapshot of each disk on each of some days.
fn with_days(rig: &Rig, disks: &[&str], days: i64) -> Store {
    let store = rig.open();
    for day in 0..days {
        for disk in disks {
            back_up_at(&store, disk, day);
        }
    }
    store
}

fn new_rig() -> (SimVfs, Rig) {
    let vfs = SimVfs::default();
    let rig = sim_rig(&vfs);
    init(&rig);
    (vfs, rig)
}

fn seen(store: &Store) -> Vec<u64> {
    store.receipts().iter().map(|receipt| receipt.sequence).collect()
}

fn set<const N: usize>(sequences: [u64; N]) -> BTreeSet<u64> {
    sequences.into()
}

fn keep_last(store: &Store, last: u32, now: Timestamp) {
    let change = |policy: &mut crate::retention::Policy| {
        policy.rules.insert(Scope::ALL, Keep { last, ..Keep::default() });
    };
    store.set_policy(now, change).unwrap();
}

#[test]
fn forgotten_is_hidden_until_it_is_undone_on_every_storage() {
    let dir = tempfile::tempdir().unwrap();
    for rig in rigs(dir.path()) {
        println!("on {}", rig.name);
        let store = with_days(&rig, &["sda", "sdb"], 3);
        let all = store.all_receipts();
        let last = disk_objects("sda on day 2", 0, 3);
        let made = store.forget(&set([1, 5]), Timestamp(9 * DAY), Intent::Do).unwrap();
        assert_eq!((made.changed, made.already, made.emptied), (set([1, 5]), set([]), [].into()));
        let check = |store: &Store| {
            assert_eq!(seen(store), [2, 3, 4, 6]);
            assert_eq!(store.all_receipts(), all);
            assert_eq!(store.forgotten_receipts(), [all[0].clone(), all[4].clone()]);
            assert_eq!(store.receipt_of(&all[0].snapshot), None);
            assert!(store.receipts_by_prefix(&all[4].snapshot.to_string()).is_empty());
            let status = store.status().unwrap();
            assert_eq!((status.receipts, status.forgotten), (4, 2));
            assert_holds(store, &last);
        };
        check(&store);
        // Gone as a base; a commit that is repeated still gets its receipt.
        let agent = begin(&store, "sda", Some(all[4].snapshot));
        assert_eq!(agent.session.base(), Base::Gone);
        assert_eq!(commit(&store, &agent, &last), all[4]);
        check(&store);
        drop(agent);
        store.close().unwrap();
        check(&rig.open_reader());
        let store = rig.open();
        check(&store);
        // Again is no error, and does not begin the time anew.
        let before = store.log().with_state(|state| state.clone());
        let again = store.forget(&set([1, 5]), Timestamp(9 * DAY), Intent::Do).unwrap();
        assert_eq!((again.changed, again.already), (set([]), set([1, 5])));
        assert_eq!(store.log().with_state(|state| state.clone()), before);
        let undone = store.undo(&set([2, 5]), Timestamp(9 * DAY), Intent::Do).unwrap();
        assert_eq!((undone.changed, undone.already), (set([5]), set([2])));
        assert_eq!(seen(&store), [2, 3, 4, 5, 6]);
        let agent = begin(&store, "sda", Some(all[4].snapshot));
        assert_eq!(agent.session.base(), Base::Pinned);
    }
}

#[test]
fn a_snapshot_pinned_before_it_is_forgotten_stays_pinned() {
    let (_, rig) = new_rig();
    let store = with_days(&rig, &["sda"], 2);
    let base = store.receipts()[1].snapshot;
    let agent = begin(&store, "sda", Some(base));
    store.forget(&set([2]), Timestamp(3 * DAY), Intent::Do).unwrap();
    assert_eq!(agent.session.base(), Base::Pinned);
    assert_eq!(store.status().unwrap().pinned, [base]);
}

#[test]
fn check_takes_the_forgotten_for_roots() {
    let (vfs, rig) = new_rig();
    with_days(&rig, &["sda"], 3).close().unwrap();
    let check = |vfs: &SimVfs| {
        let vfs: Arc<dyn Vfs> = Arc::new(vfs.clone());
        let options = CheckOptions::new(Box::new(MemoryIndexOpener), ReadData::Nothing);
        let report = crate::store::check::check(&vfs, &options).unwrap();
        let findings = format!("{:?}", report.findings.list);
        (report.receipts, report.findings.total(), report.snapshots.len(), findings)
    };
    let forget = |vfs: &SimVfs| {
        let store = sim_rig(vfs).open();
        store.forget(&set([1, 2, 3]), Timestamp(9 * DAY), Intent::Do).unwrap();
        store.close().unwrap();
    };
    // The manifests of these tests are none: that each of them is looked at is what counts.
    let before = check(&vfs);
    assert_eq!((before.0, before.1, before.2), (3, 3, 3));
    let damaged = vfs.after_kill();
    forget(&vfs);
    assert_eq!(check(&vfs), before);
    // What a forgotten one needs is lost: it could still be undone, so that is damage.
    for name in damaged.files().into_iter().filter(|name| name.starts_with("packs/")) {
        damaged.remove(&name).unwrap();
    }
    let before = check(&damaged);
    assert!(before.2 == 3 && before.3.contains("which no pack has"), "{before:?}");
    forget(&damaged);
    assert_eq!(check(&damaged), before);
}

#[test]
fn what_is_protected_or_held_is_refused_by_name_and_nothing_is_forgotten() {
    let (_, rig) = new_rig();
    let store = with_days(&rig, &["sda", "sdb"], 2);
    let now = Timestamp(5 * DAY);
    let disk = HoldOn::Scope(Scope::parse("m/sdb").unwrap());
    let protected = store.protect(&set([1, 2]), now, Intent::Do).unwrap();
    assert_eq!(protected.changed, set([1, 2]));
    let held = store.hold(&disk, "court order", now, Intent::Do).unwrap();
    assert_eq!(held, HoldChanged { changed: true, snapshots: 2 });
    let refused = |sequences: &BTreeSet<u64>| {
        let error = store.forget(sequences, now, Intent::Do).unwrap_err();
        assert_eq!(store.forget(sequences, now, Intent::DryRun).unwrap_err().to_string(), {
            error.to_string()
        });
        assert_eq!(seen(&store), [1, 2, 3, 4]);
        let Error::Kept { snapshots } = error else { panic!("{error}") };
        let text = snapshots.to_string();
        (snapshots.0.iter().map(|kept| kept.sequence).collect::<Vec<_>>(), text)
    };
    let (which, text) = refused(&set([1, 3, 4]));
    assert_eq!(which, [1, 4]);
    let id = store.receipts()[0].snapshot.to_string();
    assert!(text.starts_with(&format!("snapshot {} of m/sda is protected; ", &id[..12])), "{text}");
    assert!(text.ends_with("of m/sdb is held: court order"), "{text}");
    // After a restart, too.
    drop(store);
    let store = rig.open();
    assert!(matches!(store.forget(&set([1]), now, Intent::Do), Err(Error::Kept { .. })));
    let one = HoldOn::Snapshot(3);
    store.hold(&one, "", now, Intent::Do).unwrap();
    assert!(matches!(store.forget(&set([3]), now, Intent::Do), Err(Error::Kept { .. })));
    store.unprotect(&set([1, 2]), now, Intent::Do).unwrap();
    store.release(&disk, "", now, Intent::Do).unwrap();
    let again = store.release(&disk, "", now, Intent::Do).unwrap();
    assert_eq!(again, HoldChanged { changed: false, snapshots: 2 });
    let made = store.forget(&set([1, 2, 4]), now, Intent::Do).unwrap();
    assert_eq!(made.changed, set([1, 2, 4]));
    assert_eq!(made.emptied, [Scope::parse("m/sdb").unwrap()].into());
    // Held or protected when it was forgotten already: it is not given back.
    let due = |at_once| store.log().with_state(|state| state.due(Timestamp(6 * DAY), at_once));
    assert_eq!((due(false), due(true)), (vec![], vec![1, 2, 4]));
    store.protect(&set([1]), now, Intent::Do).unwrap();
    store.hold(&disk, "late", now, Intent::Do).unwrap();
    assert_eq!(due(true), []);
}

#[test]
fn what_is_no_more_or_never_was_is_an_error() {
    let (vfs, rig) = new_rig();
    let store = with_days(&rig, &["sda"], 3);
    let now = Timestamp(5 * DAY);
    let sequences = set([1, 77]);
    for changed in [
        store.forget(&sequences, now, Intent::Do),
        store.undo(&sequences, now, Intent::Do),
        store.protect(&sequences, now, Intent::Do),
        store.unprotect(&sequences, now, Intent::Do),
    ] {
        let error = changed.unwrap_err();
        assert!(matches!(error, Error::Expunged { sequence: 77 }), "{error}");
    }
    assert!(store.hold(&HoldOn::Snapshot(77), "", now, Intent::Do).is_err());
    assert_eq!(seen(&store), [1, 2, 3]);
    drop(store);
    // A receipt that is damaged is neither forgotten nor counted by the policy.
    vfs.remove("receipts/0000000000000002").unwrap();
    let store = rig.open();
    let refused = store.forget(&set([2]), now, Intent::Do);
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    keep_last(&store, 2, now);
    assert!(store.apply_policy(now).unwrap().iter().all(Verdict::keeps));
}

#[test]
fn the_policy_forgets_what_it_does_not_keep_and_nothing_while_there_is_none() {
    let (_, rig) = new_rig();
    let store = with_days(&rig, &["sda", "sdb"], 5);
    let now = Timestamp(6 * DAY);
    let applied = store.apply_policy(now).unwrap();
    assert!(applied.len() == 10 && applied.iter().all(Verdict::keeps));
    store.protect(&set([1]), now, Intent::Do).unwrap();
    let change = |policy: &mut crate::retention::Policy| {
        policy.rules.insert(Scope::ALL, Keep { daily: 2, ..Keep::default() });
    };
    let simulated = store.simulate(now, change);
    assert_eq!(store.policy(), crate::retention::Policy::default());
    assert_eq!(store.set_policy(now, change).unwrap(), store.policy());
    assert_eq!(store.simulate(now, |_| {}), simulated);
    let kept = |verdicts: &[Verdict]| -> Vec<u64> {
        verdicts.iter().filter(|one| one.keeps()).map(|one| one.sequence).collect()
    };
    assert_eq!(kept(&simulated), [1, 7, 8, 9, 10]);
    assert_eq!(seen(&store).len(), 10);
    assert_eq!(store.apply_policy(now).unwrap(), simulated);
    assert_eq!(seen(&store), [1, 7, 8, 9, 10]);
    drop(store);
    let store = rig.open();
    assert_eq!(seen(&store), [1, 7, 8, 9, 10]);
    // Once more: nothing to do, nothing written.
    let before = store.log().with_state(|state| state.sequence);
    assert!(store.apply_policy(now).unwrap().iter().all(Verdict::keeps));
    assert_eq!(store.log().with_state(|state| state.sequence), before);
    // What is undone is visible again, until the policy is applied again.
    store.undo(&set([3]), now, Intent::Do).unwrap();
    assert_eq!(seen(&store), [1, 3, 7, 8, 9, 10]);
}

#[test]
fn a_dry_run_writes_nothing_and_works_beside_an_owner() {
    let (vfs, rig) = new_rig();
    let store = with_days(&rig, &["sda"], 3);
    let now = Timestamp(5 * DAY);
    store.forget(&set([1]), now, Intent::Do).unwrap();
    let reader = rig.open_reader();
    let before = (vfs.after_kill().operations(), store.log().with_state(|state| state.clone()));
    for store in [&store, &reader] {
        let made = store.forget(&set([1, 2, 3]), now, Intent::DryRun).unwrap();
        assert_eq!((made.changed, made.already), (set([2, 3]), set([1])));
        assert_eq!(made.emptied.len(), 1);
        assert_eq!(store.undo(&set([1]), now, Intent::DryRun).unwrap().changed, set([1]));
        assert_eq!(store.protect(&set([2]), now, Intent::DryRun).unwrap().changed, set([2]));
        assert!(store.hold(&HoldOn::Snapshot(2), "", now, Intent::DryRun).unwrap().changed);
    }
    let after = (vfs.after_kill().operations(), store.log().with_state(|state| state.clone()));
    assert_eq!(after, before);
    assert!(matches!(reader.forget(&set([2]), now, Intent::Do), Err(Error::ReadOnly)));
    assert!(matches!(reader.apply_policy(now), Err(Error::ReadOnly)));
    assert!(matches!(reader.set_policy(now, |_| {}), Err(Error::ReadOnly)));
}

#[test]
fn a_crash_leaves_all_of_it_or_nothing() {
    let ready = |vfs: &SimVfs| {
        let rig = sim_rig(vfs);
        init(&rig);
        let store = with_days(&rig, &["sda", "sdb", "sdc"], 4);
        keep_last(&store, 1, Timestamp(5 * DAY));
        store
    };
    let vfs = SimVfs::default();
    let store = ready(&vfs);
    let start = vfs.operations();
    store.apply_policy(Timestamp(5 * DAY)).unwrap();
    let end = vfs.operations();
    drop(store);
    let all: Vec<u64> = (1..=12).collect();
    let (mut none, mut whole) = (0, 0);
    for at in 0..(end - start) {
        for fault in [Fault::Crash, Fault::Io, Fault::NoSpace, Fault::Short] {
            let vfs = SimVfs::default();
            let store = ready(&vfs);
            vfs.fault_at(vfs.operations() + at, fault);
            let told = store.apply_policy(Timestamp(5 * DAY));
            // What a running vault shows is what was told.
            assert_eq!(seen(&store).len(), if told.is_ok() { 3 } else { 12 }, "{fault:?} {at}");
            let mut cuts: Vec<SimVfs> = (0..8).map(|seed| vfs.after_power_cut(seed)).collect();
            cuts.push(vfs.after_kill());
            for cut in cuts {
                let store = sim_rig(&cut).open();
                assert_eq!(store.damage(), []);
                let found = seen(&store);
                match found == all {
                    true => none += 1,
                    false => whole += 1,
                }
                assert!(found == all || found == [10, 11, 12], "{fault:?} {at}: {found:?}");
                assert!(told.is_err() || found == [10, 11, 12], "{fault:?} {at}: told and lost");
                assert_eq!(store.all_receipts().len(), 12);
            }
        }
    }
    assert!(none > 0 && whole > 0, "{none} {whole}");
}

#[test]
fn many_are_forgotten_in_one_update_of_several_entries() {
    let (_, rig) = new_rig();
    let store = with_days(&rig, &["sda"], 1);
    let receipt = store.receipts()[0].clone();
    let mut receipts = locked(&store.inner.receipts);
    let count = 2 * crate::bytes::wide(crate::log::MAX_SEQUENCES) + 10;
    let mut entries = Vec::new();
    for sequence in 2..=count {
        let one = Receipt { sequence, ..(*receipt).clone() };
        let (_, hash) = crate::receipt::encode(&one).unwrap();
        let (snapshot, receipt) = (one.snapshot, Arc::new(one));
        let stored = receipts::StoredReceipt { receipt, hash, logged: true };
        receipts.stored.insert(sequence, stored);
        entries.push(Entry::ReceiptCommitted { sequence, hash, snapshot });
    }
    drop(receipts);
    store.log().update(Timestamp(DAY), |_| Ok::<_, Error>((entries, ()))).unwrap();
    keep_last(&store, 1, Timestamp(DAY));
    let before = store.log().with_state(|state| state.sequence);
    store.apply_policy(Timestamp(DAY)).unwrap();
    assert_eq!(seen(&store), [count]);
    assert_eq!(store.log().with_state(|state| state.sequence), before + 3);
    drop(store);
    let forgotten = rig.open().log().with_state(|state| state.forgotten.len());
    assert_eq!(crate::bytes::wide(forgotten), count - 1);
}

#[test]
fn no_disk_is_ever_empty_while_backups_policy_and_undo_go_on() {
    let (_, rig) = new_rig();
    let store = with_days(&rig, &["sda", "sdb"], 1);
    keep_last(&store, 2, Timestamp(DAY));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (store, over) = (&store, &over);
        let backups: Vec<_> = ["sda", "sdb"]
            .map(|disk| {
                scope.spawn(move || {
                    for day in 1..40 {
                        let receipt = back_up_at(store, disk, day);
                        // Nobody else backs it up: it is the newest, so no policy hides it.
                        assert!(seen(store).contains(&receipt.sequence));
                    }
                })
            })
            .into();
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                store.apply_policy(Timestamp(50 * DAY)).unwrap();
            }
        });
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let forgotten = store.forgotten_receipts();
                let some = forgotten.iter().step_by(3).map(|one| one.sequence).collect();
                store.undo(&some, Timestamp(50 * DAY), Intent::Do).unwrap();
            }
        });
        backups.into_iter().for_each(|backup| backup.join().unwrap());
        over.store(true, Ordering::Relaxed);
    });
    store.apply_policy(Timestamp(50 * DAY)).unwrap();
    let left = store.receipts();
    for disk in ["sda", "sdb"] {
        assert_eq!(left.iter().filter(|receipt| receipt.disk == disk).count(), 2);
    }
    let shown = seen(&store);
    drop(store);
    assert_eq!(seen(&rig.open()), shown);
}
