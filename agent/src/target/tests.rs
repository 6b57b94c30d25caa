//! Targets in a temporary directory; devices are tested from the outside (tests/e2e/devices.rs).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn find(path: &Path, len: u64) -> Result<Found> {
    inspect(path, ByteLen(len), &OwnStore::default(), &System::read()?)
}

fn span(start: u64, len: u64) -> ByteRange {
    ByteRange::new(ByteOffset(start), ByteLen(len)).unwrap()
}

/// A target over garbage, as a device would be.
fn over_garbage(dir: &Path, len: usize) -> Target {
    let path = dir.join("garbage");
    fs::write(&path, vec![0xA5_u8; len]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    Target::over(file, &path, None)
}

#[test]
fn zeros_are_made_with_and_without_the_help_of_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let len = 600_000;
    let ranges =
        [span(0, 0), span(3, 5), span(100, 150_000), span(196_608, 65_536), span(599_999, 1)];
    for helps in [true, false] {
        let target = over_garbage(dir.path(), len);
        target.zeroes_ranges.store(helps, Ordering::Relaxed);
        let mut expected = vec![0xA5_u8; len];
        for range in ranges {
            assert_eq!(target.zero(range).unwrap(), range.len().0);
            let end = usize::try_from(range.end().0).unwrap();
            expected[usize::try_from(range.start().0).unwrap()..end].fill(0);
        }
        assert!(fs::read(dir.path().join("garbage")).unwrap() == expected, "helps: {helps}");
    }
}

#[test]
fn a_kernel_that_refuses_to_zero_is_asked_once() {
    let dir = tempfile::tempdir().unwrap();
    over_garbage(dir.path(), 300_000);
    // A pipe's descriptor, as any that fallocate refuses; here one without the right to write.
    let file = File::open(dir.path().join("garbage")).unwrap();
    let target = Target::over(file, dir.path(), None);
    assert!(target.zero(span(0, 300_000)).is_err(), "it cannot be written at all");
    assert!(!target.zeroes_ranges.load(Ordering::Relaxed));
}

#[test]
fn the_first_bytes_of_a_device_come_last_and_go_where_it_fails() {
    let dir = tempfile::tempdir().unwrap();
    let len = 3 << 20;
    let mut target = over_garbage(dir.path(), len);
    target.head = Some(Head::new(ByteLen(len as u64)));
    target.blank_head().unwrap();
    let mut expected: Vec<u8> = (0..len).map(|i| (i % 253) as u8).collect();
    let mut at = len;
    // From the end to the start, in pieces that cross the head's end.
    while at > 0 {
        let from = at.saturating_sub(300_007);
        target.write(ByteOffset(from as u64), &expected[from..at]).unwrap();
        at = from;
    }
    let before = fs::read(dir.path().join("garbage")).unwrap();
    assert!(before[..1 << 20].iter().all(|&byte| byte == 0), "it passes for a disk too early");
    assert!(before[1 << 20..] == expected[1 << 20..]);
    let mut medium = target.settle().unwrap();
    let mut piece = Piece::default();
    medium.read(ByteOffset(0), 5000, &mut piece).unwrap();
    assert_eq!(piece.bytes(), &expected[..5000]);
    assert_eq!(medium.next_data(ByteOffset(7), ByteOffset(9)), ByteOffset(7), "of a device");
    assert!(fs::read(dir.path().join("garbage")).unwrap() == expected);
    target.abandon();
    expected[..1 << 20].fill(0);
    assert!(fs::read(dir.path().join("garbage")).unwrap() == expected);

    // Zeros in front stay zeros, and nothing behind a short disk changes.
    let mut target = over_garbage(dir.path(), len);
    target.head = Some(Head::new(ByteLen(10_000)));
    target.blank_head().unwrap();
    assert_eq!(target.zero(span(0, 9000)).unwrap(), 9000);
    target.write(ByteOffset(9000), &[1; 1000]).unwrap();
    target.finish().unwrap();
    let after = fs::read(dir.path().join("garbage")).unwrap();
    assert!(after[..9000].iter().all(|&byte| byte == 0));
    assert!(after[9000..10_000].iter().all(|&byte| byte == 1));
    assert!(after[10_000..].iter().all(|&byte| byte == 0xA5));
}

#[test]
fn holes_are_told_and_what_stands_between_them_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let len = (9 << 20) + 100;
    let mut found = find(&dir.path().join("disk"), len).unwrap();
    let target = Target::open(&mut found).unwrap();
    target.write(ByteOffset((3 << 20) + 5), &[1; 5000]).unwrap();
    target.write(ByteOffset((5 << 20) - 1), &[2; 1]).unwrap();
    let mut medium = target.settle().unwrap();
    let end = ByteOffset(len);
    let (mut at, mut read) = (ByteOffset(0), 0);
    let mut back = vec![0; len as usize];
    let mut piece = Piece::default();
    while at < end {
        at = medium.next_data(at, end);
        let take = (len - at.0).min(4096);
        if take > 0 {
            medium.read(at, take as usize, &mut piece).unwrap();
            back[at.0 as usize..][..take as usize].copy_from_slice(piece.bytes());
        }
        read += take;
        at = ByteOffset(at.0 + take);
    }
    assert!((5001..1 << 20).contains(&read), "{read} bytes were read");
    target.finish().unwrap();
    assert!(fs::read(dir.path().join("disk")).unwrap() == back);
    assert_eq!(back.iter().filter(|&&byte| byte != 0).count(), 5001);
}

#[test]
fn what_is_read_back_is_what_was_written_whatever_the_length() {
    for len in [1_usize, 511, 4096, 5000, (4 << 20) + 777] {
        let dir = tempfile::tempdir().unwrap();
        let mut found = find(&dir.path().join("disk"), len as u64).unwrap();
        let target = Target::open(&mut found).unwrap();
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        target.write(ByteOffset(0), &bytes).unwrap();
        let mut medium = target.settle().unwrap();
        let mut back = Vec::new();
        let mut piece = Piece::default();
        while back.len() < len {
            let take = (len - back.len()).min(read_back::PIECE_BYTES);
            medium.read(ByteOffset(back.len() as u64), take, &mut piece).unwrap();
            back.extend_from_slice(piece.bytes());
        }
        assert!(back == bytes, "{len}");
        let past = medium.read(ByteOffset((len as u64).next_multiple_of(4096)), 1, &mut piece);
        assert!(piece.bytes().is_empty());
        assert!(past.is_err(), "bytes behind the end");
        assert!(!dir.path().join("disk").exists());
        target.finish().unwrap();
        assert!(fs::read(dir.path().join("disk")).unwrap() == bytes);
        let mode = fs::metadata(dir.path().join("disk")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "a disk is for its owner alone");
    }
}

#[test]
fn only_a_named_file_is_replaced_and_its_mode_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let mut found = find(&link, 5).unwrap();
    assert_eq!(found.kind(), TargetKind::File);
    assert_eq!(found.confirm(None).unwrap_err().exit_code(), 5);
    assert_eq!(found.confirm(Some(dir.path())).unwrap_err().exit_code(), 5);
    found.confirm(Some(&path)).unwrap();
    found.confirm(Some(&link)).unwrap();
    let target = Target::open(&mut found).unwrap();
    target.write(ByteOffset(0), b"disk!").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    target.finish().unwrap();
    // The link is still one, and leads to the disk.
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&path).unwrap(), b"disk!");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn names_that_can_hold_no_file_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let dangling = dir.path().join("dangling");
    symlink(dir.path().join("nothing"), &dangling).unwrap();
    let slash = PathBuf::from(format!("{}/new/", dir.path().display()));
    for path in [dir.path(), &dangling, &slash, &dir.path().join("no/dir"), Path::new("/dev/null")]
    {
        assert_eq!(find(path, 1).unwrap_err().exit_code(), 5, "{}", path.display());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn two_recoveries_never_write_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let mut found = find(&path, 4).unwrap();
    let first = Target::open(&mut found).unwrap();
    first.write(ByteOffset(0), b"1111").unwrap();
    assert_eq!(Target::open(&mut find(&path, 4).unwrap()).unwrap_err().exit_code(), 5);
    first.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"1111");
}

#[test]
fn a_name_that_was_taken_in_the_meantime_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let target = Target::open(&mut find(&path, 4).unwrap()).unwrap();
    target.write(ByteOffset(0), b"disk").unwrap();
    fs::write(&path, "theirs").unwrap();
    assert_eq!(target.finish().unwrap_err().exit_code(), 5);
    assert_eq!(fs::read(&path).unwrap(), b"theirs");
    assert_eq!(fs::read(dir.path().join("disk.umbra-partial")).unwrap(), b"disk");
}

#[test]
fn a_partial_file_that_is_not_ours_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let (path, partial) = (dir.path().join("disk"), dir.path().join("disk.umbra-partial"));
    let precious = dir.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, &partial).unwrap();
    assert_eq!(Target::open(&mut find(&path, 4).unwrap()).unwrap_err().exit_code(), 5);
    fs::remove_file(&partial).unwrap();
    fs::hard_link(&precious, &partial).unwrap();
    assert_eq!(Target::open(&mut find(&path, 4).unwrap()).unwrap_err().exit_code(), 5);
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    fs::remove_file(&partial).unwrap();
    // What a killed run left is used again, without its bytes.
    fs::write(&partial, vec![7_u8; 9000]).unwrap();
    let target = Target::open(&mut find(&path, 8000).unwrap()).unwrap();
    target.finish().unwrap();
    assert!(fs::read(&path).unwrap() == vec![0_u8; 8000]);
}
