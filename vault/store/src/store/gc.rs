//! Collecting: finds what no snapshot needs, and gives its space back.
//!
//! The steps and what makes each of them safe stand in the crate's documentation (the table of
//! operations). In short: mark from the roots, condemn once, wait for those who began before,
//! mark what they committed, decide in the LOG, hide in the index, then delete.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use umbra_common::ObjectId;

use crate::bytes::wide;
use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::ids::{DomainId, PackId, Timestamp};
use crate::index::Batch;
use crate::log::{Entry, LogState, MAX_SEQUENCES};
use crate::pack::{open_name, sealed_name};
use crate::store::Store;
use crate::store::check::roots::Root;
use crate::store::contents::range;
use crate::store::inner::{IndexState, Inner, locked};

mod condemn;
mod condemned;
mod hide;
mod list;
mod maintenance;
mod mark;
mod news;
mod readers;
mod report;
mod sweep;

pub(crate) use condemned::{Condemned, View};
pub(crate) use list::{SweepList, encoded_again as list_encoded_again, generation_of, list_name};
pub(crate) use maintenance::Maintenance;
pub use readers::ReaderPin;
pub(crate) use readers::Readers;
pub use report::GcReport;

use condemn::Judged;
use hide::Hiding;
use mark::Marks;
use news::News;
use sweep::Sweep;

/// A session that was silent for this long is over.
const LEASE_NANOS: i64 = 24 * 3600 * 1_000_000_000;

/// How often it is looked whether the sessions of before have ended.
const PAUSE: Duration = Duration::from_millis(50);

/// How a collection is done.
pub struct GcOptions<'a> {
    /// Do not wait for the end of the time in which forgetting can be undone.
    pub at_once: bool,
    /// Change nothing, say what would be done.
    pub dry_run: bool,
    /// Bytes a second that are copied at most.
    pub limit: Option<u64>,
    /// How long it waits for the sessions that began before; `None`: as long as they last.
    pub wait: Option<Duration>,
    /// The vault's clock.
    pub clock: &'a dyn Fn() -> Timestamp,
    /// Tells whether to stop.
    pub stop: &'a dyn Fn() -> bool,
}

impl Store {
    /// Collects: finishes a sweep that was cut off, then makes one of its own.
    ///
    /// # Errors
    /// [`Error::Busy`] beside another collection, repair or rebuild; [`Error::NotCollected`] where
    /// something is missing or damaged; [`Error::Stopped`]; what the storage or the index says.
    pub fn gc(&self, options: &GcOptions<'_>) -> Result<GcReport> {
        self.inner.writable()?;
        drop(self.gate()?);
        let _turn = self.inner.maintenance.begin("a collection (gc)")?;
        self.inner.look_after_reserve();
        let mut report = GcReport::default();
        if !options.dry_run {
            self.inner.finish_sweep(options, &mut report)?;
        }
        self.inner.collect(options, &mut report)?;
        self.inner.look_after_reserve();
        Ok(report)
    }

    /// Keeps what a snapshot needs until the pin is dropped, forgotten or not; `None` where no
    /// receipt names the snapshot.
    pub fn pin(&self, snapshot: &ObjectId) -> Option<ReaderPin> {
        // Looked for afterwards: a collection in between has seen the pin, or the receipt is gone.
        let receipt = self.receipt_of(snapshot)?;
        let pin = self.inner.readers.pin(DomainId(receipt.domain), *snapshot);
        self.receipt_of(snapshot).map(|_| pin)
    }
}

/// The snapshots that count, and those whose time is over.
struct Roots {
    due: BTreeSet<u64>,
    list: Vec<Root>,
    known: HashSet<(DomainId, ObjectId)>,
}

impl Inner {
    fn roots(&self, due: BTreeSet<u64>) -> Roots {
        let mut list = Vec::new();
        let mut known = HashSet::new();
        let mut add = |sequence: u64, domain: DomainId, snapshot| {
            if known.insert((domain, snapshot)) {
                let name = crate::receipt::receipt_name(sequence);
                list.push(Root { sequence, name, domain, snapshot, receipt: None });
            }
        };
        for (sequence, stored) in &locked(&self.receipts).stored {
            if !due.contains(sequence) {
                add(*sequence, DomainId(stored.receipt.domain), stored.receipt.snapshot);
            }
        }
        // A receipt that cannot be read is a root all the same; the LOG names its snapshot.
        self.log.with_state(|state| {
            for (sequence, (_, snapshot)) in &state.receipts {
                if !due.contains(sequence) {
                    add(*sequence, DomainId(0), *snapshot);
                }
            }
        });
        for (domain, snapshot) in self.readers.pinned() {
            add(0, domain, snapshot);
        }
        Roots { due, list, known }
    }

    fn collect(&self, options: &GcOptions<'_>, report: &mut GcReport) -> Result<()> {
        let now = (options.clock)();
        let due = self.log.with_state(|state| due(state, now, options.at_once));
        // What they reach was durable before, so it stands in the packs that are sealed now.
        let roots = self.roots(due);
        self.lanes.iter().for_each(crate::store::lane::Lane::seal_all);
        report.roots = wide(roots.list.len());
        let forgotten = self.log.with_state(|state| state.forgotten.len());
        report.forgotten = wide(forgotten.saturating_sub(roots.due.len()));
        let marks = Marks::make(self, &roots.list)?;
        let victims: BTreeSet<PackId> = marks
            .sealed
            .iter()
            .filter(|(_, used)| used.is_victim())
            .map(|(pack, _)| *pack)
            .collect();
        foretell(&marks, &victims, report);
        if options.dry_run {
            report.expunged = roots.due.into_iter().collect();
            return Ok(());
        }
        if victims.is_empty() && roots.due.is_empty() {
            return Ok(());
        }
        (report.packs_deleted, report.bytes_freed) = (0, 0);
        (report.packs_copied, report.bytes_copied) = (0, 0);
        let judged = Judged::judge(self, &marks, &victims)?;
        pass(Point::GcJudged);
        self.wait_for_those_before(&judged, options, report)?;
        let mut news = News {
            inner: self,
            marks: &marks,
            condemned: &judged.condemned,
            seen: HashSet::new(),
            rescued: 0,
        };
        for root in self.roots(roots.due.clone()).list {
            if !roots.known.contains(&(root.domain, root.snapshot)) {
                news.mark(root.domain, root.snapshot)?;
            }
        }
        let list = self.decide(&marks, &victims, &roots.due, &judged, options)?;
        pass(Point::GcDecided);
        report.expunged = roots.due.into_iter().collect();
        let hidden = Hiding {
            inner: self,
            marks: &marks,
            condemned: &judged.condemned,
            victims: &victims,
            batch: Batch::default(),
        }
        .run();
        if let Err(error) = hidden {
            // The LOG is ahead of the index: it is made anew at the next opening, and nobody may
            // rely on what is left of it.
            self.doubt();
            *self.gate.write().unwrap_or_else(PoisonError::into_inner) = IndexState::HalfMade;
            return Err(error);
        }
        pass(Point::GcHidden);
        *locked(&self.doomed) = Some(Arc::new(list));
        drop(judged);
        self.finish_sweep(options, report)
    }

    /// Waits until nobody is left who may rely on what is condemned.
    fn wait_for_those_before(
        &self,
        judged: &Judged<'_>,
        options: &GcOptions<'_>,
        report: &mut GcReport,
    ) -> Result<()> {
        let started = Instant::now();
        let last = judged.condemned.last_session();
        loop {
            let oldest = Timestamp((options.clock)().0.saturating_sub(LEASE_NANOS));
            if self.leases.expire(last, oldest) == 0 {
                break;
            }
            if options.wait.is_some_and(|wait| started.elapsed() >= wait) {
                return Err(Error::StillUnderWay);
            }
            if (options.stop)() {
                return Err(Error::Stopped);
            }
            std::thread::sleep(PAUSE);
        }
        // Calls that were under way are over, and what they put is settled.
        drop(self.gate.write().unwrap_or_else(PoisonError::into_inner));
        self.flush()?;
        let waited = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        report.waited_ms = report.waited_ms.saturating_add(waited);
        Ok(())
    }

    /// Writes the list, then what the LOG says of it: from here on there is no way back.
    fn decide(
        &self,
        marks: &Marks<'_>,
        victims: &BTreeSet<PackId>,
        expunged: &BTreeSet<u64>,
        judged: &Judged<'_>,
        options: &GcOptions<'_>,
    ) -> Result<SweepList> {
        let generation = self.gc_generation().saturating_add(1);
        let mut packs = BTreeMap::new();
        for pack in victims {
            let Some(used) = marks.sealed.get(pack) else { continue };
            let mut live = used.live.clone();
            for (number, entry) in marks.entries(*pack)?.iter().enumerate() {
                if judged.condemned.is_rescued(*pack, entry.offset) {
                    live.set(number);
                }
            }
            packs.insert(*pack, live);
        }
        let list = SweepList { generation, packs };
        let name = list_name(generation);
        if self.objects.head(&name)?.is_some() {
            // Written by a collection that was cut off before the LOG named it.
            self.objects.delete(&name)?;
        }
        self.objects.put_new(&name, &list.encode(self.store))?;
        pass(Point::GcListed);
        let digest = list.digest(self.store);
        let now = (options.clock)();
        self.log.update(now, |state| {
            let still = due(state, now, options.at_once);
            if !expunged.is_subset(&still) {
                let reason = "a snapshot that was to go was taken back meanwhile".to_owned();
                return Err(Error::NotCollected { reason });
            }
            let sequences: Vec<u64> = expunged.iter().copied().collect();
            let mut entries: Vec<Entry> = sequences
                .chunks(MAX_SEQUENCES)
                .map(|part| Entry::Expunged { sequences: part.iter().copied().collect() })
                .collect();
            entries.push(Entry::SweepBegun { generation, list: digest });
            Ok((entries, ()))
        })?;
        locked(&self.receipts).stored.retain(|sequence, _| !expunged.contains(sequence));
        Ok(list)
    }

    /// Goes on with a sweep that the LOG says has begun, to its end.
    fn finish_sweep(&self, options: &GcOptions<'_>, report: &mut GcReport) -> Result<()> {
        let Some(list) = locked(&self.doomed).clone() else { return Ok(()) };
        let stop = options.stop;
        let (limit, clock) = (options.limit, options.clock);
        let mut sweep = Sweep { inner: self, list: &list, limit, stop, clock, report };
        if sweep.run()? {
            self.end_sweep((options.clock)())?;
            pass(Point::GcEnded);
            self.remove_leftovers()?;
        }
        Ok(())
    }

    /// Notes that a sweep is over: done, or void.
    pub(crate) fn end_sweep(&self, now: Timestamp) -> Result<()> {
        let (generation, sweep) = self.log.with_state(|state| (state.gc_generation, state.sweep));
        if sweep.is_some() {
            self.log.append(Entry::SweepEnded { generation }, now)?;
        }
        *locked(&self.doomed) = None;
        Ok(())
    }

    /// Notes that what was known to be damaged in packs is gone with them.
    fn lift_quarantine_of(&self, packs: &[PackId], now: Timestamp) -> Result<()> {
        self.log.update(now, |state| {
            let known = packs.iter().filter(|pack| state.quarantined.contains_key(pack));
            let lift = |pack: &PackId| Entry::QuarantineLifted { pack: *pack, offsets: Vec::new() };
            Ok((known.map(lift).collect(), ()))
        })
    }

    /// Tells whether a pack stands on the list of a sweep.
    pub(crate) fn is_doomed(&self, pack: PackId) -> bool {
        locked(&self.doomed).as_ref().is_some_and(|list| list.packs.contains_key(&pack))
    }

    /// Removes what counts no more: receipts that are expunged, lists of sweeps that are over,
    /// what stood beside packs that are gone.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn remove_leftovers(&self) -> Result<()> {
        let (expunged, generation) = self.log.with_state(|state| {
            let current = state.sweep.is_some().then_some(state.gc_generation);
            (state.expunged.keys().copied().collect::<BTreeSet<u64>>(), current)
        });
        for name in self.objects.list("receipts/")? {
            let sequence = crate::receipt::sequence_of(&name);
            if sequence.is_some_and(|sequence| expunged.contains(&sequence)) {
                self.objects.delete(&name)?;
            }
        }
        for name in self.objects.list("gc/")? {
            if generation_of(&name).is_some_and(|found| Some(found) != generation) {
                self.remove_beside_gone(&name)?;
                self.objects.delete(&name)?;
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Removes what stood beside the packs of a list that counts no more, where they are gone.
    fn remove_beside_gone(&self, list: &str) -> Result<()> {
        let len = self.objects.head(list)?.map_or(0, |info| info.len);
        let bytes = self.objects.get_ranges(list, &[range(0, len)?])?.pop().unwrap_or_default();
        // One that was not written to the end has deleted nothing.
        let Ok(list) = SweepList::decode(&bytes, self.store, list) else { return Ok(()) };
        for pack in list.packs.keys() {
            let there = self.objects.head(&sealed_name(*pack))?.is_some();
            if !there && self.journal.len(&open_name(*pack))?.is_none() {
                self.delete_pack(*pack)?;
            }
        }
        Ok(())
    }
}

fn due(state: &LogState, now: Timestamp, at_once: bool) -> BTreeSet<u64> {
    state.due(now, at_once).into_iter().collect()
}

/// Says what a collection of these victims does.
fn foretell(marks: &Marks<'_>, victims: &BTreeSet<PackId>, report: &mut GcReport) {
    for (pack, used) in &marks.sealed {
        report.packs = report.packs.saturating_add(1);
        report.bytes = report.bytes.saturating_add(used.len);
        if victims.contains(pack) {
            report.objects_condemned = report.objects_condemned.saturating_add(used.dead);
            report.packs_deleted = report.packs_deleted.saturating_add(1);
            report.bytes_freed = report.bytes_freed.saturating_add(used.len);
            report.bytes_copied = report.bytes_copied.saturating_add(used.live_bytes);
            report.packs_copied =
                report.packs_copied.saturating_add(u64::from(used.live_bytes > 0));
        } else if used.dead > 0 {
            let dead = used.len.saturating_sub(used.live_bytes);
            report.bytes_dead_kept = report.bytes_dead_kept.saturating_add(dead);
        }
    }
}
