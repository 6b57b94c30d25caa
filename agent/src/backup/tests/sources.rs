//! Sources that change or fail while they are read: the proof is always of what was kept.

use std::sync::atomic::AtomicU64;

use umbra_common::image_hash::SequentialImageHasher;

use super::*;
use crate::backup::batch::{Batch, Segment};
use crate::backup::prove::{Output, ProvenReader, ReadSummary};

/// A disk of which every reading gives other bytes, and no reading zeros.
struct LiveDisk {
    len: u64,
    readings: AtomicU64,
}

impl ReadAt for LiveDisk {
    fn len(&self) -> ByteLen {
        ByteLen(self.len)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let reading = self.readings.fetch_add(1, Ordering::Relaxed);
        for (at, byte) in (offset.0..).zip(buf) {
            *byte = (at.wrapping_mul(31).wrapping_add(reading * 7) % 255) as u8 + 1;
        }
        Ok(())
    }
}

impl Device for LiveDisk {
    fn holes(&self, _: ByteRange) -> Vec<ByteRange> {
        Vec::new()
    }
    fn may_change(&self) -> bool {
        true
    }
    fn settled(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

pub(super) fn hash_of(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = SequentialImageHasher::new(ByteLen(bytes.len() as u64));
    hasher.push(bytes).unwrap();
    hasher.finish().unwrap().0
}

#[test]
fn the_hash_of_a_disk_that_changes_is_that_of_what_was_kept() {
    let (bytes, files) = lay_out(&some_contents(), 12_000, 3, 11);
    let survey = survey_of(bytes.len() as u64, files);
    let disk = LiveDisk { len: bytes.len() as u64, readings: 0.into() };
    let vault = MemoryVault::default();
    let labels = labels();
    let job = Job { uplink: &vault, known: &NoneKnown, policy: SendPolicy::Send, labels: &labels };
    let input = Input::Disk { device: &disk, survey: &survey };
    let outcome = run(&job, input, &Quiet::default()).unwrap();
    assert_eq!(outcome.image_hash, hash_of(&vault.reassemble(outcome.snapshot)));
}

/// Reads a disk with a reader that bears so much of unfinished windows; returns what it said and, by disk
/// address, what it handed on.
pub(super) fn read_all(
    device: &dyn Device,
    survey: &Survey,
    pending_limit: usize,
) -> (Result<ReadSummary>, Vec<u8>) {
    let plan = plan::make(survey, device.len(), &Quiet::default());
    let (batches, received) = crossbeam_channel::unbounded::<Batch>();
    let (_, recycled) = crossbeam_channel::unbounded();
    let mut reader = ProvenReader::new(device, survey);
    reader.proof.pending_limit = pending_limit;
    let summary = reader.run(&plan, Output { batches, recycled });
    let mut disk = vec![0xEE_u8; usize::try_from(device.len().0).unwrap()];
    let place = |range: ByteRange| {
        let at = |offset: u64| usize::try_from(offset).unwrap();
        at(range.start().0)..at(range.end().0)
    };
    for batch in received {
        for segment in batch.segments {
            match segment {
                Segment::Bytes { at, disk: to, .. } => {
                    let range = span(to.0, at.len() as u64);
                    disk[place(range)].copy_from_slice(&batch.buffer[at]);
                }
                Segment::Zeros { disk: Some(to), len, .. } => {
                    disk[place(span(to.0, len.0))].fill(0);
                }
                Segment::Unreadable { disk: lost }
                | Segment::LostSlack { disk: lost }
                | Segment::Free { disk: lost }
                | Segment::ZeroSlack { disk: lost } => disk[place(lost)].fill(0),
                Segment::Zeros { disk: None, .. } | Segment::Begin(_) | Segment::End => {}
            }
        }
    }
    (summary, disk)
}

/// A disk that gives some places a limited number of times, or not before some readings failed.
struct FlakyDisk {
    inner: MemoryDisk,
    /// Ranges, and the number of readings from which on they fail.
    dies: Vec<(ByteRange, u64)>,
    /// Ranges, and the number of readings up to which they fail.
    wakes: Vec<(ByteRange, u64)>,
    readings: AtomicU64,
}

impl ReadAt for FlakyDisk {
    fn len(&self) -> ByteLen {
        self.inner.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let reading = self.readings.fetch_add(1, Ordering::Relaxed);
        let range = span(offset.0, buf.len() as u64);
        let dead =
            self.dies.iter().any(|(r, from)| r.intersection(range).is_some() && reading >= *from);
        let asleep =
            self.wakes.iter().any(|(r, to)| r.intersection(range).is_some() && reading < *to);
        if dead || asleep {
            Err(ReadError::Unreadable(range))
        } else {
            self.inner.read_at(offset, buf)
        }
    }
}

impl Device for FlakyDisk {
    fn holes(&self, _: ByteRange) -> Vec<ByteRange> {
        Vec::new()
    }
}

#[test]
fn windows_that_are_completed_early_agree_with_what_is_handed_on() {
    // 20 MiB: files of many fragments all over two windows, noise behind their ends.
    let contents: Vec<Vec<u8>> = (0..40).map(|i| noise(i, 40_000 + i as usize * 333)).collect();
    let (mut bytes, files) = lay_out(&contents, 5120, 2, 21);
    for file in &files {
        let last = file.extents.last().unwrap();
        let used = file.size.0 - last.logical.0;
        let (from, to) = (last.volume.start().0 + used, last.volume.end().0);
        if from < to {
            bytes[usize::try_from(from).unwrap()] = 0x55;
        }
    }
    let survey = survey_of(bytes.len() as u64, files);
    let flaky = |dies: Vec<(ByteRange, u64)>, wakes: Vec<(ByteRange, u64)>| FlakyDisk {
        inner: MemoryDisk::new(bytes.clone()),
        dies,
        wakes,
        readings: 0.into(),
    };
    let (summary, disk) = read_all(&flaky(Vec::new(), Vec::new()), &survey, 0);
    let summary = summary.unwrap();
    assert!(disk == bytes);
    assert_eq!(summary.image_hash.0, hash_of(&bytes));
    assert!(summary.unreadable.is_empty());

    let mut refused = 0;
    let mut with_losses = 0;
    let mut state = 5_u64;
    for round in 0..60 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let range = span((state >> 33) % (bytes.len() as u64 - 70_000), 1 + round * 1000);
        let when = (state >> 20) % 40;
        let disk = match round % 2 {
            0 => flaky(vec![(range, when)], Vec::new()),
            _ => flaky(Vec::new(), vec![(range, when)]),
        };
        let (summary, kept) = read_all(&disk, &survey, (state >> 40) as usize % 60_000);
        match summary {
            // Whatever was lost: the hash is that of what was handed on, and only what is said
            // to be lost differs.
            Ok(summary) => {
                assert_eq!(summary.image_hash.0, hash_of(&kept), "round {round}");
                let mut expected = bytes.clone();
                for lost in &summary.unreadable {
                    let at = |offset: u64| usize::try_from(offset).unwrap();
                    expected[at(lost.start().0)..at(lost.end().0)].fill(0);
                }
                assert!(kept == expected, "round {round}");
                with_losses += usize::from(!summary.unreadable.is_empty());
            }
            Err(error) => {
                assert_eq!(error.exit_code(), 5, "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && with_losses > 10, "{refused} refused, {with_losses} with losses");
}

#[test]
fn a_disk_that_dies_in_the_middle_is_kept_as_far_as_it_was_read() {
    let (bytes, files) = lay_out(&some_contents(), 8000, 4, 31);
    let survey = survey_of(bytes.len() as u64, files);
    let mut disk = MemoryDisk::new(bytes.clone());
    disk.bad = vec![span(10_000_000, bytes.len() as u64 - 10_000_000)];
    let vault = MemoryVault::default();
    let outcome = back_up(&disk, &survey, &vault);
    let mut expected = bytes;
    let first = 10_000_000 / 4096 * 4096;
    expected[first..].fill(0);
    assert!(vault.reassemble(outcome.snapshot) == expected);
    assert_eq!(outcome.unreadable, 1, "ranges that touch are one");
    assert_eq!(outcome.image_hash, hash_of(&expected));
}

/// A disk that says after the last reading that it was written, although nothing has changed.
struct WrittenDisk(MemoryDisk);

impl ReadAt for WrittenDisk {
    fn len(&self) -> ByteLen {
        self.0.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_at(offset, buf)
    }
}

impl Device for WrittenDisk {
    fn holes(&self, _: ByteRange) -> Vec<ByteRange> {
        Vec::new()
    }
    fn settled(&self) -> Result<Option<String>> {
        Ok(Some("it was written".into()))
    }
}

#[test]
fn what_was_read_twice_proves_nothing_of_a_disk_that_changed() {
    let contents: Vec<Vec<u8>> = (0..40).map(|i| noise(i, 40_000)).collect();
    let (bytes, files) = lay_out(&contents, 5120, 2, 41);
    let survey = survey_of(bytes.len() as u64, files);
    let disk = WrittenDisk(MemoryDisk::new(bytes.clone()));
    let (once, kept) = read_all(&disk, &survey, usize::MAX);
    assert_eq!(once.unwrap().changed.as_deref(), Some("it was written"));
    assert!(kept == bytes);
    let (twice, _) = read_all(&disk, &survey, 0);
    assert_eq!(twice.unwrap_err().exit_code(), 5);
}

#[test]
fn a_second_reading_hashes_only_what_the_snapshot_keeps() {
    let content = noise(51, 60);
    let mut bytes = noise(52, 40_960);
    bytes[8200..8260].copy_from_slice(&content);
    let extent = Extent {
        logical: ByteOffset(0),
        volume: span(8200, 60),
        kind: ExtentKind::Inline,
        codec: Codec::None,
    };
    let file = inode(12, FileType::File, 60, vec![extent]);
    let survey = survey_of(bytes.len() as u64, vec![file]);
    let disk = MemoryDisk::new(bytes.clone());
    let plan = plan::make(&survey, disk.len(), &Quiet::default());
    let [(item, reason)] = plan.not_owned[..] else { panic!("{plan:?}") };
    let (summary, _) = read_all(&disk, &survey, usize::MAX);
    let mut read = summary.unwrap();
    let hash = |device: &dyn Device, read: &ReadSummary| {
        hash_not_owned(device, &survey, item, reason, read)
    };
    assert_eq!(hash(&disk, &read), ContentHash::Blake3(*blake3::hash(&content).as_bytes()));
    // Its sector was lost, and now the device gives it: the snapshot has zeros.
    read.unreadable = vec![span(0, 4096), span(8192, 4096), span(20_480, 4096)];
    assert_eq!(hash(&disk, &read), ContentHash::Unreadable);
    read.unreadable = vec![span(0, 8192), span(12_288, 4096)];
    assert!(hash(&disk, &read).blake3().is_some());
    read.changed = Some("it was written".into());
    assert_eq!(hash(&disk, &read), ContentHash::Shared);
    read.changed = None;
    let mut packed = inode(12, FileType::File, 60, vec![extent]);
    packed.extents[0].codec = Codec::Zlib;
    let unknown = content::hash(&disk, &packed, ByteOffset(0), &[]);
    assert_eq!(unknown.blake3(), None, "no such codec is decoded here");
    let live = LiveDisk { len: bytes.len() as u64, readings: 0.into() };
    assert_eq!(hash(&live, &read), ContentHash::Shared);
}

/// A disk in memory that reads past a cache that it does not have, in whole units only.
struct DirectDisk {
    inner: MemoryDisk,
    direct: AtomicU64,
}

impl ReadAt for DirectDisk {
    fn len(&self) -> ByteLen {
        self.inner.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.inner.read_at(offset, buf)
    }
}

impl Device for DirectDisk {
    fn holes(&self, _: ByteRange) -> Vec<ByteRange> {
        Vec::new()
    }

    fn read_direct(&self, offset: ByteOffset, buf: &mut [u8]) -> bool {
        let unit = crate::source::DIRECT_ALIGNMENT;
        assert_eq!(usize::try_from(offset.0).unwrap() % unit, 0);
        assert_eq!((buf.len() % unit, buf.as_ptr().addr() % unit), (0, 0));
        // A device that refuses now and then: what it left in the buffer is not used.
        if self.direct.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
            buf.fill(0xAA);
            return false;
        }
        let here = &self.inner.bytes[usize::try_from(offset.0).unwrap()..];
        let len = here.len().min(buf.len());
        buf[..len].copy_from_slice(&here[..len]);
        true
    }
}

#[test]
fn what_is_read_past_the_cache_is_the_same() {
    let (mut bytes, files) = lay_out(&some_contents(), 12_000, 3, 17);
    // Neither files nor the disk's end respect any unit.
    bytes.truncate(bytes.len() - 700);
    let survey = survey_of(bytes.len() as u64, files);
    let disk = DirectDisk { inner: MemoryDisk::new(bytes.clone()), direct: 0.into() };
    for pending_limit in [0, usize::MAX] {
        let (summary, kept) = read_all(&disk, &survey, pending_limit);
        assert!(kept == bytes);
        assert_eq!(summary.unwrap().image_hash.0, hash_of(&bytes));
    }
    assert!(disk.direct.into_inner() > 20);
}
