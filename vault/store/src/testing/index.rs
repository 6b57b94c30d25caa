//! An index that outlives its store, and can be set back.

use std::sync::Arc;

use crate::error::Result;
use crate::ids::PackId;
use crate::index::{
    Batch, Index, IndexFormat, IndexOpener, Key, Location, LogMark, MemoryIndex, PackRow,
};

mod journaled;

pub use journaled::JournaledIndex;

/// Opens the same index in memory each time, as one on a disk would be. Clones share it.
#[derive(Clone, Default)]
pub struct KeptIndex {
    kept: Arc<MemoryIndex>,
}

impl KeptIndex {
    /// Returns a copy of the index as it is now: what a power cut may leave, later batches lost.
    pub fn copied(&self) -> Self {
        Self { kept: Arc::new(self.kept.copied()) }
    }

    /// Returns all rows.
    ///
    /// # Errors
    /// None: the rows are in memory.
    pub fn rows(&self) -> Result<Vec<(Key, Location)>> {
        let mut rows = Vec::new();
        self.kept.for_each(&mut |key, location| {
            rows.push((key, location));
            Ok(())
        })?;
        Ok(rows)
    }
}

impl IndexOpener for KeptIndex {
    fn open(&self) -> Result<Box<dyn Index>> {
        Ok(Box::new(self.clone()))
    }

    fn open_read_only(&self) -> Result<Box<dyn Index>> {
        Ok(Box::new(self.copied()))
    }

    fn destroy(&self) -> Result<()> {
        Ok(())
    }
}

impl Index for KeptIndex {
    fn format(&self) -> Result<Option<IndexFormat>> {
        self.kept.format()
    }

    fn wipe(&self, format: IndexFormat) -> Result<()> {
        self.kept.wipe(format)
    }

    fn find(&self, key: &Key) -> Result<Option<Location>> {
        self.kept.find(key)
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        self.kept.apply(batch)
    }

    fn pack(&self, pack: PackId) -> Result<Option<PackRow>> {
        self.kept.pack(pack)
    }

    fn packs(&self) -> Result<Vec<(PackId, PackRow)>> {
        self.kept.packs()
    }

    fn for_each(&self, each: &mut dyn FnMut(Key, Location) -> Result<()>) -> Result<()> {
        self.kept.for_each(each)
    }

    fn log_mark(&self) -> Result<LogMark> {
        self.kept.log_mark()
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
