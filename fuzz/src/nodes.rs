//! Nodes of the overlay and of the image map, read as a restore reads them.

use std::sync::Arc;

use umbra_common::map::MapReader;
use umbra_common::node::{Link, Node, NodeSink, NodeSource};
use umbra_common::overlay::{
    self, ContentHash, Entry, Extents, Record, Xattrs, entries, find, maximal, write_directory,
};
use umbra_common::{ByteLen, ByteOffset, ByteRange, Error, Kind, ObjectId, Reference, Result};
use umbra_fsparse::{FileType, InodeNumber, Timestamp};

/// Items that are taken of one iterator: a hostile tree has as many as it likes, each for a read.
const MOST_ITEMS: usize = 4096;
/// Entries of a directory that are looked into.
const MOST_ENTRIES: usize = 512;

/// Nodes of an input, found by the first byte of an id: no fuzzer makes a hash fit.
struct Nodes {
    nodes: Vec<Arc<Node>>,
}

/// Why a source has no such node.
#[derive(Debug)]
struct Missing;

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no such node")
    }
}

impl std::error::Error for Missing {}

impl NodeSource for Nodes {
    fn child(&self, _: &Reference, _: u32, want: &Reference) -> Result<Arc<Node>> {
        let node = self.nodes.get(usize::from(want.id.0[0]));
        let node = node.filter(|node| node.kind == want.kind).cloned();
        node.ok_or_else(|| Error::Unavailable { reference: *want, source: Box::new(Missing) })
    }
}

impl NodeSink for Nodes {
    fn put(&mut self, node: Node) -> Result<Reference> {
        node.check()?;
        let reference = place(node.kind, self.nodes.len());
        self.nodes.push(Arc::new(node));
        Ok(reference)
    }
}

fn place(kind: Kind, index: usize) -> Reference {
    Reference { kind, id: ObjectId([u8::try_from(index).unwrap_or(u8::MAX); 32]) }
}

/// The link to a node by its number, as if a manifest named it.
fn link(kind: Kind, index: usize) -> Link {
    Link { parent: place(Kind::Manifest, 255), number: 0, target: place(kind, index) }
}

/// Reads the nodes of an input: kind (u8), length (u16), canonical bytes; a node that is refused
/// leaves its number empty.
fn read(input: &[u8]) -> Nodes {
    let mut nodes = Vec::new();
    let mut rest = input;
    while let Some(([kind, low, high], behind)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        let kind = Kind::from_number(kind % 7).unwrap_or(Kind::Xattrs);
        if let Ok(node) = Node::decode(kind, bytes) {
            assert_eq!(node.to_bytes(), bytes, "a node encodes to its bytes");
            assert_eq!(node.encoded_len(), bytes.len());
            nodes.push(Arc::new(node));
        } else {
            let empty = Node { kind: Kind::Manifest, refs: Vec::new(), body: Vec::new() };
            nodes.push(Arc::new(empty));
        }
        if nodes.len() == 250 {
            break;
        }
    }
    Nodes { nodes }
}

/// Nodes; number 0 is a directory, and each directory may be a root.
pub(crate) fn directory(input: &[u8]) {
    let nodes = read(input);
    for (index, _) in nodes.nodes.iter().enumerate().filter(|(_, n)| n.kind == Kind::Directory) {
        let link = link(Kind::Directory, index);
        if let Ok(root) = overlay::root(&nodes, link) {
            assert!(root.record.name.is_empty(), "a root has no name");
            check_entry(&nodes, &root);
            let below = root.directory().expect("it was read").expect("a root is a directory");
            check_directory(&nodes, below);
        }
        check_directory(&nodes, link);
    }
}

fn check_directory(nodes: &Nodes, link: Link) {
    let mut last: Option<Vec<u8>> = None;
    let mut whole = true;
    for (number, entry) in entries(nodes, link).take(MOST_ENTRIES).enumerate() {
        let Ok(entry) = entry else {
            whole = false;
            continue;
        };
        let name = &entry.record.name;
        assert!(!name.is_empty() && !name.contains(&b'/') && !name.contains(&0), "a name");
        assert!(last.as_ref().is_none_or(|last| last < name), "names ascend");
        last = Some(name.clone());
        check_entry(nodes, &entry);
        if whole && number < 8 {
            let found = find(nodes, link, name).expect("it was read before");
            assert_eq!(found.map(|found| found.record), Some(entry.record), "found by name");
        }
    }
}

fn check_entry(nodes: &Nodes, entry: &Entry) {
    entry.record.check().expect("a record that was read is sound");
    let below = entry.directory().expect("an entry knows its node");
    assert_eq!(below.is_some(), entry.record.file_type == FileType::Dir);
    if let Ok(xattrs) = entry.xattrs(nodes) {
        assert!(xattrs.is_sorted_by(|a, b| a.name < b.name), "attributes are sorted");
    }
    check_extents(nodes, entry, ByteOffset(0));
}

fn check_extents(nodes: &Nodes, entry: &Entry, from: ByteOffset) {
    let Ok(list) = entry.extents(nodes, from) else { panic!("an entry knows its node") };
    let (mut found, mut end) = (Vec::new(), 0);
    let mut lost = false;
    for item in list.take(MOST_ITEMS) {
        let Ok(extent) = item else {
            lost = true;
            continue;
        };
        assert!(!extent.is_empty() && !extent.disk.is_empty(), "an empty extent");
        assert!(extent.content().end() > from, "an extent before what was asked for");
        assert_eq!(extent.content().len(), extent.len(), "content ends below 2^64");
        assert!(end <= extent.logical.0, "extents are sorted and apart");
        end = extent.content().end().0;
        found.push(extent);
    }
    if !lost {
        let again = maximal(&found).expect("extents that were read are sound");
        assert_eq!(again, found, "extents are maximal");
    }
}

/// A file's record that names node 0 for its extents or attributes.
fn file(extents: Extents, xattrs: Xattrs) -> Record {
    Record {
        name: b"f".to_vec(),
        file_type: FileType::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: ByteLen(1 << 40),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        crtime: None,
        nlink: 1,
        inode: InodeNumber(12),
        volume: 0,
        generation: 0,
        rdev: None,
        target: None,
        xattrs,
        project: 0,
        flags: 0,
        content: ContentHash::HoleBudget,
        extents,
        directory: None,
    }
}

fn only_entry(nodes: &mut Nodes, record: Record) -> Entry {
    let root = write_directory(nodes, [record]).expect("a record of ours is sound");
    let link = link(Kind::Directory, nodes.nodes.len() - 1);
    assert_eq!(link.target, root);
    let entry = entries(nodes, link).next().expect("one entry was written");
    entry.expect("what was written is sound")
}

/// Where to begin (u64), then nodes; number 0 is the root of an extent list.
pub(crate) fn extent_list(input: &[u8]) {
    let Some((from, rest)) = input.split_first_chunk() else { return };
    let mut nodes = read(rest);
    let record = file(Extents::Node(place(Kind::ExtentList, 0)), Xattrs::Inline(Vec::new()));
    let entry = only_entry(&mut nodes, record);
    check_extents(&nodes, &entry, ByteOffset(0));
    check_extents(&nodes, &entry, ByteOffset(u64::from_le_bytes(*from)));
}

/// Nodes; all that are attributes are one file's.
pub(crate) fn xattrs(input: &[u8]) {
    let mut nodes = read(input);
    let lists = nodes.nodes.iter().enumerate().filter(|(_, node)| node.kind == Kind::Xattrs);
    let lists: Vec<Reference> = lists.map(|(index, _)| place(Kind::Xattrs, index)).collect();
    if lists.is_empty() {
        return;
    }
    let record = file(Extents::Inline(Vec::new()), Xattrs::Nodes(lists));
    let entry = only_entry(&mut nodes, record);
    let Ok(read) = entry.xattrs(&nodes) else { return };
    assert!(read.is_sorted_by(|a, b| a.name < b.name), "attributes are sorted");
    // Written anew and read again they are the same.
    let record = file(Extents::Inline(Vec::new()), Xattrs::Inline(read.clone()));
    let again = only_entry(&mut nodes, record);
    assert_eq!(again.xattrs(&nodes).ok(), Some(read), "attributes come back");
}

/// The disk's length (u64), the range that is asked for (two u64), nodes; number 0 is the root.
pub(crate) fn map(input: &[u8]) {
    let Some((head, rest)) = input.split_first_chunk::<24>() else { return };
    let [a, b, c] =
        [0, 8, 16].map(|at| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes")));
    let nodes = read(rest);
    let disk_len = ByteLen(a);
    let reader = MapReader::new(&nodes, link(Kind::MapNode, 0), disk_len);
    check_runs(&reader, disk_len, ByteRange::new(ByteOffset(0), disk_len).unwrap_or_default());
    check_runs(&reader, disk_len, ByteRange::new(ByteOffset(b), ByteLen(c)).unwrap_or_default());
    let mut at = 0;
    for window in reader.windows().take(MOST_ITEMS) {
        let range = match window {
            Ok(window) => window.range,
            Err(lost) => lost.range,
        };
        assert!(range.start().0 <= at && at < range.end().0, "windows follow each other");
        assert!(range.end().0 <= disk_len.0, "a window leaves the disk");
        at = range.end().0;
    }
}

fn check_runs(reader: &MapReader<'_>, disk: ByteLen, range: ByteRange) {
    let mut at = range.start().0;
    let (mut left, mut whole) = (MOST_ITEMS, true);
    for item in reader.runs(range) {
        let (found, chunk) = match &item {
            Ok(located) => (located.run.disk, located.chunk),
            Err(lost) => (lost.range, None),
        };
        assert_eq!(found.start().0, at, "runs follow each other");
        assert!(!found.is_empty(), "an empty run");
        assert!(found.end().0 <= range.end().0.min(disk.0), "a run leaves what was asked for");
        assert!(chunk.is_none_or(|link| link.target.kind == Kind::Chunk), "a chunk is a chunk");
        at = found.end().0;
        left -= 1;
        if left == 0 {
            whole = false;
            break;
        }
    }
    let end = range.end().0.min(disk.0).max(range.start().0);
    assert!(!whole || at == end, "runs end where the range does");
}
