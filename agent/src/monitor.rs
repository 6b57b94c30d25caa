//! Where the library reports what goes on and what goes wrong without stopping the run.

use std::sync::Mutex;

use umbra_common::ByteOffset;

/// The stages of a run that a person may want to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Partition tables and file systems are being parsed.
    Survey,
    /// The source is being read and sent.
    Backup,
    /// Map and overlay are being sent.
    Commit,
    /// A disk or files are being written.
    Restore,
    /// Stored bytes are being checked.
    Verify,
}

/// Something wrong that did not stop the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it concerns: a volume (`part/2`), a file, the source.
    pub subject: String,
    /// Where on the disk, where that is known.
    pub at: Option<ByteOffset>,
    /// What is wrong.
    pub message: String,
}

/// Receives progress and warnings; called from several threads.
pub trait Monitor: Send + Sync {
    /// A stage begins; `total` is its size in bytes where it is known.
    fn begin(&self, stage: Stage, total: Option<u64>);
    /// `bytes` more of the current stage are done.
    fn advance(&self, bytes: u64);
    /// `bytes` more turned out to be new to the vault.
    fn new_bytes(&self, bytes: u64);
    /// Something is wrong; the run goes on.
    fn warning(&self, notice: Notice);
    /// Returns the first warnings, as many as a snapshot keeps, and the number of all.
    fn warnings(&self) -> (Vec<Notice>, u64);
}

/// A monitor that only keeps warnings, for tests and for callers who show them at the end.
#[derive(Debug, Default)]
pub struct Quiet {
    warnings: Mutex<Vec<Notice>>,
}

impl Monitor for Quiet {
    fn begin(&self, _: Stage, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn new_bytes(&self, _: u64) {}
    fn warning(&self, notice: Notice) {
        if let Ok(mut list) = self.warnings.lock() {
            list.push(notice);
        }
    }
    fn warnings(&self) -> (Vec<Notice>, u64) {
        let list = self.warnings.lock().map(|list| list.clone()).unwrap_or_default();
        let count = list.len() as u64;
        (list, count)
    }
}
