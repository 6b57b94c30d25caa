//! Which nodes a connection may read through.

use super::Violation;
use crate::Reference;
use crate::wire::message::{ReadItem, Refusal, RefusalCode};
use crate::wire::{MAX_READ_ITEMS, MAX_READ_OBJECTS};
use std::collections::HashSet;

/// Most nodes remembered; at 33 bytes each and some room they stay below 20 MiB, and there is a
/// set for each connection.
const MAX_NODES: usize = 450_000;

/// The nodes that the vault has served on one connection.
///
/// A chunk is never served by its bare hash: a read names a node of this set and numbers in its
/// list, so whoever merely knows a hash learns nothing.
#[derive(Debug, Default)]
pub struct Served {
    nodes: HashSet<Reference>,
}

impl Served {
    /// Remembers an object that is about to be served. When the set is full it begins anew: an
    /// agent that then hears [`RefusalCode::NotServed`] walks down from the manifest again.
    pub fn insert(&mut self, reference: Reference) {
        if !reference.kind.is_node() {
            return;
        }
        if self.nodes.len() >= MAX_NODES {
            self.nodes.clear();
        }
        self.nodes.insert(reference);
    }

    /// Checks a read: its size and every node that it names.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn check(&self, items: &[ReadItem]) -> Result<(), Refusal> {
        let objects = items.iter().fold(0, |sum: usize, i| sum.saturating_add(i.numbers.len()));
        if items.len() > MAX_READ_ITEMS || objects > MAX_READ_OBJECTS {
            return Err(Violation::new("a read request that is too large").into());
        }
        match items.iter().find(|item| !self.nodes.contains(&item.node)) {
            None => Ok(()),
            Some(item) => Err(Refusal {
                code: RefusalCode::NotServed,
                text: format!("node {} was not served on this connection", item.node.id),
            }),
        }
    }
}
