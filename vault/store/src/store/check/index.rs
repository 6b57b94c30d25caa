//! The index beside the packs, in both directions: each record of a table must have its row, and
//! each row must have its record.
//!
//! The second direction is counted first: rows that name a pack against records that have their
//! row there. Only where the numbers differ is each row of the pack looked at.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use umbra_common::Reference;

use crate::bytes::wide;
use crate::error::{Result, chain};
use crate::ids::PackId;
use crate::index::{
    INDEX_BEING_MADE, Index, IndexFormat, IndexOpener, Key, Location, PackRow, PackState,
};
use crate::pack::sealed_name;
use crate::store::check::lost::{LossCause, Lost, RecordPlace};
use crate::store::check::packs::{Pack, Packs, Table};
use crate::store::check::report::{Finding, FindingKind, Findings, IndexChecked};
use crate::store::inner::Inner;
use crate::store::settle::keys_of;

/// How often the index of a running vault is tried: it may delete a file while we open it.
const TRIES: u32 = 3;

/// How long between.
const PAUSE: Duration = Duration::from_millis(200);

/// Packs whose rows are looked at together; their tables are in memory then.
const PACKS_AT_ONCE: usize = 256;

/// How a pack's table can be compared with its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sound {
    /// Each record must have its row.
    Yes,
    /// A sweep deletes it and has taken rows away.
    Doomed,
    /// Something is wrong with it.
    No,
}

/// An index that is compared.
pub(super) struct Compared {
    index: Box<dyn Index>,
    rows: BTreeMap<PackId, PackRow>,
    /// Records that have their row, by pack.
    here: HashMap<PackId, u64>,
}

/// Opens the index for reading, where it is one of this store.
pub(super) fn open(
    inner: &Inner,
    opener: &dyn IndexOpener,
    gc_generation: u64,
    owned: bool,
    findings: &mut Findings,
) -> (Option<Compared>, IndexChecked) {
    let mut opened = opener.open_read_only();
    for _ in 1..TRIES {
        if opened.is_ok() || !owned {
            break;
        }
        std::thread::sleep(PAUSE);
        opened = opener.open_read_only();
    }
    let names = inner.vfs.list("index").unwrap_or_default();
    let index = match opened {
        Ok(index) => index,
        Err(_) if names.is_empty() => return (None, IndexChecked::Absent),
        Err(error) => return (None, unusable(&chain(&error), findings)),
    };
    match index.format() {
        Ok(None) => (None, IndexChecked::Absent),
        Ok(Some(format)) if format.version == INDEX_BEING_MADE => (
            None,
            IndexChecked::NotCompared("it was not made to the end; the next opening makes it"),
        ),
        // Between the LOG's word that a sweep begins and the index that shows it lies a moment in
        // which a vault may die; an index of then, or an old copy, is no damage.
        Ok(Some(format)) if is_of_other_generation(&format, expected(inner, gc_generation)) => (
            None,
            IndexChecked::NotCompared("it is of another GC generation; the next opening makes it"),
        ),
        Ok(Some(format)) if format != expected(inner, gc_generation) => {
            let reason = "it is that of another store or version";
            (None, unusable(reason, findings))
        }
        Ok(Some(_)) => match index.packs() {
            Ok(rows) => {
                let rows = rows.into_iter().collect();
                (Some(Compared { index, rows, here: HashMap::new() }), IndexChecked::Compared)
            }
            Err(error) => (None, unusable(&chain(&error), findings)),
        },
        Err(error) => (None, unusable(&chain(&error), findings)),
    }
}

fn expected(inner: &Inner, gc_generation: u64) -> IndexFormat {
    IndexFormat { gc_generation, ..inner.index_format() }
}

/// Tells whether an index is this store's, as it was before a sweep or after one that is void.
fn is_of_other_generation(found: &IndexFormat, expected: IndexFormat) -> bool {
    let same = IndexFormat { gc_generation: expected.gc_generation, ..*found };
    same == expected && *found != expected
}

/// Notes an index that cannot be used.
pub(super) fn unusable(reason: &str, findings: &mut Findings) -> IndexChecked {
    let reason = format!("the index cannot be used ({reason}); the next opening makes it anew");
    findings.add(Finding::at(FindingKind::Index, "index", 0, reason));
    IndexChecked::NotCompared("it cannot be used")
}

impl Compared {
    /// Returns the rows of the packs.
    pub(super) fn pack_rows(&self) -> BTreeMap<PackId, PackRow> {
        self.rows.clone()
    }

    /// Returns the number of the last LOG entry that the index knows to be durable.
    ///
    /// # Errors
    /// What the index says.
    pub(super) fn log_mark(&self) -> Result<u64> {
        Ok(self.index.log_mark()?.sequence)
    }

    /// Tells where the index finds an object.
    ///
    /// # Errors
    /// What the index says.
    pub(super) fn find(&self, key: &Key) -> Result<Option<Location>> {
        self.index.find(key)
    }

    /// Compares what a pack's table says with the rows.
    ///
    /// # Errors
    /// What the index says.
    pub(super) fn compare(
        &mut self,
        pack: &Pack,
        sound: Sound,
        table: &Table,
        findings: &mut Findings,
        lost: &mut Lost,
    ) -> Result<()> {
        let entries = &table.entries;
        let name = pack.name();
        let row = self.rows.get(&pack.id).copied();
        // What the index does not know to be sealed is read when the store is opened.
        let all = row.is_some_and(|row| row.state == PackState::Sealed)
            && !pack.open
            && sound != Sound::Doomed;
        let found = self.index.find_many(&keys_of(entries, pack.id))?;
        let mut here = 0u64;
        for (entry, found) in entries.iter().zip(found) {
            let (key, place) = entry.row(pack.id);
            let fault = match found {
                Some(row) if row.pack == pack.id && row.offset == entry.offset => {
                    here = here.saturating_add(1);
                    let same = Location { incomplete: row.incomplete, ..place } == row;
                    (!same).then_some("its row in the index says another length or kind")
                }
                // Another copy, or a wrong row: the other direction tells.
                Some(_) => None,
                None => all.then_some("the index has no row for this record"),
            };
            if let Some(reason) = fault {
                let finding = Finding::at(FindingKind::IndexRow, &name, entry.offset, reason);
                findings.add(finding.of(key, entry.kind));
                let reference = Reference { kind: entry.kind, id: entry.id };
                let place = place_of(&place);
                lost.add(entry.domain, reference, LossCause::Unindexed, Some(place));
            }
        }
        self.here.insert(pack.id, here);
        let Some(row) = row else { return Ok(()) };
        let all_entries = wide(entries.len()).saturating_add(table.known);
        let wrong = match row.state {
            PackState::Sealed => sound == Sound::Yes && all_entries != u64::from(row.records),
            PackState::Open => sound == Sound::Yes && here < u64::from(row.records),
        };
        if wrong {
            let reason = format!(
                "the index says {} records, the pack has {}",
                row.records,
                if all { all_entries } else { here }
            );
            findings.add(Finding::at(FindingKind::IndexRow, &name, 0, reason));
        }
        Ok(())
    }

    /// Returns the packs that the index has objects of and that are gone, once all were compared.
    pub(super) fn packs_that_are_gone(&self) -> impl Iterator<Item = PackId> {
        let gone =
            |(pack, row): &(&PackId, &PackRow)| row.records > 0 && !self.here.contains_key(*pack);
        self.rows.iter().filter(gone).map(|(pack, _)| *pack)
    }

    /// Looks for rows that name a place where no record stands, once all packs were compared.
    ///
    /// # Errors
    /// What the index or the storage says.
    pub(super) fn compare_rows(
        &self,
        packs: &Packs<'_>,
        unsound: &HashSet<PackId>,
        findings: &mut Findings,
        lost: &mut Lost,
    ) -> Result<()> {
        let mut named: HashMap<PackId, u64> = HashMap::new();
        self.index.for_each(&mut |_, row| {
            let count = named.entry(row.pack).or_default();
            *count = count.saturating_add(1);
            Ok(())
        })?;
        for (pack, row) in &self.rows {
            if row.records > 0 && !self.here.contains_key(pack) {
                let reason = format!(
                    "the pack is gone, with {} objects that were acknowledged",
                    row.records
                );
                let name = sealed_name(*pack);
                findings.add(Finding::at(FindingKind::PackGone, &name, 0, reason));
            }
        }
        let here = |pack: &PackId| self.here.get(pack).copied().unwrap_or(0);
        let mut wrong: Vec<PackId> = named
            .iter()
            .filter(|(pack, count)| **count > here(pack))
            .map(|(pack, _)| *pack)
            .collect();
        wrong.sort_unstable();
        for group in wrong.chunks(PACKS_AT_ONCE) {
            let mut tables: HashMap<PackId, HashSet<(Key, u64)>> = HashMap::new();
            for id in group {
                let entries = match packs.find(*id) {
                    Some(pack) => packs.entries(pack)?,
                    None => Vec::new(),
                };
                let known = entries.iter().map(|entry| (entry.row(*id).0, entry.offset));
                tables.insert(*id, known.collect());
            }
            self.index.for_each(&mut |key, row| {
                let Some(table) = tables.get(&row.pack) else { return Ok(()) };
                if !table.contains(&(key, row.offset)) {
                    self.note_row(&key, &row, unsound, packs, findings, lost);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn note_row(
        &self,
        key: &Key,
        row: &Location,
        unsound: &HashSet<PackId>,
        packs: &Packs<'_>,
        findings: &mut Findings,
        lost: &mut Lost,
    ) {
        let pack = packs.find(row.pack);
        let name = pack.map_or_else(|| sealed_name(row.pack), Pack::name);
        // Of a pack that is damaged the row may well be right.
        let damaged = pack.is_none() || unsound.contains(&row.pack);
        let (kind, cause, reason) = if damaged {
            let reason = "a record that was acknowledged is gone or damaged";
            (FindingKind::Record, LossCause::Damaged, reason)
        } else {
            let reason = "the index leads here, and no such record stands here";
            (FindingKind::IndexRow, LossCause::Unindexed, reason)
        };
        // That a pack is gone stands in one finding.
        if pack.is_some() || !self.rows.contains_key(&row.pack) {
            findings.add(Finding::at(kind, &name, row.offset, reason).of(*key, row.kind));
        }
        let reference = Reference { kind: row.kind, id: key.id };
        lost.add(key.domain, reference, cause, Some(place_of(row)));
    }
}

fn place_of(row: &Location) -> RecordPlace {
    RecordPlace { pack: row.pack, offset: row.offset, len: row.record_len }
}
