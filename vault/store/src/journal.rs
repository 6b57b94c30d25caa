//! `Journal`: local files that grow at their end and become objects when they are sealed.

use umbra_common::ByteRange;

use crate::error::Result;

mod local;

pub use local::{LocalJournal, SealTo};

/// Segments by name: open packs (`open/<pack>`) and the LOG (`log/<number>`).
///
/// A segment is written by the process that created it and never reopened for writing.
pub trait Journal: Send + Sync {
    /// Starts a segment under a name that was never used.
    ///
    /// # Errors
    /// [`crate::Error::Exists`] where the name is taken.
    fn create(&self, name: &str) -> Result<Box<dyn Segment>>;

    /// Starts a segment that holds `bytes`, durably: after a crash it is there with all of them,
    /// or not at all.
    ///
    /// # Errors
    /// [`crate::Error::Exists`] where the name is taken; what the storage says. Where making the
    /// name durable failed, the segment may be there all the same, now or later.
    fn create_with(&self, name: &str, bytes: &[u8]) -> Result<Box<dyn Segment>>;

    /// Lists the names of the segments in a directory (`open`, `log`), sorted, without it.
    ///
    /// # Errors
    /// What the storage says.
    fn list(&self, dir: &str) -> Result<Vec<String>>;

    /// Reads ranges of a segment, whoever writes it.
    ///
    /// # Errors
    /// `Io` with `NotFound` where there is no such segment; a range past its end is an error too.
    fn get_ranges(&self, name: &str, ranges: &[ByteRange]) -> Result<Vec<Vec<u8>>>;

    /// Returns the length of a segment in bytes, or `None` where there is none.
    ///
    /// # Errors
    /// What the storage says.
    fn len(&self, name: &str) -> Result<Option<u64>>;

    /// Makes the bytes of a segment that nobody writes an immutable object, and the segment go.
    ///
    /// Everything below its length must be synced or void. Locally a rename.
    ///
    /// # Errors
    /// What the storage says.
    fn seal(&self, name: &str, object: &str) -> Result<()>;

    /// Removes a segment whose object exists.
    ///
    /// # Errors
    /// What the storage says.
    fn remove(&self, name: &str) -> Result<()>;

    /// Makes the bytes of a segment durable that an earlier process may have left unsynced.
    ///
    /// # Errors
    /// What the storage says.
    fn sync(&self, name: &str) -> Result<()>;
}

/// A segment that this process writes.
pub trait Segment: Send + Sync {
    /// Appends all of `bytes` and returns the offset of the first. One caller at a time.
    ///
    /// # Errors
    /// What the storage says; the segment then takes no more.
    fn append(&self, bytes: &[u8]) -> Result<u64>;

    /// Makes everything durable that was appended before the call.
    ///
    /// # Errors
    /// What the storage says; the segment is then poisoned: it takes no more and never syncs.
    fn sync(&self) -> Result<()>;

    /// Returns the bytes appended so far.
    fn position(&self) -> u64;
}
