//! Extended attributes: in the record, or in nodes of their own where they are large.
//!
//! Such a node is the CBOR array `[1, [name, value]...]`.

use umbra_fsparse::Xattr;

use crate::cbor::{Reader, Writer, expect_array};
use crate::node::{Link, Node, NodeSink, NodeSource};
use crate::{Error, Kind, Reference, Result};

use super::{
    MAX_INLINE_XATTR_BYTES, MAX_SPLIT_BYTES, MAX_XATTR_BYTES, MAX_XATTR_NAME_BYTES,
    MAX_XATTR_VALUE_BYTES,
};

const VERSION: u64 = 1;
const WHAT: &str = "xattrs";

/// Returns the bytes of names and values.
pub(super) fn weight(xattrs: &[Xattr]) -> usize {
    xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum()
}

/// Checks names, lengths and order.
pub(super) fn check(xattrs: &[Xattr]) -> Result<()> {
    let corrupt = |reason| Err(Error::Corrupt { what: WHAT, at: 0, reason });
    for xattr in xattrs {
        if xattr.name.is_empty() || xattr.name.contains(&0) {
            return corrupt("an attribute's name is empty or holds a NUL");
        }
        if xattr.name.len() > MAX_XATTR_NAME_BYTES || xattr.value.len() > MAX_XATTR_VALUE_BYTES {
            let limit = crate::cbor::wide(MAX_XATTR_VALUE_BYTES);
            return Err(Error::Limit { what: "an extended attribute", limit });
        }
    }
    if weight(xattrs) > MAX_XATTR_BYTES {
        let limit = crate::cbor::wide(MAX_XATTR_BYTES);
        return Err(Error::Limit { what: "the extended attributes of one file", limit });
    }
    if !xattrs.is_sorted_by(|left, right| left.name < right.name) {
        return corrupt("the attributes are not sorted by name, or a name stands twice");
    }
    Ok(())
}

/// Writes one attribute.
pub(super) fn write_one(writer: &mut Writer, xattr: &Xattr) {
    writer.array(2);
    writer.bytes(&xattr.name);
    writer.bytes(&xattr.value);
}

/// Reads one attribute.
pub(super) fn read_one(reader: &mut Reader<'_>) -> Result<Xattr> {
    expect_array(reader, 2)?;
    let name = reader.bytes(MAX_XATTR_NAME_BYTES)?.to_vec();
    Ok(Xattr { name, value: reader.bytes(MAX_XATTR_VALUE_BYTES)?.to_vec() })
}

fn encode(xattrs: &[Xattr]) -> Node {
    let mut writer = Writer::new();
    writer.array(1 + xattrs.len());
    writer.uint(VERSION);
    xattrs.iter().for_each(|xattr| write_one(&mut writer, xattr));
    Node { kind: Kind::Xattrs, refs: Vec::new(), body: writer.into_bytes() }
}

/// Writes attributes to as few nodes as hold them, in order.
pub(super) fn write(sink: &mut dyn NodeSink, xattrs: &[Xattr]) -> Result<Vec<Reference>> {
    let mut nodes = Vec::new();
    let mut rest = xattrs;
    while !rest.is_empty() {
        let mut bytes = 0_usize;
        let fits = |xattr: &&Xattr| {
            // Two heads of at most five bytes, one of one.
            bytes = bytes.saturating_add(xattr.name.len() + xattr.value.len() + 11);
            bytes <= MAX_SPLIT_BYTES
        };
        // One attribute always fits: its value is 64 KiB at most.
        let count = rest.iter().take_while(fits).count().max(1);
        let (here, behind) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        nodes.push(sink.put(encode(here))?);
        rest = behind;
    }
    Ok(nodes)
}

/// Reads the nodes that [`write()`] wrote.
pub(super) fn read(source: &dyn NodeSource, links: &[Link]) -> Result<Vec<Xattr>> {
    let mut xattrs = Vec::new();
    for link in links {
        xattrs.extend(decode(&*link.follow(source)?)?);
        check(&xattrs)?;
    }
    if weight(&xattrs) <= MAX_INLINE_XATTR_BYTES {
        let reason = "the attributes stand in nodes and belong in the record";
        return Err(Error::Corrupt { what: WHAT, at: 0, reason });
    }
    Ok(xattrs)
}

pub(super) fn decode(node: &Node) -> Result<Vec<Xattr>> {
    if node.kind != Kind::Xattrs {
        return Err(Error::Corrupt { what: WHAT, at: 0, reason: "a node of another kind" });
    }
    let mut reader = Reader::new(WHAT, &node.body);
    let len = reader.array(usize::MAX)?;
    let version = reader.uint()?;
    if version != VERSION {
        return Err(Error::Unsupported { what: WHAT, found: version, known: VERSION });
    }
    let xattrs = (1..len).map(|_| read_one(&mut reader)).collect::<Result<Vec<_>>>()?;
    reader.finish()?;
    check(&xattrs)?;
    if xattrs.is_empty() {
        return Err(Error::Corrupt { what: WHAT, at: 0, reason: "a node without attributes" });
    }
    node.same(&encode(&xattrs))?;
    Ok(xattrs)
}
