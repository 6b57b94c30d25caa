//! An index that cannot be written, and over it, in memory, what was found since.

use std::collections::BTreeMap;

use super::{Batch, Index, IndexFormat, Key, Location, LogMark, MemoryIndex, PackRow};
use crate::error::{Error, Result};
use crate::ids::PackId;

/// For a store that is only read: writes go to memory and are looked at first.
pub(crate) struct LayeredIndex {
    below: Box<dyn Index>,
    above: MemoryIndex,
}

impl LayeredIndex {
    pub(crate) fn new(below: Box<dyn Index>) -> Self {
        Self { below, above: MemoryIndex::default() }
    }
}

impl Index for LayeredIndex {
    fn format(&self) -> Result<Option<IndexFormat>> {
        self.below.format()
    }

    fn wipe(&self, _format: IndexFormat) -> Result<()> {
        Err(Error::ReadOnly)
    }

    fn find(&self, key: &Key) -> Result<Option<Location>> {
        match self.above.find(key)? {
            Some(location) => Ok(Some(location)),
            None => self.below.find(key),
        }
    }

    fn find_many(&self, keys: &[Key]) -> Result<Vec<Option<Location>>> {
        let above = self.above.find_many(keys)?;
        let below = self.below.find_many(keys)?;
        Ok(above.into_iter().zip(below).map(|(above, below)| above.or(below)).collect())
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        self.above.apply(batch)
    }

    fn pack(&self, pack: PackId) -> Result<Option<PackRow>> {
        match self.above.pack(pack)? {
            Some(row) => Ok(Some(row)),
            None => self.below.pack(pack),
        }
    }

    fn packs(&self) -> Result<Vec<(PackId, PackRow)>> {
        let mut rows: BTreeMap<PackId, PackRow> = self.below.packs()?.into_iter().collect();
        rows.extend(self.above.packs()?);
        Ok(rows.into_iter().collect())
    }

    fn for_each(&self, each: &mut dyn FnMut(Key, Location) -> Result<()>) -> Result<()> {
        let mut above = BTreeMap::new();
        self.above.for_each(&mut |key, location| {
            above.insert(key, location);
            Ok(())
        })?;
        self.below.for_each(&mut |key, location| {
            above.remove(&key);
            each(key, location)
        })?;
        above.into_iter().try_for_each(|(key, location)| each(key, location))
    }

    fn log_mark(&self) -> Result<LogMark> {
        self.below.log_mark()
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
