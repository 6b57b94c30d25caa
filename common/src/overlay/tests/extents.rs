//! Extents: lists of any length, windows, joining, damage.

use super::*;
use crate::Error;

/// Writes a file with these extents and returns its entry.
fn stored(nodes: &mut MemoryNodes, extents: Vec<Extent>) -> Entry {
    let record = Record { extents: Extents::Inline(extents), ..file(b"f") };
    let root = volume(nodes, vec![record]);
    lookup(nodes, top(root), [&b"f"[..]]).unwrap().unwrap()
}

fn read(nodes: &MemoryNodes, entry: &Entry, from: u64) -> Vec<Extent> {
    entry.extents(nodes, ByteOffset(from)).unwrap().map(|extent| extent.unwrap()).collect()
}

/// Extents of 4 KiB, each elsewhere on the disk.
fn scattered(count: u64, gap: u64) -> Vec<Extent> {
    let disk = |number: u64| (number * 7919) % count * 8192;
    (0..count).map(|number| extent(number * (4096 + gap), disk(number), 4096)).collect()
}

#[test]
fn many_extents_stand_in_nodes() {
    for (count, expected) in [(64, 2), (65, 3), (20_000, 3)] {
        let extents = scattered(count, 0);
        let mut nodes = MemoryNodes::new();
        let entry = stored(&mut nodes, extents.clone());
        assert_eq!(nodes.len(), expected, "{count}");
        assert_eq!(read(&nodes, &entry, 0), extents);
        let middle = extents.len() / 2;
        let from = extents[middle].logical.0;
        assert_eq!(read(&nodes, &entry, from + 1), &extents[middle..]);
        assert_eq!(read(&nodes, &entry, from), &extents[middle..]);
        assert_eq!(read(&nodes, &entry, from + 4096), &extents[middle + 1..]);
        assert_eq!(read(&nodes, &entry, u64::MAX), []);
    }
}

#[test]
fn a_changed_extent_rewrites_few_nodes() {
    // 8 GiB in 131 072 pieces of 4 KiB: halved windows, one node above.
    let extents = scattered(131_072, 60 << 10);
    let mut nodes = MemoryNodes::new();
    let entry = stored(&mut nodes, extents.clone());
    assert!(nodes.len() > 8);
    assert!(nodes.iter().all(|(_, node)| node.encoded_len() <= 256 << 10));
    assert_eq!(read(&nodes, &entry, 0), extents);
    let before = nodes.len();
    let mut changed = extents;
    changed[70_000].disk = range(1 << 50, 4096);
    stored(&mut nodes, changed);
    // The leaf, the node above, the directory, the root.
    assert_eq!(nodes.len() - before, 4);
}

#[test]
fn a_crowded_window_is_halved() {
    let extents = scattered(262_144, 0); // 1 GiB in pieces of 4 KiB
    let mut nodes = MemoryNodes::new();
    let entry = stored(&mut nodes, extents.clone());
    assert!(nodes.iter().all(|(_, node)| node.encoded_len() <= 256 << 10));
    assert!((8..40).contains(&nodes.len()), "{}", nodes.len());
    assert_eq!(read(&nodes, &entry, 0), extents);
}

#[test]
fn extents_across_windows_come_back_whole() {
    let gib = 1 << 30;
    // 100 small ones so that the list leaves the record, then one of 3 TiB, holes, the far end.
    let mut extents: Vec<_> = (0..100).map(|at| extent(at * 8192, at * 9000, 4096)).collect();
    extents.push(extent(gib - 4096, 5 * gib, 3072 * gib));
    extents.push(Extent { kind: ExtentKind::Unwritten, ..extent(4096 * gib, 1 << 50, 4 * gib) });
    extents.push(extent(u64::MAX - 10, 77, 10));
    let mut nodes = MemoryNodes::new();
    let entry = stored(&mut nodes, extents.clone());
    assert_eq!(read(&nodes, &entry, 0), extents);
    let late = read(&nodes, &entry, 3000 * gib);
    // The first is what is left of the large one from the start of the window on.
    assert_eq!(late[0].content().end(), extents[100].content().end());
    assert!(late[0].logical.0 <= 3000 * gib && late[0].logical.0 > 2998 * gib);
    assert_eq!(late[0].disk.end(), extents[100].disk.end());
    assert_eq!(&late[1..], &extents[101..]);
}

#[test]
fn compressed_extents_are_cut_by_their_part() {
    let gib = 1 << 30;
    let zstd = |logical: u64, disk: u64, part: ByteRange| Extent {
        codec: Codec::Zstd,
        part: Some(part),
        ..extent(logical, disk, 4096)
    };
    let mut extents: Vec<_> =
        (0..70).map(|at| zstd(at << 17, at * 8192, range(0, 128 << 10))).collect();
    extents.push(zstd(gib - 1000, 1 << 40, range(5, 100_000)));
    let escaped = Extent { codec: Codec::Jbd2Escaped, ..extent(2 * gib - 2048, 1 << 41, 4096) };
    extents.push(escaped);
    let mut nodes = MemoryNodes::new();
    let entry = stored(&mut nodes, extents.clone());
    assert_eq!(nodes.len(), 6, "three windows");
    assert_eq!(read(&nodes, &entry, 0), extents);
    let tail = Extent { part: Some(range(2048, 2048)), logical: ByteOffset(2 * gib), ..escaped };
    assert_eq!(read(&nodes, &entry, 2 * gib + 5), [tail]);
}

#[test]
fn what_continues_is_joined() {
    let unwritten = Extent { kind: ExtentKind::Unwritten, ..extent(300, 1300, 50) };
    let escaped = Extent { codec: Codec::Jbd2Escaped, ..extent(350, 1350, 50) };
    let split = [
        extent(0, 1000, 100),
        extent(100, 1100, 200),
        unwritten,
        escaped,
        Extent { logical: ByteOffset(400), ..escaped },
        extent(450, 1400, 10),
        extent(460, 1500, 10),
        extent(471, 1510, 10),
    ];
    let joined = maximal(&split).unwrap();
    let expected = [&[extent(0, 1000, 300)], &split[2..]].concat();
    assert_eq!(joined, expected);
    assert!(maximal(&[extent(0, 5, 10), extent(9, 50, 1)]).is_err(), "overlap");
    assert!(maximal(&[extent(10, 5, 1), extent(0, 50, 1)]).is_err(), "order");
    assert!(maximal(&[extent(0, 5, 0)]).is_err(), "empty");
    assert!(maximal(&[extent(u64::MAX, 5, 2)]).is_err(), "past 2^64");
    let part = Some(range(0, 5));
    assert!(maximal(&[Extent { part, ..extent(0, 5, 5) }]).is_err(), "a part without a codec");
    assert!(maximal(&[Extent { codec: Codec::Lzo, ..extent(0, 5, 5) }]).is_err(), "no part");
    let whole = Some(range(0, 50));
    assert!(maximal(&[Extent { part: whole, ..escaped }]).is_err(), "a part that is all");
    let wrong = Extent { codec: Codec::Lzo, part, ..unwritten };
    assert!(maximal(&[wrong]).is_err(), "unwritten and compressed");
}

#[test]
fn extents_of_a_volume_move_to_the_disk() {
    let parsed = umbra_fsparse::Extent {
        logical: ByteOffset(4096),
        volume: range(8192, 4096),
        kind: ExtentKind::Data,
        codec: Codec::None,
    };
    let made = Extent::on_disk(&parsed, ByteOffset(1 << 20)).unwrap();
    assert_eq!(made, extent(4096, (1 << 20) + 8192, 4096));
    assert!(Extent::on_disk(&parsed, ByteOffset(u64::MAX - 9000)).is_err());
    let zlib = umbra_fsparse::Extent { codec: Codec::Zlib, ..parsed };
    assert!(Extent::on_disk(&zlib, ByteOffset(0)).is_err(), "compressed, without its part");
}

#[test]
fn a_lost_leaf_costs_its_window() {
    let extents = scattered(131_072, 60 << 10);
    let mut nodes = MemoryNodes::new();
    let entry = stored(&mut nodes, extents.clone());
    let Extents::Node(root) = entry.record.extents else { panic!("no node") };
    let inner = nodes.find(&root).unwrap().clone();
    let leaf = inner.refs[inner.refs.len() / 2];
    nodes.remove(&leaf);
    let items: Vec<_> = entry.extents(&nodes, ByteOffset(0)).unwrap().collect();
    let lost: Vec<_> = items.iter().filter_map(|item| item.as_ref().err()).collect();
    assert_eq!(lost.len(), 1);
    let kept = extents.iter().filter(|extent| {
        let content = extent.content();
        content.intersection(lost[0].content).is_none()
    });
    assert_eq!(items.len(), kept.count() + 1);
}

#[test]
fn hostile_lists_are_refused() {
    use crate::cbor::Writer;
    let mut nodes = MemoryNodes::new();
    let entry = stored(&mut nodes, scattered(70, 1 << 24)); // two windows
    let Extents::Node(root) = entry.record.extents else { panic!("no node") };
    let good = nodes.find(&root).unwrap().as_ref().clone();
    let inner = |level: u64, children: &[(u64, u64, u64)]| {
        let mut writer = Writer::new();
        writer.array(2 + children.len());
        writer.uint(1_u64);
        writer.uint(level);
        for (start, len, number) in children {
            writer.array(3);
            [start, len, number].into_iter().for_each(|value| writer.uint(*value));
        }
        Node { body: writer.into_bytes(), ..good.clone() }
    };
    let gib = 1 << 30;
    let mut check = |node: Node, why: &str, expected: usize| {
        nodes.damage(root, node);
        // The id is checked by the source; here the decoder is asked.
        let damaged = nodes.find(&root).unwrap().as_ref().clone();
        let reference = damaged.reference();
        nodes.damage(reference, damaged);
        let record = Record { extents: Extents::Node(reference), ..file(b"f") };
        let root = volume(&mut nodes, vec![record]);
        let entry = lookup(&nodes, top(root), [&b"f"[..]]).unwrap().unwrap();
        let extents = entry.extents(&nodes, ByteOffset(0)).unwrap();
        assert_eq!(extents.filter(Result::is_err).count(), expected, "{why}");
    };
    check(good.clone(), "as written", 0);
    check(inner(1, &[(0, gib, 0), (gib, gib, 1)]), "the same by hand", 0);
    check(inner(2, &[(0, gib, 0), (gib, gib, 1)]), "of another level", 1);
    check(inner(1, &[(gib, gib, 0), (0, gib, 1)]), "out of order", 1);
    check(inner(1, &[(0, gib, 0), (gib / 2, gib / 2, 1)]), "overlap", 1);
    check(inner(1, &[(0, gib + 1, 0), (2 * gib, gib, 1)]), "more than a window", 1);
    check(inner(1, &[(0, gib, 0), (256 * gib, gib, 1)]), "outside", 1);
    check(inner(1, &[(0, gib, 0), (gib, 0, 1)]), "empty", 1);
    check(inner(1, &[(0, gib, 0)]), "an unused reference", 1);
    check(inner(1, &[(0, gib, 0), (gib, gib, 2)]), "no such reference", 1);
    check(inner(9, &[(0, gib, 0), (gib, gib, 1)]), "too high", 1);
    check(inner(1, &[(0, gib, 0), (gib, gib - 1, 1)]), "no half of a half", 1);
    check(inner(1, &[(0, gib, 0), (gib + 4096, gib / 2, 1)]), "off the grid", 1);
    check(inner(1, &[(0, gib, 0), (gib, 2048, 1)]), "halved too often", 1);
    let none = Node { refs: Vec::new(), ..inner(1, &[]) };
    check(none, "no children", 1);
    check(Node { refs: Vec::new(), ..inner(0, &[]) }, "a leaf of nothing", 1);
    check(inner(1, &[(0, 4096, 0), (gib, gib, 1)]), "a leaf that leaves its place", 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn extents_come_back(
        pieces in proptest::collection::vec(
            (0..3_u64 << 20, 1..40_u64 << 20, any::<u32>(), 0..8_u8), 0..200),
        from in 0..8_u64 << 30,
    ) {
        let mut at = 0;
        let mut extents = Vec::new();
        for (gap, len, disk, kind) in pieces {
            let logical = at + if kind < 4 { gap } else { 0 };
            let mut piece = extent(logical, u64::from(disk), len);
            match kind {
                0 => piece.kind = ExtentKind::Unwritten,
                1 => piece.codec = Codec::Jbd2Escaped,
                2 => (piece.codec, piece.part) = (Codec::Zlib, Some(range(9, len))),
                3 => piece.kind = ExtentKind::Inline,
                _ => {}
            }
            at = logical + len;
            extents.push(piece);
        }
        let extents = maximal(&extents).unwrap();
        let mut nodes = MemoryNodes::new();
        let entry = stored(&mut nodes, extents.clone());
        prop_assert_eq!(read(&nodes, &entry, 0), extents.clone());
        // From a position on: the same content, the first one perhaps cut.
        let late = read(&nodes, &entry, from);
        let expected: Vec<_> =
            extents.iter().filter(|extent| extent.content().end().0 > from).collect();
        prop_assert_eq!(late.len(), expected.len());
        for (late, expected) in late.iter().zip(expected) {
            prop_assert_eq!(late.content().end(), expected.content().end());
            prop_assert!(late.logical == expected.logical || late.logical.0 <= from);
        }
    }
}

#[test]
fn unsupported_versions_are_named() {
    let mut nodes = MemoryNodes::new();
    let entry = stored(&mut nodes, scattered(70, 0));
    let Extents::Node(root) = entry.record.extents else { panic!("no node") };
    let mut node = nodes.find(&root).unwrap().as_ref().clone();
    let version = node.body.iter().position(|byte| *byte == 1).unwrap();
    node.body[version] = 2;
    let reference = node.reference();
    nodes.damage(reference, node);
    let record = Record { extents: Extents::Node(reference), ..file(b"f") };
    let root = volume(&mut nodes, vec![record]);
    let entry = lookup(&nodes, top(root), [&b"f"[..]]).unwrap().unwrap();
    let lost = entry.extents(&nodes, ByteOffset(0)).unwrap().next().unwrap().unwrap_err();
    assert!(matches!(lost.error, Error::Unsupported { found: 2, known: 1, .. }));
}
