//! The bytes of a LOG segment: a header, then entries, each with the hash of the one before it.
//!
//! Layout: `docs/formats/log.md`.

use crate::bytes::{Cursor, find_magic, narrow, narrow32, wide};
use crate::error::{Error, Result};
use crate::ids::{Digest, StoreId, Timestamp};
use crate::log::entry::Entry;

const SEGMENT_MAGIC: [u8; 8] = *b"UMBRALOG";
const SEGMENT_VERSION: u16 = 1;
pub(crate) const ENTRY_MAGIC: [u8; 8] = *b"UMBRAENT";
const ENTRY_VERSION: u16 = 1;

/// Length of a segment's header in bytes.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 128;

/// Length of an entry without its payload in bytes.
const ENTRY_HEADER_BYTES: usize = 96;

/// Longest payload of an entry in bytes.
const MAX_PAYLOAD_BYTES: u32 = 64 << 10;

/// Where an entry's check stands, and where the payload begins.
const CHECK_AT: usize = 64;

/// The last entry before some point: what the next one names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChainEnd {
    /// Its number; 0 before the first.
    pub(crate) sequence: u64,
    /// Its check; zeros before the first.
    pub(crate) hash: Digest,
}

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store: StoreId,
    /// Its number, as in its name.
    pub(crate) number: u64,
    /// The entry that it continues; what the segment before holds beyond it is void.
    pub(crate) after: ChainEnd,
    /// Lock epoch of the process that wrote it.
    pub(crate) epoch: u64,
    pub(crate) created: Timestamp,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        bytes.extend_from_slice(&SEGMENT_MAGIC);
        bytes.extend_from_slice(&SEGMENT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&0u16.to_le_bytes());
        bytes.extend_from_slice(&128u32.to_le_bytes());
        bytes.extend_from_slice(&self.store.0);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.after.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.after.hash.0);
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.created.0.to_le_bytes());
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    /// Decodes the header at the start of `bytes`.
    ///
    /// # Errors
    /// `Corrupt`, or `Unsupported` for a version of the future.
    pub(crate) fn decode(bytes: &[u8], path: &str) -> Result<Self> {
        let corrupt = |reason| Error::Corrupt {
            what: "the LOG segment's header",
            path: path.to_owned(),
            at: 0,
            reason,
        };
        let short = || corrupt("it is too short");
        let covered = bytes.get(..96).ok_or_else(short)?;
        let check = bytes.get(96..SEGMENT_HEADER_BYTES).ok_or_else(short)?;
        let mut fields = Cursor::new(covered);
        if fields.array().ok_or_else(short)? != SEGMENT_MAGIC {
            return Err(corrupt("the magic is wrong"));
        }
        if blake3::hash(covered).as_bytes() != check {
            return Err(corrupt("its checksum is wrong"));
        }
        let version = fields.u16().ok_or_else(short)?;
        if version != SEGMENT_VERSION {
            return Err(Error::Unsupported {
                what: "LOG version",
                path: path.to_owned(),
                found: version.to_string(),
                known: SEGMENT_VERSION.to_string(),
            });
        }
        let read = |fields: &mut Cursor<'_>| {
            let (_reserved, _len) = (fields.u16()?, fields.u32()?);
            let (store, number) = (StoreId(fields.array()?), fields.u64()?);
            let after = ChainEnd { sequence: fields.u64()?, hash: Digest(fields.array()?) };
            let (epoch, created) = (fields.u64()?, Timestamp(fields.i64()?));
            Some(Self { store, number, after, epoch, created })
        };
        read(&mut fields).ok_or_else(short)
    }
}

/// An entry as it stands in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRecord {
    pub(crate) sequence: u64,
    pub(crate) time: Timestamp,
    pub(crate) previous: Digest,
    pub(crate) check: Digest,
    pub(crate) payload: Vec<u8>,
    /// Bytes that it takes.
    pub(crate) len: usize,
}

impl LogRecord {
    /// Encodes an entry that follows `after`, and returns it with the new end of the chain.
    pub(crate) fn encode(entry: &Entry, time: Timestamp, after: ChainEnd) -> (Vec<u8>, ChainEnd) {
        let payload = entry.encode();
        let sequence = after.sequence.saturating_add(1);
        let mut bytes = Vec::with_capacity(ENTRY_HEADER_BYTES.saturating_add(payload.len()));
        bytes.extend_from_slice(&ENTRY_MAGIC);
        bytes.extend_from_slice(&ENTRY_VERSION.to_le_bytes());
        bytes.extend_from_slice(&0u16.to_le_bytes());
        bytes.extend_from_slice(&narrow32(payload.len()).to_le_bytes());
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&time.0.to_le_bytes());
        bytes.extend_from_slice(&after.hash.0);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        hasher.update(&payload);
        let hash = Digest(*hasher.finalize().as_bytes());
        bytes.extend_from_slice(&hash.0);
        bytes.extend_from_slice(&payload);
        (bytes, ChainEnd { sequence, hash })
    }

    /// Checks that an encoded entry will be read again.
    ///
    /// # Errors
    /// `Limit` where it is too long, `Decode` where something in it is out of bounds.
    pub(crate) fn check_readable(encoded: &[u8]) -> Result<()> {
        let payload = encoded.get(ENTRY_HEADER_BYTES..).unwrap_or_default();
        let (found, limit) = (wide(payload.len()), u64::from(MAX_PAYLOAD_BYTES));
        if found > limit {
            return Err(Error::Limit { what: "the length of a LOG entry", found, limit });
        }
        let decoded = Entry::decode(payload);
        decoded.map(drop).map_err(|source| Error::Decode { path: "log".to_owned(), source })
    }

    /// Verifies the entry at the start of `bytes`; `None` where there is none.
    pub(crate) fn verify(bytes: &[u8]) -> Option<Self> {
        let mut fields = Cursor::new(bytes);
        if fields.array()? != ENTRY_MAGIC || fields.u16()? != ENTRY_VERSION {
            return None;
        }
        let (_reserved, payload_len) = (fields.u16()?, fields.u32()?);
        let (sequence, time) = (fields.u64()?, Timestamp(fields.i64()?));
        let (previous, check) = (Digest(fields.array()?), Digest(fields.array()?));
        if payload_len > MAX_PAYLOAD_BYTES {
            return None;
        }
        let payload = fields.take(narrow(payload_len.into()))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(bytes.get(..CHECK_AT)?);
        hasher.update(payload);
        if Digest(*hasher.finalize().as_bytes()) != check {
            return None;
        }
        let len = ENTRY_HEADER_BYTES.checked_add(payload.len())?;
        Some(Self { sequence, time, previous, check, payload: payload.to_vec(), len })
    }
}

/// The entries of a segment, and where they end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentEntries {
    pub(crate) records: Vec<LogRecord>,
    /// Offset of the first byte that is no entry of the chain, where there is one.
    pub(crate) ends_at: Option<u64>,
    /// An entry of the chain stands behind that byte: this is damage, not a torn tail.
    pub(crate) damaged: bool,
}

impl SegmentEntries {
    /// Reads the entries of a segment whose header was decoded.
    pub(crate) fn read(bytes: &[u8], after: ChainEnd) -> Self {
        let mut found = Self::default();
        let mut end = after;
        let mut at = SEGMENT_HEADER_BYTES;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let next = LogRecord::verify(rest).filter(|record| {
                record.previous == end.hash && Some(record.sequence) == end.sequence.checked_add(1)
            });
            let Some(record) = next else {
                found.ends_at = Some(wide(at));
                found.damaged = has_entry_behind(bytes, at, end.sequence);
                return found;
            };
            end = ChainEnd { sequence: record.sequence, hash: record.check };
            at = at.saturating_add(record.len);
            found.records.push(record);
        }
        found
    }
}

/// Tells whether a sound entry with a later number stands behind `at`.
fn has_entry_behind(bytes: &[u8], at: usize, sequence: u64) -> bool {
    let mut at = at;
    while let Some(next) = find_magic(bytes, &ENTRY_MAGIC, at) {
        let record = bytes.get(next..).and_then(LogRecord::verify);
        if record.is_some_and(|record| record.sequence > sequence) {
            return true;
        }
        at = next.saturating_add(1);
    }
    false
}
