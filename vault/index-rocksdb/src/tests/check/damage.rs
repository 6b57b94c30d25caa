//! Damage of packs, receipts and LOG.

use super::*;

/// The one damaged record that was found.
fn record(report: &CheckReport) -> (String, u64, Reach) {
    assert_eq!(kinds(report), [FindingKind::Record], "{:?}", report.findings.list);
    let [one] = report.findings.list.as_slice() else { panic!("{:?}", report.findings.list) };
    (one.path.clone(), one.at, one.reach)
}

#[test]
fn a_damaged_chunk_names_its_files_on_every_snapshot() {
    for (seed, expected) in [
        (2, vec!["alpha/sda: etc/one"]),
        (6, vec!["alpha/sda: usr/same", "beta/vda: home/same again"]),
        (13, vec!["beta/vda: top"]),
    ] {
        let (world, _) = world();
        let place = world.find(chunk(seed));
        let pack = world.pack_of(chunk(seed));
        world.flip_in(chunk(seed));
        assert_whole(&world.check(ReadData::Nothing));
        let report = world.check(ReadData::Everything);
        assert_eq!(record(&report), (pack, place.offset, Reach::Snapshots));
        assert_eq!(hits(&report), expected, "chunk {seed}");
        assert_eq!(report.lost.len(), 1);
        assert_eq!(report.lost[0].reference, chunk(seed));
        assert_eq!(report.lost[0].cause, LossCause::Damaged);
        for hit in &report.snapshots {
            assert_eq!(hit.bytes_damaged, world::chunk_bytes(seed).len() as u64);
            assert_eq!(hit.ranges_total, 1);
        }
        world.flip_in(chunk(seed));
        assert_whole(&world.check(ReadData::Everything));
    }
}

#[test]
fn a_chunk_that_no_snapshot_reaches_hits_none() {
    let (world, disks) = world();
    let store = world.open();
    let loose = disk("alpha", "sda", &[file("", "never committed", &[31])]);
    let session = begin(&store, &disks[0]);
    store.put(&session, 0, &loose.objects[0]).unwrap();
    store.flush().unwrap();
    drop(session);
    store.close().unwrap();
    assert_eq!(loose.objects[0].reference, chunk(31));
    world.flip_in(chunk(31));
    let report = world.check(ReadData::Everything);
    assert_eq!(record(&report).2, Reach::Nothing);
    assert_eq!(hits(&report), [""; 0]);
    assert!(report.is_damaged() && !report.lost[0].reached);
}

#[test]
fn a_damaged_node_costs_what_stands_below_it() {
    // Pages: what lies in the window. The first two names of alpha's files stand in window 0 and 1.
    let cases: [(Kind, usize, &[&str]); 5] = [
        (Kind::MapPage, 0, &["alpha/sda: etc/one, top, usr/same"]),
        (Kind::MapPage, 1, &["alpha/sda: etc/two, usr/attributed"]),
        (Kind::MapNode, 0, &["alpha/sda: etc/one, etc/two, top, usr/attributed, usr/same"]),
        (Kind::Xattrs, 0, &["alpha/sda: usr/attributed"]),
        (Kind::Manifest, 0, &["alpha/sda: "]),
    ];
    for (kind, number, expected) in cases {
        let (world, disks) = world();
        let node = disks[0].of_kind(kind)[number];
        world.flip_in(node);
        let report = world.check(ReadData::Everything);
        let pack = world.pack_of(node);
        let named = (pack, world.find(node).offset, Reach::Snapshots);
        assert_eq!(record(&report), named, "{kind:?} {number}");
        let mut found = hits(&report);
        for line in &mut found {
            let (snapshot, names) = line.split_once(": ").unwrap();
            let mut names: Vec<&str> = names.split(", ").collect();
            names.sort_unstable();
            *line = format!("{snapshot}: {}", names.join(", "));
        }
        assert_eq!(found, expected, "{kind:?} {number}");
        assert_eq!(report.snapshots[0].whole.is_some(), kind == Kind::Manifest);
        // The manifest of each snapshot is read in any case; of other nodes nothing is.
        let structure = world.check(ReadData::Nothing);
        assert_eq!(structure.is_damaged(), kind == Kind::Manifest);
    }
}

#[test]
fn a_damaged_directory_is_named_with_what_it_held() {
    let (world, disks) = world();
    let dirs = disks[0].of_kind(Kind::Directory);
    // Written in the order of their names, then the top and the root of the overlay.
    for (number, path) in [(0, "etc"), (1, "usr"), (2, "")] {
        world.flip_in(dirs[number]);
        let report = world.check(ReadData::Everything);
        assert_eq!(hits(&report), [format!("alpha/sda: {path}")]);
        assert!(report.snapshots[0].paths[0].reason.contains("names in this directory"));
        assert_eq!(report.snapshots[0].bytes_damaged, 0);
        world.flip_in(dirs[number]);
    }
    let root = *dirs.last().unwrap();
    world.flip_in(root);
    let report = world.check(ReadData::Everything);
    assert_eq!(hits(&report), ["alpha/sda: "]);
    assert!(report.snapshots[0].paths[0].reason.contains("root directory"));
}

#[test]
fn damaged_headers_and_tables_lose_no_object() {
    let (world, _) = world();
    let pack = world.pack_of(chunk(2));
    let len = std::fs::metadata(world.dir().join(&pack)).unwrap().len() as usize;
    for (at, kind) in [
        (3, FindingKind::PackHeader),
        (8, FindingKind::PackHeader),
        (50, FindingKind::PackHeader),
        (len - 1, FindingKind::Table),
        (len - 60, FindingKind::Table),
        (len - 45, FindingKind::Table),
    ] {
        world.harm(&pack, |bytes| bytes[at] ^= 4);
        for read in [ReadData::Nothing, ReadData::Everything] {
            let report = world.check(read);
            assert_eq!(kinds(&report), [kind], "byte {at}: {:?}", report.findings.list);
            assert_eq!(report.findings.list[0].path, pack);
            assert_eq!(hits(&report), [""; 0]);
            assert!(report.is_damaged() && report.lost.is_empty());
        }
        world.harm(&pack, |bytes| bytes[at] ^= 4);
    }
    assert_whole(&world.check(ReadData::Everything));
}

#[test]
fn a_pack_that_is_gone_is_named_with_what_it_held() {
    for index in [true, false] {
        let (world, disks) = world();
        let pack = world.pack_of(chunk(2));
        let beside: Vec<String> = [(1, "alpha/sda", "etc/one"), (2, "alpha/sda", "etc/one")]
            .iter()
            .chain(&[(3, "alpha/sda", "etc/two"), (9, "alpha/sda", "top")])
            .chain(&[(5, "alpha/sda", "usr/same"), (6, "alpha/sda", "usr/same")])
            .chain(&[(7, "alpha/sda", "usr/same"), (23, "alpha/sda", "usr/attributed")])
            .chain(&[(11, "beta/vda", "home/other"), (12, "beta/vda", "home/other")])
            .chain(&[(5, "beta/vda", "home/same again"), (6, "beta/vda", "home/same again")])
            .chain(&[(7, "beta/vda", "home/same again"), (13, "beta/vda", "top")])
            .filter(|(seed, _, _)| world.pack_of(chunk(*seed)) == pack)
            .map(|(_, disk, path)| format!("{disk}: {path}"))
            .collect();
        let lost = disks.iter().flat_map(|disk| disk.of_kind(Kind::Chunk));
        let mut lost: Vec<Reference> = lost.filter(|chunk| world.pack_of(*chunk) == pack).collect();
        lost.sort_unstable();
        lost.dedup();
        if !index {
            std::fs::remove_dir_all(world.dir().join("index")).unwrap();
        }
        world.lose(&pack);
        let report = world.check(ReadData::Nothing);
        let found: Vec<Reference> = report.lost.iter().map(|lost| lost.reference).collect();
        assert_eq!(found, lost);
        let gone = report.findings.list.iter().find(|f| f.kind == FindingKind::PackGone);
        assert_eq!(gone.map(|finding| finding.path.as_str()), index.then_some(pack.as_str()));
        let missing = report.findings.totals.get(&FindingKind::Missing);
        assert_eq!(missing.copied(), Some(lost.len() as u64));
        let mut named: Vec<String> = report
            .snapshots
            .iter()
            .flat_map(|hit| {
                let disk = format!("{}/{}", hit.machine, hit.disk);
                let path = |p: &umbra_store::HitPath| String::from_utf8(p.path.clone()).unwrap();
                hit.paths.iter().map(|p| format!("{disk}: {}", path(p))).collect::<Vec<_>>()
            })
            .collect();
        named.sort();
        let mut expected = beside;
        expected.sort();
        expected.dedup();
        assert_eq!(named, expected);
    }
}

#[test]
fn a_pack_that_lost_its_end_is_named_with_what_it_held() {
    let (world, _) = world();
    let pack = world.pack_of(chunk(2));
    let place = world.find(chunk(2));
    // In the midst of the record; records behind it go too.
    let keep = usize::try_from(place.offset).unwrap() + 200;
    world.harm(&pack, |bytes| bytes.truncate(keep));
    let report = world.check(ReadData::Nothing);
    assert!(kinds(&report).contains(&FindingKind::Table), "{:?}", report.findings.list);
    assert!(report.lost.iter().any(|lost| lost.reference == chunk(2)));
    let alpha = hits(&report);
    assert!(alpha[0].contains("etc/one"), "{alpha:?}");
    // The row of the index knows where it stood.
    let place = report.findings.list.iter().find(|f| f.at == place.offset && f.path == pack);
    assert_eq!(place.unwrap().kind, FindingKind::Record);
    // Without the index the references tell.
    std::fs::remove_dir_all(world.dir().join("index")).unwrap();
    assert_eq!(hits(&world.check(ReadData::Nothing)), alpha);
}

/// What a killed vault leaves: open packs, whose tails may be torn.
#[test]
fn open_packs_are_checked_below_what_was_synced() {
    let (world, _) = world();
    let store = world.open();
    let late = disk("gamma", "sdb", &[file("", "late", &[61, 62])]);
    back_up(&store, &late);
    let killed = world.killed();
    store.close().unwrap();
    assert!(!killed.files("open").is_empty());
    assert_whole(&killed.check(ReadData::Everything));
    let name = format!("open/{}", killed.find(chunk(62)).pack);
    killed.harm(&name, |bytes| bytes.extend_from_slice(b"UMBRAREC, and no more of it"));
    assert_whole(&killed.check(ReadData::Everything));
    let at = usize::try_from(killed.find(chunk(62)).offset).unwrap() + 125;
    killed.harm(&name, |bytes| bytes[at] ^= 1);
    let report = killed.check(ReadData::Nothing);
    // An open pack has no table: the record is gone for whoever refers to it, too.
    assert_eq!(kinds(&report), [FindingKind::Record, FindingKind::Missing]);
    let records = report.findings.list.iter().filter(|f| f.kind == FindingKind::Record);
    assert!(records.map(|finding| &finding.path).all(|path| *path == name));
    assert!(report.lost.iter().any(|lost| lost.reference == chunk(62)));
    assert_eq!(hits(&report), ["gamma/sdb: late"]);
    killed.harm(&name, |bytes| bytes[at] ^= 1);
    killed.lose(&name);
    let report = killed.check(ReadData::Nothing);
    assert!(kinds(&report).contains(&FindingKind::PackGone));
    assert_eq!(hits(&report), ["gamma/sdb: late"]);
}

/// The next owner seals such a pack as it is, with its table beside it.
#[test]
fn torn_tails_of_sealed_packs_carry_nothing() {
    let (world, _) = world();
    let store = world.open();
    back_up(&store, &disk("gamma", "sdb", &[file("", "late", &[61, 62])]));
    let killed = world.killed();
    store.close().unwrap();
    let tail = b"UMBRAREC, and no more of it";
    for name in killed.files("open") {
        killed.harm(&name, |bytes| bytes.extend_from_slice(tail));
    }
    let id = killed.find(chunk(62)).pack.to_string();
    killed.open().close().unwrap();
    let pack = killed.pack_of(chunk(62));
    assert!(pack.ends_with(&id));
    let beside = format!("{pack}.contents");
    assert!(killed.files("packs").contains(&beside), "it has no table beside it");
    assert_whole(&killed.check(ReadData::Everything));
    let len = std::fs::metadata(killed.dir().join(&pack)).unwrap().len() as usize;
    for at in len - tail.len()..len {
        killed.harm(&pack, |bytes| bytes[at] ^= 8);
        assert_whole(&killed.check(ReadData::Everything));
        killed.harm(&pack, |bytes| bytes[at] ^= 8);
    }
    // The table itself carries a lot.
    let table = std::fs::metadata(killed.dir().join(&beside)).unwrap().len() as usize;
    for at in [0, 20, table / 2, table - 1] {
        killed.harm(&beside, |bytes| bytes[at] ^= 8);
        let report = killed.check(ReadData::Nothing);
        assert!(kinds(&report).contains(&FindingKind::Table), "byte {at}");
        killed.harm(&beside, |bytes| bytes[at] ^= 8);
    }
    killed.lose(&pack);
    let report = killed.check(ReadData::Nothing);
    assert!(kinds(&report).contains(&FindingKind::PackGone));
    assert_eq!(hits(&report), ["gamma/sdb: late"]);
}

#[test]
fn receipts_that_are_gone_or_altered_are_named() {
    let disks = two_disks();
    let third = disk("gamma", "sdb", &[file("", "late", &[41])]);
    let world = || World::with(&[&disks[0], &disks[1], &third]);
    for number in 1..=3usize {
        let name = format!("receipts/{number:016}");
        let lost = world();
        lost.lose(&name);
        let altered = world();
        altered.harm(&name, |bytes| bytes[40] ^= 1);
        for world in [lost, altered] {
            let report = world.check(ReadData::Nothing);
            assert_eq!(kinds(&report), [FindingKind::Receipt]);
            assert!(report.findings.list.iter().all(|finding| finding.path == name));
            let expected = ["alpha/sda: ", "beta/vda: ", "gamma/sdb: "][number - 1];
            assert_eq!(hits(&report), [expected]);
            assert!(report.snapshots[0].whole.is_some());
            assert_eq!(report.snapshots[0].sequence, number as u64);
        }
    }
    // The LOG goes too: the gap alone tells, and the receipt behind it.
    let world = world();
    world.lose("receipts/0000000000000002");
    world.files("log").iter().for_each(|name| world.lose(name));
    let report = world.check(ReadData::Nothing);
    let gap = report.findings.list.iter().find(|f| f.kind == FindingKind::Receipt).unwrap();
    assert_eq!(gap.path, "receipts/0000000000000002");
}

#[test]
fn an_altered_log_is_found_wherever_it_is_altered() {
    let (world, _) = world();
    let logs = world.files("log");
    assert!(logs.len() >= 2, "{logs:?}");
    for name in &logs {
        let len = std::fs::metadata(world.dir().join(name)).unwrap().len() as usize;
        for at in (0..len).step_by(37) {
            world.harm(name, |bytes| bytes[at] ^= 0x20);
            let report = world.check(ReadData::Nothing);
            let log = report.findings.list.iter().find(|f| f.kind == FindingKind::Log);
            assert!(log.is_some(), "{name} byte {at}: {:?}", report.findings.list);
            assert!(report.is_damaged());
            world.harm(name, |bytes| bytes[at] ^= 0x20);
        }
        world.harm(name, |bytes| bytes.truncate(len - 1));
        assert!(world.check(ReadData::Nothing).is_damaged(), "{name} cut short");
        world.harm(name, |bytes| bytes.push(0));
        assert!(world.check(ReadData::Nothing).is_damaged(), "{name} with a wrong end");
        return_whole(&world, name, len);
    }
}

/// Puts the last byte back that a LOG segment lost: its check tells whether it is the right one.
fn return_whole(world: &World, name: &str, len: usize) {
    for byte in 0..=255u8 {
        world.harm(name, |bytes| bytes[len - 1] = byte);
        if !world.check(ReadData::Nothing).is_damaged() {
            return;
        }
    }
    panic!("no last byte makes {name} whole");
}

#[test]
fn foreign_names_are_told_and_are_no_damage() {
    let (world, _) = world();
    let foreign = ["packs/notes.txt", "packs/00/README", "receipts/old", "log/x", "open/y", "z"];
    for name in foreign {
        let path = world.dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"theirs").unwrap();
    }
    let report = world.check(ReadData::Everything);
    assert_eq!(kinds(&report), [FindingKind::Foreign]);
    let mut named: Vec<&str> = report.findings.list.iter().map(|f| f.path.as_str()).collect();
    named.sort_unstable();
    let mut expected = foreign;
    expected.sort_unstable();
    assert_eq!(named, expected);
    assert!(!report.is_damaged());
}
