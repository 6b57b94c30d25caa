//! Real disks for stores of tests: image maps, overlays, manifests. The tests of the index use
//! them, too.

use std::collections::BTreeMap;

use umbra_common::image_hash::{ImageHash, WindowHash};
use umbra_common::map::{self, Content, MapBuilder, Run};
use umbra_common::node::{Node, NodeSink};
use umbra_common::overlay::{
    ContentHash, Extent, Extents, Record, Xattrs, write_directory, write_root,
};
use umbra_common::snapshot::{
    Consistency, Counts, DiskLabel, FreePolicy, Manifest, Method, Parameters, Parsed, RunId,
    SessionNonce, Volume,
};
use umbra_common::wire::Object;
use umbra_common::{ByteLen, ByteOffset, ByteRange, Kind, Reference};
use umbra_fsparse::{Codec, ExtentKind, FileType, InodeNumber, Timestamp as FileTime, Xattr};

/// Bytes of a chunk, and the space that each file's piece has on the disk.
const PIECE: u64 = 40_960;
/// Length of each disk: a window and a half.
const DISK: u64 = 24 << 20;
/// Where the second window begins.
const WINDOW: u64 = 16 << 20;

/// A file: its name in its directory, the seeds of its chunks, whether it has large attributes.
pub(crate) struct File {
    pub(crate) dir: &'static str,
    pub(crate) name: &'static str,
    pub(crate) chunks: &'static [u64],
    pub(crate) large_xattrs: bool,
}

/// Makes a file of chunks.
pub(crate) fn file(dir: &'static str, name: &'static str, chunks: &'static [u64]) -> File {
    File { dir, name, chunks, large_xattrs: false }
}

/// The bytes of a chunk; odd ones do not compress.
pub(crate) fn chunk_bytes(seed: u64) -> Vec<u8> {
    let len = usize::try_from(PIECE).unwrap() - usize::try_from(seed % 7).unwrap() * 512;
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..len).map(|at| if seed % 2 == 1 || at < 64 { next() } else { seed as u8 }).collect()
}

/// The reference of a chunk.
pub(crate) fn chunk(seed: u64) -> Reference {
    let id = umbra_common::ObjectId::of_chunk(&chunk_bytes(seed));
    Reference { kind: Kind::Chunk, id }
}

/// What a disk is made of, children first, the manifest last.
pub(crate) struct Disk {
    pub(crate) machine: &'static str,
    pub(crate) name: &'static str,
    pub(crate) objects: Vec<Object>,
}

impl Disk {
    /// The snapshot's id.
    pub(crate) fn snapshot(&self) -> Reference {
        self.objects.last().unwrap().reference
    }

    /// The references of all objects of a kind.
    pub(crate) fn of_kind(&self, kind: Kind) -> Vec<Reference> {
        let all = self.objects.iter().map(|object| object.reference);
        all.filter(|reference| reference.kind == kind).collect()
    }
}

#[derive(Default)]
struct Objects(Vec<Object>);

impl NodeSink for Objects {
    fn put(&mut self, node: Node) -> umbra_common::Result<Reference> {
        let object = Object::pack(node.kind, node.refs, node.body, 3)?;
        let reference = object.reference;
        self.0.push(object);
        Ok(reference)
    }
}

/// Makes a disk with files of which every second one lies in the second window.
pub(crate) fn disk(machine: &'static str, name: &'static str, files: &[File]) -> Disk {
    let mut objects = Objects::default();
    let mut runs: BTreeMap<u64, Run> = BTreeMap::new();
    let mut dirs: BTreeMap<&str, Vec<Record>> = BTreeMap::new();
    let mut next = [64 << 10, WINDOW + (64 << 10)];
    for (number, file) in files.iter().enumerate() {
        let at = &mut next[number % 2];
        let mut extents = Vec::new();
        for (piece, seed) in (0u64..).zip(file.chunks) {
            let bytes = chunk_bytes(*seed);
            let disk = range(*at, bytes.len() as u64);
            let content = Content::Data { chunk: chunk(*seed).id, offset: 0 };
            runs.insert(*at, Run { disk, content });
            let logical = ByteOffset(piece * PIECE);
            let (kind, codec) = (ExtentKind::Data, Codec::None);
            extents.push(Extent { logical, disk, kind, codec, part: None });
            objects.0.push(Object::pack(Kind::Chunk, vec![], bytes, 3).unwrap());
            // A hole between two pieces, so that extents stay apart.
            *at += PIECE + 4096;
        }
        dirs.entry(file.dir).or_default().push(record(file, extents));
    }
    let map = write_map(&mut objects, &runs);
    let mut top: Vec<Record> = dirs.remove("").unwrap_or_default();
    for (dir, mut records) in dirs {
        records.sort_by(|a, b| a.name.cmp(&b.name));
        let node = write_directory(&mut objects, records).unwrap();
        top.push(directory(dir, node));
    }
    top.sort_by(|a, b| a.name.cmp(&b.name));
    let top = write_directory(&mut objects, top).unwrap();
    let root = write_root(&mut objects, directory("", top)).unwrap();
    let data = runs.values().map(|run| run.disk.len().0).sum();
    let node = manifest(machine, name, map, root, data).to_node().unwrap();
    objects.put(node).unwrap();
    Disk { machine, name, objects: objects.0 }
}

fn range(start: u64, len: u64) -> ByteRange {
    ByteRange::new(ByteOffset(start), ByteLen(len)).unwrap()
}

fn write_map(objects: &mut Objects, runs: &BTreeMap<u64, Run>) -> map::MapRoot {
    let mut builder = MapBuilder::new(ByteLen(DISK));
    for (start, end) in [(0, WINDOW), (WINDOW, DISK)] {
        let mut at = start;
        let mut window = Vec::new();
        for run in runs
            .range(start..end)
            .map(|(_, run)| *run)
            .chain([Run { disk: range(end, 0), content: Content::Zero }])
        {
            let before = run.disk.start().0 - at;
            if before > 0 {
                window.push(Run { disk: range(at, before), content: Content::Zero });
            }
            if run.disk.len().0 > 0 {
                window.push(run);
            }
            at = run.disk.end().0;
        }
        let hash = match window.len() {
            1 => WindowHash::of_zeros(ByteLen(end - start)),
            _ => WindowHash([9; 32]),
        };
        builder.window(objects, &window, hash).unwrap();
    }
    builder.finish(objects).unwrap()
}

fn record(file: &File, extents: Vec<Extent>) -> Record {
    let attribute = |number: u8| Xattr {
        name: format!("user.{number}").into_bytes(),
        value: vec![number; 5_000],
    };
    let xattrs = if file.large_xattrs { vec![attribute(1), attribute(2)] } else { Vec::new() };
    let size = extents.last().map_or(0, |extent| extent.content().end().0);
    Record {
        name: file.name.as_bytes().to_vec(),
        file_type: FileType::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: ByteLen(size),
        mtime: FileTime { seconds: 1, nanos: 0 },
        ctime: FileTime { seconds: 1, nanos: 0 },
        crtime: None,
        nlink: 1,
        inode: InodeNumber(12),
        volume: 0,
        generation: 0,
        rdev: None,
        target: None,
        xattrs: Xattrs::Inline(xattrs),
        project: 0,
        flags: 0,
        content: ContentHash::Blake3([7; 32]),
        extents: Extents::Inline(extents),
        directory: None,
    }
}

fn directory(name: &'static str, node: Reference) -> Record {
    Record {
        file_type: FileType::Dir,
        content: ContentHash::NotAFile,
        directory: Some(node),
        ..record(&file("", name, &[]), Vec::new())
    }
}

fn manifest(
    machine: &str,
    name: &str,
    map: map::MapRoot,
    root: Reference,
    bytes_data: u64,
) -> Manifest {
    Manifest {
        disk: DiskLabel {
            name: name.to_owned(),
            length: ByteLen(DISK),
            sector_bytes: 512,
            ..DiskLabel::default()
        },
        machine: machine.to_owned(),
        host: machine.to_owned(),
        agent_time: FileTime { seconds: 5, nanos: 0 },
        tags: Vec::new(),
        parameters: Parameters::current(),
        partition_table: "gpt".to_owned(),
        volumes: vec![Volume {
            path: "part/1".to_owned(),
            kind: "ext4".to_owned(),
            label: String::new(),
            uuid: String::new(),
            range: range(0, DISK),
            parsed: Parsed::Full,
            files: 0,
            dirs: 0,
            bytes: 0,
            overlay: Some(root),
        }],
        map,
        image_hash: ImageHash([3; 32]),
        counts: Counts {
            bytes_total: DISK,
            bytes_data,
            bytes_zero: DISK - bytes_data,
            ..Counts::default()
        },
        free: FreePolicy::Keep,
        warnings: Vec::new(),
        warnings_total: 0,
        unreadable_ranges: 0,
        method: Method { consistency: Consistency::Offline, text: String::new() },
        run: RunId([1; 16]),
        nonce: SessionNonce([2; 16]),
        signature: None,
    }
}
