//! Extents of files that have many: a tree of nodes by logical windows.
//!
//! A leaf is the CBOR array `[1, 0, extents...]`; positions count from the leaf's start, so that
//! a leaf does not know where it stands. A node above is `[1, level, [start, length, number]...]`
//! with positions from its own start. Level 1 covers 256 windows of 1 GiB, each one leaf or, where
//! that would grow too large, its halves, quarters, ...; a level above covers 256 of the one below.

use crate::cbor::{Reader, Writer, expect_array, wide};
use crate::node::{Link, Node, NodeSink, NodeSource, References};
use crate::{ByteLen, ByteOffset, ByteRange, Error, Kind, Reference, Result};

use super::extent::{Extent, read_list, write_list};
use super::{EXTENT_WINDOW_BYTES, MAX_SPLIT_BYTES};

const VERSION: u64 = 1;
const WHAT: &str = "extent list";
/// 256^5 GiB is more than 2^64.
const MAX_LEVEL: u8 = 5;
/// A leaf of 4 KiB of content is always small enough.
const MIN_LEAF_BYTES: u64 = 4096;

/// Returns how much content a node of this level covers, in bytes.
fn span(level: u8) -> u64 {
    EXTENT_WINDOW_BYTES.saturating_mul(256_u64.saturating_pow(u32::from(level)))
}

/// A child of a node above the leaves; positions count from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Child {
    content: ByteRange,
    node: Reference,
}

/// A child that was read, and its number in the reference list.
type Numbered = (Child, u32);

/// Writes maximal extents and returns the root of their tree.
pub(super) fn write(sink: &mut dyn NodeSink, extents: &[Extent]) -> Result<Reference> {
    let end = extents.last().map(|extent| extent.content().end().0).unwrap_or_default();
    let mut level = 0;
    while span(level) < end {
        level += 1;
    }
    let content = between(0, span(level));
    if level == 0 {
        let leaf = encode_leaf(extents, content.start());
        if leaf.encoded_len() <= MAX_SPLIT_BYTES {
            return sink.put(leaf);
        }
        level = 1;
    }
    write_inner(sink, level, between(0, span(level)), extents.to_vec())
}

/// Writes a node of level 1 or above that covers `content`.
fn write_inner(
    sink: &mut dyn NodeSink,
    level: u8,
    content: ByteRange,
    extents: Vec<Extent>,
) -> Result<Reference> {
    let mut children = Vec::new();
    let step = span(level - 1);
    let mut rest = extents;
    while let Some(first) = rest.first() {
        let start = first.logical.0 - first.logical.0 % step;
        let below = between(start, start.saturating_add(step));
        let here;
        (here, rest) = split(rest, below.end())?;
        if level == 1 {
            write_leaves(sink, below, here, &mut children)?;
        } else {
            let node = write_inner(sink, level - 1, below, here)?;
            children.push(Child { content: below, node });
        }
    }
    put(sink, encode_inner(level, content.start(), &children))
}

/// Writes the leaf of a window, halved while it is too large; empty halves are left out.
fn write_leaves(
    sink: &mut dyn NodeSink,
    content: ByteRange,
    extents: Vec<Extent>,
    children: &mut Vec<Child>,
) -> Result<()> {
    let leaf = encode_leaf(&extents, content.start());
    if leaf.encoded_len() <= MAX_SPLIT_BYTES || content.len().0 <= MIN_LEAF_BYTES {
        children.push(Child { content, node: put(sink, leaf)? });
        return Ok(());
    }
    let middle = content.start().0.saturating_add(content.len().0 / 2);
    let (left, right) = split(extents, ByteOffset(middle))?;
    let halves = [between(content.start().0, middle), between(middle, content.end().0)];
    for (half, extents) in halves.into_iter().zip([left, right]) {
        if !extents.is_empty() {
            write_leaves(sink, half, extents, children)?;
        }
    }
    Ok(())
}

fn put(sink: &mut dyn NodeSink, node: Node) -> Result<Reference> {
    node.check()?;
    sink.put(node)
}

/// Splits extents at a position of the content.
fn split(mut extents: Vec<Extent>, at: ByteOffset) -> Result<(Vec<Extent>, Vec<Extent>)> {
    let index = extents.partition_point(|extent| extent.logical < at);
    let mut right = extents.split_off(index);
    if let Some(last) = extents.pop_if(|last| last.content().end() > at) {
        let (before, after) = last.cut(at)?;
        extents.push(before);
        right.insert(0, after);
    }
    Ok((extents, right))
}

fn encode_leaf(extents: &[Extent], start: ByteOffset) -> Node {
    let mut writer = Writer::new();
    writer.array(2 + extents.len());
    writer.uint(VERSION);
    writer.uint(0_u64);
    write_list(&mut writer, extents, start);
    Node { kind: Kind::ExtentList, refs: Vec::new(), body: writer.into_bytes() }
}

fn encode_inner(level: u8, start: ByteOffset, children: &[Child]) -> Node {
    let mut refs = References::new();
    let mut writer = Writer::new();
    writer.array(2 + children.len());
    writer.uint(VERSION);
    writer.uint(level);
    for child in children {
        writer.array(3);
        writer.uint(child.content.start().0.saturating_sub(start.0));
        writer.uint(child.content.len().0);
        writer.uint(refs.number(child.node));
    }
    Node { kind: Kind::ExtentList, refs: refs.into_list(), body: writer.into_bytes() }
}

/// What a node of the tree holds.
enum Body {
    Leaf(Vec<Extent>),
    Inner(u8, Vec<Numbered>),
}

/// Decodes a node that covers `content`, or a root, which covers what its level says.
fn decode(node: &Node, place: Option<(u8, ByteRange)>) -> Result<Body> {
    if node.kind != Kind::ExtentList {
        return Err(corrupt("a node of another kind"));
    }
    let mut reader = Reader::new(WHAT, &node.body);
    let len = reader.array(usize::MAX)?;
    let version = reader.uint()?;
    if version != VERSION {
        return Err(Error::Unsupported { what: WHAT, found: version, known: VERSION });
    }
    let level: u8 = reader.narrow()?;
    let count = len.saturating_sub(2);
    let (expected, content) = place.unwrap_or((level, between(0, span(level))));
    if level != expected || level > MAX_LEVEL {
        return Err(reader.corrupt("it is of another level than its place"));
    }
    if level == 0 {
        if node.encoded_len() > MAX_SPLIT_BYTES {
            return Err(Error::Limit { what: WHAT, limit: wide(MAX_SPLIT_BYTES) });
        }
        let extents = read_list(&mut reader, count, content.start())?;
        let Some(last) = extents.last() else {
            return Err(reader.corrupt("a leaf without extents"));
        };
        if last.content().end() > content.end() {
            return Err(reader.corrupt("an extent leaves its window"));
        }
        reader.finish()?;
        node.same(&encode_leaf(&extents, content.start()))?;
        return Ok(Body::Leaf(extents));
    }
    let children = read_children(&mut reader, node, (level, content), count)?;
    if children.is_empty() {
        return Err(reader.corrupt("a node without children"));
    }
    reader.finish()?;
    let plain: Vec<Child> = children.iter().map(|(child, _)| *child).collect();
    node.same(&encode_inner(level, content.start(), &plain))?;
    Ok(Body::Inner(level, children))
}

fn read_children(
    reader: &mut Reader<'_>,
    node: &Node,
    (level, content): (u8, ByteRange),
    count: usize,
) -> Result<Vec<Numbered>> {
    let mut children = Vec::new();
    let mut end = content.start();
    for _ in 0..count {
        expect_array(reader, 3)?;
        let (start, len) = (reader.uint()?, ByteLen(reader.uint()?));
        let start = content.start().checked_add(ByteLen(start));
        let child = start.and_then(|start| ByteRange::new(start, len));
        let child = child.ok_or_else(|| reader.corrupt("a child ends past 2^64"))?;
        if child.is_empty() || child.start() < end || !content.contains(child) {
            return Err(reader.corrupt("the children of a node are out of order"));
        }
        if !is_on_grid(child, level) {
            return Err(reader.corrupt("a child does not stand on its grid"));
        }
        end = child.end();
        let number = reader.narrow()?;
        children.push((Child { content: child, node: node.child(number)? }, number));
    }
    Ok(children)
}

/// Tells whether a child of a node of this level covers what a child may: all that a node of the
/// level below covers, or, of level 1, a half, quarter, ... of it.
fn is_on_grid(child: ByteRange, level: u8) -> bool {
    let step = span(level.saturating_sub(1));
    let start = child.start().0;
    // The last one ends a byte before 2^64, so that its parts are odd.
    if start / step == u64::MAX / step {
        return level == 1 || (start.is_multiple_of(step) && child.end().0 == u64::MAX);
    }
    let len = child.len().0;
    let halves = level == 1 && len.is_power_of_two() && (MIN_LEAF_BYTES..=step).contains(&len);
    (halves || len == step) && start.is_multiple_of(len)
}

fn between(start: u64, end: u64) -> ByteRange {
    ByteRange::between(ByteOffset(start), ByteOffset(end)).unwrap_or_default()
}

fn corrupt(reason: &'static str) -> Error {
    Error::Corrupt { what: WHAT, at: 0, reason }
}

/// A part of a file whose extents could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the extents of {content} of the file cannot be read")]
pub struct LostExtents {
    /// The bytes of the content.
    pub content: ByteRange,
    /// Why.
    #[source]
    pub error: Error,
}

/// The extents of a file in the order of its content, maximal; see
/// [`Entry::extents`](super::Entry::extents). After a loss it goes on behind it.
pub struct ExtentIter<'s> {
    source: Option<&'s dyn NodeSource>,
    from: ByteOffset,
    /// Extents of the current leaf (or the record), next one last.
    leaf: Vec<Extent>,
    /// What is left of the open nodes, lowest last; next child last.
    open: Vec<(Reference, u8, Vec<Numbered>)>,
    root: Option<Link>,
    /// What may still be continued by the next extent.
    held: Option<Extent>,
    lost: Option<LostExtents>,
}

impl<'s> ExtentIter<'s> {
    /// Goes over extents that stand in a record.
    pub(super) fn inline(extents: &[Extent], from: ByteOffset) -> Self {
        let leaf = extents.iter().rev().copied().collect();
        let (open, held, lost) = (Vec::new(), None, None);
        Self { source: None, from, leaf, open, root: None, held, lost }
    }

    /// Goes over extents that stand in a tree of nodes.
    pub(super) fn listed(source: &'s dyn NodeSource, root: Link, from: ByteOffset) -> Self {
        let (leaf, open, held, lost) = (Vec::new(), Vec::new(), None, None);
        Self { source: Some(source), from, leaf, open, root: Some(root), held, lost }
    }

    /// Returns the next extent as it stands in a leaf.
    fn next_stored(&mut self) -> Option<Result<Extent, LostExtents>> {
        loop {
            while let Some(extent) = self.leaf.pop() {
                if extent.content().end() > self.from {
                    return Some(Ok(extent));
                }
            }
            let source = self.source?;
            let (link, place) = self.next_link()?;
            let content = place.map_or(between(0, u64::MAX), |(_, content)| content);
            match link.follow(source).and_then(|node| decode(&node, place)) {
                Ok(Body::Leaf(extents)) => {
                    self.leaf = extents;
                    self.leaf.reverse();
                }
                Ok(Body::Inner(level, mut children)) => {
                    children.reverse();
                    self.open.push((link.target, level, children));
                }
                Err(error) => return Some(Err(LostExtents { content, error })),
            }
        }
    }

    /// Returns the link to the next node, and its level and content (a root's are unknown).
    fn next_link(&mut self) -> Option<(Link, Option<(u8, ByteRange)>)> {
        if let Some(root) = self.root.take() {
            return Some((root, None));
        }
        loop {
            let (own, level, children) = self.open.last_mut()?;
            let Some((child, number)) = children.pop() else {
                self.open.pop();
                continue;
            };
            if child.content.end() <= self.from {
                continue;
            }
            let link = Link { parent: *own, number, target: child.node };
            return Some((link, Some((*level - 1, child.content))));
        }
    }
}

impl Iterator for ExtentIter<'_> {
    type Item = Result<Extent, LostExtents>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(lost) = self.lost.take() {
            return Some(Err(lost));
        }
        loop {
            match self.next_stored() {
                Some(Ok(extent)) => match self.held {
                    None => self.held = Some(extent),
                    Some(held) => match held.joined(extent) {
                        Some(both) => self.held = Some(both),
                        None => return self.held.replace(extent).map(Ok),
                    },
                },
                Some(Err(lost)) => match self.held.take() {
                    Some(held) => {
                        self.lost = Some(lost);
                        return Some(Ok(held));
                    }
                    None => return Some(Err(lost)),
                },
                None => return self.held.take().map(Ok),
            }
        }
    }
}
