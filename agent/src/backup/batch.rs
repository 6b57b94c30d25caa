//! What was read and proven, on its way to the stages that cut and name chunks.

use std::ops::Range;

use umbra_common::{ByteLen, ByteOffset, ByteRange};

use super::plan::FileItem;

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

/// A step of the stage that cuts. Positions are those that zero blocks are aligned to: logical for
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
