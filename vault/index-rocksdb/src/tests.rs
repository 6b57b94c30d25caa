#![allow(clippy::unwrap_used)]

use umbra_common::{Kind, ObjectId};
use umbra_store::testing::index_conformance;
use umbra_store::{DomainId, INDEX_VERSION, PackState, StoreId};

use super::*;

fn format() -> IndexFormat {
    IndexFormat { version: INDEX_VERSION, store: StoreId([1; 16]), gc_generation: 0 }
}

fn row(n: u64) -> (Key, Location) {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    let location = Location {
        pack: PackId([2; 16]),
        offset: n,
        record_len: 100,
        plain_len: 100,
        kind: Kind::Chunk,
        incomplete: false,
    };
    (Key { domain: DomainId(0), id: ObjectId(id) }, location)
}

fn batch(n: u64) -> Batch {
    let pack = PackRow { state: PackState::Open, watermark: n, records: 1 };
    Batch { put: vec![row(n)], packs: vec![(PackId([2; 16]), pack)], ..Batch::default() }
}

#[test]
fn conformance() {
    let dir = tempfile::tempdir().unwrap();
    let opener = RocksIndexOpener::new(dir.path());
    index_conformance(&*opener.open().unwrap());
    // It survives a reopening, and a destruction gives a new one.
    assert!(opener.open().unwrap().format().unwrap().is_some());
    opener.destroy().unwrap();
    index_conformance(&*opener.open().unwrap());
}

#[test]
fn a_second_owner_is_refused_and_readers_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let opener = RocksIndexOpener::new(dir.path());
    let owner = opener.open().unwrap();
    owner.wipe(format()).unwrap();
    (0..1_000).for_each(|n| owner.apply(&batch(n)).unwrap());
    assert!(opener.open().is_err());
    let reader = opener.open_read_only().unwrap();
    (1_000..2_000).for_each(|n| owner.apply(&batch(n)).unwrap());
    let second = opener.open_read_only().unwrap();
    assert_eq!(reader.find(&row(999).0).unwrap(), Some(row(999).1));
    assert_eq!(second.find(&row(1_999).0).unwrap(), Some(row(1_999).1));
    assert!(reader.apply(&batch(5)).is_err());
    drop(owner);
    assert_eq!(reader.packs().unwrap().len(), 1);
}

/// Copies the files of an index, which a crash would leave so; returns the copied logs.
fn copied(source: &Path, target: &Path) -> Vec<PathBuf> {
    std::fs::create_dir(target).unwrap();
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let to = target.join(entry.file_name());
        std::fs::copy(entry.path(), &to).unwrap();
        if to.extension().is_some_and(|extension| extension == "log") {
            logs.push(to);
        }
    }
    logs.sort();
    logs
}

#[test]
fn a_hole_in_the_log_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a");
    let mut created = options();
    created.create_if_missing(true);
    let db = DB::open(&created, &source).unwrap();
    // Each record of the log is a page long.
    (0..64u8).for_each(|n| db.put([n; 9], vec![n; 4_064]).unwrap());
    let sound = dir.path().join("sound");
    copied(&source, &sound);
    RocksIndexOpener::new(&sound).open().unwrap();
    let target = dir.path().join("hole");
    let logs = copied(&source, &target);
    let mut bytes = std::fs::read(&logs[0]).unwrap();
    assert_eq!(bytes.len(), 64 * 4_096);
    // A page that a power cut took.
    bytes[3 * 4_096..4 * 4_096].fill(0);
    std::fs::write(&logs[0], &bytes).unwrap();
    assert!(RocksIndexOpener::new(&target).open().is_err());
    assert!(RocksIndexOpener::new(&target).open_read_only().is_err());
    // RocksDB alone would take it.
    let db = DB::open(&options(), &target).unwrap();
    assert!(db.get([3; 9]).unwrap().is_none() && db.get([63; 9]).unwrap().is_some());
}

#[test]
fn a_sound_log_of_any_shape_is_no_hole() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a");
    let opener = RocksIndexOpener::new(&source);
    let mut count = 0u64;
    for round in 0..6u64 {
        let index = opener.open().unwrap();
        if round == 0 || round == 3 {
            index.wipe(format()).unwrap();
            count = 0;
        }
        // Empty batches, small ones, and such as pass a block; enough for a second log.
        for size in [0, 1, 700, 3, 0, 2_000, 40_000, 1] {
            let rows = (count..count + size).map(row).collect();
            index.apply(&Batch { put: rows, ..Batch::default() }).unwrap();
            count += size;
            index.apply(&batch(count)).unwrap();
            count += 1;
        }
        let target = dir.path().join(format!("{round}"));
        copied(&source, &target);
        let copy = RocksIndexOpener::new(&target).open().unwrap();
        let mut found = 0;
        copy.for_each(&mut |_, _| {
            found += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(found, count);
    }
}

#[test]
fn a_cut_log_loses_batches_from_the_end_alone() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a");
    let opener = RocksIndexOpener::new(&source);
    let index = opener.open().unwrap();
    index.wipe(format()).unwrap();
    (0..500).for_each(|n| index.apply(&batch(n)).unwrap());
    // A copy while it runs is what a crash leaves.
    for cut in [1u64, 10, 1_000, 5_000, 20_000] {
        let target = dir.path().join(format!("cut-{cut}"));
        let logs = copied(&source, &target);
        let last = std::fs::OpenOptions::new().write(true).open(logs.last().unwrap()).unwrap();
        let len = last.metadata().unwrap().len();
        last.set_len(len.saturating_sub(cut)).unwrap();
        let index = RocksIndexOpener::new(&target).open().unwrap();
        let watermark = index.pack(PackId([2; 16])).unwrap().map_or(0, |row| row.watermark);
        let mut found = 0;
        index
            .for_each(&mut |key, location| {
                assert_eq!((key, location), row(found));
                found += 1;
                Ok(())
            })
            .unwrap();
        // Rows and watermark are those of one batch.
        assert!(found == watermark + 1 || (found == 0 && watermark == 0));
        assert!(found < 500, "cut by {cut}");
    }
}

#[test]
fn damage_is_an_error_and_never_a_wrong_row() {
    let dir = tempfile::tempdir().unwrap();
    let opener = RocksIndexOpener::new(dir.path());
    let index = opener.open().unwrap();
    index.wipe(format()).unwrap();
    (0..20_000).for_each(|n| index.apply(&batch(n)).unwrap());
    drop(index);
    // The log becomes a table at the next opening but one.
    drop(opener.open().unwrap());
    let tables: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .collect();
    assert!(!tables.is_empty());
    for table in tables {
        let mut bytes = std::fs::read(&table).unwrap();
        for at in (0..bytes.len()).step_by(4_000) {
            bytes[at] ^= 0x10;
        }
        std::fs::write(&table, bytes).unwrap();
    }
    let Ok(index) = opener.open() else { return };
    let mut failed = 0;
    for n in 0..20_000 {
        match index.find(&row(n).0) {
            Ok(found) => assert!(found.is_none_or(|found| found == row(n).1)),
            Err(_) => failed += 1,
        }
    }
    assert!(failed > 0, "damage went unseen");
}

mod check;
mod store;
