//! What a collection did.

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Snapshots that count: everything that they need stays.
    pub roots: u64,
    /// Snapshots that are gone for good, by the numbers of their receipts.
    pub expunged: Vec<u64>,
    /// Snapshots that are forgotten and stay for now: the forgetting can be undone, or they are
    /// protected or held.
    pub forgotten: u64,
    /// Sealed packs before.
    pub packs: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Records that nothing needs and that go.
    pub objects_condemned: u64,
    /// Packs that were (or would be) deleted.
    pub packs_deleted: u64,
    /// Bytes of those.
    pub bytes_freed: u64,
    /// Packs of which something was copied first.
    pub packs_copied: u64,
    /// Bytes that were copied.
    pub bytes_copied: u64,
    /// Records that nothing needs and that stay, in packs that are mostly of use; bytes.
    pub bytes_dead_kept: u64,
    /// How long it waited for backups of before, in milliseconds.
    pub waited_ms: u64,
    /// Packs that could not be deleted, and why; the next collection tries again.
    pub kept: Vec<(String, String)>,
}
