//! A snapshot compared with a disk image or device, by window hashes; chunks are read only where
//! those differ.

use umbra_common::image_hash::WindowHash;
use umbra_common::{ByteLen, ByteOffset, ByteRange};
use umbra_fsparse::ReadAt;

use super::plan_runs;
use crate::content::{ContentReader, for_zeros};
use crate::error::Result;
use crate::fetch::{self, Event, Gap, Planner, Stopped};
use crate::monitor::{Monitor, Stage};

/// Grain in which differences are told, in bytes.
const GRAIN_BYTES: u64 = 4096;
/// Bytes that are read of the other side at a time; a divisor of a window.
const READ_BYTES: usize = 1 << 20;
/// Differing ranges that are kept; all bytes are counted.
const KEPT_RANGES: usize = 100;

/// How a snapshot and a disk differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// The first ranges that differ, in steps of 4 KiB, merged.
    pub ranges: Vec<ByteRange>,
    /// Bytes in all such ranges.
    pub bytes: u64,
    /// Bytes that the snapshot did not keep and that were not compared.
    pub not_compared: u64,
    /// Ranges that the snapshot or the other side does not give, and why.
    pub unreadable: Vec<(ByteRange, String)>,
    /// Lengths, where the other side is shorter or longer: the snapshot's, its own.
    pub lengths: Option<(ByteLen, ByteLen)>,
    /// End of the last range that was counted.
    counted_to: u64,
}

impl Difference {
    /// Tells whether everything that was kept is equal.
    pub fn is_equal(&self) -> bool {
        self.bytes == 0 && self.unreadable.is_empty() && self.lengths.is_none()
    }

    /// Takes a differing range; they come in order.
    fn differs(&mut self, range: ByteRange) {
        let start = (range.start().0 / GRAIN_BYTES * GRAIN_BYTES).max(self.counted_to);
        let end = range.end().0.next_multiple_of(GRAIN_BYTES).max(start);
        self.bytes += end - start;
        let count = self.ranges.len();
        match self.ranges.last_mut() {
            Some(last) if last.end().0 == start => *last = between(last.start().0, end),
            _ if start == end || count >= KEPT_RANGES => {}
            _ => self.ranges.push(between(start, end)),
        }
        self.counted_to = end;
    }
}

enum Tag {
    /// The bytes from here on differ somewhere.
    At(ByteOffset),
    /// A range that one side does not give.
    Unreadable(ByteRange, String),
    /// A range that the hashes show to be equal.
    Equal(ByteLen),
    Fail(crate::Error),
}

/// Compares a snapshot with `other`.
///
/// # Errors
/// [`crate::Error::Vault`].
pub fn against(
    content: &ContentReader<'_>,
    other: &(dyn ReadAt + Sync),
    monitor: &dyn Monitor,
) -> Result<Difference> {
    let len = content.disk_len;
    monitor.begin(Stage::Verify, Some(len.0));
    let mut difference = Difference::default();
    if other.len() != len {
        difference.lengths = Some((len, other.len()));
    }
    let mut at = 0_u64;
    let plan = |planner: &mut Planner<Tag>| plan_windows(content, other, planner);
    fetch::stream(content.chunks, plan, |event| {
        match event {
            Event::Tag(Tag::At(offset)) => at = offset.0,
            Event::Tag(Tag::Equal(len)) => monitor.advance(len.0),
            Event::Tag(Tag::Unreadable(range, why)) => difference.unreadable.push((range, why)),
            Event::Tag(Tag::Fail(error)) => return Err(error),
            Event::Data(bytes) => {
                compare(other, at, bytes, &mut difference);
                at += bytes.len() as u64;
                monitor.advance(bytes.len() as u64);
            }
            Event::Gap(Gap::NotKept, len) => {
                difference.not_compared += len.0;
                at += len.0;
                monitor.advance(len.0);
            }
            Event::Gap(_, len) => {
                for_zeros(len, |zeros| {
                    compare(other, at, zeros, &mut difference);
                    at += zeros.len() as u64;
                    Ok::<(), crate::Error>(())
                })?;
                monitor.advance(len.0);
            }
            Event::Missing(len, why) => {
                difference.unreadable.push((between(at, at + len.0), why.to_owned()));
                at += len.0;
            }
        }
        Ok(())
    })?;
    Ok(difference)
}

fn plan_windows(
    content: &ContentReader<'_>,
    other: &(dyn ReadAt + Sync),
    planner: &mut Planner<Tag>,
) -> Result<(), Stopped> {
    let mut buf = vec![0_u8; READ_BYTES];
    for window in content.map.windows() {
        let window = match window {
            Ok(window) => window,
            Err(lost) => {
                match fetch::damage(lost.error) {
                    Ok(why) => planner.tag(Tag::Unreadable(lost.range, why))?,
                    Err(error) => return planner.tag(Tag::Fail(error)),
                }
                continue;
            }
        };
        // What the other side does not have was told by its length.
        let range = between(window.range.start().0, window.range.end().0.min(other.len().0));
        if range.is_empty() {
            break;
        }
        match hash(other, range, &mut buf) {
            Ok(hash) if hash == window.hash => planner.tag(Tag::Equal(range.len()))?,
            Ok(_) => {
                planner.tag(Tag::At(range.start()))?;
                plan_runs(&content.map, range, planner)?;
            }
            Err(error) => planner.tag(Tag::Unreadable(range, error.to_string()))?,
        }
    }
    Ok(())
}

fn hash(
    other: &(dyn ReadAt + Sync),
    range: ByteRange,
    buf: &mut [u8],
) -> Result<WindowHash, umbra_fsparse::ReadError> {
    let mut hasher = blake3::Hasher::new();
    let mut at = range.start().0;
    while at < range.end().0 {
        let left = usize::try_from(range.end().0 - at).unwrap_or(usize::MAX);
        let part = buf.get_mut(..left.min(READ_BYTES)).unwrap_or_default();
        other.read_at(ByteOffset(at), part)?;
        hasher.update(part);
        at += part.len() as u64;
    }
    Ok(WindowHash(*hasher.finalize().as_bytes()))
}

/// Compares bytes of the snapshot with what stands at `at` of the other side.
fn compare(other: &dyn ReadAt, at: u64, bytes: &[u8], difference: &mut Difference) {
    let mut found = vec![0_u8; bytes.len()];
    let range = between(at, at + bytes.len() as u64);
    if let Err(error) = other.read_at(ByteOffset(at), &mut found) {
        difference.unreadable.push((range, error.to_string()));
        return;
    }
    if found == bytes {
        return;
    }
    let mut start = at;
    let mut rest = (found.as_slice(), bytes);
    while !rest.0.is_empty() {
        let to_grain = usize::try_from(GRAIN_BYTES - start % GRAIN_BYTES).unwrap_or(usize::MAX);
        let take = to_grain.min(rest.0.len());
        let (left, left_rest) = rest.0.split_at(take);
        let (right, right_rest) = rest.1.split_at(take);
        if left != right {
            difference.differs(between(start, start + take as u64));
        }
        start += take as u64;
        rest = (left_rest, right_rest);
    }
}

fn between(start: u64, end: u64) -> ByteRange {
    ByteRange::between(ByteOffset(start), ByteOffset(end)).unwrap_or_default()
}
