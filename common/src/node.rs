//! Nodes: every stored object but the chunk, as `reference list || body`.
//!
//! The reference list is a count (u32, little-endian) and then, for each reference, its kind (u8)
//! and its id (32 bytes). The id of a node covers list and body; the body names the node's
//! children only by their number in the list, in the order of its first uses, so a list can
//! neither be damaged unseen nor disagree with its body. Layout: docs/formats/nodes.md.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::cbor::{same_bytes, wide};
use crate::{Error, Kind, ObjectId, Reference, Result};

pub mod memory;

/// The largest node: list and body together, in bytes.
pub const MAX_NODE_BYTES: usize = 1 << 20;

/// Length of one reference in a list: kind and id.
pub const REFERENCE_BYTES: usize = 33;

/// Length of the count before the references.
pub const COUNT_BYTES: usize = 4;

const WHAT: &str = "reference list";

/// A node: its children and the body that names them by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What the node is; never [`Kind::Chunk`].
    pub kind: Kind,
    /// Its children, each once.
    pub refs: Vec<Reference>,
    /// Deterministic CBOR; what stands in it the node's kind says.
    pub body: Vec<u8>,
}

impl Node {
    /// Returns its id: BLAKE3 in key derivation mode over the canonical bytes.
    pub fn id(&self) -> ObjectId {
        let mut hasher = self.kind.hasher();
        hasher.update(&encode_references(&self.refs));
        hasher.update(&self.body);
        ObjectId(*hasher.finalize().as_bytes())
    }

    /// Returns kind and id.
    pub fn reference(&self) -> Reference {
        Reference { kind: self.kind, id: self.id() }
    }

    /// Returns the length of the canonical bytes.
    pub fn encoded_len(&self) -> usize {
        COUNT_BYTES + REFERENCE_BYTES * self.refs.len() + self.body.len()
    }

    /// Returns the canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = encode_references(&self.refs);
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Takes canonical bytes apart. What is known then: the length is within
    /// [`MAX_NODE_BYTES`], the references are of kinds that a `kind` may refer to, each once.
    /// The body is not looked at.
    ///
    /// # Errors
    /// `Corrupt`; `Limit` where there are too many bytes; `UnknownNumber` for a kind that this
    /// program does not know.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_NODE_BYTES {
            return Err(Error::Limit { what: "node", limit: wide(MAX_NODE_BYTES) });
        }
        let (refs, body) = decode_references(bytes)?;
        let node = Self { kind, refs, body: body.to_vec() };
        node.check()?;
        Ok(node)
    }

    /// Checks what [`Node::decode`] promises, for a node that came in parts.
    ///
    /// # Errors
    /// `Corrupt` or `Limit`.
    pub fn check(&self) -> Result<()> {
        if !self.kind.is_node() {
            return Err(Error::Corrupt { what: "node", at: 0, reason: "a chunk is no node" });
        }
        if self.encoded_len() > MAX_NODE_BYTES {
            return Err(Error::Limit { what: "node", limit: wide(MAX_NODE_BYTES) });
        }
        let mut seen = HashSet::with_capacity(self.refs.len());
        for (number, reference) in self.refs.iter().enumerate() {
            let at = wide(COUNT_BYTES + REFERENCE_BYTES * number);
            if !may_refer(self.kind, reference.kind) {
                let reason = "a node of this kind may not refer to an object of that kind";
                return Err(Error::Corrupt { what: WHAT, at, reason });
            }
            if !seen.insert(reference) {
                return Err(Error::Corrupt { what: WHAT, at, reason: "a reference stands twice" });
            }
        }
        Ok(())
    }

    /// Checks that what was decoded from this node encodes to this very node: the last proof that
    /// there is one encoding only (fields at their default, unused references, runs not merged).
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn same(&self, canonical: &Self) -> Result<()> {
        same_bytes(self.kind.name(), &self.body, &canonical.body)?;
        if self.kind != canonical.kind || self.refs != canonical.refs {
            let reason = "the reference list is not what the body uses, in order of first use";
            return Err(Error::Corrupt { what: self.kind.name(), at: 0, reason });
        }
        Ok(())
    }

    /// Returns child `number`.
    ///
    /// # Errors
    /// `Corrupt` where the list is shorter.
    pub fn child(&self, number: u32) -> Result<Reference> {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let reason = "a number beyond the reference list";
        self.refs.get(index).copied().ok_or(Error::Corrupt {
            what: self.kind.name(),
            at: 0,
            reason,
        })
    }
}

/// Tells which kinds may stand in whose reference list.
pub fn may_refer(parent: Kind, child: Kind) -> bool {
    match parent {
        Kind::Chunk | Kind::Xattrs => false,
        Kind::MapPage => child == Kind::Chunk,
        Kind::MapNode => matches!(child, Kind::MapPage | Kind::MapNode),
        Kind::Directory => matches!(child, Kind::Directory | Kind::ExtentList | Kind::Xattrs),
        Kind::ExtentList => child == Kind::ExtentList,
        Kind::Manifest => matches!(child, Kind::MapNode | Kind::Directory),
    }
}

/// Encodes a reference list.
pub fn encode_references(refs: &[Reference]) -> Vec<u8> {
    // A node of more than 2^32 references would be 140 GB; `check` stops it long before.
    let count = u32::try_from(refs.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(COUNT_BYTES + REFERENCE_BYTES * refs.len());
    bytes.extend_from_slice(&count.to_le_bytes());
    for reference in refs {
        bytes.push(reference.kind.number());
        bytes.extend_from_slice(&reference.id.0);
    }
    bytes
}

/// Decodes the reference list at the start of `bytes` and returns it with what follows it.
///
/// # Errors
/// `Corrupt` where the bytes end before the list does, `UnknownNumber` for an unknown kind.
pub fn decode_references(bytes: &[u8]) -> Result<(Vec<Reference>, &[u8])> {
    let short = Error::Corrupt { what: WHAT, at: 0, reason: "it ends before its last reference" };
    let Some((count, rest)) = bytes.split_first_chunk::<COUNT_BYTES>() else { return Err(short) };
    let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
    let Some(len) = count.checked_mul(REFERENCE_BYTES) else { return Err(short) };
    let Some((list, body)) = rest.split_at_checked(len) else { return Err(short) };
    let mut refs = Vec::with_capacity(count);
    for (number, entry) in list.as_chunks::<REFERENCE_BYTES>().0.iter().enumerate() {
        let (kind, id) = split_reference(entry);
        let at = wide(COUNT_BYTES + REFERENCE_BYTES * number);
        let unknown = Error::UnknownNumber { what: WHAT, at, number: u64::from(kind) };
        refs.push(Reference { kind: Kind::from_number(kind).ok_or(unknown)?, id });
    }
    Ok((refs, body))
}

fn split_reference(entry: &[u8; REFERENCE_BYTES]) -> (u8, ObjectId) {
    let [kind, id @ ..] = entry;
    (*kind, ObjectId(*id))
}

/// The reference list of a node that is being made: each reference once, in order of first use.
#[derive(Clone, Debug, Default)]
pub struct References {
    list: Vec<Reference>,
    numbers: HashMap<Reference, u32>,
}

impl References {
    /// Makes an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of `reference`, which is added where it is new.
    pub fn number(&mut self, reference: Reference) -> u32 {
        let next = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(reference).or_insert_with(|| {
            self.list.push(reference);
            next
        })
    }

    /// Returns the number of references so far.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Tells whether there are none yet.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns the list.
    pub fn into_list(self) -> Vec<Reference> {
        self.list
    }
}

/// One edge of the graph: how to ask for a node (or chunk) whose parent one has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// The node in whose list the reference stands.
    pub parent: Reference,
    /// Its number there.
    pub number: u32,
    /// The reference.
    pub target: Reference,
}

impl Link {
    /// Returns the link from `parent` (whose reference list is `refs`) to child `number`.
    ///
    /// # Errors
    /// `Corrupt` where the list is shorter.
    pub fn new(parent: Reference, node: &Node, number: u32) -> Result<Self> {
        Ok(Self { parent, number, target: node.child(number)? })
    }

    /// Reads the node at its end.
    ///
    /// # Errors
    /// Those of the source; `Corrupt` where the source answers with another kind.
    pub fn follow(&self, source: &dyn NodeSource) -> Result<Arc<Node>> {
        let node = source.child(&self.parent, self.number, &self.target)?;
        if node.kind != self.target.kind {
            let reason = "the source gave a node of another kind";
            return Err(Error::Corrupt { what: self.target.kind.name(), at: 0, reason });
        }
        Ok(node)
    }
}

/// Where nodes are read from: a vault, a cache, memory.
pub trait NodeSource: Send + Sync {
    /// Reads child number `number` of node `parent`; `want` is what the parent's list says.
    ///
    /// The implementation verifies that what it gives hashes to `want`.
    ///
    /// # Errors
    /// `Unavailable`, `WrongBytes`, or what decoding says.
    fn child(&self, parent: &Reference, number: u32, want: &Reference) -> Result<Arc<Node>>;

    /// Reads several children of one node, in the order asked.
    ///
    /// # Errors
    /// Fails as a whole where one fails; ask again one by one to learn which.
    fn children(
        &self,
        parent: &Reference,
        numbers: &[u32],
        want: &[Reference],
    ) -> Result<Vec<Arc<Node>>> {
        let wanted = numbers.iter().zip(want);
        wanted.map(|(number, want)| self.child(parent, *number, want)).collect()
    }
}

/// Where finished nodes go. Children are always put before their parents.
pub trait NodeSink {
    /// Takes a node and returns its reference.
    ///
    /// # Errors
    /// `Limit` where it is larger than [`MAX_NODE_BYTES`], or what the implementation says.
    fn put(&mut self, node: Node) -> Result<Reference>;
}

#[cfg(test)]
mod tests;
