//! A whole store on this index and real files: closed, killed, damaged, read-only.

use std::path::Path;
use std::sync::Arc;

use umbra_common::snapshot::{MachineId, RunId, SessionNonce};
use umbra_common::wire::Object;
use umbra_common::{Kind, Reference};
use umbra_store::{
    Commit, CommitRequest, InitOptions, OpenMode, OpenOptions, Put, RealVfs, Session, SessionInfo,
    Store, Timestamp, Vfs,
};

use super::*;

fn vfs(dir: &Path) -> Arc<dyn Vfs> {
    Arc::new(RealVfs::new(dir))
}

fn try_open(dir: &Path, mode: OpenMode) -> umbra_store::Result<Store> {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    let index = Box::new(RocksIndexOpener::new(dir.join("index")));
    let options = OpenOptions::owner(index, seed, 1, Timestamp(1));
    Store::open(vfs(dir), OpenOptions { mode, ..options })
}

fn open(dir: &Path) -> Store {
    try_open(dir, OpenMode::ReadWrite).unwrap()
}

fn objects(name: &str, count: u32) -> Vec<Object> {
    let pack = |kind, refs, body| Object::pack(kind, refs, body, 3).unwrap();
    let chunks: Vec<Object> = (0..count)
        .map(|n| pack(Kind::Chunk, vec![], format!("{name} {n}").repeat(500).into_bytes()))
        .collect();
    let list = |objects: &[Object]| objects.iter().map(|object| object.reference).collect();
    let page = pack(Kind::MapPage, list(&chunks), b"page".to_vec());
    let map = pack(Kind::MapNode, vec![page.reference], b"map".to_vec());
    let manifest = pack(Kind::Manifest, vec![map.reference], name.as_bytes().to_vec());
    [chunks, vec![page, map, manifest]].concat()
}

fn begin(store: &Store) -> Session {
    let info = SessionInfo {
        machine: MachineId([1; 16]),
        machine_name: "m".to_owned(),
        disk: "d".to_owned(),
        domain: DomainId(0),
        nonce: SessionNonce([1; 16]),
        run: RunId([1; 16]),
        base: None,
        on_settled: Box::new(|_| {}),
    };
    store.begin(info, Timestamp(2)).unwrap()
}

fn back_up(store: &Store, objects: &[Object]) {
    let session = begin(store);
    for (number, object) in (0u64..).zip(objects) {
        assert_eq!(store.put(&session, number, object).unwrap(), Put::Accepted);
    }
    let manifest = objects.last().unwrap().reference.id;
    let request = CommitRequest { manifest, tags: vec![], labels: Default::default() };
    let committed = store.commit(&session, &request, Timestamp(3)).unwrap();
    assert!(matches!(committed, Commit::Committed(_)));
}

fn assert_holds(store: &Store, objects: &[Object]) {
    for object in objects {
        assert_eq!(&store.get(DomainId(0), &object.reference).unwrap(), object);
    }
    assert_eq!(store.damage(), []);
}

/// What a killed process leaves: a copy made while it runs.
fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[test]
fn a_store_lives_on_this_index() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("store");
    Store::init(&vfs(&dir), &InitOptions { store: StoreId([4; 16]), now: Timestamp(1) }).unwrap();
    let (first, second) = (objects("first", 300), objects("second", 300));
    let store = open(&dir);
    back_up(&store, &first);
    let reader = try_open(&dir, OpenMode::ReadOnly).unwrap();
    back_up(&store, &second);
    assert_holds(&reader, &second);
    let killed = base.path().join("killed");
    copy_tree(&dir, &killed);
    let count = store.status().unwrap().objects;
    assert_eq!(store.rebuild_index(Timestamp(4)).unwrap().objects, count);
    store.close().unwrap();
    for dir in [&dir, &killed] {
        let store = open(dir);
        assert_holds(&store, &first);
        assert_holds(&store, &second);
        assert_eq!(store.status().unwrap().objects, count);
        let session = begin(&store);
        let all: Vec<Reference> = first.iter().map(|object| object.reference).collect();
        assert!(store.known(&session, &all).unwrap().into_iter().all(|known| known));
    }
    assert_holds(&reader, &first);
}

#[test]
fn a_missing_or_damaged_index_is_made_anew() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("store");
    Store::init(&vfs(&dir), &InitOptions { store: StoreId([4; 16]), now: Timestamp(1) }).unwrap();
    let all = objects("all", 2_000);
    back_up(&open(&dir), &all);
    // Its log becomes a table.
    drop(open(&dir));
    std::fs::remove_dir_all(dir.join("index")).unwrap();
    assert_holds(&open(&dir), &all);
    drop(open(&dir));
    for extension in ["sst", "log", "MANIFEST", "CURRENT"] {
        let mut harmed = 0;
        for entry in std::fs::read_dir(dir.join("index")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.ends_with(extension) || name.starts_with(extension) {
                let mut bytes = std::fs::read(&path).unwrap();
                let step = (bytes.len() / 20).max(1);
                (0..bytes.len()).step_by(step).for_each(|at| bytes[at] ^= 0x40);
                std::fs::write(&path, bytes).unwrap();
                harmed += 1;
            }
        }
        assert!(harmed > 0, "{extension}");
        let reader = try_open(&dir, OpenMode::ReadOnly).unwrap();
        assert_holds(&reader, &all);
        drop(reader);
        let store = open(&dir);
        assert_holds(&store, &all);
        let session = begin(&store);
        let list: Vec<Reference> = all.iter().map(|object| object.reference).collect();
        assert!(store.known(&session, &list).unwrap().into_iter().all(|known| known));
        drop(store);
        drop(open(&dir));
    }
}

/// A directory that cannot be written, until it is dropped.
struct ReadOnlyView<'a>(&'a Path);

impl<'a> ReadOnlyView<'a> {
    fn new(of: &Path, at: &'a Path) -> Option<Self> {
        let mount = |args: &[&std::ffi::OsStr]| {
            std::process::Command::new("mount")
                .args(args)
                .output()
                .is_ok_and(|o| o.status.success())
        };
        std::fs::create_dir(at).unwrap();
        if !mount(&["--bind".as_ref(), of.as_ref(), at.as_ref()]) {
            return None;
        }
        let view = Self(at);
        mount(&["-o".as_ref(), "remount,bind,ro".as_ref(), at.as_ref()]).then_some(view)
    }
}

impl Drop for ReadOnlyView<'_> {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg(self.0).status().unwrap();
    }
}

#[test]
#[allow(clippy::print_stdout)]
fn a_store_on_read_only_media() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("store");
    Store::init(&vfs(&dir), &InitOptions { store: StoreId([4; 16]), now: Timestamp(1) }).unwrap();
    let (all, late) = (objects("all", 300), objects("late", 300));
    let store = open(&dir);
    back_up(&store, &all);
    back_up(&store, &late);
    let killed = base.path().join("killed");
    copy_tree(&dir, &killed);
    store.close().unwrap();
    for (number, dir) in [&dir, &killed].into_iter().enumerate() {
        let at = base.path().join(format!("view-{number}"));
        let Some(view) = ReadOnlyView::new(dir, &at) else {
            println!("SKIP: only root can mount");
            return;
        };
        assert!(std::fs::write(at.join("x"), b"x").is_err());
        let reader = try_open(&at, OpenMode::ReadOnly).unwrap();
        assert_holds(&reader, &all);
        assert_holds(&reader, &late);
        // By RocksDB, not by the packs.
        let opener = RocksIndexOpener::new(at.join("index"));
        assert!(opener.open_read_only().unwrap().format().unwrap().is_some());
        drop((reader, view));
    }
}
