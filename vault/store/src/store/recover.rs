//! Bringing the index up to the packs: at each opening what it lacks, or all of it anew.

use std::collections::{BTreeMap, BTreeSet};

use crate::bytes::wide;
use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::ids::{PackId, Timestamp};
use crate::index::{
    Batch, INDEX_BEING_MADE, INDEX_VERSION, IndexFormat, Key, Location, PackRow, PackState,
};
use crate::pack::{Entry, open_name};
use crate::store::RebuildReport;
use crate::store::adopt::{Adopted, NO_ROOM, Trust};
use crate::store::inner::{Inner, locked};
use crate::store::lane::Lane;

/// Packs whose footers are compared with their rows at each opening.
const COMPARED_PACKS: usize = 16;

impl Inner {
    /// What the index of this store must say about itself.
    pub(crate) fn index_format(&self) -> IndexFormat {
        let (store, gc_generation) = (self.store, self.gc_generation());
        IndexFormat { version: INDEX_VERSION, store, gc_generation }
    }

    /// Says why the index cannot be relied on, where it cannot.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub(crate) fn why_rebuild(&self, seed: u64) -> Result<Option<&'static str>> {
        match self.index.format()? {
            None => return Ok(Some("it was missing")),
            Some(format) if format.version == INDEX_BEING_MADE => {
                return Ok(Some("it was not made to the end"));
            }
            Some(format) if format != self.index_format() => {
                return Ok(Some("it was that of another store, version or GC generation"));
            }
            Some(_) => {}
        }
        let quarantined = self.log.with_state(|state| state.quarantine_sequence);
        if self.index.log_mark()?.sequence < quarantined {
            return Ok(Some("it did not know of records that are damaged"));
        }
        let sealed: BTreeSet<PackId> = self.sealed_packs()?.into_iter().collect();
        let open: BTreeSet<PackId> = self.open_packs()?.into_iter().collect();
        let rows = self.index.packs()?;
        let mut lost = false;
        for (pack, row) in &rows {
            if !sealed.contains(pack) && !open.contains(pack) && row.records > 0 {
                lost = true;
                let name = crate::pack::sealed_name(*pack);
                self.report(&name, 0, "the pack is gone, with objects that were acknowledged");
            }
        }
        if lost {
            return Ok(Some("it named packs that are gone"));
        }
        // Of a pack without a synced record even the header may be gone.
        let filled = rows.iter().filter(|(pack, row)| row.records > 0 && sealed.contains(pack));
        for (pack, row) in filled {
            let name = crate::pack::sealed_name(*pack);
            let len = self.objects.head(&name)?.map_or(0, |info| info.len);
            if row.state == PackState::Sealed && len < row.watermark {
                self.report(&name, len, "the pack is shorter than what was synced");
                return Ok(Some("a pack was shorter than what it named there"));
            }
        }
        let known: BTreeMap<PackId, PackRow> = rows.iter().copied().collect();
        for pack in sealed.iter().filter(|pack| !self.is_doomed(**pack)) {
            let row = known.get(pack).copied();
            if row.is_none_or(|row| row.state == PackState::Open)
                && self.is_cut_short(*pack, row)?
            {
                return Ok(Some("a pack that it did not know to be sealed was damaged"));
            }
            if row.is_some_and(|row| row.state == PackState::Open) && self.is_left_behind(*pack)? {
                return Ok(Some(NO_ROOM));
            }
        }
        for pack in open.difference(&sealed) {
            if let Some(fault) = self.fault_of_open(*pack, known.get(pack).copied())? {
                return Ok(Some(fault));
            }
        }
        // A row may say sealed of a pack that a power cut left open.
        let rows: Vec<_> = rows.into_iter().filter(|(pack, _)| sealed.contains(pack)).collect();
        self.compare_some(&rows, seed)
    }

    /// Tells whether a sealed pack that the index knows as an open one, or not at all, has no
    /// sound table, or lacks records that the index took from it. Without its table a scan also
    /// finds what was refused, and rows may name what it does not find.
    fn is_cut_short(&self, pack: PackId, row: Option<PackRow>) -> Result<bool> {
        let records = row.map_or(0, |row| row.records);
        let table = self.table(pack)?;
        Ok(table.is_none_or(|table| wide(table.entries.len()) < u64::from(records)))
    }

    /// Compares some sealed packs' tables of contents with their rows.
    fn compare_some(&self, rows: &[(PackId, PackRow)], seed: u64) -> Result<Option<&'static str>> {
        // What a sweep has hidden has no row.
        let mut sealed: Vec<&(PackId, PackRow)> = rows
            .iter()
            .filter(|(pack, row)| row.state == PackState::Sealed && !self.is_doomed(*pack))
            .collect();
        let turn = crate::bytes::narrow(seed.checked_rem(wide(sealed.len())).unwrap_or(0));
        sealed.rotate_left(turn);
        for (pack, row) in sealed.into_iter().take(COMPARED_PACKS) {
            let mut wrong = false;
            let compared = self.sealed_row_is_wrong(*pack, *row).map(|found| wrong = found);
            self.unless_unreadable(compared)?;
            if wrong {
                return Ok(Some("its rows were not those of the packs"));
            }
        }
        Ok(None)
    }

    /// Tells whether the row of a sealed pack, or a row of an object in it, is not what the
    /// pack's table says.
    fn sealed_row_is_wrong(&self, pack: PackId, row: PackRow) -> Result<bool> {
        let contents = self.contents(pack)?;
        if wide(contents.entries.len()) != u64::from(row.records) {
            return Ok(true);
        }
        let known_bad = self.quarantined(pack);
        let left = contents.entries.iter().filter(|entry| !known_bad.contains(&entry.offset));
        let keys: Vec<Key> = left.map(|entry| entry.row(pack).0).collect();
        Ok(self.index.find_many(&keys)?.iter().any(Option::is_none))
    }

    /// Brings a sound index up to the packs: what is unknown, unsealed or behind. Stops where a
    /// pack must be left open: a rebuild then marks what is above it, and drops nothing.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub(crate) fn catch_up(&self) -> Result<Adopted> {
        let rows: BTreeMap<PackId, PackRow> = self.index.packs()?.into_iter().collect();
        for pack in self.sealed_packs()? {
            let unknown = rows.get(&pack).is_none_or(|row| row.state != PackState::Sealed);
            if unknown && !self.is_doomed(pack) {
                self.take_sealed(pack)?;
            }
        }
        for pack in self.in_order(self.open_packs()?)? {
            let synced = rows.get(&pack).map_or(0, |row| row.watermark);
            if self.adopt(pack, synced, Trust::Rows)? == Adopted::LeftOpen {
                return Ok(Adopted::LeftOpen);
            }
        }
        Ok(Adopted::Whole)
    }

    /// The same for a store that is only read: nothing is changed but the index in memory.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub(crate) fn refresh(&self) -> Result<()> {
        let _one = locked(&self.refreshing);
        let rows: BTreeMap<PackId, PackRow> = self.index.packs()?.into_iter().collect();
        // Open ones first: a pack that is sealed in between is then seen as sealed.
        let open = self.open_packs()?;
        let sealed = self.sealed_packs()?;
        let there: BTreeSet<PackId> = sealed.iter().chain(&open).copied().collect();
        // A row may lead to a pack that a collection deleted after it copied the record.
        let keep = |row: &Location| there.contains(&row.pack);
        for pack in sealed {
            if rows.get(&pack).is_none_or(|row| row.state != PackState::Sealed) {
                let taken = self
                    .contents(pack)
                    .and_then(|contents| self.take_contents_unless(&contents, keep));
                self.unless_unreadable(taken)?;
            }
        }
        for pack in open {
            let from = rows.get(&pack).map_or(0, |row| row.watermark);
            match self.journal.len(&open_name(pack)) {
                Ok(Some(len)) if len > from => {}
                _ => continue,
            }
            let taken = match self.take_open(pack, from, keep) {
                Err(error) if error.is_not_found() => self.take_sealed(pack).map(drop),
                other => other,
            };
            self.unless_unreadable(taken)?;
        }
        self.load_receipts()
    }

    /// Makes a file that cannot be read damage: one bad sector must not keep everything else from
    /// being restored.
    pub(crate) fn unless_unreadable(&self, taken: Result<()>) -> Result<()> {
        let Err(error) = taken else { return Ok(()) };
        match error.root() {
            Error::Io { path, .. } if error.is_unreadable() => {
                self.report(path, 0, &crate::error::chain(&error));
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Makes the index anew from the packs. Nobody may put or commit meanwhile.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub(crate) fn rebuild(&self, now: Timestamp) -> Result<RebuildReport> {
        self.lanes.iter().for_each(Lane::seal_all);
        // Before the new index counts: it takes what a sweep had hidden back, so that no pack of
        // the sweep's list may go any more.
        self.end_sweep(now)?;
        // How far each pack was synced, where the old index can still tell.
        let old: BTreeMap<PackId, PackRow> =
            self.index.packs().unwrap_or_default().into_iter().collect();
        // A rebuild that is cut off must be made again: half of one looks like a sound index that
        // is behind, and catching up does not find the nodes that miss a descendant.
        self.index.wipe(IndexFormat { version: INDEX_BEING_MADE, ..self.index_format() })?;
        pass(Point::RebuildWiped);
        let mut node_packs = BTreeSet::new();
        let mut packs = 0u64;
        for pack in self.sealed_packs()? {
            packs = packs.saturating_add(1);
            if self.take_sealed(pack)? {
                node_packs.insert(pack);
            }
        }
        pass(Point::RebuildSealedTaken);
        let before: BTreeSet<PackId> = self.sealed_packs()?.into_iter().collect();
        for pack in self.in_order(self.open_packs()?)? {
            let synced = old.get(&pack).map_or(0, |row| row.watermark);
            self.adopt(pack, synced, Trust::Watermark)?;
        }
        self.lanes.iter().for_each(Lane::seal_all);
        for pack in self.sealed_packs()?.into_iter().filter(|pack| !before.contains(pack)) {
            packs = packs.saturating_add(1);
            if self.take_sealed(pack)? {
                node_packs.insert(pack);
            }
        }
        pass(Point::RebuildAdopted);
        // Where there is no room to take a pack over, its nodes must be proven all the same.
        let open: BTreeSet<PackId> = self.open_packs()?.into_iter().collect();
        let incomplete = self.find_incomplete(&node_packs, &open)?;
        pass(Point::RebuildMarked);
        let mut objects = 0u64;
        self.index.for_each(&mut |_, _| {
            objects = objects.saturating_add(1);
            Ok(())
        })?;
        let format = Some(self.index_format());
        self.index.apply(&Batch { format, ..Batch::default() })?;
        self.index.sync()?;
        Ok(RebuildReport { packs, objects, incomplete })
    }

    /// Marks every node of the store that misses a descendant, and takes the mark from those that
    /// do not; returns how many miss one. Nobody may put or commit meanwhile.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub(crate) fn find_all_incomplete(&self) -> Result<u64> {
        let mut sealed = BTreeSet::new();
        for pack in self.sealed_packs()? {
            let mut entries = self.contents(pack)?.entries.into_iter();
            if entries.any(|entry| entry.kind.is_node()) {
                sealed.insert(pack);
            }
        }
        let open: BTreeSet<PackId> = self.open_packs()?.into_iter().collect();
        self.find_incomplete(&sealed, &open)
    }

    /// Marks every node that misses a descendant, and returns how many there are: what is alive
    /// must have all its descendants, or a later backup would leave an upload out.
    fn find_incomplete(&self, sealed: &BTreeSet<PackId>, open: &BTreeSet<PackId>) -> Result<u64> {
        loop {
            let (mut changed, mut incomplete) = (false, 0u64);
            for pack in sealed.iter().chain(open) {
                let mut batch = Batch::default();
                let entries = if open.contains(pack) {
                    self.open_entries(*pack)?
                } else {
                    self.contents(*pack)?.entries
                };
                for entry in entries.into_iter().filter(|entry| entry.kind.is_node()) {
                    let (key, place) = entry.row(*pack);
                    let Some(mut row) = self.index.find(&key)? else { continue };
                    if row.pack != place.pack || row.offset != place.offset {
                        continue;
                    }
                    let whole = self.has_children(&entry)?;
                    incomplete = incomplete.saturating_add(u64::from(!whole));
                    // What stands in an open pack may not be durable, whole or not.
                    if row.incomplete == whole && !(whole && open.contains(pack)) {
                        row.incomplete = !whole;
                        batch.put.push((key, row));
                    }
                }
                if !batch.put.is_empty() {
                    changed = true;
                    self.index.apply(&batch)?;
                }
            }
            if !changed {
                return Ok(incomplete);
            }
        }
    }

    /// Tells whether everything that a node refers to is alive.
    fn has_children(&self, node: &Entry) -> Result<bool> {
        let domain = node.domain;
        let keys: Vec<Key> = node.refs.iter().map(|child| Key { domain, id: child.id }).collect();
        let found = self.index.find_many(&keys)?;
        let mut children = node.refs.iter().zip(&found);
        Ok(children.all(|(child, found)| Self::is_alive(found.as_ref(), child.kind)))
    }
}
