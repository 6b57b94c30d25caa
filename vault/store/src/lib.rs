//! The vault's store: packs, receipts and LOG are the truth; the index is made from them.
//!
//! Three layers of storage: [`ObjectStore`] (immutable objects, `put_new` only), [`Journal`]
//! (append, sync, seal) and, below the local backend, [`Vfs`]. Everything is synchronous; the
//! store runs one plain thread for each of its lanes. Clock and randomness come from the caller.
//!
//! Formats: `docs/formats/{store,pack,log,receipt-file}.md`.

mod cipher;
mod error;
mod ids;
mod index;
mod journal;
mod log;
mod object;
mod objects;
mod receipt;
mod session;
mod store;
mod vfs;

pub use cipher::{Cipher, CipherContext};
pub use error::{Error, Result};
pub use ids::{Digest, DomainId, MachineId, PackId, SessionNonce, StoreId, Timestamp};
pub use index::{
    Batch, INDEX_VERSION, Index, IndexFormat, IndexOpener, Key, Location, LogMark, MemoryIndex,
    MemoryIndexOpener, PackRow, PackState,
};
pub use journal::{Journal, Segment};
pub use log::{Entry, Log, LogState, Machine, Role, Token};
pub use object::{MAX_PLAIN_BYTES, MAX_REFERENCES, MAX_STORED_BYTES, Object, StoredCodec, id_of};
pub use objects::{ObjectInfo, ObjectStore};
pub use receipt::Receipt;
pub use session::{
    Base, Commit, CommitRequest, OnSettled, Put, Session, SessionInfo, SessionStats, Settled,
};
pub use store::{Damage, InitOptions, OpenMode, OpenOptions, RebuildReport, Store, StoreStatus};
pub use vfs::{Access, Space, Vfs, VfsFile};
