//! Snapshots in memory for tests: a tree laid out in random pieces on a small disk, its map and
//! overlay built with the builders that a backup uses, its chunks in a table.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use umbra_common::image_hash::{WINDOW_BYTES, WindowHash, image_hash};
use umbra_common::map::{Content, MapBuilder, Run};
use umbra_common::node::memory::MemoryNodes;
use umbra_common::node::{Node, NodeSink};
use umbra_common::overlay::{
    ContentHash, Extent, Extents, Record, Xattrs, write_directory, write_root,
};
use umbra_common::snapshot::{
    Consistency, Counts, DiskLabel, FreePolicy, MachineId, Manifest, Method, Parameters, Parsed,
    Receipt, RunId, SessionNonce, StoreId, Volume,
};
use umbra_common::{ByteLen, ByteOffset, ByteRange, Kind, ObjectId, Reference};
use umbra_fsparse::{Codec, DeviceNumber, ExtentKind, FileType, InodeNumber, Timestamp, Xattr};
use umbra_net::Wanted;

use crate::catalog::Snapshot;
use crate::content::ContentReader;
use crate::error::Result;
use crate::fetch::{ChunkSource, EachChunk};

const BLOCK: u64 = 4096;
/// Chunks of the fixture are cut at this length.
const CHUNK: usize = 12 * 1024;

/// Numbers that are the same for the same seed (xorshift64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// A piece of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Vec<u8>),
    /// Whole blocks.
    Hole(u64),
    /// Whole blocks.
    Unwritten(u64),
    /// Whole blocks that the device did not give.
    Unreadable(u64),
    /// One block as a journal has it: the first four bytes are zeros on the disk.
    Escaped(Vec<u8>),
}

/// What stands under a path.
#[derive(Clone, Debug)]
pub(crate) enum What {
    File(Vec<Piece>),
    Dir,
    Symlink(Vec<u8>),
    Fifo,
    Device(u32, u32),
    /// Another name of the file at this path.
    Link(&'static str),
}

/// An entry that a fixture shall have; directories above it are made.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: Vec<Xattr>,
}

/// Makes an entry that belongs to whoever runs the test.
pub(crate) fn spec(path: impl AsRef<[u8]>, what: What) -> Spec {
    let mode = if matches!(what, What::Dir) { 0o755 } else { 0o644 };
    Spec {
        path: path.as_ref().to_vec(),
        what,
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Timestamp { seconds: 1_000_000_000, nanos: 123_456_789 },
        xattrs: Vec::new(),
    }
}

/// Makes a file of these bytes.
pub(crate) fn file(path: impl AsRef<[u8]>, content: &[u8]) -> Spec {
    spec(path, What::File(vec![Piece::Data(content.to_vec())]))
}

/// Returns what a file of these pieces reads as.
pub(crate) fn content_of(pieces: &[Piece]) -> Vec<u8> {
    let mut content = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Data(bytes) | Piece::Escaped(bytes) => content.extend_from_slice(bytes),
            Piece::Hole(blocks) | Piece::Unwritten(blocks) | Piece::Unreadable(blocks) => {
                content.resize(content.len() + (blocks * BLOCK) as usize, 0);
            }
        }
    }
    content
}

/// Chunks in memory.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    pub(crate) table: HashMap<ObjectId, Vec<u8>>,
    /// How many were asked for.
    pub(crate) asked: AtomicU64,
}

impl ChunkSource for Chunks {
    fn chunks(&self, wanted: &[Wanted], each: &mut EachChunk<'_>) -> Result<()> {
        for (item, wanted) in wanted.iter().enumerate().rev() {
            for (number, reference) in &wanted.objects {
                self.asked.fetch_add(1, Ordering::Relaxed);
                let bytes = self.table.get(&reference.id).cloned();
                each(item, *number, bytes.ok_or_else(|| "the vault lost it".to_owned()));
            }
        }
        Ok(())
    }
}

/// A snapshot in memory.
pub(crate) struct Fixture {
    pub(crate) nodes: MemoryNodes,
    pub(crate) chunks: Chunks,
    pub(crate) snapshot: Snapshot,
    /// The disk, byte for byte; what was not given is zeros.
    pub(crate) disk: Vec<u8>,
    /// First chunk of each file.
    pub(crate) first_chunk: HashMap<Vec<u8>, ObjectId>,
}

impl Fixture {
    /// Makes a disk with one volume `disk`.
    pub(crate) fn new(seed: u64, specs: &[Spec]) -> Self {
        Self::with_volumes(seed, &[("disk", specs)])
    }

    /// Makes a disk with several volumes.
    pub(crate) fn with_volumes(seed: u64, volumes: &[(&str, &[Spec])]) -> Self {
        let mut layout = Layout::new(seed);
        let mut nodes = MemoryNodes::new();
        let mut described = Vec::new();
        for (path, specs) in volumes {
            let overlay = layout.overlay(specs, &mut nodes);
            described.push(Volume {
                path: (*path).into(),
                kind: "ext4".into(),
                label: String::new(),
                uuid: String::new(),
                range: ByteRange::default(),
                parsed: Parsed::Full,
                files: 0,
                dirs: 0,
                bytes: 0,
                overlay: Some(overlay),
            });
        }
        layout.finish(nodes, described)
    }

    /// Returns a reader of its files.
    pub(crate) fn content(&self) -> ContentReader<'_> {
        ContentReader::new(&self.snapshot, &self.nodes, &self.chunks).unwrap()
    }
}

/// A disk on which files are being laid out.
struct Layout {
    random: Random,
    disk: Vec<u8>,
    /// Runs by first byte.
    runs: BTreeMap<u64, Run>,
    chunks: HashMap<ObjectId, Vec<u8>>,
    first_chunk: HashMap<Vec<u8>, ObjectId>,
    inode: u64,
}

impl Layout {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            disk: vec![0; BLOCK as usize],
            runs: BTreeMap::new(),
            chunks: HashMap::new(),
            first_chunk: HashMap::new(),
            inode: 10,
        }
    }

    /// Finds room for some blocks, sometimes behind a gap.
    fn allocate(&mut self, blocks: u64) -> u64 {
        let gap = self.random.below(3) * BLOCK;
        let at = self.disk.len() as u64 + gap;
        self.disk.resize((at + blocks * BLOCK) as usize, 0);
        at
    }

    fn put_run(&mut self, at: u64, len: u64, content: Content) {
        let disk = ByteRange::new(ByteOffset(at), ByteLen(len)).unwrap();
        self.runs.insert(at, Run { disk, content });
    }

    /// Lays out a file and returns its extents and size.
    fn file(&mut self, path: &[u8], pieces: &[Piece]) -> (Vec<Extent>, u64) {
        let mut extents = Vec::new();
        let mut logical = 0_u64;
        let extent = |logical, at, len, kind, codec| Extent {
            logical: ByteOffset(logical),
            disk: ByteRange::new(ByteOffset(at), ByteLen(len)).unwrap(),
            kind,
            codec,
            part: None,
        };
        for piece in pieces {
            match piece {
                Piece::Hole(blocks) => logical += blocks * BLOCK,
                Piece::Unwritten(blocks) | Piece::Unreadable(blocks) => {
                    let len = blocks * BLOCK;
                    let at = self.allocate(*blocks);
                    let mut kind = ExtentKind::Unwritten;
                    if matches!(piece, Piece::Unreadable(_)) {
                        self.put_run(at, len, Content::Unreadable);
                        kind = ExtentKind::Data;
                    }
                    extents.push(extent(logical, at, len, kind, Codec::None));
                    logical += len;
                }
                Piece::Escaped(block) => {
                    let mut raw = block.clone();
                    raw[..4].fill(0);
                    let at = self.allocate(1);
                    self.disk[at as usize..][..raw.len()].copy_from_slice(&raw);
                    let chunk = ObjectId::of_chunk(&raw);
                    self.chunks.insert(chunk, raw);
                    self.put_run(at, BLOCK, Content::Data { chunk, offset: 0 });
                    let kind = ExtentKind::Data;
                    extents.push(extent(logical, at, BLOCK, kind, Codec::Jbd2Escaped));
                    logical += BLOCK;
                }
                Piece::Data(bytes) => {
                    self.data(path, bytes, logical, &mut extents);
                    logical += bytes.len() as u64;
                }
            }
        }
        (extents, logical)
    }

    /// Cuts data into chunks and puts them on the disk in pieces of whole blocks.
    fn data(&mut self, path: &[u8], bytes: &[u8], logical: u64, extents: &mut Vec<Extent>) {
        let mut at_logical = logical;
        let mut left = bytes;
        // Where in the stream of chunks the current piece is: chunk, offset.
        let ids: Vec<ObjectId> = bytes
            .chunks(CHUNK)
            .map(|chunk| {
                let id = ObjectId::of_chunk(chunk);
                self.chunks.insert(id, chunk.to_vec());
                id
            })
            .collect();
        if let Some(first) = ids.first() {
            self.first_chunk.entry(path.to_vec()).or_insert(*first);
        }
        while !left.is_empty() {
            let blocks = 1 + self.random.below(4);
            let at = self.allocate(blocks);
            let take = left.len().min((blocks * BLOCK) as usize);
            let (piece, rest) = left.split_at(take);
            self.disk[at as usize..][..take].copy_from_slice(piece);
            let mut done = 0_usize;
            while done < take {
                let position = bytes.len() - left.len() + done;
                let offset = position % CHUNK;
                let len = (CHUNK - offset).min(take - done);
                let chunk = ids[position / CHUNK];
                let content = Content::Data { chunk, offset: offset as u32 };
                self.put_run(at + done as u64, len as u64, content);
                done += len;
            }
            extents.push(Extent {
                logical: ByteOffset(at_logical),
                disk: ByteRange::new(ByteOffset(at), ByteLen(take as u64)).unwrap(),
                kind: ExtentKind::Data,
                codec: Codec::None,
                part: None,
            });
            at_logical += take as u64;
            left = rest;
        }
    }

    fn overlay(&mut self, specs: &[Spec], nodes: &mut MemoryNodes) -> Reference {
        let mut records: BTreeMap<Vec<u8>, Record> = BTreeMap::new();
        for spec in specs {
            for (end, _) in spec.path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                let above = self::spec(&spec.path[..end], What::Dir);
                let record = self.record(&above);
                records.entry(above.path).or_insert(record);
            }
            if let What::Link(other) = spec.what {
                let mut record = records[other.as_bytes()].clone();
                record.nlink += 1;
                records.insert(spec.path.clone(), record.clone());
                let same = |r: &&mut Record| r.inode == record.inode;
                records.values_mut().filter(same).for_each(|r| r.nlink = record.nlink);
                continue;
            }
            let record = self.record(spec);
            records.insert(spec.path.clone(), record);
        }
        let root = records.remove(&b""[..]);
        let root = root.unwrap_or_else(|| self.record(&self::spec("", What::Dir)));
        self.directory(root, b"", &records, nodes)
    }

    /// Writes a directory and returns the node of the root, or of its entries.
    fn directory(
        &mut self,
        mut own: Record,
        path: &[u8],
        records: &BTreeMap<Vec<u8>, Record>,
        nodes: &mut MemoryNodes,
    ) -> Reference {
        let mut children = Vec::new();
        for (below, record) in records {
            let rest = match path.is_empty() {
                true => Some(below.as_slice()),
                false => below.strip_prefix(path).and_then(|rest| rest.strip_prefix(b"/")),
            };
            let Some(name) = rest.filter(|name| !name.contains(&b'/')) else { continue };
            let mut record = record.clone();
            record.name = name.to_vec();
            if record.file_type == FileType::Dir {
                record.directory = Some(self.directory(record.clone(), below, records, nodes));
            }
            children.push(record);
        }
        children.sort_by(|a, b| a.name.cmp(&b.name));
        let entries = write_directory(nodes, children).unwrap();
        if !path.is_empty() {
            return entries;
        }
        own.directory = Some(entries);
        write_root(nodes, own).unwrap()
    }

    fn record(&mut self, spec: &Spec) -> Record {
        self.inode += 1;
        let (mut extents, mut size, mut hash) = (Vec::new(), 0, ContentHash::NotAFile);
        let file_type = match &spec.what {
            What::File(pieces) => {
                (extents, size) = self.file(&spec.path, pieces);
                hash = ContentHash::Blake3(*blake3::hash(&content_of(pieces)).as_bytes());
                if pieces.iter().any(|piece| matches!(piece, Piece::Unreadable(_))) {
                    hash = ContentHash::Unreadable;
                }
                FileType::File
            }
            What::Dir | What::Link(_) => FileType::Dir,
            What::Symlink(_) => FileType::Symlink,
            What::Fifo => FileType::Fifo,
            What::Device(..) => FileType::Char,
        };
        Record {
            name: Vec::new(),
            file_type,
            mode: spec.mode,
            uid: spec.uid,
            gid: spec.gid,
            size: ByteLen(size),
            mtime: spec.mtime,
            ctime: spec.mtime,
            crtime: None,
            nlink: 1,
            inode: InodeNumber(self.inode),
            volume: 0,
            generation: 7,
            rdev: match spec.what {
                What::Device(major, minor) => Some(DeviceNumber { major, minor }),
                _ => None,
            },
            target: match &spec.what {
                What::Symlink(target) => Some(target.clone()),
                _ => None,
            },
            xattrs: Xattrs::Inline(spec.xattrs.clone()),
            project: 0,
            flags: 0,
            content: hash,
            extents: Extents::Inline(extents),
            directory: None,
        }
    }

    /// Maps the disk and makes the snapshot.
    fn finish(mut self, mut nodes: MemoryNodes, volumes: Vec<Volume>) -> Fixture {
        // More than one window, the last one short.
        let len = (self.disk.len() as u64).max(WINDOW_BYTES) + 5 * BLOCK + 77;
        self.disk.resize(len as usize, 0);
        let runs = self.all_runs(len);
        let mut builder = MapBuilder::new(ByteLen(len));
        let mut hashes = Vec::new();
        for (index, bytes) in self.disk.chunks(WINDOW_BYTES as usize).enumerate() {
            let start = index as u64 * WINDOW_BYTES;
            let range = ByteRange::new(ByteOffset(start), ByteLen(bytes.len() as u64)).unwrap();
            let window: Vec<Run> = runs.iter().filter_map(|run| cut(run, range)).collect();
            let hash = WindowHash(*blake3::hash(bytes).as_bytes());
            builder.window(&mut nodes, &window, hash).unwrap();
            hashes.push(hash);
        }
        let map = builder.finish(&mut nodes).unwrap();
        let count = |wanted: fn(&Content) -> bool| {
            runs.iter().filter(|run| wanted(&run.content)).map(|run| run.disk.len().0).sum::<u64>()
        };
        let counts = Counts {
            bytes_total: len,
            bytes_data: count(|content| matches!(content, Content::Data { .. })),
            bytes_zero: count(|content| matches!(content, Content::Zero)),
            bytes_unreadable: count(|content| matches!(content, Content::Unreadable)),
            ..Counts::default()
        };
        let manifest = Manifest {
            disk: DiskLabel { name: "d".into(), length: ByteLen(len), ..DiskLabel::default() },
            machine: "m".into(),
            host: "h".into(),
            agent_time: Timestamp::default(),
            tags: Vec::new(),
            parameters: Parameters::current(),
            partition_table: String::new(),
            volumes,
            map,
            image_hash: image_hash(ByteLen(len), hashes).unwrap(),
            counts,
            free: FreePolicy::Keep,
            warnings: Vec::new(),
            warnings_total: 0,
            unreadable_ranges: 0,
            method: Method { consistency: Consistency::Offline, text: "test".into() },
            run: RunId::default(),
            nonce: SessionNonce::default(),
            signature: None,
        };
        let node: Node = manifest.to_node().unwrap();
        let reference = nodes.put(node).unwrap();
        assert_eq!(reference.kind, Kind::Manifest);
        let snapshot = Snapshot { reference, receipt: receipt(reference.id), manifest };
        let chunks = Chunks { table: self.chunks, asked: AtomicU64::new(0) };
        Fixture { nodes, chunks, snapshot, disk: self.disk, first_chunk: self.first_chunk }
    }

    /// Fills what no file covers with zeros.
    fn all_runs(&self, len: u64) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut at = 0;
        let zeros = |from: u64, to: u64| Run {
            disk: ByteRange::between(ByteOffset(from), ByteOffset(to)).unwrap(),
            content: Content::Zero,
        };
        for run in self.runs.values() {
            if run.disk.start().0 > at {
                runs.push(zeros(at, run.disk.start().0));
            }
            at = run.disk.end().0;
            runs.push(*run);
        }
        runs.push(zeros(at, len));
        runs
    }
}

fn cut(run: &Run, range: ByteRange) -> Option<Run> {
    let disk = run.disk.intersection(range)?;
    let skipped = disk.start().0 - run.disk.start().0;
    Some(Run { disk, content: run.content.after(skipped)? })
}

fn receipt(snapshot: ObjectId) -> Receipt {
    Receipt {
        store: StoreId::default(),
        sequence: 1,
        previous: None,
        snapshot,
        domain: 0,
        machine: MachineId::default(),
        machine_name: "m".into(),
        disk: "d".into(),
        nonce: SessionNonce::default(),
        run: RunId::default(),
        received: Timestamp::default(),
        gc_generation: 0,
        tags: Vec::new(),
        labels: BTreeMap::new(),
        signature: None,
    }
}
