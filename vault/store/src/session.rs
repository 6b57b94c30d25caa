//! Sessions: one agent's backup of one disk, from the first question to the receipt.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use umbra_common::snapshot::Receipt;
use umbra_common::{ObjectId, Reference};

use crate::error::{Error, Result};
use crate::ids::{DomainId, MachineId, RunId, SessionNonce, Timestamp};

/// What became of objects that were accepted.
#[derive(Clone, Debug)]
pub enum Settled {
    /// They are durable and alive: acknowledge them. Numbers as given to `put`, ranged, sorted.
    Durable {
        /// Inclusive ranges of numbers.
        numbers: Vec<RangeInclusive<u64>>,
    },
    /// They could not be made durable. The session may send them again; if the error is one of
    /// space, it should end.
    Failed {
        /// Inclusive ranges of numbers.
        numbers: Vec<RangeInclusive<u64>>,
        /// Why.
        error: Arc<Error>,
    },
}

/// Told what became of a session's objects: from the threads of the store, or from within `put`
/// where an object is durable already. Must not block and must not call the store.
pub type OnSettled = Box<dyn Fn(Settled) + Send + Sync>;

/// Who begins a session, and on what.
pub struct SessionInfo {
    /// The machine, as authenticated.
    pub machine: MachineId,
    /// Its name, for the receipt.
    pub machine_name: String,
    /// The disk's name.
    pub disk: String,
    /// The domain whose objects it may see.
    pub domain: DomainId,
    /// The agent's nonce for this backup; the same after a reconnect.
    pub nonce: SessionNonce,
    /// The agent's name for all disks of one backup, for the receipt.
    pub run: RunId,
    /// The snapshot that the agent's cache stands for.
    pub base: Option<ObjectId>,
    /// Where settled objects are told.
    pub on_settled: OnSettled,
}

/// What the vault says about the named base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// None was named.
    None,
    /// It is alive and stays so until the session ends: its ids may go unasked.
    Pinned,
    /// It is not (any more) in this domain, or incomplete: ask for everything.
    Gone,
}

/// What `put` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// Taken; [`Settled`] follows, or has come already.
    Accepted,
    /// A node whose children (these) are not in the store: send them, then the node again.
    Missing(Vec<Reference>),
}

/// What `commit` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The snapshot is durable for good.
    Committed(Arc<Receipt>),
    /// The manifest (or, after a loss, something below it) is not in the store.
    Missing(Vec<Reference>),
}

/// What the agent says at a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRequest {
    /// The manifest's id.
    pub manifest: ObjectId,
    /// The user's tags, for the receipt.
    pub tags: Vec<String>,
    /// The agent's labels, for the receipt.
    pub labels: BTreeMap<String, String>,
}

/// What a session brought so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Objects that the session was the first to bring.
    pub objects_stored: u64,
    /// Their records, in bytes of the store.
    pub bytes_stored: u64,
    /// Objects that were there already.
    pub objects_known: u64,
}

/// What the store keeps of a session while anything of it is under way.
pub(crate) struct SessionState {
    id: u64,
    info: SessionInfo,
    base: Base,
    objects_stored: AtomicU64,
    bytes_stored: AtomicU64,
    objects_known: AtomicU64,
}

impl SessionState {
    pub(crate) fn new(id: u64, info: SessionInfo, base: Base) -> Self {
        let (objects_stored, bytes_stored) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { id, info, base, objects_stored, bytes_stored, objects_known: AtomicU64::new(0) }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// Tells the session what became of its objects.
    pub(crate) fn tell(&self, settled: Settled) {
        (self.info.on_settled)(settled);
    }

    /// Counts an object that the session was the first to bring.
    pub(crate) fn count_stored(&self, record_bytes: u64) {
        self.objects_stored.fetch_add(1, Ordering::Relaxed);
        self.bytes_stored.fetch_add(record_bytes, Ordering::Relaxed);
    }

    /// Counts an object that was there.
    pub(crate) fn count_known(&self) {
        self.objects_known.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the bytes of the session's records so far.
    pub(crate) fn bytes_stored(&self) -> u64 {
        self.bytes_stored.load(Ordering::Relaxed)
    }
}

/// A session that has begun. Dropping it ends its lease; nothing durable is lost by that, and
/// what is on its way is still told.
pub struct Session {
    pub(crate) state: Arc<SessionState>,
    pub(crate) leases: Arc<Leases>,
}

impl Session {
    /// Tells whether the base named at `begin` may be relied on.
    pub fn base(&self) -> Base {
        self.state.base
    }

    /// Returns what the session brought so far.
    pub fn stats(&self) -> SessionStats {
        SessionStats {
            objects_stored: self.state.objects_stored.load(Ordering::Relaxed),
            bytes_stored: self.state.bytes_stored(),
            objects_known: self.state.objects_known.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leases.end(self.state.id());
    }
}

/// One lease a session: what a collection must spare, and until when.
#[derive(Default)]
pub(crate) struct Leases {
    inner: Mutex<LeaseTable>,
}

#[derive(Default)]
struct LeaseTable {
    last_id: u64,
    by_session: BTreeMap<u64, Lease>,
}

/// What a session pins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    /// When its last message came.
    pub(crate) last: Timestamp,
    /// The base that it relies on.
    pub(crate) base: Option<ObjectId>,
}

impl Leases {
    fn inner(&self) -> MutexGuard<'_, LeaseTable> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a lease and returns the new session's id.
    pub(crate) fn begin(&self, lease: Lease) -> u64 {
        let mut inner = self.inner();
        inner.last_id = inner.last_id.saturating_add(1);
        let id = inner.last_id;
        inner.by_session.insert(id, lease);
        id
    }

    /// Renews a lease.
    pub(crate) fn touch(&self, id: u64, now: Timestamp) {
        if let Some(lease) = self.inner().by_session.get_mut(&id) {
            lease.last = lease.last.max(now);
        }
    }

    /// Refuses a session whose lease has ended; one of the store's own (0) has none.
    ///
    /// # Errors
    /// [`Error::LeaseEnded`].
    pub(crate) fn check(&self, id: u64) -> Result<()> {
        let living = id == 0 || self.inner().by_session.contains_key(&id);
        if living { Ok(()) } else { Err(Error::LeaseEnded) }
    }

    /// Returns the number of the last session that began.
    pub(crate) fn last_id(&self) -> u64 {
        self.inner().last_id
    }

    /// Ends the leases of sessions up to number `last` whose last message is older than `oldest`,
    /// and returns how many of them are left.
    pub(crate) fn expire(&self, last: u64, oldest: Timestamp) -> usize {
        let mut inner = self.inner();
        inner.by_session.retain(|id, lease| *id > last || lease.last >= oldest);
        inner.by_session.range(..=last).count()
    }

    fn end(&self, id: u64) {
        self.inner().by_session.remove(&id);
    }

    /// Returns the leases that live.
    pub(crate) fn living(&self) -> Vec<Lease> {
        self.inner().by_session.values().copied().collect()
    }
}

/// Joins numbers into sorted inclusive ranges.
pub(crate) fn to_ranges(numbers: Vec<u64>) -> Vec<RangeInclusive<u64>> {
    let mut numbers = numbers;
    numbers.sort_unstable();
    let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(last) if number <= last.end().saturating_add(1) => {
                *last = *last.start()..=number.max(*last.end());
            }
            _ => ranges.push(number..=number),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(to_ranges(vec![]), []);
        assert_eq!(to_ranges(vec![3, 1, 2, 7, 7, 9]), [1..=3, 7..=7, 9..=9]);
        assert_eq!(to_ranges(vec![u64::MAX, 0]), [0..=0, u64::MAX..=u64::MAX]);
    }
}
