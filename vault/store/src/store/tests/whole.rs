//! The whole store, on each kind of storage.

use super::*;

#[test]
fn the_whole_store_on_every_storage() {
    let dir = tempfile::tempdir().unwrap();
    for rig in rigs(dir.path()) {
        println!("on {}", rig.name);
        whole_store(&rig);
    }
}

fn whole_store(rig: &Rig) {
    let first = disk_objects("one", 0, 60);
    let second = disk_objects("two", 30, 60);
    let store = rig.open();
    assert_eq!(store.id(), STORE);
    first_backup(&store, &first);
    let reader = rig.open_reader();
    assert_holds(&reader, &first);
    second_backup(&store, &first, &second);
    // The reader was opened before these were written.
    assert_holds(&reader, &second);
    assert!(matches!(
        reader.put(&begin(&store, "x", None).session, 0, &first[0]),
        Err(Error::ReadOnly)
    ));
    let (before, receipts) = (store.status().unwrap(), store.receipts());
    assert_eq!((before.receipts, before.packs_sealed, before.packs_open), (2, 0, 3));
    assert!(before.damage.is_empty(), "{:?}", before.damage);
    let report = store.rebuild_index(Timestamp(30)).unwrap();
    assert_eq!((report.objects, report.incomplete), (before.objects, 0));
    assert_holds(&store, &first);
    store.close().unwrap();

    // Packs that were open for the reader are sealed now.
    assert_holds(&reader, &first);
    assert_holds(&reader, &second);
    let store = rig.open();
    let after = store.status().unwrap();
    assert_eq!((after.objects, after.bytes_stored), (before.objects, before.bytes_stored));
    assert!(after.damage.is_empty(), "{:?}", after.damage);
    assert!(after.packs_sealed >= 3 && after.packs_open == 0, "{after:?}");
    assert_eq!(store.receipts(), receipts);
    assert_holds(&store, &first);
    assert_holds(&store, &second);
    let base = receipts[1].snapshot;
    let agent = begin(&store, "two", Some(base));
    assert_eq!(agent.session.base(), Base::Pinned);
    assert_eq!(store.status().unwrap().pinned, [base]);
    let gone = begin(&store, "two", Some(ObjectId([7; 32])));
    assert_eq!(gone.session.base(), Base::Gone);
    // What was committed before a restart is not committed twice either.
    assert_eq!(commit(&store, &agent, &second), receipts[1]);
}

fn first_backup(store: &Store, objects: &[Object]) {
    let agent = begin(store, "one", None);
    assert_eq!(agent.session.base(), Base::None);
    let references: Vec<Reference> = objects.iter().map(|object| object.reference).collect();
    assert_eq!(store.known(&agent.session, &references).unwrap(), vec![false; objects.len()]);
    // Parents first: told what is missing, in order, and nothing is stored.
    let manifest = objects.last().unwrap();
    let missing = store.put(&agent.session, 900, manifest).unwrap();
    assert_eq!(missing, Put::Missing(manifest.refs.clone()));
    let committed = store.commit(&agent.session, &request(objects), Timestamp(20)).unwrap();
    assert_eq!(committed, Commit::Missing(vec![manifest.reference]));
    assert_eq!(agent.session.stats(), crate::SessionStats::default());
    put_all(store, &agent, objects);
    store.flush().unwrap();
    assert_eq!(agent.durable(), (0..objects.len() as u64).collect());
    assert_eq!(store.known(&agent.session, &references).unwrap(), vec![true; objects.len()]);
    // The right id under the wrong kind is not known.
    let wrong = Reference { kind: Kind::MapPage, id: references[0].id };
    assert_eq!(store.known(&agent.session, &[wrong]).unwrap(), [false]);
    assert!(matches!(store.get(DOMAIN, &wrong), Err(Error::NotFound { .. })));
    let receipt = commit(store, &agent, objects);
    assert_eq!((receipt.sequence, receipt.previous), (1, None));
    assert_eq!(receipt.snapshot, manifest.reference.id);
    // The same question, the same answer.
    assert_eq!(commit(store, &agent, objects), receipt);
    assert_eq!(commit(store, &begin(store, "one", None), objects), receipt);
    assert_eq!(agent.session.stats().objects_stored, objects.len() as u64);
    assert_holds(store, objects);
    objects.iter().for_each(|o| store.verify_object(DOMAIN, &o.reference).unwrap());
}

fn second_backup(store: &Store, first: &[Object], second: &[Object]) {
    let known: BTreeSet<Reference> = first.iter().map(|object| object.reference).collect();
    let agent = begin(store, "two", Some(first.last().unwrap().reference.id));
    assert_eq!(agent.session.base(), Base::Pinned);
    put_all(store, &agent, second);
    let receipt = commit(store, &agent, second);
    let stats = agent.session.stats();
    let new = second.iter().filter(|object| !known.contains(&object.reference)).count();
    assert_eq!(stats.objects_stored, new as u64);
    assert_eq!(stats.objects_known, (second.len() - new) as u64);
    assert_eq!(receipt.sequence, 2);
    assert_eq!(receipt.previous.unwrap(), store.receipts()[0].hash().unwrap());
    let digits = &receipt.snapshot.to_string()[..12];
    assert_eq!(store.receipts_by_prefix(digits), std::slice::from_ref(&receipt));
    assert_eq!(store.receipt_of(&receipt.snapshot), Some(receipt));
}

#[test]
fn objects_that_are_not_what_they_say_are_refused() {
    let rig = sim_rig(&SimVfs::default());
    init(&rig);
    let store = rig.open();
    let agent = begin(&store, "d", None);
    let put = |object: &Object| store.put(&agent.session, 0, object);
    let good = object(Kind::Chunk, &[], &content(1, 5_000));
    assert_eq!(good.codec, Codec::Zstd);
    let mut bad = good.clone();
    bad.reference.id.0[0] ^= 1;
    assert!(matches!(put(&bad), Err(Error::WrongBytes { .. })));
    let bad =
        Object { reference: Reference { kind: Kind::Xattrs, ..good.reference }, ..good.clone() };
    assert!(matches!(put(&bad), Err(Error::WrongBytes { .. })));
    for plain_len in [0, 4_999, 5_001, 1 << 20] {
        assert!(matches!(
            put(&Object { plain_len, ..good.clone() }),
            Err(Error::WrongBytes { .. })
        ));
    }
    let bad = Object { plain_len: u32::MAX, ..good.clone() };
    assert!(matches!(put(&bad), Err(Error::Limit { .. })));
    // A bomb: its length is not believed.
    let bomb =
        Object { body: zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap(), ..good.clone() };
    assert!(matches!(put(&bomb), Err(Error::WrongBytes { .. })));
    let bad = Object { refs: vec![good.reference], ..good.clone() };
    assert!(matches!(put(&bad), Err(Error::WrongBytes { .. })));
    // A node that names a kind that it may not, or one child twice.
    put(&good).unwrap();
    let twice = object(Kind::MapPage, &[good.reference, good.reference], b"p");
    assert!(matches!(put(&twice), Err(Error::WrongBytes { .. })));
    let wrong = object(Kind::Directory, &[good.reference], b"p");
    assert!(matches!(put(&wrong), Err(Error::WrongBytes { .. })));
    store.flush().unwrap();
    // The child's id under another kind is missing.
    let other = Reference { kind: Kind::ExtentList, ..good.reference };
    let parent = object(Kind::Directory, &[other], b"p");
    assert_eq!(put(&parent).unwrap(), Put::Missing(vec![other]));
    assert_eq!(store.status().unwrap().objects, 1);
}

#[test]
fn many_writers_of_the_same_and_of_other_objects() {
    let dir = tempfile::tempdir().unwrap();
    for rig in rigs(dir.path()) {
        let store = rig.open();
        let disks: Vec<Vec<Object>> =
            (0..4u64).map(|n| disk_objects(&format!("disk-{n}"), n * 40, 160)).collect();
        let stored: u64 = std::thread::scope(|scope| {
            let run = |n: usize| {
                let (store, disks) = (&store, &disks);
                move || {
                    let agent = begin(store, &format!("disk-{n}"), None);
                    // Nodes may wait for chunks that another session has on its way.
                    for (number, object) in (0u64..).zip(&disks[n]) {
                        let put = store.put(&agent.session, number, object).unwrap();
                        assert_eq!(put, Put::Accepted);
                    }
                    commit(store, &agent, &disks[n]);
                    assert_eq!(agent.durable().len(), disks[n].len());
                    agent.session.stats().objects_stored
                }
            };
            let threads: Vec<_> = (0..4).map(|n| scope.spawn(run(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let distinct: BTreeSet<Reference> =
            disks.iter().flatten().map(|object| object.reference).collect();
        let status = store.status().unwrap();
        assert_eq!((status.objects, status.receipts), (distinct.len() as u64, 4));
        assert_eq!(stored, distinct.len() as u64, "each object was written once");
        disks.iter().for_each(|disk| assert_holds(&store, disk));
        drop(store);
        let store = rig.open();
        disks.iter().for_each(|disk| assert_holds(&store, disk));
    }
}

#[test]
fn packs_roll_over_and_are_sealed() {
    let rig = sim_rig(&SimVfs::default());
    init(&rig);
    let store = rig.open();
    let agent = begin(&store, "big", None);
    let chunks: Vec<Object> =
        (0..120u64).map(|n| object(Kind::Chunk, &[], &content(n * 3, 1 << 20))).collect();
    put_all(&store, &agent, &chunks);
    store.flush().unwrap();
    assert_eq!(agent.durable().len(), chunks.len());
    assert_holds(&store, &chunks);
    assert!(store.status().unwrap().packs_sealed >= 4);
    for pack in store.inner.sealed_packs().unwrap() {
        let info = store.inner.objects.head(&crate::pack::sealed_name(pack)).unwrap().unwrap();
        assert!(info.len <= (16 << 20) + 4096, "{}", info.len);
    }
    drop(store);
    assert_holds(&rig.open(), &chunks);
}

#[test]
fn two_owners_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for rig in rigs(dir.path()) {
        let store = rig.open();
        let Err(Error::Locked { pid: 1234, since: Timestamp(5) }) =
            rig.try_open(OpenMode::ReadWrite)
        else {
            panic!("a second owner was let in");
        };
        drop(rig.open_reader());
        drop(store);
        drop(rig.open());
    }
}

#[test]
fn what_is_no_store_is_refused() {
    let vfs = SimVfs::default();
    let rig = sim_rig(&vfs);
    assert!(matches!(rig.try_open(OpenMode::ReadWrite), Err(Error::NotAStore { .. })));
    assert!(matches!(rig.try_open(OpenMode::ReadOnly), Err(Error::NotAStore { .. })));
    init(&rig);
    let again = Store::init(&rig.vfs, &InitOptions { store: STORE, now: Timestamp(1) });
    assert!(matches!(again, Err(Error::NotEmpty { .. })));
    vfs.damage("FORMAT", |bytes| bytes[9] = b'2');
    assert!(matches!(rig.try_open(OpenMode::ReadWrite), Err(Error::Unsupported { .. })));
    assert!(matches!(rig.try_open(OpenMode::ReadOnly), Err(Error::Unsupported { .. })));
    let missing = RealVfs::new("/nonexistent/umbra");
    let rig = Rig { vfs: Arc::new(missing), ..rig };
    assert!(matches!(rig.try_open(OpenMode::ReadWrite), Err(Error::NotAStore { .. })));
}

#[test]
fn a_lost_lock_stops_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rigs(dir.path()).remove(0);
    let store = rig.open();
    let objects = disk_objects("d", 0, 10);
    back_up(&store, "d", &objects);
    std::fs::remove_file(dir.path().join("LOCK")).unwrap();
    let thief = rig.open();
    let more = disk_objects("e", 20, 10);
    let agent = begin(&store, "e", None);
    put_all(&store, &agent, &more);
    let committed = store.commit(&agent.session, &request(&more), Timestamp(20));
    assert!(!matches!(committed, Ok(Commit::Committed(_))), "{committed:?}");
    assert!(agent.durable().is_empty());
    assert!(matches!(
        store.log().append(crate::Entry::IndexRebuilt { objects: 0 }, Timestamp(1)),
        Err(Error::LockLost { .. })
    ));
    assert_holds(&thief, &objects);
}

#[test]
fn the_reserve_is_kept_and_a_full_store_still_reads_and_commits() {
    let vfs = SimVfs::default();
    let rig = sim_rig(&vfs);
    init(&rig);
    let store = rig.open();
    let objects = disk_objects("d", 0, 10);
    let agent = begin(&store, "d", None);
    put_all(&store, &agent, &objects);
    store.flush().unwrap();
    vfs.set_free_bytes(3 << 30);
    commit(&store, &agent, &objects);
    drop(store);
    let store = rig.open();
    assert_holds(&store, &objects);
    let agent = begin(&store, "e", None);
    let error = store.put(&agent.session, 0, &disk_objects("e", 50, 1)[0]).unwrap_err();
    assert!(matches!(error.root(), Error::NoSpace { .. }), "{error}");
    vfs.set_free_bytes(4 << 30);
    back_up(&store, "e", &disk_objects("e", 50, 10));
}
