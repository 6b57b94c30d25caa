//! Deletes the packs of a sweep's list, after what is of use in them was copied.
//!
//! A pack goes only when no row leads into it and each of its marked records can be read
//! elsewhere. That is asked of the packs and the index as they are, so it holds for a sweep that
//! another process began as well.

use std::time::{Duration, Instant};

use crate::bytes::{narrow, wide};
use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::ids::{PackId, Timestamp};
use crate::index::{Batch, Key, Location};
use crate::pack::{Entry, PackKind, Record, sealed_name};
use crate::store::contents::range;
use crate::store::gc::list::{Bits, SweepList};
use crate::store::gc::report::GcReport;
use crate::store::inner::{DATA_LANES, Inner, locked};
use crate::store::lane::{Moved, Pending};

/// Packs that are taken out of the index together.
const GROUP_PACKS: usize = 64;

/// Bytes that are copied before the packs they come from are deleted.
const GROUP_BYTES: u64 = 128 << 20;

/// A record that is of use.
struct Wanted {
    entry: Entry,
    moved: Moved,
}

/// A sweep under way.
pub(super) struct Sweep<'a> {
    pub(super) inner: &'a Inner,
    pub(super) list: &'a SweepList,
    /// Bytes a second that are copied at most.
    pub(super) limit: Option<u64>,
    pub(super) stop: &'a dyn Fn() -> bool,
    pub(super) clock: &'a dyn Fn() -> Timestamp,
    pub(super) report: &'a mut GcReport,
}

impl Sweep<'_> {
    /// Deletes what can be deleted; true where nothing of the list is left.
    ///
    /// # Errors
    /// [`Error::Stopped`], [`Error::NoSpace`] where there is no room to copy; what the storage or
    /// the index says.
    pub(super) fn run(&mut self) -> Result<bool> {
        let list = self.list;
        let mut group: Vec<PackId> = Vec::new();
        let mut later: Vec<PackId> = Vec::new();
        // What needs no copy first: it gives room to those that do.
        for (pack, live) in &list.packs {
            self.check_stop()?;
            if self.inner.objects.head(&sealed_name(*pack))?.is_none() {
                // Gone, by a sweep that was cut off after that.
                group.push(*pack);
            } else if self.wanted(*pack, live)?.is_empty() {
                group.push(*pack);
            } else {
                later.push(*pack);
            }
            if group.len() >= GROUP_PACKS {
                self.delete(&mut group)?;
            }
        }
        self.delete(&mut group)?;
        let mut copied = 0u64;
        let mut whole = true;
        for pack in later {
            self.check_stop()?;
            let Some(live) = list.packs.get(&pack) else { continue };
            match self.copy(pack, live) {
                Ok(bytes) => copied = copied.saturating_add(bytes),
                Err(error) if is_damage(&error) => {
                    // It stays, with what can be read of it; the others do not wait for it.
                    self.inner.report_error(&error);
                    self.report.kept.push((sealed_name(pack), crate::error::chain(&error)));
                    whole = false;
                    continue;
                }
                Err(error) => {
                    self.finish(&mut group)?;
                    return Err(error);
                }
            }
            group.push(pack);
            if copied >= GROUP_BYTES || group.len() >= GROUP_PACKS {
                whole = self.finish(&mut group)? && whole;
                copied = 0;
            }
        }
        Ok(self.finish(&mut group)? && whole)
    }

    fn check_stop(&self) -> Result<()> {
        if (self.stop)() { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Returns the records of a victim that must be elsewhere before it goes.
    fn wanted(&self, pack: PackId, live: &Bits) -> Result<Vec<Wanted>> {
        let name = sealed_name(pack);
        let corrupt = |reason| Error::Corrupt { what: "a pack", path: name.clone(), at: 0, reason };
        let table = self.inner.table(pack)?;
        let table = table.ok_or_else(|| corrupt("it has no sound table of contents"))?;
        if table.entries.len() != live.len() {
            return Err(corrupt("its table is not the one that was marked"));
        }
        let keys: Vec<Key> = table.entries.iter().map(|entry| entry.row(pack).0).collect();
        let rows = self.inner.index.find_many(&keys)?;
        let mut wanted = Vec::new();
        for ((number, entry), row) in table.entries.into_iter().enumerate().zip(rows) {
            let moved = match row {
                Some(row) if row.pack == pack && row.offset == entry.offset => {
                    Moved { from: Some(row), incomplete: row.incomplete }
                }
                _ if !live.has(number) => continue,
                // The index lost its row. Whether something below is lost it cannot say any more.
                None => Moved { from: None, incomplete: entry.kind.is_node() },
                Some(row) if self.stands_elsewhere(&entry, &row)? => continue,
                Some(row) => Moved { from: Some(row), incomplete: row.incomplete },
            };
            wanted.push(Wanted { entry, moved });
        }
        Ok(wanted)
    }

    /// Proves that a marked object can be read where its row leads. A place in another pack of the
    /// list is as good: what a row leads to is copied before that pack goes.
    fn stands_elsewhere(&self, entry: &Entry, row: &Location) -> Result<bool> {
        let reference = umbra_common::Reference { kind: entry.kind, id: entry.id };
        match self.inner.read_one(entry.domain, &reference, row) {
            Ok(_) => Ok(true),
            Err(error) if is_damage(&error) || error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies what is of use in a pack; returns how many bytes that was.
    fn copy(&mut self, pack: PackId, live: &Bits) -> Result<u64> {
        let started = Instant::now();
        let wanted = self.wanted(pack, live)?;
        let name = sealed_name(pack);
        let end = wanted.iter().map(|wanted| wanted.entry.end()).max().unwrap_or_default();
        let bytes = self.inner.objects.get_ranges(&name, &[range(0, end)?])?.pop();
        let bytes = bytes.unwrap_or_default();
        let mut copied = 0u64;
        // All are proven before the first is written.
        let mut records = Vec::with_capacity(wanted.len());
        for wanted in &wanted {
            let entry = &wanted.entry;
            let (from, to) = (narrow(entry.offset), narrow(entry.end()));
            let record = bytes.get(from..to).unwrap_or_default();
            let damaged = |reason| Error::Corrupt {
                what: "a record",
                path: name.clone(),
                at: entry.offset,
                reason,
            };
            let verified = Record::verify(record, self.inner.store);
            let verified = verified.map_err(|fault| damaged(fault.reason()))?;
            if verified.header.key() != entry.row(pack).0 {
                return Err(damaged("another object stands there"));
            }
            records.push(record);
        }
        for (wanted, record) in wanted.into_iter().zip(records) {
            copied = copied.saturating_add(wide(record.len()));
            self.append(pack, wanted, record)?;
        }
        self.report.packs_copied = self.report.packs_copied.saturating_add(1);
        self.report.bytes_copied = self.report.bytes_copied.saturating_add(copied);
        if let Some(limit) = self.limit.filter(|limit| *limit > 0) {
            let due = copied.saturating_mul(1000).checked_div(limit).unwrap_or(0);
            std::thread::sleep(Duration::from_millis(due).saturating_sub(started.elapsed()));
        }
        Ok(copied)
    }

    fn append(&self, pack: PackId, wanted: Wanted, record: &[u8]) -> Result<()> {
        let Wanted { entry, moved } = wanted;
        let is_node = entry.kind.is_node();
        let key = entry.row(pack).0;
        let lane = if is_node {
            self.inner.node_lane()?
        } else {
            let [first, ..] = pack.0;
            let number = usize::from(first).checked_rem(DATA_LANES).unwrap_or(0);
            self.inner.lanes.get(number).ok_or(Error::ReadOnly)?
        };
        let pending = |offset| Pending {
            key,
            entry: Entry { offset, ..entry },
            awaited: Vec::new(),
            moved: Some(moved),
            heals: false,
        };
        // As agents' nodes: one at a time.
        let _order = is_node.then(|| locked(&self.inner.node_order));
        lane.append(record, pending, |kind: PackKind| self.inner.new_pack_of_reserve(kind))
    }

    /// Makes the copies durable, and deletes the packs that nothing leads into any more.
    fn finish(&mut self, group: &mut Vec<PackId>) -> Result<bool> {
        if group.is_empty() {
            return Ok(true);
        }
        self.inner.flush()?;
        pass(Point::GcCopied);
        let mut free = Vec::new();
        let mut whole = true;
        for pack in group.drain(..) {
            let Some(live) = self.list.packs.get(&pack) else { continue };
            if self.wanted(pack, live)?.is_empty() {
                free.push(pack);
            } else {
                let reason = "what it holds could not be copied".to_owned();
                self.report.kept.push((sealed_name(pack), reason));
                whole = false;
            }
        }
        self.delete(&mut free)?;
        Ok(whole)
    }

    /// Deletes packs: first, durably, for the index.
    fn delete(&mut self, group: &mut Vec<PackId>) -> Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        self.inner.writable()?.check()?;
        self.inner.index.apply(&Batch { remove_packs: group.clone(), ..Batch::default() })?;
        self.inner.index.sync()?;
        pass(Point::GcUnindexed);
        let mut gone = Vec::new();
        for pack in group.drain(..) {
            self.report.bytes_freed =
                self.report.bytes_freed.saturating_add(self.inner.delete_pack(pack)?);
            self.report.packs_deleted = self.report.packs_deleted.saturating_add(1);
            pass(Point::GcPackDeleted);
            gone.push(pack);
        }
        self.inner.lift_quarantine_of(&gone, (self.clock)())
    }
}

/// Tells whether an error is one of what is stored.
fn is_damage(error: &Error) -> bool {
    matches!(error.root(), Error::Corrupt { .. } | Error::Decode { .. } | Error::WrongBytes { .. })
        || error.is_unreadable()
}
