#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::*;

fn name(text: &str) -> Name<'_> {
    Name::new(text.as_bytes()).unwrap()
}

#[test]
fn names_that_lead_elsewhere_are_none() {
    for bad in [&b""[..], b".", b"..", b"/", b"a/b", b"../x", b"a\0b", &[b'x'; 256]] {
        assert!(Name::new(bad).is_none(), "{bad:?}");
    }
    for good in [&b"..."[..], b" ", b"\xff\xfe", b"\n", &[b'x'; 255]] {
        assert!(Name::new(good).is_some(), "{good:?}");
    }
}

#[test]
fn links_are_not_ways() {
    let outside = tempfile::tempdir().unwrap();
    let inside = tempfile::tempdir().unwrap();
    symlink(outside.path(), inside.path().join("out")).unwrap();
    symlink("..", inside.path().join("up")).unwrap();
    symlink("/proc/self/cwd", inside.path().join("magic")).unwrap();
    std::fs::create_dir(inside.path().join("real")).unwrap();
    symlink("real", inside.path().join("beside")).unwrap();
    std::fs::write(outside.path().join("secret"), "x").unwrap();
    symlink(outside.path().join("secret"), inside.path().join("file")).unwrap();
    let dir = Arc::new(Dir::open_target(inside.path()).unwrap());
    for link in ["out", "up", "magic", "beside"] {
        let error = dir.open_dir(name(link)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{link}");
    }
    assert!(dir.open_file(name("file")).is_err());
    assert!(dir.open_dir(name("real")).is_ok());
    assert_eq!(dir.read_link(name("up")).unwrap(), b"..");
}

#[test]
fn nothing_half_written_keeps_a_name() {
    let target = tempfile::tempdir().unwrap();
    let dir = Arc::new(Dir::open_target(target.path()).unwrap());
    let (mut file, temporary) = dir.new_file().unwrap();
    file.write_all(b"half").unwrap();
    drop(temporary);
    assert!(dir.is_empty().unwrap());
    let (mut file, temporary) = dir.new_file().unwrap();
    file.write_all(b"whole").unwrap();
    temporary.place(name("f"), Placing::New).unwrap();
    assert_eq!(std::fs::read(target.path().join("f")).unwrap(), b"whole");
}

#[test]
fn what_stands_there_is_replaced_only_when_asked() {
    let target = tempfile::tempdir().unwrap();
    let dir = Arc::new(Dir::open_target(target.path()).unwrap());
    std::fs::write(target.path().join("f"), "old").unwrap();
    let temporary = dir.new_symlink(b"/etc/passwd").unwrap();
    let error = temporary.place(name("f"), Placing::New).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(target.path().join("f")).unwrap(), b"old");
    let temporary = dir.new_symlink(b"/etc/passwd").unwrap();
    temporary.place(name("f"), Placing::Replace).unwrap();
    assert_eq!(dir.read_link(name("f")).unwrap(), b"/etc/passwd");
    std::fs::create_dir(target.path().join("d")).unwrap();
    let temporary = dir.new_symlink(b"x").unwrap();
    assert!(temporary.place(name("d"), Placing::Replace).is_err());
    let left: Vec<_> = std::fs::read_dir(target.path()).unwrap().flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().as_bytes().starts_with(b".umbra")));
}

#[test]
fn a_link_to_itself_leaves_no_temporary_name() {
    let target = tempfile::tempdir().unwrap();
    let dir = Arc::new(Dir::open_target(target.path()).unwrap());
    std::fs::write(target.path().join("a"), "x").unwrap();
    std::fs::hard_link(target.path().join("a"), target.path().join("b")).unwrap();
    dir.new_link(&dir, name("a")).unwrap().place(name("b"), Placing::Replace).unwrap();
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 2);
}

#[test]
fn a_symbolic_link_is_linked_itself() {
    let target = tempfile::tempdir().unwrap();
    let dir = Arc::new(Dir::open_target(target.path()).unwrap());
    symlink("/nowhere", target.path().join("a")).unwrap();
    dir.new_link(&dir, name("a")).unwrap().place(name("b"), Placing::New).unwrap();
    assert_eq!(dir.read_link(name("b")).unwrap(), b"/nowhere");
}
