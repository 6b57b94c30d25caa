//! Images and targets that want something outside to be written, and vaults that lost something.

use std::os::unix::fs::symlink;

use umbra_common::node::{Node, NodeSink};
use umbra_common::overlay::{lookup, write_directory};

use super::*;

/// A directory with a file that nobody may touch, and a target beside it.
struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/f"), "untouched").unwrap();
        std::fs::create_dir(dir.path().join("target")).unwrap();
        Self { dir }
    }

    fn target(&self) -> std::path::PathBuf {
        self.dir.path().join("target")
    }

    fn outside(&self) -> std::path::PathBuf {
        self.dir.path().join("outside")
    }

    /// Nothing but the target may have changed.
    fn check(&self) {
        let found = read_tree(&self.outside());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(std::fs::read(self.outside().join("f")).unwrap(), b"untouched");
        let beside = std::fs::read_dir(self.dir.path()).unwrap().count();
        assert_eq!(beside, 2);
        no_temporary_names(&self.target());
    }
}

#[test]
fn links_that_stand_in_the_target_are_never_ways() {
    let specs = [file("etc/f", b"from the image"), file("g", b"g")];
    let fixture = Fixture::new(20, &specs);
    for overwrite in [Overwrite::Never, Overwrite::IfChanged, Overwrite::Always] {
        let ground = Ground::new();
        symlink(ground.outside(), ground.target().join("etc")).unwrap();
        symlink(ground.outside().join("f"), ground.target().join("g")).unwrap();
        let summary = restore_all(&fixture, &ground.target(), overwrite).unwrap();
        ground.check();
        let etc = ground.target().join("etc").symlink_metadata().unwrap();
        if overwrite == Overwrite::Never {
            assert!(etc.is_symlink() && summary.kept.total == 2, "{summary:?}");
        } else {
            assert!(etc.is_dir() && summary.kept.total == 0, "{overwrite:?} {summary:?}");
            assert_eq!(std::fs::read(ground.target().join("etc/f")).unwrap(), b"from the image");
            assert_eq!(std::fs::read(ground.target().join("g")).unwrap(), b"g");
        }
    }
}

#[test]
fn a_link_and_a_directory_of_one_name_never_lead_outside() {
    for overwrite in [Overwrite::Never, Overwrite::Always] {
        for swapped in [false, true] {
            let ground = Ground::new();
            let target = ground.outside().as_os_str().as_bytes().to_vec();
            let link = [spec("x", What::Symlink(target))];
            let dir = [file("x/f", b"evil"), file("x/new", b"evil")];
            let fixture = Fixture::with_volumes(21, &[("part/1", &link[..]), ("part/2", &dir[..])]);
            let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
            let mut selections = [b"part/1/x", b"part/2/x"]
                .map(|path| select(&browser, path, Strip::LastName).unwrap());
            assert!(check_distinct(&browser, &selections).is_err());
            if swapped {
                selections.reverse();
            }
            let filter = Filter::new(&[], &[]).unwrap();
            run(&fixture, &selections, &ground.target(), overwrite, filter).unwrap();
            ground.check();
            // In two runs, too.
            for selection in selections {
                let filter = Filter::new(&[], &[]).unwrap();
                run(&fixture, &[selection], &ground.target(), overwrite, filter).unwrap();
                ground.check();
            }
        }
    }
}

/// Puts a directory whose second entry has a name of the same length as the one that is allowed.
fn with_forged_name(good: &[u8], bad: &[u8]) -> Fixture {
    assert_eq!(good.len(), bad.len());
    let mut fixture = Fixture::new(22, &[file("a", b"1"), file(good, b"evil")]);
    let volume = fixture.snapshot.manifest.volumes[0].clone();
    let link = fixture.snapshot.overlay_link(&volume).unwrap().unwrap();
    let root = lookup(&fixture.nodes, link, []).unwrap().unwrap();
    let own = root.record.directory.unwrap();
    let node: Node = Node::clone(fixture.nodes.find(&own).unwrap());
    let mut forged = node.clone();
    let at = node.body.windows(good.len()).position(|window| window == good).unwrap();
    forged.body[at..at + bad.len()].copy_from_slice(bad);
    let forged = fixture.nodes.put(forged).unwrap();
    let mut record = root.record.clone();
    record.directory = Some(forged);
    let overlay = umbra_common::overlay::write_root(&mut fixture.nodes, record).unwrap();
    fixture.snapshot.manifest.volumes[0].overlay = Some(overlay);
    let node = fixture.snapshot.manifest.to_node().unwrap();
    fixture.snapshot.reference = fixture.nodes.put(node).unwrap();
    fixture
}

#[test]
fn names_that_lead_elsewhere_are_damage_and_write_nothing() {
    for (good, bad) in [
        (&b"bXXbf"[..], &b"../bf"[..]),
        (b"bb", b".."),
        (b"XoutsideXf", b"/outside/f"),
        (b"bX", b"b/"),
        (b"bX", b"b\0"),
    ] {
        let fixture = with_forged_name(good, bad);
        let ground = Ground::new();
        let summary = restore_all(&fixture, &ground.target(), Overwrite::Always).unwrap();
        ground.check();
        assert_eq!(summary.damaged.total, 1, "{bad:?}: {summary:?}");
    }
    assert_eq!(
        with_forged_name(b"bb", b"bc").nodes.len(),
        with_forged_name(b"bb", b"bd").nodes.len()
    );
}

#[test]
fn a_name_that_is_too_long_for_the_system_is_named_and_the_rest_comes() {
    let long = [b'x'; 300];
    let mut under = long.to_vec();
    under.extend_from_slice(b"/f");
    let fixture = Fixture::new(23, &[file(&under, b"1"), file([b'y'; 300], b"2"), file("z", b"3")]);
    let ground = Ground::new();
    let summary = restore_all(&fixture, &ground.target(), Overwrite::Never).unwrap();
    assert_eq!((summary.files, summary.failed.total), (1, 2), "{summary:?}");
    ground.check();
}

#[test]
fn what_is_deeper_than_a_path_may_be_comes_back() {
    let mut path = b"deep".to_vec();
    for _ in 0..60 {
        path.push(b'/');
        path.extend_from_slice(&[b'd'; 100]);
    }
    path.extend_from_slice(b"/f");
    assert!(path.len() > 4096);
    let fixture = Fixture::new(24, &[file(&path, b"found")]);
    let dir = tempfile::tempdir().unwrap();
    let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    assert_eq!((summary.files, summary.failed.total), (1, 0), "{summary:?}");
    let mut at = Arc::new(Dir::open_target(dir.path()).unwrap());
    let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let last = names.pop().unwrap();
    for name in names {
        at = Arc::new(at.open_dir(Name::new(name).unwrap()).unwrap());
    }
    assert!(at.find(Name::new(last).unwrap()).unwrap().is_some());
}

#[test]
fn a_damaged_file_is_named_and_never_stands_there_half() {
    let mut random = Random::new(25);
    let content = random.bytes(60_000);
    let specs = [
        file("a", b"whole"),
        file("d/bad", &content),
        spec("e", What::Link("d/bad")),
        file("z", b"too"),
    ];
    let mut fixture = Fixture::new(25, &specs);
    let last = umbra_common::ObjectId::of_chunk(&content[48 * 1024..]);
    fixture.chunks.table.remove(&last).unwrap();
    let ground = Ground::new();
    let summary = restore_all(&fixture, &ground.target(), Overwrite::Never).unwrap();
    assert_eq!((summary.files, summary.damaged.total), (2, 2), "{summary:?}");
    assert!(summary.damaged.list[0].starts_with("d/bad: "), "{summary:?}");
    assert!(!ground.target().join("d/bad").exists() && !ground.target().join("e").exists());
    ground.check();
    // What stood there before stays.
    std::fs::write(ground.target().join("d/bad"), "old").unwrap();
    restore_all(&fixture, &ground.target(), Overwrite::Always).unwrap();
    assert_eq!(std::fs::read(ground.target().join("d/bad")).unwrap(), b"old");
}

#[test]
fn a_lying_chunk_source_writes_no_wrong_byte() {
    let mut fixture = Fixture::new(26, &[file("f", &[9; 5000])]);
    fixture.chunks.table.values_mut().next().unwrap()[100] = 8;
    let ground = Ground::new();
    let summary = restore_all(&fixture, &ground.target(), Overwrite::Never).unwrap();
    assert_eq!((summary.files, summary.damaged.total), (0, 1));
    assert!(!ground.target().join("f").exists());
    ground.check();
}

#[test]
fn a_full_target_ends_the_run_with_its_own_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = is_root()
        && std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
    if !mounted {
        println!("skipped: mounting a small file system needs root");
        return;
    }
    let mut random = Random::new(27);
    let specs = [file("d/a", &random.bytes(300_000)), file("d/b", &random.bytes(3_000_000))];
    let fixture = Fixture::new(27, &specs);
    let error = restore_all(&fixture, dir.path(), Overwrite::Never).map(|_| ());
    let left = read_tree(dir.path());
    let unmounted = std::process::Command::new("umount").arg(dir.path()).status().unwrap();
    assert!(unmounted.success());
    let error = error.unwrap_err();
    assert_eq!(error.exit_code(), 14, "{error}");
    assert!(error.to_string().contains("make room"), "{error}");
    assert_eq!(left.keys().map(Vec::as_slice).collect::<Vec<_>>(), [&b"d"[..], b"d/a"]);
    // The directory is not left as it was while it was being filled.
    assert!(left[&b"d"[..]].starts_with("dir 755"), "{left:?}");
}

#[test]
fn an_empty_directory_node_is_a_directory() {
    let mut nodes = umbra_common::node::memory::MemoryNodes::new();
    assert!(write_directory(&mut nodes, []).is_ok());
    let fixture = Fixture::new(28, &[spec("empty", What::Dir)]);
    let dir = tempfile::tempdir().unwrap();
    let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    assert_eq!(summary.dirs, 1);
    assert!(dir.path().join("empty").is_dir());
}
