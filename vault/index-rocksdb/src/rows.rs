//! The rows: `o` domain id -> location, `p` pack -> its row, `f` -> format, `l` -> log mark.
//!
//! Domain numbers in keys are big-endian, so that rows are in the order of [`Key`]; all other
//! numbers are little-endian. The rows are no format of the store: another version is rebuilt.

use umbra_common::{Kind, ObjectId};
use umbra_store::{
    DomainId, Error, IndexFormat, Key, Location, PackId, PackRow, PackState, StoreId,
};

pub(crate) const OBJECT_PREFIX: u8 = b'o';
pub(crate) const PACK_PREFIX: u8 = b'p';
pub(crate) const FORMAT_KEY: [u8; 1] = *b"f";
pub(crate) const LOG_MARK_KEY: [u8; 1] = *b"l";

/// The error for a row that is none of ours.
pub(crate) fn damaged() -> Error {
    Error::Corrupt {
        what: "the index",
        path: "index".to_owned(),
        at: 0,
        reason: "a row has the wrong form",
    }
}

/// Takes the next `N` bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// Ends decoding: nothing may be left.
fn all<T>(rest: &[u8], value: T) -> Option<T> {
    rest.is_empty().then_some(value)
}

pub(crate) fn object_key(key: &Key) -> Vec<u8> {
    [&[OBJECT_PREFIX], key.domain.0.to_be_bytes().as_slice(), &key.id.0].concat()
}

pub(crate) fn decode_object_key(bytes: &[u8]) -> Option<Key> {
    let mut rest = bytes;
    let _prefix: [u8; 1] = take(&mut rest)?;
    let domain = DomainId(u32::from_be_bytes(take(&mut rest)?));
    let id = ObjectId(take(&mut rest)?);
    all(rest, Key { domain, id })
}

pub(crate) fn encode_location(location: &Location) -> Vec<u8> {
    [
        location.pack.0.as_slice(),
        &location.offset.to_le_bytes(),
        &location.record_len.to_le_bytes(),
        &location.plain_len.to_le_bytes(),
        &[location.kind.number(), u8::from(location.incomplete)],
    ]
    .concat()
}

pub(crate) fn decode_location(bytes: &[u8]) -> Option<Location> {
    let mut rest = bytes;
    let pack = PackId(take(&mut rest)?);
    let offset = u64::from_le_bytes(take(&mut rest)?);
    let record_len = u32::from_le_bytes(take(&mut rest)?);
    let plain_len = u32::from_le_bytes(take(&mut rest)?);
    let [kind, flags] = take(&mut rest)?;
    let kind = Kind::from_number(kind)?;
    let incomplete = match flags {
        0 => false,
        1 => true,
        _ => return None,
    };
    all(rest, Location { pack, offset, record_len, plain_len, kind, incomplete })
}

pub(crate) fn pack_key(pack: PackId) -> Vec<u8> {
    [&[PACK_PREFIX], pack.0.as_slice()].concat()
}

pub(crate) fn decode_pack_key(bytes: &[u8]) -> Option<PackId> {
    let mut rest = bytes;
    let _prefix: [u8; 1] = take(&mut rest)?;
    let pack = PackId(take(&mut rest)?);
    all(rest, pack)
}

pub(crate) fn encode_pack(row: PackRow) -> Vec<u8> {
    let state: u8 = match row.state {
        PackState::Open => 0,
        PackState::Sealed => 1,
    };
    [&[state], row.watermark.to_le_bytes().as_slice(), &row.records.to_le_bytes()].concat()
}

pub(crate) fn decode_pack(bytes: &[u8]) -> Option<PackRow> {
    let mut rest = bytes;
    let state = match take(&mut rest)? {
        [0] => PackState::Open,
        [1] => PackState::Sealed,
        _ => return None,
    };
    let watermark = u64::from_le_bytes(take(&mut rest)?);
    let records = u32::from_le_bytes(take(&mut rest)?);
    all(rest, PackRow { state, watermark, records })
}

pub(crate) fn encode_format(format: IndexFormat) -> Vec<u8> {
    let (version, generation) = (format.version.to_le_bytes(), format.gc_generation.to_le_bytes());
    [version.as_slice(), &format.store.0, &generation].concat()
}

pub(crate) fn decode_format(bytes: &[u8]) -> Option<IndexFormat> {
    let mut rest = bytes;
    let version = u32::from_le_bytes(take(&mut rest)?);
    let store = StoreId(take(&mut rest)?);
    let gc_generation = u64::from_le_bytes(take(&mut rest)?);
    all(rest, IndexFormat { version, store, gc_generation })
}
