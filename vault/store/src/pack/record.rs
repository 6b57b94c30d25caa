//! A record: one object in a pack, with its references in the clear.

use umbra_common::wire::{Codec, MAX_PLAIN_BYTES, Object};
use umbra_common::{Kind, ObjectId, Reference};

use crate::bytes::{Cursor, narrow, narrow32};
use crate::ids::{DomainId, StoreId};
use crate::index::Key;
use crate::object::{MAX_REFERENCES, MAX_STORED_BYTES};

/// The first bytes of every record; what a scan resynchronises at.
pub(crate) const RECORD_MAGIC: [u8; 8] = *b"UMBRAREC";

/// The version that this program writes.
const RECORD_VERSION: u16 = 1;

/// Length of the fixed fields in bytes.
pub(crate) const RECORD_HEADER_BYTES: usize = 120;

/// Where the check stands.
const CHECK_AT: usize = 72;

/// Where the fields after the check begin.
const CHECK_END: usize = 104;

/// Length of one reference.
const REFERENCE_BYTES: usize = 33;

/// Why bytes are not a record of this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordFault {
    /// The bytes end before the record does.
    Short,
    /// No record begins here.
    Magic,
    /// A version, kind, codec, flag or frame of the future.
    Unknown(&'static str),
    /// A length passes its limit.
    Limit,
    /// It belongs to another store.
    Foreign,
    /// The check does not fit.
    Check,
}

impl RecordFault {
    /// Says it in words.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Short => "the bytes end before the record does",
            Self::Magic => "no record begins here",
            Self::Unknown(field) => field,
            Self::Limit => "a length passes its limit",
            Self::Foreign => "the record belongs to another store",
            Self::Check => "the record's check is wrong",
        }
    }
}

/// The fixed fields of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) codec: Codec,
    pub(crate) cipher: u8,
    pub(crate) domain: DomainId,
    pub(crate) key_epoch: u32,
    pub(crate) store: StoreId,
    pub(crate) id: ObjectId,
    pub(crate) check: [u8; 32],
    pub(crate) plain_len: u32,
    pub(crate) stored_len: u32,
    pub(crate) refs: u32,
}

impl RecordHeader {
    /// Decodes the fixed fields; the check is not looked at.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordFault> {
        let mut fields = Cursor::new(bytes);
        Self::read(&mut fields).ok_or(RecordFault::Short)?
    }

    fn read(fields: &mut Cursor<'_>) -> Option<Result<Self, RecordFault>> {
        if fields.array()? != RECORD_MAGIC {
            return Some(Err(RecordFault::Magic));
        }
        if fields.u16()? != RECORD_VERSION {
            return Some(Err(RecordFault::Unknown("the record's version is unknown")));
        }
        let (kind, codec) = (Kind::from_number(fields.u8()?), fields.u8()?);
        let codec = Codec::from_number(codec);
        let cipher = fields.u8()?;
        let (flags, members) = (fields.u8()?, fields.u16()?);
        let (domain, key_epoch) = (DomainId(fields.u32()?), fields.u32()?);
        let (store, id) = (StoreId(fields.array()?), ObjectId(fields.array()?));
        let check = fields.array()?;
        let (plain_len, stored_len) = (fields.u32()?, fields.u32()?);
        let (refs, reserved) = (fields.u32()?, fields.u32()?);
        let Some(kind) = kind else {
            return Some(Err(RecordFault::Unknown("the record's kind is unknown")));
        };
        let Some(codec) = codec else {
            return Some(Err(RecordFault::Unknown("the record's codec is unknown")));
        };
        if flags != 0 || members != 1 || reserved != 0 {
            return Some(Err(RecordFault::Unknown("the record's flags are unknown")));
        }
        let in_limits = plain_len <= MAX_PLAIN_BYTES
            && stored_len <= MAX_STORED_BYTES
            && refs <= MAX_REFERENCES
            && (kind.is_node() || refs == 0);
        if !in_limits {
            return Some(Err(RecordFault::Limit));
        }
        Some(Ok(Self {
            kind,
            codec,
            cipher,
            domain,
            key_epoch,
            store,
            id,
            check,
            plain_len,
            stored_len,
            refs,
        }))
    }

    /// Returns the length of the whole record in bytes; the limits keep it below 4 MiB.
    pub(crate) fn record_len(&self) -> u32 {
        record_len(self.refs, self.stored_len)
    }

    /// Returns what the index finds it by.
    pub(crate) fn key(&self) -> Key {
        Key { domain: self.domain, id: self.id }
    }

    /// Returns kind and id.
    pub(crate) fn reference(&self) -> Reference {
        Reference { kind: self.kind, id: self.id }
    }
}

/// Returns the length of a record with so many references and so long a stored body.
pub(crate) fn record_len(refs: u32, stored_len: u32) -> u32 {
    let listed = refs.saturating_mul(narrow32(REFERENCE_BYTES));
    narrow32(RECORD_HEADER_BYTES).saturating_add(listed).saturating_add(stored_len)
}

/// A record whose check was verified.
#[derive(Clone, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) header: RecordHeader,
    pub(crate) refs: Vec<Reference>,
    /// The stored body, still under its cipher.
    pub(crate) body: &'a [u8],
}

impl<'a> Record<'a> {
    /// Verifies the record at the start of `bytes`.
    pub(crate) fn verify(bytes: &'a [u8], store: StoreId) -> Result<Self, RecordFault> {
        let header = RecordHeader::decode(bytes)?;
        if header.store != store {
            return Err(RecordFault::Foreign);
        }
        let len = narrow(header.record_len().into());
        let record = bytes.get(..len).ok_or(RecordFault::Short)?;
        if check_of(record) != Some(header.check) {
            return Err(RecordFault::Check);
        }
        let mut fields = Cursor::new(record.get(RECORD_HEADER_BYTES..).unwrap_or_default());
        let mut refs = Vec::with_capacity(narrow(header.refs.into()));
        for _ in 0..header.refs {
            let kind = fields.u8().ok_or(RecordFault::Short)?;
            let id = ObjectId(fields.array().ok_or(RecordFault::Short)?);
            let kind = Kind::from_number(kind)
                .ok_or(RecordFault::Unknown("a reference's kind is unknown"))?;
            refs.push(Reference { kind, id });
        }
        let body = fields.take(narrow(header.stored_len.into())).ok_or(RecordFault::Short)?;
        Ok(Self { header, refs, body })
    }
}

/// BLAKE3 of a whole record, its check left out; `None` where it is too short to be one.
fn check_of(record: &[u8]) -> Option<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(record.get(..CHECK_AT)?);
    hasher.update(record.get(CHECK_END..)?);
    Some(*hasher.finalize().as_bytes())
}

/// What a record is made from: an object whose body has its cipher on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordDraft<'a> {
    pub(crate) store: StoreId,
    pub(crate) domain: DomainId,
    pub(crate) cipher: u8,
    pub(crate) key_epoch: u32,
    /// Whose `body` is ignored.
    pub(crate) object: &'a Object,
    pub(crate) stored_body: &'a [u8],
}

impl RecordDraft<'_> {
    /// Encodes it. The object's limits were checked when its id was proven.
    pub(crate) fn encode(&self) -> (RecordHeader, Vec<u8>) {
        let object = self.object;
        let mut header = RecordHeader {
            kind: object.reference.kind,
            codec: object.codec,
            cipher: self.cipher,
            domain: self.domain,
            key_epoch: self.key_epoch,
            store: self.store,
            id: object.reference.id,
            check: [0; 32],
            plain_len: object.plain_len,
            stored_len: narrow32(self.stored_body.len()),
            refs: narrow32(object.refs.len()),
        };
        let mut bytes = Vec::with_capacity(narrow(header.record_len().into()));
        bytes.extend_from_slice(&RECORD_MAGIC);
        bytes.extend_from_slice(&RECORD_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[header.kind.number(), header.codec.number(), header.cipher, 0]);
        bytes.extend_from_slice(&1u16.to_le_bytes()); // members of the frame
        bytes.extend_from_slice(&header.domain.0.to_le_bytes());
        bytes.extend_from_slice(&header.key_epoch.to_le_bytes());
        bytes.extend_from_slice(&header.store.0);
        bytes.extend_from_slice(&header.id.0);
        bytes.extend_from_slice(&header.check);
        bytes.extend_from_slice(&header.plain_len.to_le_bytes());
        bytes.extend_from_slice(&header.stored_len.to_le_bytes());
        bytes.extend_from_slice(&header.refs.to_le_bytes());
        bytes.extend_from_slice(&0u32.to_le_bytes());
        for reference in &object.refs {
            bytes.push(reference.kind.number());
            bytes.extend_from_slice(&reference.id.0);
        }
        bytes.extend_from_slice(self.stored_body);
        if let Some(check) = check_of(&bytes) {
            header.check = check;
            if let Some(place) = bytes.get_mut(CHECK_AT..CHECK_END) {
                place.copy_from_slice(&check);
            }
        }
        (header, bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use umbra_common::wire::object::id_of;

    pub(crate) const STORE: StoreId = StoreId([7; 16]);

    pub(crate) fn object(kind: Kind, refs: &[Reference], body: &[u8]) -> Object {
        Object {
            reference: Reference { kind, id: id_of(kind, refs, body) },
            refs: refs.to_vec(),
            codec: Codec::None,
            plain_len: u32::try_from(body.len()).unwrap(),
            body: body.to_vec(),
        }
    }

    pub(crate) fn encode(object: &Object, store: StoreId) -> Vec<u8> {
        let draft = RecordDraft {
            store,
            domain: DomainId(0),
            cipher: 0,
            key_epoch: 0,
            object,
            stored_body: &object.body,
        };
        draft.encode().1
    }

    #[test]
    fn round_trip() {
        let chunk = object(Kind::Chunk, &[], b"some bytes");
        let page = object(Kind::MapPage, &[chunk.reference], b"a body");
        for object in [&chunk, &page] {
            let bytes = encode(object, STORE);
            let record = Record::verify(&bytes, STORE).unwrap();
            assert_eq!(record.header.reference(), object.reference);
            assert_eq!(record.refs, object.refs);
            assert_eq!(record.body, object.body);
            assert_eq!(record.header.record_len() as usize, bytes.len());
            assert_eq!(Record::verify(&bytes, StoreId([8; 16])).unwrap_err(), RecordFault::Foreign);
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let chunk = object(Kind::Chunk, &[], b"some bytes");
        let good = encode(&object(Kind::MapPage, &[chunk.reference], b"a body"), STORE);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::verify(&bad, STORE).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Record::verify(&good[..len], STORE).is_err(), "length {len}");
        }
    }

    #[test]
    fn lengths_beyond_their_limits_are_refused_before_anything_is_read() {
        let mut bytes = encode(&object(Kind::Chunk, &[], b"x"), STORE);
        bytes[108..112].copy_from_slice(&(MAX_STORED_BYTES + 1).to_le_bytes());
        assert_eq!(RecordHeader::decode(&bytes).unwrap_err(), RecordFault::Limit);
        bytes[108..112].copy_from_slice(&1u32.to_le_bytes());
        bytes[112..116].copy_from_slice(&1u32.to_le_bytes());
        assert_eq!(RecordHeader::decode(&bytes).unwrap_err(), RecordFault::Limit);
    }
}
