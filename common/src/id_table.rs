//! The agent's table of ids that a snapshot refers to, as it stands in a file: a cache, kept by
//! one machine for itself and made anew whenever it cannot be read.
//!
//! Layout: magic `UMBRAIDS` (8), version (u16), store (16), snapshot (32), BLAKE3 of the 58 bytes
//! before and of the ids behind it (32), then the ids, 32 bytes each, ascending.

use crate::ObjectId;

const MAGIC: &[u8; 8] = b"UMBRAIDS";
const VERSION: u16 = 1;
/// What stands before the check.
const FACTS_BYTES: usize = 8 + 2 + 16 + 32;
/// Everything before the ids, in bytes.
pub const HEADER_BYTES: usize = FACTS_BYTES + 32;
/// One id.
const ID_BYTES: usize = 32;

/// A table whose bytes are what somebody wrote.
#[derive(Clone, Copy, Debug)]
pub struct IdTable<'a> {
    /// The store.
    pub store: [u8; 16],
    /// The snapshot whose ids it holds.
    pub snapshot: ObjectId,
    /// The ids, ascending.
    pub ids: Ids<'a>,
}

/// The ids of a table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ids<'a>(&'a [[u8; ID_BYTES]]);

impl<'a> IdTable<'a> {
    /// Reads a table; `None` where it is damaged, cut off or of another version. Its ids are read
    /// once, for the check.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (header, ids) = bytes.split_at_checked(HEADER_BYTES)?;
        let (facts, check) = header.split_at_checked(FACTS_BYTES)?;
        let sound = facts.get(..8)? == MAGIC
            && facts.get(8..10)? == VERSION.to_le_bytes()
            && ids.len().is_multiple_of(ID_BYTES)
            && check == checksum(facts, ids.chunks(1 << 20));
        let (store, snapshot) = (facts.get(10..26)?, facts.get(26..FACTS_BYTES)?);
        sound.then_some(Self {
            store: store.try_into().ok()?,
            snapshot: ObjectId(snapshot.try_into().ok()?),
            ids: Ids::of(bytes),
        })
    }

    /// Returns the header of a table of these ids, which are ascending.
    pub fn header(store: &[u8; 16], snapshot: ObjectId, ids: &[ObjectId]) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let (facts, check) = header.split_at_mut(FACTS_BYTES);
        let parts: [&[u8]; 4] = [MAGIC, &VERSION.to_le_bytes(), store, &snapshot.0];
        let mut places = facts.iter_mut();
        for byte in parts.into_iter().flatten() {
            if let Some(place) = places.next() {
                *place = *byte;
            }
        }
        check.copy_from_slice(&checksum(facts, ids.iter().map(|id| id.0.as_slice())));
        header
    }
}

impl<'a> Ids<'a> {
    /// Takes the ids of the bytes of a table that was decoded before.
    pub fn of(bytes: &'a [u8]) -> Self {
        let (ids, _) = bytes.get(HEADER_BYTES..).unwrap_or_default().as_chunks();
        Self(ids)
    }

    /// Tells whether the table holds the id.
    pub fn contains(&self, id: &ObjectId) -> bool {
        self.0.binary_search(&id.0).is_ok()
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives them in order.
    pub fn iter(&self) -> impl Iterator<Item = ObjectId> + use<'a> {
        self.0.iter().map(|id| ObjectId(*id))
    }
}

fn checksum<'b>(facts: &[u8], pieces: impl Iterator<Item = &'b [u8]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(facts);
    pieces.for_each(|piece| {
        hasher.update(piece);
    });
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_what_was_written_or_none() {
        let mut ids: Vec<ObjectId> =
            (0_u32..70_000 / 32).map(|number| ObjectId::of_chunk(&number.to_le_bytes())).collect();
        ids.sort_unstable();
        let mut bytes = IdTable::header(&[7; 16], ObjectId([9; 32]), &ids).to_vec();
        ids.iter().for_each(|id| bytes.extend_from_slice(&id.0));
        let table = IdTable::decode(&bytes).unwrap();
        assert_eq!((table.store, table.snapshot), ([7; 16], ObjectId([9; 32])));
        assert!(table.ids.iter().eq(ids.iter().copied()) && table.ids.contains(&ids[77]));
        for at in [0, 8, 10, 30, 60, 90, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(IdTable::decode(&damaged).is_none(), "byte {at}");
            assert!(IdTable::decode(&bytes[..at]).is_none(), "cut at {at}");
        }
    }
}
