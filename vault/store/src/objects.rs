//! `ObjectStore`: named immutable objects. `put_new` is the only way to commit one.

use umbra_common::ByteRange;

use crate::error::Result;

mod local;

pub use local::LocalObjects;
pub(crate) use local::list_or_none;

/// What `list` and `head` tell about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name, `/` between the parts.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// Immutable objects by name: no rename, no append, no overwriting, no name used twice.
pub trait ObjectStore: Send + Sync {
    /// Makes an object durable under a name that was never used.
    ///
    /// # Errors
    /// [`crate::Error::Exists`] where the name is taken (nothing was changed).
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Reads ranges of one object, all outstanding at once; one answer a range, in order.
    ///
    /// # Errors
    /// `Io` with `NotFound` where there is no such object; a range past its end is an error too.
    fn get_ranges(&self, name: &str, ranges: &[ByteRange]) -> Result<Vec<Vec<u8>>>;

    /// Returns what is known about an object, or `None` where there is none.
    ///
    /// # Errors
    /// What the storage says.
    fn head(&self, name: &str) -> Result<Option<ObjectInfo>>;

    /// Lists the objects whose names begin with `prefix` (a whole part: `packs/`), sorted.
    ///
    /// # Errors
    /// What the storage says.
    fn list(&self, prefix: &str) -> Result<Vec<String>>;

    /// Deletes an object.
    ///
    /// # Errors
    /// `Io` with `NotFound` where there is none.
    fn delete(&self, name: &str) -> Result<()>;
}
