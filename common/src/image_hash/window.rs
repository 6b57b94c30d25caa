//! One window while its bytes arrive: BLAKE3 subtrees, merged as soon as both halves are there.
//!
//! BLAKE3 hashes chunks of 1 KiB, each with its number, and joins them in a binary tree whose left
//! subtrees are complete; only nodes at the right edge may be short (BLAKE3 paper, section 2.1).
//! Here a subtree is named by its first chunk and a level: it covers the chunks
//! `first .. first + 2^level` as far as the window has them.

use std::collections::BTreeMap;
use std::ops::Range;

use blake3::CHUNK_LEN;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

use super::WindowHash;
use super::ranges::Ranges;
use super::zeros::zero_subtree;

const CHUNK_BYTES: u32 = 1024;

/// Bytes that arrive: as they are, or so many zeros.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    Bytes(&'a [u8]),
    Zeros(u32),
}

impl Content<'_> {
    pub(super) fn len(self) -> u32 {
        match self {
            Self::Bytes(bytes) => u32::try_from(bytes.len()).expect("at most a window"),
            Self::Zeros(len) => len,
        }
    }

    fn split_at(self, at: u32) -> (Self, Self) {
        match self {
            Self::Bytes(bytes) => {
                let (head, tail) = bytes.split_at(size(at));
                (Self::Bytes(head), Self::Bytes(tail))
            }
            Self::Zeros(len) => (Self::Zeros(at), Self::Zeros(len - at)),
        }
    }
}

/// A window that has some of its bytes.
#[derive(Debug)]
pub(super) struct Window {
    /// Length in bytes, at least 1; only the last window of a disk is short.
    len: u32,
    /// Number of BLAKE3 chunks, the last one perhaps short.
    chunks: u32,
    /// Level of the two subtrees that the root joins.
    top: u8,
    /// How many bytes have arrived.
    known: u32,
    /// First chunk -> subtree. Disjoint; two that could be merged never stand here.
    subtrees: BTreeMap<u32, (u8, ChainingValue)>,
    /// Chunks that have some of their bytes.
    partial: BTreeMap<u32, Partial>,
    /// The root, once the window is complete.
    hash: Option<WindowHash>,
}

#[derive(Debug)]
struct Partial {
    bytes: Box<[u8; CHUNK_LEN]>,
    known: Ranges,
}

impl Window {
    pub(super) fn new(len: u32) -> Self {
        let chunks = len.div_ceil(CHUNK_BYTES);
        let depth = chunks.next_power_of_two().trailing_zeros();
        Self {
            len,
            chunks,
            top: u8::try_from(depth.saturating_sub(1)).expect("a window has 2^14 chunks"),
            known: 0,
            subtrees: BTreeMap::new(),
            partial: BTreeMap::new(),
            hash: None,
        }
    }

    /// Returns the window's hash, or `None` while bytes are missing.
    pub(super) fn hash(&self) -> Option<WindowHash> {
        self.hash
    }

    /// Estimates the memory held, in bytes.
    pub(super) fn memory(&self) -> usize {
        256 + self.subtrees.len() * 64 + self.partial.len() * (CHUNK_LEN + 256)
    }

    /// Tells whether a byte of `range` has arrived.
    pub(super) fn touches(&self, range: &Range<u32>) -> bool {
        let first = range.start / CHUNK_BYTES;
        let end = range.end.div_ceil(CHUNK_BYTES);
        if let Some((&start, &(level, _))) = self.subtrees.range(..end).next_back()
            && self.chunks_of(start, level).end > first
        {
            return true;
        }
        self.partial.range(first..end).any(|(&chunk, partial)| {
            let base = u64::from(chunk * CHUNK_BYTES);
            let start = u64::from(range.start).saturating_sub(base);
            partial.known.touches(&(start..u64::from(range.end) - base))
        })
    }

    /// Returns what has not arrived of `range`, in order.
    pub(super) fn missing(&self, range: &Range<u32>) -> Vec<Range<u32>> {
        let first = range.start / CHUNK_BYTES;
        let end = range.end.div_ceil(CHUNK_BYTES);
        let before = self.subtrees.range(..first).next_back().map_or(first, |(&start, _)| start);
        let mut known = Ranges::default();
        for (&start, &(level, _)) in self.subtrees.range(before..end) {
            let end = self.chunks_of(start, level).end * CHUNK_BYTES;
            known.insert(u64::from(start * CHUNK_BYTES)..u64::from(end.min(self.len)));
        }
        for (&chunk, partial) in self.partial.range(first..end) {
            let base = u64::from(chunk * CHUNK_BYTES);
            for part in partial.known.iter() {
                known.insert(base + part.start..base + part.end);
            }
        }
        let narrow = |at: u64| u32::try_from(at).expect("within the window");
        let gaps = known.gaps(u64::from(range.start)..u64::from(range.end));
        gaps.into_iter().map(|gap| narrow(gap.start)..narrow(gap.end)).collect()
    }

    /// Takes bytes at `at`, none of which has arrived yet and all of which lie in the window.
    pub(super) fn add(&mut self, at: u32, content: Content<'_>) {
        self.known += content.len();
        if let (Content::Bytes(bytes), true) = (content, content.len() == self.len) {
            self.hash = Some(WindowHash(*blake3::hash(bytes).as_bytes()));
            return;
        }
        let mut at = at;
        let mut rest = content;
        while rest.len() > 0 {
            let chunk = at / CHUNK_BYTES;
            let inside = at % CHUNK_BYTES;
            let chunk_len = self.chunk_len(chunk);
            let step = if self.chunks == 1 || inside > 0 || rest.len() < chunk_len {
                let step = rest.len().min(chunk_len - inside);
                self.add_part(chunk, inside, rest.split_at(step).0);
                step
            } else {
                self.add_subtree(chunk, rest)
            };
            at += step;
            rest = rest.split_at(step).1;
        }
        if self.known == self.len && self.hash.is_none() {
            self.hash = Some(self.root());
        }
    }

    /// Hashes the largest subtree that begins with `chunk` and of which `content` holds
    /// everything; returns its length.
    fn add_subtree(&mut self, chunk: u32, content: Content<'_>) -> u32 {
        let start = chunk * CHUNK_BYTES;
        let to_end = self.len - start == content.len();
        let whole = if to_end { self.chunks - chunk } else { content.len() / CHUNK_BYTES };
        let aligned = if chunk == 0 { u32::from(self.top) } else { chunk.trailing_zeros() };
        let mut level = u8::try_from(aligned).map_or(self.top, |level| level.min(self.top));
        while self.chunks_of(chunk, level).len() > size(whole) {
            level -= 1;
        }
        let mut end = (self.chunks_of(chunk, level).end * CHUNK_BYTES).min(self.len);
        let value = match content {
            Content::Bytes(bytes) => subtree(start, &bytes[..size(end - start)]),
            Content::Zeros(_) => {
                while level > 0 && end - start < CHUNK_BYTES << level {
                    level -= 1;
                    end = (start + (CHUNK_BYTES << level)).min(self.len);
                }
                if end - start < CHUNK_BYTES {
                    subtree(start, &[0; CHUNK_LEN][..size(end - start)])
                } else {
                    zero_subtree(chunk, level)
                }
            }
        };
        self.insert(chunk, level, value);
        end - start
    }

    /// Keeps part of a chunk; hashes the chunk when it is complete.
    fn add_part(&mut self, chunk: u32, inside: u32, content: Content<'_>) {
        let chunk_len = self.chunk_len(chunk);
        let partial = self.partial.entry(chunk).or_insert_with(|| Partial {
            bytes: Box::new([0; CHUNK_LEN]),
            known: Ranges::default(),
        });
        let end = inside + content.len();
        if let Content::Bytes(bytes) = content {
            partial.bytes[size(inside)..size(end)].copy_from_slice(bytes);
        }
        partial.known.insert(u64::from(inside)..u64::from(end));
        if partial.known.end_of(0) == Some(u64::from(chunk_len)) {
            let Some(partial) = self.partial.remove(&chunk) else { return };
            let bytes = &partial.bytes[..size(chunk_len)];
            if self.chunks == 1 {
                self.hash = Some(WindowHash(*blake3::hash(bytes).as_bytes()));
            } else {
                self.insert(chunk, 0, subtree(chunk * CHUNK_BYTES, bytes));
            }
        }
    }

    /// Adds a subtree and merges it with its neighbours as far as they are there.
    fn insert(&mut self, chunk: u32, level: u8, value: ChainingValue) {
        let (mut first, mut level, mut value) = (chunk, level, value);
        while level < self.top {
            let sibling = first ^ (1 << level);
            // A node at the right edge without a sibling is its own parent.
            if sibling < self.chunks {
                match self.subtrees.get(&sibling) {
                    Some(&(height, other)) if height == level => {
                        self.subtrees.remove(&sibling);
                        value = if sibling < first {
                            merge_subtrees_non_root(&other, &value, Mode::Hash)
                        } else {
                            merge_subtrees_non_root(&value, &other, Mode::Hash)
                        };
                        first = first.min(sibling);
                    }
                    _ => break,
                }
            }
            level += 1;
        }
        self.subtrees.insert(first, (level, value));
    }

    /// Joins the two halves of a complete window.
    fn root(&mut self) -> WindowHash {
        let halves: Vec<_> = self.subtrees.values().map(|(_, value)| *value).collect();
        let [left, right] = halves[..] else {
            unreachable!("a complete window of more than one chunk consists of two subtrees")
        };
        WindowHash(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
    }

    /// Returns the chunks of the subtree, as far as the window has them.
    fn chunks_of(&self, first: u32, level: u8) -> Range<u32> {
        first..(first + (1 << level)).min(self.chunks)
    }

    fn chunk_len(&self, chunk: u32) -> u32 {
        (self.len - chunk * CHUNK_BYTES).min(CHUNK_BYTES)
    }
}

/// Hashes the subtree that begins at byte `start` of its window.
fn subtree(start: u32, bytes: &[u8]) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(u64::from(start)).update(bytes).finalize_non_root()
}

fn size(len: u32) -> usize {
    usize::try_from(len).expect("at most a window")
}
