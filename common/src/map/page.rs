//! A page: the runs of one window, or of a half, quarter, ... of it.
//!
//! The body is the CBOR array `[1, length of the page, runs]`; `runs` is a byte string of LEB128
//! numbers, each in its shortest form. A run starts with `length << 3 | kind`; kind 1 goes on with
//! the chunk's number in the reference list and the offset in it. The reference list is the table
//! of chunk ids, in the order of their first run.

use crate::cbor::{Reader, Writer};
use crate::image_hash::WINDOW_BYTES;
use crate::node::{Node, References};
use crate::{Error, Kind, Reference, Result};

use super::{Content, MAX_PAGE_BYTES};

const VERSION: u64 = 1;
const WHAT: &str = "map page";

/// The next new chunk, from its first byte on.
const NEW_CHUNK: u64 = 0;
/// A chunk by its number, from an offset on.
const CHUNK: u64 = 1;
/// Kinds without a chunk; the same numbers stand for folded children in map nodes.
pub(super) const ZERO: u64 = 2;
pub(super) const FREE: u64 = 3;
pub(super) const UNREADABLE: u64 = 4;
pub(super) const EXCLUDED: u64 = 5;

/// A run of a page: how long, what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageRun {
    /// In bytes, never 0.
    pub(super) len: u64,
    pub(super) content: Content,
}

/// A run of a page that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadRun {
    pub(super) run: PageRun,
    /// Number of the chunk in the page's reference list.
    pub(super) number: Option<u32>,
}

impl PageRun {
    /// Takes `next` into this run where it continues it.
    pub(super) fn merge(&mut self, next: Self) -> bool {
        let continues = self.content.after(self.len) == Some(next.content);
        if continues {
            self.len = self.len.saturating_add(next.len);
        }
        continues
    }
}

/// Encodes a page of maximal runs.
pub(super) fn encode(runs: &[PageRun]) -> Node {
    let mut refs = References::new();
    let mut bytes = Vec::new();
    let mut page_len = 0_u64;
    for run in runs {
        page_len = page_len.saturating_add(run.len);
        encode_run(run, &mut refs, &mut bytes);
    }
    let mut writer = Writer::new();
    writer.array(3);
    writer.uint(VERSION);
    writer.uint(page_len);
    writer.bytes(&bytes);
    Node { kind: Kind::MapPage, refs: refs.into_list(), body: writer.into_bytes() }
}

fn encode_run(run: &PageRun, refs: &mut References, bytes: &mut Vec<u8>) {
    let code = |kind: u64| (run.len << 3) | kind;
    match run.content {
        Content::Data { chunk, offset } => {
            let known = refs.len();
            let number = refs.number(Reference { kind: Kind::Chunk, id: chunk });
            if refs.len() > known && offset == 0 {
                put_varint(bytes, code(NEW_CHUNK));
            } else {
                put_varint(bytes, code(CHUNK));
                put_varint(bytes, u64::from(number));
                put_varint(bytes, u64::from(offset));
            }
        }
        Content::Zero => put_varint(bytes, code(ZERO)),
        Content::Free => put_varint(bytes, code(FREE)),
        Content::Unreadable => put_varint(bytes, code(UNREADABLE)),
        Content::Excluded => put_varint(bytes, code(EXCLUDED)),
    }
}

/// Decodes a page that maps exactly `page_len` bytes.
///
/// # Errors
/// `Corrupt`, `Unsupported` or `UnknownNumber`; also for every other encoding of the same runs.
pub(super) fn decode(node: &Node, page_len: u64) -> Result<Vec<ReadRun>> {
    if node.kind != Kind::MapPage {
        return Err(Error::Corrupt { what: WHAT, at: 0, reason: "a node of another kind" });
    }
    if node.encoded_len() > MAX_PAGE_BYTES {
        return Err(Error::Limit { what: WHAT, limit: crate::cbor::wide(MAX_PAGE_BYTES) });
    }
    let mut reader = Reader::new(WHAT, &node.body);
    if reader.array(3)? != 3 {
        return Err(reader.corrupt("an array has the wrong length"));
    }
    let version = reader.uint()?;
    if version != VERSION {
        return Err(Error::Unsupported { what: WHAT, found: version, known: VERSION });
    }
    if reader.uint()? != page_len || page_len > WINDOW_BYTES {
        return Err(reader.corrupt("it maps another length than its place has"));
    }
    let start = reader.at();
    let bytes = reader.bytes(usize::MAX)?;
    reader.finish()?;
    let runs = RunReader { node, left: bytes, start, met: 0 }.read(page_len)?;
    let maximal: Vec<PageRun> = runs.iter().map(|run| run.run).collect();
    node.same(&encode(&maximal))?;
    Ok(runs)
}

struct RunReader<'a> {
    node: &'a Node,
    left: &'a [u8],
    /// Where the bytes start in the body, for errors.
    start: u64,
    /// Number of the next chunk that was not met yet.
    met: u32,
}

impl RunReader<'_> {
    fn read(mut self, page_len: u64) -> Result<Vec<ReadRun>> {
        let mut runs: Vec<ReadRun> = Vec::new();
        let mut at = 0_u64;
        while !self.left.is_empty() {
            let run = self.run()?;
            at = at.saturating_add(run.run.len);
            if run.run.len == 0 || at > page_len {
                return Err(self.corrupt("a run is empty or leaves the page"));
            }
            if runs.last().is_some_and(|last| last.run.clone().merge(run.run)) {
                return Err(self.corrupt("a run continues the one before it"));
            }
            runs.push(run);
        }
        if at != page_len {
            return Err(self.corrupt("the runs end before the page"));
        }
        Ok(runs)
    }

    fn run(&mut self) -> Result<ReadRun> {
        let code = self.varint()?;
        let len = code >> 3;
        let plain = |content| Ok(ReadRun { run: PageRun { len, content }, number: None });
        match code & 7 {
            NEW_CHUNK => self.chunk(len, self.met, 0),
            CHUNK => {
                let (number, offset) = (self.varint()?, self.varint()?);
                let number = u32::try_from(number).ok();
                let number = number.ok_or_else(|| self.corrupt("a chunk's number is too large"))?;
                self.chunk(len, number, offset)
            }
            ZERO => plain(Content::Zero),
            FREE => plain(Content::Free),
            UNREADABLE => plain(Content::Unreadable),
            EXCLUDED => plain(Content::Excluded),
            kind => Err(Error::UnknownNumber { what: WHAT, at: self.start, number: kind }),
        }
    }

    fn chunk(&mut self, len: u64, number: u32, offset: u64) -> Result<ReadRun> {
        if number > self.met {
            return Err(self.corrupt("a chunk's number skips another"));
        }
        if number == self.met {
            self.met = self.met.saturating_add(1);
        }
        let chunk = self.node.child(number)?.id;
        let end = offset.checked_add(len).filter(|end| u32::try_from(*end).is_ok());
        let Some((Ok(offset), _)) = end.map(|end| (u32::try_from(offset), end)) else {
            return Err(self.corrupt("a run reaches past what a chunk can be"));
        };
        let run = PageRun { len, content: Content::Data { chunk, offset } };
        Ok(ReadRun { run, number: Some(number) })
    }

    /// Reads a LEB128 number of at most 35 bits in its shortest form.
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in [0_u32, 7, 14, 21, 28] {
            let Some((byte, left)) = self.left.split_first() else {
                return Err(self.corrupt("it ends inside a run"));
            };
            self.left = left;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if *byte == 0 && shift > 0 {
                    return Err(self.corrupt("a number is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(self.corrupt("a number is too long"))
    }

    fn corrupt(&self, reason: &'static str) -> Error {
        let left = crate::cbor::wide(self.left.len());
        let at = crate::cbor::wide(self.node.body.len()).saturating_sub(left);
        Error::Corrupt { what: WHAT, at, reason }
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        // The low seven bits fit a byte.
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        bytes.push(low | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap_or_default());
}
