//! An index in memory: for tests, for stores without RocksDB, and as the model of the trait.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Batch, Index, IndexFormat, Key, Location, LogMark, PackRow};
use crate::error::Result;
use crate::ids::PackId;

/// An index in memory; gone with the process.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    format: Option<IndexFormat>,
    rows: BTreeMap<Key, Location>,
    packs: BTreeMap<PackId, PackRow>,
    log_mark: LogMark,
}

impl MemoryIndex {
    /// Returns a copy of it as it is now.
    pub(crate) fn copied(&self) -> Self {
        Self { state: Mutex::new(self.state().clone()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held cannot leave a map half changed: see the callers.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index for MemoryIndex {
    fn format(&self) -> Result<Option<IndexFormat>> {
        Ok(self.state().format)
    }

    fn wipe(&self, format: IndexFormat) -> Result<()> {
        *self.state() = State { format: Some(format), ..State::default() };
        Ok(())
    }

    fn find(&self, key: &Key) -> Result<Option<Location>> {
        Ok(self.state().rows.get(key).copied())
    }

    fn find_many(&self, keys: &[Key]) -> Result<Vec<Option<Location>>> {
        let state = self.state();
        Ok(keys.iter().map(|key| state.rows.get(key).copied()).collect())
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let mut state = self.state();
        for (key, location) in &batch.remove {
            let same = |row: &Location| row.pack == location.pack && row.offset == location.offset;
            if state.rows.get(key).is_some_and(same) {
                state.rows.remove(key);
            }
        }
        for (key, expected, new) in &batch.replace {
            let same =
                |row: &&mut Location| row.pack == expected.pack && row.offset == expected.offset;
            if let Some(row) = state.rows.get_mut(key).filter(same) {
                *row = *new;
            }
        }
        state.rows.extend(batch.put.iter().copied());
        for pack in &batch.remove_packs {
            state.packs.remove(pack);
        }
        state.packs.extend(batch.packs.iter().copied());
        if let Some(mark) = batch.log_mark {
            state.log_mark = mark;
        }
        state.format = batch.format.or(state.format);
        Ok(())
    }

    fn pack(&self, pack: PackId) -> Result<Option<PackRow>> {
        Ok(self.state().packs.get(&pack).copied())
    }

    fn packs(&self) -> Result<Vec<(PackId, PackRow)>> {
        Ok(self.state().packs.iter().map(|(pack, row)| (*pack, *row)).collect())
    }

    fn for_each(&self, each: &mut dyn FnMut(Key, Location) -> Result<()>) -> Result<()> {
        let rows: Vec<_> = self.state().rows.iter().map(|(k, l)| (*k, *l)).collect();
        rows.into_iter().try_for_each(|(key, location)| each(key, location))
    }

    fn log_mark(&self) -> Result<LogMark> {
        Ok(self.state().log_mark)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }
}
