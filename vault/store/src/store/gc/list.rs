//! The list of a sweep: which packs go, and which of their records are copied first.
//!
//! Layout: `docs/formats/store.md`.

use std::collections::BTreeMap;

use crate::bytes::{Cursor, narrow, narrow32, wide};
use crate::error::{Error, Result};
use crate::ids::{Digest, PackId, StoreId};
use crate::log::LogState;
use crate::store::contents::range;
use crate::store::inner::Inner;

const LIST_MAGIC: [u8; 8] = *b"UMBRAGCL";
const LIST_VERSION: u16 = 1;

/// Bytes of a list that are read at once.
const READ_BYTES: u64 = 32 << 20;

/// Bits of a pack's records, by their place in its table of contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    len: usize,
    bytes: Vec<u8>,
}

impl Bits {
    pub(crate) fn new(len: usize) -> Self {
        Self { len, bytes: vec![0; len.div_ceil(8)] }
    }

    pub(crate) fn set(&mut self, number: usize) {
        if let Some(byte) = self.bytes.get_mut(number / 8) {
            *byte |= 1 << (number % 8);
        }
    }

    pub(crate) fn has(&self, number: usize) -> bool {
        self.bytes.get(number / 8).is_some_and(|byte| byte >> (number % 8) & 1 == 1)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Packs that are deleted, each with the records that a root reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SweepList {
    pub(crate) generation: u64,
    pub(crate) packs: BTreeMap<PackId, Bits>,
}

/// Returns the name of the list of a generation.
pub(crate) fn list_name(generation: u64) -> String {
    format!("gc/{generation:016}")
}

/// Reads the generation from the name of a list.
pub(crate) fn generation_of(name: &str) -> Option<u64> {
    let generation = name.strip_prefix("gc/")?.parse().ok()?;
    (list_name(generation) == name).then_some(generation)
}

impl SweepList {
    /// Encodes it.
    pub(crate) fn encode(&self, store: StoreId) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&LIST_MAGIC);
        bytes.extend_from_slice(&LIST_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(&store.0);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&wide(self.packs.len()).to_le_bytes());
        for (pack, live) in &self.packs {
            bytes.extend_from_slice(&pack.0);
            bytes.extend_from_slice(&narrow32(live.len).to_le_bytes());
            bytes.extend_from_slice(&live.bytes);
        }
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    /// Decodes it.
    ///
    /// # Errors
    /// `Corrupt`, or `Unsupported` for a version of the future.
    pub(crate) fn decode(bytes: &[u8], store: StoreId, path: &str) -> Result<Self> {
        let what = "the list of a sweep";
        let corrupt = |reason| Error::Corrupt { what, path: path.to_owned(), at: 0, reason };
        let short = || corrupt("it is too short");
        let end = bytes.len().checked_sub(32).ok_or_else(short)?;
        let (body, check) = bytes.split_at_checked(end).ok_or_else(short)?;
        if blake3::hash(body).as_bytes().as_slice() != check {
            return Err(corrupt("its checksum is wrong"));
        }
        let mut fields = Cursor::new(body);
        if fields.array().ok_or_else(short)? != LIST_MAGIC {
            return Err(corrupt("the magic is wrong"));
        }
        let version = fields.u16().ok_or_else(short)?;
        if version != LIST_VERSION {
            return Err(Error::Unsupported {
                what,
                path: path.to_owned(),
                found: version.to_string(),
                known: LIST_VERSION.to_string(),
            });
        }
        let _reserved: [u8; 6] = fields.array().ok_or_else(short)?;
        if StoreId(fields.array().ok_or_else(short)?) != store {
            return Err(corrupt("it belongs to another store"));
        }
        let generation = fields.u64().ok_or_else(short)?;
        let count = fields.u64().ok_or_else(short)?;
        let mut packs = BTreeMap::new();
        for _ in 0..count {
            let pack = PackId(fields.array().ok_or_else(short)?);
            let len = narrow(u64::from(fields.u32().ok_or_else(short)?));
            let bytes = fields.take(len.div_ceil(8)).ok_or_else(short)?.to_vec();
            packs.insert(pack, Bits { len, bytes });
        }
        if !fields.is_empty() || wide(packs.len()) != count {
            return Err(corrupt("its length is not what it says"));
        }
        Ok(Self { generation, packs })
    }

    /// Returns the hash that the LOG names it by.
    pub(crate) fn digest(&self, store: StoreId) -> Digest {
        Digest(*blake3::hash(&self.encode(store)).as_bytes())
    }
}

impl Inner {
    /// Reads the list of the sweep that the LOG says has begun; `None` where none has.
    ///
    /// # Errors
    /// `Corrupt` where the list is not the one that the LOG names; what the storage says.
    pub(crate) fn read_sweep_list(&self, log: &LogState) -> Result<Option<SweepList>> {
        let generation = log.gc_generation;
        let Some(digest) = log.sweep else { return Ok(None) };
        let name = list_name(generation);
        let corrupt = |reason| Error::Corrupt {
            what: "the list of a sweep",
            path: name.clone(),
            at: 0,
            reason,
        };
        let Some(info) = self.objects.head(&name)? else { return Err(corrupt("it is gone")) };
        let mut bytes = Vec::new();
        let mut at = 0u64;
        while at < info.len {
            let len = info.len.saturating_sub(at).min(READ_BYTES);
            let found = self.objects.get_ranges(&name, &[range(at, len)?])?;
            bytes.extend(found.into_iter().flatten());
            at = at.saturating_add(len);
        }
        let list = SweepList::decode(&bytes, self.store, &name)?;
        if list.generation != generation || list.digest(self.store) != digest {
            return Err(corrupt("it is not the one that the LOG names"));
        }
        Ok(Some(list))
    }
}

/// Decodes a list and encodes it again, for the fuzz target.
pub(crate) fn encoded_again(bytes: &[u8], store: StoreId) -> Option<Vec<u8>> {
    SweepList::decode(bytes, store, "gc").ok().map(|list| list.encode(store))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn list() -> SweepList {
        let mut live = Bits::new(19);
        [0, 7, 8, 18].into_iter().for_each(|number| live.set(number));
        let packs = [(PackId([1; 16]), live), (PackId([2; 16]), Bits::new(0))].into();
        SweepList { generation: 3, packs }
    }

    #[test]
    fn round_trip_and_flips() {
        let store = StoreId([5; 16]);
        let good = list().encode(store);
        let decoded = SweepList::decode(&good, store, "gc").unwrap();
        assert_eq!(decoded, list());
        let live = &decoded.packs[&PackId([1; 16])];
        let set: Vec<usize> = (0..32).filter(|number| live.has(*number)).collect();
        assert_eq!(set, [0, 7, 8, 18]);
        assert_eq!(encoded_again(&good, store), Some(good.clone()));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SweepList::decode(&bad, store, "gc").is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(SweepList::decode(&good[..len], store, "gc").is_err(), "length {len}");
        }
        assert!(SweepList::decode(&good, StoreId([6; 16]), "gc").is_err());
    }

    #[test]
    fn names() {
        assert_eq!(list_name(7), "gc/0000000000000007");
        assert_eq!(generation_of("gc/0000000000000007"), Some(7));
        assert_eq!(generation_of("gc/7"), None);
    }
}
