//! CBOR forms of the types that are not this module's own: ids, references, ranges, bitmaps.
//!
//! Lists of references travel as one byte string of 33 bytes each (kind, id): nothing is gained by
//! a CBOR head on each of 4096, and the count follows from the length.

use crate::{Kind, ObjectId, Reference};

/// Bytes of one packed reference: kind, then id.
pub(super) const REFERENCE_BYTES: usize = 33;

/// An [`ObjectId`] as a byte string of 32.
pub(super) mod object_id {
    use super::ObjectId;
    use minicbor::{Decoder, Encoder, bytes::ByteArray, decode as from, encode as to};

    pub(in super::super) fn encode<C, W: to::Write>(
        id: &ObjectId,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), to::Error<W::Error>> {
        e.bytes(&id.0)?.ok()
    }

    pub(in super::super) fn decode<'b, C>(
        d: &mut Decoder<'b>,
        _: &mut C,
    ) -> Result<ObjectId, from::Error> {
        Ok(ObjectId(d.decode::<ByteArray<32>>()?.into()))
    }
}

/// An optional [`ObjectId`]; absent fields are `None`.
pub(super) mod object_id_option {
    use super::ObjectId;
    use minicbor::{Decoder, Encoder, bytes::ByteArray, decode as from, encode as to};

    pub(in super::super) fn encode<C, W: to::Write>(
        id: &Option<ObjectId>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), to::Error<W::Error>> {
        match id {
            Some(id) => e.bytes(&id.0)?.ok(),
            None => e.null()?.ok(),
        }
    }

    pub(in super::super) fn decode<'b, C>(
        d: &mut Decoder<'b>,
        _: &mut C,
    ) -> Result<Option<ObjectId>, from::Error> {
        let bytes = d.decode::<Option<ByteArray<32>>>()?;
        Ok(bytes.map(|bytes| ObjectId(bytes.into())))
    }

    pub(in super::super) fn is_nil(id: &Option<ObjectId>) -> bool {
        id.is_none()
    }

    pub(in super::super) fn nil() -> Option<Option<ObjectId>> {
        Some(None)
    }
}

/// One [`Reference`] as a byte string of 33.
pub(super) mod reference {
    use super::{REFERENCE_BYTES, Reference, unpack};
    use minicbor::{Decoder, Encoder, decode as from, encode as to};

    pub(in super::super) fn encode<C, W: to::Write>(
        reference: &Reference,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), to::Error<W::Error>> {
        let mut packed = Vec::with_capacity(REFERENCE_BYTES);
        super::pack(reference, &mut packed);
        e.bytes(&packed)?.ok()
    }

    pub(in super::super) fn decode<'b, C>(
        d: &mut Decoder<'b>,
        _: &mut C,
    ) -> Result<Reference, from::Error> {
        unpack(d.bytes()?).ok_or_else(|| from::Error::message("not a reference"))
    }
}

/// A list of references as one byte string.
pub(super) mod references {
    use super::{REFERENCE_BYTES, Reference, unpack};
    use minicbor::{Decoder, Encoder, decode as from, encode as to};

    pub(in super::super) fn encode<C, W: to::Write>(
        references: &[Reference],
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), to::Error<W::Error>> {
        let mut packed = Vec::with_capacity(references.len().saturating_mul(REFERENCE_BYTES));
        references.iter().for_each(|reference| super::pack(reference, &mut packed));
        e.bytes(&packed)?.ok()
    }

    pub(in super::super) fn decode<'b, C>(
        d: &mut Decoder<'b>,
        _: &mut C,
    ) -> Result<Vec<Reference>, from::Error> {
        let bytes = d.bytes()?;
        if !bytes.len().is_multiple_of(REFERENCE_BYTES) {
            return Err(from::Error::message("a list of references of odd length"));
        }
        let unpacked: Option<Vec<_>> = bytes.chunks_exact(REFERENCE_BYTES).map(unpack).collect();
        unpacked.ok_or_else(|| from::Error::message("a reference of unknown kind"))
    }
}

fn pack(reference: &Reference, packed: &mut Vec<u8>) {
    packed.push(reference.kind.number());
    packed.extend_from_slice(&reference.id.0);
}

fn unpack(bytes: &[u8]) -> Option<Reference> {
    let (kind, id) = bytes.split_first()?;
    Some(Reference { kind: Kind::from_number(*kind)?, id: ObjectId(id.try_into().ok()?) })
}

/// Yes-or-no answers, one bit each, the first in the lowest bit of the first byte; unused bits are
/// zero. The count stands in the question.
pub(super) fn bitmap(answers: &[bool]) -> Vec<u8> {
    answers
        .chunks(8)
        .map(|eight| eight.iter().rev().fold(0, |byte, &yes| byte << 1 | u8::from(yes)))
        .collect()
}

/// Unpacks `count` answers; `None` where the bitmap has another length.
pub(super) fn answers(bitmap: &[u8], count: usize) -> Option<Vec<bool>> {
    if bitmap.len() != count.div_ceil(8) {
        return None;
    }
    let bits = bitmap.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    Some(bits.take(count).collect())
}
