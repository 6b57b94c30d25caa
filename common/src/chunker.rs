//! Cuts a stream of bytes into chunks and zero runs whose bounds depend on the content alone.
//!
//! The rules (cutter, zero rule, alignment) are `docs/formats/chunking.md`; golden cuts lie in
//! `testdata/formats/v1/chunking.txt`. This module adds only that the stream may arrive in pieces
//! of any size: the cutter is called with `max` bytes at hand or at the end of a segment, never
//! with what a read happened to bring.
//!
//! Bytes are cut where the caller holds them; what is copied is the part of a push that the next
//! push must complete, at most `max` + 68 KiB.

use crate::{ByteLen, ByteOffset};

use params::Cutter;

mod params;

#[cfg(test)]
mod tests;

pub use params::ChunkParams;

/// Side of the grid on which zeros are looked for, in bytes.
pub const ZERO_BLOCK: u64 = 4 << 10;

/// Shortest run of zero blocks that is mapped as zero, in bytes.
pub const ZERO_RUN: u64 = 64 << 10;

const ZERO_BLOCK_USIZE: usize = 4 << 10;

/// What [`Chunker::push_zeros`] pushes until the run is long.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// One piece of the stream; the cuts of a stream cover it once, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut<'a> {
    /// A chunk: `bytes` at offset `at` of the joined stream. Never empty, at most `max` long.
    Data {
        /// Offset in the joined stream (zero runs counted).
        at: ByteOffset,
        /// The chunk.
        bytes: &'a [u8],
    },
    /// A maximal run of zero blocks, at least [`ZERO_RUN`] bytes, of which no chunk is made.
    Zero {
        /// Offset in the joined stream.
        at: ByteOffset,
        /// Length of the whole run.
        len: ByteLen,
    },
}

/// Cuts one stream after the other.
///
/// A stream is the content of one file, the residue of one disk window, or a volume without a
/// parse. Push its bytes in order, then [`finish`](Self::finish).
///
/// ```
/// use umbra_common::ByteOffset;
/// use umbra_common::chunker::{ChunkParams, Chunker, Cut};
///
/// let mut chunker = Chunker::new(ChunkParams::PARSED);
/// let mut cuts = 0;
/// let mut take = |cut: Cut<'_>| cuts += 1;
/// chunker.push(ByteOffset(0), b"small file", &mut take);
/// chunker.push_zeros(ByteOffset(10), umbra_common::ByteLen(1 << 40), &mut take);
/// chunker.finish(&mut take);
/// assert_eq!(cuts, 2);
/// ```
#[derive(Debug)]
pub struct Chunker {
    cutter: Cutter,
    /// Alignment position that continues the current piece; `None` before the first byte.
    position: Option<u64>,
    /// Stream offset up to which cuts were handed out.
    cut_at: u64,
    /// Stream offset where the trailing zeros begin: everything before is known to be data.
    run_start: u64,
    /// Stream offset where the complete zero blocks of those zeros end.
    run_end: u64,
    /// Stream offset up to which bytes were looked at.
    scanned: u64,
    /// Whether the block that is not complete yet has shown a byte other than zero.
    dirty: bool,
    /// From `head` on, the bytes from `cut_at` to the start of the current push (and on to what
    /// was copied of it). Empty while the run is long: those bytes are zeros.
    held: Vec<u8>,
    head: usize,
}

/// The caller's slice during one push.
struct Input<'a> {
    /// Stream offset of its first byte.
    base: u64,
    bytes: &'a [u8],
    /// How many of its bytes stand in `held` too.
    copied: usize,
}

impl Chunker {
    /// Makes a chunker; it allocates when a push leaves bytes over.
    pub fn new(params: ChunkParams) -> Self {
        Self {
            cutter: Cutter::new(params),
            position: None,
            cut_at: 0,
            run_start: 0,
            run_end: 0,
            scanned: 0,
            dirty: false,
            held: Vec::new(),
            head: 0,
        }
    }

    /// Takes the next bytes of the stream and hands out the cuts that are certain.
    ///
    /// `at` is their alignment position: for a file the logical offset, for residue and volumes
    /// without a parse the disk address. Where it does not continue the previous push there is a
    /// gap: a run of zeros ends there, a chunk may reach across. A stream must stay below 2^64
    /// bytes.
    pub fn push(&mut self, at: ByteOffset, bytes: &[u8], cut: &mut dyn FnMut(Cut<'_>)) {
        if bytes.is_empty() {
            return;
        }
        let input = self.take(at, bytes, cut);
        self.keep(&input);
    }

    /// Does exactly what [`push`](Self::push) and [`finish`](Self::finish) do one after the other,
    /// without copying what no further push completes.
    pub fn finish_with(&mut self, at: ByteOffset, bytes: &[u8], cut: &mut dyn FnMut(Cut<'_>)) {
        let mut input = match bytes {
            [] => Input { base: self.scanned, bytes, copied: 0 },
            _ => self.take(at, bytes, cut),
        };
        self.finish_input(&mut input, cut);
    }

    /// Takes the next bytes and hands out the cuts that are certain.
    fn take<'a>(
        &mut self,
        at: ByteOffset,
        bytes: &'a [u8],
        cut: &mut dyn FnMut(Cut<'_>),
    ) -> Input<'a> {
        let mut position = self.locate(at, cut);
        let mut input = Input { base: self.scanned, bytes, copied: 0 };
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = ZERO_BLOCK_USIZE - block_offset(position);
            let (part, after) = rest.split_at(left.min(rest.len()));
            rest = after;
            position = position.wrapping_add(stream_len(part));
            self.scan(part, part.len() == left, &mut input, cut);
        }
        self.position = Some(position);
        input
    }

    /// Does exactly what pushing `len` zero bytes does, in bounded time whatever `len` is.
    pub fn push_zeros(&mut self, at: ByteOffset, len: ByteLen, cut: &mut dyn FnMut(Cut<'_>)) {
        if len.0 == 0 {
            return;
        }
        let mut position = self.locate(at, cut);
        let mut left = len.0;
        while left > 0 {
            let mut step = left - left % ZERO_BLOCK;
            if step > 0 && self.is_long() && self.run_end == self.scanned {
                // Whole blocks more of a run that is long already: nothing to look at.
                self.scanned += step;
                self.run_end = self.scanned;
                self.position = Some(position.wrapping_add(step));
            } else {
                // Up to a grid line, so that the next step finds whole blocks.
                let most = ZEROS.len() - block_offset(position);
                let len = usize::try_from(left).map_or(most, |left| left.min(most));
                let zeros = &ZEROS[..len];
                step = stream_len(zeros);
                self.push(ByteOffset(position), zeros, cut);
            }
            position = position.wrapping_add(step);
            left -= step;
        }
    }

    /// Ends the stream, hands out the remaining cuts and makes ready for the next stream.
    pub fn finish(&mut self, cut: &mut dyn FnMut(Cut<'_>)) {
        self.finish_input(&mut Input { base: self.scanned, bytes: &[], copied: 0 }, cut);
    }

    fn finish_input(&mut self, input: &mut Input<'_>, cut: &mut dyn FnMut(Cut<'_>)) {
        self.end_piece(input, cut);
        self.cut_down_to(1, input, cut);
        self.held.clear();
        self.head = 0;
        self.position = None;
        self.cut_at = 0;
        self.run_start = 0;
        self.run_end = 0;
        self.scanned = 0;
    }

    /// Ends the piece where `at` does not continue it; returns `at`.
    fn locate(&mut self, at: ByteOffset, cut: &mut dyn FnMut(Cut<'_>)) -> u64 {
        if self.position.is_some_and(|position| position != at.0) {
            self.end_piece(&mut Input { base: self.scanned, bytes: &[], copied: 0 }, cut);
        }
        self.position = Some(at.0);
        at.0
    }

    /// Tells whether the complete blocks of the trailing zeros are a run to be mapped as zero.
    fn is_long(&self) -> bool {
        self.run_end - self.run_start >= ZERO_RUN
    }

    /// Looks at `part`, which lies in one block and, where `closes`, ends it.
    fn scan(
        &mut self,
        part: &[u8],
        closes: bool,
        input: &mut Input<'_>,
        cut: &mut dyn FnMut(Cut<'_>),
    ) {
        self.scanned += stream_len(part);
        if self.dirty || !is_zero(part) {
            self.end_long_run(input.base, cut);
            self.run_start = self.scanned;
            self.run_end = self.scanned;
            self.dirty = !closes;
            self.cut_down_to(self.cutter.max, input, cut);
        } else if closes {
            self.close_zero_block(input, cut);
        }
    }

    /// Adds the block that ends at `scanned` to the run; where that makes the run long, the
    /// segment before it is over.
    fn close_zero_block(&mut self, input: &mut Input<'_>, cut: &mut dyn FnMut(Cut<'_>)) {
        let was_long = self.is_long();
        self.run_end = self.scanned;
        if !was_long && self.is_long() {
            self.cut_down_to(1, input, cut);
            self.held.clear();
            self.head = 0;
            input.copied = 0;
        }
    }

    /// Hands out the run where it is long; the next segment begins behind it.
    ///
    /// `base` is where the current push begins: zeros of an incomplete block before it belong to
    /// the next segment and were not kept.
    fn end_long_run(&mut self, base: u64, cut: &mut dyn FnMut(Cut<'_>)) {
        if !self.is_long() {
            return;
        }
        let len = ByteLen(self.run_end - self.run_start);
        cut(Cut::Zero { at: ByteOffset(self.run_start), len });
        self.cut_at = self.run_end;
        let zeros = base.saturating_sub(self.run_end);
        self.held.resize(usize::try_from(zeros).expect("less than a block"), 0);
    }

    /// Ends a contiguous piece: its last block is complete as it is, and a run of zeros ends.
    fn end_piece(&mut self, input: &mut Input<'_>, cut: &mut dyn FnMut(Cut<'_>)) {
        if !self.dirty && self.run_end < self.scanned {
            self.close_zero_block(input, cut);
        }
        self.end_long_run(self.scanned, cut);
        self.run_start = self.scanned;
        self.run_end = self.scanned;
        self.dirty = false;
        self.cut_down_to(self.cutter.max, input, cut);
    }

    /// Cuts while `least` bytes or more are known to be data of this segment: `max` inside a
    /// segment, 1 at its end.
    fn cut_down_to(&mut self, least: usize, input: &mut Input<'_>, cut: &mut dyn FnMut(Cut<'_>)) {
        loop {
            let ready = self.run_start - self.cut_at;
            let ready = usize::try_from(ready).map_or(self.cutter.max, |r| r.min(self.cutter.max));
            if ready < least {
                return;
            }
            let at = ByteOffset(self.cut_at);
            let len = if let Some(skip) = self.cut_at.checked_sub(input.base) {
                let skip = usize::try_from(skip).expect("within the slice");
                let content = &input.bytes[skip..skip + ready];
                let len = self.cutter.cut(content);
                cut(Cut::Data { at, bytes: &content[..len] });
                len
            } else {
                self.hold(ready, input);
                let content = &self.held[self.head..self.head + ready];
                let len = self.cutter.cut(content);
                cut(Cut::Data { at, bytes: &content[..len] });
                self.head += len;
                len
            };
            self.cut_at += u64::try_from(len).expect("a chunk's length");
            if self.cut_at >= input.base {
                self.held.clear();
                self.head = 0;
                input.copied = 0;
            }
        }
    }

    /// Copies from the slice what `held` lacks to hold `len` bytes.
    fn hold(&mut self, len: usize, input: &mut Input<'_>) {
        let have = self.held.len() - self.head;
        if have < len {
            self.make_room();
            let end = input.copied + (len - have);
            self.held.extend_from_slice(&input.bytes[input.copied..end]);
            input.copied = end;
        }
    }

    /// Copies what the next push needs.
    fn keep(&mut self, input: &Input<'_>) {
        if self.is_long() {
            return;
        }
        let from = match self.cut_at.checked_sub(input.base) {
            Some(skip) => usize::try_from(skip).expect("within the slice"),
            None => input.copied,
        };
        self.make_room();
        self.held.extend_from_slice(&input.bytes[from..]);
    }

    /// Drops what was handed out once that is `max` bytes, so that each byte moves about once.
    fn make_room(&mut self) {
        if self.head >= self.cutter.max {
            self.held.drain(..self.head);
            self.head = 0;
        }
    }
}

/// Returns the offset in its block of the byte at `position`.
fn block_offset(position: u64) -> usize {
    usize::try_from(position % ZERO_BLOCK).expect("less than a block")
}

fn stream_len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("usize has at most 64 bits")
}

/// Tells whether all bytes are zero; data is told by its first bytes as a rule.
fn is_zero(bytes: &[u8]) -> bool {
    let (groups, rest) = bytes.as_chunks::<512>();
    groups.iter().all(is_zero_group) && rest.iter().all(|byte| *byte == 0)
}

/// Tests 512 bytes with one branch, in a form that compilers turn into vector instructions.
fn is_zero_group(group: &[u8; 512]) -> bool {
    let mut seen = [0; 8];
    for line in group.as_chunks::<64>().0 {
        for (seen, word) in seen.iter_mut().zip(line.as_chunks::<8>().0) {
            *seen |= u64::from_ne_bytes(*word);
        }
    }
    seen == [0; 8]
}
