//! The end of a repair, under the gate: rows go, what stands above them becomes incomplete, the
//! LOG says what is damaged.

use std::collections::{BTreeMap, BTreeSet};

use umbra_common::Reference;

use crate::error::{Error, Result};
use crate::ids::{DomainId, PackId, Timestamp};
use crate::index::{Batch, Key, Location};
use crate::log::Entry as LogEntry;
use crate::store::inner::Inner;
use crate::store::repair::pack::{Damaged, Examined, Fix};
use crate::store::repair::{Plan, reference_of};
use crate::store::settle::sealed_row;

impl Inner {
    /// Takes the rows of damaged records away or switches them, and puts the places into
    /// quarantine; returns how many are new there. Nobody may put or commit meanwhile, and all
    /// lanes are settled.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub(super) fn quarantine(&self, plan: &Plan, now: Timestamp) -> Result<u64> {
        let mut batch = Batch::default();
        let mut dead: BTreeSet<(DomainId, Reference)> = BTreeSet::new();
        for examined in &plan.examined {
            for damaged in &examined.damaged {
                self.switch_or_remove(examined.pack, damaged, &mut batch, &mut dead)?;
            }
            if examined.gone {
                batch.remove_packs.push(examined.pack);
            }
        }
        let above = self.above(&dead, &batch)?;
        // Last, and with the new place of what is switched: each key's last row counts.
        batch.put.extend(above);
        // In one batch: a node must not look whole while something below it is not there.
        self.index.apply(&batch)?;
        let count = self.note_quarantine(&plan.examined, now)?;
        for examined in &plan.examined {
            self.take_anew(examined)?;
        }
        Ok(count)
    }

    fn switch_or_remove(
        &self,
        pack: PackId,
        damaged: &Damaged,
        batch: &mut Batch,
        dead: &mut BTreeSet<(DomainId, Reference)>,
    ) -> Result<()> {
        // What was made anew has its row elsewhere by now.
        let row = self.index.find(&damaged.key)?;
        let row = row.filter(|row| row.pack == pack && row.offset == damaged.offset);
        match (row, &damaged.fix) {
            (None, Fix::Copy(copy)) if self.index.find(&damaged.key)?.is_none() => {
                let copy = Location { incomplete: copy.kind.is_node(), ..*copy };
                batch.put.push((damaged.key, copy));
            }
            (None, _) => {}
            (Some(row), Fix::Copy(copy)) => {
                let copy = Location { incomplete: row.incomplete, ..*copy };
                batch.replace.push((damaged.key, row, copy));
            }
            (Some(row), _) => {
                batch.remove.push((damaged.key, row));
                dead.insert((damaged.key.domain, reference_of(&damaged.key, &row)));
            }
        }
        Ok(())
    }

    /// Returns the rows of all nodes above objects that are lost, as incomplete ones, where
    /// `batch` leaves them.
    fn above(
        &self,
        dead: &BTreeSet<(DomainId, Reference)>,
        batch: &Batch,
    ) -> Result<Vec<(Key, Location)>> {
        let switched = batch.replace.iter().map(|(key, _, new)| (*key, *new));
        let switched: BTreeMap<Key, Location> = switched.chain(batch.put.iter().copied()).collect();
        let mut found: BTreeMap<Key, Location> = BTreeMap::new();
        if dead.is_empty() {
            return Ok(Vec::new());
        }
        let mut gone = dead.clone();
        let mut packs = self.sealed_packs()?;
        let mut changed = true;
        while changed {
            changed = false;
            let mut with_nodes = Vec::new();
            for pack in packs {
                let entries = self.contents(pack)?.entries;
                let nodes = entries.iter().filter(|entry| entry.kind.is_node());
                let mut has_nodes = false;
                for entry in nodes {
                    has_nodes = true;
                    let own = (entry.domain, Reference { kind: entry.kind, id: entry.id });
                    let lacks = |child: &Reference| gone.contains(&(entry.domain, *child));
                    if gone.contains(&own) || !entry.refs.iter().any(lacks) {
                        continue;
                    }
                    gone.insert(own);
                    changed = true;
                    let key = entry.row(pack).0;
                    let row = switched.get(&key).copied();
                    let row = if row.is_some() { row } else { self.index.find(&key)? };
                    if let Some(row) = row.filter(|row| row.kind == entry.kind) {
                        found.insert(key, Location { incomplete: true, ..row });
                    }
                }
                if has_nodes {
                    with_nodes.push(pack);
                }
            }
            packs = with_nodes;
        }
        Ok(found.into_iter().collect())
    }

    /// Writes into the LOG which places are damaged, and which are so no more.
    fn note_quarantine(&self, examined: &[Examined], now: Timestamp) -> Result<u64> {
        self.log.update(now, |state| {
            let mut entries = Vec::new();
            let mut count = 0u64;
            for pack in examined.iter().filter(|pack| !pack.gone) {
                let known = state.quarantined.get(&pack.pack);
                let is_new = |offset: &u64| known.is_none_or(|known| !known.contains(offset));
                let ours = pack.damaged.iter().filter(|damaged| damaged.is_ours);
                let mut offsets: Vec<u64> = ours.map(|damaged| damaged.offset).collect();
                offsets.extend(pack.header_bad.then_some(0));
                offsets.retain(is_new);
                offsets.sort_unstable();
                offsets.dedup();
                count = count.saturating_add(crate::bytes::wide(offsets.len()));
                entries.extend(LogEntry::quarantine(pack.pack, &offsets));
                let lifted: Vec<u64> = pack.lifted.iter().map(|entry| entry.offset).collect();
                entries.extend(LogEntry::lift(pack.pack, &lifted));
            }
            for pack in examined.iter().filter(|pack| pack.gone) {
                if state.quarantined.contains_key(&pack.pack) {
                    let (pack, offsets) = (pack.pack, Vec::new());
                    entries.push(LogEntry::QuarantineLifted { pack, offsets });
                }
            }
            Ok::<_, Error>((entries, count))
        })
    }

    /// Puts into the index what a new table names, and what is sound again. Nodes count only once
    /// what stands below them was looked at.
    fn take_anew(&self, examined: &Examined) -> Result<()> {
        let mut batch = Batch::default();
        let known_bad = self.quarantined(examined.pack);
        let named = examined.table.iter().flat_map(|table| &table.entries);
        for entry in named.chain(&examined.lifted) {
            let (key, location) = entry.row(examined.pack);
            if !known_bad.contains(&entry.offset) && self.index.find(&key)?.is_none() {
                batch.put.push((key, Location { incomplete: entry.kind.is_node(), ..location }));
            }
        }
        if let Some(table) = &examined.table {
            batch.packs.push((examined.pack, sealed_row(table)));
        }
        self.index.apply(&batch)
    }
}
