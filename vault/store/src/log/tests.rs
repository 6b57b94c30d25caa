#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::entry::tests::one_of_each;
use super::*;
use crate::journal::{LocalJournal, SealTo};
use crate::testing::{Fault, SimVfs};
use crate::vfs::{RealVfs, Vfs};

const STORE: StoreId = StoreId([1; 16]);

fn open(dir: &Path) -> (Log, Option<Error>) {
    let vfs: Arc<dyn Vfs> = Arc::new(RealVfs::new(dir));
    for dir in ["log", "tmp"] {
        vfs.mkdir(dir).unwrap();
    }
    let journal: Arc<dyn Journal> = Arc::new(LocalJournal::new(Arc::clone(&vfs), SealTo::Rename));
    let lock = Arc::new(Lock::take(&vfs, 1, Timestamp(0), || Ok(0)).unwrap());
    let mut replayed = replay(&*journal, STORE).unwrap();
    let damage = replayed.damage.take();
    (Log::new(replayed, Some(LogWriter { journal, lock, store: STORE })), damage)
}

fn fill(dir: &Path) {
    let (log, damage) = open(dir);
    assert!(damage.is_none());
    for entry in one_of_each() {
        log.append(entry, Timestamp(10)).unwrap();
    }
}

/// How many entries [`fill`] writes.
fn each() -> u64 {
    crate::bytes::wide(one_of_each().len())
}

fn count(dir: &Path) -> u64 {
    let (log, damage) = open(dir);
    assert!(damage.is_none(), "{damage:?}");
    log.with_state(|state| state.sequence)
}

#[test]
fn replayed_over_several_processes() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    fill(dir.path());
    let (log, _) = open(dir.path());
    log.with_state(|state| {
        assert_eq!(state.sequence, 2 * each());
        assert_eq!(state.tokens[&[2; 16]].uses, 1);
        assert_eq!(state.machines.len(), 1);
    });
    assert_eq!(std::fs::read_dir(dir.path().join("log")).unwrap().count(), 2);
}

#[test]
fn a_torn_tail_is_void_and_what_follows_stands() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let first = dir.path().join(segment_name(1));
    let whole = std::fs::read(&first).unwrap();
    for len in [0, 60, whole.len() - 1, whole.len() - 100, whole.len() - 150] {
        std::fs::write(&first, &whole[..len]).unwrap();
        let before = count(dir.path());
        assert!(before < each(), "length {len}");
        let (log, _) = open(dir.path());
        log.append(Entry::IndexRebuilt { objects: 1 }, Timestamp(11)).unwrap();
        drop(log);
        assert_eq!(count(dir.path()), before + 1);
        // Even if the lost bytes come back: the second segment does not continue them.
        if len > 128 {
            std::fs::write(&first, &whole).unwrap();
            assert_eq!(count(dir.path()), before + 1);
        }
        for entry in std::fs::read_dir(dir.path().join("log")).unwrap() {
            let path = entry.unwrap().path();
            if path != first {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn damage_before_the_tail_names_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let first = dir.path().join(segment_name(1));
    let whole = std::fs::read(&first).unwrap();
    let second_entry = 128 + 96 + one_of_each()[0].encode().len();
    let mut bad = whole.clone();
    bad[second_entry + 20] ^= 4;
    std::fs::write(&first, &bad).unwrap();
    let (log, damage) = open(dir.path());
    assert_eq!(log.with_state(|state| state.sequence), 1);
    let Some(Error::Corrupt { at, path, .. }) = damage else { panic!("{damage:?}") };
    assert_eq!((at, path), (second_entry as u64, segment_name(1)));
    drop(log);
    // The same at the end of a segment that a later one continues.
    std::fs::write(&first, &whole).unwrap();
    fill(dir.path());
    let mut bad = whole.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&first, &bad).unwrap();
    let (_, damage) = open(dir.path());
    assert!(matches!(damage, Some(Error::Corrupt { at, .. }) if at > second_entry as u64));
}

#[test]
fn any_flipped_bit_of_a_continued_segment_is_found() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    fill(dir.path());
    let first = dir.path().join(segment_name(1));
    let whole = std::fs::read(&first).unwrap();
    let journal = LocalJournal::new(Arc::new(RealVfs::new(dir.path())), SealTo::Rename);
    let good = replay(&journal, STORE).unwrap();
    for bit in (0..whole.len() * 8).step_by(61) {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&first, &bad).unwrap();
        let found = replay(&journal, STORE).unwrap();
        assert!(found.damage.is_some() || found.state == good.state, "bit {bit}");
    }
}

/// A LOG on a simulated disk, its owner having ended as it may.
fn simulated(vfs: &SimVfs) -> (Log, Replayed) {
    let vfs: Arc<dyn Vfs> = Arc::new(vfs.clone());
    for dir in ["log", "tmp"] {
        vfs.mkdir(dir).unwrap();
    }
    vfs.sync_dir("").unwrap();
    let journal: Arc<dyn Journal> = Arc::new(LocalJournal::new(Arc::clone(&vfs), SealTo::Rename));
    let lock = Arc::new(Lock::take(&vfs, 1, Timestamp(0), || Ok(0)).unwrap());
    let found = || replay(&*journal, STORE).unwrap();
    let writer = LogWriter { journal: Arc::clone(&journal), lock, store: STORE };
    (Log::new(found(), Some(writer)), found())
}

fn count_of(vfs: &SimVfs, what: &str) -> u64 {
    let (log, replayed) = simulated(vfs);
    assert!(replayed.damage.is_none(), "{what}: {:?}", replayed.damage);
    log.with_state(|state| state.sequence)
}

#[test]
fn entries_that_count_together_survive_together_or_not_at_all() {
    let vfs = SimVfs::default();
    let (log, _) = simulated(&vfs);
    log.append(Entry::IndexRebuilt { objects: 1 }, Timestamp(1)).unwrap();
    let text = "x".repeat(400);
    let together = |count: usize| vec![Entry::Audit { machine: None, text: text.clone() }; count];
    let before = vfs.operations();
    log.update(Timestamp(2), |_| Ok::<_, Error>((together(5), ()))).unwrap();
    let after = vfs.operations();
    assert_eq!(count_of(&vfs.after_power_cut(0), "done"), 6);
    for at in before..after {
        let vfs = SimVfs::default();
        let (log, _) = simulated(&vfs);
        log.append(Entry::IndexRebuilt { objects: 1 }, Timestamp(1)).unwrap();
        vfs.fault_at(at, Fault::Crash);
        assert!(log.update(Timestamp(2), |_| Ok::<_, Error>((together(5), ()))).is_err());
        let mut cuts: Vec<SimVfs> = (0..40).map(|seed| vfs.after_power_cut(seed)).collect();
        cuts.push(vfs.after_kill());
        for (number, cut) in cuts.iter().enumerate() {
            let count = count_of(cut, &format!("operation {at}, cut {number}"));
            assert!(count == 1 || count == 6, "operation {at}, cut {number}: {count}");
        }
    }
}

#[test]
fn writing_again_never_makes_entries_void() {
    let filled = || {
        let vfs = SimVfs::default();
        let (log, _) = simulated(&vfs);
        one_of_each().into_iter().for_each(|entry| log.append(entry, Timestamp(10)).unwrap());
        drop(log);
        vfs.after_kill()
    };
    for fault in [Fault::Crash, Fault::Io, Fault::NoSpace, Fault::Short] {
        for at in 0.. {
            let vfs = filled();
            let (log, replayed) = simulated(&vfs);
            let start = vfs.operations();
            vfs.fault_at(start + at, fault);
            let written = log.write_again(replayed.newest, Timestamp(11));
            drop(log);
            let mut cuts: Vec<SimVfs> = (0..20).map(|seed| vfs.after_power_cut(seed)).collect();
            cuts.push(vfs.after_kill());
            for (number, cut) in cuts.iter().enumerate() {
                assert_eq!(count_of(cut, "cut"), each(), "{fault:?} at {at}, cut {number}");
            }
            if written.is_ok() && vfs.operations() <= start + at {
                break;
            }
        }
    }
}

#[test]
fn an_entry_that_could_not_be_read_again_is_not_written() {
    let vfs = SimVfs::default();
    let (log, _) = simulated(&vfs);
    let tags = (0..1_000).map(|n| format!("{n:0100}")).collect();
    let keep = crate::retention::Keep { tags, ..Default::default() };
    let rules = [(crate::retention::Scope::ALL, keep)].into();
    let policy = crate::retention::Policy { rules, ..Default::default() };
    let written = log.append(Entry::PolicySet(policy), Timestamp(1));
    assert!(matches!(written, Err(Error::Limit { .. })), "{written:?}");
    let policy = crate::retention::Policy { undo_seconds: u64::MAX, ..Default::default() };
    let written = log.append(Entry::PolicySet(policy), Timestamp(1));
    assert!(matches!(written, Err(Error::Decode { .. })), "{written:?}");
    log.append(Entry::IndexRebuilt { objects: 1 }, Timestamp(1)).unwrap();
    assert_eq!(count_of(&vfs.after_power_cut(0), "after it"), 1);
}

#[test]
fn a_segment_without_a_header_does_not_hide_the_one_before_it() {
    let vfs = SimVfs::default();
    let (log, _) = simulated(&vfs);
    log.append(Entry::IndexRebuilt { objects: 1 }, Timestamp(1)).unwrap();
    vfs.create_new(&segment_name(2)).unwrap();
    drop(log);
    let (_, replayed) = simulated(&vfs);
    let (after, entries) = replayed.newest.unwrap();
    assert_eq!(after, ChainEnd::default());
    assert!(!entries.is_empty(), "the entries of segment 1 must be written again");
}
