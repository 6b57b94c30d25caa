//! What the sessions of a schedule back up: some machines, each a few times, with disks that are
//! small and real: image maps, overlays and manifests that decode.

use std::collections::BTreeMap;

use umbra_common::image_hash::{ImageHash, WindowHash};
use umbra_common::map::{Content, MapBuilder, MapRoot, Run};
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

use crate::bytes::{narrow, wide};
use crate::testing::random::Random;

/// A window of the image map.
const WINDOW: u64 = 16 << 20;

/// The place that each chunk has on its disk, and the longest chunk.
const PLACE: u64 = 32 << 10;

/// One backup of one disk.
#[derive(Clone, Debug)]
pub(super) struct DiskVersion {
    /// Its machine and disk.
    pub(super) name: String,
    /// Everything that it is made of, children first, the manifest last.
    pub(super) objects: Vec<Reference>,
    /// Its manifest: the snapshot's id.
    pub(super) manifest: Reference,
    /// The version before it, where there is one.
    pub(super) before: Option<usize>,
}

/// Everything that may be backed up.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) objects: BTreeMap<Reference, Object>,
    pub(super) versions: Vec<DiskVersion>,
}

/// A file of a disk: its directory, its name, its chunks, by number.
#[derive(Clone)]
struct File {
    dir: u64,
    name: u64,
    window: usize,
    chunks: Vec<u64>,
}

impl World {
    /// Makes what a seed says.
    pub(super) fn new(seed: u64) -> umbra_common::Result<Self> {
        let mut random = Random::new(seed, "world");
        let mut world = Self::default();
        let machines = random.below(3).saturating_add(1);
        // Machines have files in common: one image was the beginning of all.
        let mut next_name = 0u64;
        let image = some_files(&mut random, &mut next_name);
        for machine in 0..machines {
            let mut files = image.clone();
            files.extend(some_files(&mut random, &mut next_name));
            let mut before = None;
            for _ in 0..random.below(3).saturating_add(1) {
                let name = format!("m{machine}");
                world.add_version(&name, &files, before)?;
                before = world.versions.len().checked_sub(1);
                change_files(&mut files, &mut random, &mut next_name);
            }
        }
        Ok(world)
    }

    fn add_version(
        &mut self,
        name: &str,
        files: &[File],
        before: Option<usize>,
    ) -> umbra_common::Result<()> {
        let mut sink = Sink { world: self, references: Vec::new() };
        let windows = files.iter().map(|file| file.window).max().unwrap_or(0).saturating_add(1);
        let disk = wide(windows).saturating_mul(WINDOW);
        let mut runs: BTreeMap<u64, Run> = BTreeMap::new();
        let mut dirs: BTreeMap<u64, Vec<Record>> = BTreeMap::new();
        let mut next: Vec<u64> = (0..wide(windows)).map(|n| n.saturating_mul(WINDOW)).collect();
        for file in files {
            let Some(at) = next.get_mut(file.window) else { continue };
            let mut extents = Vec::new();
            for (piece, number) in (0u64..).zip(&file.chunks) {
                let bytes = chunk_bytes(*number);
                let disk = range(*at, wide(bytes.len()))?;
                let object = Object::pack(Kind::Chunk, vec![], bytes, 1)?;
                let content = Content::Data { chunk: object.reference.id, offset: 0 };
                runs.insert(*at, Run { disk, content });
                let logical = ByteOffset(piece.saturating_mul(PLACE));
                let (kind, codec) = (ExtentKind::Data, Codec::None);
                extents.push(Extent { logical, disk, kind, codec, part: None });
                sink.take(object);
                *at = at.saturating_add(PLACE);
            }
            dirs.entry(file.dir).or_default().push(record(file, extents));
        }
        let map = write_map(&mut sink, &runs, windows)?;
        let mut top = Vec::new();
        for (dir, mut records) in dirs {
            records.sort_by(|a, b| a.name.cmp(&b.name));
            let node = write_directory(&mut sink, records)?;
            top.push(directory(format!("d{dir}").into_bytes(), node));
        }
        top.sort_by(|a, b| a.name.cmp(&b.name));
        let top = write_directory(&mut sink, top)?;
        let root = write_root(&mut sink, directory(Vec::new(), top))?;
        let data = runs.values().map(|run| run.disk.len().0).sum();
        let manifest = manifest(name, disk, map, root, data).to_node()?;
        let manifest = sink.put(manifest)?;
        let objects = sink.references;
        let name = name.to_owned();
        self.versions.push(DiskVersion { name, objects, manifest, before });
        Ok(())
    }
}

/// Takes the objects of one version, each once.
struct Sink<'a> {
    world: &'a mut World,
    references: Vec<Reference>,
}

impl Sink<'_> {
    fn take(&mut self, object: Object) -> Reference {
        let reference = object.reference;
        if !self.references.contains(&reference) {
            self.references.push(reference);
        }
        self.world.objects.entry(reference).or_insert(object);
        reference
    }
}

impl NodeSink for Sink<'_> {
    fn put(&mut self, node: Node) -> umbra_common::Result<Reference> {
        let object = Object::pack(node.kind, node.refs, node.body, 1)?;
        Ok(self.take(object))
    }
}

fn some_files(random: &mut Random, next_name: &mut u64) -> Vec<File> {
    let count = random.below(8).saturating_add(1);
    (0..count).map(|_| some_file(random, next_name)).collect()
}

fn some_file(random: &mut Random, next_name: &mut u64) -> File {
    *next_name = next_name.saturating_add(1);
    let chunks = random.below(6);
    File {
        dir: random.below(3),
        name: *next_name,
        window: random.position(3),
        // Few numbers, so that contents stand in several files.
        chunks: (0..chunks).map(|_| random.below(200)).collect(),
    }
}

/// What happens to a disk between two backups.
fn change_files(files: &mut Vec<File>, random: &mut Random, next_name: &mut u64) {
    for _ in 0..random.below(3).saturating_add(1) {
        let position = random.position(files.len());
        match random.below(3) {
            0 => files.push(some_file(random, next_name)),
            1 if files.len() > 1 => drop(files.remove(position)),
            _ => {
                if let Some(file) = files.get_mut(position) {
                    file.chunks.push(random.below(200));
                }
            }
        }
    }
}

/// Bytes that depend on a number alone: every third chunk does not compress, some are long.
fn chunk_bytes(number: u64) -> Vec<u8> {
    let mut random = Random::new(number, "chunk");
    let longest = if number.is_multiple_of(16) { PLACE } else { 3_000 };
    let len = random.below(longest.saturating_sub(600)).saturating_add(500);
    let mut bytes = vec![0; narrow(len)];
    if number.is_multiple_of(3) {
        let mut stream = blake3::Hasher::new();
        stream.update(&number.to_le_bytes());
        stream.finalize_xof().fill(&mut bytes);
    } else {
        let word = random.next().to_le_bytes();
        bytes.iter_mut().zip(word.iter().cycle()).for_each(|(to, from)| *to = *from);
    }
    bytes
}

fn range(start: u64, len: u64) -> umbra_common::Result<ByteRange> {
    let overflow = umbra_common::Error::Corrupt {
        what: "a simulated disk",
        at: start,
        reason: "a range beyond all numbers",
    };
    ByteRange::new(ByteOffset(start), ByteLen(len)).ok_or(overflow)
}

fn write_map(
    sink: &mut Sink<'_>,
    runs: &BTreeMap<u64, Run>,
    windows: usize,
) -> umbra_common::Result<MapRoot> {
    let mut builder = MapBuilder::new(ByteLen(wide(windows).saturating_mul(WINDOW)));
    for number in 0..wide(windows) {
        let start = number.saturating_mul(WINDOW);
        let end = start.saturating_add(WINDOW);
        let mut at = start;
        let mut window = Vec::new();
        let last = Run { disk: range(end, 0)?, content: Content::Zero };
        for run in runs.range(start..end).map(|(_, run)| *run).chain([last]) {
            let before = run.disk.start().0.saturating_sub(at);
            if before > 0 {
                window.push(Run { disk: range(at, before)?, content: Content::Zero });
            }
            if run.disk.len().0 > 0 {
                window.push(run);
            }
            at = run.disk.end().0;
        }
        let hash = match window.len() {
            1 => WindowHash::of_zeros(ByteLen(WINDOW)),
            _ => WindowHash([9; 32]),
        };
        builder.window(sink, &window, hash)?;
    }
    builder.finish(sink)
}

fn record(file: &File, extents: Vec<Extent>) -> Record {
    // Every fifth file has attributes that take a node of their own.
    let attribute = |number: u8| Xattr {
        name: format!("user.{number}").into_bytes(),
        value: vec![number; 2_500],
    };
    let large = file.name.is_multiple_of(5);
    let xattrs = if large { vec![attribute(1), attribute(2)] } else { Vec::new() };
    let size = extents.last().map_or(0, |extent| extent.content().end().0);
    Record {
        name: format!("f{}", file.name).into_bytes(),
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

fn directory(name: Vec<u8>, node: Reference) -> Record {
    let file = File { dir: 0, name: 1, window: 0, chunks: Vec::new() };
    Record {
        name,
        file_type: FileType::Dir,
        content: ContentHash::NotAFile,
        directory: Some(node),
        ..record(&file, Vec::new())
    }
}

fn manifest(name: &str, disk: u64, map: MapRoot, root: Reference, data: u64) -> Manifest {
    let range = ByteRange::new(ByteOffset(0), ByteLen(disk)).unwrap_or_default();
    Manifest {
        disk: DiskLabel {
            name: name.to_owned(),
            length: ByteLen(disk),
            sector_bytes: 512,
            ..DiskLabel::default()
        },
        machine: name.to_owned(),
        host: name.to_owned(),
        agent_time: FileTime { seconds: 5, nanos: 0 },
        tags: Vec::new(),
        parameters: Parameters::current(),
        partition_table: "gpt".to_owned(),
        volumes: vec![Volume {
            path: "part/1".to_owned(),
            kind: "ext4".to_owned(),
            label: String::new(),
            uuid: String::new(),
            range,
            parsed: Parsed::Full,
            files: 0,
            dirs: 0,
            bytes: 0,
            overlay: Some(root),
        }],
        map,
        image_hash: ImageHash([3; 32]),
        counts: Counts {
            bytes_total: disk,
            bytes_data: data,
            bytes_zero: disk.saturating_sub(data),
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
