//! The table of contents: the footer of a sealed pack, or an object beside it.

use umbra_common::wire::MAX_PLAIN_BYTES;
use umbra_common::{Kind, ObjectId, Reference};

use super::header::PACK_HEADER_BYTES;
use super::record::{RecordHeader, record_len};
use crate::bytes::{Cursor, narrow, narrow32, wide};
use crate::error::{Error, Result};
use crate::ids::{DomainId, PackId, StoreId};
use crate::index::{Key, Location};
use crate::object::{MAX_REFERENCES, MAX_STORED_BYTES};

/// The first bytes of a table of contents.
pub(crate) const FOOTER_MAGIC: [u8; 8] = *b"UMBRAFTR";

/// Its last bytes.
const END_MAGIC: [u8; 8] = *b"UMBRAEND";

/// The version that this program writes.
const FOOTER_VERSION: u16 = 1;

/// Length (u64), checksum, end magic.
pub(crate) const TRAILER_BYTES: usize = 48;

/// Longest table that is read.
pub(crate) const MAX_FOOTER_BYTES: u64 = 40 << 20;

const WHAT: &str = "the table of contents";

/// One object of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) kind: Kind,
    pub(crate) codec: u8,
    pub(crate) cipher: u8,
    pub(crate) domain: DomainId,
    pub(crate) id: ObjectId,
    pub(crate) plain_len: u32,
    pub(crate) stored_len: u32,
    /// What a node refers to.
    pub(crate) refs: Vec<Reference>,
}

impl Entry {
    /// Makes the entry of a record.
    pub(crate) fn new(offset: u64, header: &RecordHeader, refs: Vec<Reference>) -> Self {
        Self {
            offset,
            kind: header.kind,
            codec: header.codec.number(),
            cipher: header.cipher,
            domain: header.domain,
            id: header.id,
            plain_len: header.plain_len,
            stored_len: header.stored_len,
            refs,
        }
    }

    /// Returns the length of the record in bytes.
    pub(crate) fn record_len(&self) -> u32 {
        record_len(narrow32(self.refs.len()), self.stored_len)
    }

    /// Returns the offset of the first byte after the record.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.record_len().into())
    }

    /// Returns the row that the index has for it.
    pub(crate) fn row(&self, pack: PackId) -> (Key, Location) {
        let key = Key { domain: self.domain, id: self.id };
        let location = Location {
            pack,
            offset: self.offset,
            record_len: self.record_len(),
            plain_len: self.plain_len,
            kind: self.kind,
            incomplete: false,
        };
        (key, location)
    }
}

/// What stands in a pack, as far as the store ever accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) store: StoreId,
    pub(crate) pack: PackId,
    /// The bytes from the pack's start that the table speaks of; what lies beyond is void.
    pub(crate) covers: u64,
    /// In the order of their offsets.
    pub(crate) entries: Vec<Entry>,
}

impl Contents {
    /// Encodes the table.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.entries.len().saturating_mul(60));
        bytes.extend_from_slice(&FOOTER_MAGIC);
        bytes.extend_from_slice(&FOOTER_VERSION.to_le_bytes());
        bytes.extend_from_slice(&0u16.to_le_bytes());
        bytes.extend_from_slice(&narrow32(self.entries.len()).to_le_bytes());
        bytes.extend_from_slice(&self.store.0);
        bytes.extend_from_slice(&self.pack.0);
        bytes.extend_from_slice(&self.covers.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.offset.to_le_bytes());
            bytes.extend_from_slice(&entry.id.0);
            bytes.extend_from_slice(&[entry.kind.number(), entry.codec, entry.cipher, 0]);
            bytes.extend_from_slice(&entry.domain.0.to_le_bytes());
            bytes.extend_from_slice(&entry.plain_len.to_le_bytes());
            bytes.extend_from_slice(&entry.stored_len.to_le_bytes());
            bytes.extend_from_slice(&narrow32(entry.refs.len()).to_le_bytes());
            for reference in &entry.refs {
                bytes.push(reference.kind.number());
                bytes.extend_from_slice(&reference.id.0);
            }
        }
        let len = wide(bytes.len()).saturating_add(wide(TRAILER_BYTES));
        bytes.extend_from_slice(&len.to_le_bytes());
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes.extend_from_slice(&END_MAGIC);
        bytes
    }

    /// Reads from the last [`TRAILER_BYTES`] of a file how long the table before its end is, the
    /// trailer included; `None` where no table ends there.
    pub(crate) fn len_from_trailer(trailer: &[u8]) -> Option<u64> {
        let mut fields = Cursor::new(trailer);
        let len = fields.u64()?;
        let _check: [u8; 32] = fields.array()?;
        let sound = fields.array()? == END_MAGIC && fields.is_empty();
        (sound && len <= MAX_FOOTER_BYTES && len >= wide(TRAILER_BYTES)).then_some(len)
    }

    /// Decodes a whole table; `path` names the file for errors.
    ///
    /// # Errors
    /// `Corrupt`, or `Unsupported` for a version of the future.
    pub(crate) fn decode(bytes: &[u8], path: &str) -> Result<Self> {
        let corrupt = |reason| Error::Corrupt { what: WHAT, path: path.to_owned(), at: 0, reason };
        let short = || corrupt("it is too short");
        let mut fields = Cursor::new(bytes);
        if fields.array().ok_or_else(short)? != FOOTER_MAGIC {
            return Err(corrupt("the magic is wrong"));
        }
        let version = fields.u16().ok_or_else(short)?;
        if version != FOOTER_VERSION {
            return Err(Error::Unsupported {
                what: "pack footer version",
                path: path.to_owned(),
                found: version.to_string(),
                known: FOOTER_VERSION.to_string(),
            });
        }
        let end = bytes.len().checked_sub(TRAILER_BYTES).ok_or_else(short)?;
        let (body, trailer) = bytes.split_at_checked(end).ok_or_else(short)?;
        let mut ending = Cursor::new(trailer);
        let len = ending.u64().ok_or_else(short)?;
        let check: [u8; 32] = ending.array().ok_or_else(short)?;
        let hashed = bytes.get(..end.saturating_add(8)).ok_or_else(short)?;
        let sound = *blake3::hash(hashed).as_bytes() == check && len == wide(bytes.len());
        if !sound || ending.array() != Some(END_MAGIC) {
            return Err(corrupt("its checksum is wrong"));
        }
        let mut fields = Cursor::new(body);
        let contents = read_table(&mut fields).ok_or_else(|| corrupt("a field is wrong"))?;
        if !fields.is_empty() {
            return Err(corrupt("bytes follow the last entry"));
        }
        contents.check_order().map_err(corrupt)?;
        Ok(contents)
    }

    /// Checks that the records lie in order, apart, and inside what the table covers.
    fn check_order(&self) -> Result<(), &'static str> {
        let mut end = wide(PACK_HEADER_BYTES);
        for entry in &self.entries {
            if entry.offset < end {
                return Err("two entries overlap");
            }
            end = entry.end();
        }
        if end > self.covers && !self.entries.is_empty() {
            return Err("an entry lies beyond what the table covers");
        }
        Ok(())
    }
}

/// Reads the table behind a verified checksum; `None` where a field is out of bounds.
fn read_table(fields: &mut Cursor<'_>) -> Option<Contents> {
    let _magic: [u8; 8] = fields.array()?;
    let (_version, flags) = (fields.u16()?, fields.u16()?);
    let count = fields.u32()?;
    let (store, pack) = (StoreId(fields.array()?), PackId(fields.array()?));
    let covers = fields.u64()?;
    let reserved = fields.u64()?;
    if flags != 0 || reserved != 0 {
        return None;
    }
    let mut entries = Vec::new();
    for _ in 0..count {
        let offset = fields.u64()?;
        let id = ObjectId(fields.array()?);
        let kind = Kind::from_number(fields.u8()?)?;
        let (codec, cipher, flags) = (fields.u8()?, fields.u8()?, fields.u8()?);
        let domain = DomainId(fields.u32()?);
        let (plain_len, stored_len, refs) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let in_limits = plain_len <= MAX_PLAIN_BYTES
            && stored_len <= MAX_STORED_BYTES
            && refs <= MAX_REFERENCES
            && (kind.is_node() || refs == 0)
            && flags == 0;
        if !in_limits {
            return None;
        }
        let mut list = Vec::with_capacity(narrow(refs.into()));
        for _ in 0..refs {
            let kind = Kind::from_number(fields.u8()?)?;
            list.push(Reference { kind, id: ObjectId(fields.array()?) });
        }
        let refs = list;
        entries.push(Entry {
            offset,
            kind,
            codec,
            cipher,
            domain,
            id,
            plain_len,
            stored_len,
            refs,
        });
    }
    Some(Contents { store, pack, covers, entries })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        let chunk = Reference { kind: Kind::Chunk, id: ObjectId([1; 32]) };
        let entry = Entry {
            offset: 128,
            kind: Kind::Chunk,
            codec: 1,
            cipher: 0,
            domain: DomainId(0),
            id: chunk.id,
            plain_len: 100,
            stored_len: 50,
            refs: Vec::new(),
        };
        let node = Entry {
            offset: entry.end(),
            kind: Kind::MapPage,
            id: ObjectId([2; 32]),
            refs: vec![chunk],
            ..entry.clone()
        };
        let covers = node.end();
        Contents {
            store: StoreId([3; 16]),
            pack: PackId([4; 16]),
            covers,
            entries: vec![entry, node],
        }
    }

    #[test]
    fn round_trip() {
        let bytes = contents().encode();
        let trailer = &bytes[bytes.len() - TRAILER_BYTES..];
        assert_eq!(Contents::len_from_trailer(trailer), Some(bytes.len() as u64));
        assert_eq!(Contents::decode(&bytes, "p").unwrap(), contents());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = contents().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Contents::decode(&bad, "p").is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Contents::decode(&good[..len], "p").is_err(), "length {len}");
        }
    }

    #[test]
    fn overlapping_entries_are_refused() {
        let mut bad = contents();
        bad.entries[1].offset -= 1;
        assert!(Contents::decode(&bad.encode(), "p").is_err());
        let mut bad = contents();
        bad.covers -= 1;
        assert!(Contents::decode(&bad.encode(), "p").is_err());
    }
}
