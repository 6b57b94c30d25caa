//! Marks again: what was committed, or pinned, since the marks were made.

use std::collections::HashSet;

use umbra_common::{Kind, ObjectId, Reference};

use crate::error::{Error, Result};
use crate::ids::DomainId;
use crate::index::{Key, Location};
use crate::store::gc::condemned::Condemned;
use crate::store::gc::mark::Marks;
use crate::store::inner::Inner;

/// Walks from new roots down to what is marked, by the rows of the index: what was committed was
/// alive, so all of it has one. What the walk meets is condemned no more.
pub(super) struct News<'a> {
    pub(super) inner: &'a Inner,
    pub(super) marks: &'a Marks<'a>,
    pub(super) condemned: &'a Condemned,
    pub(super) seen: HashSet<(DomainId, Reference)>,
    pub(super) rescued: u64,
}

impl News<'_> {
    /// Marks what a snapshot reaches.
    ///
    /// # Errors
    /// [`Error::NotCollected`] where something is missing; what the storage or the index says.
    pub(super) fn mark(&mut self, domain: DomainId, snapshot: ObjectId) -> Result<()> {
        let mut waiting = vec![Reference { kind: Kind::Manifest, id: snapshot }];
        while let Some(node) = waiting.pop() {
            let marked = self.marks.nodes.find(domain, node);
            let marked = marked.is_some_and(|node| self.marks.nodes.is_reached(node));
            if marked || !self.seen.insert((domain, node)) {
                continue;
            }
            let key = Key { domain, id: node.id };
            let row = self.inner.index.find(&key)?;
            self.take(&node, row)?;
            let refs = self.inner.get(domain, &node)?.refs;
            let keys: Vec<Key> = refs.iter().map(|child| Key { domain, id: child.id }).collect();
            let rows = self.inner.index.find_many(&keys)?;
            for (child, row) in refs.into_iter().zip(rows) {
                self.take(&child, row)?;
                if child.kind.is_node() {
                    waiting.push(child);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, reference: &Reference, row: Option<Location>) -> Result<()> {
        let Some(row) = row.filter(|row| row.kind == reference.kind) else {
            let reason = format!(
                "{} {} is referred to, and the index does not have it",
                reference.kind.name(),
                reference.id
            );
            return Err(Error::NotCollected { reason });
        };
        self.rescued = self.rescued.saturating_add(u64::from(self.condemned.rescue(&row)));
        Ok(())
    }
}
