//! The stages against a vault in memory: what goes in comes back, whatever the layout.
#![allow(clippy::unwrap_used)]

mod free;
mod hostile;
mod many;
mod skipping;
mod small_changes;
mod sources;

use std::collections::HashMap;
use std::sync::Mutex;

use proptest::prelude::*;
use umbra_common::map::{Content, MapReader};
use umbra_common::node::memory::MemoryNodes;
use umbra_common::node::{Node, NodeSink};
use umbra_common::snapshot::{
    Consistency, FreePolicy, MachineId, Manifest, Method, Receipt, RunId, SessionNonce, StoreId,
};
use umbra_common::wire::Object;
use umbra_common::{ByteOffset, ByteRange, Kind, Reference};
use umbra_fsparse::partition::{PartitionTable, TableKind};
use umbra_fsparse::{
    Codec, Extent, ExtentKind, FileType, Inode, InodeNumber, ReadAt, ReadError, Timestamp, Visitor,
};

use super::*;
use crate::monitor::Quiet;
use crate::survey::{Left, Parse, Volume};
use crate::tree::FileTree;

/// A disk in memory that counts what is read and fails where it is told to.
struct MemoryDisk {
    bytes: Vec<u8>,
    bad: Vec<ByteRange>,
    read: std::sync::atomic::AtomicU64,
}

impl MemoryDisk {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, bad: Vec::new(), read: 0.into() }
    }
}

impl ReadAt for MemoryDisk {
    fn len(&self) -> ByteLen {
        ByteLen(self.bytes.len() as u64)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let range = span(offset.0, buf.len() as u64);
        if self.bad.iter().any(|bad| bad.intersection(range).is_some()) {
            return Err(ReadError::Unreadable(range));
        }
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.bytes.as_slice().read_at(offset, buf)
    }
}

impl Device for MemoryDisk {
    fn holes(&self, _: ByteRange) -> Vec<ByteRange> {
        Vec::new()
    }
}

fn span(start: u64, len: u64) -> ByteRange {
    ByteRange::new(ByteOffset(start), ByteLen(len)).unwrap()
}

/// A vault in memory: refuses a node whose children it lacks, as the real one does.
#[derive(Default)]
struct MemoryVault {
    chunks: Mutex<HashMap<ObjectId, Vec<u8>>>,
    nodes: Mutex<MemoryNodes>,
    asked: std::sync::atomic::AtomicU64,
}

impl MemoryVault {
    fn take(&self, object: Object) -> Result<()> {
        let plain = object.open()?;
        if plain.reference.kind == Kind::Chunk {
            self.chunks.lock().unwrap().insert(plain.reference.id, plain.body);
            return Ok(());
        }
        let chunks = self.chunks.lock().unwrap();
        let missing =
            plain.refs.iter().find(|r| r.kind == Kind::Chunk && !chunks.contains_key(&r.id));
        assert!(missing.is_none(), "a page came before its chunk {missing:?}");
        let node = Node { kind: plain.reference.kind, refs: plain.refs, body: plain.body };
        assert_eq!(self.nodes.lock().unwrap().put(node)?, plain.reference);
        Ok(())
    }
}

impl Uplink for MemoryVault {
    fn ask(&self, references: &[Reference]) -> Result<Vec<bool>> {
        self.asked.fetch_add(references.len() as u64, Ordering::Relaxed);
        let (chunks, nodes) = (self.chunks.lock().unwrap(), self.nodes.lock().unwrap());
        let known = |r: &Reference| match r.kind {
            Kind::Chunk => chunks.contains_key(&r.id),
            _ => nodes.find(r).is_some(),
        };
        Ok(references.iter().map(known).collect())
    }

    fn send(&self, objects: Vec<Object>) -> Result<()> {
        objects.into_iter().try_for_each(|object| self.take(object))
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn commit(&self, manifest: ObjectId, tags: &[String], _: &[(&str, u64)]) -> Result<Receipt> {
        Ok(Receipt {
            store: StoreId([1; 16]),
            sequence: 1,
            previous: None,
            snapshot: manifest,
            domain: 0,
            machine: MachineId([2; 16]),
            machine_name: "m".into(),
            disk: "d".into(),
            nonce: SessionNonce([3; 16]),
            run: RunId([4; 16]),
            received: Timestamp { seconds: 0, nanos: 0 },
            gc_generation: 0,
            tags: tags.to_vec(),
            labels: std::collections::BTreeMap::new(),
            signature: None,
        })
    }

    fn bytes_sent(&self) -> u64 {
        0
    }
}

impl MemoryVault {
    fn manifest(&self, snapshot: ObjectId) -> Manifest {
        let reference = Reference { kind: Kind::Manifest, id: snapshot };
        Manifest::from_node(self.nodes.lock().unwrap().find(&reference).unwrap()).unwrap()
    }

    /// Puts the disk together from the map alone.
    fn reassemble(&self, snapshot: ObjectId) -> Vec<u8> {
        let manifest = self.manifest(snapshot);
        let own = Reference { kind: Kind::Manifest, id: snapshot };
        let link = manifest.link(own, manifest.map.reference).unwrap();
        let nodes = self.nodes.lock().unwrap();
        let chunks = self.chunks.lock().unwrap();
        let len = manifest.disk.length;
        let mut disk = vec![0xEE_u8; usize::try_from(len.0).unwrap()];
        for run in MapReader::new(&*nodes, link, len).runs(span(0, len.0)) {
            let run = run.unwrap().run;
            let start = usize::try_from(run.disk.start().0).unwrap();
            let target = &mut disk[start..start + usize::try_from(run.disk.len().0).unwrap()];
            match run.content {
                Content::Data { chunk, offset } => {
                    let from = offset as usize;
                    target.copy_from_slice(&chunks[&chunk][from..from + target.len()]);
                }
                _ => target.fill(0),
            }
        }
        disk
    }
}

struct NoneKnown;
impl KnownIds for NoneKnown {
    fn contains(&self, _: &ObjectId) -> bool {
        false
    }
}

fn labels() -> Labels {
    Labels {
        machine: "m".into(),
        disk: "d".into(),
        source: "memory".into(),
        sector_bytes: 512,
        host: "h".into(),
        time: Timestamp { seconds: 1, nanos: 2 },
        tags: vec!["t".into()],
        method: Method { consistency: Consistency::Offline, text: "memory".into() },
        run: RunId([4; 16]),
        nonce: SessionNonce([3; 16]),
    }
}

fn inode(number: u64, file_type: FileType, size: u64, extents: Vec<Extent>) -> Inode {
    let time = Timestamp { seconds: 0, nanos: 0 };
    Inode {
        number: InodeNumber(number),
        file_type,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: ByteLen(size),
        mtime: time,
        ctime: time,
        crtime: None,
        nlink: 1,
        generation: 0,
        rdev: None,
        target: None,
        xattrs: Vec::new(),
        project: 0,
        flags: 0,
        extents,
    }
}

/// A volume over the whole disk with these files in its root directory.
fn survey_of(len: u64, files: Vec<Inode>) -> Survey {
    let mut tree = FileTree::default();
    tree.inode(inode(2, FileType::Dir, 4096, Vec::new()));
    for file in files {
        let number = file.number;
        tree.inode(file);
        tree.entry(InodeNumber(2), format!("f{}", number.0).as_bytes(), number);
    }
    tree.sort();
    tree.set_root(InodeNumber(2));
    Survey {
        table: PartitionTable {
            kind: TableKind::None,
            disk_guid: None,
            disk_signature: None,
            partitions: Vec::new(),
            warnings: Vec::new(),
        },
        volumes: vec![Volume {
            path: "disk".into(),
            range: span(0, len),
            kind: "ext4",
            label: None,
            uuid: None,
            parse: Parse::Full,
            tree: Some(tree),
            free: Vec::new(),
            left: Left::Clean,
        }],
        free: FreePolicy::Keep,
    }
}

fn back_up(disk: &MemoryDisk, survey: &Survey, vault: &MemoryVault) -> Outcome {
    let labels = labels();
    let job = Job { uplink: vault, known: &NoneKnown, policy: SendPolicy::Send, labels: &labels };
    run(&job, Input::Disk { device: disk, survey }, &Quiet::default()).unwrap()
}

/// Bytes that repeat nowhere, from a seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes `contents` to a disk of `blocks` blocks of 4 KiB, each file cut into fragments that lie
/// where `order` says; blocks that are left keep noise of `seed`.
fn lay_out(
    contents: &[Vec<u8>],
    blocks: usize,
    fragment: usize,
    seed: u64,
) -> (Vec<u8>, Vec<Inode>) {
    let mut disk = noise(seed, blocks * 4096);
    let mut free: Vec<usize> = (1..blocks / fragment).collect();
    let mut state = seed | 1;
    for i in (1..free.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        free.swap(i, (state >> 33) as usize % (i + 1));
    }
    let mut inodes = Vec::new();
    for (number, content) in contents.iter().enumerate() {
        let mut extents = Vec::new();
        for (index, part) in content.chunks(fragment * 4096).enumerate() {
            let start = free.pop().unwrap() * fragment * 4096;
            let whole = part.len().div_ceil(4096) * 4096;
            disk[start..start + whole].fill(0);
            disk[start..start + part.len()].copy_from_slice(part);
            extents.push(Extent {
                logical: ByteOffset((index * fragment * 4096) as u64),
                volume: span(start as u64, whole as u64),
                kind: ExtentKind::Data,
                codec: Codec::None,
            });
        }
        let size = content.len() as u64;
        inodes.push(inode(number as u64 + 10, FileType::File, size, extents));
    }
    (disk, inodes)
}

fn some_contents() -> Vec<Vec<u8>> {
    let sizes = [1, 4096, 5000, 70_000, 300_000, 1 << 20, 17, 200_001, 65_536];
    sizes.iter().enumerate().map(|(i, &size)| noise(1000 + i as u64, size)).collect()
}

#[test]
fn a_disk_comes_back_and_moving_all_files_makes_no_new_file_chunk() {
    let vault = MemoryVault::default();
    let (first, files) = lay_out(&some_contents(), 3000, 4, 1);
    let survey = survey_of(first.len() as u64, files);
    let disk = MemoryDisk::new(first.clone());
    let outcome = back_up(&disk, &survey, &vault);
    assert_eq!(vault.reassemble(outcome.snapshot), first);
    assert_eq!(outcome.unreadable, 0);
    let read = disk.read.load(Ordering::Relaxed);
    assert!(read * 4 <= first.len() as u64 * 5, "{read} read of {}", first.len());

    // The same files elsewhere and in larger fragments, on a disk of other noise.
    let (second, files) = lay_out(&some_contents(), 3000, 7, 2);
    let survey = survey_of(second.len() as u64, files);
    let outcome = back_up(&MemoryDisk::new(second.clone()), &survey, &vault);
    assert_eq!(vault.reassemble(outcome.snapshot), second);
    assert_eq!(outcome.bytes_new[0], 0, "new bytes from files");
}

#[test]
fn the_image_hash_is_that_of_the_bytes() {
    let vault = MemoryVault::default();
    let (bytes, files) = lay_out(&some_contents(), 5000, 3, 3);
    let survey = survey_of(bytes.len() as u64, files);
    let outcome = back_up(&MemoryDisk::new(bytes.clone()), &survey, &vault);
    let mut hasher = blake3::Hasher::new_derive_key("umbra 1 image hash");
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    for window in bytes.chunks(16 << 20) {
        hasher.update(blake3::hash(window).as_bytes());
    }
    assert_eq!(outcome.image_hash, *hasher.finalize().as_bytes());
}

#[test]
fn sectors_that_cannot_be_read_are_zeros_and_said() {
    let vault = MemoryVault::default();
    let (bytes, files) = lay_out(&some_contents(), 2000, 4, 4);
    let bad = [files[4].extents[1].volume.start().0, 8192];
    let survey = survey_of(bytes.len() as u64, files);
    let mut disk = MemoryDisk::new(bytes.clone());
    disk.bad = bad.iter().map(|&start| span(start, 512)).collect();
    let outcome = back_up(&disk, &survey, &vault);
    let mut expected = bytes;
    for start in bad {
        let start = usize::try_from(start).unwrap() / 4096 * 4096;
        expected[start..start + 4096].fill(0);
    }
    assert_eq!(outcome.unreadable, 2);
    assert_eq!(outcome.map.unreadable, 8192);
    assert!(vault.reassemble(outcome.snapshot) == expected);
}

#[test]
fn files_that_claim_the_same_blocks_are_residue_and_said() {
    let vault = MemoryVault::default();
    let (bytes, mut files) = lay_out(&some_contents(), 2000, 4, 5);
    files[3].extents[0].volume = files[4].extents[0].volume;
    let survey = survey_of(bytes.len() as u64, files);
    let labels = labels();
    let job = Job { uplink: &vault, known: &NoneKnown, policy: SendPolicy::Send, labels: &labels };
    let monitor = Quiet::default();
    let disk = MemoryDisk::new(bytes.clone());
    let outcome = run(&job, Input::Disk { device: &disk, survey: &survey }, &monitor).unwrap();
    assert_eq!(monitor.warnings().1, 2);
    assert_eq!(vault.manifest(outcome.snapshot).warnings_total, 2);
    assert!(vault.reassemble(outcome.snapshot) == bytes);
}

#[test]
fn a_stream_gives_the_map_of_an_unparsed_disk() {
    let vault = MemoryVault::default();
    let mut bytes = noise(6, 40_000_123);
    bytes[1_000_000..9_000_000].fill(0);
    let labels = labels();
    let job = Job { uplink: &vault, known: &NoneKnown, policy: SendPolicy::Send, labels: &labels };
    let streamed = run(&job, Input::Stream(&mut bytes.as_slice()), &Quiet::default()).unwrap();
    assert!(vault.reassemble(streamed.snapshot) == bytes);
    let mut survey = survey_of(bytes.len() as u64, Vec::new());
    survey.volumes[0].tree = None;
    let read = back_up(&MemoryDisk::new(bytes), &survey, &vault);
    let maps = [streamed, read].map(|outcome| vault.manifest(outcome.snapshot).map);
    assert_eq!(maps[0], maps[1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_layout_comes_back(
        sizes in proptest::collection::vec(0_usize..200_000, 0..12),
        fragment in 1_usize..9,
        seed in any::<u64>(),
        zeros in 0_usize..150_000,
    ) {
        let mut contents: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(i, &n)| noise(seed ^ i as u64, n)).collect();
        if let Some(first) = contents.first_mut() {
            let half = first.len() / 2;
            let zeros = zeros.min(first.len() - half);
            first[half..half + zeros].fill(0);
        }
        let (bytes, files) = lay_out(&contents, 6000, fragment, seed);
        let survey = survey_of(bytes.len() as u64, files);
        let vault = MemoryVault::default();
        let outcome = back_up(&MemoryDisk::new(bytes.clone()), &survey, &vault);
        prop_assert!(vault.reassemble(outcome.snapshot) == bytes);
    }
}
