//! Nodes of snapshots, read from a vault and kept while they are near.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use umbra_common::node::{Node, NodeSource};
use umbra_common::{Error, Reference, Result};
use umbra_net::{NetError, Reader, Wanted};

/// Bytes of nodes kept at most; beyond that the cache starts anew. A node may have up to 1 MiB.
const KEPT_BYTES: usize = 32 << 20;
/// What a reference takes in memory, beside its place in a node's body.
const REFERENCE_BYTES: usize = std::mem::size_of::<Reference>();

/// A source of nodes over a vault's reader.
pub struct VaultNodes {
    reader: Reader,
    kept: Mutex<Kept>,
}

/// Nodes that were read, and what they take.
#[derive(Default)]
struct Kept {
    nodes: HashMap<Reference, Arc<Node>>,
    bytes: usize,
}

impl Kept {
    fn keep(&mut self, reference: Reference, node: &Arc<Node>) {
        let bytes = node.body.len() + (node.refs.len() + 2) * REFERENCE_BYTES;
        if self.bytes + bytes > KEPT_BYTES {
            *self = Self::default();
        }
        if self.nodes.insert(reference, Arc::clone(node)).is_none() {
            self.bytes += bytes;
        }
    }
}

impl VaultNodes {
    /// Makes a source over `reader`.
    pub fn new(reader: Reader) -> Self {
        Self { reader, kept: Mutex::default() }
    }

    fn find(&self, reference: &Reference) -> Option<Arc<Node>> {
        self.kept.lock().ok()?.nodes.get(reference).cloned()
    }

    fn keep(&self, node: &Arc<Node>, reference: Reference) {
        if let Ok(mut kept) = self.kept.lock() {
            kept.keep(reference, node);
        }
    }
}

fn unavailable(reference: Reference, source: NetError) -> Error {
    Error::Unavailable { reference, source: Box::new(source) }
}

impl NodeSource for VaultNodes {
    fn child(&self, parent: &Reference, number: u32, want: &Reference) -> Result<Arc<Node>> {
        let mut nodes = self.children(parent, &[number], std::slice::from_ref(want))?;
        let reason = "the vault gave nothing";
        nodes.pop().ok_or(Error::Corrupt { what: want.kind.name(), at: 0, reason })
    }

    fn children(
        &self,
        parent: &Reference,
        numbers: &[u32],
        want: &[Reference],
    ) -> Result<Vec<Arc<Node>>> {
        let asked: Vec<(u32, Reference)> = numbers
            .iter()
            .copied()
            .zip(want.iter().copied())
            .filter(|(_, reference)| self.find(reference).is_none())
            .collect();
        let mut fresh: HashMap<Reference, Arc<Node>> = HashMap::new();
        let mut unsound = None;
        if !asked.is_empty() {
            let wanted = [Wanted { node: *parent, objects: asked }];
            self.reader
                .read(&wanted, &mut |_, _, plain| {
                    let plain = plain?;
                    let node =
                        Node { kind: plain.reference.kind, refs: plain.refs, body: plain.body };
                    unsound = unsound.take().or(node.check().err());
                    fresh.insert(plain.reference, Arc::new(node));
                    Ok::<(), NetError>(())
                })
                .map_err(|error| unavailable(*want.first().unwrap_or(parent), error))?;
        }
        if let Some(error) = unsound {
            return Err(error);
        }
        fresh.iter().for_each(|(reference, node)| self.keep(node, *reference));
        let found = |reference: &Reference| {
            let node = fresh.get(reference).cloned().or_else(|| self.find(reference));
            let reason = "the vault left it out";
            node.ok_or(Error::Corrupt { what: reference.kind.name(), at: 0, reason })
        };
        want.iter().map(found).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbra_common::{Kind, ObjectId};

    #[test]
    fn large_nodes_are_not_kept_by_their_number() {
        let mut kept = Kept::default();
        for number in 0..4096_u32 {
            let body = vec![0; 200 << 10];
            let node = Arc::new(Node { kind: Kind::MapPage, refs: Vec::new(), body });
            let id = ObjectId::of_chunk(&number.to_le_bytes());
            kept.keep(Reference { kind: Kind::MapPage, id }, &node);
            kept.keep(Reference { kind: Kind::MapPage, id }, &node);
            let held: usize = kept.nodes.values().map(|node| node.body.len()).sum();
            assert!(held > 0 && held <= KEPT_BYTES, "{held} bytes after {number}");
            assert!(kept.bytes >= held);
        }
    }
}
