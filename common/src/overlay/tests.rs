//! Tests of the overlay: what is written is read back, and a change rewrites little.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use umbra_fsparse::{Codec, DeviceNumber, ExtentKind, FileType, InodeNumber, Timestamp, Xattr};

use super::*;
use crate::node::memory::MemoryNodes;
use crate::node::{Link, MAX_NODE_BYTES, Node};
use crate::{ByteLen, ByteOffset, ByteRange, Kind, ObjectId, Reference};

mod directories;
mod encoding;
mod extents;

pub(crate) fn range(start: u64, len: u64) -> ByteRange {
    ByteRange::new(ByteOffset(start), ByteLen(len)).unwrap()
}

pub(crate) fn extent(logical: u64, disk: u64, len: u64) -> Extent {
    let (kind, codec) = (ExtentKind::Data, Codec::None);
    Extent { logical: ByteOffset(logical), disk: range(disk, len), kind, codec, part: None }
}

pub(crate) fn file(name: &[u8]) -> Record {
    Record {
        name: name.to_vec(),
        file_type: FileType::File,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        size: ByteLen(5000),
        mtime: Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 },
        ctime: Timestamp { seconds: -1, nanos: 999_999_999 },
        crtime: Some(Timestamp { seconds: 1_600_000_000, nanos: 0 }),
        nlink: 1,
        inode: InodeNumber(12),
        volume: 0,
        generation: 0xdead_beef,
        rdev: None,
        target: None,
        xattrs: Xattrs::Inline(Vec::new()),
        project: 0,
        flags: 0x8_0000,
        content: ContentHash::Blake3([7; 32]),
        extents: Extents::Inline(vec![extent(0, 1 << 30, 8192)]),
        directory: None,
    }
}

pub(crate) fn dir(name: &[u8], node: Reference) -> Record {
    Record {
        file_type: FileType::Dir,
        mode: 0o755,
        nlink: 2,
        content: ContentHash::NotAFile,
        extents: Extents::Inline(Vec::new()),
        directory: Some(node),
        ..file(name)
    }
}

/// The link from a manifest that is elsewhere.
fn top(target: Reference) -> Link {
    let parent = Reference { kind: Kind::Manifest, id: ObjectId([0xaa; 32]) };
    Link { parent, number: 1, target }
}

fn read_all(nodes: &MemoryNodes, directory: Reference) -> Vec<Record> {
    entries(nodes, top(directory)).map(|entry| entry.unwrap().record).collect()
}

/// Writes a directory with these entries under a root and returns the root.
fn volume(nodes: &mut MemoryNodes, records: Vec<Record>) -> Reference {
    let node = write_directory(nodes, records).unwrap();
    write_root(nodes, dir(b"", node)).unwrap()
}
