//! What a vault acknowledged, kept outside of it.

use std::collections::{HashMap, HashSet};

use umbra_common::Reference;
use umbra_common::wire::Object;

/// What an object must be when it is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The bytes of this number.
    Chunk(u64),
    /// What its id says.
    Node,
}

/// Objects with what they must be.
pub type Objects = HashMap<Reference, Expected>;

/// A snapshot whose receipt came.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its manifest.
    pub manifest: Reference,
    /// The receipt, byte for byte.
    pub receipt: Vec<u8>,
    /// Everything that is reached from the manifest.
    pub objects: HashSet<Reference>,
}

/// What one writer was told of.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Everything that is durable, by the vault's word.
    pub held: Objects,
    /// What of it is in no snapshot.
    pub loose: HashSet<Reference>,
    /// Snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// How many of them have been read back whole.
    pub proven: usize,
    /// Manifests whose commit was not answered: their receipts may be there, or not.
    pub unanswered: HashSet<Reference>,
    /// Chunks that this writer has made so far.
    pub made: u64,
}

impl Ledger {
    /// Notes objects that are durable.
    pub fn acknowledge(&mut self, objects: impl IntoIterator<Item = (Reference, Expected)>) {
        for (reference, expected) in objects {
            if self.held.insert(reference, expected).is_none() {
                self.loose.insert(reference);
            }
        }
    }

    /// Notes a receipt: what is in the snapshot is durable, and loose no more.
    pub fn commit(&mut self, manifest: Reference, receipt: Vec<u8>, objects: Objects) {
        self.loose.retain(|reference| !objects.contains_key(reference));
        self.unanswered.remove(&manifest);
        let reached = objects.keys().copied().collect();
        self.held.extend(objects);
        self.snapshots.push(Snapshot { manifest, receipt, objects: reached });
    }
}

/// The objects of nodes.
pub fn nodes_of(nodes: &[Object]) -> impl Iterator<Item = (Reference, Expected)> {
    nodes.iter().map(|node| (node.reference, Expected::Node))
}
