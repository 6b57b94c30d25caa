//! Tests of the image map: reading gives back what was built, at any place, and damage costs
//! what it hits.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::inner::Entries;
use super::page::PageRun;
use super::*;
use crate::image_hash::{WindowHash, window_count, window_range};
use crate::node::memory::MemoryNodes;
use crate::node::{Link, Node, NodeSink};
use crate::{Kind, ObjectId};

mod damage;

/// A window of 16 MiB as usize.
const WINDOW: u64 = WINDOW_BYTES;

fn chunk(seed: u64) -> ObjectId {
    ObjectId(*blake3::hash(&seed.to_le_bytes()).as_bytes())
}

fn data(seed: u64, offset: u32) -> Content {
    Content::Data { chunk: chunk(seed), offset }
}

fn manifest() -> Reference {
    Reference { kind: Kind::Manifest, id: ObjectId([0xaa; 32]) }
}

/// Cuts runs that cover a disk into the runs of its windows.
fn windows_of(runs: &[(u64, Content)], disk_len: u64) -> Vec<Vec<Run>> {
    let count = window_count(ByteLen(disk_len));
    let mut windows: Vec<Vec<Run>> = vec![Vec::new(); usize::try_from(count).unwrap()];
    let mut at = 0;
    for (len, content) in runs {
        let (mut left, mut content) = (*len, *content);
        while left > 0 {
            let here = left.min(WINDOW - at % WINDOW);
            let run = Run { disk: between(at, at + here), content };
            windows[usize::try_from(at / WINDOW).unwrap()].push(run);
            (at, left) = (at + here, left - here);
            content = content.after(here).unwrap_or(content);
        }
    }
    assert_eq!(at, disk_len);
    windows
}

/// The hash that the read stage would have made, as far as the builder can know.
fn hash_of(range: ByteRange, runs: &[Run]) -> WindowHash {
    if runs.iter().any(|run| matches!(run.content, Content::Data { .. })) {
        return WindowHash(*blake3::hash(&range.start().0.to_le_bytes()).as_bytes());
    }
    WindowHash::of_zeros(range.len())
}

fn build(nodes: &mut dyn NodeSink, runs: &[(u64, Content)], disk_len: u64) -> MapRoot {
    let mut builder = MapBuilder::new(ByteLen(disk_len));
    for (index, runs) in windows_of(runs, disk_len).iter().enumerate() {
        let index = u64::try_from(index).unwrap();
        let range = window_range(ByteLen(disk_len), index).unwrap();
        builder.window(nodes, runs, hash_of(range, runs)).unwrap();
    }
    builder.finish(nodes).unwrap()
}

fn reader(nodes: &MemoryNodes, root: MapRoot, disk_len: u64) -> MapReader<'_> {
    let link = Link { parent: manifest(), number: 0, target: root.reference };
    MapReader::new(nodes, link, ByteLen(disk_len))
}

/// Merges what continues, so that runs can be compared however they were cut.
fn maximal(runs: impl IntoIterator<Item = Run>) -> Vec<Run> {
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        let continued = merged.last_mut().is_some_and(|last| {
            let mut page_run = PageRun { len: last.disk.len().0, content: last.content };
            let next = PageRun { len: run.disk.len().0, content: run.content };
            let merged = last.disk.end() == run.disk.start() && page_run.merge(next);
            if merged {
                last.disk = between(last.disk.start().0, run.disk.end().0);
            }
            merged
        });
        if !continued {
            merged.push(run);
        }
    }
    merged
}

fn cut(runs: &[Run], range: ByteRange) -> Vec<Run> {
    let cut = |run: &Run| {
        let disk = run.disk.intersection(range)?;
        let content = run.content.after(disk.start().0 - run.disk.start().0).unwrap();
        Some(Run { disk, content })
    };
    runs.iter().filter_map(cut).collect()
}

fn read(nodes: &MemoryNodes, root: MapRoot, disk_len: u64, range: ByteRange) -> Vec<Run> {
    let runs = reader(nodes, root, disk_len).runs(range).map(|run| {
        let run = run.unwrap();
        // The link names the very chunk, in the very page.
        match (run.run.content, run.chunk) {
            (Content::Data { chunk, .. }, Some(link)) => {
                assert_eq!(link.target, Reference { kind: Kind::Chunk, id: chunk });
                let page = nodes.find(&link.parent).unwrap();
                assert_eq!(page.child(link.number).unwrap(), link.target);
            }
            (_, None) => {}
            other => panic!("{other:?}"),
        }
        run.run
    });
    maximal(runs)
}

#[test]
fn heights() {
    let tib = 1 << 40;
    for (len, expected) in [
        (0, 1),
        (1, 1),
        (WINDOW * 256, 1),
        (WINDOW * 256 + 1, 2),
        (tib, 2),
        (tib + 1, 3),
        (256 * tib, 3),
        (256 * tib + 1, 4),
        (u64::MAX, 5),
    ] {
        assert_eq!(levels(ByteLen(len)), expected, "{len}");
    }
}

#[test]
fn empty_and_short_disks_have_a_node() {
    for disk_len in [0, 1, 511, WINDOW - 1, WINDOW] {
        let mut nodes = MemoryNodes::new();
        let zeros: &[_] = if disk_len == 0 { &[] } else { &[(disk_len, Content::Zero)] };
        let root = build(&mut nodes, zeros, disk_len);
        assert_eq!((nodes.len(), root.levels), (1, 1));
        let runs = read(&nodes, root, disk_len, between(0, u64::MAX));
        assert_eq!(runs.len(), zeros.len());
        let windows = reader(&nodes, root, disk_len).windows();
        let hashes: Vec<_> = windows.map(|window| window.unwrap().hash).collect();
        let zero = WindowHash::of_zeros(ByteLen(disk_len));
        assert_eq!(hashes, if disk_len == 0 { vec![] } else { vec![zero] });
    }
}

#[test]
fn whole_subtrees_are_folded() {
    // 1.5 TiB: zeros, one window of data in the middle, free and excluded space.
    let tib = 1_u64 << 40;
    let disk_len = tib + tib / 2;
    let runs = [
        (tib / 2, Content::Zero),
        (WINDOW, data(1, 0)),
        (tib / 4 - WINDOW, Content::Free),
        (disk_len - tib / 2 - tib / 4, Content::Excluded),
    ];
    let mut nodes = MemoryNodes::new();
    let root = build(&mut nodes, &runs, disk_len);
    assert_eq!(root.levels, 3);
    // Root, one node of level 2, one of level 1, one page.
    assert_eq!(nodes.len(), 4);
    let whole = between(0, disk_len);
    let expected: Vec<Run> = windows_of(&runs, disk_len).into_iter().flatten().collect();
    assert_eq!(read(&nodes, root, disk_len, whole), maximal(expected));
    assert!(reader(&nodes, root, disk_len).runs(whole).count() < 3 * 256);
    assert_eq!(reader(&nodes, root, disk_len).windows().count(), 98_304);
}

#[test]
fn unreadable_windows_are_not_folded() {
    let mut nodes = MemoryNodes::new();
    let root = build(&mut nodes, &[(WINDOW, Content::Unreadable)], WINDOW);
    assert_eq!(nodes.len(), 2, "root and page");
    let runs = read(&nodes, root, WINDOW, between(0, WINDOW));
    assert_eq!(runs, [Run { disk: between(0, WINDOW), content: Content::Unreadable }]);
}

#[test]
fn equal_windows_share_their_page_wherever_they_are() {
    let mut nodes = MemoryNodes::new();
    let window = [(WINDOW / 2, data(1, 0)), (WINDOW / 2, data(2, 7))];
    let runs: Vec<_> = std::iter::repeat_n(window, 40).flatten().collect();
    let root = build(&mut nodes, &runs, 40 * WINDOW);
    assert_eq!(nodes.len(), 2);
    let own = nodes.find(&root.reference).unwrap();
    assert_eq!(own.refs.len(), 1, "one entry for the shared page");
    // Another disk with the same windows at other places: nothing new but its root.
    build(&mut nodes, &[&[(WINDOW, Content::Zero)], &runs[..]].concat(), 41 * WINDOW);
    assert_eq!(nodes.len(), 3);
}

#[test]
fn a_changed_window_rewrites_its_page_and_the_way_to_the_root() {
    let disk_len = (1_u64 << 40) + 3 * WINDOW;
    let gib = 1_u64 << 30;
    let filled = |changed: u64| -> Vec<(u64, Content)> {
        let mut runs: Vec<_> = (0..1024)
            .flat_map(|seed| {
                let seed = if seed == 513 { changed } else { seed };
                [(WINDOW, data(seed, 0)), (gib - WINDOW, Content::Zero)]
            })
            .collect();
        runs.push((3 * WINDOW, data(5000, 0)));
        runs
    };
    let mut nodes = MemoryNodes::new();
    let first = build(&mut nodes, &filled(513), disk_len);
    let before = nodes.len();
    assert!(before > 256 + 1024);
    let second = build(&mut nodes, &filled(9999), disk_len);
    assert_ne!(first.reference, second.reference);
    assert_eq!(nodes.len() - before, 4, "page and three levels");
}

#[test]
fn pages_are_halved_while_they_are_too_large() {
    // Distinct chunks of 16 bytes in the second quarter of the window, then larger ones.
    let quarter = WINDOW / 4;
    let mut runs = vec![(quarter, Content::Zero)];
    runs.extend((0..quarter / 16).map(|seed| (16, data(seed, 0))));
    runs.push((2 * quarter, data(1 << 40, 0)));
    let mut nodes = MemoryNodes::new();
    let root = build(&mut nodes, &runs, WINDOW);
    for (reference, node) in nodes.iter() {
        assert!(node.encoded_len() <= MAX_PAGE_BYTES, "{reference:?}: {}", node.encoded_len());
    }
    let windows: Vec<_> = reader(&nodes, root, WINDOW).windows().collect();
    let WindowContent::Pages(pages) = &windows[0].as_ref().unwrap().content else { panic!() };
    let lens: Vec<u64> = pages.iter().map(|(range, _)| range.len().0).collect();
    assert_eq!((lens.first(), lens.last()), (Some(&quarter), Some(&(2 * quarter))));
    assert_eq!(lens.iter().sum::<u64>(), WINDOW);
    assert!(lens[1] < quarter / 32, "{lens:?}");
    let expected: Vec<Run> = windows_of(&runs, WINDOW).into_iter().flatten().collect();
    assert_eq!(read(&nodes, root, WINDOW, between(0, WINDOW)), maximal(expected.clone()));
    let range = between(quarter - 5, quarter + 1000);
    assert_eq!(read(&nodes, root, WINDOW, range), cut(&expected, range));
}

#[test]
fn runs_of_one_byte_fit() {
    // The worst that a window can hold, at the end of a disk that is no whole window.
    let disk_len = WINDOW + 10_001;
    let mut runs = vec![(WINDOW, Content::Zero)];
    runs.extend((0..10_001).map(|seed| (1, data(seed, u32::MAX - 1))));
    let mut nodes = MemoryNodes::new();
    let root = build(&mut nodes, &runs, disk_len);
    let expected: Vec<Run> = windows_of(&runs, disk_len).into_iter().flatten().collect();
    assert_eq!(read(&nodes, root, disk_len, between(0, disk_len)), maximal(expected));
    assert!(nodes.iter().all(|(_, node)| node.encoded_len() <= MAX_PAGE_BYTES));
}

#[test]
fn a_typical_chunk_costs_36_bytes() {
    let runs: Vec<_> = (0..256).map(|seed| (WINDOW / 256, data(seed, 0))).collect();
    let mut nodes = MemoryNodes::new();
    build(&mut nodes, &runs, WINDOW);
    let page = nodes.iter().find(|(reference, _)| reference.kind == Kind::MapPage).unwrap().1;
    let per_chunk = page.encoded_len() / 256;
    assert_eq!(per_chunk, 36);
}

#[test]
fn builder_refuses() {
    let whole = between(0, WINDOW);
    let zeros = WindowHash::of_zeros(ByteLen(WINDOW));
    let window = |runs: &[(u64, u64, Content)], hash: WindowHash| {
        let runs: Vec<Run> = runs
            .iter()
            .map(|(start, end, content)| Run { disk: between(*start, *end), content: *content })
            .collect();
        MapBuilder::new(ByteLen(WINDOW)).window(&mut MemoryNodes::new(), &runs, hash)
    };
    assert!(window(&[(0, WINDOW, Content::Zero)], zeros).is_ok());
    let other = WindowHash([1; 32]);
    assert!(window(&[(0, WINDOW, Content::Zero)], other).is_err(), "zeros that are none");
    assert!(window(&[(0, WINDOW, Content::Unreadable)], other).is_err());
    assert!(window(&[], zeros).is_err(), "nothing");
    assert!(window(&[(0, WINDOW - 1, Content::Zero)], zeros).is_err(), "too short");
    assert!(window(&[(0, WINDOW + 1, Content::Zero)], zeros).is_err(), "too long");
    assert!(window(&[(1, WINDOW, Content::Zero)], zeros).is_err(), "late");
    let gap = [(0, 5, Content::Zero), (6, WINDOW, Content::Free)];
    assert!(window(&gap, zeros).is_err(), "gap");
    let overlap = [(0, 5, Content::Zero), (4, WINDOW, Content::Free)];
    assert!(window(&overlap, zeros).is_err(), "overlap");
    let empty = [(0, 0, Content::Free), (0, WINDOW, Content::Zero)];
    assert!(window(&empty, zeros).is_err(), "empty run");
    assert!(window(&[(0, WINDOW, data(1, u32::MAX - 5))], other).is_err(), "past 2^32");
    let mut builder = MapBuilder::new(ByteLen(WINDOW));
    let mut nodes = MemoryNodes::new();
    let run = Run { disk: whole, content: Content::Zero };
    builder.window(&mut nodes, &[run], zeros).unwrap();
    assert!(builder.window(&mut nodes, &[run], zeros).is_err(), "a window too many");
    assert!(MapBuilder::new(ByteLen(WINDOW)).finish(&mut nodes).is_err(), "a window missing");
}

fn any_content() -> impl Strategy<Value = Content> {
    prop_oneof![
        6 => (0..40_u64, prop_oneof![Just(0_u32), 0..9000_u32])
            .prop_map(|(seed, offset)| data(seed, offset)),
        1 => Just(Content::Zero),
        1 => Just(Content::Free),
        1 => Just(Content::Unreadable),
        1 => Just(Content::Excluded),
    ]
}

fn any_runs() -> impl Strategy<Value = Vec<(u64, Content)>> {
    let len = prop_oneof![
        6 => 1..70_000_u64,
        2 => (1..40_u64).prop_map(|blocks| blocks << 20),
        1 => (1..700_u64).prop_map(|windows| windows * WINDOW),
    ];
    proptest::collection::vec((len, any_content()), 0..60).prop_map(|mut runs| {
        // Runs of windows fold only where they are on the grid: align some.
        let mut at = 0;
        for (len, content) in &mut runs {
            if matches!(content, Content::Data { .. }) {
                *len = (*len).min(100 << 20); // no chunk is longer than 2^32
            } else if *len >= WINDOW {
                *len += (WINDOW - at % WINDOW) % WINDOW;
            }
            at += *len;
        }
        runs
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn reading_gives_back_what_was_built(
        runs in any_runs(),
        places in proptest::collection::vec((any::<u64>(), 1..40_000_000_u64), 5),
    ) {
        let disk_len = runs.iter().map(|(len, _)| len).sum();
        let mut nodes = MemoryNodes::new();
        let root = build(&mut nodes, &runs, disk_len);
        let windows = windows_of(&runs, disk_len);
        let model = maximal(windows.iter().flatten().copied());
        prop_assert_eq!(&read(&nodes, root, disk_len, between(0, disk_len)), &model);
        for (start, len) in places {
            let start = start % (disk_len + 1);
            let range = between(start, start + len);
            prop_assert_eq!(read(&nodes, root, disk_len, range), cut(&model, range));
        }
        let reader = reader(&nodes, root, disk_len);
        for (window, runs) in reader.windows().zip(&windows) {
            let window = window.unwrap();
            prop_assert_eq!(window.hash, hash_of(window.range, runs));
            if let WindowContent::Pages(pages) = window.content {
                let ends = pages.iter().map(|(range, _)| range.end());
                let starts = pages.iter().map(|(range, _)| range.start());
                let joints: Vec<_> = std::iter::once(window.range.start()).chain(ends).collect();
                let starts: Vec<_> = starts.chain([window.range.end()]).collect();
                prop_assert_eq!(joints, starts);
            }
        }
        prop_assert_eq!(u64::try_from(reader.windows().count()).unwrap(),
            window_count(ByteLen(disk_len)));
    }

    #[test]
    fn runs_may_arrive_cut_anywhere(runs in any_runs(), cuts in proptest::collection::vec(1..90_000_u64, 1..20)) {
        let disk_len = runs.iter().map(|(len, _)| len).sum();
        let mut pieces = Vec::new();
        let mut cuts = cuts.iter().cycle();
        for (len, content) in &runs {
            let head = (*len).min(*cuts.next().unwrap());
            pieces.push((head, *content));
            if head < *len {
                pieces.push((len - head, content.after(head).unwrap()));
            }
        }
        let mut nodes = MemoryNodes::new();
        prop_assert_eq!(build(&mut nodes, &runs, disk_len), build(&mut nodes, &pieces, disk_len));
    }
}
