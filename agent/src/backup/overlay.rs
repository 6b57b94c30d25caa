//! From the tables of the walk to the nodes of the overlay, deepest directories first.

use std::collections::HashMap;

use umbra_common::Reference;
use umbra_common::node::NodeSink;
use umbra_common::overlay::{ContentHash, DirectoryWriter, ENCRYPTED_FLAG, Record, write_root};
use umbra_fsparse::{FileType, Inode};

use super::plan::FileItem;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Notice};
use crate::survey::Volume;
use crate::tree::{Entry, FileTree};

/// Directories within directories at most; beyond that a tree is damage or malice.
const MAX_DEPTH: usize = 4096;

/// The overlay of one volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overlay {
    /// Its root node.
    pub(super) root: Reference,
    /// Names in it.
    pub(super) names: u64,
}

/// A directory whose entries are being written.
struct Open<'t> {
    position: u32,
    entries: &'t [Entry],
    next: usize,
    writer: DirectoryWriter,
    /// The entry that led here; absent for the root.
    from: Option<Entry>,
}

struct Builder<'a> {
    index: u32,
    volume: &'a Volume,
    tree: &'a FileTree,
    contents: &'a HashMap<FileItem, ContentHash>,
    monitor: &'a dyn Monitor,
}

/// Writes the overlay of the volume at `index` of the survey; `None` where it has no files.
pub(super) fn build(
    index: usize,
    volume: &Volume,
    contents: &HashMap<FileItem, ContentHash>,
    monitor: &dyn Monitor,
    sink: &mut dyn NodeSink,
) -> Result<Option<Overlay>> {
    let Some(tree) = &volume.tree else { return Ok(None) };
    let Some(root) = tree.root() else { return Ok(None) };
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let builder = Builder { index, volume, tree, contents, monitor };
    let (entries, names) = builder.directory(root, sink)?;
    let Some(record) = builder.record(b"", root, Some(entries))? else { return Ok(None) };
    let root = write_root(sink, record)?;
    Ok(Some(Overlay { root, names }))
}

impl Builder<'_> {
    /// Writes the directory at `root` and everything below it, and returns its node and the number of
    /// names.
    fn directory(&self, root: u32, sink: &mut dyn NodeSink) -> Result<(Reference, u64)> {
        let mut names = 0;
        let mut stack = vec![self.open(root, None)];
        loop {
            let depth = stack.len();
            let Some(top) = stack.last_mut() else {
                return Err(Error::Internal("a walk of directories without an end".into()));
            };
            if let Some(entry) = top.entries.get(top.next).copied() {
                top.next += 1;
                let inode = self.inode(entry.inode)?;
                if inode.file_type == FileType::Dir {
                    if depth < MAX_DEPTH {
                        stack.push(self.open(entry.inode, Some(entry)));
                    } else {
                        self.left_out(inode, "it lies deeper than 4096 directories");
                    }
                } else if let Some(record) =
                    self.record(self.tree.name(&entry), entry.inode, None)?
                {
                    top.writer.push(sink, record)?;
                    names += 1;
                }
                continue;
            }
            let Some(done) = stack.pop() else { continue };
            let node = done.writer.finish(sink)?;
            let (Some(entry), Some(parent)) = (done.from, stack.last_mut()) else {
                return Ok((node, names));
            };
            if let Some(record) = self.record(self.tree.name(&entry), done.position, Some(node))? {
                parent.writer.push(sink, record)?;
                names += 1;
            }
        }
    }

    fn open(&self, position: u32, from: Option<Entry>) -> Open<'_> {
        let entries = self.tree.entries_of(position);
        Open { position, entries, next: 0, writer: DirectoryWriter::new(), from }
    }

    fn inode(&self, position: u32) -> Result<&Inode> {
        let inode = self.tree.inodes().get(position as usize);
        inode.ok_or_else(|| Error::Internal("a name without an inode".into()))
    }

    /// Makes a record; `None`, with a warning, where the format cannot hold it.
    fn record(
        &self,
        name: &[u8],
        position: u32,
        directory: Option<Reference>,
    ) -> Result<Option<Record>> {
        let inode = self.inode(position)?;
        let content = self.content(inode, position)?;
        let start = self.volume.range.start();
        match Record::of_inode(name, inode, start, content, directory) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                self.left_out(inode, &error.to_string());
                Ok(None)
            }
        }
    }

    fn content(&self, inode: &Inode, position: u32) -> Result<ContentHash> {
        if inode.file_type != FileType::File {
            return Ok(ContentHash::NotAFile);
        }
        // What was read is ciphertext: its hash would be that of no content.
        if inode.flags & ENCRYPTED_FLAG != 0 {
            return Ok(ContentHash::Encrypted);
        }
        if inode.size.0 == 0 {
            return Ok(ContentHash::Blake3(*blake3::hash(b"").as_bytes()));
        }
        let item = FileItem { volume: self.index, inode: position };
        let content = self.contents.get(&item).copied();
        content.ok_or_else(|| Error::Internal("a file that no stage has read".into()))
    }

    fn left_out(&self, inode: &Inode, why: &str) {
        self.monitor.warning(Notice {
            subject: format!("{} inode {}", self.volume.path, inode.number.0),
            at: None,
            message: format!("left out of the listing: {why}; the disk image has it"),
        });
    }
}
