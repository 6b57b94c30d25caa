//! What a lane's thread does: make groups durable, put them into the index, seal packs.
//!
//! The order is the law: write -> sync -> index -> acknowledge. A node is accepted only when, at
//! that moment, each of its references resolves to a durable object of the same kind and domain
//! that is alive; the data lanes are synced first for that, so one sync of the node lane settles
//! a node together with its children, and no node waits for a sync of its own.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use umbra_common::{Kind, Reference};

use crate::bytes::narrow32;
use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::ids::PackId;
use crate::index::{Batch, Key, Location, PackRow, PackState};
use crate::pack::{Contents, Entry, open_name, sealed_name};
use crate::store::gc::Condemned;
use crate::store::inner::Inner;
use crate::store::lane::{Group, Job, Lane, Moved, Pending, Sealing};

/// How often a node's thread looks again for chunks that are put but not yet appended.
const AWAIT_TRIES: u32 = 100;

/// How long it waits between.
const AWAIT_PAUSE: Duration = Duration::from_millis(10);

/// What became of the records of a group, in order: `None` is accepted.
type Refused = Vec<Option<Arc<Error>>>;

impl Inner {
    /// Runs a lane until it is stopped.
    pub(crate) fn run_lane(&self, lane: &Lane, group_commit: Duration) {
        /// Nobody must wait for a thread that is gone, even if it panicked.
        struct Ended<'a>(&'a Lane);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                self.0.stopped();
            }
        }
        let _ended = Ended(lane);
        loop {
            match lane.next_job(group_commit) {
                Job::Settle(group) => self.settle(lane, group),
                Job::Seal(sealing) => {
                    if let Err(error) = self.seal(&sealing) {
                        // The pack stays open on disk, whole and readable; the next opening
                        // seals it.
                        self.doubt();
                        self.report_error(&error);
                    }
                    lane.sealed(sealing.pack);
                }
                Job::Stop => return,
            }
        }
    }

    fn settle(&self, lane: &Lane, group: Group) {
        let (refused, failed) = match self.make_durable(&group) {
            Ok(refused) => (refused, false),
            Err(error) => (vec![Some(Arc::new(error)); group.pending.len()], true),
        };
        let mut accepted = Vec::new();
        let mut outcomes = Vec::with_capacity(group.pending.len());
        for (pending, refused) in group.pending.iter().zip(refused) {
            outcomes.push((pending.key, refused.map_or(Ok(()), Err)));
            if outcomes.last().is_some_and(|(_, outcome)| outcome.is_ok()) {
                accepted.push(pending.entry.clone());
            }
        }
        if failed {
            // Before anybody is told, who might put the object again at once.
            lane.fail(group.pack);
        }
        self.in_flight.settle(outcomes);
        pass(Point::GroupTold);
        lane.settled(&group, accepted);
    }

    /// Syncs a group and puts it into the index; says which nodes were refused.
    fn make_durable(&self, group: &Group) -> Result<Refused> {
        self.writable()?.check()?;
        self.await_chunks(group)?;
        pass(Point::GroupTaken);
        group.segment.sync()?;
        pass(Point::GroupSynced);
        let refused = self.refuse_orphans(group)?;
        let watermark = group.pending.last().map_or(0, |pending| pending.entry.end());
        let mut batch = Batch::default();
        let mut records = group.records_before;
        for (pending, refused) in group.pending.iter().zip(&refused) {
            if refused.is_none() {
                records = records.saturating_add(1);
                self.add_row(&mut batch, group.pack, pending)?;
            }
        }
        let row = PackRow { state: PackState::Open, watermark, records };
        batch.packs = vec![(group.pack, row)];
        // Nothing may be condemned between the look at what nodes stand on and their rows.
        let condemned = self.condemned.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(condemned) = &*condemned {
            self.taint(condemned, group, &refused)?;
        }
        self.index.apply(&batch)?;
        drop(condemned);
        pass(Point::GroupIndexed);
        // Again: who takes the store over from now on reads the pack after this sync, but who
        // did before may have read it without these records.
        self.writable()?.check()?;
        Ok(refused)
    }

    /// Adds the row of an accepted record to a batch.
    fn add_row(&self, batch: &mut Batch, pack: PackId, pending: &Pending) -> Result<()> {
        let (key, new) = pending.entry.row(pack);
        if let Some(Moved { from, incomplete }) = pending.moved {
            let new = Location { incomplete, ..new };
            match from {
                Some(from) => batch.replace.push((key, from, new)),
                None => batch.put.push((key, new)),
            }
            return Ok(());
        }
        if !pending.heals {
            batch.put.push((key, new));
            return Ok(());
        }
        // What stands below it was not looked at: it is as alive as it was.
        match self.index.find(&key)? {
            Some(old) => {
                let new = Location { incomplete: old.incomplete, ..new };
                batch.replace.push((key, old, new));
            }
            None => batch.put.push((key, Location { incomplete: new.kind.is_node(), ..new })),
        }
        Ok(())
    }

    /// Condemns the nodes of a group that stand on something condemned: a session that began
    /// before may store them, one that began later must not see them as alive.
    fn taint(&self, condemned: &Condemned, group: &Group, refused: &Refused) -> Result<()> {
        let mut tainted: HashSet<Key> = HashSet::new();
        // Their rows come with this group; those that the index has are of other copies.
        let mut accepted: HashSet<Key> = HashSet::new();
        for (pending, refused) in group.pending.iter().zip(refused) {
            if refused.is_some() {
                continue;
            }
            accepted.insert(pending.key);
            let domain = pending.key.domain;
            let children: Vec<Key> =
                pending.entry.refs.iter().map(|child| Key { domain, id: child.id }).collect();
            let rows = self.index.find_many(&children)?;
            let on_condemned = children.iter().zip(&rows).any(|(child, row)| {
                let stood = row.is_some_and(|row| condemned.has(&row));
                tainted.contains(child) || (stood && !accepted.contains(child))
            });
            if on_condemned {
                tainted.insert(pending.key);
                condemned.taint(group.pack, pending.entry.offset);
            }
        }
        Ok(())
    }

    /// Settles the chunks that nodes of the group wait for.
    fn await_chunks(&self, group: &Group) -> Result<()> {
        let mut keys: Vec<Key> = Vec::new();
        for pending in &group.pending {
            let chunks = pending.awaited.iter().filter(|child| child.kind == Kind::Chunk);
            keys.extend(chunks.map(|child| Key { domain: pending.key.domain, id: child.id }));
        }
        for _ in 0..AWAIT_TRIES {
            if keys.is_empty() || self.in_flight.wait(&keys, Duration::ZERO) {
                break;
            }
            let counts: Vec<u64> = self.data_lanes().map(Lane::request_flush).collect();
            for (lane, count) in self.data_lanes().zip(counts) {
                lane.wait_settled(count)?;
            }
            // What is still on its way was put but not appended when we asked.
            if self.in_flight.wait(&keys, AWAIT_PAUSE) {
                break;
            }
        }
        Ok(())
    }

    /// Refuses nodes a child of which was lost on its way; their parents with them.
    fn refuse_orphans(&self, group: &Group) -> Result<Refused> {
        let mut accepted: HashMap<Key, Kind> = HashMap::new();
        let mut refused = Vec::with_capacity(group.pending.len());
        for pending in &group.pending {
            let domain = pending.key.domain;
            let mut whole = true;
            for child in &pending.awaited {
                let key = Key { domain, id: child.id };
                let found = match accepted.get(&key) {
                    Some(kind) => *kind == child.kind,
                    None => Self::is_alive(self.index.find(&key)?.as_ref(), child.kind),
                };
                whole = whole && found;
            }
            if whole {
                accepted.insert(pending.key, pending.entry.kind);
                refused.push(None);
            } else {
                let reference = Reference { kind: pending.entry.kind, id: pending.key.id };
                refused.push(Some(Arc::new(Error::ChildLost { reference })));
            }
        }
        Ok(refused)
    }

    /// Seals a pack: table of contents, sync, then it becomes an object.
    fn seal(&self, sealing: &Sealing) -> Result<()> {
        self.writable()?.check()?;
        let contents = Contents {
            store: self.store,
            pack: sealing.pack,
            covers: sealing.segment.position(),
            entries: sealing.entries.clone(),
        };
        sealing.segment.append(&contents.encode())?;
        pass(Point::SealFooterWritten);
        sealing.segment.sync()?;
        pass(Point::SealFooterSynced);
        self.journal.seal(&open_name(sealing.pack), &sealed_name(sealing.pack))?;
        pass(Point::SealNamed);
        self.parity.sealed(sealing.pack);
        self.index.apply(&Batch {
            packs: vec![(sealing.pack, sealed_row(&contents))],
            ..Batch::default()
        })?;
        pass(Point::SealRowWritten);
        Ok(())
    }
}

/// Returns the row of a sealed pack.
pub(crate) fn sealed_row(contents: &Contents) -> PackRow {
    let records = narrow32(contents.entries.len());
    PackRow { state: PackState::Sealed, watermark: contents.covers, records }
}

/// Returns the index rows of a pack's entries.
pub(crate) fn keys_of(entries: &[Entry], pack: PackId) -> Vec<Key> {
    entries.iter().map(|entry| entry.row(pack).0).collect()
}
