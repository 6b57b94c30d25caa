//! A store on real files with real disks in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use umbra_common::Reference;
use umbra_common::snapshot::{MachineId, RunId, SessionNonce};
use umbra_store::{
    CheckOptions, CheckReport, Commit, CommitRequest, DomainId, InitOptions, Key, Location,
    OpenMode, OpenOptions, Put, ReadData, RealVfs, SessionInfo, Store, StoreId, Timestamp, Vfs,
    check,
};

use crate::RocksIndexOpener;

#[path = "../../../../store/src/store/tests/disks.rs"]
mod disks;

pub(super) use disks::{Disk, chunk, chunk_bytes, disk, file};

/// The domain of everything.
pub(super) const DOMAIN: DomainId = DomainId(0);

/// A store in a directory of its own.
pub(super) struct World {
    base: tempfile::TempDir,
    number: std::cell::Cell<u64>,
}

impl World {
    /// Makes a store and backs these disks up, one after the other; it is closed afterwards.
    pub(super) fn with(disks: &[&Disk]) -> Self {
        let base = tempfile::tempdir().unwrap();
        let world = Self { base, number: std::cell::Cell::new(0) };
        let options = InitOptions { store: StoreId([4; 16]), now: Timestamp(1) };
        Store::init(&world.vfs(), &options).unwrap();
        let store = world.open();
        disks.iter().for_each(|disk| back_up(&store, disk));
        store.close().unwrap();
        world
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.base.path().join("store")
    }

    fn vfs(&self) -> Arc<dyn Vfs> {
        Arc::new(RealVfs::new(self.dir()))
    }

    fn opener(&self) -> RocksIndexOpener {
        RocksIndexOpener::new(self.dir().join("index"))
    }

    /// Opens the store as its owner.
    pub(super) fn open(&self) -> Store {
        self.number.set(self.number.get() + 1);
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&self.number.get().to_le_bytes());
        let options = OpenOptions::owner(Box::new(self.opener()), seed, 1, Timestamp(1));
        assert_eq!(options.mode, OpenMode::ReadWrite);
        Store::open(self.vfs(), options).unwrap()
    }

    /// The store as a kill would leave it now: a copy.
    pub(super) fn killed(&self) -> Self {
        let base = tempfile::tempdir().unwrap();
        copy(&self.dir(), &base.path().join("store"));
        Self { base, number: std::cell::Cell::new(self.number.get() + 1_000) }
    }

    /// The index of the closed store, to be harmed.
    pub(super) fn index(&self) -> Box<dyn umbra_store::Index> {
        umbra_store::IndexOpener::open(&self.opener()).unwrap()
    }

    /// Where the index finds an object.
    pub(super) fn find(&self, reference: Reference) -> Location {
        let index = umbra_store::IndexOpener::open_read_only(&self.opener()).unwrap();
        index.find(&Key { domain: DOMAIN, id: reference.id }).unwrap().unwrap()
    }

    /// The name of the pack that has an object, below the store's directory.
    pub(super) fn pack_of(&self, reference: Reference) -> String {
        let pack = self.find(reference).pack.to_string();
        format!("packs/{}/{pack}", &pack[..2])
    }

    /// Checks the store.
    pub(super) fn check(&self, read: ReadData) -> CheckReport {
        check(&self.vfs(), &CheckOptions::new(Box::new(self.opener()), read)).unwrap()
    }

    /// Changes the bytes of a file.
    pub(super) fn harm(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.dir().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    }

    /// Flips a bit in the body of an object's record.
    pub(super) fn flip_in(&self, reference: Reference) {
        let place = self.find(reference);
        let at = place.offset + u64::from(place.record_len) - 3;
        self.harm(&self.pack_of(reference), |bytes| {
            bytes[usize::try_from(at).unwrap()] ^= 0x10;
        });
    }

    /// Removes a file.
    pub(super) fn lose(&self, name: &str) {
        std::fs::remove_file(self.dir().join(name)).unwrap();
    }

    /// The names of all files below a directory of the store.
    pub(super) fn files(&self, dir: &str) -> Vec<String> {
        let mut found = Vec::new();
        list(&self.dir().join(dir), &mut found);
        let root = self.dir();
        let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let mut names: Vec<String> = found.iter().map(name).collect();
        names.sort();
        names
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

fn list(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { list(&path, found) } else { found.push(path) }
    }
}

/// Backs a disk up.
pub(super) fn back_up(store: &Store, disk: &Disk) {
    let session = begin(store, disk);
    for (number, object) in (0u64..).zip(&disk.objects) {
        assert_eq!(store.put(&session, number, object).unwrap(), Put::Accepted);
    }
    let manifest = disk.snapshot().id;
    let request = CommitRequest { manifest, tags: vec![], labels: BTreeMap::default() };
    let committed = store.commit(&session, &request, Timestamp(3_000_000_000)).unwrap();
    assert!(matches!(committed, Commit::Committed(_)));
}

/// Begins a session of a disk's machine.
pub(super) fn begin(store: &Store, disk: &Disk) -> umbra_store::Session {
    let info = SessionInfo {
        machine: MachineId([disk.machine.as_bytes()[0]; 16]),
        machine_name: disk.machine.to_owned(),
        disk: disk.name.to_owned(),
        domain: DOMAIN,
        nonce: SessionNonce([1; 16]),
        run: RunId([1; 16]),
        base: None,
        on_settled: Box::new(|_| {}),
    };
    store.begin(info, Timestamp(2)).unwrap()
}
