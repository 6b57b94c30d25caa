//! An index that cannot be written, and over it, in memory, what was found since.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Batch, Index, IndexFormat, Key, Location, LogMark, MemoryIndex, PackRow};
use crate::error::{Error, Result};
use crate::ids::PackId;

/// For a store that is only read: writes go to memory and are looked at first.
///
/// Where what lies below fails (a damaged table, a file that its owner deleted), it counts as
/// empty from then on: the packs are then read instead.
pub(crate) struct LayeredIndex {
    below: Box<dyn Index>,
    failed: AtomicBool,
    above: MemoryIndex,
}

impl LayeredIndex {
    pub(crate) fn new(below: Box<dyn Index>) -> Self {
        Self { below, failed: AtomicBool::new(false), above: MemoryIndex::default() }
    }

    /// Asks what lies below, if it can be relied on.
    fn ask<T: Default>(&self, ask: impl FnOnce(&dyn Index) -> Result<T>) -> T {
        if self.failed.load(Ordering::Acquire) {
            return T::default();
        }
        ask(&*self.below).unwrap_or_else(|_| {
            self.failed.store(true, Ordering::Release);
            T::default()
        })
    }
}

impl Index for LayeredIndex {
    fn format(&self) -> Result<Option<IndexFormat>> {
        Ok(self.ask(|below| below.format()))
    }

    fn wipe(&self, _format: IndexFormat) -> Result<()> {
        Err(Error::ReadOnly)
    }

    fn find(&self, key: &Key) -> Result<Option<Location>> {
        match self.above.find(key)? {
            Some(location) => Ok(Some(location)),
            None => Ok(self.ask(|below| below.find(key))),
        }
    }

    fn find_many(&self, keys: &[Key]) -> Result<Vec<Option<Location>>> {
        let above = self.above.find_many(keys)?;
        let below = self.ask(|below| below.find_many(keys));
        let below = below.into_iter().chain(std::iter::repeat(None));
        Ok(above.into_iter().zip(below).map(|(above, below)| above.or(below)).collect())
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        self.above.apply(batch)
    }

    fn pack(&self, pack: PackId) -> Result<Option<PackRow>> {
        match self.above.pack(pack)? {
            Some(row) => Ok(Some(row)),
            None => Ok(self.ask(|below| below.pack(pack))),
        }
    }

    fn packs(&self) -> Result<Vec<(PackId, PackRow)>> {
        let mut rows: BTreeMap<PackId, PackRow> =
            self.ask(|below| below.packs()).into_iter().collect();
        rows.extend(self.above.packs()?);
        Ok(rows.into_iter().collect())
    }

    fn for_each(&self, each: &mut dyn FnMut(Key, Location) -> Result<()>) -> Result<()> {
        let mut above = BTreeMap::new();
        self.above.for_each(&mut |key, location| {
            above.insert(key, location);
            Ok(())
        })?;
        if !self.failed.load(Ordering::Acquire) {
            self.below.for_each(&mut |key, location| {
                above.remove(&key);
                each(key, location)
            })?;
        }
        above.into_iter().try_for_each(|(key, location)| each(key, location))
    }

    fn log_mark(&self) -> Result<LogMark> {
        Ok(self.ask(|below| below.log_mark()))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
