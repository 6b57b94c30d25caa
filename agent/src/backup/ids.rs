//! The distinct chunks of a disk, each with its number.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use umbra_common::ObjectId;

use crate::error::{Error, Result};

/// Ids by number and numbers by id. Each id stands in memory once: beside its 32 bytes the table
/// costs some 5 to 10.
#[derive(Default)]
pub(super) struct Ids {
    ids: Vec<ObjectId>,
    numbers: HashTable<u32>,
    /// Keyed anew in each run, so that nobody can make chunks whose ids collide here.
    state: RandomState,
}

impl Ids {
    /// Takes ids that are all different.
    ///
    /// # Errors
    /// [`Error::Internal`] where there are too many for their numbers.
    pub(super) fn of(ids: Vec<ObjectId>) -> Result<Self> {
        let mut all = Self::default();
        ids.into_iter().try_for_each(|id| all.number(id).map(|_| ()))?;
        Ok(all)
    }

    /// Returns the number of an id, and whether the id is new here.
    ///
    /// # Errors
    /// [`Error::Internal`] where there are too many.
    pub(super) fn number(&mut self, id: ObjectId) -> Result<(u32, bool)> {
        let Self { ids, numbers, state } = self;
        let at = |number: &u32| ids.get(*number as usize).copied();
        // Of an Option always: what is found out anew when the table grows must be the same.
        let hash_of = |id: Option<ObjectId>| state.hash_one(id);
        let is_it = |number: &u32| at(number) == Some(id);
        let entry = numbers.entry(hash_of(Some(id)), is_it, |number| hash_of(at(number)));
        match entry {
            Entry::Occupied(entry) => Ok((*entry.get(), false)),
            Entry::Vacant(entry) => {
                let many = |_| Error::Internal("more than 2^32 chunks on one disk".into());
                let number = u32::try_from(ids.len()).map_err(many)?;
                entry.insert(number);
                ids.push(id);
                Ok((number, true))
            }
        }
    }

    /// Gives up the numbers.
    pub(super) fn into_ids(self) -> Vec<ObjectId> {
        self.ids
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_id_keeps_its_number_however_many_come() {
        let id = |number: u32| ObjectId::of_chunk(&number.to_le_bytes());
        let mut ids = Ids::of((0..10).map(id).collect()).unwrap();
        for round in 0..2 {
            for number in 0..100_000 {
                let is_new = round == 0 && number >= 10;
                assert_eq!(ids.number(id(number)).unwrap(), (number, is_new));
            }
        }
        let all = ids.into_ids();
        assert!(all.iter().copied().eq((0..100_000).map(id)));
    }
}
