//! The first 128 bytes of a pack.

use crate::bytes::Cursor;
use crate::error::{Error, Result};
use crate::ids::{PackId, StoreId};

/// The first bytes of every pack.
const PACK_MAGIC: [u8; 8] = *b"UMBRPACK";

/// The version that this program writes.
const PACK_VERSION: u16 = 1;

/// Length of the header in bytes.
pub(crate) const PACK_HEADER_BYTES: usize = 128;

/// What a pack holds: nodes go to packs of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PackKind {
    Data = 0,
    Nodes = 1,
}

/// What a pack says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackHeader {
    pub(crate) kind: PackKind,
    pub(crate) store: StoreId,
    pub(crate) pack: PackId,
    pub(crate) gc_generation: u64,
    /// Lock epoch of the process that wrote it.
    pub(crate) epoch: u64,
    /// Counts the packs of that process: packs of one lane in the order of (epoch, number).
    pub(crate) number: u64,
}

impl PackHeader {
    /// Encodes it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PACK_HEADER_BYTES);
        bytes.extend_from_slice(&PACK_MAGIC);
        bytes.extend_from_slice(&PACK_VERSION.to_le_bytes());
        bytes.push(self.kind as u8);
        bytes.push(0); // parity scheme: none
        bytes.extend_from_slice(&128u32.to_le_bytes());
        bytes.extend_from_slice(&self.store.0);
        bytes.extend_from_slice(&self.pack.0);
        bytes.extend_from_slice(&self.gc_generation.to_le_bytes());
        bytes.extend_from_slice(&[0; 16]); // parity group: none
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    /// Decodes the header at the start of `bytes`.
    ///
    /// # Errors
    /// `Corrupt`, or `Unsupported` for a version, kind or parity scheme of the future.
    pub(crate) fn decode(bytes: &[u8], path: &str) -> Result<Self> {
        let corrupt = |reason| Error::Corrupt {
            what: "the pack header",
            path: path.to_owned(),
            at: 0,
            reason,
        };
        let short = || corrupt("it is too short");
        let unsupported = |what, found: u64, known: &str| Error::Unsupported {
            what,
            path: path.to_owned(),
            found: found.to_string(),
            known: known.to_owned(),
        };
        let mut fields = Cursor::new(bytes);
        if fields.array().ok_or_else(short)? != PACK_MAGIC {
            return Err(corrupt("the magic is wrong"));
        }
        let version = fields.u16().ok_or_else(short)?;
        if version != PACK_VERSION {
            return Err(unsupported("pack version", version.into(), "1"));
        }
        let covered = bytes.get(..96).ok_or_else(short)?;
        let check = bytes.get(96..128).ok_or_else(short)?;
        if blake3::hash(covered).as_bytes() != check {
            return Err(corrupt("its checksum is wrong"));
        }
        let kind = match fields.u8().ok_or_else(short)? {
            0 => PackKind::Data,
            1 => PackKind::Nodes,
            other => return Err(unsupported("pack kind", other.into(), "1")),
        };
        let parity = fields.u8().ok_or_else(short)?;
        if parity != 0 {
            return Err(unsupported("parity scheme", parity.into(), "0"));
        }
        let _header_len = fields.u32().ok_or_else(short)?;
        let store = StoreId(fields.array().ok_or_else(short)?);
        let pack = PackId(fields.array().ok_or_else(short)?);
        let gc_generation = fields.u64().ok_or_else(short)?;
        let _parity_group: [u8; 16] = fields.array().ok_or_else(short)?;
        let epoch = fields.u64().ok_or_else(short)?;
        let number = fields.u64().ok_or_else(short)?;
        Ok(Self { kind, store, pack, gc_generation, epoch, number })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn header() -> PackHeader {
        PackHeader {
            kind: PackKind::Nodes,
            store: StoreId([1; 16]),
            pack: PackId([2; 16]),
            gc_generation: 3,
            epoch: 4,
            number: 5,
        }
    }

    #[test]
    fn round_trip() {
        let bytes = header().encode();
        assert_eq!(bytes.len(), PACK_HEADER_BYTES);
        assert_eq!(PackHeader::decode(&bytes, "p").unwrap(), header());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = header().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(PackHeader::decode(&bad, "p").is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(PackHeader::decode(&good[..len], "p").is_err(), "length {len}");
        }
    }
}
