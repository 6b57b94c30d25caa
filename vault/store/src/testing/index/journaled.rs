//! An index that loses the end of its batches with the power, as one in a log that is not synced.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bytes::{narrow, wide};
use crate::error::{Error, Result};
use crate::ids::PackId;
use crate::index::{
    Batch, Index, IndexFormat, IndexOpener, Key, Location, LogMark, MemoryIndex, PackRow,
};
use crate::testing::random::Random;

/// An index of which a power cut takes any suffix of the batches since the last sync, and a kill
/// nothing. Clones share it.
#[derive(Clone, Default)]
pub struct JournaledIndex {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// As of the last sync.
    durable: MemoryIndex,
    /// Since then, in order.
    batches: Vec<Batch>,
    /// All of it.
    current: MemoryIndex,
    /// Batches that were tried so far, and which of them fail.
    applied: u64,
    faults: BTreeSet<u64>,
    broken: bool,
}

impl State {
    fn of(durable: MemoryIndex, batches: Vec<Batch>, broken: bool) -> Result<Self> {
        let current = durable.copied();
        for batch in &batches {
            current.apply(batch)?;
        }
        Ok(Self { durable, batches, current, applied: 0, faults: BTreeSet::new(), broken })
    }
}

fn broken(action: &'static str) -> Error {
    Error::Index { action, source: "a simulated fault".into() }
}

impl JournaledIndex {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Returns the index as a power cut may leave it now: as many of the batches since the last
    /// sync as the seed says; none where it is 0.
    ///
    /// # Errors
    /// None: the rows are in memory.
    pub fn after_power_cut(&self, seed: u64) -> Result<Self> {
        let state = self.state();
        let all = state.batches.len();
        let mut random = Random::new(seed, "index");
        let kept = if seed == 0 { 0 } else { narrow(random.below(wide(all).saturating_add(1))) };
        let batches = state.batches.get(..kept).unwrap_or_default();
        let durable = state.durable.copied();
        for batch in batches {
            durable.apply(batch)?;
        }
        State::of(durable, Vec::new(), state.broken).map(Self::with)
    }

    /// Returns the index as a killed process leaves it: with all batches, and not synced.
    ///
    /// # Errors
    /// None: the rows are in memory.
    pub fn after_kill(&self) -> Result<Self> {
        let state = self.state();
        State::of(state.durable.copied(), state.batches.clone(), state.broken).map(Self::with)
    }

    /// Returns how many batches no sync covers.
    pub fn unsynced(&self) -> usize {
        self.state().batches.len()
    }

    /// Lets a batch fail: the next, or the one after so many more.
    pub fn fail_after(&self, batches: u64) {
        let mut state = self.state();
        let number = state.applied.saturating_add(batches);
        state.faults.insert(number);
    }

    /// Tells whether a batch is still to fail.
    pub fn has_faults(&self) -> bool {
        !self.state().faults.is_empty()
    }

    /// Takes the faults back that no batch has met yet.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Lets it be of no use until it is destroyed, as with a damaged table.
    pub fn break_it(&self) {
        self.state().broken = true;
    }

    /// Changes rows behind everybody's back.
    ///
    /// # Errors
    /// None: the rows are in memory.
    pub fn damage(&self, change: &Batch) -> Result<()> {
        let mut state = self.state();
        state.current.apply(change)?;
        state.durable = state.current.copied();
        state.batches.clear();
        Ok(())
    }

    /// Returns all rows.
    ///
    /// # Errors
    /// None: the rows are in memory.
    pub fn rows(&self) -> Result<Vec<(Key, Location)>> {
        let mut rows = Vec::new();
        self.state().current.for_each(&mut |key, location| {
            rows.push((key, location));
            Ok(())
        })?;
        Ok(rows)
    }
}

impl IndexOpener for JournaledIndex {
    fn open(&self) -> Result<Box<dyn Index>> {
        if self.state().broken { Err(broken("open it")) } else { Ok(Box::new(self.clone())) }
    }

    fn open_read_only(&self) -> Result<Box<dyn Index>> {
        let state = self.state();
        if state.broken {
            return Err(broken("open it for reading"));
        }
        let copy = State::of(state.current.copied(), Vec::new(), false)?;
        Ok(Box::new(Self::with(copy)))
    }

    fn destroy(&self) -> Result<()> {
        *self.state() = State::default();
        Ok(())
    }
}

impl Index for JournaledIndex {
    fn format(&self) -> Result<Option<IndexFormat>> {
        self.state().current.format()
    }

    fn wipe(&self, format: IndexFormat) -> Result<()> {
        let mut state = self.state();
        state.batches.clear();
        state.current.wipe(format)?;
        state.durable.wipe(format)
    }

    fn find(&self, key: &Key) -> Result<Option<Location>> {
        self.state().current.find(key)
    }

    fn find_many(&self, keys: &[Key]) -> Result<Vec<Option<Location>>> {
        self.state().current.find_many(keys)
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let mut state = self.state();
        let number = state.applied;
        state.applied = number.saturating_add(1);
        if state.faults.remove(&number) {
            return Err(broken("write"));
        }
        state.current.apply(batch)?;
        state.batches.push(batch.clone());
        Ok(())
    }

    fn pack(&self, pack: PackId) -> Result<Option<PackRow>> {
        self.state().current.pack(pack)
    }

    fn packs(&self) -> Result<Vec<(PackId, PackRow)>> {
        self.state().current.packs()
    }

    fn for_each(&self, each: &mut dyn FnMut(Key, Location) -> Result<()>) -> Result<()> {
        // What is called may use the index.
        let rows = self.rows()?;
        rows.into_iter().try_for_each(|(key, location)| each(key, location))
    }

    fn log_mark(&self) -> Result<LogMark> {
        self.state().current.log_mark()
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.state();
        state.durable = state.current.copied();
        state.batches.clear();
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mark(sequence: u64) -> Batch {
        Batch { log_mark: Some(LogMark { sequence }), ..Batch::default() }
    }

    #[test]
    fn it_is_an_index() {
        crate::testing::index_conformance(&JournaledIndex::default());
    }

    #[test]
    fn a_power_cut_takes_any_suffix_and_never_what_was_synced() {
        let index = JournaledIndex::default();
        for sequence in 1..=3 {
            index.apply(&mark(sequence)).unwrap();
        }
        index.sync().unwrap();
        for sequence in 4..=8 {
            index.apply(&mark(sequence)).unwrap();
        }
        assert_eq!(index.unsynced(), 5);
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let after = index.after_power_cut(seed).unwrap();
            let left = after.log_mark().unwrap().sequence;
            assert!(seed > 0 || left == 3);
            assert_eq!(after.after_power_cut(0).unwrap().log_mark().unwrap().sequence, left);
            seen.insert(left);
        }
        assert_eq!(seen, (3..=8).collect());
        // A kill loses nothing, but what it leaves is no more durable than before.
        let killed = index.after_kill().unwrap();
        assert_eq!(killed.log_mark().unwrap().sequence, 8);
        assert_eq!(killed.after_power_cut(0).unwrap().log_mark().unwrap().sequence, 3);
        // To empty it is durable at once.
        let format = IndexFormat { version: 1, store: Default::default(), gc_generation: 0 };
        index.wipe(format).unwrap();
        assert_eq!(index.after_power_cut(0).unwrap().format().unwrap(), Some(format));
    }

    #[test]
    fn a_batch_fails_where_it_should_and_changes_nothing() {
        let index = JournaledIndex::default();
        index.fail_after(1);
        index.apply(&mark(1)).unwrap();
        assert!(index.apply(&mark(2)).is_err());
        assert_eq!(index.log_mark().unwrap().sequence, 1);
        index.apply(&mark(3)).unwrap();
        index.break_it();
        assert!(index.open().is_err() && index.open_read_only().is_err());
        index.destroy().unwrap();
        assert_eq!(index.open().unwrap().log_mark().unwrap(), LogMark::default());
    }
}
