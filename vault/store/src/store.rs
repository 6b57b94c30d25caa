//! The store: packs, receipts, LOG and index of one directory, owned by one process.

use std::sync::Arc;
use std::time::Duration;

use umbra_common::snapshot::Receipt;
use umbra_common::wire::Object;
use umbra_common::{ObjectId, Reference};

use crate::cipher::Cipher;
use crate::error::{Error, Result};
use crate::ids::{DomainId, StoreId, Timestamp};
use crate::index::IndexOpener;
use crate::log::Log;
use crate::objects::ObjectStore;
use crate::session::{Commit, CommitRequest, Put, Session, SessionInfo};
use crate::vfs::{Space, Vfs};

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
    /// Receipts.
    pub receipts: u64,
    /// Sessions that live.
    pub sessions: u64,
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
pub struct Store {}

impl Store {
    /// Makes a store in the empty directory of `vfs`.
    ///
    /// # Errors
    /// [`Error::NotEmpty`]; what the storage says.
    pub fn init(vfs: &Arc<dyn Vfs>, options: &InitOptions) -> Result<()> {
        let _ = (vfs, options);
        Err(Error::Closed)
    }

    /// Opens the store in the directory of `vfs`.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Locked`], [`Error::Unsupported`], [`Error::Corrupt`]; what
    /// the storage says.
    pub fn open(vfs: Arc<dyn Vfs>, options: OpenOptions) -> Result<Self> {
        let _ = (vfs, options);
        Err(Error::Closed)
    }

    /// Returns the store's id.
    pub fn id(&self) -> StoreId {
        StoreId::default()
    }

    /// Begins a session, pins its base, starts its lease.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; what the index says.
    pub fn begin(&self, info: SessionInfo, now: Timestamp) -> Result<Session> {
        let _ = (info, now);
        Err(Error::Closed)
    }

    /// Renews a session's lease: a message came from it.
    pub fn touch(&self, session: &Session, now: Timestamp) {
        let _ = (session, now);
    }

    /// Tells which objects are durable and alive for this session; one answer each, in order.
    ///
    /// # Errors
    /// What the index says.
    pub fn known(&self, session: &Session, references: &[Reference]) -> Result<Vec<bool>> {
        let _ = (session, references);
        Err(Error::Closed)
    }

    /// Takes an object; `number` is the caller's name for it in [`crate::Settled`].
    ///
    /// Proves the id first. A node's children must be durable or at least put (they may still be
    /// on their way to the disk: the node is settled after them). Blocks while 16 MiB of the lane
    /// wait for the disk.
    ///
    /// # Errors
    /// [`Error::WrongBytes`], [`Error::Limit`] (the agent's fault); [`Error::NoSpace`],
    /// [`Error::Io`] (the store's): then no [`crate::Settled`] follows.
    pub fn put(&self, session: &Session, number: u64, object: Object) -> Result<Put> {
        let _ = (session, number, object);
        Err(Error::Closed)
    }

    /// Forces the group commit of all lanes and waits until what was put before is settled.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn flush(&self) -> Result<()> {
        Err(Error::Closed)
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
        let _ = (session, request, now);
        Err(Error::Closed)
    }

    /// Reads an object and verifies its record; the id is for the reader to prove
    /// ([`crate::prove`]).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`]; what the storage says.
    pub fn get(&self, domain: DomainId, reference: &Reference) -> Result<Object> {
        let _ = domain;
        Err(Error::NotFound { reference: *reference })
    }

    /// Reads objects in the order in which they stand in packs; `each` gets the position in
    /// `references` and the object.
    ///
    /// `each` returns false to stop.
    pub fn get_many(
        &self,
        domain: DomainId,
        references: &[Reference],
        each: &mut dyn FnMut(usize, Result<Object>) -> bool,
    ) {
        for (number, reference) in references.iter().enumerate() {
            if !each(number, self.get(domain, reference)) {
                return;
            }
        }
    }

    /// Reads an object and proves its id.
    ///
    /// # Errors
    /// As [`Store::get`]; [`Error::WrongBytes`].
    pub fn verify_object(&self, domain: DomainId, reference: &Reference) -> Result<()> {
        crate::object::prove(&self.get(domain, reference)?).map(drop)
    }

    /// Returns the receipts, oldest first.
    pub fn receipts(&self) -> Vec<Arc<Receipt>> {
        Vec::new()
    }

    /// Returns the newest receipt of a snapshot, or `None`.
    pub fn receipt_of(&self, snapshot: &ObjectId) -> Option<Arc<Receipt>> {
        self.receipts().into_iter().rev().find(|receipt| receipt.snapshot == *snapshot)
    }

    /// Returns the receipts whose snapshot ids begin with these hexadecimal digits.
    pub fn receipts_by_prefix(&self, digits: &str) -> Vec<Arc<Receipt>> {
        let mut found = self.receipts();
        found.retain(|receipt| receipt.snapshot.to_string().starts_with(digits));
        found
    }

    /// Returns the LOG.
    pub fn log(&self) -> &Log {
        const LOG: Log = Log {};
        &LOG
    }

    /// Returns what the store holds. Counts every row of the index.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub fn status(&self) -> Result<StoreStatus> {
        Err(Error::Closed)
    }

    /// Makes the index anew from packs, receipts and LOG.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; what the storage or the index says.
    pub fn rebuild_index(&self, now: Timestamp) -> Result<RebuildReport> {
        let _ = now;
        Err(Error::Closed)
    }

    /// Settles everything, seals the open packs, releases the lock. Dropping does the same but
    /// tells nobody of errors.
    ///
    /// # Errors
    /// What the storage says.
    pub fn close(self) -> Result<()> {
        Ok(())
    }
}
