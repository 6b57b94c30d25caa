//! The store: packs, receipts, LOG and index of one directory, owned by one process.

use std::sync::{Arc, PoisonError, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use umbra_common::wire::Object;
use umbra_common::{ObjectId, Reference};

use crate::bytes::wide;
use crate::cipher::Cipher;
use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::ids::{DomainId, StoreId, Timestamp};
use crate::index::{IndexOpener, Key};
use crate::log::{Entry, Log};
use crate::object::prove;
use crate::objects::ObjectStore;
use crate::session::{Base, Commit, CommitRequest, Lease, Put, Session, SessionInfo, SessionState};
use crate::vfs::{Space, Vfs};

mod adopt;
pub(crate) mod check;
mod contents;
mod forget;
pub(crate) mod gc;
mod in_flight;
mod inner;
mod kept;
mod lane;
mod open;
mod parity;
mod put;
mod read;
mod receipts;
mod recover;
pub(crate) mod repair;
pub(crate) mod reserve;
pub(crate) mod salvage;
mod settle;
mod tolerant;

pub use forget::{Changed, HoldChanged, Intent};
use inner::{IndexState, Inner, locked};
pub use kept::{KeptSnapshot, KeptSnapshots};
use lane::Lane;

/// What a new store is made of.
#[derive(Clone, Copy, Debug)]
pub struct InitOptions {
    /// Its id: random, from the caller.
    pub store: StoreId,
    /// The time.
    pub now: Timestamp,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// As its one owner.
    ReadWrite,
    /// Beside its owner, or on read-only media; takes no lock.
    ReadOnly,
}

/// How a store is opened, and by whom.
pub struct OpenOptions {
    /// Owner or reader.
    pub mode: OpenMode,
    /// 32 random bytes, from which pack ids are derived. Never the same twice.
    pub seed: [u8; 32],
    /// Our process id, for whom the lock turns away.
    pub pid: u32,
    /// The time.
    pub now: Timestamp,
    /// Where the index comes from.
    pub index: Box<dyn IndexOpener>,
    /// Where packs and receipts lie; `None`: in the store's directory.
    pub objects: Option<Arc<dyn ObjectStore>>,
    /// Encrypts bodies; `None`: plain.
    pub cipher: Option<Arc<dyn Cipher>>,
    /// How long a record may wait for others before it is synced: 50 ms.
    pub group_commit: Duration,
    /// A pack is sealed when its next record would pass this length: 16 MiB, and no more. Fewer
    /// let a simulation have many.
    pub pack_bytes: u64,
    /// Parity is made beside sealed packs that are files of the store's directory.
    pub parity: bool,
}

impl OpenOptions {
    /// The usual options for an owner; the caller adds seed and process id.
    pub fn owner(index: Box<dyn IndexOpener>, seed: [u8; 32], pid: u32, now: Timestamp) -> Self {
        Self {
            mode: OpenMode::ReadWrite,
            seed,
            pid,
            now,
            index,
            objects: None,
            cipher: None,
            group_commit: Duration::from_millis(50),
            pack_bytes: crate::pack::PACK_BYTES,
            parity: true,
        }
    }

    /// The usual options for a reader.
    pub fn reader(index: Box<dyn IndexOpener>, now: Timestamp) -> Self {
        Self { mode: OpenMode::ReadOnly, ..Self::owner(index, [0; 32], 0, now) }
    }
}

/// Damage that was found: acknowledged bytes that are gone or wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Name below the store's directory.
    pub path: String,
    /// Offset in that file.
    pub at: u64,
    /// What is wrong.
    pub reason: String,
}

/// What a store holds.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// Its id.
    pub store: StoreId,
    /// When it was made.
    pub created: Timestamp,
    /// How it is open.
    pub mode: OpenMode,
    /// Sealed packs.
    pub packs_sealed: u64,
    /// Packs that are journal segments.
    pub packs_open: u64,
    /// Objects in the index.
    pub objects: u64,
    /// Bytes of all records in the index.
    pub bytes_stored: u64,
    /// Receipts of snapshots that can be seen.
    pub receipts: u64,
    /// Receipts of snapshots that are forgotten, and whose space was not given back.
    pub forgotten: u64,
    /// Sessions that live.
    pub sessions: u64,
    /// The base snapshots that they rely on.
    pub pinned: Vec<ObjectId>,
    /// Room on its file system.
    pub space: Space,
    /// Damage found since it was opened, at most 1 000 of them.
    pub damage: Vec<Damage>,
}

/// What a rebuild of the index found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RebuildReport {
    /// Packs read.
    pub packs: u64,
    /// Rows written.
    pub objects: u64,
    /// Nodes that miss a descendant.
    pub incomplete: u64,
}

/// An open store. Shared by `Arc`; all methods may be called from any thread and may block.
pub struct Store {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
    created: Timestamp,
}

impl Store {
    /// Makes a store in the empty directory of `vfs`.
    ///
    /// # Errors
    /// [`Error::NotEmpty`]; what the storage says.
    pub fn init(vfs: &Arc<dyn Vfs>, options: &InitOptions) -> Result<()> {
        open::init(vfs, options)
    }

    /// Opens the store in the directory of `vfs`.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Locked`], [`Error::Unsupported`], [`Error::Corrupt`]; what
    /// the storage says.
    pub fn open(vfs: Arc<dyn Vfs>, options: OpenOptions) -> Result<Self> {
        match options.mode {
            OpenMode::ReadWrite => open::open_owner(&vfs, &options),
            OpenMode::ReadOnly => open::open_reader(&vfs, &options),
        }
    }

    /// Starts the threads of the lanes.
    fn start(inner: Arc<Inner>, created: Timestamp, group_commit: Duration) -> Result<Self> {
        let mut store = Self { inner, threads: Vec::new(), created };
        for number in 0..store.inner.lanes.len() {
            let inner = Arc::clone(&store.inner);
            let run = move || {
                if let Some(lane) = inner.lanes.get(number) {
                    inner.run_lane(lane, group_commit);
                }
            };
            let thread = std::thread::Builder::new().name(format!("lane-{number}")).spawn(run);
            let thread = thread.map_err(|error| {
                // Nobody waits for a lane without a thread.
                store.inner.lanes.iter().for_each(Lane::stopped);
                Error::io("start a thread for", "open", error)
            })?;
            store.threads.push(thread);
        }
        if store.inner.parity.is_open() {
            let inner = Arc::clone(&store.inner);
            let run = move || inner.run_parity();
            // Without the thread there is just no parity.
            let thread = std::thread::Builder::new().name("parity".to_owned()).spawn(run);
            store.threads.extend(thread);
        }
        Ok(store)
    }

    /// Keeps a rebuild of the index out.
    ///
    /// # Errors
    /// [`Error::IndexHalfMade`] after a rebuild that failed.
    fn gate(&self) -> Result<RwLockReadGuard<'_, IndexState>> {
        let state = self.inner.gate.read().unwrap_or_else(PoisonError::into_inner);
        match *state {
            IndexState::Whole => Ok(state),
            IndexState::HalfMade => Err(Error::IndexHalfMade),
        }
    }

    /// Returns the store's id.
    pub fn id(&self) -> StoreId {
        self.inner.store
    }

    /// Begins a session, pins its base, starts its lease.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; what the index says.
    pub fn begin(&self, info: SessionInfo, now: Timestamp) -> Result<Session> {
        self.inner.writable()?;
        let _gate = self.gate()?;
        // Pinned before it is looked at, so that it cannot go in between.
        let id = self.inner.leases.begin(Lease { last: now, base: info.base });
        let leases = Arc::clone(&self.inner.leases);
        let base = match info.base {
            None => Base::None,
            Some(base) if self.is_alive_base(id, info.domain, base)? => Base::Pinned,
            Some(_) => Base::Gone,
        };
        Ok(Session { state: Arc::new(SessionState::new(id, info, base)), leases })
    }

    fn is_alive_base(&self, session: u64, domain: DomainId, base: ObjectId) -> Result<bool> {
        let receipt = self.receipt_of(&base);
        let committed = receipt.is_some_and(|receipt| receipt.domain == domain.0);
        Ok(committed && self.inner.is_whole_snapshot(session, domain, base)?)
    }

    /// Renews a session's lease: a message came from it.
    pub fn touch(&self, session: &Session, now: Timestamp) {
        self.inner.leases.touch(session.state.id(), now);
    }

    /// Tells which objects are durable and alive for this session; one answer each, in order.
    ///
    /// # Errors
    /// What the index says.
    pub fn known(&self, session: &Session, references: &[Reference]) -> Result<Vec<bool>> {
        let _gate = self.gate()?;
        self.inner.leases.check(session.state.id())?;
        let view = self.inner.view_of(session.state.id());
        let domain = session.state.info().domain;
        let keys: Vec<Key> = references.iter().map(|r| Key { domain, id: r.id }).collect();
        let found = self.inner.index.find_many(&keys)?;
        let pairs = references.iter().zip(&found);
        Ok(pairs.map(|(r, found)| view.is_alive(found.as_ref(), r.kind)).collect())
    }

    /// Takes an object; `number` is the caller's name for it in [`crate::Settled`].
    ///
    /// Proves the id first. A node's children must be durable or at least put (they may still be
    /// on their way to the disk: the node is settled after them, and no answer waits). Blocks
    /// while 16 MiB of the lane wait for the disk.
    ///
    /// # Errors
    /// [`Error::WrongBytes`], [`Error::Limit`] (the agent's fault); [`Error::NoSpace`],
    /// [`Error::Io`] (the store's, seen by [`Error::root`]): no [`crate::Settled`] follows.
    pub fn put(&self, session: &Session, number: u64, object: &Object) -> Result<Put> {
        let _gate = self.gate()?;
        self.inner.put(&session.state, number, object)
    }

    /// Forces the group commit of all lanes; returns when what was put before is settled and
    /// told.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::ReadOnly`].
    pub fn flush(&self) -> Result<()> {
        self.inner.flush()
    }

    /// Commits a snapshot. The same manifest again (machine, disk, nonce) gives the same receipt.
    ///
    /// # Errors
    /// [`Error::LockLost`]; what the storage says.
    pub fn commit(
        &self,
        session: &Session,
        request: &CommitRequest,
        now: Timestamp,
    ) -> Result<Commit> {
        let _gate = self.gate()?;
        self.touch(session, now);
        self.inner.commit(&session.state, request, now)
    }

    /// Reads an object and verifies its record; the id is for the reader to prove
    /// ([`crate::prove`]).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`]; what the storage says.
    pub fn get(&self, domain: DomainId, reference: &Reference) -> Result<Object> {
        let _gate = self.gate()?;
        self.inner.get(domain, reference)
    }

    /// Reads objects in the order in which they stand in packs; `each` gets the position in
    /// `references` and the object, and returns false to stop.
    pub fn get_many(
        &self,
        domain: DomainId,
        references: &[Reference],
        each: &mut dyn FnMut(usize, Result<Object>) -> bool,
    ) {
        match self.gate() {
            Ok(_gate) => self.inner.get_many(domain, references, each),
            Err(_) => {
                let mut positions = 0..references.len();
                positions.all(|position| each(position, Err(Error::IndexHalfMade)));
            }
        }
    }

    /// Reads an object and proves its id.
    ///
    /// # Errors
    /// As [`Store::get`]; [`Error::WrongBytes`].
    pub fn verify_object(&self, domain: DomainId, reference: &Reference) -> Result<()> {
        prove(&self.get(domain, reference)?)
    }

    /// Looks again at what another process wrote meanwhile (a store that is only read).
    ///
    /// Reading does this by itself when it misses an object.
    ///
    /// # Errors
    /// What the storage says.
    pub fn refresh(&self) -> Result<()> {
        match self.inner.mode {
            OpenMode::ReadOnly => self.inner.refresh(),
            OpenMode::ReadWrite => Ok(()),
        }
    }

    /// Returns the row of an object, for what a test says of it.
    pub(crate) fn row(&self, key: &Key) -> Result<Option<crate::index::Location>> {
        self.inner.index.find(key)
    }

    /// Makes room for an administrator's request on a file system that is full: gives the reserve
    /// up, or makes it anew where there is room again.
    pub fn make_room(&self) {
        if self.inner.mode == OpenMode::ReadWrite {
            self.inner.look_after_reserve();
        }
    }

    /// Returns the LOG.
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// Returns what the store holds. Counts every row of the index.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub fn status(&self) -> Result<StoreStatus> {
        let _gate = self.gate()?;
        let inner = &self.inner;
        let (mut objects, mut bytes_stored) = (0u64, 0u64);
        inner.index.for_each(&mut |_, location| {
            objects = objects.saturating_add(1);
            bytes_stored = bytes_stored.saturating_add(location.record_len.into());
            Ok(())
        })?;
        let leases = inner.leases.living();
        let (all, forgotten) = (self.all_receipts().len(), self.forgotten_receipts().len());
        let space = inner.vfs.space().map_err(|error| Error::io("measure room on", "", error))?;
        Ok(StoreStatus {
            store: inner.store,
            created: self.created,
            mode: inner.mode,
            packs_sealed: wide(inner.sealed_packs()?.len()),
            packs_open: wide(inner.open_packs()?.len()),
            objects,
            bytes_stored,
            receipts: wide(all.saturating_sub(forgotten)),
            forgotten: wide(forgotten),
            sessions: wide(leases.len()),
            pinned: leases.iter().filter_map(|lease| lease.base).collect(),
            space,
            damage: self.damage(),
        })
    }

    /// Returns the damage found since the store was opened, at most 1 000 places.
    pub fn damage(&self) -> Vec<Damage> {
        locked(&self.inner.damage).clone()
    }

    /// Makes the index anew from packs, receipts and LOG. Everybody else waits.
    ///
    /// Where it fails, half an index is left, which says of nodes that they are whole though
    /// something below them is lost: the store then refuses everything that relies on the index
    /// until it is opened anew, which makes the index anew.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::Busy`] beside a repair; what the storage or the index says.
    pub fn rebuild_index(&self, now: Timestamp) -> Result<RebuildReport> {
        self.inner.writable()?;
        let _turn = self.inner.maintenance.begin("a rebuild of the index")?;
        let mut state = self.inner.gate.write().unwrap_or_else(PoisonError::into_inner);
        // Before and not after: a panic must leave it so, too.
        *state = IndexState::HalfMade;
        let report = self.inner.rebuild(now)?;
        *state = IndexState::Whole;
        self.inner.log.append(Entry::IndexRebuilt { objects: report.objects }, now)?;
        Ok(report)
    }

    /// Settles everything, seals the open packs, releases the lock. Dropping does the same but
    /// tells nobody of errors.
    ///
    /// # Errors
    /// What the index says.
    pub fn close(mut self) -> Result<()> {
        self.end();
        self.inner.index.sync()
    }

    fn end(&mut self) {
        self.inner.lanes.iter().for_each(Lane::seal_all);
        self.inner.lanes.iter().for_each(Lane::stop);
        self.inner.parity.stop();
        for thread in self.threads.drain(..) {
            // A lane that panicked has told its waiters already.
            let _ = thread.join();
        }
        pass(Point::EndSealed);
        if let Some(lock) = &self.inner.lock
            && self.inner.is_in_order()
        {
            // Without this note the next owner is just more careful.
            let _ = lock.end_in_order();
            pass(Point::EndNoted);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
