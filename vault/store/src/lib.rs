//! The vault's store: packs, receipts and LOG are the truth; the index is made from them.
//!
//! Three layers of storage: [`ObjectStore`] (immutable objects, `put_new` only), [`Journal`]
//! (append, sync, seal) and, below the local backend, [`Vfs`]. Everything is synchronous; the
//! store runs one plain thread for each of its lanes. Clock and randomness come from the caller.
//!
//! Formats: `docs/formats/{store,pack,log,receipt-file}.md`.
#![doc = include_str!("../OPERATIONS.md")]

mod bytes;
mod cipher;
mod error;
pub mod failpoint;
mod format;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod golden;
mod ids;
mod index;
mod journal;
mod lock;
mod log;
mod object;
mod objects;
mod pack;
mod receipt;
mod retention;
mod session;
mod store;
pub mod testing;
mod vfs;

pub use cipher::{Cipher, CipherContext};
pub use error::{Error, Result};
pub use ids::{Digest, DomainId, MachineId, PackId, RunId, SessionNonce, StoreId, Timestamp};
pub use index::{
    Batch, INDEX_BEING_MADE, INDEX_VERSION, Index, IndexFormat, IndexOpener, Key, Location,
    LogMark, MemoryIndex, MemoryIndexOpener, PackRow, PackState,
};
pub use journal::{Journal, LocalJournal, SealTo, Segment};
pub use log::{Entry, Forgotten, HoldOn, Log, LogState, Machine, Role, Token};
pub use object::{MAX_REFERENCES, MAX_STORED_BYTES, prove};
pub use objects::{LocalObjects, ObjectInfo, ObjectStore};
pub use retention::{
    Candidate, DEFAULT_UNDO_SECONDS, Keep, MAX_SECONDS, Period, Policy, Reason, Scope, Verdict,
};
pub use session::{
    Base, Commit, CommitRequest, OnSettled, Put, Session, SessionInfo, SessionStats, Settled,
};
pub use store::check::{
    CheckOptions, CheckProgress, CheckReport, Finding, FindingKind, Findings, HitPath,
    IndexChecked, LossCause, LostObject, Reach, ReadData, RecordPlace, SnapshotHit, check,
};
pub use store::gc::{GcOptions, GcReport, ReaderPin};
pub use store::repair::{PackRepair, RepairOptions, RepairReport};
pub use store::salvage::{SalvageOptions, SalvageReport, salvage};
pub use store::{
    Changed, Damage, HoldChanged, InitOptions, Intent, KeptSnapshot, KeptSnapshots, OpenMode,
    OpenOptions, RebuildReport, Store, StoreStatus,
};
pub use umbra_common::snapshot::Receipt;
pub use umbra_common::wire::{Codec, Object};
pub use vfs::{Access, RealVfs, Space, Vfs, VfsFile};
