//! The read stage: spans of the device in the order of the plan, and the image hash.
//!
//! Pieces that follow each other on the disk are read as one span, small gaps included. The residue
//! of a window follows the last file that begins before the window ends. The image hash is made
//! HERE, from the positions that were read and of the very bytes that are chunked, never from the
//! map.

use std::collections::BTreeSet;
use std::ops::Range;

use crossbeam_channel::Sender;
use umbra_common::image_hash::{ImageHash, ImageHasher, WINDOW_BYTES, WindowHash, window_count};
use umbra_common::{ByteLen, ByteOffset, ByteRange};

use super::plan::{FileItem, FilePiece, Plan, pieces};
use super::residue::Residue;
use crate::error::{Error, Result};
use crate::source::{Device, read_salvaging};
use crate::survey::Survey;

/// Most bytes of one device read.
pub const SPAN_BYTES: u64 = 2 << 20;
/// Widest gap that is read through.
const GAP_BYTES: u64 = 128 << 10;
/// Read-through gaps may add one part in this many to the bytes that are wanted.
const WASTE_DIVISOR: u64 = 8;
/// State of unfinished windows of the image hash above which the oldest one is completed.
const HASH_PENDING_BYTES: usize = 64 << 20;
/// The same for a disk that changes while it is read: reading a place twice gives a hash of bytes
/// that the snapshot does not have, so that memory must do.
const LIVE_HASH_PENDING_BYTES: usize = 256 << 20;
/// Steps that wait for a read before they are handed on without one.
const STEPS_PENDING: usize = 8192;
/// Pieces shorter than this are read without asking for holes.
const HOLE_QUERY_BYTES: u64 = 64 << 10;

/// A stream of bytes that is cut into chunks of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The content of a file.
    File(FileItem),
    /// The residue of one disk window.
    Residue,
    /// A volume without a parse.
    Unparsed,
}

/// A step of the chunk stage. Positions are those that zero blocks are aligned to: logical for
/// files, of the disk otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A stream begins.
    Begin(Stream),
    /// Bytes of the current stream: where in the batch's buffer, and where on the disk.
    Bytes {
        /// In the buffer.
        at: Range<usize>,
        /// On the disk.
        disk: ByteOffset,
        /// Position for the zero rule.
        position: u64,
    },
    /// Zeros of the current stream that were not read; `disk` is absent for holes in a file.
    Zeros {
        /// On the disk.
        disk: Option<ByteOffset>,
        /// How many.
        len: ByteLen,
        /// Position for the zero rule.
        position: u64,
    },
    /// Bytes of the current stream that the device did not give.
    Unreadable {
        /// On the disk.
        disk: ByteRange,
    },
    /// Bytes of no stream that the device did not give.
    LostSlack {
        /// On the disk.
        disk: ByteRange,
    },
    /// Zeros of the disk that belong to no stream.
    ZeroSlack {
        /// On the disk.
        disk: ByteRange,
    },
    /// The current stream ends.
    End,
}

/// What one read gave.
#[derive(Debug, Default)]
pub struct Batch {
    /// The bytes of a span.
    pub buffer: Vec<u8>,
    /// What they are, in order.
    pub segments: Vec<Segment>,
}

impl Batch {
    /// Returns how many bytes of the disk it stands for.
    pub fn disk_bytes(&self) -> u64 {
        let of = |segment: &Segment| match segment {
            Segment::Bytes { at, .. } => at.len() as u64,
            Segment::Zeros { disk: Some(_), len, .. } => len.0,
            Segment::Unreadable { disk }
            | Segment::LostSlack { disk }
            | Segment::ZeroSlack { disk } => disk.len().0,
            Segment::Zeros { disk: None, .. } | Segment::Begin(_) | Segment::End => 0,
        };
        self.segments.iter().map(of).sum()
    }
}

/// What the read stage found out.
#[derive(Debug)]
pub struct ReadSummary {
    /// The hash of the whole disk.
    pub image_hash: ImageHash,
    /// One hash a window.
    pub windows: Vec<WindowHash>,
    /// Bytes read from the device, gaps included.
    pub bytes_read: u64,
    /// What the device did not give; sorted, merged.
    pub unreadable: Vec<ByteRange>,
    /// Why what was read may not be one state of the disk, where the device says so.
    pub changed: Option<String>,
}

enum Step {
    Ready(Segment),
    Read { disk: ByteRange, position: u64, role: Role },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Stream,
    /// Behind a file's end: zeros, or residue to come.
    Slack,
}

/// The read stage over one device.
pub struct Reader<'a> {
    device: &'a dyn Device,
    survey: &'a Survey,
    out: Sender<Batch>,
    recycled: crossbeam_channel::Receiver<Vec<u8>>,
    hasher: ImageHasher,
    /// State of unfinished windows that is borne.
    pub(super) pending_limit: usize,
    completed_early: BTreeSet<u64>,
    /// What the device did not give when windows were completed early; zeros in their hashes.
    lost_early: Vec<ByteRange>,
    span: Option<ByteRange>,
    steps: Vec<Step>,
    residue: Residue<'a>,
    wanted: u64,
    wasted: u64,
    bytes_read: u64,
    unreadable: Vec<ByteRange>,
}

impl<'a> Reader<'a> {
    /// Makes a read stage that hands batches to `out` and takes used buffers from `recycled`.
    pub fn new(
        device: &'a dyn Device,
        survey: &'a Survey,
        out: Sender<Batch>,
        recycled: crossbeam_channel::Receiver<Vec<u8>>,
    ) -> Self {
        Self {
            device,
            survey,
            out,
            recycled,
            hasher: ImageHasher::new(device.len()),
            pending_limit: match device.may_change() {
                true => LIVE_HASH_PENDING_BYTES,
                false => HASH_PENDING_BYTES,
            },
            completed_early: BTreeSet::new(),
            lost_early: Vec::new(),
            span: None,
            steps: Vec::new(),
            residue: Residue::default(),
            wanted: 0,
            wasted: 0,
            bytes_read: 0,
            unreadable: Vec::new(),
        }
    }

    /// Reads everything in the plan: files with the residue between them, then unparsed volumes.
    ///
    /// # Errors
    /// [`Error::Internal`] where the plan did not cover the disk exactly; the receiver's end of
    /// the channel gone ends the stage early with [`Error::Internal`] too. [`Error::Refused`]
    /// where the device gave several answers for one place.
    pub fn run(mut self, plan: &'a Plan) -> Result<ReadSummary> {
        self.residue = Residue::new(&plan.residue);
        let mut parts = Vec::new();
        for &item in &plan.files {
            self.file(item, &mut parts)?;
        }
        self.residue_before(ByteOffset(u64::MAX))?;
        for &volume in &plan.unparsed {
            self.steps.push(Step::Ready(Segment::Begin(Stream::Unparsed)));
            self.disk_bytes(volume, Role::Stream)?;
            self.steps.push(Step::Ready(Segment::End));
        }
        self.flush()?;
        let changed = self.device.settled()?;
        let image_hash = self.hasher.finish().map_err(hash_error)?;
        let count = window_count(self.device.len());
        let windows: Option<Vec<WindowHash>> = (0..count).map(|w| self.hasher.window(w)).collect();
        let windows = windows.ok_or_else(|| hash_error("a window without a hash"))?;
        let unreadable = merged(std::mem::take(&mut self.unreadable));
        let bytes_read = self.bytes_read;
        Ok(ReadSummary { image_hash, windows, bytes_read, unreadable, changed })
    }

    fn file(&mut self, item: FileItem, parts: &mut Vec<FilePiece>) -> Result<()> {
        let found = self.survey.volumes.get(item.volume as usize).and_then(|volume| {
            let inode = volume.tree.as_ref()?.inodes().get(item.inode as usize)?;
            Some((inode, volume.range.start()))
        });
        let Some((inode, base)) = found else {
            return Err(Error::Internal(format!("the plan names {item:?}, which is no file")));
        };
        pieces(inode, base, parts);
        let starts = parts.iter().filter_map(|part| match part {
            FilePiece::Data { disk, .. } => Some(disk.start()),
            FilePiece::Zeros { .. } | FilePiece::Slack { .. } => None,
        });
        // Files come sorted by this: what lies before it is of no file any more.
        let first = starts.min().unwrap_or(ByteOffset(u64::MAX));
        if self.residue.is_due(first) {
            self.residue_before(first)?;
        }
        self.steps.push(Step::Ready(Segment::Begin(Stream::File(item))));
        for part in parts.iter() {
            match *part {
                FilePiece::Data { logical, disk } => {
                    self.ranged(disk, logical.0, Role::Stream)?;
                }
                FilePiece::Zeros { logical, len } => {
                    let position = logical.0;
                    self.steps.push(Step::Ready(Segment::Zeros { disk: None, len, position }));
                }
                FilePiece::Slack { disk } => self.want(disk, 0, Role::Slack)?,
            }
        }
        self.steps.push(Step::Ready(Segment::End));
        self.bound_steps()
    }

    /// Hands on what needs no reading before it piles up.
    fn bound_steps(&mut self) -> Result<()> {
        if self.steps.len() < STEPS_PENDING { Ok(()) } else { self.flush() }
    }

    /// Reads the residue of all windows that end at or before `limit`.
    fn residue_before(&mut self, limit: ByteOffset) -> Result<()> {
        // What was not read yet may have slack in these windows.
        self.flush()?;
        while let Some(parts) = self.residue.next_window(limit) {
            self.steps.push(Step::Ready(Segment::Begin(Stream::Residue)));
            for part in parts {
                self.disk_bytes(part, Role::Stream)?;
            }
            self.steps.push(Step::Ready(Segment::End));
            self.bound_steps()?;
        }
        self.flush()
    }

    fn disk_bytes(&mut self, range: ByteRange, role: Role) -> Result<()> {
        self.ranged(range, range.start().0, role)
    }

    /// Wants `range`, leaving out what the device knows to be zeros.
    fn ranged(&mut self, range: ByteRange, position: u64, role: Role) -> Result<()> {
        let holes =
            if range.len().0 < HOLE_QUERY_BYTES { Vec::new() } else { self.device.holes(range) };
        let start = range.start().0;
        let mut at = start;
        for hole in holes {
            if let Some(data) = ByteRange::between(ByteOffset(at), hole.start()) {
                self.want(data, position + (at - start), role)?;
            }
            let position = position + (hole.start().0 - start);
            let zeros = Segment::Zeros { disk: Some(hole.start()), len: hole.len(), position };
            self.steps.push(Step::Ready(zeros));
            self.hash_zeros(hole)?;
            at = hole.end().0;
        }
        match ByteRange::between(ByteOffset(at), range.end()) {
            Some(data) => self.want(data, position + (at - start), role),
            None => Ok(()),
        }
    }

    fn want(&mut self, range: ByteRange, position: u64, role: Role) -> Result<()> {
        let mut rest = range;
        let mut position = position;
        while !rest.is_empty() {
            let start = rest.start();
            let span = match self.span {
                Some(span) if self.joins(span, start) => span,
                Some(_) => {
                    self.flush()?;
                    ByteRange::between(start, start).unwrap_or_default()
                }
                None => ByteRange::between(start, start).unwrap_or_default(),
            };
            let room = SPAN_BYTES - (start.0 - span.start().0);
            let take = ByteLen(room.min(rest.len().0));
            let disk = ByteRange::new(start, take).unwrap_or_default();
            self.wasted += start.0 - span.end().0;
            self.wanted += take.0;
            self.span = ByteRange::between(span.start(), disk.end());
            self.steps.push(Step::Read { disk, position, role });
            position += take.0;
            rest = ByteRange::between(disk.end(), rest.end()).unwrap_or_default();
        }
        Ok(())
    }

    fn joins(&self, span: ByteRange, start: ByteOffset) -> bool {
        let Some(gap) = ByteRange::between(span.end(), start) else { return false };
        let waste = self.wasted + gap.len().0;
        gap.len().0 <= GAP_BYTES
            && start.0 - span.start().0 < SPAN_BYTES
            && (gap.is_empty() || waste <= self.wanted / WASTE_DIVISOR)
    }

    /// Reads the current span and hands it on with the steps up to here.
    fn flush(&mut self) -> Result<()> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let mut batch =
            Batch { buffer: self.recycled.try_recv().unwrap_or_default(), ..Batch::default() };
        let mut lost = Vec::new();
        let span = self.span.take().unwrap_or_default();
        batch.buffer.resize(usize::try_from(span.len().0).unwrap_or_default(), 0);
        if !span.is_empty() {
            lost = read_salvaging(self.device, span.start(), &mut batch.buffer);
            self.bytes_read += span.len().0;
            if !self.lost_early.is_empty() {
                // What was lost when its window was completed is lost, whatever comes now.
                lost.extend(self.lost_early.iter().filter_map(|range| range.intersection(span)));
                lost = merged(lost);
            }
        }
        for step in std::mem::take(&mut self.steps) {
            match step {
                Step::Ready(segment) => batch.segments.push(segment),
                Step::Read { disk, position, role } => {
                    self.place(&mut batch, span, disk, position, role, &lost)?;
                }
            }
        }
        self.bound_hash_state()?;
        self.out.send(batch).map_err(|_| Error::Internal("the chunk stage has ended".into()))
    }

    fn place(
        &mut self,
        batch: &mut Batch,
        span: ByteRange,
        disk: ByteRange,
        position: u64,
        role: Role,
        lost: &[ByteRange],
    ) -> Result<()> {
        let mut at = disk.start();
        let mut holes = lost.iter().filter_map(|range| range.intersection(disk));
        loop {
            let hole = holes.next();
            let end = hole.map_or(disk.end(), |hole| hole.start());
            if let Some(good) = ByteRange::between(at, end)
                && !good.is_empty()
            {
                let position = position + (at.0 - disk.start().0);
                self.place_good(batch, span, good, position, role)?;
            }
            let Some(hole) = hole else { return Ok(()) };
            self.was_lost_early(hole)?;
            self.hash_zeros(hole)?;
            self.unreadable.push(hole);
            batch.segments.push(match role {
                Role::Slack => Segment::LostSlack { disk: hole },
                Role::Stream => Segment::Unreadable { disk: hole },
            });
            at = hole.end();
        }
    }

    fn place_good(
        &mut self,
        batch: &mut Batch,
        span: ByteRange,
        disk: ByteRange,
        position: u64,
        role: Role,
    ) -> Result<()> {
        let start = usize::try_from(disk.start().0 - span.start().0).unwrap_or(usize::MAX);
        let end = start + usize::try_from(disk.len().0).unwrap_or_default();
        let bytes = batch
            .buffer
            .get(start..end)
            .ok_or_else(|| Error::Internal(format!("{disk} lie outside the span {span}")))?;
        let is_slack = role == Role::Slack;
        if is_slack && bytes.iter().any(|&byte| byte != 0) {
            // Read once more with its window, and hashed then: of the bytes that are chunked.
            self.residue.add_slack(disk);
            return Ok(());
        }
        hash_bytes(&mut self.hasher, &self.completed_early, disk.start(), bytes)?;
        if is_slack {
            batch.segments.push(Segment::ZeroSlack { disk });
            return Ok(());
        }
        batch.segments.push(Segment::Bytes { at: start..end, disk: disk.start(), position });
        Ok(())
    }

    fn hash_zeros(&mut self, range: ByteRange) -> Result<()> {
        if self.completed_early.is_empty() {
            return self.hasher.add_zeros(range).map_err(hash_error);
        }
        for part in outside(range, &self.completed_early) {
            self.hasher.add_zeros(part).map_err(hash_error)?;
        }
        Ok(())
    }

    /// Completes the oldest windows by reading while the image hash holds too much.
    fn bound_hash_state(&mut self) -> Result<()> {
        while self.hasher.pending_bytes() > self.pending_limit {
            if self.device.may_change() {
                return Err(Error::Refused {
                    path: "the source".into(),
                    reason: "it changes while it is read, and its files are too scattered to \
                             prove it"
                        .into(),
                    hint: "unmount it, or keep it in disk order with --no-parse".into(),
                });
            }
            let Some(window) = self.hasher.oldest_incomplete() else { return Ok(()) };
            let mut buf = Vec::new();
            for range in self.hasher.missing(window) {
                buf.resize(usize::try_from(range.len().0).unwrap_or_default(), 0);
                self.lost_early.extend(read_salvaging(self.device, range.start(), &mut buf));
                self.bytes_read += range.len().0;
                self.hasher.add(range.start(), &buf).map_err(hash_error)?;
            }
            self.completed_early.insert(window);
        }
        Ok(())
    }

    /// Checks that what a reading lost stands as zeros in the hashes of windows that were completed
    /// before it.
    fn was_lost_early(&self, hole: ByteRange) -> Result<()> {
        for part in inside(hole, &self.completed_early) {
            let known = self.lost_early.iter().filter_map(|range| range.intersection(part));
            if known.map(|range| range.len().0).sum::<u64>() < part.len().0 {
                return Err(Error::Refused {
                    path: "the source".into(),
                    reason: format!("{part} could be read once and not again"),
                    hint: "its medium is failing: run this again, at once".into(),
                });
            }
        }
        Ok(())
    }
}

/// Sorts ranges and joins those that touch or overlap.
fn merged(mut ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    ranges.sort_unstable_by_key(|range| range.start());
    let mut out: Vec<ByteRange> = Vec::new();
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match out.last_mut() {
            Some(last) if last.end() >= range.start() => {
                let end = last.end().max(range.end());
                *last = ByteRange::between(last.start(), end).unwrap_or(range);
            }
            _ => out.push(range),
        }
    }
    out
}

fn hash_error(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("the image hash: {error}"))
}

fn hash_bytes(
    hasher: &mut ImageHasher,
    completed: &BTreeSet<u64>,
    start: ByteOffset,
    bytes: &[u8],
) -> Result<()> {
    let range = ByteRange::new(start, ByteLen(bytes.len() as u64)).unwrap_or_default();
    if completed.is_empty() {
        return hasher.add(start, bytes).map_err(hash_error);
    }
    for part in outside(range, completed) {
        let from = usize::try_from(part.start().0 - start.0).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(part.len().0).unwrap_or_default());
        let bytes = bytes.get(from..to).unwrap_or_default();
        hasher.add(part.start(), bytes).map_err(hash_error)?;
    }
    Ok(())
}

/// Returns the parts of `range` that lie in none of the `windows`.
fn outside(range: ByteRange, windows: &BTreeSet<u64>) -> Vec<ByteRange> {
    parts(range, |index| !windows.contains(&index))
}

/// Returns the parts of `range` that lie in one of the `windows`.
fn inside(range: ByteRange, windows: &BTreeSet<u64>) -> Vec<ByteRange> {
    parts(range, |index| windows.contains(&index))
}

/// Cuts `range` at the ends of windows and keeps the parts in those that are wanted.
fn parts(range: ByteRange, is_wanted: impl Fn(u64) -> bool) -> Vec<ByteRange> {
    let mut parts = Vec::new();
    let mut at = range.start();
    while at < range.end() {
        let index = at.0 / WINDOW_BYTES;
        let bound = ByteOffset((index + 1).saturating_mul(WINDOW_BYTES)).min(range.end());
        if is_wanted(index) {
            parts.extend(ByteRange::between(at, bound));
        }
        at = bound;
    }
    parts
}
