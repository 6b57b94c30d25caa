//! A rebuild of the index that is cut off, after packs were lost: the worst moment for an index
//! to look sound.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::ids::PackId;
use crate::index::{Batch, Index, IndexFormat, Location, LogMark, PackRow};
use crate::pack::{contents_name, sealed_name};
use crate::session::Base;

/// A kept index that takes so many batches more; then its process is as good as killed.
#[derive(Clone)]
struct CutIndex {
    kept: KeptIndex,
    left: Arc<AtomicU64>,
    /// Whose lock is taken away with the next batch.
    robbed: Arc<Mutex<Option<SimVfs>>>,
}

impl CutIndex {
    fn new(kept: KeptIndex, left: Arc<AtomicU64>) -> Self {
        Self { kept, left, robbed: Arc::default() }
    }
}

impl IndexOpener for CutIndex {
    fn open(&self) -> Result<Box<dyn Index>> {
        Ok(Box::new(self.clone()))
    }

    fn open_read_only(&self) -> Result<Box<dyn Index>> {
        self.kept.open_read_only()
    }

    fn destroy(&self) -> Result<()> {
        Ok(())
    }
}

impl Index for CutIndex {
    fn format(&self) -> Result<Option<IndexFormat>> {
        self.kept.format()
    }

    fn wipe(&self, format: IndexFormat) -> Result<()> {
        self.kept.wipe(format)
    }

    fn find(&self, key: &Key) -> Result<Option<Location>> {
        self.kept.find(key)
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        if let Some(vfs) = locked(&self.robbed).take() {
            assert!(vfs.lose("LOCK"));
        }
        let one_less = |left: u64| left.checked_sub(1);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => self.kept.apply(batch),
            Err(_) => Err(Error::Closed),
        }
    }

    fn pack(&self, pack: PackId) -> Result<Option<PackRow>> {
        self.kept.pack(pack)
    }

    fn packs(&self) -> Result<Vec<(PackId, PackRow)>> {
        self.kept.packs()
    }

    fn for_each(&self, each: &mut dyn FnMut(Key, Location) -> Result<()>) -> Result<()> {
        self.kept.for_each(each)
    }

    fn log_mark(&self) -> Result<LogMark> {
        self.kept.log_mark()
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// The sealed packs of a simulated store.
fn packs(vfs: &SimVfs) -> Vec<String> {
    vfs.files().into_iter().filter(|name| is_pack(name)).collect()
}

#[test]
fn a_rebuild_that_was_cut_off_is_made_again() {
    let vfs = SimVfs::default();
    let rig = Rig { index: Some(KeptIndex::default()), ..sim_rig(&vfs) };
    init(&rig);
    let objects = disk_objects("one", 0, 30);
    let snapshot = back_up(&rig.open(), "one", &objects).snapshot;
    let mut cuts = 0;
    for pack in packs(&vfs) {
        for batches in 0.. {
            let vfs = vfs.after_kill();
            vfs.remove(&pack).unwrap();
            let kept = rig.index.as_ref().unwrap().copied();
            let index = CutIndex::new(kept.clone(), Arc::new(AtomicU64::new(batches)));
            let options = OpenOptions::owner(Box::new(index), fresh_seed(), 1, Timestamp(6));
            let opened = Store::open(Arc::new(vfs.clone()), options);
            let cut = opened.is_err();
            drop(opened);
            let rig = Rig { index: Some(kept), ..sim_rig(&vfs.after_kill()) };
            let store = rig.open();
            let what = format!("{pack}, cut after {batches} batches");
            let agent = begin(&store, "one", Some(snapshot));
            for object in &objects {
                if store.known(&agent.session, &[object.reference]).unwrap() == [true] {
                    let children = store.known(&agent.session, &object.refs).unwrap();
                    assert!(children.iter().all(|known| *known), "{what}: {:?}", object.reference);
                }
            }
            assert_eq!(agent.session.base(), Base::Gone, "{what}");
            put_all(&store, &agent, &objects);
            commit(&store, &agent, &objects);
            assert_holds(&store, &objects);
            if !cut {
                break;
            }
            cuts += 1;
        }
    }
    assert!(cuts > 5, "{cuts} cuts");
}

#[test]
fn a_rebuild_that_fails_in_an_open_store_leaves_nothing_to_rely_on() {
    let vfs = SimVfs::default();
    let kept = KeptIndex::default();
    let rig = Rig { index: Some(kept.clone()), ..sim_rig(&vfs) };
    init(&rig);
    let left = Arc::new(AtomicU64::new(u64::MAX));
    let index = CutIndex::new(kept, Arc::clone(&left));
    let options = OpenOptions::owner(Box::new(index), fresh_seed(), 1, Timestamp(6));
    let store = Store::open(Arc::new(vfs.clone()), options).unwrap();
    let objects = disk_objects("one", 0, 30);
    let snapshot = back_up(&store, "one", &objects).snapshot;
    let agent = begin(&store, "one", Some(snapshot));
    store.rebuild_index(Timestamp(7)).unwrap();
    assert_holds(&store, &objects);

    left.store(1, Ordering::Relaxed);
    assert!(store.rebuild_index(Timestamp(8)).is_err());
    left.store(u64::MAX, Ordering::Relaxed);
    let half_made = |error: Option<Error>| matches!(error, Some(Error::IndexHalfMade));
    let reference = objects[0].reference;
    assert!(half_made(store.known(&agent.session, &[reference]).err()));
    assert!(half_made(store.put(&agent.session, 1, &objects[0]).err()));
    assert!(half_made(store.get(DOMAIN, &reference).err()));
    assert!(half_made(store.status().err()));
    assert!(half_made(store.commit(&agent.session, &request(&objects), Timestamp(9)).err()));
    let mut asked = 0;
    store.get_many(DOMAIN, &[reference, reference, reference], &mut |position, result| {
        assert!(half_made(result.err()));
        asked += 1;
        position < 1
    });
    assert_eq!(asked, 2);
    // What helps is to open it anew, or a rebuild that succeeds.
    store.rebuild_index(Timestamp(10)).unwrap();
    assert_holds(&store, &objects);
    left.store(1, Ordering::Relaxed);
    assert!(store.rebuild_index(Timestamp(11)).is_err());
    drop((agent, store));
    assert_holds(&rig.open(), &objects);
}

#[test]
fn a_shortened_pack_is_not_trusted_for_the_table_beside_it() {
    let vfs = SimVfs::default();
    let rig = Rig { index: Some(KeptIndex::default()), ..sim_rig(&vfs) };
    init(&rig);
    let objects = disk_objects("one", 0, 30);
    let store = rig.open();
    let snapshot = back_up(&store, "one", &objects).snapshot;
    // Killed with open packs: the next owner makes tables beside them.
    let vfs = vfs.after_kill();
    let index = rig.index.as_ref().map(KeptIndex::copied);
    drop(store);
    let rig = Rig { index, ..sim_rig(&vfs) };
    drop(rig.open());
    let mut shortened = 0;
    for pack in packs(&vfs) {
        let id = PackId::from_hex(pack.rsplit('/').next().unwrap()).unwrap();
        assert_eq!(sealed_name(id), pack);
        if !vfs.files().contains(&contents_name(id)) {
            continue;
        }
        for index in [rig.index.as_ref().map(KeptIndex::copied), Some(KeptIndex::default())] {
            let vfs = vfs.after_kill();
            vfs.damage(&pack, |bytes| bytes.truncate(bytes.len() / 2));
            let store = Rig { index, ..sim_rig(&vfs) }.open();
            assert!(!store.damage().is_empty(), "{pack}: unseen");
            let agent = begin(&store, "one", Some(snapshot));
            assert_eq!(agent.session.base(), Base::Gone, "{pack}");
            put_all(&store, &agent, &objects);
            commit(&store, &agent, &objects);
            assert_holds(&store, &objects);
            shortened += 1;
        }
    }
    assert!(shortened > 1, "{shortened}");
}

#[test]
fn nothing_is_acknowledged_that_the_next_owner_may_not_have_seen() {
    let vfs = SimVfs::default();
    init(&sim_rig(&vfs));
    let index = CutIndex::new(KeptIndex::default(), Arc::new(AtomicU64::new(u64::MAX)));
    let robbed = Arc::clone(&index.robbed);
    let options = OpenOptions::owner(Box::new(index), fresh_seed(), 1, Timestamp(6));
    let store = Store::open(Arc::new(vfs.clone()), options).unwrap();
    let objects = disk_objects("one", 0, 30);
    let agent = begin(&store, "one", None);
    put_all(&store, &agent, &objects[..1]);
    store.flush().unwrap();
    assert_eq!(agent.durable(), [0].into());
    // The lock goes between the check before the sync and the acknowledgement.
    *locked(&robbed) = Some(vfs.clone());
    store.put(&agent.session, 1, &objects[1]).unwrap();
    store.flush().unwrap();
    assert_eq!(agent.durable(), [0].into());
    assert!(locked(&agent.told).failed.contains_key(&1));
}
