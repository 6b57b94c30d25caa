//! A lane: one pack at a time is appended to, and one thread makes what was appended durable.
//!
//! A record goes through these states, in order: appended (by the thread that put it) -> synced
//! (group commit) -> in the index, with the pack's watermark in the same batch -> acknowledged.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use umbra_common::Reference;

use crate::bytes::{narrow32, wide};
use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::ids::PackId;
use crate::index::{Key, Location};
use crate::journal::Segment;
use crate::pack::{Entry, PackKind};

/// Unsynced bytes of a lane that end the wait for company.
const GROUP_BYTES: u64 = 4 << 20;

/// Unsynced bytes of a lane at which `append` waits for the disk.
const MAX_UNSYNCED_BYTES: u64 = 16 << 20;

/// A record that was appended and is not settled.
pub(crate) struct Pending {
    pub(crate) key: Key,
    pub(crate) entry: Entry,
    /// What a node refers to and was not durable when the node came.
    pub(crate) awaited: Vec<Reference>,
    /// Where it stood, of a record that a collection copies.
    pub(crate) moved: Option<Moved>,
    /// A record of the same object is damaged: the object's row is switched to this one.
    pub(crate) heals: bool,
}

/// Where a copied record stood, and the row that the copy gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    /// What the index says of it; `None` where the row is lost.
    pub(crate) from: Option<Location>,
    /// Something below it is lost.
    pub(crate) incomplete: bool,
}

/// Records of one pack that are made durable together.
pub(crate) struct Group {
    pub(crate) pack: PackId,
    pub(crate) segment: Arc<dyn Segment>,
    pub(crate) pending: Vec<Pending>,
    /// Records of the pack that are in the index already.
    pub(crate) records_before: u32,
}

/// A pack whose records are all settled, to be sealed.
pub(crate) struct Sealing {
    pub(crate) pack: PackId,
    pub(crate) segment: Arc<dyn Segment>,
    pub(crate) entries: Vec<Entry>,
}

/// What the lane's thread does next.
pub(crate) enum Job {
    Settle(Group),
    Seal(Sealing),
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PackPhase {
    Writing,
    /// Takes no more; sealed once settled.
    Full,
    /// A write or sync failed: never written again, left as it is for the next opening.
    Failed,
}

struct OpenPack {
    id: PackId,
    segment: Arc<dyn Segment>,
    phase: PackPhase,
    pending: Vec<Pending>,
    accepted: Vec<Entry>,
}

#[derive(Default)]
struct LaneState {
    /// Only the last may be `Writing`.
    packs: VecDeque<OpenPack>,
    appended: u64,
    settled: u64,
    /// Records up to this count do not wait for company.
    flush_to: u64,
    unsynced_bytes: u64,
    /// Seal what there is.
    seal: bool,
    stopping: bool,
    stopped: bool,
}

/// One lane.
pub(crate) struct Lane {
    pub(crate) kind: PackKind,
    /// A pack is sealed when its next record would pass this length.
    pack_bytes: u64,
    state: Mutex<LaneState>,
    /// Something for the thread to do.
    work: Condvar,
    /// The thread did something.
    progress: Condvar,
}

impl Lane {
    pub(crate) fn new(kind: PackKind, pack_bytes: u64) -> Self {
        let state = Mutex::new(LaneState::default());
        Self { kind, pack_bytes, state, work: Condvar::new(), progress: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_progress<'a>(&self, state: MutexGuard<'a, LaneState>) -> MutexGuard<'a, LaneState> {
        self.progress.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a record; `new_pack` makes the next pack where one is needed.
    pub(crate) fn append(
        &self,
        record: &[u8],
        pending: impl FnOnce(u64) -> Pending,
        new_pack: impl Fn(PackKind) -> Result<(PackId, Arc<dyn Segment>)>,
    ) -> Result<()> {
        let mut state = self.state();
        while state.unsynced_bytes > MAX_UNSYNCED_BYTES && !state.stopping {
            state = self.wait_for_progress(state);
        }
        if state.stopping {
            return Err(Error::Closed);
        }
        let len = wide(record.len());
        let mut appended = state.append(record, self.pack_bytes, || new_pack(self.kind));
        if matches!(appended, Err(Error::InDoubt { .. })) {
            // A sync failed that the thread has not told us of yet.
            appended = state.append(record, self.pack_bytes, || new_pack(self.kind));
        }
        // A pack may have failed: it is then time to settle what it holds.
        let offset = appended.inspect_err(|_| self.work.notify_all())?;
        let pack = state.packs.back_mut().ok_or(Error::Closed)?;
        let first = pack.pending.is_empty();
        pack.pending.push(pending(offset));
        let before = state.unsynced_bytes;
        state.unsynced_bytes = before.saturating_add(len);
        state.appended = state.appended.saturating_add(1);
        if first || (before < GROUP_BYTES && state.unsynced_bytes >= GROUP_BYTES) {
            self.work.notify_all();
        }
        Ok(())
    }

    /// Ends the wait for company of what was appended so far, and returns its count.
    pub(crate) fn request_flush(&self) -> u64 {
        let mut state = self.state();
        state.flush_to = state.appended;
        self.work.notify_all();
        state.appended
    }

    /// Waits until that many records are settled.
    pub(crate) fn wait_settled(&self, count: u64) -> Result<()> {
        let mut state = self.state();
        while state.settled < count {
            if state.stopped {
                return Err(Error::Closed);
            }
            state = self.wait_for_progress(state);
        }
        Ok(())
    }

    /// Settles and seals everything, and waits for that.
    pub(crate) fn seal_all(&self) {
        let mut state = self.state();
        state.seal = true;
        self.work.notify_all();
        while state.seal && !state.stopped {
            state = self.wait_for_progress(state);
        }
    }

    /// Lets the thread settle what there is and end.
    pub(crate) fn stop(&self) {
        self.state().stopping = true;
        self.work.notify_all();
        self.progress.notify_all();
    }

    /// The thread ended, for whatever reason; nobody waits for it any more.
    pub(crate) fn stopped(&self) {
        let mut state = self.state();
        state.stopping = true;
        state.stopped = true;
        self.progress.notify_all();
    }

    /// Waits for work: for the lane's thread alone.
    pub(crate) fn next_job(&self, group_commit: Duration) -> Job {
        let mut state = self.state();
        let mut waited = false;
        loop {
            match state.choose(waited) {
                Choice::Do(job) => return job,
                Choice::WaitForCompany => {
                    let (next, timeout) = self
                        .work
                        .wait_timeout(state, group_commit)
                        .unwrap_or_else(PoisonError::into_inner);
                    waited = timeout.timed_out();
                    state = next;
                }
                Choice::Idle => {
                    state.seal = false;
                    self.progress.notify_all();
                    if state.stopping {
                        return Job::Stop;
                    }
                    state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                    waited = false;
                }
            }
        }
    }

    /// Notes that a pack must never be written again.
    pub(crate) fn fail(&self, pack: PackId) {
        let mut state = self.state();
        if let Some(pack) = state.packs.iter_mut().find(|other| other.id == pack) {
            pack.phase = PackPhase::Failed;
        }
    }

    /// Notes that a group is settled: `accepted` is now in the index.
    pub(crate) fn settled(&self, group: &Group, accepted: Vec<Entry>) {
        let mut state = self.state();
        let count = wide(group.pending.len());
        let len = |pending: &Pending| u64::from(pending.entry.record_len());
        let bytes: u64 = group.pending.iter().map(len).sum();
        state.settled = state.settled.saturating_add(count);
        state.unsynced_bytes = state.unsynced_bytes.saturating_sub(bytes);
        if let Some(pack) = state.packs.iter_mut().find(|pack| pack.id == group.pack) {
            pack.accepted.extend(accepted);
        }
        self.progress.notify_all();
    }

    /// Notes that a pack was sealed, or could not be (it then stays as it is).
    pub(crate) fn sealed(&self, pack: PackId) {
        let mut state = self.state();
        state.packs.retain(|other| other.id != pack);
        self.progress.notify_all();
    }
}

enum Choice {
    Do(Job),
    WaitForCompany,
    Idle,
}

impl LaneState {
    /// Appends a record to a pack that takes it.
    fn append(
        &mut self,
        record: &[u8],
        pack_bytes: u64,
        new_pack: impl FnOnce() -> Result<(PackId, Arc<dyn Segment>)>,
    ) -> Result<u64> {
        let pack = self.pack_for(wide(record.len()), pack_bytes, new_pack)?;
        let appended = pack.segment.append(record).inspect_err(|_| pack.phase = PackPhase::Failed);
        pass(Point::RecordAppended);
        appended
    }

    /// Returns the pack that takes a record of this length.
    fn pack_for(
        &mut self,
        len: u64,
        pack_bytes: u64,
        new_pack: impl FnOnce() -> Result<(PackId, Arc<dyn Segment>)>,
    ) -> Result<&mut OpenPack> {
        let takes = |pack: &OpenPack| {
            pack.phase == PackPhase::Writing
                && pack.segment.position().saturating_add(len) <= pack_bytes
        };
        if !self.packs.back().is_some_and(takes) {
            // Before the old one is closed: where no pack can be made, the old one still stands.
            let (id, segment) = new_pack()?;
            if let Some(pack) = self.packs.back_mut()
                && pack.phase == PackPhase::Writing
            {
                pack.phase = PackPhase::Full;
            }
            let (pending, accepted) = (Vec::new(), Vec::new());
            let phase = PackPhase::Writing;
            self.packs.push_back(OpenPack { id, segment, phase, pending, accepted });
        }
        self.packs.back_mut().ok_or(Error::Closed)
    }

    fn choose(&mut self, waited: bool) -> Choice {
        loop {
            let hurry = waited
                || self.seal
                || self.stopping
                || self.flush_to > self.settled
                || self.unsynced_bytes >= GROUP_BYTES;
            let Some(pack) = self.packs.front_mut() else { return Choice::Idle };
            if !pack.pending.is_empty() {
                if !hurry && pack.phase == PackPhase::Writing {
                    return Choice::WaitForCompany;
                }
                return Choice::Do(Job::Settle(Group {
                    pack: pack.id,
                    segment: Arc::clone(&pack.segment),
                    pending: std::mem::take(&mut pack.pending),
                    records_before: narrow32(pack.accepted.len()),
                }));
            }
            match pack.phase {
                PackPhase::Writing if self.seal => pack.phase = PackPhase::Full,
                PackPhase::Writing => return Choice::Idle,
                PackPhase::Failed => {
                    self.packs.pop_front();
                }
                PackPhase::Full => {
                    return Choice::Do(Job::Seal(Sealing {
                        pack: pack.id,
                        segment: Arc::clone(&pack.segment),
                        entries: std::mem::take(&mut pack.accepted),
                    }));
                }
            }
        }
    }
}
