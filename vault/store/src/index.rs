//! `Index`: where each object stands. Holds only what packs, receipts and LOG imply.

use umbra_common::{Kind, ObjectId};

use crate::error::Result;
use crate::ids::{DomainId, PackId, StoreId};

mod layered;
mod memory;

pub(crate) use layered::LayeredIndex;
pub use memory::MemoryIndex;

/// What an object is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose object.
    pub domain: DomainId,
    /// Its content hash (of which the kind is a part, but for chunks).
    pub id: ObjectId,
}

/// Where a record stands, and enough about it to plan reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// Offset of the record in the pack, in bytes.
    pub offset: u64,
    /// Length of the whole record in bytes.
    pub record_len: u32,
    /// Length of the plain body in bytes.
    pub plain_len: u32,
    /// What the object is.
    pub kind: Kind,
    /// A descendant was lost: the object can be read but is not alive.
    pub incomplete: bool,
}

/// What a pack is to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PackState {
    /// A journal segment.
    Open = 0,
    /// An immutable object whose whole contents are in the index.
    Sealed = 1,
}

/// One row a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackRow {
    /// What it is.
    pub state: PackState,
    /// Bytes from the start whose records are in the index and durable.
    pub watermark: u64,
    /// Records that the index took from it.
    pub records: u32,
}

/// What the index says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexFormat {
    /// Version of its rows; this program writes [`INDEX_VERSION`].
    pub version: u32,
    /// The store it belongs to.
    pub store: StoreId,
    /// The GC generation that it reflects.
    pub gc_generation: u64,
}

/// The version of the index rows that this program writes and reads.
pub const INDEX_VERSION: u32 = 1;

/// Stands in the place of the version while an index is made anew. Until that is over nobody may
/// rely on it: it does not tell yet which nodes miss a descendant.
pub const INDEX_BEING_MADE: u32 = 0;

/// The last LOG entry that was durable when the row was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogMark {
    /// Its number; 0 where there is none.
    pub sequence: u64,
}

/// Changes that are made together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Rows to write; an existing row is replaced.
    pub put: Vec<(Key, Location)>,
    /// Rows to remove where they still name this location.
    pub remove: Vec<(Key, Location)>,
    /// Rows to replace, by the second location, where they still name the first.
    pub replace: Vec<(Key, Location, Location)>,
    /// Pack rows to write.
    pub packs: Vec<(PackId, PackRow)>,
    /// Pack rows to remove.
    pub remove_packs: Vec<PackId>,
    /// The new log mark.
    pub log_mark: Option<LogMark>,
    /// What the index says about itself from now on.
    pub format: Option<IndexFormat>,
}

/// Locations by (domain, id), and one row a pack. Atomic batches that are lost only from the end.
pub trait Index: Send + Sync {
    /// Returns what the index says about itself, or `None` where it is new.
    ///
    /// # Errors
    /// What the index says.
    fn format(&self) -> Result<Option<IndexFormat>>;

    /// Empties it and names what it belongs to from now on, durably.
    ///
    /// # Errors
    /// What the index says.
    fn wipe(&self, format: IndexFormat) -> Result<()>;

    /// Looks one object up.
    ///
    /// # Errors
    /// What the index says.
    fn find(&self, key: &Key) -> Result<Option<Location>>;

    /// Looks many objects up; one answer each, in order.
    ///
    /// # Errors
    /// What the index says.
    fn find_many(&self, keys: &[Key]) -> Result<Vec<Option<Location>>> {
        keys.iter().map(|key| self.find(key)).collect()
    }

    /// Makes the changes of a batch, in order with those before it.
    ///
    /// # Errors
    /// What the index says; then nothing of the batch was done.
    fn apply(&self, batch: &Batch) -> Result<()>;

    /// Returns a pack's row.
    ///
    /// # Errors
    /// What the index says.
    fn pack(&self, pack: PackId) -> Result<Option<PackRow>>;

    /// Returns all pack rows, by id.
    ///
    /// # Errors
    /// What the index says.
    fn packs(&self) -> Result<Vec<(PackId, PackRow)>>;

    /// Calls `each` for every row, by key.
    ///
    /// # Errors
    /// What the index or `each` says.
    fn for_each(&self, each: &mut dyn FnMut(Key, Location) -> Result<()>) -> Result<()>;

    /// Returns the last log mark.
    ///
    /// # Errors
    /// What the index says.
    fn log_mark(&self) -> Result<LogMark>;

    /// Writes everything to disk, for an orderly end.
    ///
    /// # Errors
    /// What the index says.
    fn sync(&self) -> Result<()>;

    /// Tells whether it is gone with the process: that it is empty is then no news.
    fn is_volatile(&self) -> bool {
        false
    }
}

/// How to come by an index once the store's lock is held.
pub trait IndexOpener: Send + Sync {
    /// Opens it, or makes it where there is none.
    ///
    /// # Errors
    /// What the index says; the store then destroys and rebuilds it.
    fn open(&self) -> Result<Box<dyn Index>>;

    /// Opens it for reading, beside a process that writes it and on read-only media.
    ///
    /// # Errors
    /// What the index says; the store then reads the packs instead.
    fn open_read_only(&self) -> Result<Box<dyn Index>>;

    /// Removes what is there.
    ///
    /// # Errors
    /// What the index says.
    fn destroy(&self) -> Result<()>;
}

/// Opens a [`MemoryIndex`], each time a new one: the store is read at each opening.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryIndexOpener;

impl IndexOpener for MemoryIndexOpener {
    fn open(&self) -> Result<Box<dyn Index>> {
        Ok(Box::new(MemoryIndex::default()))
    }

    fn open_read_only(&self) -> Result<Box<dyn Index>> {
        Ok(Box::new(MemoryIndex::default()))
    }

    fn destroy(&self) -> Result<()> {
        Ok(())
    }
}
