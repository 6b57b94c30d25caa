//! Nodes in memory: source and sink of tests and of small jobs.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{Error, Kind, Reference, Result};

use super::{Node, NodeSink, NodeSource};

/// A set of nodes in memory that checks what goes in and what is asked of it.
#[derive(Clone, Debug, Default)]
pub struct MemoryNodes {
    nodes: HashMap<Reference, Arc<Node>>,
}

/// Why [`MemoryNodes`] refused.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No such node was put, or it was removed.
    #[error("no such node in memory")]
    Missing,
    /// A node was put before its child.
    #[error("its parent was put before it")]
    ParentFirst,
    /// The parent's list says otherwise.
    #[error("the parent's reference list does not name it under this number")]
    NotInList,
}

impl MemoryNodes {
    /// Makes an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of distinct nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Returns a node.
    pub fn find(&self, reference: &Reference) -> Option<&Arc<Node>> {
        self.nodes.get(reference)
    }

    /// Takes a node away, as damage would.
    pub fn remove(&mut self, reference: &Reference) -> Option<Arc<Node>> {
        self.nodes.remove(reference)
    }

    /// Puts `node` under `reference`, whatever it hashes to, as damage would.
    pub fn damage(&mut self, reference: Reference, node: Node) {
        self.nodes.insert(reference, Arc::new(node));
    }

    /// Returns all nodes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Reference, &Arc<Node>)> {
        self.nodes.iter()
    }
}

fn refuse(reference: &Reference, why: Refusal) -> Error {
    Error::Unavailable { reference: *reference, source: Box::new(why) }
}

impl NodeSink for MemoryNodes {
    /// Takes a node whose child nodes (not chunks) are all here already.
    fn put(&mut self, node: Node) -> Result<Reference> {
        node.check()?;
        let children = node.refs.iter().filter(|child| child.kind.is_node());
        for child in children {
            if !self.nodes.contains_key(child) {
                return Err(refuse(child, Refusal::ParentFirst));
            }
        }
        let reference = node.reference();
        self.nodes.insert(reference, Arc::new(node));
        Ok(reference)
    }
}

impl NodeSource for MemoryNodes {
    /// Reads a child. A parent that is not here must be a manifest (those are often elsewhere).
    fn child(&self, parent: &Reference, number: u32, want: &Reference) -> Result<Arc<Node>> {
        match self.nodes.get(parent) {
            Some(parent) if parent.child(number)? != *want => {
                return Err(refuse(want, Refusal::NotInList));
            }
            None if parent.kind != Kind::Manifest => return Err(refuse(parent, Refusal::Missing)),
            _ => {}
        }
        let node = self.nodes.get(want).ok_or_else(|| refuse(want, Refusal::Missing))?;
        let found = node.reference();
        if found != *want {
            return Err(Error::WrongBytes { reference: *want, found: found.id });
        }
        Ok(Arc::clone(node))
    }
}
