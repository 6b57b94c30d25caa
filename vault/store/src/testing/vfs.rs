//! Files in memory that forget, at a crash, what was not synced, and fail where they are told to.
//!
//! What a power cut may leave, and what it may not:
//!
//! - Each 512-byte sector of each unsynced write survives or not, whatever became of the others:
//!   writes are torn inside, and reordered within a file and across files.
//! - Each change of a name survives or not, whatever became of other names and of contents. A
//!   rename is one change: syncing either directory makes it durable.
//! - A file may be as long as it was, with zeros where sectors did not survive.
//! - What was covered by a sync that succeeded is there. A sync that failed has lost what it
//!   should have made durable, or, where told so, some sectors of it.
//! - Never: bytes of another file in the place of lost ones (file systems that order data before
//!   lengths rule that out), and a surviving sector that is half new.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bytes::{narrow, wide};
use crate::testing::random::Random;

mod cut;
mod disk;
mod files;
mod harm;
#[cfg(test)]
mod tests;

use disk::Disk;
pub use harm::{Harm, Hit};

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails for want of space.
    NoSpace,
    /// It fails with EIO; a sync that does has lost what it should have made durable.
    Io,
    /// A write writes half of what it should; other operations succeed.
    Short,
    /// It does not happen, and nothing happens after it.
    Crash,
}

/// Files in memory. Clones share them.
#[derive(Clone)]
pub struct SimVfs {
    disk: Arc<Mutex<Disk>>,
}

impl Default for SimVfs {
    fn default() -> Self {
        Self::of(Disk::default())
    }
}

impl SimVfs {
    fn of(disk: Disk) -> Self {
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many operations that change something were tried so far.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Returns how many syncs, of files and of directories, were tried so far.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Lets the operation with this number (from 0) meet a fault.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.disk().faults.insert(operation, fault);
    }

    /// Lets the sync with this number (from 0) meet a fault.
    pub fn fault_at_sync(&self, sync: u64, fault: Fault) {
        self.disk().sync_faults.insert(sync, fault);
    }

    /// Takes every fault back that no operation has met yet.
    ///
    /// How many operations a piece of work takes depends on how its threads meet: a fault meant for
    /// the last of them may otherwise wait for whatever the test does next.
    pub fn clear_faults(&self) {
        let mut disk = self.disk();
        disk.faults.clear();
        disk.sync_faults.clear();
        disk.fault_from = None;
    }

    /// Tells whether a fault waits for an operation.
    pub fn has_faults(&self) -> bool {
        let disk = self.disk();
        !disk.faults.is_empty() || !disk.sync_faults.is_empty() || disk.fault_from.is_some()
    }

    /// Returns how many operations met a fault.
    pub fn faults_met(&self) -> u64 {
        self.disk().faults_met
    }

    /// Lets every operation from this number on meet a fault; `None` ends that.
    pub fn fault_from(&self, from: Option<(u64, Fault)>) {
        self.disk().fault_from = from;
    }

    /// Lets a sync that fails with [`Fault::Io`] have made some sectors durable all the same, as
    /// the seed says; `None`: none of them.
    pub fn fail_partly(&self, seed: Option<u64>) {
        self.disk().partly = seed.map(|seed| Random::new(seed, "partly"));
    }

    /// Lets nothing happen any more, as from a power cut or a kill on.
    pub fn halt(&self) {
        self.disk().crashed = true;
    }

    /// Tells whether it came to a crash.
    pub fn is_halted(&self) -> bool {
        self.disk().crashed
    }

    /// Lets operations wait a little, now and then, as the seed says, so that the store's threads
    /// meet otherwise; `None`: none waits.
    pub fn slow_down(&self, seed: Option<u64>) {
        self.disk().slow = seed.map(|seed| Random::new(seed, "slow"));
    }

    /// Sets how much room is left; what others have of the disk changes with it.
    pub fn set_free_bytes(&self, free_bytes: u64) {
        self.disk().set_free_bytes(free_bytes);
    }

    /// Sets how long the disk is; all of it but the store's own files is free.
    pub fn set_capacity(&self, total_bytes: u64) {
        self.disk().set_capacity(total_bytes);
    }

    /// Returns how much room is left.
    pub fn free_bytes(&self) -> u64 {
        self.disk().free_bytes()
    }

    /// Changes the bytes of a file behind everybody's back; false where there is none.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut disk = self.disk();
        let Some(number) = disk.names.get(path).copied() else { return false };
        let Some(file) = disk.files.get_mut(number) else { return false };
        change(&mut file.data);
        file.durable = file.data.clone();
        file.unsynced.clear();
        disk.count_used();
        true
    }

    /// Lets every reading of a file fail with EIO; false where there is none.
    pub fn make_unreadable(&self, path: &str) -> bool {
        let mut disk = self.disk();
        let Some(number) = disk.names.get(path).copied() else { return false };
        disk.unreadable.insert(number)
    }

    /// Lets every reading of these bytes of a file fail with EIO; false where there is no such file.
    pub fn make_unreadable_at(&self, path: &str, range: std::ops::Range<u64>) -> bool {
        let mut disk = self.disk();
        let Some(number) = disk.names.get(path).copied() else { return false };
        disk.unreadable_ranges.push((number, range));
        true
    }

    /// Removes a file behind everybody's back; false where there is none.
    pub fn lose(&self, path: &str) -> bool {
        let mut disk = self.disk();
        disk.durable_names.remove(path);
        let lost = disk.names.remove(path).is_some();
        disk.count_used();
        lost
    }

    /// Returns the names of all files.
    pub fn files(&self) -> Vec<String> {
        self.disk().names.keys().cloned().collect()
    }
}

fn eio() -> io::Error {
    io::Error::other("a simulated fault")
}

fn write_at(data: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = narrow(offset);
    let end = start.saturating_add(bytes.len());
    if data.len() < end {
        data.resize(end, 0);
    }
    if let Some(place) = data.get_mut(start..end) {
        place.copy_from_slice(bytes);
    }
}

/// Splits a write where the disk's sectors end.
fn sectors(offset: u64, bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let to_end = SECTOR_BYTES.saturating_sub(offset % SECTOR_BYTES);
    let (first, rest) = bytes.split_at(narrow(to_end).min(bytes.len()));
    let mut pieces = vec![(offset, first)];
    let mut at = offset.saturating_add(to_end);
    for piece in rest.chunks(narrow(SECTOR_BYTES)) {
        pieces.push((at, piece));
        at = at.saturating_add(wide(piece.len()));
    }
    pieces
}

/// What a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;
