//! Damage is found, told from torn tails, contained, and never becomes a wrong byte.

use super::*;
use crate::ids::PackId;
use crate::index::{Batch, Index, PackState};
use crate::pack::{open_name, sealed_name};
use crate::receipt::receipt_name;

/// A closed store with one snapshot on a simulated disk.
pub(super) fn closed(index: bool) -> (SimVfs, Rig, Vec<Object>) {
    let vfs = SimVfs::default();
    let rig = Rig { index: index.then(KeptIndex::default), ..sim_rig(&vfs) };
    init(&rig);
    let objects = disk_objects("one", 0, 30);
    back_up(&rig.open(), "one", &objects);
    (vfs, rig, objects)
}

/// A store that was killed with everything durable in open packs.
pub(super) fn killed(index: bool) -> (SimVfs, Rig, Vec<Object>) {
    let vfs = SimVfs::default();
    let rig = Rig { index: index.then(KeptIndex::default), ..sim_rig(&vfs) };
    init(&rig);
    let objects = disk_objects("one", 0, 30);
    let store = rig.open();
    back_up(&store, "one", &objects);
    let vfs = vfs.after_kill();
    let index = rig.index.as_ref().map(KeptIndex::copied);
    (vfs.clone(), Rig { index, ..sim_rig(&vfs) }, objects)
}

/// A copy of a rig that can be harmed.
pub(super) fn copy(vfs: &SimVfs, rig: &Rig) -> (SimVfs, Rig) {
    let vfs = vfs.after_kill();
    let index = rig.index.as_ref().map(KeptIndex::copied);
    (vfs.clone(), Rig { index, ..sim_rig(&vfs) })
}

/// How many objects cannot be read; panics on a wrong byte.
pub(super) fn unreadable(store: &Store, objects: &[Object]) -> usize {
    let bad = |object: &&Object| match store.get(DOMAIN, &object.reference) {
        Ok(found) => {
            assert_eq!(&found, *object, "a wrong byte");
            false
        }
        Err(_) => true,
    };
    objects.iter().filter(bad).count()
}

/// Everything that is known is whole: what a later backup would leave out is there.
pub(super) fn assert_known_is_whole(store: &Store, objects: &[Object]) {
    let agent = begin(store, "probe", None);
    for object in objects {
        if store.known(&agent.session, &[object.reference]).unwrap() == [true] {
            let children = store.known(&agent.session, &object.refs).unwrap();
            assert!(children.iter().all(|known| *known), "{:?}", object.reference);
        }
    }
}

#[test]
fn any_flipped_bit_is_found_and_no_wrong_byte_is_served() {
    let (vfs, rig, objects) = closed(false);
    let mut random = 1u64;
    for name in vfs.files().iter().filter(|name| *name != "LOCK" && !name.ends_with(".parity")) {
        let mut len = 0;
        vfs.damage(name, |bytes| len = bytes.len());
        for _ in 0..60 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 20) as usize % len;
            let (vfs, rig) = copy(&vfs, &rig);
            vfs.damage(name, |bytes| bytes[at] ^= 1 << (random % 8));
            let what = format!("{name} byte {at} of {len}");
            let owner = rig.try_open(OpenMode::ReadWrite).map(|store| {
                let bad = unreadable(&store, &objects);
                assert_known_is_whole(&store, &objects);
                bad > 0 || !store.damage().is_empty()
            });
            assert!(owner.is_err() || owner.is_ok_and(|found| found), "{what}: unseen");
            if let Ok(reader) = rig.try_open(OpenMode::ReadOnly) {
                unreadable(&reader, &objects);
            }
        }
    }
}

#[test]
fn a_backup_after_damage_heals_it() {
    let (vfs, rig, objects) = closed(false);
    for name in vfs.files().iter().filter(|name| is_pack(name)) {
        for keep in [0usize, 200, 1_000] {
            let (vfs, rig) = copy(&vfs, &rig);
            // All that is behind is lost: a footer too.
            vfs.damage(name, |bytes| bytes.truncate(keep));
            let store = rig.open();
            assert!(!store.damage().is_empty());
            assert!(unreadable(&store, &objects) > 0, "{name} {keep}");
            assert_known_is_whole(&store, &objects);
            let agent = begin(&store, "one", Some(objects.last().unwrap().reference.id));
            assert_eq!(agent.session.base(), Base::Gone);
            let before = store.receipts();
            assert!(matches!(
                store.commit(&agent.session, &request(&objects), Timestamp(20)).unwrap(),
                Commit::Missing(_)
            ));
            put_all(&store, &agent, &objects);
            assert_eq!(commit(&store, &agent, &objects), before[0]);
            assert_holds(&store, &objects);
            drop(store);
            let store = rig.open();
            assert_holds(&store, &objects);
            let agent = begin(&store, "one", Some(before[0].snapshot));
            assert_eq!(agent.session.base(), Base::Pinned);
        }
    }
}

#[test]
fn packs_that_are_gone_lose_their_rows() {
    for index in [false, true] {
        let (vfs, rig, objects) = closed(index);
        let name = vfs.files().into_iter().find(|name| is_pack(name)).unwrap();
        assert!(vfs.lose(&name));
        let store = rig.open();
        let bad = unreadable(&store, &objects);
        assert!(bad > 0);
        assert_known_is_whole(&store, &objects);
        assert_eq!(store.damage().is_empty(), !index, "only the index can tell");
        let agent = begin(&store, "one", None);
        put_all(&store, &agent, &objects);
        commit(&store, &agent, &objects);
        assert_holds(&store, &objects);
    }
}

#[test]
fn a_torn_tail_is_no_damage_and_what_was_synced_is() {
    for index in [false, true] {
        let (vfs, rig, objects) = killed(index);
        for name in vfs.files().iter().filter(|name| name.starts_with("open/")) {
            let mut len = 0;
            vfs.damage(name, |bytes| len = bytes.len());
            for tail in [1usize, 119, 121, 700] {
                // Bytes behind what was synced: a record cut off, or anything.
                let (vfs, rig) = copy(&vfs, &rig);
                vfs.damage(name, |bytes| {
                    let torn = bytes[128..128 + tail].to_vec();
                    bytes.extend_from_slice(&torn);
                });
                let store = rig.open();
                assert_eq!(store.damage(), [], "{name} + {tail}");
                assert_holds(&store, &objects);
                drop(store);
                assert_holds(&rig.open(), &objects);
            }
            for at in [130usize, len / 2, len - 1] {
                let (vfs, rig) = copy(&vfs, &rig);
                vfs.damage(name, |bytes| bytes[at] ^= 1);
                let store = rig.open();
                let found = store.damage().iter().any(|damage| damage.path == *name);
                assert_eq!(found, index, "{name} byte {at}: only the index knows what was synced");
                assert!(unreadable(&store, &objects) > 0);
                assert_known_is_whole(&store, &objects);
                let agent = begin(&store, "one", None);
                put_all(&store, &agent, &objects);
                commit(&store, &agent, &objects);
                assert_holds(&store, &objects);
            }
        }
    }
}

#[test]
fn records_in_backed_up_disks_are_never_taken_for_ours() {
    let vfs = SimVfs::default();
    let rig = Rig { index: Some(KeptIndex::default()), ..sim_rig(&vfs) };
    init(&rig);
    let store = rig.open();
    let victim = object(Kind::Chunk, &[], b"what the id says");
    // A record of this store with a forged body: its check is right, its id is not its content's.
    let mut forged = victim.clone();
    forged.body = b"something quite else".to_vec();
    forged.plain_len = 20;
    let forged = crate::pack::RecordDraft {
        store: STORE,
        domain: DOMAIN,
        cipher: 0,
        key_epoch: 0,
        object: &forged,
        stored_body: &forged.body,
    }
    .encode()
    .1;
    let foreign = crate::pack::RecordDraft {
        store: StoreId([1; 16]),
        domain: DOMAIN,
        cipher: 0,
        key_epoch: 0,
        object: &victim,
        stored_body: &victim.body,
    }
    .encode()
    .1;
    // Incompressible around it, so that it stands in the pack as it is.
    let disk = [content(3, 1_000), forged, foreign, content(6, 1_000)].concat();
    let packed = object(Kind::Chunk, &[], &disk);
    let carrier = Object { codec: Codec::None, body: disk, ..packed };
    let others: Vec<Object> =
        (10..14).map(|n| object(Kind::Chunk, &[], &content(n, 3_000))).collect();
    let agent = begin(&store, "d", None);
    put_all(&store, &agent, &[vec![carrier.clone()], others.clone()].concat());
    store.flush().unwrap();
    let vfs = vfs.after_kill();
    drop(store);
    for harm in [false, true] {
        for with_index in [false, true] {
            let after = vfs.after_kill();
            let index = with_index.then(|| rig.index.as_ref().unwrap().copied());
            let rig = Rig { index, ..sim_rig(&after) };
            if harm {
                let open = after.files().into_iter().find(|n| n.starts_with("open/")).unwrap();
                after.damage(&open, |bytes| bytes[128 + 120 + 5] ^= 1);
            }
            let store = rig.open();
            assert!(matches!(store.get(DOMAIN, &victim.reference), Err(Error::NotFound { .. })));
            assert_eq!(unreadable(&store, std::slice::from_ref(&carrier)), usize::from(harm));
            assert_holds(&store, &others);
        }
    }
}

#[test]
fn receipts_and_log_guard_each_other() {
    let (vfs, rig, objects) = closed(true);
    let (gone, rig_gone) = copy(&vfs, &rig);
    assert!(gone.lose(&receipt_name(1)));
    let store = rig_gone.open();
    assert!(store.damage().iter().any(|damage| damage.path == receipt_name(1)));
    // Its number is not used again.
    let second = back_up(&store, "two", &disk_objects("two", 50, 5));
    assert_eq!(second.sequence, 2);
    assert_holds(&store, &objects);

    // The LOG's last segment goes: the index remembers that there was more.
    let logs: Vec<String> =
        vfs.files().into_iter().filter(|name| name.starts_with("log/")).collect();
    let (lost, rig_lost) = copy(&vfs, &rig);
    assert!(lost.lose(logs.last().unwrap()));
    let error = rig_lost.try_open(OpenMode::ReadWrite).err().unwrap();
    assert!(matches!(&error, Error::Corrupt { path, .. } if path == "log"), "{error}");
    // Restoring works all the same.
    assert_holds(&rig_lost.open_reader(), &objects);
}

#[test]
fn an_index_that_lies_is_found_out() {
    let (vfs, rig, objects) = closed(true);
    // That of another store.
    let (_, other) = copy(&vfs, &rig);
    let index = other.index.as_ref().unwrap();
    let format = Index::format(index).unwrap().unwrap();
    index.wipe(crate::IndexFormat { store: StoreId([2; 16]), ..format }).unwrap();
    let store = other.open();
    assert_holds(&store, &objects);
    assert_eq!(index.rows().unwrap().len(), objects.len());
    drop(store);
    // One that lost a row in the middle.
    let (_, other) = copy(&vfs, &rig);
    let index = other.index.as_ref().unwrap();
    let row = index.rows().unwrap()[3];
    index.apply(&Batch { remove: vec![row], ..Batch::default() }).unwrap();
    assert_holds(&other.open(), &objects);
    // One that names a pack that never was.
    let (_, other) = copy(&vfs, &rig);
    let index = other.index.as_ref().unwrap();
    let pack = PackId([7; 16]);
    let row = crate::PackRow { state: PackState::Sealed, watermark: 999, records: 1 };
    let known = Reference { kind: Kind::Chunk, id: ObjectId([5; 32]) };
    let key = Key { domain: DOMAIN, id: known.id };
    let location = crate::Location { pack, kind: Kind::Chunk, ..index.rows().unwrap()[0].1 };
    let batch = Batch { put: vec![(key, location)], packs: vec![(pack, row)], ..Batch::default() };
    index.apply(&batch).unwrap();
    let store = other.open();
    let agent = begin(&store, "x", None);
    assert_eq!(store.known(&agent.session, &[known]).unwrap(), [false]);
    assert_holds(&store, &objects);
}

/// An index whose rows cannot be read until it is destroyed.
struct Failing {
    good: KeptIndex,
    broken: std::sync::atomic::AtomicBool,
}

struct Broken(KeptIndex, bool);

impl IndexOpener for Arc<Failing> {
    fn open(&self) -> Result<Box<dyn Index>> {
        let broken = self.broken.load(std::sync::atomic::Ordering::SeqCst);
        Ok(Box::new(Broken(self.good.clone(), broken)))
    }

    fn open_read_only(&self) -> Result<Box<dyn Index>> {
        self.open()
    }

    fn destroy(&self) -> Result<()> {
        self.broken.store(false, std::sync::atomic::Ordering::SeqCst);
        self.good.wipe(crate::IndexFormat { version: 0, store: STORE, gc_generation: 0 })
    }
}

impl Broken {
    fn check(&self) -> Result<()> {
        let source = Box::new(std::io::Error::other("a damaged table"));
        if self.1 { Err(Error::Index { action: "look up", source }) } else { Ok(()) }
    }
}

impl Index for Broken {
    fn format(&self) -> Result<Option<crate::IndexFormat>> {
        self.0.format()
    }

    fn wipe(&self, format: crate::IndexFormat) -> Result<()> {
        self.0.wipe(format)
    }

    fn find(&self, key: &Key) -> Result<Option<crate::Location>> {
        self.check()?;
        self.0.find(key)
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        self.0.apply(batch)
    }

    fn pack(&self, pack: PackId) -> Result<Option<crate::PackRow>> {
        self.0.pack(pack)
    }

    fn packs(&self) -> Result<Vec<(PackId, crate::PackRow)>> {
        self.0.packs()
    }

    fn for_each(&self, each: &mut dyn FnMut(Key, crate::Location) -> Result<()>) -> Result<()> {
        self.0.for_each(each)
    }

    fn log_mark(&self) -> Result<crate::LogMark> {
        self.0.log_mark()
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn an_index_that_cannot_be_read_is_made_anew() {
    let (_, rig, objects) = closed(true);
    let good = rig.index.clone().unwrap();
    let failing = Arc::new(Failing { good, broken: true.into() });
    let options = |mode| {
        let index = Box::new(Arc::clone(&failing));
        let owner = OpenOptions::owner(index, fresh_seed(), 1, Timestamp(5));
        OpenOptions { mode, ..owner }
    };
    let reader = Store::open(Arc::clone(&rig.vfs), options(OpenMode::ReadOnly)).unwrap();
    assert_holds(&reader, &objects);
    let store = Store::open(Arc::clone(&rig.vfs), options(OpenMode::ReadWrite)).unwrap();
    assert_holds(&store, &objects);
    let rebuilt = |state: &crate::LogState| state.sequence;
    assert!(store.log().with_state(rebuilt) >= 4, "the LOG names the loss and the rebuild");
}

#[test]
fn a_rebuilt_index_is_the_same() {
    for make in [closed, killed] {
        let (vfs, rig, objects) = make(true);
        drop(rig.open());
        let (_, rig) = copy(&vfs, &rig);
        let store = rig.open();
        let index = rig.index.as_ref().unwrap();
        let (rows, packs) = (index.rows().unwrap(), index.packs().unwrap());
        let report = store.rebuild_index(Timestamp(30)).unwrap();
        assert_eq!((report.objects, report.incomplete), (objects.len() as u64, 0));
        assert_eq!(index.rows().unwrap(), rows);
        assert_eq!(index.packs().unwrap(), packs);
        drop(store);
        // The same from nothing.
        let rig = Rig { index: Some(KeptIndex::default()), ..rig };
        drop(rig.open());
        assert_eq!(rig.index.as_ref().unwrap().rows().unwrap(), rows);
        assert_eq!(rig.index.as_ref().unwrap().packs().unwrap(), packs);
    }
}

#[test]
fn a_reader_finds_packs_that_move_and_grow() {
    for index in [None, Some(KeptIndex::default())] {
        let vfs = SimVfs::default();
        let rig = Rig { index, ..sim_rig(&vfs) };
        init(&rig);
        let store = rig.open();
        let reader = rig.open_reader();
        assert!(reader.receipts().is_empty());
        for n in 0..4u64 {
            let objects = disk_objects(&format!("{n}"), n * 20, 20);
            back_up(&store, &format!("{n}"), &objects);
            assert_holds(&reader, &objects);
            assert_eq!(reader.receipts().len() as u64, n + 1);
            if n == 1 {
                store.rebuild_index(Timestamp(3)).unwrap();
            }
        }
        let open: Vec<PackId> = store.inner.open_packs().unwrap();
        assert!(vfs.files().contains(&open_name(open[0])));
        drop(store);
        assert!(vfs.files().contains(&sealed_name(open[0])));
        for n in 0..4u64 {
            assert_holds(&reader, &disk_objects(&format!("{n}"), n * 20, 20));
        }
    }
}
