//! Receipts: what the vault says about a snapshot it holds.

use std::collections::BTreeMap;

use umbra_common::ObjectId;

use crate::ids::{Digest, DomainId, MachineId, SessionNonce, Timestamp};

/// A committed snapshot. Its file is `receipts/<sequence, 16 digits>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Number in the store, from 1, without gaps.
    pub sequence: u64,
    /// Hash of the receipt before it; zeros for the first.
    pub previous: Digest,
    /// The snapshot: id of its manifest node.
    pub snapshot: ObjectId,
    /// The domain that its objects stand in.
    pub domain: DomainId,
    /// Whose disk.
    pub machine: MachineId,
    /// The machine's name at that time.
    pub machine_name: String,
    /// The disk's name.
    pub disk: String,
    /// The session's nonce, as in the manifest.
    pub nonce: SessionNonce,
    /// When the vault committed it.
    pub received: Timestamp,
    /// The GC generation of the store at that time.
    pub gc_generation: u64,
    /// What the agent says: tags, host, time. Labels, never identity.
    pub labels: BTreeMap<String, String>,
}
