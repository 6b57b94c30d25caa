//! Reads the overlay: the root, one directory, one path.

use std::sync::Arc;

use umbra_fsparse::Xattr;

use crate::node::{Link, Node, NodeSource};
use crate::{ByteOffset, Error, Reference, Result};

use super::directory::{Body, Child};
use super::extent_list::ExtentIter;
use super::record::{Extents, Record, Xattrs};
use super::xattrs;

/// An entry, and the node that it stands in.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What is known of the file.
    pub record: Record,
    own: Reference,
    node: Arc<Node>,
}

impl Entry {
    fn link(&self, target: Reference) -> Result<Link> {
        let number = self.node.refs.iter().position(|reference| *reference == target);
        let number = number.and_then(|number| u32::try_from(number).ok());
        let number = number.ok_or_else(|| corrupt("a child is not in the reference list"))?;
        Ok(Link { parent: self.own, number, target })
    }

    /// Returns the link to a directory's entries; `None` for everything else.
    ///
    /// # Errors
    /// Never for an entry that was read; the record may have been changed since.
    pub fn directory(&self) -> Result<Option<Link>> {
        self.record.directory.map(|target| self.link(target)).transpose()
    }

    /// Returns the extents whose content ends behind `from`, in order. They are maximal; the
    /// first may be cut at a window's border before `from`.
    ///
    /// # Errors
    /// As [`Entry::directory`]; what cannot be read is an item of the iterator.
    pub fn extents<'s>(
        &self,
        source: &'s dyn NodeSource,
        from: ByteOffset,
    ) -> Result<ExtentIter<'s>> {
        match &self.record.extents {
            Extents::Inline(list) => Ok(ExtentIter::inline(list, from)),
            Extents::Node(node) => Ok(ExtentIter::listed(source, self.link(*node)?, from)),
        }
    }

    /// Returns the extended attributes, sorted by name.
    ///
    /// # Errors
    /// What the source says; `Corrupt` where they are not what a record may have.
    pub fn xattrs(&self, source: &dyn NodeSource) -> Result<Vec<Xattr>> {
        match &self.record.xattrs {
            Xattrs::Inline(list) => Ok(list.clone()),
            Xattrs::Nodes(nodes) => {
                let links = nodes.iter().map(|node| self.link(*node));
                xattrs::read(source, &links.collect::<Result<Vec<_>>>()?)
            }
        }
    }
}

/// Reads the root of an overlay: the entry of the root directory, which has no name.
///
/// # Errors
/// What the source says; `Corrupt` where the node is no root.
pub fn root(source: &dyn NodeSource, link: Link) -> Result<Entry> {
    let node = link.follow(source)?;
    let Body::Leaf(mut records) = Body::decode(&node)? else {
        return Err(corrupt("the root of an overlay is no single record"));
    };
    match (records.pop(), records.is_empty()) {
        (Some(record), true) if record.name.is_empty() && record.directory.is_some() => {
            Ok(Entry { record, own: link.target, node })
        }
        _ => Err(corrupt("the root of an overlay is no directory without a name")),
    }
}

/// Reads the entry that a path of raw names leads to, from an overlay's root; symbolic links are
/// not followed. `None` where there is no such entry, or something on the way is no directory.
///
/// # Errors
/// What the source says; `Corrupt`.
pub fn lookup<'p>(
    source: &dyn NodeSource,
    overlay: Link,
    path: impl IntoIterator<Item = &'p [u8]>,
) -> Result<Option<Entry>> {
    let mut entry = root(source, overlay)?;
    for name in path {
        let Some(directory) = entry.directory()? else { return Ok(None) };
        match find(source, directory, name)? {
            Some(next) => entry = next,
            None => return Ok(None),
        }
    }
    Ok(Some(entry))
}

/// Reads one entry of a directory.
///
/// # Errors
/// What the source says; `Corrupt`.
pub fn find(source: &dyn NodeSource, directory: Link, name: &[u8]) -> Result<Option<Entry>> {
    let mut place = Place { link: directory, level: None, first: None, end: None };
    loop {
        let (node, body) = open(source, &place)?;
        match body {
            Body::Leaf(mut records) => {
                let found = records.binary_search_by(|record| record.name.as_slice().cmp(name));
                let Ok(index) = found else { return Ok(None) };
                let record = records.swap_remove(index);
                return Ok(Some(Entry { record, own: place.link.target, node }));
            }
            Body::Inner(level, children) => {
                let index = children.partition_point(|child| child.first.as_slice() <= name);
                let Some(index) = index.checked_sub(1) else { return Ok(None) };
                let end = children.get(index + 1).map(|child| child.first.clone());
                let Some(child) = children.into_iter().nth(index) else { return Ok(None) };
                let own = place.link.target;
                place = below(own, &node, level, child, end.or(place.end))?;
            }
        }
    }
}

/// Returns the entries of a directory in the order of their names. A node that cannot be had is
/// one error; the entries behind it follow.
pub fn entries(source: &dyn NodeSource, directory: Link) -> Entries<'_> {
    let place = Place { link: directory, level: None, first: None, end: None };
    Entries { source, waiting: vec![place], leaf: None }
}

/// The entries of a directory; see [`entries`].
pub struct Entries<'s> {
    source: &'s dyn NodeSource,
    /// Nodes to be read, next one last.
    waiting: Vec<Place>,
    leaf: Option<(Reference, Arc<Node>, std::vec::IntoIter<Record>)>,
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((own, node, records)) = &mut self.leaf {
                if let Some(record) = records.next() {
                    return Some(Ok(Entry { record, own: *own, node: Arc::clone(node) }));
                }
                self.leaf = None;
            }
            let place = self.waiting.pop()?;
            if let Err(error) = self.enter(place) {
                return Some(Err(error));
            }
        }
    }
}

impl Entries<'_> {
    fn enter(&mut self, place: Place) -> Result<()> {
        let own = place.link.target;
        let (node, body) = open(self.source, &place)?;
        match body {
            Body::Leaf(records) => self.leaf = Some((own, node, records.into_iter())),
            Body::Inner(level, children) => {
                let mut end = place.end;
                for child in children.into_iter().rev() {
                    let first = child.first.clone();
                    self.waiting.push(below(own, &node, level, child, end)?);
                    end = Some(first);
                }
            }
        }
        Ok(())
    }
}

/// A node to be read, and what its parent says of it.
struct Place {
    link: Link,
    /// Its level; unknown for the root of a directory.
    level: Option<u8>,
    /// Its first name.
    first: Option<Vec<u8>>,
    /// All its names are smaller.
    end: Option<Vec<u8>>,
}

fn below(
    own: Reference,
    node: &Node,
    level: u8,
    child: Child,
    end: Option<Vec<u8>>,
) -> Result<Place> {
    let number = node.refs.iter().position(|reference| *reference == child.node);
    let number = number.and_then(|number| u32::try_from(number).ok());
    let number = number.ok_or_else(|| corrupt("a child is not in the reference list"))?;
    let link = Link { parent: own, number, target: child.node };
    Ok(Place { link, level: level.checked_sub(1), first: Some(child.first), end })
}

/// Reads a directory node and checks that it is what its parent says.
fn open(source: &dyn NodeSource, place: &Place) -> Result<(Arc<Node>, Body)> {
    let node = place.link.follow(source)?;
    let body = Body::decode(&node)?;
    if place.level.is_some_and(|level| level != body.level()) {
        return Err(corrupt("a node is of another level than its place"));
    }
    // The first level that has a single node is the directory: there is no node above it.
    if let (None, Body::Inner(_, children)) = (place.level, &body)
        && children.len() < 2
    {
        return Err(corrupt("a node above a single one"));
    }
    let bounds = body.bounds();
    if bounds.is_some_and(|(first, _)| first.is_empty()) {
        return Err(corrupt("an entry without a name"));
    }
    let first = bounds.map(|(first, _)| first);
    if place.first.is_some() && place.first.as_deref() != first {
        return Err(corrupt("a node starts with another name than its parent says"));
    }
    if let (Some((_, last)), Some(end)) = (bounds, place.end.as_deref())
        && last >= end
    {
        return Err(corrupt("a node reaches into the next one"));
    }
    Ok((node, body))
}

fn corrupt(reason: &'static str) -> Error {
    Error::Corrupt { what: "directory", at: 0, reason }
}
