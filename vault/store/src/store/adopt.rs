//! Open packs that an earlier process left: what is sound in them is kept, nothing is written
//! into them.
//!
//! What the index shows to have been synced stays where it is. Records behind that are sound in
//! the page cache at best (a failed sync, a killed process): they are put anew, by the same rules
//! as an agent's, into packs of this process. Then a table of what stays is made beside the pack,
//! and the pack becomes an object as it is, torn tail and all.

use std::sync::{Arc, Mutex};

use umbra_common::wire::Object;

use crate::bytes::wide;
use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::ids::{DomainId, MachineId, PackId, RunId, SessionNonce};
use crate::index::{Batch, Location, PackRow, PackState};
use crate::pack::{
    Contents, Entry, PACK_HEADER_BYTES, PackKind, contents_name, open_name, scan, sealed_name,
};
use crate::session::{Base, Put, SessionInfo, SessionState, Settled};
use crate::store::contents::{header_of, range};
use crate::store::inner::{Inner, locked};
use crate::store::settle::keys_of;

/// How the index stands to an open pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Its rows are right.
    Rows,
    /// It is being rebuilt; only the watermark is taken from before.
    Watermark,
}

/// What became of an open pack that was to be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// Whatever counts in it is in the index.
    Whole,
    /// Something could not be copied and is not alive, whoever refers to it. From then on it is
    /// not a node's fault that a child of it is not there, and no node is dropped for that.
    LeftOpen,
}

/// Why the index cannot be relied on once a pack was left open.
pub(crate) const NO_ROOM: &str = "there was no room to take an open pack over";

/// The records of an open pack, sorted by what becomes of them.
#[derive(Default)]
struct Sorted {
    /// Stay where they are; the index knows them, or is told.
    stay: Vec<Entry>,
    /// Are put anew.
    anew: Vec<(Entry, Object)>,
}

impl Inner {
    /// Says why the row of an open pack cannot be relied on, where it cannot: acknowledged bytes
    /// are damaged (which is noted), the index lost rows in the midst of others, or an earlier
    /// opening had no room to take the pack over.
    pub(crate) fn fault_of_open(
        &self,
        pack: PackId,
        row: Option<PackRow>,
    ) -> Result<Option<&'static str>> {
        let synced = row.map_or(0, |row| row.watermark);
        let name = open_name(pack);
        let bytes = self.whole_segment(&name)?;
        let (found, gaps) = scan(&bytes, wide(PACK_HEADER_BYTES), self.store);
        let mut damaged = wide(bytes.len()) < synced;
        if damaged {
            self.report(&name, wide(bytes.len()), "the pack is shorter than what was synced");
        }
        if synced > 0 && header_of(&bytes, &name).is_none() {
            damaged = true;
            self.report(&name, 0, "the pack header is damaged");
        }
        for gap in gaps.iter().filter(|gap| gap.offset < synced) {
            damaged = true;
            self.report(&name, gap.offset, gap.reason);
        }
        if damaged {
            return Ok(Some("an open pack was damaged"));
        }
        let entries = found.iter().filter_map(|found| self.proven(found, &name));
        let entries: Vec<Entry> = entries.collect();
        let rows = self.index.find_many(&keys_of(&entries, pack))?;
        let is_here = |(entry, row): &(&Entry, &Option<Location>)| {
            row.is_some_and(|row| row.pack == pack && row.offset == entry.offset)
        };
        let here = || entries.iter().zip(&rows).filter(is_here);
        let synced_here = wide(here().filter(|(entry, _)| entry.end() <= synced).count());
        if row.is_some_and(|row| synced_here < row.records.into()) {
            return Ok(Some("it lacked rows of an open pack"));
        }
        let left = |(_, row): (_, &Option<Location>)| row.is_some_and(|row| row.incomplete);
        let left = here().filter(|(entry, _)| entry.end() > synced).any(left);
        Ok(left.then_some(NO_ROOM))
    }

    /// Tells whether the index leads to records of a pack that was left open for want of room,
    /// and that the pack's table does not name since it was taken over. A power cut took what the
    /// index was told then.
    pub(crate) fn is_left_behind(&self, pack: PackId) -> Result<bool> {
        let Some(table) = self.table_beside(pack)? else { return Ok(false) };
        let name = sealed_name(pack);
        let len = self.objects.head(&name)?.map_or(0, |info| info.len);
        let bytes = self.objects.get_ranges(&name, &[range(0, len)?])?;
        let bytes = bytes.first().map(Vec::as_slice).unwrap_or_default();
        let (found, _) = scan(bytes, wide(PACK_HEADER_BYTES), self.store);
        for found in found {
            let row = self.index.find(&found.record.header.key())?;
            let here = row.is_some_and(|row| row.pack == pack && row.offset == found.offset);
            if here && !table.entries.iter().any(|entry| entry.offset == found.offset) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Orders open packs so that children come before parents: chunks first, then nodes in the
    /// order of their packs.
    pub(crate) fn in_order(&self, packs: Vec<PackId>) -> Result<Vec<PackId>> {
        let mut ordered = Vec::new();
        for pack in packs {
            let name = open_name(pack);
            let len = self.open_len(&name)?.min(wide(PACK_HEADER_BYTES));
            let found = self.journal.get_ranges(&name, &[range(0, len)?])?;
            let header = header_of(found.first().map(Vec::as_slice).unwrap_or_default(), &name);
            let place = header.map_or((true, u64::MAX, 0), |header| {
                (header.kind == PackKind::Nodes, header.epoch, header.number)
            });
            ordered.push((place, pack));
        }
        ordered.sort_unstable();
        Ok(ordered.into_iter().map(|(_, pack)| pack).collect())
    }

    /// Takes an open pack over. `synced` is how far it was known to be durable.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub(crate) fn adopt(&self, pack: PackId, synced: u64, trust: Trust) -> Result<Adopted> {
        let name = open_name(pack);
        if self.objects.head(&sealed_name(pack))?.is_some() {
            // Sealing was cut off after the object was made.
            self.journal.remove(&name)?;
            self.take_sealed(pack)?;
            return Ok(Adopted::Whole);
        }
        self.journal.sync(&name)?;
        pass(Point::AdoptSynced);
        let len = self.open_len(&name)?;
        let read = |range| {
            let found = self.journal.get_ranges(&name, &[range]);
            found.map(|mut found| found.pop().unwrap_or_default())
        };
        if let Some(contents) = self.footer(pack, &name, len, &read)? {
            // Sealing was cut off before the rename. All records were synced before the footer
            // was written; the footer itself may not be: the table goes beside it too.
            self.seal_as_it_is(&contents)?;
            return Ok(Adopted::Whole);
        }
        if len <= wide(PACK_HEADER_BYTES) && synced <= wide(PACK_HEADER_BYTES) {
            // Made, and nothing put into it.
            self.journal.remove(&name)?;
            self.index.apply(&Batch { remove_packs: vec![pack], ..Batch::default() })?;
            return Ok(Adopted::Whole);
        }
        let bytes = self.whole_segment(&name)?;
        let sorted = self.sort_records(pack, &bytes, synced, trust)?;
        let refused = self.put_anew(&sorted.anew, trust)?;
        pass(Point::AdoptPutAnew);
        if refused.iter().any(|(_, because)| *because == Because::Storage) {
            // No room to copy: what could not be copied stays readable where it is, but is not
            // relied on; the pack stays open and is tried again at the next opening.
            self.leave_open(pack, &sorted, synced, &refused)?;
            return Ok(Adopted::LeftOpen);
        }
        let end = sorted.stay.last().map_or(0, Entry::end);
        // A pack that lost its end covers what is left of it.
        let covers = synced.max(end).max(wide(PACK_HEADER_BYTES)).min(len);
        self.seal_as_it_is(&Contents { store: self.store, pack, covers, entries: sorted.stay })?;
        Ok(Adopted::Whole)
    }

    /// Decides for each sound record of an open pack.
    fn sort_records(
        &self,
        pack: PackId,
        bytes: &[u8],
        synced: u64,
        trust: Trust,
    ) -> Result<Sorted> {
        let name = open_name(pack);
        let (found, _) = scan(bytes, wide(PACK_HEADER_BYTES), self.store);
        let mut sorted = Sorted::default();
        for found in &found {
            let Some(entry) = self.proven(found, &name) else { continue };
            let key = found.record.header.key();
            let row = self.index.find(&key)?;
            // A row of a record that could not be put anew (no room) does not make it durable.
            let is_here = |row: &Location| {
                let anew = row.incomplete && entry.end() > synced;
                row.pack == pack && row.offset == entry.offset && !anew
            };
            if row.as_ref().is_some_and(is_here) {
                sorted.stay.push(entry);
            } else if Self::is_alive(row.as_ref(), entry.kind) {
                // It stands elsewhere.
            } else if entry.end() > synced {
                let object = self.open_body(&found.record, &name, entry.offset)?;
                sorted.anew.push((entry, object));
            } else if trust == Trust::Watermark {
                sorted.stay.push(entry);
            }
            // Else it was refused when it was new.
        }
        Ok(sorted)
    }

    /// Puts records anew and returns those that were not taken.
    ///
    /// Without the rows nobody can tell whether a node that misses a child was ever acknowledged.
    /// It is put anew too, and is not alive unless the rebuild finds all its children. To leave it
    /// where it is would not do: its bytes may be in the page cache alone, for good, and a later
    /// rebuild that finds the children would bring it to life.
    fn put_anew(&self, records: &[(Entry, Object)], trust: Trust) -> Result<Vec<(Entry, Because)>> {
        let failed = Arc::new(Mutex::new(Vec::<(u64, Because)>::new()));
        let mut sessions = std::collections::BTreeMap::<DomainId, Arc<SessionState>>::new();
        for (number, (entry, object)) in (0u64..).zip(records) {
            let session = sessions
                .entry(entry.domain)
                .or_insert_with(|| Arc::new(adopting_session(entry.domain, &failed)));
            match self.put(session, number, object) {
                Ok(Put::Accepted) => {}
                Ok(Put::Missing(_)) => match trust {
                    Trust::Rows => locked(&failed).push((number, Because::Orphan)),
                    Trust::Watermark => {
                        if self.put_orphan(session, number, object).is_err() {
                            locked(&failed).push((number, Because::Storage));
                        }
                    }
                },
                Err(error) => {
                    let because = match error.root() {
                        Error::WrongBytes { .. } | Error::Limit { .. } => Because::Forged,
                        _ => Because::Storage,
                    };
                    locked(&failed).push((number, because));
                }
            }
        }
        self.flush()?;
        let failed = locked(&failed);
        let mut refused = Vec::new();
        for (number, (entry, _)) in (0u64..).zip(records) {
            let because = failed.iter().find(|(other, _)| *other == number);
            if let Some((_, because)) = because {
                refused.push((entry.clone(), *because));
            }
        }
        Ok(refused)
    }

    /// Makes the table beside a pack, and the pack an object.
    fn seal_as_it_is(&self, contents: &Contents) -> Result<()> {
        let pack = contents.pack;
        let beside = contents_name(pack);
        if self.objects.head(&beside)?.is_some() {
            // From an opening that was cut off here; nobody reads it before the pack is sealed.
            self.objects.delete(&beside)?;
        }
        self.objects.put_new(&beside, &contents.encode())?;
        pass(Point::AdoptTableWritten);
        self.journal.seal(&open_name(pack), &sealed_name(pack))?;
        pass(Point::AdoptSealed);
        self.parity.sealed(pack);
        self.take_contents(contents)?;
        pass(Point::AdoptIndexed);
        Ok(())
    }

    fn leave_open(
        &self,
        pack: PackId,
        sorted: &Sorted,
        synced: u64,
        refused: &[(Entry, Because)],
    ) -> Result<()> {
        let left = sorted.stay.iter().map(|entry| (entry, false));
        let ours = refused.iter().filter(|(_, because)| *because != Because::Forged);
        let left = left.chain(ours.map(|(entry, _)| (entry, true)));
        let mut put = Vec::new();
        let mut records = 0u32;
        for (entry, incomplete) in left {
            let (key, location) = entry.row(pack);
            let row = self.index.find(&key)?;
            let is_here = row.is_none_or(|row| row.pack == pack && row.offset == entry.offset);
            records = records.saturating_add(u32::from(is_here && !incomplete));
            if row.is_none() {
                put.push((key, Location { incomplete, ..location }));
            }
        }
        let row = PackRow { state: PackState::Open, watermark: synced, records };
        self.index.apply(&Batch { put, packs: vec![(pack, row)], ..Batch::default() })
    }

    /// Takes what an open pack holds into an index that nobody relies on (a reader's); rows of
    /// which `keep` is false are replaced.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub(crate) fn take_open(
        &self,
        pack: PackId,
        from: u64,
        keep: impl Fn(&Location) -> bool,
    ) -> Result<()> {
        let name = open_name(pack);
        let bytes = self.whole_segment(&name)?;
        let (found, _) = scan(&bytes, from.max(wide(PACK_HEADER_BYTES)), self.store);
        let entries: Vec<Entry> = found.iter().filter_map(|f| self.proven(f, &name)).collect();
        let watermark = entries.last().map_or(from, Entry::end);
        let mut put = Vec::new();
        for entry in &entries {
            let (key, location) = entry.row(pack);
            if !self.index.find(&key)?.as_ref().is_some_and(&keep) {
                put.push((key, location));
            }
        }
        let records = crate::bytes::narrow32(entries.len());
        let row = PackRow { state: PackState::Open, watermark, records };
        self.index.apply(&Batch { put, packs: vec![(pack, row)], ..Batch::default() })
    }
}

/// Why a record was not taken anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    /// Something it refers to is not there: it was never acknowledged.
    Orphan,
    /// It is not what its id says: it was never ours.
    Forged,
    /// The storage failed.
    Storage,
}

/// A session in which a store puts its own records anew.
pub(crate) fn adopting_session(
    domain: DomainId,
    failed: &Arc<Mutex<Vec<(u64, Because)>>>,
) -> SessionState {
    let failed = Arc::clone(failed);
    let on_settled = Box::new(move |settled: Settled| {
        // A node whose child could not be written has failed for the same reason.
        if let Settled::Failed { numbers, .. } = settled {
            let numbers = numbers.into_iter().flatten();
            locked(&failed).extend(numbers.map(|number| (number, Because::Storage)));
        }
    });
    let info = SessionInfo {
        machine: MachineId::default(),
        machine_name: String::new(),
        disk: String::new(),
        domain,
        nonce: SessionNonce::default(),
        run: RunId::default(),
        base: None,
        on_settled,
    };
    SessionState::new(0, info, Base::None)
}
