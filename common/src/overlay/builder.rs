//! Writes directories, from the leaves of the tree up: a directory's record needs its node.

use crate::cbor::Writer;
use crate::node::{Node, NodeSink, REFERENCE_BYTES, References};
use crate::{Error, Reference, Result};

use super::directory::{Body, Child, ends_node};
use super::extent::maximal;
use super::record::{Extents, Record, Xattrs};
use super::{
    MAX_DIRECTORY_ENTRIES, MAX_INLINE_EXTENTS, MAX_INLINE_XATTR_BYTES, MAX_SPLIT_BYTES,
    MIN_DIRECTORY_ENTRIES, extent_list, xattrs,
};

/// Room for the heads of a node and for the number of a reference, in bytes.
const HEAD_BYTES: usize = 16;

/// Writes one directory. Memory: the entries of one node a level.
#[derive(Debug, Default)]
pub struct DirectoryWriter {
    leaf: Pending<Record>,
    above: Vec<Pending<Child>>,
    last: Option<Vec<u8>>,
}

/// Entries of a node that is not full yet.
#[derive(Debug)]
struct Pending<T> {
    entries: Vec<T>,
    bytes: usize,
    /// Nodes of this level that were written.
    written: u64,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), bytes: HEAD_BYTES, written: 0 }
    }
}

impl<T> Pending<T> {
    /// Tells whether the node must end before an entry of `weight` bytes.
    fn is_full_for(&self, weight: usize) -> bool {
        !self.entries.is_empty() && self.bytes.saturating_add(weight) > MAX_SPLIT_BYTES
    }

    fn push(&mut self, entry: T, weight: usize) {
        self.entries.push(entry);
        self.bytes = self.bytes.saturating_add(weight);
    }

    /// Tells whether the node ends behind the entry of this name that was pushed last.
    fn ends_behind(&self, name: &[u8]) -> bool {
        let count = self.entries.len();
        count >= MAX_DIRECTORY_ENTRIES || (count >= MIN_DIRECTORY_ENTRIES && ends_node(name))
    }

    fn take(&mut self) -> Vec<T> {
        self.bytes = HEAD_BYTES;
        self.written += 1;
        std::mem::take(&mut self.entries)
    }
}

impl DirectoryWriter {
    /// Starts a directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next entry; names ascend as raw bytes. Extents and attributes stand in the
    /// record, however many: what is too large for it goes to nodes of its own here. The nodes
    /// that the record names must have been put.
    ///
    /// # Errors
    /// `Corrupt` where names do not ascend; what [`Record::check`] and the sink say. After an
    /// error of `check` or of the order the entry is left out and the writer goes on.
    pub fn push(&mut self, sink: &mut dyn NodeSink, record: Record) -> Result<()> {
        let ascends = self.last.as_ref().is_none_or(|last| *last < record.name);
        if record.name.is_empty() || !ascends {
            let reason = "the names of a directory do not ascend, or one is empty";
            return Err(Error::Corrupt { what: "directory", at: 0, reason });
        }
        let record = stored(sink, record)?;
        let weight = weight(&record);
        if self.leaf.is_full_for(weight) {
            self.close_leaf(sink)?;
        }
        let name = record.name.clone();
        self.leaf.push(record, weight);
        if self.leaf.ends_behind(&name) {
            self.close_leaf(sink)?;
        }
        self.last = Some(name);
        Ok(())
    }

    /// Ends the directory and returns its node.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish(mut self, sink: &mut dyn NodeSink) -> Result<Reference> {
        if !self.leaf.entries.is_empty() || self.leaf.written == 0 {
            if self.leaf.written == 0 {
                return put(sink, &Body::Leaf(self.leaf.take()));
            }
            self.close_leaf(sink)?;
        }
        // Level by level, until one has a single node.
        for index in 0.. {
            let Some(pending) = self.above.get(index) else { break };
            if let (0, [only]) = (pending.written, pending.entries.as_slice()) {
                return Ok(only.node);
            }
            if !pending.entries.is_empty() {
                self.close_above(sink, index)?;
            }
        }
        let reason = "a directory ended without a root";
        Err(Error::Corrupt { what: "directory", at: 0, reason })
    }

    fn close_leaf(&mut self, sink: &mut dyn NodeSink) -> Result<()> {
        let body = Body::Leaf(self.leaf.take());
        self.enter(sink, &body, 0)
    }

    /// Closes the open node of level `index` + 1.
    fn close_above(&mut self, sink: &mut dyn NodeSink, index: usize) -> Result<()> {
        let Some(pending) = self.above.get_mut(index) else { return Ok(()) };
        // There are far fewer levels: each node has 16 entries or 256 KiB of them.
        let level = u8::try_from(index + 1).unwrap_or(u8::MAX);
        let body = Body::Inner(level, pending.take());
        self.enter(sink, &body, index + 1)
    }

    /// Puts a node and enters it in the open node of level `index` + 1.
    fn enter(&mut self, sink: &mut dyn NodeSink, body: &Body, index: usize) -> Result<()> {
        let node = put(sink, body)?;
        let first = body.bounds().map(|(first, _)| first.to_vec()).unwrap_or_default();
        if self.above.len() <= index {
            self.above.push(Pending::default());
        }
        let weight = first.len() + REFERENCE_BYTES + HEAD_BYTES;
        if self.above.get(index).is_some_and(|pending| pending.is_full_for(weight)) {
            self.close_above(sink, index)?;
        }
        let Some(pending) = self.above.get_mut(index) else { return Ok(()) };
        pending.push(Child { first: first.clone(), node }, weight);
        if pending.ends_behind(&first) {
            self.close_above(sink, index)?;
        }
        Ok(())
    }
}

/// Writes a directory of the given entries, sorted by name; see [`DirectoryWriter::push`].
///
/// # Errors
/// As [`DirectoryWriter::push`].
pub fn write_directory(
    sink: &mut dyn NodeSink,
    records: impl IntoIterator<Item = Record>,
) -> Result<Reference> {
    let mut writer = DirectoryWriter::new();
    for record in records {
        writer.push(sink, record)?;
    }
    writer.finish(sink)
}

/// Writes the root of an overlay: the record of the root directory, which has no name.
///
/// # Errors
/// `Corrupt` where the record has a name or is no directory; as [`DirectoryWriter::push`].
pub fn write_root(sink: &mut dyn NodeSink, record: Record) -> Result<Reference> {
    if !record.name.is_empty() || record.directory.is_none() {
        let reason = "the root of an overlay is a directory without a name";
        return Err(Error::Corrupt { what: "directory", at: 0, reason });
    }
    let record = stored(sink, record)?;
    put(sink, &Body::Leaf(vec![record]))
}

fn put(sink: &mut dyn NodeSink, body: &Body) -> Result<Reference> {
    let node: Node = body.encode();
    node.check()?;
    sink.put(node)
}

/// Moves what is too large for a record to nodes of its own.
fn stored(sink: &mut dyn NodeSink, mut record: Record) -> Result<Record> {
    record.check()?;
    if let Extents::Inline(extents) = &record.extents {
        let extents = maximal(extents)?;
        record.extents = if extents.len() > MAX_INLINE_EXTENTS {
            Extents::Node(extent_list::write(sink, &extents)?)
        } else {
            Extents::Inline(extents)
        };
    }
    if let Xattrs::Inline(list) = &record.xattrs
        && xattrs::weight(list) > MAX_INLINE_XATTR_BYTES
    {
        record.xattrs = Xattrs::Nodes(xattrs::write(sink, list)?);
    }
    record.check()?;
    Ok(record)
}

/// What a record adds to a node at most; depends on the record alone, so that splits do too.
fn weight(record: &Record) -> usize {
    let (mut writer, mut refs) = (Writer::new(), References::new());
    record.write(&mut writer, &mut refs);
    writer.len() + refs.len() * (REFERENCE_BYTES + HEAD_BYTES)
}
