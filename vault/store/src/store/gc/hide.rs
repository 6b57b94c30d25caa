//! Takes what is condemned out of the index, durably, before the first pack goes.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::ids::{DomainId, PackId};
use crate::index::{Batch, Key, Location};
use crate::pack::Entry;
use crate::store::check::closure::beginning;
use crate::store::gc::condemn::newer_tables;
use crate::store::gc::condemned::{Condemned, narrow32_of};
use crate::store::gc::mark::Marks;
use crate::store::inner::Inner;

/// Changes of one batch.
const BATCH_ROWS: usize = 4096;

/// Hides the condemned records.
pub(super) struct Hiding<'a> {
    pub(super) inner: &'a Inner,
    pub(super) marks: &'a Marks<'a>,
    pub(super) condemned: &'a Condemned,
    pub(super) victims: &'a BTreeSet<PackId>,
    pub(super) batch: Batch,
}

impl Hiding<'_> {
    /// Hides them all, and writes the new generation with the last of them.
    ///
    /// # Errors
    /// What the storage or the index says; the index then contradicts the LOG and must be made
    /// anew.
    pub(super) fn run(&mut self) -> Result<()> {
        let mut gone: Vec<u64> = Vec::new();
        for pack in self.victims {
            for (number, entry) in self.marks.entries(*pack)?.iter().enumerate() {
                let live = self.marks.sealed.get(pack).is_some_and(|used| used.live.has(number));
                if live || self.condemned.is_rescued(*pack, entry.offset) {
                    continue;
                }
                let (key, location) = entry.row(*pack);
                gone.push(beginning(key.domain, &key.id));
                self.batch.remove.push((key, location));
                self.apply_when_full()?;
            }
        }
        self.apply()?;
        gone.sort_unstable();
        self.look_at_what_stays(&gone)?;
        self.spoil_newer()?;
        let format = Some(self.inner.index_format());
        self.inner.index.apply(&Batch { format, ..std::mem::take(&mut self.batch) })?;
        self.inner.index.sync()
    }

    /// In packs that stay: unmarked nodes are not alive any more, and what has another copy here
    /// gets its row back.
    fn look_at_what_stays(&mut self, gone: &[u64]) -> Result<()> {
        let marks = self.marks;
        for (pack, used) in &marks.sealed {
            if used.dead == 0 || self.victims.contains(pack) {
                continue;
            }
            for (number, entry) in marks.entries(*pack)?.iter().enumerate() {
                if used.live.has(number) || self.condemned.is_rescued(*pack, entry.offset) {
                    continue;
                }
                let is_gone =
                    |domain: DomainId| gone.binary_search(&beginning(domain, &entry.id)).is_ok();
                if entry.kind.is_node() {
                    self.spoil(*pack, entry)?;
                }
                if is_gone(entry.domain) {
                    self.lead_here(*pack, entry)?;
                }
            }
        }
        Ok(())
    }

    /// Nodes that were stored on something condemned, by sessions that did not commit them.
    fn spoil_newer(&mut self) -> Result<()> {
        let tainted = self.condemned.tainted();
        for (pack, entries) in newer_tables(self.inner, self.marks)? {
            let Some(offsets) = tainted.get(&pack) else { continue };
            for entry in entries.iter().filter(|e| offsets.contains(&narrow32_of(e.offset))) {
                self.spoil(pack, entry)?;
            }
        }
        Ok(())
    }

    fn spoil(&mut self, pack: PackId, entry: &Entry) -> Result<()> {
        let (key, location) = entry.row(pack);
        self.batch.replace.push((key, location, Location { incomplete: true, ..location }));
        self.apply_when_full()
    }

    /// Makes the index lead to a copy whose row went with a victim.
    fn lead_here(&mut self, pack: PackId, entry: &Entry) -> Result<()> {
        let (key, location): (Key, Location) = entry.row(pack);
        self.apply()?;
        if self.inner.index.find(&key)?.is_none() {
            let incomplete = entry.kind.is_node();
            self.batch.put.push((key, Location { incomplete, ..location }));
        }
        Ok(())
    }

    fn apply_when_full(&mut self) -> Result<()> {
        let len = self.batch.remove.len().saturating_add(self.batch.replace.len());
        if len >= BATCH_ROWS { self.apply() } else { Ok(()) }
    }

    fn apply(&mut self) -> Result<()> {
        self.inner.index.apply(&std::mem::take(&mut self.batch))
    }
}
