//! Repairing a store: what is damaged is made anew where that can be, and known where it cannot.
//!
//! Nothing is written in place. A damaged record whose bytes the pack's parity gives back is
//! written again by the lanes, as any record, and its row is switched when it is durable. Where
//! another sound copy stands elsewhere, the row is pointed there. What can be had from nowhere
//! loses its row, and every node above it becomes incomplete, so that the next backup that has the
//! bytes sends them again. Each damaged place goes into the LOG: a rebuild of the index passes over
//! it, and a check tells it as known.
//!
//! In this order, so that a crash leaves at each point no more claimed than is there: new records
//! (durable before their rows), tables beside packs, then under the gate the index in one batch,
//! then the LOG. An index that lost that batch is behind the LOG's entry, and is made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use umbra_common::Reference;
use umbra_common::wire::Object;

use crate::bytes::wide;
use crate::error::{Error, Result};
use crate::ids::{DomainId, PackId, Timestamp};
use crate::index::{Key, Location};
use crate::log::Entry as LogEntry;
use crate::object::prove;
use crate::pack::{Entry, Record, sealed_name};
use crate::session::SessionState;
use crate::store::Store;
use crate::store::adopt::{Because, adopting_session};
use crate::store::contents::range;
use crate::store::inner::{IndexState, Inner, locked};
use crate::store::lane::Lane;

mod pack;
mod quarantine;

use pack::{Examined, Fix};

/// Packs that a report tells of one by one; all are counted.
const KEPT_PACKS: usize = 1_000;

/// Records made anew that wait for the disk together, in bytes.
const HEALING_BYTES: u64 = 64 << 20;

/// What is repaired, and how.
#[derive(Clone, Debug, Default)]
pub struct RepairOptions {
    /// The packs that a check found damaged: see [`crate::CheckReport::damaged_packs`].
    pub packs: Vec<PackId>,
    /// The check found the index to be wrong: it is made anew, too.
    pub rebuild_index: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What became of the damaged records of one pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackRepair {
    /// The pack.
    pub pack: PackId,
    /// It is gone, with all that it held.
    pub gone: bool,
    /// Records that were made anew from its parity.
    pub from_parity: u64,
    /// Records of which another copy is read from now on, or was already.
    pub from_copies: u64,
    /// Records that nothing could be made of.
    pub lost: u64,
    /// Records that were quarantined and are sound again.
    pub lifted: u64,
    /// Its header is damaged. It is needed for nothing.
    pub header: bool,
    /// Its table of contents was written beside it.
    pub table: bool,
    /// Its parity was made anew.
    pub parity: bool,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Records that were made anew from parity.
    pub from_parity: u64,
    /// Records of which another copy is read.
    pub from_copies: u64,
    /// Records that nothing could be made of.
    pub lost: u64,
    /// Records that were quarantined and are sound again.
    pub lifted: u64,
    /// Places that were put into quarantine.
    pub quarantined: u64,
    /// Nodes that miss something below them.
    pub incomplete: u64,
    /// The index was made anew.
    pub index_rebuilt: bool,
    /// The packs in which something was done: the first 1 000.
    pub packs: Vec<PackRepair>,
    /// How many packs there were.
    pub packs_total: u64,
}

/// What a repair carries from pack to pack.
#[derive(Default)]
struct Plan {
    examined: Vec<Examined>,
    /// Sound records of objects whose row leads to another pack that is looked at.
    spares: BTreeMap<Key, Object>,
    /// Objects that no parity gives back, and where a sound copy of them stands.
    wanted: BTreeMap<Key, Option<Location>>,
}

impl Store {
    /// Repairs what can be repaired, and quarantines what cannot.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::Busy`] beside another repair or a rebuild; what the storage
    /// or the index says. Then what was done is sound, and the rest is as it was.
    pub fn repair(&self, options: &RepairOptions, now: Timestamp) -> Result<RepairReport> {
        self.inner.writable()?;
        let _turn = self.inner.maintenance.begin("a repair (check --repair)")?;
        // What stands in open packs of this process is sealed, and then as any other.
        self.inner.lanes.iter().for_each(Lane::seal_all);
        let plan = {
            let _gate = self.gate()?;
            self.inner.make_plan(options)?
        };
        let mut report = plan.report(options.dry_run);
        if options.dry_run {
            return Ok(report);
        }
        let mut state = self.inner.gate.write().unwrap_or_else(PoisonError::into_inner);
        if *state == IndexState::HalfMade {
            return Err(Error::IndexHalfMade);
        }
        self.inner.lanes.iter().for_each(Lane::seal_all);
        report.quarantined = self.inner.quarantine(&plan, now)?;
        if options.rebuild_index {
            *state = IndexState::HalfMade;
            let rebuilt = self.inner.rebuild(now)?;
            *state = IndexState::Whole;
            self.inner.log.append(LogEntry::IndexRebuilt { objects: rebuilt.objects }, now)?;
            report.incomplete = rebuilt.incomplete;
            report.index_rebuilt = true;
        } else {
            report.incomplete = self.inner.find_all_incomplete()?;
            self.inner.index.sync()?;
        }
        drop(state);
        self.inner.make_parities(&plan, &mut report)?;
        Ok(report)
    }
}

impl Inner {
    /// Looks at the damaged packs and, unless it is a dry run, writes anew what parity gives back.
    fn make_plan(&self, options: &RepairOptions) -> Result<Plan> {
        let mut packs: BTreeSet<PackId> = options.packs.iter().copied().collect();
        packs.extend(self.log.with_state(|state| {
            let known = state.quarantined.keys().copied();
            known.collect::<Vec<PackId>>()
        }));
        let mut rows = self.rows_of(&packs)?;
        let mut plan = Plan::default();
        let mut healer = Healer::new(self, options.dry_run);
        for pack in &packs {
            let rows = rows.remove(pack).unwrap_or_default();
            let Some(mut examined) = self.examine(*pack, rows)? else { continue };
            for damaged in &mut examined.damaged {
                match (&damaged.fix, damaged.leads_elsewhere) {
                    (Fix::Record(object), None) => {
                        healer.heal(damaged.key.domain, object)?;
                        damaged.fix = Fix::FromParity;
                    }
                    (Fix::Record(object), Some(other)) if packs.contains(&other) => {
                        plan.spares.insert(damaged.key, object.clone());
                        damaged.fix = Fix::Elsewhere;
                    }
                    (_, Some(_)) => damaged.fix = Fix::Elsewhere,
                    (_, None) => {
                        plan.wanted.insert(damaged.key, None);
                    }
                }
            }
            if !options.dry_run {
                self.write_table(&examined)?;
            }
            plan.examined.push(examined);
        }
        plan.wanted.retain(|key, _| match plan.spares.remove(key) {
            // Its row leads to a record that is lost, and this one is not.
            Some(object) => {
                healer.later.push((key.domain, object));
                false
            }
            None => true,
        });
        healer.finish()?;
        self.find_copies(&mut plan)?;
        plan.settle_fixes();
        Ok(plan)
    }

    /// Returns the rows that lead to these packs.
    fn rows_of(&self, packs: &BTreeSet<PackId>) -> Result<BTreeMap<PackId, Vec<(Key, Location)>>> {
        let mut found: BTreeMap<PackId, Vec<(Key, Location)>> = BTreeMap::new();
        self.index.for_each(&mut |key, row| {
            if packs.contains(&row.pack) {
                found.entry(row.pack).or_default().push((key, row));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Looks through all tables for sound copies of the objects that parity does not give back.
    fn find_copies(&self, plan: &mut Plan) -> Result<()> {
        if plan.wanted.is_empty() {
            return Ok(());
        }
        let examined = plan.examined.iter();
        let lifted: BTreeSet<(PackId, u64)> = examined
            .flat_map(|found| found.lifted.iter().map(|entry| (found.pack, entry.offset)))
            .collect();
        for pack in self.sealed_packs()? {
            let mut known_bad = self.quarantined(pack);
            known_bad.retain(|offset| !lifted.contains(&(pack, *offset)));
            for entry in self.contents(pack)?.entries {
                let (key, place) = entry.row(pack);
                let Some(found) = plan.wanted.get_mut(&key) else { continue };
                if found.is_none() && !known_bad.contains(&entry.offset) {
                    let bytes = range(entry.offset, entry.record_len().into())
                        .and_then(|range| self.pack_ranges(pack, &[range]));
                    let record = bytes.as_deref().ok().and_then(<[Vec<u8>]>::first);
                    let record = record.map(Vec::as_slice).unwrap_or_default();
                    let sound = self.sound_object(&entry, record, &sealed_name(pack));
                    *found = sound.map(|_| place);
                }
            }
        }
        Ok(())
    }

    /// Returns the object of an entry where its record is sound and its id proven.
    pub(crate) fn sound_object(&self, entry: &Entry, bytes: &[u8], path: &str) -> Option<Object> {
        let record = Record::verify(bytes, self.store).ok()?;
        let found = Entry::new(entry.offset, &record.header, record.refs.clone());
        let object = self.open_body(&record, path, entry.offset).ok()?;
        (found == *entry && prove(&object).is_ok()).then_some(object)
    }

    /// Makes the parity anew that is damaged, or that the looked-at packs lack.
    fn make_parities(&self, plan: &Plan, report: &mut RepairReport) -> Result<()> {
        if !self.parity.is_open() {
            return Ok(());
        }
        for examined in plan.examined.iter().filter(|examined| examined.parity_bad) {
            let made = self.make_parity_anew(examined.pack)?;
            let mut told = report.packs.iter_mut();
            if let Some(told) = told.find(|told| told.pack == examined.pack) {
                told.parity = made;
            }
        }
        for pack in self.without_parity()? {
            self.parity.sealed(pack);
        }
        Ok(())
    }
}

/// Writes records anew, some at a time.
struct Healer<'a> {
    inner: &'a Inner,
    dry_run: bool,
    sessions: BTreeMap<DomainId, Arc<SessionState>>,
    failed: Arc<Mutex<Vec<(u64, Because)>>>,
    number: u64,
    waiting_bytes: u64,
    /// Found only once all packs were looked at.
    later: Vec<(DomainId, Object)>,
}

impl<'a> Healer<'a> {
    fn new(inner: &'a Inner, dry_run: bool) -> Self {
        let (sessions, failed) = (BTreeMap::new(), Arc::default());
        Self { inner, dry_run, sessions, failed, number: 0, waiting_bytes: 0, later: Vec::new() }
    }

    fn heal(&mut self, domain: DomainId, object: &Object) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let failed = &self.failed;
        let session = self
            .sessions
            .entry(domain)
            .or_insert_with(|| Arc::new(adopting_session(domain, failed)));
        self.inner.put_healing(session, self.number, object)?;
        self.number = self.number.saturating_add(1);
        self.waiting_bytes = self.waiting_bytes.saturating_add(wide(object.body.len()));
        if self.waiting_bytes > HEALING_BYTES { self.settle() } else { Ok(()) }
    }

    fn settle(&mut self) -> Result<()> {
        self.waiting_bytes = 0;
        self.inner.flush()?;
        match locked(&self.failed).first() {
            Some(_) => Err(Error::InDoubt { path: "the records that were made anew".to_owned() }),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<()> {
        for (domain, object) in std::mem::take(&mut self.later) {
            self.heal(domain, &object)?;
        }
        if self.dry_run { Ok(()) } else { self.settle() }
    }
}

impl Plan {
    /// Says of each damaged record what becomes of it, now that all packs were looked at.
    fn settle_fixes(&mut self) {
        for damaged in self.examined.iter_mut().flat_map(|examined| &mut examined.damaged) {
            if matches!(damaged.fix, Fix::None) {
                damaged.fix = match self.wanted.get(&damaged.key) {
                    Some(Some(copy)) => Fix::Copy(*copy),
                    Some(None) => Fix::None,
                    // A record of another pack was made anew.
                    None => Fix::Elsewhere,
                };
            }
        }
    }

    fn report(&self, dry_run: bool) -> RepairReport {
        let mut report = RepairReport { dry_run, ..RepairReport::default() };
        for examined in &self.examined {
            let mut told = PackRepair {
                pack: examined.pack,
                gone: examined.gone,
                from_parity: 0,
                from_copies: 0,
                lost: 0,
                lifted: wide(examined.lifted.len()),
                header: examined.header_bad,
                table: examined.table.is_some(),
                parity: examined.parity_bad,
            };
            for damaged in examined.damaged.iter().filter(|damaged| damaged.is_news()) {
                let count = match damaged.fix {
                    Fix::FromParity | Fix::Record(_) => &mut told.from_parity,
                    Fix::Elsewhere | Fix::Copy(_) => &mut told.from_copies,
                    Fix::None => &mut told.lost,
                };
                *count = count.saturating_add(1);
            }
            report.from_parity = report.from_parity.saturating_add(told.from_parity);
            report.from_copies = report.from_copies.saturating_add(told.from_copies);
            report.lost = report.lost.saturating_add(told.lost);
            report.lifted = report.lifted.saturating_add(told.lifted);
            let nothing = PackRepair { pack: told.pack, ..PackRepair::nothing() };
            if told == nothing {
                continue;
            }
            report.packs_total = report.packs_total.saturating_add(1);
            if report.packs.len() < KEPT_PACKS {
                report.packs.push(told);
            }
        }
        report
    }
}

impl PackRepair {
    fn nothing() -> Self {
        Self {
            pack: PackId([0; 16]),
            gone: false,
            from_parity: 0,
            from_copies: 0,
            lost: 0,
            lifted: 0,
            header: false,
            table: false,
            parity: false,
        }
    }
}

/// Returns what a row is looked up by, as a reference.
pub(super) fn reference_of(key: &Key, row: &Location) -> Reference {
    Reference { kind: row.kind, id: key.id }
}
