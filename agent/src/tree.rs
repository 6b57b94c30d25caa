//! The files of one volume as the walk found them, in tables rather than in a tree of boxes.

use std::collections::HashMap;

use umbra_fsparse::{ByteRange, Inode, InodeNumber, Visitor, Warning};

use crate::ranges::merged;

/// How many warnings of one volume are kept; all are counted.
pub const KEPT_WARNINGS: usize = 1000;

/// One name: `name` in the directory `parent` is `inode`; both are positions in the inode table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Position of the directory in [`FileTree::inodes`].
    pub parent: u32,
    /// Position of what is named in [`FileTree::inodes`].
    pub inode: u32,
    name_start: u32,
    name_len: u16,
}

/// The inodes and names of a volume.
#[derive(Debug, Default)]
pub struct FileTree {
    inodes: Vec<Inode>,
    positions: HashMap<InodeNumber, u32>,
    entries: Vec<Entry>,
    names: Vec<u8>,
    warnings: Vec<Warning>,
    warnings_total: u64,
    root: Option<u32>,
    names_dropped: u64,
    used: Vec<ByteRange>,
    keeps_used: bool,
}

impl FileTree {
    /// Starts a tree that also keeps which ranges the walk says are used, for whoever looks for
    /// free space; there may be as many as there are extents.
    pub fn keeping_used() -> Self {
        Self { keeps_used: true, ..Self::default() }
    }

    /// Returns the inodes, in the order in which the walk gave them.
    pub fn inodes(&self) -> &[Inode] {
        &self.inodes
    }

    /// Returns the position of the root directory, once [`FileTree::set_root`] has named it.
    pub fn root(&self) -> Option<u32> {
        self.root
    }

    /// Names the root directory; nothing happens where the walk did not give it.
    pub fn set_root(&mut self, root: InodeNumber) {
        self.root = self.position(root);
    }

    /// Returns the position of an inode.
    pub fn position(&self, number: InodeNumber) -> Option<u32> {
        self.positions.get(&number).copied()
    }

    /// Returns the name of an entry, raw bytes.
    pub fn name(&self, entry: &Entry) -> &[u8] {
        let start = entry.name_start as usize;
        self.names.get(start..start + usize::from(entry.name_len)).unwrap_or_default()
    }

    /// Returns the entries of one directory, sorted by name; [`FileTree::sort`] comes first.
    pub fn entries_of(&self, parent: u32) -> &[Entry] {
        let start = self.entries.partition_point(|entry| entry.parent < parent);
        let rest = self.entries.get(start..).unwrap_or_default();
        let len = rest.partition_point(|entry| entry.parent == parent);
        rest.get(..len).unwrap_or_default()
    }

    /// Returns one of the names of what stands at a position; looks through all of them.
    pub fn name_of(&self, position: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.inode == position)
    }

    /// Returns the warnings that were kept and how many there were.
    pub fn warnings(&self) -> (&[Warning], u64) {
        (&self.warnings, self.warnings_total)
    }

    /// Takes the ranges of the volume that something walked uses, sorted and merged.
    pub fn take_used(&mut self) -> Vec<ByteRange> {
        merged(std::mem::take(&mut self.used))
    }

    /// Counts the names that the tables have no room for: past 4 GiB of names or 2^32 inodes.
    pub fn names_dropped(&self) -> u64 {
        self.names_dropped
    }

    /// Counts the names.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// Sorts the names by directory and raw bytes and drops repeated ones.
    ///
    /// Returns how many names stood twice in one directory, which is damage.
    pub fn sort(&mut self) -> usize {
        let mut entries = std::mem::take(&mut self.entries);
        entries
            .sort_by(|a, b| a.parent.cmp(&b.parent).then_with(|| self.name(a).cmp(self.name(b))));
        let before = entries.len();
        entries.dedup_by(|b, a| a.parent == b.parent && self.name(a) == self.name(b));
        self.entries = entries;
        before - self.entries.len()
    }
}

impl Visitor for FileTree {
    fn inode(&mut self, mut inode: Inode) {
        // A list of one extent is kept for each of millions of files: without room for more.
        inode.extents.shrink_to_fit();
        inode.xattrs.shrink_to_fit();
        if let Ok(position) = u32::try_from(self.inodes.len()) {
            self.positions.insert(inode.number, position);
            self.inodes.push(inode);
        }
    }

    fn entry(&mut self, parent: InodeNumber, name: &[u8], inode: InodeNumber) {
        let known = (
            self.position(parent),
            self.position(inode),
            u32::try_from(self.names.len()),
            u16::try_from(name.len()),
        );
        if let (Some(parent), Some(inode), Ok(name_start), Ok(name_len)) = known {
            self.names.extend_from_slice(name);
            self.entries.push(Entry { parent, inode, name_start, name_len });
        } else {
            self.names_dropped += 1;
        }
    }

    fn used(&mut self, range: ByteRange) {
        if self.keeps_used {
            self.used.push(range);
        }
    }

    fn warning(&mut self, warning: Warning) {
        self.warnings_total += 1;
        if self.warnings.len() < KEPT_WARNINGS {
            self.warnings.push(warning);
        }
    }
}

#[cfg(test)]
mod tests {
    use umbra_fsparse::{ByteLen, ByteOffset, ByteRange, InodeNumber, Visitor};

    use super::FileTree;

    #[test]
    fn what_has_no_room_is_counted() {
        let mut tree = FileTree::default();
        // Neither directory nor inode came before: as where the table of inodes is full.
        tree.entry(InodeNumber(2), b"name", InodeNumber(12));
        assert_eq!((tree.names_dropped(), tree.entry_count()), (1, 0));
    }

    #[test]
    fn used_ranges_are_kept_on_demand() {
        let range = ByteRange::new(ByteOffset(4096), ByteLen(4096)).unwrap_or_default();
        for (mut tree, kept) in [(FileTree::default(), 0), (FileTree::keeping_used(), 1)] {
            tree.used(range);
            assert_eq!(tree.take_used().len(), kept);
        }
    }
}
