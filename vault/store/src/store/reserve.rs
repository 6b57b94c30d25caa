//! Room that nobody else can take: a file of real blocks, given up when the disk is full.
//!
//! The vault stops taking data while 2 % + 1 GiB are left, but others write to the same file
//! system. With nothing left at all not even a snapshot could be forgotten: the LOG grows by an
//! entry for that, the index by a few rows. The reserve is enough for these; what a collection
//! frees then makes it anew.

use crate::store::inner::Inner;
use crate::vfs::{Space, Vfs};

/// Its name.
pub(crate) const RESERVE_NAME: &str = "reserve";

/// Returns how much is kept, in bytes: a sixteenth of the file system, at most 64 MiB. RocksDB sets
/// 18 MiB aside for its log when it is opened.
fn wanted(space: Space) -> u64 {
    (space.total_bytes / 16).min(64 << 20)
}

/// Gives the reserve up where the file system is full.
///
/// It is an aid: where it does not work, what needs the room fails and says so.
pub(crate) fn give_up_when_full(vfs: &dyn Vfs) {
    let Ok(space) = vfs.space() else { return };
    if space.free_bytes < wanted(space) / 2 && vfs.remove(RESERVE_NAME).is_ok() {
        // The blocks of a removed file are free once that is on the disk.
        let _ = vfs.sync_dir("");
    }
}

/// Makes the reserve where there is none, and room for more than it.
pub(crate) fn keep(vfs: &dyn Vfs) {
    let Ok(space) = vfs.space() else { return };
    let len = wanted(space);
    if space.free_bytes >= len.saturating_mul(3) {
        // Exists already, or cannot be had: then there is none.
        let _ = vfs.reserve(RESERVE_NAME, len);
    }
}

impl Inner {
    /// Gives the reserve up where the file system is full, or makes it anew where it is not.
    pub(crate) fn look_after_reserve(&self) {
        give_up_when_full(&*self.vfs);
        keep(&*self.vfs);
    }
}
