//! The LOG: an append-only, hash-chained file of what packs and receipts do not imply.

use std::collections::BTreeMap;

use umbra_common::ObjectId;
use umbra_common::wire::Fingerprint;

use crate::error::{Error, Result};
use crate::ids::{Digest, MachineId, StoreId, Timestamp};

/// What a machine may do. The numbers stand in the LOG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Backs itself up and restores its own.
    Agent = 0,
    /// Backs up, never restores.
    Imager = 1,
    /// Restores, never backs up.
    Restore = 2,
    /// Sees and restores every machine.
    Operator = 3,
    /// Everything.
    Admin = 4,
}

/// One entry of the LOG.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// The store was made.
    StoreCreated {
        /// Its id.
        store: StoreId,
    },
    /// A machine's key is known from now on. Enrolling an id again replaces what stood there.
    MachineEnrolled(Machine),
    /// A token was issued.
    TokenIssued(Token),
    /// A token was used once.
    TokenUsed {
        /// Which.
        token: [u8; 16],
        /// By whom.
        machine: MachineId,
    },
    /// A receipt was committed.
    ReceiptCommitted {
        /// Its sequence number.
        sequence: u64,
        /// Hash of its bytes.
        hash: Digest,
        /// The snapshot.
        snapshot: ObjectId,
    },
    /// The index was missing, foreign or damaged.
    IndexLost {
        /// In what way.
        reason: String,
    },
    /// The index was rebuilt from packs, receipts and LOG.
    IndexRebuilt {
        /// Rows written.
        objects: u64,
    },
    /// Something that somebody did, for the record.
    Audit {
        /// Who, where it was a machine.
        machine: Option<MachineId>,
        /// What.
        text: String,
    },
}

/// A machine, as enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// Its name, 1-64 of `[A-Za-z0-9._-]`.
    pub name: String,
    /// Its public key.
    pub key: Fingerprint,
    /// What it may do.
    pub role: Role,
}

/// A token, as issued. The secret itself is never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Names it.
    pub id: [u8; 16],
    /// BLAKE3 of its secret.
    pub secret_hash: Digest,
    /// The role of a machine that enrols with it.
    pub role: Role,
    /// The machine's name, where the token says it.
    pub machine_name: Option<String>,
    /// How many times it may be used.
    pub uses: u32,
    /// Until when.
    pub expires: Timestamp,
}

/// What the entries of the LOG amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The store, once created.
    pub store: Option<StoreId>,
    /// When it was made.
    pub created: Timestamp,
    /// Machines by id.
    pub machines: BTreeMap<MachineId, Machine>,
    /// Tokens by id; `uses` is what is left.
    pub tokens: BTreeMap<[u8; 16], Token>,
    /// Receipts by sequence number: hash and snapshot.
    pub receipts: BTreeMap<u64, (Digest, ObjectId)>,
    /// Number of the last entry; the first is 1.
    pub sequence: u64,
}

impl LogState {
    /// Returns the machine with this public key, if one is enrolled.
    pub fn machine_by_key(&self, key: Fingerprint) -> Option<&Machine> {
        self.machines.values().find(|machine| machine.key == key)
    }

    /// Returns the machine with this name, if one is enrolled.
    pub fn machine_by_name(&self, name: &str) -> Option<&Machine> {
        self.machines.values().find(|machine| machine.name == name)
    }
}

/// The LOG of an open store.
pub struct Log {}

impl Log {
    /// Appends an entry, makes it durable, and applies it to the state.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::LockLost`], and what the storage says.
    pub fn append(&self, entry: &Entry, now: Timestamp) -> Result<()> {
        let _ = (entry, now);
        Err(Error::Closed)
    }

    /// Reads the state through `read`; the LOG stands still meanwhile.
    pub fn with_state<T>(&self, read: impl FnOnce(&LogState) -> T) -> T {
        read(&LogState::default())
    }

    /// Appends what `decide` makes of the state; nothing can come between the two.
    ///
    /// For example: use a token and enrol its machine, unless the token has no uses left. All
    /// entries become durable by one sync.
    ///
    /// # Errors
    /// What `decide` says, and as [`Log::append`].
    pub fn update<T, E: From<Error>>(
        &self,
        now: Timestamp,
        decide: impl FnOnce(&LogState) -> Result<(Vec<Entry>, T), E>,
    ) -> Result<T, E> {
        let (_, value) = decide(&LogState::default())?;
        self.append(&Entry::Audit { machine: None, text: String::new() }, now)?;
        Ok(value)
    }
}
