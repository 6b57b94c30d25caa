//! Directories: order, splits, lookups, what a change rewrites, damage.

use std::collections::HashSet;

use super::super::directory::{Body, Child};
use super::*;
use crate::Error;

fn numbered(count: u64) -> Vec<Record> {
    (0..count)
        .map(|number| Record {
            inode: InodeNumber(number),
            ..file(format!("file-{number:08}.txt").as_bytes())
        })
        .collect()
}

fn ids(nodes: &MemoryNodes) -> HashSet<Reference> {
    nodes.iter().map(|(reference, _)| *reference).collect()
}

#[test]
fn empty_and_small_directories_are_one_node() {
    for count in [0, 1, 15] {
        let mut nodes = MemoryNodes::new();
        let records = numbered(count);
        let node = write_directory(&mut nodes, records.clone()).unwrap();
        assert_eq!(nodes.len(), 1);
        assert_eq!(read_all(&nodes, node), records);
    }
}

#[test]
fn a_path_leads_to_its_entry() {
    let mut nodes = MemoryNodes::new();
    let etc = write_directory(&mut nodes, [file(b"fstab"), file(b"\xff\xfe")]).unwrap();
    let usr = write_directory(&mut nodes, []).unwrap();
    let link = Record {
        file_type: FileType::Symlink,
        target: Some(b"/etc/../..".to_vec()),
        content: ContentHash::NotAFile,
        ..file(b"link")
    };
    let root = volume(&mut nodes, vec![dir(b"etc", etc), link, dir(b"usr", usr)]);
    let find = |path: &[&[u8]]| {
        lookup(&nodes, top(root), path.iter().copied()).unwrap().map(|entry| entry.record)
    };
    assert_eq!(find(&[]).unwrap().directory.map(|node| node.kind), Some(Kind::Directory));
    assert_eq!(find(&[b"etc", b"fstab"]), Some(file(b"fstab")));
    assert_eq!(find(&[b"etc", b"\xff\xfe"]), Some(file(b"\xff\xfe")));
    assert_eq!(find(&[b"link"]).unwrap().target.unwrap(), b"/etc/../..");
    for none in [&[b"nope" as &[u8]][..], &[b"etc", b"nope"], &[b"etc", b"fstab", b"x"]] {
        assert_eq!(find(none), None, "{none:?}");
    }
    for none in [&[b"link" as &[u8], b"x"][..], &[b""], &[b"usr", b"x"], &[b".."], &[b"."]] {
        assert_eq!(find(none), None, "{none:?}");
    }
}

#[test]
fn a_large_directory_is_a_tree_and_a_change_rewrites_few_nodes() {
    let records = numbered(100_000);
    let mut nodes = MemoryNodes::new();
    let first = write_directory(&mut nodes, records.clone()).unwrap();
    let before = ids(&nodes);
    assert_eq!(read_all(&nodes, first), records);
    let average = records.len() / before.len();
    assert!((60..100).contains(&average), "{average} entries a node");
    for (_, node) in nodes.iter() {
        assert!(node.encoded_len() <= 256 << 10);
    }

    let mut worst = 0;
    for step in 0..12 {
        let at = (step * 7919 + 13) % records.len();
        let mut changed = records.clone();
        match step % 3 {
            0 => changed[at].mtime.seconds += 1,
            1 => drop(changed.remove(at)),
            _ => {
                let name = [changed[at].name.as_slice(), b"-new"].concat();
                changed.insert(at + 1, file(&name));
            }
        }
        let mut after = MemoryNodes::new();
        let node = write_directory(&mut after, changed.clone()).unwrap();
        let new = ids(&after).difference(&before).count();
        assert_ne!(node, first);
        if step % 3 == 0 {
            assert_eq!(new, 3, "a changed entry: its leaf and the two nodes above");
        }
        worst = worst.max(new);
    }
    assert!(worst <= 8, "{worst} new nodes");
    for at in (0..records.len()).step_by(997) {
        let found = find(&nodes, top(first), &records[at].name).unwrap().unwrap();
        assert_eq!(found.record, records[at]);
    }
    assert!(find(&nodes, top(first), b"file-00000001.tx").unwrap().is_none());
    assert!(find(&nodes, top(first), b"a").unwrap().is_none());
    assert!(find(&nodes, top(first), b"z").unwrap().is_none());
}

#[test]
fn heavy_records_make_small_nodes() {
    let target = vec![b'x'; MAX_TARGET_BYTES];
    let heavy = |number: u32| Record {
        file_type: FileType::Symlink,
        target: Some(target.clone()),
        content: ContentHash::NotAFile,
        ..file(format!("{number:04}").as_bytes())
    };
    let records: Vec<_> = (0..40).map(heavy).collect();
    let mut nodes = MemoryNodes::new();
    let node = write_directory(&mut nodes, records.clone()).unwrap();
    assert_eq!(read_all(&nodes, node), records);
    assert!(nodes.len() > 10);
    assert!(nodes.iter().all(|(_, node)| node.encoded_len() <= 256 << 10));
}

#[test]
fn large_xattrs_stand_in_nodes() {
    let xattr = |number: u32, len| Xattr {
        name: format!("user.{number:03}").into_bytes(),
        value: vec![u8::try_from(number % 251).unwrap(); len],
    };
    let cases = [
        (vec![xattr(1, 4096 - 8)], 0),
        (vec![xattr(1, 4096 - 7)], 1),
        ((0..64).map(|number| xattr(number, 65_536)).collect(), 22),
    ];
    for (list, expected) in cases {
        let record = Record { xattrs: Xattrs::Inline(list.clone()), ..file(b"a") };
        let mut nodes = MemoryNodes::new();
        let root = volume(&mut nodes, vec![record]);
        assert_eq!(nodes.len(), 2 + expected);
        let entry = lookup(&nodes, top(root), [&b"a"[..]]).unwrap().unwrap();
        assert_eq!(entry.xattrs(&nodes).unwrap(), list);
    }
    let mut nodes = MemoryNodes::new();
    let too_many = (0..999).map(|number| xattr(number, 65_536)).collect();
    let record = Record { xattrs: Xattrs::Inline(too_many), ..file(b"a") };
    let refused = write_directory(&mut nodes, [record]);
    assert!(matches!(refused, Err(Error::Limit { .. })));
}

#[test]
fn xattrs_stand_where_their_size_says() {
    let xattr = |name: &str, len| Xattr { name: name.into(), value: vec![0; len] };
    let large = vec![xattr("user.a", 4096)];
    let inline = Record { xattrs: Xattrs::Inline(large), ..file(b"a") };
    let node = Body::Leaf(vec![inline]).encode();
    assert!(matches!(Body::decode(&node), Err(Error::Corrupt { .. })), "large, in the record");

    let node_of = |list: &[Xattr]| {
        let mut writer = crate::cbor::Writer::new();
        writer.array(1 + list.len());
        writer.uint(1_u64);
        list.iter().for_each(|xattr| super::super::xattrs::write_one(&mut writer, xattr));
        Node { kind: Kind::Xattrs, refs: Vec::new(), body: writer.into_bytes() }
    };
    let read = |lists: &[&[Xattr]]| {
        let mut nodes = MemoryNodes::new();
        let put = |list: &&[Xattr]| crate::node::NodeSink::put(&mut nodes, node_of(list)).unwrap();
        let references = lists.iter().map(put).collect();
        let record = Record { xattrs: Xattrs::Nodes(references), ..file(b"a") };
        let root = volume(&mut nodes, vec![record]);
        lookup(&nodes, top(root), [&b"a"[..]]).unwrap().unwrap().xattrs(&nodes)
    };
    let (one, two) = ([xattr("user.a", 4000)], [xattr("user.b", 90)]);
    assert!(read(&[&one, &two]).is_ok());
    assert!(read(&[&two, &one]).is_err(), "out of order");
    assert!(read(&[&one]).is_err(), "few, in a node");
    assert!(read(&[&one, &two, &[]]).is_err(), "a node of none");
}

#[test]
fn the_writer_refuses_and_goes_on() {
    let mut nodes = MemoryNodes::new();
    let node = write_directory(&mut nodes, []).unwrap();
    let mut writer = DirectoryWriter::new();
    writer.push(&mut nodes, file(b"b")).unwrap();
    let long = vec![b'x'; MAX_ENTRY_NAME_BYTES + 1];
    for name in [&b"a"[..], b"b", b"", b".", b"..", b"x/y", b"x\0y", &long] {
        assert!(writer.push(&mut nodes, file(name)).is_err(), "{name:?}");
    }
    let with = |change: fn(&mut Record)| {
        let mut record = file(b"c");
        change(&mut record);
        record
    };
    for bad in [
        with(|record| record.mode = 0o10_000),
        with(|record| record.mtime.nanos = 1_000_000_000),
        with(|record| record.rdev = Some(DeviceNumber { major: 1, minor: 2 })),
        with(|record| record.target = Some(Vec::new())),
        with(|record| record.content = ContentHash::NotAFile),
        with(|record| record.file_type = FileType::Fifo),
        with(|record| record.file_type = FileType::Dir),
        with(|record| record.extents = Extents::Inline(vec![extent(0, 0, 0)])),
        with(|record| record.extents = Extents::Inline(vec![extent(5, 0, 9), extent(9, 20, 1)])),
        Record { directory: Some(node), ..file(b"c") },
        Record { extents: Extents::Node(node), ..file(b"c") },
        Record { xattrs: Xattrs::Nodes(vec![node]), ..file(b"c") },
        dir(b"c", Reference { kind: Kind::Xattrs, ..node }),
    ] {
        assert!(writer.push(&mut nodes, bad.clone()).is_err(), "{bad:?}");
    }
    writer.push(&mut nodes, file(b"d")).unwrap();
    let written = writer.finish(&mut nodes).unwrap();
    assert_eq!(read_all(&nodes, written), [file(b"b"), file(b"d")]);
    assert!(write_root(&mut nodes, dir(b"x", node)).is_err(), "a root with a name");
    assert!(write_root(&mut nodes, file(b"")).is_err(), "a root that is a file");
}

#[test]
fn a_lost_node_costs_its_entries() {
    let records = numbered(5000);
    let mut nodes = MemoryNodes::new();
    let directory = write_directory(&mut nodes, records.clone()).unwrap();
    let entry = find(&nodes, top(directory), &records[2500].name).unwrap().unwrap();
    // The leaf with record 2500: the one node whose removal loses it.
    let leaves = nodes.iter().filter(|(_, node)| Body::decode(node).unwrap().level() == 0);
    let leaf = leaves
        .map(|(reference, _)| *reference)
        .find(|leaf| {
            let mut less = nodes.clone();
            less.remove(leaf);
            find(&less, top(directory), &entry.record.name).is_err()
        })
        .unwrap();
    let Ok(Body::Leaf(lost)) = Body::decode(nodes.find(&leaf).unwrap()) else { panic!() };
    nodes.remove(&leaf);
    let items: Vec<_> = entries(&nodes, top(directory)).collect();
    assert_eq!(items.iter().filter(|item| item.is_err()).count(), 1);
    assert_eq!(items.len(), records.len() - lost.len() + 1);
}

#[test]
fn hostile_trees_are_refused() {
    let mut nodes = MemoryNodes::new();
    let leaf = |nodes: &mut MemoryNodes, names: &[&[u8]]| {
        let records = names.iter().map(|name| file(name)).collect();
        crate::node::NodeSink::put(nodes, Body::Leaf(records).encode()).unwrap()
    };
    let one = leaf(&mut nodes, &[b"a", b"m"]);
    let two = leaf(&mut nodes, &[b"k", b"z"]);
    let inner = |nodes: &mut MemoryNodes, level, children: &[(&[u8], Reference)]| {
        let children = children
            .iter()
            .map(|(first, node)| Child { first: first.to_vec(), node: *node })
            .collect();
        crate::node::NodeSink::put(nodes, Body::Inner(level, children).encode()).unwrap()
    };
    let bad = |nodes: &MemoryNodes, root: Reference| {
        entries(nodes, top(root)).filter(Result::is_err).count()
    };
    let overlap = inner(&mut nodes, 1, &[(b"a", one), (b"k", two)]);
    assert_eq!(bad(&nodes, overlap), 1, "the first leaf reaches into the second");
    assert!(find(&nodes, top(overlap), b"m").unwrap().is_none());
    let first = inner(&mut nodes, 1, &[(b"b", one), (b"k", two)]);
    assert_eq!(bad(&nodes, first), 1, "another first name");
    let deep = inner(&mut nodes, 1, &[(b"b", first), (b"k", two)]);
    assert_eq!(bad(&nodes, deep), 1, "a level 1 node below a level 1 node");
    let unsorted = inner(&mut nodes, 1, &[(b"k", two), (b"a", one)]);
    assert_eq!(bad(&nodes, unsorted), 1);
    let childless = inner(&mut nodes, 1, &[]);
    assert_eq!(bad(&nodes, childless), 1);
    let needless = inner(&mut nodes, 1, &[(b"a", one)]);
    assert_eq!(bad(&nodes, needless), 1, "a level of a single node");
    assert!(find(&nodes, top(needless), b"a").is_err());
    let nameless = volume(&mut nodes, vec![]);
    assert_eq!(bad(&nodes, nameless), 1, "a root where a directory should be");
    assert!(root(&nodes, top(one)).is_err(), "a directory where a root should be");
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 1..20).prop_filter("names", |name| {
        name != b"." && name != b".." && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn directories_come_back(names in proptest::collection::btree_set(any_name(), 0..900)) {
        let records: Vec<_> = names.iter().map(|name| file(name)).collect();
        let mut nodes = MemoryNodes::new();
        let directory = write_directory(&mut nodes, records.clone()).unwrap();
        prop_assert_eq!(read_all(&nodes, directory), records);
        for name in names.iter().take(20) {
            let found = find(&nodes, top(directory), name).unwrap().unwrap();
            prop_assert_eq!(&found.record.name, name);
            let mut longer = name.clone();
            longer.push(1);
            let found = find(&nodes, top(directory), &longer).unwrap();
            prop_assert_eq!(found.is_some(), names.contains(&longer));
        }
    }
}
