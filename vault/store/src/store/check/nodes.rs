//! Where every node stands, and what is known of it. 56 bytes a copy of a node, 1 a mark.

use umbra_common::Reference;

use crate::ids::{DomainId, PackId};
use crate::pack::Entry;
use crate::store::check::lost::RecordPlace;

/// A snapshot reaches it.
const REACHED: u8 = 1;
/// What it refers to has been looked at.
const FOLLOWED: u8 = 2;
/// Something below it is lost.
const BAD: u8 = 4;

/// One copy of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodePlace {
    domain: DomainId,
    reference: Reference,
    pub(crate) pack: PackId,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl NodePlace {
    /// Returns where its record stands.
    pub(crate) fn place(&self) -> RecordPlace {
        RecordPlace { pack: self.pack, offset: self.offset, len: self.len }
    }
}

/// All nodes.
#[derive(Default)]
pub(crate) struct Nodes {
    places: Vec<NodePlace>,
    /// One for each place; that of a node's first copy counts.
    marks: Vec<u8>,
}

/// Number of a node's first copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeNumber(usize);

impl Nodes {
    /// Adds what a pack holds; chunks are left out.
    pub(crate) fn take(&mut self, pack: PackId, entries: &[Entry]) {
        let nodes = entries.iter().filter(|entry| entry.kind.is_node());
        self.places.extend(nodes.map(|entry| NodePlace {
            domain: entry.domain,
            reference: Reference { kind: entry.kind, id: entry.id },
            pack,
            offset: entry.offset,
            len: entry.record_len(),
        }));
    }

    /// Puts them in order, once all were taken.
    pub(crate) fn sort(&mut self) {
        self.places.sort_unstable_by_key(|p| (p.domain, p.reference, p.pack, p.offset));
        self.marks = vec![0; self.places.len()];
    }

    /// Finds a node.
    pub(crate) fn find(&self, domain: DomainId, reference: Reference) -> Option<NodeNumber> {
        let key = (domain, reference);
        let first = self.places.partition_point(|p| (p.domain, p.reference) < key);
        let found = self.places.get(first)?;
        ((found.domain, found.reference) == key).then_some(NodeNumber(first))
    }

    /// Returns the copies of a node.
    pub(crate) fn copies(&self, domain: DomainId, reference: Reference) -> &[NodePlace] {
        let key = (domain, reference);
        let first = self.places.partition_point(|p| (p.domain, p.reference) < key);
        let rest = self.places.get(first..).unwrap_or_default();
        let count = rest.partition_point(|p| (p.domain, p.reference) == key);
        rest.get(..count).unwrap_or_default()
    }

    fn mark(&mut self, node: NodeNumber, mark: u8) -> bool {
        let Some(marks) = self.marks.get_mut(node.0) else { return false };
        let new = *marks & mark == 0;
        *marks |= mark;
        new
    }

    fn has(&self, node: NodeNumber, mark: u8) -> bool {
        self.marks.get(node.0).is_some_and(|marks| marks & mark != 0)
    }

    /// Notes that a snapshot reaches it; true where that is news.
    pub(crate) fn reach(&mut self, node: NodeNumber) -> bool {
        self.mark(node, REACHED)
    }

    /// Tells whether a snapshot reaches it.
    pub(crate) fn is_reached(&self, node: NodeNumber) -> bool {
        self.has(node, REACHED)
    }

    /// Notes that what it refers to was looked at; true where that is news.
    pub(crate) fn follow(&mut self, node: NodeNumber) -> bool {
        self.mark(node, FOLLOWED)
    }

    /// Notes that something below it is lost; true where that is news.
    pub(crate) fn spoil(&mut self, node: NodeNumber) -> bool {
        self.mark(node, BAD)
    }

    /// Tells whether something below a node is lost.
    pub(crate) fn is_bad(&self, domain: DomainId, reference: Reference) -> bool {
        self.find(domain, reference).is_some_and(|node| self.has(node, BAD))
    }

    /// Returns how many distinct nodes snapshots reach.
    pub(crate) fn reached(&self) -> u64 {
        let reached = self.marks.iter().filter(|marks| *marks & REACHED != 0);
        crate::bytes::wide(reached.count())
    }
}
