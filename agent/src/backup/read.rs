//! The read stage: spans of the device in the order of the plan, several readings under way at once.
//!
//! Pieces that follow each other on the disk are read as one span, small gaps included. The residue
//! of a window follows the last file that begins before the window ends. What was read goes on in
//! the order of the plan, to the stage that proves it.

use std::collections::VecDeque;

use crossbeam_channel::Sender;
use umbra_common::{ByteLen, ByteOffset, ByteRange};

use super::batch::{Segment, Stream};
use super::inherit::Clean;
use super::plan::{FileItem, FilePiece, Plan, pieces};
use super::reading::{IN_FLIGHT, Reading, Reads, by_loss};
use super::residue::Residue;
use crate::error::{Error, Result};
use crate::source::Device;
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

/// A step on the way to a [`Segment`].
pub(super) enum Step {
    /// It needs no bytes.
    Ready(Segment),
    /// It is in the bytes of a span.
    Read {
        /// Where.
        disk: ByteRange,
        /// Position for the zero rule.
        position: u64,
        /// What for.
        role: Role,
    },
}

/// What bytes of the disk are read for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The current stream.
    Stream,
    /// Behind a file's end: zeros, or residue to come. What goes on as slack is zeros or lost.
    Slack,
}

/// What one reading gave, and what it was for.
pub(super) struct Span {
    /// The bytes.
    pub(super) reading: Reading,
    /// What they are, in order.
    pub(super) steps: Vec<Step>,
}

/// A span that is being read.
struct Asked {
    steps: Vec<Step>,
    /// Whether there is something to read at all.
    has_reading: bool,
}

/// The read stage over one device.
pub(super) struct Reader<'a> {
    device: &'a dyn Device,
    survey: &'a Survey,
    reads: Reads,
    out: Sender<Span>,
    asked: VecDeque<Asked>,
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
}

impl<'a> Reader<'a> {
    /// Makes a read stage that hands spans to `out`.
    pub(super) fn new(
        device: &'a dyn Device,
        survey: &'a Survey,
        reads: Reads,
        out: Sender<Span>,
    ) -> Self {
        Self {
            device,
            survey,
            reads,
            out,
            asked: VecDeque::new(),
            span: None,
            steps: Vec::new(),
            residue: Residue::default(),
            free: &[],
            clean: None,
            wanted: 0,
            wasted: 0,
            bytes_read: 0,
        }
    }

    /// Says which windows are taken from the base snapshot.
    pub(super) fn beside(self, clean: Option<&'a Clean>) -> Self {
        Self { clean, ..self }
    }

    /// Reads everything in the plan: files with the residue between them, then unparsed volumes.
    /// Returns how many bytes were read, gaps included.
    ///
    /// # Errors
    /// [`Error::Internal`] where the plan names what is no file, or the next stage has ended.
    pub(super) fn run(mut self, plan: &'a Plan) -> Result<u64> {
        self.residue = Residue::new(&plan.residue);
        self.free = &plan.free;
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
        self.settle()?;
        Ok(self.bytes_read)
    }

    fn file(&mut self, item: FileItem, parts: &mut Vec<FilePiece>) -> Result<()> {
        let Some((inode, base)) = item.find(self.survey) else {
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
        self.settle()?;
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

    /// Asks for the current span, for the steps up to here.
    fn flush(&mut self) -> Result<()> {
        if self.steps.is_empty() {
            return Ok(());
        }
        while self.asked.len() >= IN_FLIGHT {
            self.hand_on()?;
        }
        let steps = std::mem::take(&mut self.steps);
        let span = self.span.take().filter(|span| !span.is_empty());
        self.asked.push_back(Asked { steps, has_reading: span.is_some() });
        if let Some(span) = span {
            self.bytes_read += span.len().0;
            self.reads.ask(span)?;
        }
        Ok(())
    }

    /// Waits for everything that was asked for.
    fn settle(&mut self) -> Result<()> {
        while !self.asked.is_empty() {
            self.hand_on()?;
        }
        Ok(())
    }

    /// Waits for the oldest span and hands it on.
    fn hand_on(&mut self) -> Result<()> {
        let Some(Asked { steps, has_reading }) = self.asked.pop_front() else { return Ok(()) };
        let reading = if has_reading { self.reads.take()? } else { None };
        let reading = reading.unwrap_or_default();
        let steps = self.without_residue(&reading, steps)?;
        let gone = |_| Error::Internal("the stage that proves has ended".into());
        self.out.send(Span { reading, steps }).map_err(gone)
    }

    /// Takes the slack that is not zeros out of the steps: it is residue, read once more with its
    /// window, and proven then of the bytes that are chunked.
    fn without_residue(&mut self, reading: &Reading, steps: Vec<Step>) -> Result<Vec<Step>> {
        let is_slack = |step: &Step| matches!(step, Step::Read { role: Role::Slack, .. });
        if !steps.iter().any(is_slack) {
            return Ok(steps);
        }
        let mut kept = Vec::with_capacity(steps.len());
        for step in steps {
            let Step::Read { disk, position, role: Role::Slack } = step else {
                kept.push(step);
                continue;
            };
            for (part, is_lost) in by_loss(disk, &reading.lost) {
                if is_lost || reading.bytes(part)?.iter().all(|&byte| byte == 0) {
                    kept.push(Step::Read { disk: part, position, role: Role::Slack });
                    continue;
                }
                match self.clean.filter(|clean| clean.has(part)) {
                    None => self.residue.add_slack(part),
                    Some(clean) if clean.has_slack(part) => {}
                    // Zeros in the base: this contradicts it, and nothing of it is kept then.
                    Some(_) => kept.push(Step::Ready(Segment::LostSlack { disk: part })),
                }
            }
        }
        Ok(kept)
    }
}
