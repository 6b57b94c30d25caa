//! The stage that cuts streams into chunks; it neither names nor keeps them.

use std::ops::Range;

use crossbeam_channel::{Receiver, Sender};
use umbra_common::chunker::{ChunkParams, Chunker, Cut};
use umbra_common::{ByteLen, ByteOffset, ByteRange};

use super::batch::{Batch, Segment, Stream};
use crate::error::{Error, Result};

/// The bytes of a chunk.
#[derive(Debug)]
pub(super) enum Bytes {
    /// They stand in the batch's buffer.
    Buffer(Range<usize>),
    /// They came in several pieces.
    Own(Vec<u8>),
}

/// A step of the stage that names chunks, in the order of the stream.
#[derive(Debug)]
pub(super) enum Step {
    /// A stream begins.
    Begin(Stream),
    /// The next `len` bytes of the stream stand on the disk, or are a hole's zeros.
    Backing {
        /// How many.
        len: u64,
        /// Where they stand; absent for a hole in a file.
        disk: Option<u64>,
        /// Zeros that nobody read.
        is_hole: bool,
    },
    /// A chunk of the stream ends.
    Data {
        /// Its first byte in the stream.
        at: u64,
        /// Its bytes.
        bytes: Bytes,
    },
    /// A run of zeros ends.
    Zero {
        /// Its first byte in the stream.
        at: u64,
        /// How many.
        len: u64,
    },
    /// Bytes of the current stream that the device did not give; what follows begins anew.
    Unreadable(ByteRange),
    /// Bytes of no stream that the device did not give.
    LostSlack(ByteRange),
    /// Zeros of the disk that belong to no stream.
    ZeroSlack(ByteRange),
    /// Bytes of the disk that hold nothing and are not kept.
    Free(ByteRange),
    /// The current stream ends.
    End,
}

/// A batch with its cuts.
#[derive(Debug, Default)]
pub(super) struct CutBatch {
    /// The bytes of the batch.
    pub(super) buffer: Vec<u8>,
    /// What they are, in order.
    pub(super) steps: Vec<Step>,
    /// How many bytes of the disk it stands for.
    pub(super) disk_bytes: u64,
}

/// Cuts what arrives until nothing more comes.
///
/// # Errors
/// [`Error::Internal`] where the next stage has ended.
pub(super) fn run(batches: Receiver<Batch>, out: &Sender<CutBatch>) -> Result<()> {
    let mut stage = CutStage::new();
    let gone = |_| Error::Internal("the stage that names chunks has ended".into());
    batches.into_iter().try_for_each(|batch| out.send(stage.batch(batch)).map_err(gone))
}

/// The stage that cuts.
pub(super) struct CutStage {
    parsed: Chunker,
    unparsed: Chunker,
    is_parsed: bool,
    /// Bytes of the current stream so far, since the last unreadable place.
    pushed: u64,
}

impl CutStage {
    /// Makes a stage before the first stream.
    pub(super) fn new() -> Self {
        let parsed = Chunker::new(ChunkParams::PARSED);
        let unparsed = Chunker::new(ChunkParams::UNPARSED);
        Self { parsed, unparsed, is_parsed: true, pushed: 0 }
    }

    /// Cuts one batch.
    pub(super) fn batch(&mut self, batch: Batch) -> CutBatch {
        let disk_bytes = batch.disk_bytes();
        let Batch { buffer, segments } = batch;
        let mut steps = Vec::with_capacity(segments.len() * 2);
        for (index, segment) in segments.iter().enumerate() {
            match *segment {
                Segment::Begin(stream) => {
                    self.is_parsed = stream != Stream::Unparsed;
                    self.pushed = 0;
                    steps.push(Step::Begin(stream));
                }
                Segment::Bytes { ref at, disk, position } => {
                    let len = at.len() as u64;
                    let disk = Some(disk.0);
                    steps.push(Step::Backing { len, disk, is_hole: false });
                    let bytes = buffer.get(at.clone()).unwrap_or_default();
                    let is_last = ends(segments.get(index + 1..).unwrap_or_default());
                    self.bytes(bytes, at.start, ByteOffset(position), is_last, &mut steps);
                }
                Segment::Zeros { disk, len, position } => {
                    let disk = disk.map(|disk| disk.0);
                    steps.push(Step::Backing { len: len.0, disk, is_hole: true });
                    self.zeros(ByteOffset(position), len, &mut steps);
                }
                Segment::Unreadable { disk } => {
                    self.finish(&mut steps);
                    self.pushed = 0;
                    steps.push(Step::Unreadable(disk));
                }
                Segment::LostSlack { disk } => steps.push(Step::LostSlack(disk)),
                Segment::ZeroSlack { disk } => steps.push(Step::ZeroSlack(disk)),
                Segment::Free { disk } => steps.push(Step::Free(disk)),
                Segment::End => {
                    self.finish(&mut steps);
                    steps.push(Step::End);
                }
            }
        }
        CutBatch { buffer, steps, disk_bytes }
    }

    fn bytes(
        &mut self,
        bytes: &[u8],
        start: usize,
        position: ByteOffset,
        is_last: bool,
        steps: &mut Vec<Step>,
    ) {
        let base = self.pushed;
        self.pushed += bytes.len() as u64;
        // A chunk that begins in these bytes lies in the buffer; one from before was joined.
        let cut = &mut |cut: Cut<'_>| {
            steps.push(match cut {
                Cut::Data { at, bytes } => {
                    let inside = at.0.checked_sub(base).and_then(|at| usize::try_from(at).ok());
                    let bytes = match inside {
                        Some(at) => Bytes::Buffer(start + at..start + at + bytes.len()),
                        None => Bytes::Own(bytes.to_vec()),
                    };
                    Step::Data { at: at.0, bytes }
                }
                Cut::Zero { at, len } => Step::Zero { at: at.0, len: len.0 },
            });
        };
        let chunker = self.chunker();
        if is_last {
            chunker.finish_with(position, bytes, cut);
        } else {
            chunker.push(position, bytes, cut);
        }
    }

    fn zeros(&mut self, position: ByteOffset, len: ByteLen, steps: &mut Vec<Step>) {
        self.pushed += len.0;
        self.chunker().push_zeros(position, len, &mut |cut| steps.push(owned(cut)));
    }

    fn finish(&mut self, steps: &mut Vec<Step>) {
        self.chunker().finish(&mut |cut| steps.push(owned(cut)));
    }

    fn chunker(&mut self) -> &mut Chunker {
        if self.is_parsed { &mut self.parsed } else { &mut self.unparsed }
    }
}

/// Tells whether nothing more comes of the current stream.
fn ends(rest: &[Segment]) -> bool {
    let is_beside = |segment: &&Segment| {
        matches!(segment, Segment::ZeroSlack { .. } | Segment::LostSlack { .. })
    };
    rest.iter().find(|segment| !is_beside(segment)) == Some(&Segment::End)
}

fn owned(cut: Cut<'_>) -> Step {
    match cut {
        Cut::Data { at, bytes } => Step::Data { at: at.0, bytes: Bytes::Own(bytes.to_vec()) },
        Cut::Zero { at, len } => Step::Zero { at: at.0, len: len.0 },
    }
}
