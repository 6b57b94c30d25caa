#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use umbra_common::snapshot::{MachineId, Receipt, RunId, SessionNonce};
use umbra_common::wire::{Codec, object::id_of};
use umbra_common::{Kind, ObjectId};

use super::*;
use crate::index::MemoryIndexOpener;
use crate::session::Settled;
use crate::testing::{KeptIndex, MemoryObjects, SimVfs, ToyCipher};
use crate::vfs::RealVfs;

mod claims;
mod crash;
mod cut_rebuild;
mod damage;
#[allow(dead_code)]
mod disks;
mod forged;
mod forget;
mod full;
mod gc;
mod parity;
mod repair;
mod salvage;
mod schedules;
mod whole;

/// The id of every store of these tests.
const STORE: StoreId = StoreId([0x5a; 16]);
const DOMAIN: DomainId = DomainId(0);

/// One kind of storage to run a store on.
#[derive(Clone)]
struct Rig {
    name: &'static str,
    vfs: Arc<dyn Vfs>,
    objects: Option<Arc<dyn ObjectStore>>,
    cipher: Option<Arc<dyn Cipher>>,
    index: Option<KeptIndex>,
}

fn sim_rig(vfs: &SimVfs) -> Rig {
    let vfs: Arc<dyn Vfs> = Arc::new(vfs.clone());
    Rig { name: "simulated", vfs, objects: None, cipher: None, index: None }
}

/// Each kind of storage, with a store made in it.
fn rigs(dir: &std::path::Path) -> Vec<Rig> {
    let plain = sim_rig(&SimVfs::default());
    let remote: Arc<dyn ObjectStore> = Arc::new(MemoryObjects::default());
    let rigs = vec![
        Rig { name: "real files", vfs: Arc::new(RealVfs::new(dir)), ..plain.clone() },
        Rig {
            name: "objects with put_new alone",
            objects: Some(remote),
            ..sim_rig(&SimVfs::default())
        },
        Rig {
            name: "toy cipher",
            cipher: Some(Arc::new(ToyCipher { key: [3; 32] })),
            ..sim_rig(&SimVfs::default())
        },
        Rig {
            name: "kept index",
            index: Some(KeptIndex::default()),
            ..sim_rig(&SimVfs::default())
        },
        plain,
    ];
    for rig in &rigs {
        init(rig);
    }
    rigs
}

fn init(rig: &Rig) {
    Store::init(&rig.vfs, &InitOptions { store: STORE, now: Timestamp(1) }).unwrap();
}

/// Tells whether a name in a store is that of a sealed pack.
fn is_pack(name: &str) -> bool {
    name.starts_with("packs/") && !name.contains('.')
}

/// A seed that no other opening had.
fn fresh_seed() -> [u8; 32] {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let number = LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

impl Rig {
    fn opener(&self) -> Box<dyn IndexOpener> {
        match &self.index {
            Some(index) => Box::new(index.clone()),
            None => Box::new(MemoryIndexOpener),
        }
    }

    fn try_open(&self, mode: OpenMode) -> Result<Store> {
        let mut options = OpenOptions::owner(self.opener(), fresh_seed(), 1234, Timestamp(5));
        options.mode = mode;
        options.objects = self.objects.clone();
        options.cipher = self.cipher.clone();
        options.group_commit = Duration::from_millis(2);
        Store::open(Arc::clone(&self.vfs), options)
    }

    fn open(&self) -> Store {
        self.try_open(OpenMode::ReadWrite).unwrap()
    }

    fn open_reader(&self) -> Store {
        self.try_open(OpenMode::ReadOnly).unwrap()
    }
}

/// What a session was told.
#[derive(Default)]
struct Told {
    durable: BTreeSet<u64>,
    failed: BTreeMap<u64, String>,
}

/// A session, and what it was told.
struct Agent {
    session: Session,
    told: Arc<Mutex<Told>>,
}

fn begin(store: &Store, disk: &str, base: Option<ObjectId>) -> Agent {
    let told = Arc::new(Mutex::new(Told::default()));
    let sink = Arc::clone(&told);
    let on_settled = Box::new(move |settled: Settled| {
        let mut told = locked(&sink);
        match settled {
            Settled::Durable { numbers } => told.durable.extend(numbers.into_iter().flatten()),
            Settled::Failed { numbers, error } => {
                let error = error.to_string();
                let numbers = numbers.into_iter().flatten();
                told.failed.extend(numbers.map(|number| (number, error.clone())));
            }
        }
    });
    let info = SessionInfo {
        machine: MachineId([1; 16]),
        machine_name: "m".to_owned(),
        disk: disk.to_owned(),
        domain: DOMAIN,
        nonce: SessionNonce([9; 16]),
        run: RunId([8; 16]),
        base,
        on_settled,
    };
    Agent { session: store.begin(info, Timestamp(10)).unwrap(), told }
}

impl Agent {
    fn durable(&self) -> BTreeSet<u64> {
        locked(&self.told).durable.clone()
    }
}

fn object(kind: Kind, refs: &[Reference], body: &[u8]) -> Object {
    let reference = Reference { kind, id: id_of(kind, refs, body) };
    let packed = zstd::bulk::compress(body, 3).unwrap();
    let zstd = packed.len() < body.len();
    Object {
        reference,
        refs: refs.to_vec(),
        codec: if zstd { Codec::Zstd } else { Codec::None },
        plain_len: u32::try_from(body.len()).unwrap(),
        body: if zstd { packed } else { body.to_vec() },
    }
}

/// Bytes that depend on a number alone: every third does not compress.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    if seed.is_multiple_of(3) {
        let mut stream = blake3::Hasher::new_keyed(&[1; 32]);
        stream.update(&seed.to_le_bytes());
        stream.finalize_xof().fill(&mut bytes);
    } else {
        let word = seed.to_le_bytes();
        bytes.iter_mut().zip(word.iter().cycle()).for_each(|(to, from)| *to = *from);
    }
    bytes
}

/// What a disk is made of: chunks `first..first + count`, pages, map, directories, manifest.
/// Children stand before parents; the manifest is the last.
fn disk_objects(name: &str, first: u64, count: u64) -> Vec<Object> {
    let mut objects = Vec::new();
    let mut pages = Vec::new();
    for start in (first..first + count).step_by(8) {
        let chunks: Vec<Object> = (start..(start + 8).min(first + count))
            .map(|n| object(Kind::Chunk, &[], &content(n, 500 + (n as usize * 977) % 9_000)))
            .collect();
        let refs: Vec<Reference> = chunks.iter().map(|chunk| chunk.reference).collect();
        objects.extend(chunks);
        let page = object(Kind::MapPage, &refs, format!("page {start}").as_bytes());
        pages.push(page.reference);
        objects.push(page);
    }
    let map = object(Kind::MapNode, &pages, b"map");
    let leaf = object(Kind::Directory, &[], format!("{name}/etc").as_bytes());
    let root = object(Kind::Directory, &[leaf.reference], name.as_bytes());
    let roots = [map.reference, root.reference];
    objects.extend([map, leaf, root]);
    objects.push(object(Kind::Manifest, &roots, name.as_bytes()));
    objects
}

/// Puts objects; panics where one is missing.
fn put_all(store: &Store, agent: &Agent, objects: &[Object]) {
    for (number, object) in (0u64..).zip(objects) {
        assert_eq!(store.put(&agent.session, number, object).unwrap(), Put::Accepted);
    }
}

fn request(objects: &[Object]) -> CommitRequest {
    let labels = [("host".to_owned(), "h".to_owned())].into();
    CommitRequest { manifest: objects.last().unwrap().reference.id, tags: Vec::new(), labels }
}

fn commit(store: &Store, agent: &Agent, objects: &[Object]) -> Arc<Receipt> {
    match store.commit(&agent.session, &request(objects), Timestamp(20)).unwrap() {
        Commit::Committed(receipt) => receipt,
        Commit::Missing(missing) => panic!("missing: {missing:?}"),
    }
}

/// Backs a disk up, from first to last.
fn back_up(store: &Store, disk: &str, objects: &[Object]) -> Arc<Receipt> {
    let agent = begin(store, disk, None);
    put_all(store, &agent, objects);
    commit(store, &agent, objects)
}

/// Every object reads back, proves its id, and is what was put.
fn assert_holds(store: &Store, objects: &[Object]) {
    for object in objects {
        let found = store.get(DOMAIN, &object.reference).unwrap();
        prove(&found).unwrap();
        assert_eq!(&found, object);
    }
    let references: Vec<Reference> = objects.iter().map(|object| object.reference).collect();
    let mut seen = BTreeSet::new();
    store.get_many(DOMAIN, &references, &mut |number, found| {
        assert_eq!(found.unwrap(), objects[number]);
        assert!(seen.insert(number));
        true
    });
    assert_eq!(seen.len(), objects.len());
}
