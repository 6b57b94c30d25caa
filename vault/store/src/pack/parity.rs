//! Parity of a sealed pack: an object beside it, from which damaged parts of the pack are made
//! anew.
//!
//! The pack, header and table included, is cut into data shards of one size; the last is filled up
//! with zeros. Recovery shards are made from them by Reed-Solomon codes over GF(2^16). The hash of
//! each shard tells which ones are damaged: erasures at known places, of which as many can be made
//! anew as there are sound recovery shards.

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::bytes::{Cursor, narrow, narrow32, wide};
use crate::error::{Error, Result};
use crate::ids::{PackId, StoreId};

/// The first bytes of a parity object.
pub(crate) const PARITY_MAGIC: [u8; 8] = *b"UMBRAPAR";

/// The version that this program writes.
const PARITY_VERSION: u16 = 1;

/// Bytes before the hashes.
const FIXED_BYTES: usize = 64;

/// Shards are whole sectors of a disk, so that a bad sector costs one shard of a pack.
const SECTOR_BYTES: u64 = 4096;

/// Data shards of a pack of usual length.
const DATA_SHARDS: u64 = 64;

/// Recovery shards: 3.1 % of a pack of usual length.
const RECOVERY_SHARDS: usize = 2;

/// Longest pack that has parity: no pack is longer.
const MAX_PACK_BYTES: u64 = 64 << 20;

/// Most data shards that are read; of recovery shards there may be one more than of those.
const MAX_SHARDS: u16 = 256;

const WHAT: &str = "the parity";

/// What a parity object says of its pack: everything but the recovery shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parity {
    pub(crate) store: StoreId,
    pub(crate) pack: PackId,
    /// Length of the pack in bytes.
    pub(crate) pack_len: u64,
    /// Length of each shard in bytes.
    pub(crate) shard_bytes: u32,
    /// Hash of each data shard.
    pub(crate) data: Vec<[u8; 32]>,
    /// Hash of each recovery shard.
    pub(crate) recovery: Vec<[u8; 32]>,
}

impl Parity {
    /// Makes the parity object of a pack; `None` for one that is empty or longer than any pack.
    pub(crate) fn make(store: StoreId, pack: PackId, bytes: &[u8]) -> Option<Vec<u8>> {
        let pack_len = wide(bytes.len());
        if pack_len == 0 || pack_len > MAX_PACK_BYTES {
            return None;
        }
        let shard = pack_len.div_ceil(DATA_SHARDS).next_multiple_of(SECTOR_BYTES);
        let count = narrow(pack_len.div_ceil(shard));
        let mut encoder = ReedSolomonEncoder::new(count, RECOVERY_SHARDS, narrow(shard)).ok()?;
        let mut data = Vec::with_capacity(count);
        for piece in shards_of(bytes, narrow(shard)) {
            data.push(*blake3::hash(&piece).as_bytes());
            encoder.add_original_shard(&*piece).ok()?;
        }
        let made = encoder.encode().ok()?;
        let recovery = made.recovery_iter().map(|shard| *blake3::hash(shard).as_bytes()).collect();
        let shard_bytes = narrow32(narrow(shard));
        let mut object = Self { store, pack, pack_len, shard_bytes, data, recovery }.encode();
        made.recovery_iter().for_each(|shard| object.extend_from_slice(shard));
        Some(object)
    }

    /// Encodes what stands before the recovery shards.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let len = self.header_bytes();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&PARITY_MAGIC);
        bytes.extend_from_slice(&PARITY_VERSION.to_le_bytes());
        bytes.extend_from_slice(&0u16.to_le_bytes());
        bytes.extend_from_slice(&narrow32(len).to_le_bytes());
        bytes.extend_from_slice(&self.store.0);
        bytes.extend_from_slice(&self.pack.0);
        bytes.extend_from_slice(&self.pack_len.to_le_bytes());
        bytes.extend_from_slice(&self.shard_bytes.to_le_bytes());
        for count in [self.data.len(), self.recovery.len()] {
            bytes.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
        }
        for hash in self.data.iter().chain(&self.recovery) {
            bytes.extend_from_slice(hash);
        }
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    /// Returns the length of what stands before the recovery shards.
    pub(crate) fn header_bytes(&self) -> usize {
        let hashes = self.data.len().saturating_add(self.recovery.len()).saturating_add(1);
        hashes.saturating_mul(32).saturating_add(FIXED_BYTES)
    }

    /// Decodes the start of a parity object; the recovery shards may be there or not.
    ///
    /// # Errors
    /// `Corrupt`, or `Unsupported` for a version of the future.
    pub(crate) fn decode(bytes: &[u8], path: &str) -> Result<Self> {
        let corrupt = |reason| Error::Corrupt { what: WHAT, path: path.to_owned(), at: 0, reason };
        let short = || corrupt("it is too short");
        let mut fields = Cursor::new(bytes);
        if fields.array().ok_or_else(short)? != PARITY_MAGIC {
            return Err(corrupt("the magic is wrong"));
        }
        let version = fields.u16().ok_or_else(short)?;
        if version != PARITY_VERSION {
            return Err(Error::Unsupported {
                what: "parity version",
                path: path.to_owned(),
                found: version.to_string(),
                known: PARITY_VERSION.to_string(),
            });
        }
        let (_, len) = (fields.u16().ok_or_else(short)?, fields.u32().ok_or_else(short)?);
        let end = narrow(len.into()).checked_sub(32).ok_or_else(short)?;
        let covered = bytes.get(..end).ok_or_else(short)?;
        let check = bytes.get(end..narrow(len.into())).ok_or_else(short)?;
        if blake3::hash(covered).as_bytes() != check {
            return Err(corrupt("its checksum is wrong"));
        }
        read_fields(covered).ok_or_else(|| corrupt("a field is wrong"))
    }

    /// Returns the recovery shards that are sound, by number. `object` is the whole parity object.
    pub(crate) fn sound_recovery<'a>(&self, object: &'a [u8]) -> Vec<(usize, &'a [u8])> {
        let size = narrow(self.shard_bytes.into());
        let stored = object.get(self.header_bytes()..).unwrap_or_default().chunks(size);
        let numbered = stored.zip(&self.recovery).enumerate();
        let sound = numbered.filter(|(_, (shard, hash))| {
            shard.len() == size && blake3::hash(shard).as_bytes() == *hash
        });
        sound.map(|(number, (shard, _))| (number, shard)).collect()
    }

    /// Returns the numbers of the data shards of `pack` that are not what they were.
    pub(crate) fn damaged_shards(&self, pack: &[u8]) -> Vec<usize> {
        let pack = pack.get(..narrow(self.pack_len)).unwrap_or(pack);
        let mut found = shards_of(pack, narrow(self.shard_bytes.into()));
        let numbered = self.data.iter().enumerate();
        let damaged = numbered.filter(|(_, hash)| {
            found.next().is_none_or(|shard| blake3::hash(&shard).as_bytes() != *hash)
        });
        damaged.map(|(number, _)| number).collect()
    }

    /// Makes the pack as it was from what is left of it and of the parity object; `None` where
    /// more shards are damaged than can be made anew. Each shard of the result has its hash.
    ///
    /// `pack` may be shorter or longer than the pack was; unreadable parts of it may be anything.
    pub(crate) fn reconstruct(&self, pack: &[u8], object: &[u8]) -> Option<Vec<u8>> {
        let size = narrow(self.shard_bytes.into());
        let mut whole = pack.to_vec();
        whole.resize(narrow(self.pack_len), 0);
        let damaged = self.damaged_shards(&whole);
        if damaged.is_empty() {
            return Some(whole);
        }
        let recovery = self.sound_recovery(object);
        if damaged.len() > recovery.len() {
            return None;
        }
        let (data, parity) = (self.data.len(), self.recovery.len());
        let mut decoder = ReedSolomonDecoder::new(data, parity, size).ok()?;
        for (number, shard) in shards_of(&whole, size).enumerate() {
            if damaged.binary_search(&number).is_err() {
                decoder.add_original_shard(number, &*shard).ok()?;
            }
        }
        for (number, shard) in recovery {
            decoder.add_recovery_shard(number, shard).ok()?;
        }
        let made = decoder.decode().ok()?;
        for (number, shard) in made.restored_original_iter() {
            let start = number.saturating_mul(size);
            let end = start.saturating_add(size).min(whole.len());
            let place = whole.get_mut(start..end)?;
            place.copy_from_slice(shard.get(..place.len())?);
        }
        self.damaged_shards(&whole).is_empty().then_some(whole)
    }
}

/// Cuts a pack into shards; the last is filled up with zeros.
fn shards_of(pack: &[u8], size: usize) -> impl Iterator<Item = std::borrow::Cow<'_, [u8]>> {
    pack.chunks(size.max(1)).map(move |piece| {
        if piece.len() == size {
            return piece.into();
        }
        let mut filled = piece.to_vec();
        filled.resize(size, 0);
        filled.into()
    })
}

/// Reads the fields behind a verified checksum; `None` where one is out of bounds.
fn read_fields(covered: &[u8]) -> Option<Parity> {
    let mut fields = Cursor::new(covered);
    let _magic: [u8; 8] = fields.array()?;
    let (_version, flags, _len) = (fields.u16()?, fields.u16()?, fields.u32()?);
    let (store, pack) = (StoreId(fields.array()?), PackId(fields.array()?));
    let (pack_len, shard_bytes) = (fields.u64()?, fields.u32()?);
    let (data, recovery) = (fields.u16()?, fields.u16()?);
    let in_limits = flags == 0
        && (1..=MAX_PACK_BYTES).contains(&pack_len)
        && (1..=MAX_SHARDS).contains(&data)
        && (1..=data.saturating_add(1)).contains(&recovery)
        && shard_bytes != 0
        && u64::from(shard_bytes) <= pack_len.next_multiple_of(SECTOR_BYTES)
        && shard_bytes.is_multiple_of(64)
        && pack_len.div_ceil(shard_bytes.into()) == u64::from(data);
    if !in_limits {
        return None;
    }
    let mut hashes =
        |count: u16| -> Option<Vec<[u8; 32]>> { (0..count).map(|_| fields.array()).collect() };
    let (data, recovery) = (hashes(data)?, hashes(recovery)?);
    let parity = Parity { store, pack, pack_len, shard_bytes, data, recovery };
    fields.is_empty().then_some(parity)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId([3; 16]);
    const PACK: PackId = PackId([4; 16]);

    fn pack(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"a pack").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn shapes() {
        for (len, shard, data) in [
            (1, 4096, 1),
            (4096, 4096, 1),
            (4097, 4096, 2),
            (64 * 4096, 4096, 64),
            (64 * 4096 + 1, 8192, 33),
            ((16 << 20) + 70_000, 266_240, 64),
        ] {
            let parity = Parity::decode(&Parity::make(STORE, PACK, &pack(len)).unwrap(), "p");
            let parity = parity.unwrap();
            assert_eq!((parity.shard_bytes, parity.data.len()), (shard, data), "{len}");
            assert_eq!((parity.pack_len, parity.recovery.len()), (len as u64, 2));
            assert_eq!((parity.store, parity.pack), (STORE, PACK));
        }
        assert_eq!(Parity::make(STORE, PACK, &[]), None);
        assert_eq!(Parity::make(STORE, PACK, &vec![0; (64 << 20) + 1]), None);
    }

    #[test]
    fn shards_are_made_anew_up_to_their_number() {
        for len in [100usize, 4096, 9_000, 100_000, 300_001] {
            let good = pack(len);
            let object = Parity::make(STORE, PACK, &good).unwrap();
            let parity = Parity::decode(&object, "p").unwrap();
            let size = parity.shard_bytes as usize;
            let count = parity.data.len();
            let harm = |numbers: &[usize]| {
                let mut bad = good.clone();
                numbers.iter().for_each(|n| bad[(n * size + 17).min(len - 1)] ^= 1);
                bad
            };
            assert_eq!(parity.reconstruct(&good, &object).unwrap(), good);
            for first in 0..count {
                let bad = harm(&[first]);
                assert_eq!(parity.damaged_shards(&bad), [first]);
                assert_eq!(parity.reconstruct(&bad, &object).unwrap(), good, "{len} {first}");
                let second = (first + count / 2) % count;
                if second != first {
                    let bad = harm(&[first, second]);
                    assert_eq!(parity.reconstruct(&bad, &object).unwrap(), good);
                    let third = (first + 1) % count;
                    if third != second {
                        assert_eq!(
                            parity.reconstruct(&harm(&[first, second, third]), &object),
                            None
                        );
                    }
                }
            }
            // Cut short by a shard, and longer than it was.
            let end = len - (len - 1) % size - 1;
            assert_eq!(parity.reconstruct(&good[..end], &object).unwrap(), good);
            let longer = [good.clone(), vec![7; 5_000]].concat();
            assert_eq!(parity.reconstruct(&longer, &object).unwrap(), good);
        }
    }

    #[test]
    fn a_damaged_recovery_shard_counts_as_none() {
        let good = pack(50_000);
        let mut object = Parity::make(STORE, PACK, &good).unwrap();
        let parity = Parity::decode(&object, "p").unwrap();
        let last = object.len() - 1;
        object[last] ^= 1;
        assert_eq!(parity.sound_recovery(&object).len(), 1);
        let mut bad = good.clone();
        bad[1] ^= 1;
        assert_eq!(parity.reconstruct(&bad, &object).unwrap(), good);
        bad[5_000] ^= 1;
        assert_eq!(parity.reconstruct(&bad, &object), None);
        // Cut off within the shards, and within the header.
        let cut = &object[..object.len() - 4096 - 1];
        assert!(parity.sound_recovery(cut).is_empty());
        assert!(Parity::decode(&object[..parity.header_bytes() - 1], "p").is_err());
    }

    #[test]
    fn every_flipped_bit_of_the_header_is_found() {
        let object = Parity::make(STORE, PACK, &pack(20_000)).unwrap();
        let len = Parity::decode(&object, "p").unwrap().header_bytes();
        for bit in 0..len * 8 {
            let mut bad = object.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Parity::decode(&bad, "p").is_err(), "bit {bit}");
        }
    }
}
