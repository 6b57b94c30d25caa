//! What becomes of what stands in the target.

use super::*;

/// Whether the file of the snapshot stands there afterwards.
fn after(existing: impl Fn(&Path), overwrite: Overwrite) -> (bool, Summary) {
    let pieces = vec![Piece::Data(b"content of the snapshot".to_vec())];
    let mut wanted = spec("f", What::File(pieces));
    wanted.mtime = Timestamp { seconds: 1_000_000_000, nanos: 0 };
    let fixture = Fixture::new(40, &[wanted]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    existing(&path);
    let summary = restore_all(&fixture, dir.path(), overwrite).unwrap();
    no_temporary_names(dir.path());
    let found = std::fs::symlink_metadata(&path).unwrap();
    let same = found.is_file() && std::fs::read(&path).unwrap() == b"content of the snapshot";
    (same, summary)
}

fn set_mtime(path: &Path, seconds: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    file.set_modified(time).unwrap();
}

#[test]
fn an_equal_file_is_fine_whenever_it_was_changed() {
    let equal = |path: &Path| {
        std::fs::write(path, "content of the snapshot").unwrap();
        set_mtime(path, 5);
    };
    let (same, summary) = after(equal, Overwrite::Never);
    assert!(same && summary.equal == 1 && summary.kept.total == 0 && summary.files == 0);
    let (same, summary) = after(equal, Overwrite::IfChanged);
    assert!(same && summary.files == 1);
}

#[test]
fn a_different_file_stays_is_replaced_where_changed_or_always() {
    let same_size = |path: &Path| {
        std::fs::write(path, "CONTENT of the snapshot").unwrap();
        set_mtime(path, 1_000_000_000);
    };
    let (same, summary) = after(same_size, Overwrite::Never);
    assert!(!same && summary.kept.total == 1, "{summary:?}");
    assert!(summary.kept.list[0].starts_with("f: "), "{summary:?}");
    // Size and time say nothing changed.
    let (same, summary) = after(same_size, Overwrite::IfChanged);
    assert!(!same && summary.equal == 1);
    let (same, summary) = after(same_size, Overwrite::Always);
    assert!(same && summary.files == 1);
    let other_time = |path: &Path| {
        same_size(path);
        set_mtime(path, 7);
    };
    assert!(after(other_time, Overwrite::IfChanged).0);
    let other_size = |path: &Path| std::fs::write(path, "short").unwrap();
    assert!(!after(other_size, Overwrite::Never).0);
    assert!(after(other_size, Overwrite::IfChanged).0);
}

#[test]
fn other_types_stay_or_go_and_full_directories_always_stay() {
    let fifo = |path: &Path| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
    };
    assert!(!after(fifo, Overwrite::Never).0);
    assert!(after(fifo, Overwrite::Always).0);
    let empty = |path: &Path| std::fs::create_dir(path).unwrap();
    assert!(!after(empty, Overwrite::Never).0);
    assert!(after(empty, Overwrite::IfChanged).0);
    let full = |path: &Path| {
        empty(path);
        std::fs::write(path.join("mine"), "x").unwrap();
    };
    let (same, summary) = after(full, Overwrite::Always);
    assert!(!same && summary.kept.total == 1);
}

#[test]
fn a_file_without_a_hash_is_compared_with_the_snapshot() {
    let pieces =
        vec![Piece::Data(vec![5; 4096]), Piece::Unreadable(1), Piece::Data(vec![6; 100_000])];
    let fixture = Fixture::new(41, &[spec("f", What::File(pieces.clone()))]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let mut content = content_of(&pieces);
    std::fs::write(&path, &content).unwrap();
    let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    assert_eq!((summary.equal, summary.kept.total, summary.incomplete.total), (1, 0, 1));
    for position in [0, 4096, 99_999] {
        content[position] ^= 1;
        std::fs::write(&path, &content).unwrap();
        let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
        assert_eq!((summary.equal, summary.kept.total), (0, 1), "at {position}");
        content[position] ^= 1;
    }
}

#[test]
fn where_the_first_name_stays_the_second_becomes_the_file() {
    let specs = [file("a", b"snapshot"), spec("b", What::Link("a")), spec("c", What::Link("a"))];
    let fixture = Fixture::new(42, &specs);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), "different").unwrap();
    let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    assert_eq!((summary.files, summary.hard_links, summary.kept.total), (1, 1, 1), "{summary:?}");
    let inode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().ino();
    assert_eq!(inode("b"), inode("c"));
    assert_ne!(inode("a"), inode("b"));
    assert_eq!(std::fs::read(dir.path().join("c")).unwrap(), b"snapshot");
    // A further name that stands there and is different stays, an equal one is fine.
    std::fs::remove_file(dir.path().join("b")).unwrap();
    std::fs::write(dir.path().join("b"), "snapshot").unwrap();
    std::fs::remove_file(dir.path().join("c")).unwrap();
    std::fs::write(dir.path().join("c"), "SNAPSHOT").unwrap();
    std::fs::write(dir.path().join("a"), "snapshot").unwrap();
    let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    assert_eq!((summary.equal, summary.kept.total, summary.files), (2, 1, 0), "{summary:?}");
    let summary = restore_all(&fixture, dir.path(), Overwrite::Always).unwrap();
    assert_eq!((summary.files, summary.hard_links), (1, 2), "{summary:?}");
    assert_eq!(inode("a"), inode("c"));
}

#[test]
fn links_that_stand_there_are_compared_by_their_targets() {
    let fixture = Fixture::new(43, &[spec("l", What::Symlink(b"right".to_vec()))]);
    for (existing, overwrite, target, kept) in [
        ("right", Overwrite::Never, "right", 0),
        ("wrong", Overwrite::Never, "wrong", 1),
        ("wrong", Overwrite::IfChanged, "right", 0),
        ("right", Overwrite::Always, "right", 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(existing, dir.path().join("l")).unwrap();
        let summary = restore_all(&fixture, dir.path(), overwrite).unwrap();
        let found = std::fs::read_link(dir.path().join("l")).unwrap();
        assert_eq!((found.to_str(), summary.kept.total), (Some(target), kept), "{existing}");
    }
}

#[test]
fn a_plan_counts_and_writes_nothing() {
    let fixture =
        Fixture::new(44, &[file("a/b", b"1234"), spec("l", What::Symlink(b"x".to_vec()))]);
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let (selections, _) = select_all(&browser).unwrap();
    let summary = plan(&browser, &selections, &Filter::new(&[], &[]).unwrap()).unwrap();
    assert_eq!((summary.files, summary.symlinks, summary.bytes_written), (1, 1, 4));
    assert!(browser.find(b"/a/b", Links::Keep).is_ok());
}

#[test]
fn directories_of_a_restore_that_was_killed_are_finished_by_the_next() {
    let mut made = spec("a/b", What::Dir);
    made.mode = 0o750;
    made.mtime = Timestamp { seconds: 1_000_000_000, nanos: 0 };
    let mut outer = spec("a", What::Dir);
    outer.mode = 0o751;
    let fixture = Fixture::new(41, &[outer, made, file("a/b/f", b"x")]);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("a/b"));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    let mark = |path: &Path| {
        // What a killed restore leaves: directories for itself alone, no file yet.
        std::fs::create_dir(path).unwrap();
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(path, closed).unwrap();
        Dir::open_target(path).unwrap().mark_unfinished();
        Dir::open_target(path).unwrap().is_unfinished()
    };
    if !(mark(&a) && mark(&b)) {
        println!("skipped: this file system takes no extended attributes of users");
        return;
    }
    let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    assert_eq!((summary.files, summary.dirs_kept), (1, 0), "{summary:?}");
    assert_eq!((mode(&a), mode(&b)), (0o751, 0o750));
    assert_eq!(std::fs::metadata(&b).unwrap().mtime(), 1_000_000_000);
    assert!(![&a, &b].iter().any(|path| Dir::open_target(path).unwrap().is_unfinished()));
    assert!(!Dir::open_target(dir.path()).unwrap().is_unfinished());

    // What somebody else made and closed stays closed.
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&b, closed).unwrap();
    let summary = restore_all(&fixture, dir.path(), Overwrite::Never).unwrap();
    assert_eq!((summary.dirs_kept, mode(&b)), (1, 0o700), "{summary:?}");
}
