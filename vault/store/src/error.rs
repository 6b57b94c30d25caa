//! The error of the store.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use umbra_common::Reference;

use crate::ids::{StoreId, Timestamp};
use crate::store::KeptSnapshots;

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong in the store. Never an error of the source that is being backed up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried: `read`, `write`, `sync`, ...
        action: &'static str,
        /// Name below the store's directory.
        path: String,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// No room, or only the reserve for receipts and GC is left. Exit code 14.
    #[error("no space left for {path}")]
    NoSpace {
        /// Name below the store's directory.
        path: String,
        /// What the system answered, where it was the system.
        #[source]
        source: Option<io::Error>,
    },
    /// Stored bytes contradict their format or checksum. Exit code 4.
    #[error("{path}: {what} is damaged at byte {at}: {reason}")]
    Corrupt {
        /// Which structure.
        what: &'static str,
        /// Name below the store's directory.
        path: String,
        /// Offset in that file.
        at: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A stored structure does not decode. Exit code 4.
    #[error("{path} does not decode")]
    Decode {
        /// Name below the store's directory.
        path: String,
        /// Why.
        #[source]
        source: umbra_common::Error,
    },
    /// A failed sync left it open whether something is durable; only reopening tells.
    #[error("a failed sync left {path} in doubt; the store must be opened anew")]
    InDoubt {
        /// Name below the store's directory.
        path: String,
    },
    /// An object's bytes, as received or as stored, are not what its id says.
    #[error("{} {} is not what its id says: {reason}", .reference.kind.name(), .reference.id)]
    WrongBytes {
        /// The object.
        reference: Reference,
        /// What is wrong.
        reason: &'static str,
    },
    /// A version or feature that this program does not know. Exit code 13.
    #[error("{path}: {what} {found} is unknown; this program knows up to {known}")]
    Unsupported {
        /// Which structure or field.
        what: &'static str,
        /// Name below the store's directory.
        path: String,
        /// What stands there.
        found: String,
        /// What this program knows.
        known: String,
    },
    /// A bound was passed.
    #[error("{what} is {found}, more than the limit of {limit}")]
    Limit {
        /// What is bounded.
        what: &'static str,
        /// What was asked for.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// The directory holds no store. Exit code 10.
    #[error("this directory holds no store: {reason}")]
    NotAStore {
        /// What is missing.
        reason: &'static str,
    },
    /// `init` found something in the directory.
    #[error("this directory is not empty: it holds {found}")]
    NotEmpty {
        /// One name that was found.
        found: String,
    },
    /// Another process owns the store. Exit code 11.
    #[error("the store is in use by process {pid}")]
    Locked {
        /// Its process id; 0 where it could not be read.
        pid: u32,
        /// Since when.
        since: Timestamp,
    },
    /// The store's lock was taken over by another process; this one must stop. Exit code 11.
    #[error("the store was taken over: its lock has epoch {found}, ours is {ours}")]
    LockLost {
        /// Our epoch.
        ours: u64,
        /// The epoch found.
        found: u64,
    },
    /// The store was opened for reading only.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// The store, or the thread that would have done it, is shutting down.
    #[error("the store is closing")]
    Closed,
    /// No such object in the store.
    #[error("{} {} is not in the store", .reference.kind.name(), .reference.id)]
    NotFound {
        /// The object.
        reference: Reference,
    },
    /// Snapshots that are protected or held are not forgotten.
    #[error("{snapshots}")]
    Kept {
        /// Which, and why.
        snapshots: KeptSnapshots,
    },
    /// A snapshot was forgotten, and then its space was given back.
    #[error("receipt {sequence} is not in the store any more: its space was given back")]
    Expunged {
        /// Number of its receipt.
        sequence: u64,
    },
    /// A name that must be new exists.
    #[error("{name} exists already")]
    Exists {
        /// The object's name.
        name: String,
    },
    /// A node's child was lost (its write failed) between the node's arrival and its sync.
    #[error("{} {}: a child could not be made durable", .reference.kind.name(), .reference.id)]
    ChildLost {
        /// The node.
        reference: Reference,
    },
    /// The index belongs to another store.
    #[error("the index belongs to store {found}")]
    ForeignIndex {
        /// Whose it is.
        found: StoreId,
    },
    /// A session did nothing for so long that what it relied on may be gone.
    #[error("this backup was silent for more than a day and has ended; begin it anew")]
    LeaseEnded,
    /// Collections, repairs and rebuilds keep each other out. Exit code 11.
    #[error("{running} is under way in this store")]
    Busy {
        /// What is under way.
        running: &'static str,
    },
    /// A collection found something that is missing or damaged, and deleted nothing. Exit code 4.
    #[error("nothing was deleted: {reason}")]
    NotCollected {
        /// What it found.
        reason: String,
    },
    /// Backups that began before a collection did not end in time; nothing was deleted. Exit
    /// code 11.
    #[error("backups that began before are still under way; nothing was deleted")]
    StillUnderWay,
    /// It was told to stop.
    #[error("it was stopped")]
    Stopped,
    /// A rebuild of the index failed in this process.
    #[error("the index was not made to the end; the store must be opened anew")]
    IndexHalfMade,
    /// The index failed.
    #[error("the index failed: cannot {action}")]
    Index {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something that several objects waited for failed.
    #[error("a write failed that this one depended on")]
    Shared(#[source] Arc<Error>),
}

/// Prints an error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Error {
    /// Makes the error of a failed system call; full disks become [`Error::NoSpace`].
    pub fn io(action: &'static str, path: &str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path, source: Some(source) }
            }
            _ => Self::Io { action, path, source },
        }
    }

    /// Tells whether a file or object was simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self.root(), Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Tells whether the medium gave bytes up: damage, where other errors of reading (no right,
    /// too many open files) say nothing about what is stored.
    pub fn is_unreadable(&self) -> bool {
        let Self::Io { source, .. } = self.root() else { return false };
        let media = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA];
        Errno::from_io_error(source).is_some_and(|errno| media.contains(&errno))
    }

    /// Returns the error that this one stands for, behind any [`Error::Shared`].
    pub fn root(&self) -> &Self {
        match self {
            Self::Shared(inner) => inner.root(),
            other => other,
        }
    }
}
