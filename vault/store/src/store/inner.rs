//! What the parts of an open store share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::cipher::Cipher;
use crate::error::{Error, Result};
use crate::ids::{PackId, StoreId};
use crate::index::{Index, Location};
use crate::journal::{Journal, Segment};
use crate::lock::Lock;
use crate::log::Log;
use crate::objects::ObjectStore;
use crate::pack::{PACK_BYTES, PackHeader, PackKind, open_name};
use crate::session::Leases;
use crate::store::gc::{Condemned, Maintenance, Readers, SweepList, View};
use crate::store::in_flight::InFlight;
use crate::store::lane::Lane;
use crate::store::parity::ParityQueue;
use crate::store::receipts::Receipts;
use crate::store::{Damage, OpenMode};
use crate::vfs::{Space, Vfs};

/// Lanes for chunks.
pub(crate) const DATA_LANES: usize = 4;

/// Damage kept in the list.
const MAX_DAMAGE: usize = 1_000;

/// The insides of a store, shared with its threads.
pub(crate) struct Inner {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) index: Arc<dyn Index>,
    pub(crate) cipher: Option<Arc<dyn Cipher>>,
    pub(crate) store: StoreId,
    pub(crate) mode: OpenMode,
    pub(crate) lock: Option<Arc<Lock>>,
    pub(crate) log: Log,
    pub(crate) receipts: Mutex<Receipts>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) in_flight: InFlight,
    /// The data lanes, then the node lane; none in a store that is only read.
    pub(crate) lanes: Vec<Lane>,
    /// Sealed packs that get parity.
    pub(crate) parity: ParityQueue,
    pub(crate) damage: Mutex<Vec<Damage>>,
    pub(crate) names: PackNames,
    /// Held for reading by whoever relies on the index, for writing by a rebuild.
    pub(crate) gate: RwLock<IndexState>,
    /// One node at a time is looked at and appended, so that children stand before parents.
    pub(crate) node_order: Mutex<()>,
    /// One refresh at a time (a store that is only read).
    pub(crate) refreshing: Mutex<()>,
    /// What a collection has condemned and not swept yet.
    pub(crate) condemned: RwLock<Option<Arc<Condemned>>>,
    /// The snapshots that somebody reads.
    pub(crate) readers: Readers,
    /// What keeps collections, repairs and rebuilds apart.
    pub(crate) maintenance: Maintenance,
    /// Packs that a sweep deletes: what stands in them and has no row is gone.
    pub(crate) doomed: Mutex<Option<Arc<SweepList>>>,
    /// Something failed that may have left names in the page cache alone: the next owner must
    /// not take this one's end for an orderly one.
    pub(crate) in_doubt: AtomicBool,
}

/// Whether the index can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IndexState {
    /// It can.
    Whole,
    /// A rebuild in this process was not finished.
    HalfMade,
}

/// Makes the ids of new packs.
pub(crate) struct PackNames {
    seed: [u8; 32],
    last: AtomicU64,
}

impl PackNames {
    /// Two openings never make the same names, even out of one seed: an opening whose index fails
    /// is tried again, and what the first try had begun to write is there.
    pub(crate) fn new(seed: [u8; 32], epoch: u64) -> Self {
        let seed = *blake3::keyed_hash(&seed, &epoch.to_le_bytes()).as_bytes();
        Self { seed, last: AtomicU64::new(0) }
    }

    /// Returns a new id and its number among the packs of this process.
    pub(crate) fn next(&self) -> (PackId, u64) {
        let number = self.last.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let hash = blake3::keyed_hash(&self.seed, &number.to_le_bytes());
        let mut id = [0; 16];
        id.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        (PackId(id), number)
    }
}

/// Takes a lock whose holder may have panicked: what it guards is changed in one step.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Returns the lock of a store that may be written.
    pub(crate) fn writable(&self) -> Result<&Arc<Lock>> {
        self.lock.as_ref().ok_or(Error::ReadOnly)
    }

    /// Notes that something may not be durable that others can see.
    pub(crate) fn doubt(&self) {
        self.in_doubt.store(true, Ordering::Release);
    }

    /// Tells whether everything is durable that a later process will see.
    pub(crate) fn is_in_order(&self) -> bool {
        self.log.is_in_order() && !self.in_doubt.load(Ordering::Acquire)
    }

    /// Notes damage.
    pub(crate) fn report(&self, path: &str, at: u64, reason: &str) {
        let damage = Damage { path: path.to_owned(), at, reason: reason.to_owned() };
        let mut list = locked(&self.damage);
        if list.len() < MAX_DAMAGE && !list.contains(&damage) {
            list.push(damage);
        }
    }

    /// Notes the damage that an error shows, if it shows some.
    pub(crate) fn report_error(&self, error: &Error) {
        let reason = error.to_string();
        match error.root() {
            Error::Corrupt { path, at, .. } => self.report(path, *at, &reason),
            Error::Decode { path, .. } => self.report(path, 0, &reason),
            _ => {}
        }
    }

    /// Returns the data lanes.
    pub(crate) fn data_lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().take(DATA_LANES)
    }

    /// Returns the lane for nodes.
    pub(crate) fn node_lane(&self) -> Result<&Lane> {
        self.lanes.get(DATA_LANES).ok_or(Error::ReadOnly)
    }

    /// Returns the number of sweeps that have begun.
    pub(crate) fn gc_generation(&self) -> u64 {
        self.log.with_state(|state| state.gc_generation)
    }

    /// Makes the next pack of a lane.
    ///
    /// # Errors
    /// [`Error::NoSpace`] where only the reserve is left.
    pub(crate) fn new_pack(&self, kind: PackKind) -> Result<(PackId, Arc<dyn Segment>)> {
        let space = self.vfs.space().map_err(|error| Error::io("measure room on", "", error))?;
        if space.free_bytes < self.reserve(&space).saturating_add(PACK_BYTES) {
            return Err(Error::NoSpace { path: "open".to_owned(), source: None });
        }
        self.new_pack_of_reserve(kind)
    }

    /// Makes the next pack of a lane, out of the reserve too: for what a collection copies before
    /// it deletes more than that.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn new_pack_of_reserve(&self, kind: PackKind) -> Result<(PackId, Arc<dyn Segment>)> {
        let (pack, number) = self.names.next();
        let name = open_name(pack);
        let header = PackHeader {
            kind,
            store: self.store,
            pack,
            gc_generation: self.gc_generation(),
            epoch: self.writable()?.epoch(),
            number,
        };
        let segment = self.journal.create(&name)?;
        if let Err(error) = segment.append(&header.encode()) {
            // It holds nothing; the error counts, not whether the empty file stays.
            let _ = self.journal.remove(&name);
            return Err(error);
        }
        Ok((pack, Arc::from(segment)))
    }

    /// Returns the room that is kept so that a full store can commit, forget, collect and
    /// restore: 2 % + 1 GiB, on a small file system no more than a quarter of it.
    pub(crate) fn reserve(&self, space: &Space) -> u64 {
        (space.total_bytes / 50).saturating_add(1 << 30).min(space.total_bytes / 4)
    }

    /// Settles what was put before the call.
    pub(crate) fn flush(&self) -> Result<()> {
        let counts: Vec<u64> = self.data_lanes().map(Lane::request_flush).collect();
        for (lane, count) in self.data_lanes().zip(counts) {
            lane.wait_settled(count)?;
        }
        let nodes = self.node_lane()?;
        nodes.wait_settled(nodes.request_flush())
    }

    /// Tells whether an index row stands for an object that is alive.
    pub(crate) fn is_alive(location: Option<&Location>, kind: umbra_common::Kind) -> bool {
        location.is_some_and(|location| location.kind == kind && !location.incomplete)
    }

    /// Returns what a session sees as alive.
    pub(crate) fn view_of(&self, session: u64) -> View {
        let condemned = self.condemned.read().unwrap_or_else(PoisonError::into_inner);
        View(condemned.clone().filter(|condemned| condemned.is_hidden_from(session)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_that_is_tried_again_makes_other_names() {
        let seed = [7; 32];
        let names = |epoch| {
            let names = PackNames::new(seed, epoch);
            (0..100).map(|_| names.next().0).collect::<Vec<PackId>>()
        };
        let mut all = [names(1), names(2), names(3)].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 300);
    }
}
