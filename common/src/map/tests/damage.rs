//! Tests of damaged, missing and hostile nodes of the map.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::Result;
use crate::cbor::Writer;
use crate::node::NodeSource;

/// Ten windows of data after 256 of data, so that there are two level 1 nodes.
fn two_nodes() -> (MemoryNodes, MapRoot, u64) {
    let disk_len = 266 * WINDOW;
    let runs: Vec<_> = (0..532).map(|seed| (WINDOW / 2, data(seed, 0))).collect();
    let mut nodes = MemoryNodes::new();
    let root = build(&mut nodes, &runs, disk_len);
    (nodes, root, disk_len)
}

fn lost(nodes: &MemoryNodes, root: MapRoot, disk_len: u64, range: ByteRange) -> Vec<ByteRange> {
    let mut at = range.start();
    let mut lost = Vec::new();
    for item in reader(nodes, root, disk_len).runs(range) {
        let here = match item {
            Ok(run) => run.run.disk,
            Err(Lost { range, .. }) => {
                lost.push(range);
                range
            }
        };
        assert_eq!(here.start(), at, "what is read and what is lost cover the range");
        at = here.end();
    }
    assert_eq!(at, range.end());
    lost
}

fn page_of(nodes: &MemoryNodes, root: MapRoot, disk_len: u64, window: usize) -> Reference {
    let window = reader(nodes, root, disk_len).windows().nth(window).unwrap().unwrap();
    let WindowContent::Pages(pages) = window.content else { panic!("no pages") };
    pages[0].1
}

#[test]
fn a_missing_page_costs_its_window() {
    let (mut nodes, root, disk_len) = two_nodes();
    nodes.remove(&page_of(&nodes, root, disk_len, 3)).unwrap();
    let whole = between(0, disk_len);
    assert_eq!(lost(&nodes, root, disk_len, whole), [between(3 * WINDOW, 4 * WINDOW)]);
    let part = between(4 * WINDOW - 10, 4 * WINDOW + 10);
    let expected = [between(4 * WINDOW - 10, 4 * WINDOW)];
    assert_eq!(lost(&nodes, root, disk_len, part), expected);
    // The window's hash stands in the node, which is there.
    assert!(reader(&nodes, root, disk_len).windows().all(|window| window.is_ok()));
}

#[test]
fn a_damaged_page_costs_its_window() {
    let (mut nodes, root, disk_len) = two_nodes();
    let page = page_of(&nodes, root, disk_len, 260);
    let mut node = nodes.find(&page).unwrap().as_ref().clone();
    let last = node.body.len() - 1;
    node.body[last] ^= 1;
    nodes.damage(page, node);
    let expected = [between(260 * WINDOW, 261 * WINDOW)];
    assert_eq!(lost(&nodes, root, disk_len, between(0, disk_len)), expected);
}

#[test]
fn a_missing_node_costs_what_is_below() {
    let (mut nodes, root, disk_len) = two_nodes();
    let child = nodes.find(&root.reference).unwrap().refs[0];
    nodes.remove(&child).unwrap();
    let expected = [between(0, 256 * WINDOW)];
    assert_eq!(lost(&nodes, root, disk_len, between(0, disk_len)), expected);
    let windows: Vec<_> = reader(&nodes, root, disk_len).windows().collect();
    assert_eq!(windows.len(), 11, "one loss and ten windows");
    assert_eq!(windows[0].as_ref().unwrap_err().range, between(0, 256 * WINDOW));
    nodes.remove(&root.reference).unwrap();
    let whole = between(0, disk_len);
    assert_eq!(lost(&nodes, root, disk_len, whole), [whole]);
    assert_eq!(reader(&nodes, root, disk_len).windows().count(), 1);
}

fn page(page_len: u64, runs: &[u8], chunks: u64) -> Node {
    let mut writer = Writer::new();
    writer.array(3);
    writer.uint(1_u64);
    writer.uint(page_len);
    writer.bytes(runs);
    let reference = |seed| Reference { kind: Kind::Chunk, id: chunk(seed) };
    let refs = (0..chunks).map(reference).collect();
    Node { kind: Kind::MapPage, refs, body: writer.into_bytes() }
}

#[test]
fn pages_have_one_encoding() {
    let decode = |runs: &[u8], chunks| page::decode(&page(4, runs, chunks), 4);
    let ok = |runs: &[u8], chunks| assert!(decode(runs, chunks).is_ok(), "{runs:?}");
    let bad = |runs: &[u8], chunks, why: &str| {
        assert!(matches!(decode(runs, chunks), Err(Error::Corrupt { .. })), "{why}");
    };
    ok(&[4 << 3], 1); // a new chunk
    ok(&[(4 << 3) | 1, 0, 5], 1); // a new chunk from offset 5 on
    ok(&[2 << 3, (2 << 3) | 1, 0, 0], 1); // a chunk twice
    ok(&[(3 << 3) | 2, (1 << 3) | 5], 0);
    bad(&[(4 << 3) | 1, 0, 0], 1, "a new chunk from offset 0, the long way");
    bad(&[(4 << 3) | 1, 1, 0], 2, "a number that skips");
    bad(&[4 << 3], 2, "an unused reference");
    bad(&[4 << 3], 0, "no such reference");
    bad(&[2 << 3, (2 << 3) | 1, 0, 2], 1, "continues the run before");
    bad(&[(2 << 3) | 2, (2 << 3) | 2], 0, "zeros twice");
    bad(&[(4 << 3) | 0x80, 0], 1, "a number in a longer form");
    bad(&[0, 4 << 3], 2, "an empty run");
    bad(&[3 << 3], 1, "too short");
    bad(&[5 << 3], 1, "too long");
    bad(&[(4 << 3) | 1, 0], 1, "cut short");
    bad(&[(4 << 3) | 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f], 1, "an offset past 2^32");
    bad(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], 1, "a number too long");
    bad(&[], 0, "nothing");
    for kind in [6, 7] {
        let unknown = decode(&[(4 << 3) | kind], 0);
        assert!(matches!(unknown, Err(Error::UnknownNumber { .. })));
    }
    assert!(page::decode(&page(4, &[4 << 3], 1), 8).is_err(), "another place");
    let mut newer = page(4, &[4 << 3], 1);
    newer.body[1] = 2;
    assert!(matches!(page::decode(&newer, 4), Err(Error::Unsupported { found: 2, .. })));
}

#[test]
fn map_nodes_have_one_encoding() {
    let page = Reference { kind: Kind::MapPage, id: chunk(1) };
    let node = |level: u64, write: &dyn Fn(&mut Writer)| {
        let mut writer = Writer::new();
        writer.array(3);
        writer.uint(1_u64);
        writer.uint(level);
        write(&mut writer);
        Node { kind: Kind::MapNode, refs: vec![page], body: writer.into_bytes() }
    };
    let pages = |pairs: &'static [(u64, u64)]| {
        node(1, &|writer| {
            writer.array(1 + 2 * pairs.len());
            writer.bytes(&[7; 32]);
            for (halvings, number) in pairs {
                writer.uint(*halvings);
                writer.uint(*number);
            }
        })
    };
    let decode = |node: Node| -> Result<Entries> { Entries::decode(&node, 1, ByteLen(WINDOW)) };
    assert!(decode(pages(&[(0, 0)])).is_ok());
    assert!(decode(pages(&[(1, 0), (2, 0), (2, 0)])).is_ok());
    assert!(decode(pages(&[(2, 0), (1, 0)])).is_err(), "not on its grid");
    assert!(decode(pages(&[(0, 0), (0, 0)])).is_err(), "more than a window");
    assert!(decode(pages(&[(13, 0)])).is_err(), "halved too often");
    assert!(decode(pages(&[])).is_err(), "no page");
    assert!(decode(pages(&[(0, 1)])).is_err(), "no such reference");
    assert!(decode(node(1, &|writer| writer.uint(2_u64))).is_err(), "an unused reference");
    let unknown = decode(node(1, &|writer| writer.uint(4_u64)));
    assert!(matches!(unknown, Err(Error::UnknownNumber { number: 4, .. })));
    let decode_of = |node: Node, level, len| Entries::decode(&node, level, ByteLen(len));
    assert!(decode_of(pages(&[(0, 0)]), 2, WINDOW).is_err(), "another level");
    assert!(decode_of(pages(&[(0, 0)]), 1, WINDOW + 1).is_err(), "another count");
    assert!(decode(pages(&[(1, 0)])).is_err(), "half a window is not mapped");
    assert!(decode(pages(&[(1, 0), (2, 0)])).is_err(), "a quarter is not mapped");
    assert!(decode_of(pages(&[(1, 0)]), 1, WINDOW / 2).is_ok(), "the disk ends there");
    assert!(decode_of(pages(&[(1, 0)]), 1, WINDOW / 2 + 1).is_err(), "a byte is not mapped");
    assert!(decode_of(pages(&[(1, 0), (1, 0)]), 1, WINDOW / 2).is_err(), "behind the disk");
    let to_page = node(2, &|writer| writer.uint(0_u64));
    assert!(decode_of(to_page, 2, WINDOW).is_err(), "a page above level 1");
}

/// Nodes in memory that count how often one is asked for.
struct Counting<'n> {
    nodes: &'n MemoryNodes,
    asked: AtomicUsize,
}

impl NodeSource for Counting<'_> {
    fn child(&self, parent: &Reference, number: u32, want: &Reference) -> Result<Arc<Node>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.nodes.child(parent, number, want)
    }
}

/// 262 144 times one page: looking ahead for others must not cost anew at each place.
#[test]
fn a_page_that_stands_at_many_places_is_asked_for_once() {
    let (windows, each) = (64_u64, 4096_u64);
    let mut nodes = MemoryNodes::new();
    let small = nodes.put(page(4096, &[0x80, 0x80, 0x02], 1)).unwrap();
    let mut writer = Writer::new();
    writer.array(66);
    writer.uint(1_u64);
    writer.uint(1_u64);
    for _ in 0..windows {
        writer.array(8193);
        writer.bytes(&[7; 32]);
        for _ in 0..each {
            writer.uint(12_u64);
            writer.uint(0_u64);
        }
    }
    let root = Node { kind: Kind::MapNode, refs: vec![small], body: writer.into_bytes() };
    let root = nodes.put(root).unwrap();
    let source = Counting { nodes: &nodes, asked: AtomicUsize::new(0) };
    let link = Link { parent: manifest(), number: 0, target: root };
    let map = MapReader::new(&source, link, ByteLen(windows * WINDOW));
    let runs = map.runs(between(0, windows * WINDOW));
    assert_eq!(runs.filter(|run| run.is_ok()).count(), 262_144);
    assert_eq!(source.asked.into_inner(), 2, "the root and the page");
}

proptest! {
    #[test]
    fn mutated_nodes_never_panic(
        runs in any_runs(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        which: prop::sample::Index,
    ) {
        let disk_len = runs.iter().map(|(len, _)| len).sum();
        let mut nodes = MemoryNodes::new();
        let root = build(&mut nodes, &runs, disk_len);
        let mut all: Vec<_> = nodes.iter().map(|(_, node)| node.as_ref().clone()).collect();
        all.sort_by_key(Node::id);
        let node = which.get(&all);
        let mut bytes = node.to_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let Ok(changed) = Node::decode(node.kind, &bytes) else { return Ok(()) };
        if changed.kind == Kind::MapPage {
            if let Ok(runs) = page::decode(&changed, WINDOW) {
                let runs: Vec<PageRun> = runs.iter().map(|run| run.run).collect();
                prop_assert_eq!(page::encode(&runs), changed);
            }
            return Ok(());
        }
        // A hostile root under its own, true name.
        let _ = Entries::decode(&changed, root.levels, ByteLen(disk_len));
        let reference = changed.reference();
        nodes.damage(reference, changed);
        let root = MapRoot { reference, ..root };
        lost(&nodes, root, disk_len, between(0, disk_len));
    }
}
