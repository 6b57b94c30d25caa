//! Directory nodes: leaves of records, and nodes above that name leaves by their first entry.
//!
//! A leaf is the CBOR array `[1, 0, record...]`, a node above `[1, level, [first name, number]...]`.
//! A node ends behind an entry whose name says so (the first byte of its BLAKE3 ends in six zero
//! bits), with 16 entries at least and 256 at most; the same rule cuts the levels above. So a
//! changed entry rewrites the nodes above it, and a new one at most their neighbours too.

use crate::cbor::{Reader, Writer, expect_array, wide};
use crate::node::{Node, References};
use crate::{Error, Kind, Reference, Result};

use super::record::Record;
use super::{MAX_DIRECTORY_ENTRIES, MAX_ENTRY_NAME_BYTES};

const VERSION: u64 = 1;
const WHAT: &str = "directory node";
/// 16 entries a node at least: 2^36 names.
const MAX_LEVEL: u8 = 8;

/// A child of a node above the leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Child {
    /// Name of the first entry below it.
    pub(super) first: Vec<u8>,
    pub(super) node: Reference,
}

/// What a directory node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Leaf(Vec<Record>),
    Inner(u8, Vec<Child>),
}

/// Tells whether a node ends behind an entry of this name, if it has enough entries.
pub(super) fn ends_node(name: &[u8]) -> bool {
    let [first, ..] = *blake3::hash(name).as_bytes();
    first & 0x3f == 0
}

impl Body {
    pub(super) fn encode(&self) -> Node {
        let mut refs = References::new();
        let mut writer = Writer::new();
        match self {
            Self::Leaf(records) => {
                writer.array(2 + records.len());
                writer.uint(VERSION);
                writer.uint(0_u64);
                records.iter().for_each(|record| record.write(&mut writer, &mut refs));
            }
            Self::Inner(level, children) => {
                writer.array(2 + children.len());
                writer.uint(VERSION);
                writer.uint(*level);
                for child in children {
                    writer.array(2);
                    writer.bytes(&child.first);
                    writer.uint(refs.number(child.node));
                }
            }
        }
        Node { kind: Kind::Directory, refs: refs.into_list(), body: writer.into_bytes() }
    }

    /// Decodes a node: names ascend strictly, and only a record that stands alone may have none.
    pub(super) fn decode(node: &Node) -> Result<Self> {
        if node.kind != Kind::Directory {
            return Err(Error::Corrupt { what: WHAT, at: 0, reason: "a node of another kind" });
        }
        let mut reader = Reader::new(WHAT, &node.body);
        let len = reader.array(2 + MAX_DIRECTORY_ENTRIES)?;
        let version = reader.uint()?;
        if version != VERSION {
            return Err(Error::Unsupported { what: WHAT, found: version, known: VERSION });
        }
        let level = reader.uint()?;
        if level > u64::from(MAX_LEVEL) {
            return Err(Error::Limit { what: WHAT, limit: u64::from(MAX_LEVEL) });
        }
        let count = len.saturating_sub(2);
        let body = if level == 0 {
            let records = (0..count).map(|_| Record::read(&mut reader, node));
            Self::Leaf(records.collect::<Result<_>>()?)
        } else {
            let children = (0..count).map(|_| read_child(&mut reader, node));
            let level = u8::try_from(level).unwrap_or(MAX_LEVEL);
            Self::Inner(level, children.collect::<Result<_>>()?)
        };
        reader.finish()?;
        body.check_names(wide(node.body.len()))?;
        node.same(&body.encode())?;
        Ok(body)
    }

    /// The name of its first entry, and of its last as far as it knows.
    pub(super) fn bounds(&self) -> Option<(&[u8], &[u8])> {
        match self {
            Self::Leaf(records) => Some((&records.first()?.name, &records.last()?.name)),
            Self::Inner(_, children) => Some((&children.first()?.first, &children.last()?.first)),
        }
    }

    pub(super) fn level(&self) -> u8 {
        match self {
            Self::Leaf(_) => 0,
            Self::Inner(level, _) => *level,
        }
    }

    fn check_names(&self, at: u64) -> Result<()> {
        let names: Vec<&[u8]> = match self {
            Self::Leaf(records) => records.iter().map(|record| record.name.as_slice()).collect(),
            Self::Inner(_, children) if children.is_empty() => {
                return Err(Error::Corrupt { what: WHAT, at, reason: "a node without children" });
            }
            Self::Inner(_, children) => {
                children.iter().map(|child| child.first.as_slice()).collect()
            }
        };
        if !names.is_sorted_by(|left, right| left < right) {
            let reason = "names are not sorted, or one stands twice";
            return Err(Error::Corrupt { what: WHAT, at, reason });
        }
        if names.len() > 1 && names.first().is_some_and(|name| name.is_empty()) {
            return Err(Error::Corrupt { what: WHAT, at, reason: "an entry without a name" });
        }
        Ok(())
    }
}

fn read_child(reader: &mut Reader<'_>, node: &Node) -> Result<Child> {
    expect_array(reader, 2)?;
    let first = reader.bytes(MAX_ENTRY_NAME_BYTES)?.to_vec();
    let child = node.child(reader.narrow()?)?;
    if child.kind != Kind::Directory {
        return Err(reader.corrupt("a child is no directory node"));
    }
    Ok(Child { first, node: child })
}
