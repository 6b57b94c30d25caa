//! Sessions: one agent's backup of one disk, from the first question to the receipt.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use umbra_common::snapshot::Receipt;
use umbra_common::{ObjectId, Reference};

use crate::error::Error;
use crate::ids::{DomainId, MachineId, RunId, SessionNonce};

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

/// Told what became of a session's objects, from the threads of the store. Must not block and
/// must not call the store.
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

/// A session that has begun. Dropping it ends its lease; nothing durable is lost by that.
pub struct Session {}

impl Session {
    /// Tells whether the base named at `begin` may be relied on.
    pub fn base(&self) -> Base {
        Base::None
    }

    /// Returns what the session brought so far.
    pub fn stats(&self) -> SessionStats {
        SessionStats::default()
    }
}
