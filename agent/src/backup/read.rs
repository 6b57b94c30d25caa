//! The read stage: spans of the device in the order of the plan, and the image hash.
//!
//! Pieces that follow each other on the disk are read as one span, small gaps included. The residue
//! of a window follows the last file that begins before the window ends. The image hash is made
//! HERE, from the positions that were read and of the very bytes that are chunked, never from the
//! map.

use std::ops::Range;

use crossbeam_channel::Sender;
use umbra_common::image_hash::{ImageHash, WindowHash};
use umbra_common::{ByteLen, ByteOffset, ByteRange};

use super::inherit::Clean;
use super::plan::{FileItem, FilePiece, Plan, pieces};
use super::proof::Proof;
use super::residue::Residue;
use crate::error::{Error, Result};
use crate::ranges::merged;
use crate::source::{Device, read_salvaging};
use crate::survey::Survey;

/// Most bytes of one device read.
pub const SPAN_BYTES: u64 = 2 << 20;
/// Widest gap that is read through.
const GAP_BYTES: u64 = 128 << 10;
/// Read-through gaps may add one part in this many to the bytes that are wanted.
const WASTE_DIVISOR: u64 = 8;
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
    /// Bytes of the disk that hold nothing and are not kept.
    Free {
        /// On the disk.
        disk: ByteRange,
    },
    /// The current stream ends.
    End,
}

/// What one read gave.
#[derive(Debug, Default)]
pub struct Batch {
    /// The bytes of a span; what stands behind them is of an earlier one.
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
            | Segment::Free { disk }
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
    pub(super) proof: Proof<'a>,
    span: Option<ByteRange>,
    steps: Vec<Step>,
    residue: Residue<'a>,
    /// Free space that is yet to be handed on.
    free: &'a [ByteRange],
    /// Windows that are taken from the base snapshot, whatever is read of them.
    clean: Option<&'a Clean>,
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
            proof: Proof::new(device),
            span: None,
            steps: Vec::new(),
            residue: Residue::default(),
            free: &[],
            clean: None,
            wanted: 0,
            wasted: 0,
            bytes_read: 0,
            unreadable: Vec::new(),
        }
    }

    /// Takes the hashes of windows from the base snapshot; the plan has what else is read.
    ///
    /// # Errors
    /// [`Error::Internal`] where the disk has no such window.
    pub(super) fn inherit(mut self, clean: Option<&'a Clean>) -> Result<Self> {
        self.clean = clean;
        if let Some(clean) = clean {
            self.proof.inherit(&clean.windows)?;
        }
        Ok(self)
    }

    /// Reads everything in the plan: files with the residue between them, then unparsed volumes.
    ///
    /// # Errors
    /// [`Error::Internal`] where the plan did not cover the disk exactly; the receiver's end of
    /// the channel gone ends the stage early with [`Error::Internal`] too. [`Error::Refused`]
    /// where the device gave several answers for one place.
    pub fn run(mut self, plan: &'a Plan) -> Result<ReadSummary> {
        self.residue = Residue::new(&plan.residue);
        self.free = &plan.free;
        self.proof.leave_out(&plan.free);
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
        if let Some(change) = &changed {
            self.proof.stand(change)?;
        }
        let (image_hash, windows) = self.proof.finish()?;
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
        let free_is_due = self.free.first().is_some_and(|range| range.end() <= first);
        if free_is_due || self.residue.is_due(first) {
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
        self.free_before(limit)?;
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

    /// Hands on the free space that ends at or before `limit`. No byte of it is read.
    fn free_before(&mut self, limit: ByteOffset) -> Result<()> {
        while let Some((&disk, rest)) = self.free.split_first()
            && disk.end() <= limit
        {
            self.free = rest;
            self.proof.add_zeros(disk)?;
            self.steps.push(Step::Ready(Segment::Free { disk }));
            self.bound_steps()?;
        }
        Ok(())
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
            self.proof.add_zeros(hole)?;
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
                Some(span) if self.joins(span, start) && self.takes(span, rest, role) => span,
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

    /// Tells whether a span may take a range. Slack is judged as a whole, whatever was read before
    /// it: what is residue depends on the bytes alone. It is never longer than a span.
    fn takes(&self, span: ByteRange, range: ByteRange, role: Role) -> bool {
        role == Role::Stream || range.end().0 - span.start().0 <= SPAN_BYTES
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
        let len = usize::try_from(span.len().0).unwrap_or_default();
        if batch.buffer.len() < len {
            batch.buffer.resize(len, 0);
        }
        if let Some(room) = batch.buffer.get_mut(..len).filter(|room| !room.is_empty()) {
            lost = read_salvaging(self.device, span.start(), room);
            self.bytes_read += span.len().0;
            lost = self.proof.with_lost_before(lost, span);
        }
        for step in std::mem::take(&mut self.steps) {
            match step {
                Step::Ready(segment) => batch.segments.push(segment),
                Step::Read { disk, position, role } => {
                    self.place(&mut batch, span, disk, position, role, &lost)?;
                }
            }
        }
        self.bytes_read += self.proof.bound()?;
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
            self.proof.add_lost(hole)?;
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
            if let Some(clean) = self.clean.filter(|clean| clean.has(disk)) {
                if !clean.has_slack(disk) {
                    // Zeros in the base: this contradicts it, and nothing of it is kept then.
                    batch.segments.push(Segment::LostSlack { disk });
                }
                return Ok(());
            }
            // Read once more with its window, and hashed then: of the bytes that are chunked.
            self.residue.add_slack(disk);
            return Ok(());
        }
        self.proof.add(disk.start(), bytes)?;
        if is_slack {
            batch.segments.push(Segment::ZeroSlack { disk });
            return Ok(());
        }
        batch.segments.push(Segment::Bytes { at: start..end, disk: disk.start(), position });
        Ok(())
    }
}
