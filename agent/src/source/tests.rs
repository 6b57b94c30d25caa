//! Image files that change, and devices that fail.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::sync::Mutex;

use super::*;

fn span(start: u64, len: u64) -> ByteRange {
    ByteRange::new(ByteOffset(start), ByteLen(len)).unwrap()
}

/// A device of ones that fails in some ranges and counts how often each sector is asked for.
struct Failing {
    bad: Vec<ByteRange>,
    asked: Mutex<BTreeMap<u64, u32>>,
}

impl ReadAt for Failing {
    fn len(&self) -> ByteLen {
        ByteLen(1 << 30)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let range = span(offset.0, buf.len() as u64);
        *self.asked.lock().unwrap().entry(offset.0).or_default() += 1;
        if self.bad.iter().any(|bad| bad.intersection(range).is_some()) {
            return Err(ReadError::Unreadable(range));
        }
        buf.fill(1);
        Ok(())
    }
}

impl Device for Failing {
    fn holes(&self, _: ByteRange) -> Vec<ByteRange> {
        Vec::new()
    }
}

#[test]
fn a_bad_sector_is_asked_for_again_and_costs_itself_alone() {
    let bad = vec![span(10_000, 1), span(50_000, 9000)];
    let device = Failing { bad, asked: Mutex::default() };
    let mut buf = vec![9; 100_000];
    let lost = read_salvaging(&device, ByteOffset(1000), &mut buf);
    assert_eq!(lost, [span(8192, 4096), span(49_152, 12_288)]);
    for (index, byte) in buf.iter().enumerate() {
        let at = ByteOffset(1000 + index as u64);
        let is_lost = lost.iter().any(|range| range.start() <= at && at < range.end());
        assert_eq!(*byte, u8::from(!is_lost), "{at}");
    }
    assert_eq!(device.asked.lock().unwrap()[&8192], SECTOR_TRIES);
}

#[test]
fn a_dead_span_is_given_up_with_one_question_a_sector() {
    let device = Failing { bad: vec![span(0, 2 << 20)], asked: Mutex::default() };
    let mut buf = vec![9; 2 << 20];
    let lost = read_salvaging(&device, ByteOffset(0), &mut buf);
    assert_eq!(lost, [span(0, 2 << 20)]);
    assert!(buf.iter().all(|&byte| byte == 0));
    let asked = device.asked.lock().unwrap();
    let (sectors, questions) = (asked.len(), asked.values().sum::<u32>());
    assert_eq!(sectors, 512, "each sector has its chance");
    assert_eq!(questions, 1 + 512 + HOPELESS_SECTORS * (SECTOR_TRIES - 1));
    // And one that answers in between is worth new patience behind it.
    drop(asked);
    let bad = vec![span(0, 1 << 20), span((1 << 20) + 4096, 4096)];
    let device = Failing { bad, asked: Mutex::default() };
    read_salvaging(&device, ByteOffset(0), &mut buf);
    assert_eq!(device.asked.lock().unwrap()[&((1 << 20) + 4096)], SECTOR_TRIES);
}

fn image(len: u64) -> (tempfile::NamedTempFile, Source) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(len).unwrap();
    file.as_file().write_all_at(&[7; 5000], 100_000).unwrap();
    let source = Source::open(file.path()).unwrap();
    (file, source)
}

#[test]
fn bytes_behind_a_cut_are_lost_and_no_hole() {
    let (file, source) = image(1 << 20);
    let whole = span(0, 1 << 20);
    assert!(source.holes(whole).iter().any(|hole| hole.end().0 == 1 << 20));
    file.as_file().set_len(300_001).unwrap();
    for hole in source.holes(whole) {
        assert!(hole.end().0 <= 300_001, "{hole} is told to be zeros");
    }
    assert!(source.holes(span(400_000, 100_000)).is_empty());
    let mut buf = vec![9; 1 << 20];
    let lost = read_salvaging(&source, ByteOffset(0), &mut buf);
    assert_eq!(lost, [span(299_008, (1 << 20) - 299_008)]);
    assert!(buf[100_000..105_000].iter().all(|&byte| byte == 7));
    // What is left is worth keeping, and what it is stands in the snapshot.
    let change = source.settled().unwrap();
    assert!(change.is_some_and(|change| change.contains("300001")));
}

#[test]
fn an_image_that_is_written_while_it_is_read_is_refused_or_marked() {
    let (mut file, source) = image(1 << 20);
    assert_eq!(source.settled().unwrap(), None);
    // The clock of file systems stands still for some milliseconds.
    std::thread::sleep(std::time::Duration::from_millis(50));
    file.as_file_mut().rewind().unwrap();
    file.write_all(b"other").unwrap();
    assert_eq!(source.settled().unwrap_err().exit_code(), 5);
    let source = source.on_changes(Changes::Marked);
    assert!(source.settled().unwrap().is_some());
    let source = source.on_changes(Changes::Expected);
    assert!(source.may_change());
    assert_eq!(source.settled().unwrap(), None);
}

#[test]
fn what_is_no_disk_is_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let empty = dir.path().join("empty");
    File::create(&empty).unwrap();
    for path in [&pipe, &empty, dir.path(), Path::new("/dev/null")] {
        let error = Source::open(path).unwrap_err();
        assert_eq!(error.exit_code(), 5, "{}", path.display());
    }
    assert_eq!(Source::open(&dir.path().join("nothing")).unwrap_err().exit_code(), 1);
}

#[test]
fn what_is_not_cached_is_read_past_the_cache_and_what_is_cached_from_it() {
    const UNIT: usize = DIRECT_ALIGNMENT;
    // Beside the program of this test: what /tmp lies on may have no such reading.
    let beside = std::env::current_exe().unwrap();
    let mut file = tempfile::NamedTempFile::new_in(beside.parent().unwrap()).unwrap();
    let bytes: Vec<u8> = (0..100 * UNIT + 1000).map(|at| (at % 251) as u8 + 1).collect();
    file.write_all(&bytes).unwrap();
    let source = Source::open(file.path()).unwrap();
    if source.direct.is_none() {
        println!("skipped: {} is on no file system that reads directly", file.path().display());
        return;
    }
    let mut buffer = vec![0; 103 * UNIT];
    let start = buffer.as_ptr().align_offset(UNIT);
    let room = &mut buffer[start..start + 102 * UNIT];
    let cached = device::cached_bytes(&source.file, span(0, bytes.len() as u64));
    if cached == 0 {
        println!("skipped in part: the kernel does not tell what it has in its cache");
    } else {
        assert!(!source.read_direct(ByteOffset(0), room), "{cached} bytes are cached");
    }
    file.as_file().sync_all().unwrap();
    rustix::fs::fadvise(file.as_file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(source.read_direct(ByteOffset(0), room));
    assert!(room[..bytes.len()] == bytes);
    assert_eq!(device::cached_bytes(&source.file, span(0, bytes.len() as u64)), 0);
    let from = 3 * UNIT;
    assert!(source.read_direct(ByteOffset(from as u64), &mut room[..5 * UNIT]));
    assert!(room[..5 * UNIT] == bytes[from..from + 5 * UNIT]);
    assert!(!source.read_direct(ByteOffset(200 * UNIT as u64), room), "past the end");
    // Cut short: what is gone is not made up.
    file.as_file().set_len(50 * UNIT as u64).unwrap();
    assert!(!source.read_direct(ByteOffset(0), room));
    let live = Source::open(file.path()).unwrap().on_changes(Changes::Expected);
    assert!(!live.read_direct(ByteOffset(0), &mut room[..UNIT]), "it may change");
}

#[test]
fn holes_are_the_same_in_whatever_order_they_are_asked_for() {
    const UNIT: u64 = 64 << 10;
    // Two of three pieces are data, of various lengths; a hole at the end.
    let is_data = |piece: u64| piece < 58 && piece % 7 % 3 != 1;
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(60 * UNIT).unwrap();
    for piece in (0..60).filter(|piece| is_data(*piece)) {
        file.as_file().write_all_at(&[7; UNIT as usize], piece * UNIT).unwrap();
    }
    let source = Source::open(file.path()).unwrap();
    if source.holes(span(0, 60 * UNIT)).is_empty() {
        println!("skipped: {} is on no file system that has holes", file.path().display());
        return;
    }
    for round in 0..2000_u64 {
        let first = round * 37 % 60;
        let pieces = 1 + round * 11 % (60 - first);
        let mut bytes = vec![false; usize::try_from(pieces).unwrap()];
        for hole in source.holes(span(first * UNIT, pieces * UNIT)) {
            for piece in hole.start().0 / UNIT..hole.end().0 / UNIT {
                bytes[usize::try_from(piece - first).unwrap()] = true;
            }
        }
        let expected: Vec<bool> = (first..first + pieces).map(|piece| !is_data(piece)).collect();
        assert_eq!(bytes, expected, "{pieces} pieces from {first} on");
    }
}
