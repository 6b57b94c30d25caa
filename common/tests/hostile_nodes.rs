//! Hostile nodes and receipts: whatever the bytes claim, decoding ends, does not panic and takes
//! little memory.
//!
//! The one test of this file counts every allocation, so it has a process of its own.
#![allow(clippy::unwrap_used, clippy::print_stdout, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use umbra_common::cbor::Writer;
use umbra_common::map::MapReader;
use umbra_common::node::memory::MemoryNodes;
use umbra_common::node::{Link, MAX_NODE_BYTES, Node};
use umbra_common::snapshot::{Manifest, Receipt};
use umbra_common::{ByteLen, ByteOffset, ByteRange, Kind, ObjectId, Reference, overlay};

/// The most that decoding one node of 1 MiB may hold at once, in bytes.
const LIMIT: usize = 64 << 20;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counters do not touch memory
// that was given out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Decodes a node by every way that leads to its kind.
fn decode(node: &Node) {
    let manifest = Reference { kind: Kind::Manifest, id: ObjectId([1; 32]) };
    let _ = Manifest::from_node(node);
    let mut nodes = MemoryNodes::new();
    let target = node.reference();
    nodes.damage(target, node.clone());
    let link = Link { parent: manifest, number: 0, target };
    let _ = overlay::root(&nodes, link);
    let _ = overlay::entries(&nodes, link).take(3).count();
    let _ = overlay::find(&nodes, link, b"name");
    for disk in [5000, 16 << 20, 4 << 30, 1 << 40, u64::MAX] {
        let map = MapReader::new(&nodes, link, ByteLen(disk));
        let range = ByteRange::new(ByteOffset(0), ByteLen(1 << 36)).unwrap();
        let _ = map.runs(range).take(3).count();
        let _ = map.windows().take(3).count();
    }
    through_parents(node);
}

/// Reads it as a page, an extent list and attributes: they are reached through a parent only.
fn through_parents(node: &Node) {
    let manifest = Reference { kind: Kind::Manifest, id: ObjectId([1; 32]) };
    let target = node.reference();
    let mut writer = Writer::new();
    writer.array(3);
    writer.uint(1_u64);
    let (kind, disk) = match node.kind {
        Kind::MapPage => {
            writer.uint(1_u64);
            writer.array(3);
            writer.bytes(&[0; 32]);
            writer.uint(0_u64);
            writer.uint(0_u64);
            (Kind::MapNode, 16 << 20)
        }
        Kind::ExtentList | Kind::Xattrs => {
            writer.uint(0_u64);
            writer.record(|record| {
                record.field(0).bytes(b"name");
                if node.kind == Kind::Xattrs {
                    let list = record.field(16);
                    list.array(1);
                    list.uint(0_u64);
                }
                record.field(19).uint(1_u64);
                if node.kind == Kind::ExtentList {
                    record.field(21).uint(0_u64);
                }
            });
            (Kind::Directory, 0)
        }
        _ => return,
    };
    let parent = Node { kind, refs: vec![target], body: writer.into_bytes() };
    let mut nodes = MemoryNodes::new();
    let own = parent.reference();
    nodes.damage(target, node.clone());
    nodes.damage(own, parent);
    let link = Link { parent: manifest, number: 0, target: own };
    if kind == Kind::MapNode {
        let range = ByteRange::new(ByteOffset(0), ByteLen(disk)).unwrap();
        let _ = MapReader::new(&nodes, link, ByteLen(disk)).runs(range).count();
        return;
    }
    let entry = overlay::find(&nodes, link, b"name").unwrap().unwrap();
    let _ = entry.extents(&nodes, ByteOffset(0)).unwrap().count();
    let _ = entry.xattrs(&nodes);
}

/// Bodies that claim much: every kind of item repeated until the node is full.
fn greedy(kind: Kind) -> Vec<Node> {
    let items: [&[u8]; 14] = [
        &[0],
        &[0x80],
        &[0xa0],
        &[0x40],
        &[0x9a, 0, 0xf, 0xff, 0xf0],
        &[0x9a, 0xff, 0xff, 0xff, 0xff],
        &[0xba, 0, 7, 0xff, 0xf0],
        &[0x83, 0, 0, 1],
        &[0x83, 1, 0, 1],
        &[0x82, 0x41, 1, 0x40],
        &[0xa1, 0x13, 1],
        &[0xa2, 0, 0x41, 0x61, 0x13, 1],
        &[10],
        &[0x5a, 0, 0xf, 0xff, 0xf0],
    ];
    let mut nodes = Vec::new();
    for item in items {
        for head in [1_usize, 2, 3] {
            // An array of as many items as fit, with version 1 and the levels 0, 1 or 16 MiB.
            let count = (MAX_NODE_BYTES - 64) / item.len();
            let mut writer = Writer::new();
            writer.array(count + 2);
            writer.uint(1_u64);
            writer.uint([0_u64, 1, 16 << 20][head - 1]);
            let mut body = writer.into_bytes();
            body.extend(item.iter().cycle().take(count * item.len()));
            nodes.push(Node { kind, refs: Vec::new(), body });
        }
    }
    // A page whose runs are as many as a byte string holds.
    for byte in [0x08, 0x0a, 0x0b, 0x00] {
        let mut writer = Writer::new();
        writer.array(3);
        writer.uint(1_u64);
        writer.uint(16_u64 << 20);
        writer.bytes(&[byte, byte ^ 1].repeat((250 << 10) / 2));
        nodes.push(Node { kind, refs: Vec::new(), body: writer.into_bytes() });
    }
    nodes
}

/// A pseudo-random sequence (SplitMix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut value = *state;
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(text.get(at..at + 2).unwrap(), 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Changes some bytes, cuts, or repeats a part.
fn mutate(bytes: &mut Vec<u8>, state: &mut u64) {
    let mut below = |end: usize| usize::try_from(random(state)).unwrap() % end.max(1);
    for _ in 0..=below(4) {
        let at = below(bytes.len());
        match below(6) {
            0 => bytes.truncate(at),
            1 => {
                let part = bytes.get(at..at + below(bytes.len() - at)).unwrap().to_vec();
                bytes.splice(at..at, part);
            }
            2 => drop(bytes.splice(at..at, [0x9a, 0, 0xf, 0, 0])),
            _ => {
                let value = u8::try_from(below(256)).unwrap();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
        }
    }
}

#[test]
fn decoding_takes_little_memory_and_never_panics() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/formats/v1/nodes.txt");
    let golden = std::fs::read_to_string(path).unwrap();
    let base = HELD.load(Ordering::Relaxed);
    PEAK.store(base, Ordering::Relaxed);
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.is_node());
    for node in kinds.flat_map(greedy) {
        assert!(node.encoded_len() <= MAX_NODE_BYTES);
        decode(&node);
    }
    let mut state = 0x5eed;
    for line in golden.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = match words.as_slice() {
            ["node" | "receipt", .., bytes] => unhex(bytes),
            _ => continue,
        };
        for round in 0..400 {
            let mut bytes = bytes.clone();
            if round > 0 {
                mutate(&mut bytes, &mut state);
            }
            let _ = Receipt::decode(&bytes);
            for kind in Kind::ALL {
                if let Ok(node) = Node::decode(kind, &bytes) {
                    decode(&node);
                }
            }
        }
    }
    let peak = PEAK.load(Ordering::Relaxed) - base;
    println!("{peak} bytes at once at most");
    assert!(peak < LIMIT, "{peak} bytes were held at once");
    assert!(peak > 1 << 20, "the counter counts");
}
