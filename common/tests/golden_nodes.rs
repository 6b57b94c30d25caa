//! Golden vectors of nodes and receipts: `testdata/formats/v1/nodes.txt`.
//!
//! The file freezes ids and canonical bytes; a change here costs every user a full upload.
//! `docs/formats/nodes.py` reads the same file without any code of ours.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use umbra_common::image_hash::{ImageHash, WINDOW_BYTES, WindowHash, window_range};
use umbra_common::map::{self, Content, MapBuilder, MapRoot, Run};
use umbra_common::node::memory::MemoryNodes;
use umbra_common::node::{Node, NodeSink};
use umbra_common::overlay::{
    ContentHash, Extent, Extents, Record, Xattrs, write_directory, write_root,
};
use umbra_common::snapshot::{
    Consistency, Counts, DiskLabel, FreePolicy, MachineId, Manifest, ManifestWarning, Method,
    Parameters, Parsed, Receipt, RunId, SessionNonce, StoreId, Volume,
};
use umbra_common::{ByteLen, ByteOffset, ByteRange, ObjectId, Reference, Result};
use umbra_fsparse::{Codec, DeviceNumber, ExtentKind, FileType, InodeNumber, Timestamp, Xattr};

const W: u64 = WINDOW_BYTES;
/// Two levels of map nodes, a short last window.
const DISK: u64 = 300 * W + 5000;

/// Writes down every distinct node in the order in which it came.
#[derive(Default)]
struct Recorder {
    nodes: MemoryNodes,
    seen: HashSet<Reference>,
    text: String,
}

impl NodeSink for Recorder {
    fn put(&mut self, node: Node) -> Result<Reference> {
        let (name, bytes) = (node.kind.name().replace(' ', "-"), hex(&node.to_bytes()));
        let reference = self.nodes.put(node)?;
        if self.seen.insert(reference) {
            writeln!(self.text, "node {name} {} {bytes}", reference.id).unwrap();
        }
        Ok(reference)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The id of chunk number `number`: BLAKE3 of the number as u64, little-endian.
fn chunk(number: u64) -> ObjectId {
    ObjectId::of_chunk(&number.to_le_bytes())
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(ByteOffset(start), ByteOffset(end)).unwrap()
}

/// Maps a disk of these runs; windows with data have the hash of their number.
fn build_map(sink: &mut dyn NodeSink, disk: u64, runs: &[(u64, Content)]) -> MapRoot {
    let mut builder = MapBuilder::new(ByteLen(disk));
    let (mut runs, mut at) = (runs.iter().copied().peekable(), 0);
    let mut left = 0;
    for index in 0.. {
        let Some(window) = window_range(ByteLen(disk), index) else { break };
        let mut here = Vec::new();
        while at < window.end().0 {
            let (len, content) = *runs.peek().unwrap();
            left = if left == 0 { len } else { left };
            let end = window.end().0.min(at + left);
            let content = content.after(len - left).unwrap();
            here.push(Run { disk: range(at, end), content });
            left -= end - at;
            at = end;
            if left == 0 {
                runs.next();
            }
        }
        let data = here.iter().any(|run| matches!(run.content, Content::Data { .. }));
        let hash =
            if data { WindowHash(chunk(index).0) } else { WindowHash::of_zeros(window.len()) };
        builder.window(sink, &here, hash).unwrap();
    }
    builder.finish(sink).unwrap()
}

fn golden_map(sink: &mut dyn NodeSink) -> MapRoot {
    let data = |number, offset| Content::Data { chunk: chunk(number), offset };
    let runs = [
        (65_536, data(1, 0)),
        (4096, data(2, 8192)),
        (100, data(1, 512)),
        (W - 69_732 - 4096, Content::Free),
        (4096, Content::Unreadable),
        (10 * W, Content::Zero),
        (5 * W, Content::Excluded),
        (W, data(3, 0)),
        (W, data(3, 0)),
        (238 * W, Content::Free),
        (44 * W, Content::Zero),
        (4000, data(4, 0)),
        (1000, Content::Zero),
    ];
    build_map(sink, DISK, &runs)
}

fn extent(logical: u64, disk: u64, len: u64) -> Extent {
    let (kind, codec) = (ExtentKind::Data, Codec::None);
    let disk = range(disk, disk + len);
    Extent { logical: ByteOffset(logical), disk, kind, codec, part: None }
}

fn file(name: &str) -> Record {
    Record {
        name: name.as_bytes().to_vec(),
        file_type: FileType::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: ByteLen(0),
        mtime: Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 },
        ctime: Timestamp { seconds: 1_700_000_000, nanos: 0 },
        crtime: None,
        nlink: 1,
        inode: InodeNumber(12),
        volume: 0,
        generation: 0,
        rdev: None,
        target: None,
        xattrs: Xattrs::Inline(Vec::new()),
        project: 0,
        flags: 0,
        content: ContentHash::Shared,
        extents: Extents::Inline(Vec::new()),
        directory: None,
    }
}

fn other(name: &str, file_type: FileType) -> Record {
    Record { file_type, content: ContentHash::NotAFile, ..file(name) }
}

fn dir(name: &str, node: Reference) -> Record {
    Record { mode: 0o755, nlink: 2, directory: Some(node), ..other(name, FileType::Dir) }
}

fn golden_overlay(sink: &mut dyn NodeSink) -> Reference {
    let numbered = (0..200).map(|number| file(&format!("{number:03}")));
    let many = write_directory(sink, numbered).unwrap();
    let empty = write_directory(sink, []).unwrap();
    let xattr = |name: &str, len| Xattr { name: name.into(), value: vec![0x61; len] };
    let full = Record {
        mode: 0o7777,
        uid: 1000,
        gid: u32::MAX,
        size: ByteLen(1 << 40),
        mtime: Timestamp { seconds: -1, nanos: 999_999_999 },
        crtime: Some(Timestamp { seconds: i64::MIN, nanos: 0 }),
        nlink: 2,
        inode: InodeNumber(u64::MAX),
        volume: 5,
        generation: 7,
        xattrs: Xattrs::Inline(vec![xattr("security.selinux", 3), xattr("user.a", 0)]),
        project: 9,
        flags: 0x8_0000,
        content: ContentHash::Blake3(chunk(1).0),
        extents: Extents::Inline(vec![
            extent(0, W, 8192),
            Extent { kind: ExtentKind::Unwritten, ..extent(8192, 5 * W, 4096) },
            Extent { kind: ExtentKind::Inline, ..extent(65_536, 77, 60) },
            Extent { codec: Codec::Jbd2Escaped, ..extent(1 << 20, 4096, 4096) },
            Extent {
                codec: Codec::Zstd,
                part: Some(range(4096, 12_288)),
                ..extent(1 << 21, 8192, 4096)
            },
        ]),
        ..file("full")
    };
    let pieces = (0..100).map(|number| extent(number << 25, (99 - number) << 20, 4096 + number));
    let records = vec![
        Record {
            rdev: Some(DeviceNumber { major: 8, minor: 1 }),
            ..other("block", FileType::Block)
        },
        Record { rdev: Some(DeviceNumber { major: 1, minor: 3 }), ..other("char", FileType::Char) },
        dir("empty", empty),
        other("fifo", FileType::Fifo),
        full.clone(),
        Record { name: b"full-2".to_vec(), ..full },
        Record { target: Some(b"/etc/../x".to_vec()), ..other("link", FileType::Symlink) },
        dir("many", many),
        Record { extents: Extents::Inline(pieces.collect()), ..file("pieces") },
        other("socket", FileType::Socket),
        Record {
            xattrs: Xattrs::Inline(vec![xattr("user.a", 5000), xattr("user.b", 10)]),
            ..file("xattrs")
        },
        Record { name: b"\xff\xfe".to_vec(), content: ContentHash::Unreadable, ..file("") },
    ];
    let top = write_directory(sink, records).unwrap();
    write_root(sink, dir("", top)).unwrap()
}

fn golden_manifest(map: MapRoot, overlay: Reference) -> Manifest {
    let volume = |path: &str, start, overlay| Volume {
        path: path.into(),
        kind: "ext4".into(),
        label: "root".into(),
        uuid: "0ee4d0ab-9ef0-4e01-9e01-4f3a36d0c101".into(),
        range: range(start, start + W),
        parsed: Parsed::Partial { reason: "2 inodes are damaged".into() },
        files: 210,
        dirs: 4,
        bytes: 1 << 41,
        overlay,
    };
    Manifest {
        disk: DiskLabel {
            name: "sda".into(),
            length: ByteLen(DISK),
            sector_bytes: 512,
            source: "/dev/sda".into(),
            guid: Some([9; 16]),
            labels: BTreeMap::from([("serial".into(), "X1".into())]),
        },
        machine: "host-1".into(),
        host: "host-1.example".into(),
        agent_time: Timestamp { seconds: 1_700_000_100, nanos: 1 },
        tags: vec!["nightly".into()],
        parameters: Parameters::current(),
        partition_table: "gpt".into(),
        volumes: vec![
            Volume {
                parsed: Parsed::None { reason: "encrypted".into() },
                ..volume("part/1", W, None)
            },
            volume("part/2", 2 * W, Some(overlay)),
        ],
        map,
        image_hash: ImageHash(chunk(5).0),
        counts: Counts {
            bytes_total: DISK,
            bytes_data: 69_732 + 2 * W + 4000,
            bytes_zero: 54 * W + 1000,
            bytes_free: 239 * W - 69_732 - 4096,
            bytes_unreadable: 4096,
            bytes_excluded: 5 * W,
            chunks: 4,
            files: 210,
            files_read: 209,
            files_inherited: 1,
            windows_inherited: 2,
            ..Counts::default()
        },
        free: FreePolicy::Skip,
        warnings: vec![ManifestWarning {
            offset: Some(ByteOffset(2 * W + 1024)),
            inode: Some(12),
            ..ManifestWarning::new("part/2", "inode", "its checksum does not match")
        }],
        warnings_total: 2,
        unreadable_ranges: 1,
        method: Method { consistency: Consistency::Freeze, text: "frozen, O_DIRECT".into() },
        run: RunId([1; 16]),
        nonce: SessionNonce([2; 16]),
        signature: None,
    }
}

fn golden_receipt(snapshot: ObjectId) -> Receipt {
    Receipt {
        store: StoreId([3; 16]),
        sequence: 2,
        previous: Some([4; 32]),
        snapshot,
        domain: 0,
        machine: MachineId([5; 16]),
        machine_name: "host-1".into(),
        disk: "sda".into(),
        nonce: SessionNonce([2; 16]),
        run: RunId([1; 16]),
        received: Timestamp { seconds: 1_700_000_200, nanos: 2 },
        gc_generation: 6,
        tags: vec!["nightly".into()],
        labels: BTreeMap::from([("host".into(), "host-1.example".into())]),
        signature: None,
    }
}

/// Trees whose nodes are too many to stand in the file; their rules stand in docs/formats.
fn roots() -> String {
    let mut nodes = MemoryNodes::new();
    let data = |number| Content::Data { chunk: chunk(number), offset: 0 };
    let tiny: Vec<_> = (0..W / 512).map(|number| (512, data(number))).collect();
    let halved = build_map(&mut nodes, W, &tiny).reference;
    let names = (0..20_000).map(|number| file(&format!("file-{number:05}")));
    let names = write_directory(&mut nodes, names).unwrap();
    let pieces = (0..100_000).map(|number| extent(number << 14, (99_999 - number) << 20, 4096));
    let record = Record { extents: Extents::Inline(pieces.collect()), ..file("a") };
    let pieces = write_directory(&mut nodes, [record]).unwrap();
    let mut text = String::new();
    for (name, root) in [("halved", halved), ("names", names), ("pieces", pieces)] {
        writeln!(text, "root {name} {}", root.id).unwrap();
    }
    text
}

fn golden() -> String {
    let mut recorder = Recorder::default();
    let map = golden_map(&mut recorder);
    assert_eq!(map.levels, map::levels(ByteLen(DISK)));
    let overlay = golden_overlay(&mut recorder);
    let manifest = golden_manifest(map, overlay);
    let node = manifest.to_node().unwrap();
    let decoded = Manifest::from_node(&node).unwrap();
    assert_eq!(decoded, manifest);
    let snapshot = recorder.put(node).unwrap();
    let receipt = golden_receipt(snapshot.id);
    let (hash, bytes) = (receipt.hash().unwrap(), receipt.to_bytes().unwrap());
    let mut text = String::from(
        "# Golden nodes: kind, id, canonical bytes (reference list, body). Then receipts: hash, bytes;\n\
         # then roots of generated trees. docs/formats/nodes.md; made by common/tests/golden_nodes.rs.\n",
    );
    text.push_str(&recorder.text);
    writeln!(text, "receipt {} {}", hex(&hash), hex(&bytes)).unwrap();
    text.push_str(&roots());
    text
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where `UMBRA_BLESS` is set, the file is written instead (a format change!).
#[test]
fn nodes_and_receipts_are_the_golden_ones() {
    let path = repository().join("testdata/formats/v1/nodes.txt");
    let made = golden();
    if std::env::var_os("UMBRA_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (number, (made, golden)) in made.lines().zip(golden.lines()).enumerate() {
        assert_eq!(made, golden, "line {}", number + 1);
    }
    assert_eq!(made.lines().count(), golden.lines().count());
}

/// An independent reader agrees: ids, canonical encoding, coverage, order, splits.
#[test]
fn an_independent_reader_agrees() {
    let script = repository().join("docs/formats/nodes.py");
    let has_blake3 = Command::new("python3").args(["-c", "import blake3"]).output();
    if !has_blake3.is_ok_and(|output| output.status.success()) {
        println!("skipped: python3 with the package blake3 is not there");
        return;
    }
    let vectors = repository().join("testdata/formats/v1/nodes.txt");
    let output = Command::new("python3").arg(script).arg(vectors).output().unwrap();
    let (out, err) = (&output.stdout, &output.stderr);
    let said = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(output.status.success(), "{said}");
}
