//! Collections, as an administrator asks for them and hears of them.

use crate::clock::now;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use umbra_store::{GcOptions, GcReport, Store};

/// What kind of collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcAsked {
    /// Do not wait until forgetting cannot be undone any more.
    pub at_once: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Bytes a second that are copied at most.
    pub limit: Option<u64>,
    /// Seconds that it waits for backups of before.
    pub wait_seconds: u64,
}

/// What it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcDone {
    /// It only says what would be done.
    pub dry_run: bool,
    /// Snapshots that count.
    pub snapshots: u64,
    /// Numbers of the receipts of snapshots that are gone for good.
    pub expunged: Vec<u64>,
    /// Snapshots that are forgotten and stay for now.
    pub forgotten: u64,
    /// Sealed packs before.
    pub packs: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Objects that nothing needs and that went.
    pub objects_condemned: u64,
    /// Packs that were deleted.
    pub packs_deleted: u64,
    /// Bytes of those.
    pub bytes_freed: u64,
    /// Bytes that were copied out of them first.
    pub bytes_copied: u64,
    /// Bytes that nothing needs, in packs that stay because most of them is needed.
    pub bytes_dead_kept: u64,
    /// How long it waited for backups of before.
    pub waited_ms: u64,
    /// Packs that could not be deleted, and why.
    pub kept: Vec<(String, String)>,
}

impl GcAsked {
    /// Collects.
    ///
    /// # Errors
    /// As [`Store::gc`].
    pub fn run(
        &self,
        store: &Store,
        stop: &dyn Fn() -> bool,
    ) -> Result<GcDone, umbra_store::Error> {
        let options = GcOptions {
            at_once: self.at_once,
            dry_run: self.dry_run,
            limit: self.limit,
            wait: Some(Duration::from_secs(self.wait_seconds)),
            clock: &now,
            stop,
        };
        Ok(GcDone::new(self.dry_run, store.gc(&options)?))
    }
}

impl GcDone {
    fn new(dry_run: bool, report: GcReport) -> Self {
        Self {
            dry_run,
            snapshots: report.roots,
            expunged: report.expunged,
            forgotten: report.forgotten,
            packs: report.packs,
            bytes: report.bytes,
            objects_condemned: report.objects_condemned,
            packs_deleted: report.packs_deleted,
            bytes_freed: report.bytes_freed,
            bytes_copied: report.bytes_copied,
            bytes_dead_kept: report.bytes_dead_kept,
            waited_ms: report.waited_ms,
            kept: report.kept,
        }
    }
}
