//! What was put in comes back.

use super::*;

/// A random tree: files in pieces, links of both sorts, fifos, attributes, odd names and times.
fn random_tree(random: &mut Random) -> Vec<Spec> {
    let mut specs: Vec<Spec> = Vec::new();
    let mut dirs: Vec<Vec<u8>> = vec![Vec::new()];
    for number in 0..40 + random.below(40) {
        let above = dirs[random.below(dirs.len() as u64) as usize].clone();
        let name = match random.below(6) {
            0 => format!("n {number}\u{e4}").into_bytes(),
            1 => [format!("n{number}").as_bytes(), b"\xff\n\\"].concat(),
            2 => format!("{number}-{}", "x".repeat(200)).into_bytes(),
            _ => format!("n{number}").into_bytes(),
        };
        let path = if above.is_empty() { name } else { [&above[..], b"/", &name].concat() };
        let mut made = match random.below(8) {
            0 | 1 => {
                dirs.push(path.clone());
                spec(&path, What::Dir)
            }
            2 => {
                let target = [&b"/etc/passwd"[..], b"../../..", b"n1", b"\xff"];
                spec(&path, What::Symlink(target[random.below(4) as usize].to_vec()))
            }
            3 => spec(&path, What::Fifo),
            _ => spec(&path, What::File(crate::content::tests::random_pieces(random))),
        };
        // An ordinary user could not read mode 0 for the comparison.
        let least = if is_root() { 0 } else { 0o400 };
        let modes = [0o644, 0o600, 0o755, 0o444, 0o4755, 0o2710, least];
        made.mode = modes[random.below(7) as usize];
        if made.what_is_dir() {
            made.mode = [0o755, 0o555, 0o1777, 0o700][random.below(4) as usize];
        }
        let seconds = random.below(6_000_000_000) as i64 - 1_000_000_000;
        made.mtime = Timestamp { seconds, nanos: random.below(1_000_000_000) as u32 };
        if random.below(3) == 0 && matches!(made.what, What::File(_) | What::Dir) {
            let value = random.bytes(20);
            made.xattrs.push(Xattr { name: b"user.test".to_vec(), value });
        }
        specs.push(made);
    }
    specs
}

impl Spec {
    fn what_is_dir(&self) -> bool {
        matches!(self.what, What::Dir)
    }
}

/// Restores to memory (tmpfs takes times before 1901 and after 2446, and user attributes).
fn target() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn random_trees_come_back_as_they_were() {
    for seed in 100..112 {
        let mut random = Random::new(seed);
        let specs = random_tree(&mut random);
        let fixture = Fixture::new(seed, &specs);
        let dir = target();
        let top = dir.path().join("new/target");
        let summary = restore_all(&fixture, &top, Overwrite::Never).unwrap();
        let found = read_tree(&top);
        for spec in &specs {
            let path = crate::browse::display(&spec.path);
            let expected = super::expected(spec);
            assert_eq!(found.get(&spec.path), Some(&expected), "seed {seed}, {path}");
        }
        assert_eq!(found.len(), specs.len(), "seed {seed}");
        assert_eq!((summary.failed.total, summary.damaged.total), (0, 0), "seed {seed}");
        assert_eq!(summary.kept, Named::default());
        assert!(!summary.refused.any(), "seed {seed}: {:?}", summary.refused);
        no_temporary_names(&top);
        // Once more, onto itself: everything stands there.
        let again = restore_all(&fixture, &top, Overwrite::Never).unwrap();
        assert_eq!((again.files, again.dirs, again.symlinks, again.special), (0, 0, 0, 0));
        assert_eq!((again.kept, again.failed), Default::default(), "seed {seed}");
        // So that an ordinary user can take it away.
        for path in found.keys().map(|path| top.join(OsStr::from_bytes(path))) {
            if path.symlink_metadata().unwrap().is_dir() {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
                std::fs::set_permissions(&path, mode).unwrap();
            }
        }
    }
}

#[test]
fn names_of_one_file_are_one_file_again() {
    let specs = [
        file("a/one", b"content"),
        spec("b/two", What::Link("a/one")),
        spec("c/three", What::Link("a/one")),
        spec("s1", What::Symlink(b"x".to_vec())),
        spec("s2", What::Link("s1")),
        spec("p1", What::Fifo),
        spec("p2", What::Link("p1")),
    ];
    let fixture = Fixture::new(1, &specs);
    let dir = target();
    let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    assert_eq!((summary.files, summary.hard_links), (1, 2));
    let inode = |path: &str| dir.path().join(path).symlink_metadata().unwrap().ino();
    for (one, other) in [("a/one", "b/two"), ("a/one", "c/three"), ("s1", "s2"), ("p1", "p2")] {
        assert_eq!(inode(one), inode(other), "{one} {other}");
    }
    assert_eq!(fixture.chunks.asked.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn one_name_of_several_is_a_whole_file() {
    let fixture = Fixture::new(2, &[file("a", b"content"), spec("b", What::Link("a"))]);
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let selection = select(&browser, b"/b", Strip::Keep).unwrap();
    let dir = target();
    let filter = Filter::new(&[], &[]).unwrap();
    run(&fixture, &[selection], dir.path(), Overwrite::Never, filter).unwrap();
    assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"content");
    assert!(!dir.path().join("a").exists());
}

#[test]
fn holes_stay_holes_and_space_stays_space() {
    let pieces =
        vec![Piece::Hole(256), Piece::Data(vec![7; 4096]), Piece::Unwritten(64), Piece::Hole(512)];
    let fixture = Fixture::new(3, &[spec("sparse", What::File(pieces.clone()))]);
    let dir = target();
    restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    let path = dir.path().join("sparse");
    assert_eq!(std::fs::read(&path).unwrap(), content_of(&pieces));
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), (256 + 1 + 64 + 512) * 4096);
    let allocated = meta.blocks() * 512;
    assert!(((1 + 64) * 4096..100 * 4096).contains(&allocated), "{allocated}");
}

#[test]
fn a_path_lands_whole_or_stripped_and_its_directories_are_as_they_were() {
    let mut etc = spec("etc", What::Dir);
    etc.mode = 0o710;
    etc.mtime = Timestamp { seconds: 5, nanos: 6 };
    let specs = [etc, file("etc/ssh/key", b"k"), file("etc/other", b"o"), file("srv/x", b"x")];
    let fixture = Fixture::with_volumes(4, &[("part/2", &specs[..]), ("part/3", &[])]);
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let paths = |selections: &[Selection], include: &[&str]| {
        let dir = target();
        let include: Vec<String> = include.iter().map(|s| (*s).to_owned()).collect();
        let filter = Filter::new(&include, &[]).unwrap();
        run(&fixture, selections, dir.path(), Overwrite::Never, filter).unwrap();
        let found = read_tree(dir.path());
        let names = found.keys().map(|path| String::from_utf8(path.clone()).unwrap());
        (names.collect::<Vec<_>>(), found)
    };
    let one = |path: &str, strip| vec![select(&browser, path.as_bytes(), strip).unwrap()];
    let (names, found) = paths(&one("/etc/ssh/key", Strip::Keep), &[]);
    assert_eq!(names, ["etc", "etc/ssh", "etc/ssh/key"]);
    assert!(found[&b"etc"[..]].starts_with("dir 710") && found[&b"etc"[..]].contains(" 5.6 "));
    assert_eq!(
        paths(&one("part/2/etc/ssh", Strip::Keep), &[]).0,
        ["part", "part/2", "part/2/etc", "part/2/etc/ssh", "part/2/etc/ssh/key",]
    );
    assert_eq!(paths(&one("/etc/ssh/key", Strip::LastName), &[]).0, ["key"]);
    assert_eq!(paths(&one("part/2/etc/ssh", Strip::LastName), &[]).0, ["ssh", "ssh/key"]);
    assert_eq!(
        paths(&one("part/2", Strip::LastName), &["key"]).0,
        ["etc", "etc/ssh", "etc/ssh/key"]
    );
    let (all, unknown) = select_all(&browser).unwrap();
    assert!(unknown.is_empty());
    let (names, _) = paths(&all, &["/srv"]);
    assert_eq!(names, ["part", "part/2", "part/2/srv", "part/2/srv/x"]);
    let twice = [one("/etc/ssh/key", Strip::LastName), one("/etc/ssh/key", Strip::LastName)];
    assert!(check_distinct(&browser, &twice.concat()).is_ok());
}

#[test]
fn equal_last_names_are_refused_with_strip() {
    let fixture = Fixture::new(5, &[file("a/x", b"1"), file("b/x", b"2")]);
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let both = |strip| [b"/a/x", b"/b/x"].map(|path| select(&browser, path, strip).unwrap());
    assert_eq!(check_distinct(&browser, &both(Strip::LastName)).unwrap_err().exit_code(), 2);
    assert!(check_distinct(&browser, &both(Strip::Keep)).is_ok());
}

#[test]
fn the_root_of_a_fresh_target_is_as_it_was_and_of_another_stays() {
    let mut root = spec("", What::Dir);
    root.mode = 0o711;
    root.mtime = Timestamp { seconds: 77, nanos: 0 };
    let fixture = Fixture::new(6, &[root, file("f", b"x")]);
    let dir = target();
    let top = dir.path().join("top");
    restore_all(&fixture, &top, Overwrite::Never).unwrap();
    let meta = std::fs::metadata(&top).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o711, 77));
    std::fs::write(dir.path().join("mine"), "x").unwrap();
    let before = std::fs::metadata(dir.path()).unwrap().mode();
    let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    assert_eq!(std::fs::metadata(dir.path()).unwrap().mode(), before);
    assert_eq!(summary.dirs_kept, 1);
    let summary = restore_all(&fixture, dir.path(), Overwrite::Always).unwrap();
    assert_eq!(std::fs::metadata(dir.path()).unwrap().mode() & 0o7777, 0o711);
    assert_eq!(summary.dirs_kept, 0);
}

#[test]
fn device_nodes_come_back_for_root_and_are_counted_for_others() {
    let fixture = Fixture::new(7, &[spec("null", What::Device(1, 3)), file("f", b"x")]);
    let dir = target();
    let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    // A sandbox may refuse root too.
    assert_eq!(summary.special + summary.refused.devices, 1);
    if !is_root() {
        assert_eq!(summary.refused.devices, 1);
    }
    assert!(dir.path().join("f").exists() && summary.failed.total == 0);
    no_temporary_names(dir.path());
}

#[test]
fn an_ordinary_user_gets_his_files_without_the_bits_of_others() {
    let mut other = file("suid", b"x");
    (other.uid, other.gid, other.mode) = (12_345, 12_346, 0o6755);
    let mut trusted = file("trusted", b"x");
    trusted.xattrs.push(Xattr { name: b"trusted.x".to_vec(), value: b"1".to_vec() });
    let fixture = Fixture::new(8, &[other, trusted]);
    let dir = target();
    let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    let mode = std::fs::metadata(dir.path().join("suid")).unwrap().mode() & 0o7777;
    if is_root() {
        assert_eq!(mode, 0o6755);
        assert!(summary.refused.owners == 0, "{:?}", summary.refused);
    } else {
        assert_eq!(mode, 0o755);
        let refused = summary.refused;
        assert_eq!((refused.owners, refused.modes, refused.xattrs), (1, 1, 1));
    }
    assert_eq!((summary.files, summary.failed.total), (2, 0));
}
