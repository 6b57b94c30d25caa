//! Everything that a walk gave, in memory.

use std::collections::{BTreeMap, BTreeSet};

use umbra_fsparse::{
    FileType, Inode, InodeNumber, Result, Visitor, WalkSummary, Warning, ext::Ext,
};

/// What a walk gave.
#[derive(Debug)]
pub struct Tree {
    /// The inodes by number.
    pub inodes: BTreeMap<InodeNumber, Inode>,
    /// Directory, name, what it names.
    pub entries: Vec<(InodeNumber, Vec<u8>, InodeNumber)>,
    /// What was left out and why.
    pub warnings: Vec<Warning>,
    /// Where the walk broke the promises of [`Visitor`].
    pub order_errors: Vec<String>,
    /// What it says of itself.
    pub summary: WalkSummary,
}

#[derive(Default)]
struct Collector {
    inodes: BTreeMap<InodeNumber, Inode>,
    entries: Vec<(InodeNumber, Vec<u8>, InodeNumber)>,
    warnings: Vec<Warning>,
    order_errors: Vec<String>,
}

impl Visitor for Collector {
    fn inode(&mut self, inode: Inode) {
        let number = inode.number;
        if self.inodes.insert(number, inode).is_some() {
            self.order_errors.push(format!("{number:?} came twice"));
        }
    }

    fn entry(&mut self, parent: InodeNumber, name: &[u8], inode: InodeNumber) {
        for wanted in [parent, inode] {
            if !self.inodes.contains_key(&wanted) {
                self.order_errors.push(format!("{wanted:?} is named before it came"));
            }
        }
        self.entries.push((parent, name.to_vec(), inode));
    }

    fn warning(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }
}

impl Tree {
    /// Walks the file system and keeps everything.
    ///
    /// # Errors
    /// As [`Ext::walk`].
    pub fn of(ext: &Ext<'_>) -> Result<Self> {
        let mut collector = Collector::default();
        let summary = ext.walk(&mut collector)?;
        let Collector { inodes, entries, warnings, order_errors } = collector;
        Ok(Self { inodes, entries, warnings, order_errors, summary })
    }

    /// Returns each path (percent-encoded, the root is empty) and its inode; of two equal names
    /// the later one. A directory that lies in itself is listed once.
    pub fn paths(&self) -> BTreeMap<String, InodeNumber> {
        let mut children: BTreeMap<InodeNumber, Vec<(&[u8], InodeNumber)>> = BTreeMap::new();
        for (parent, name, inode) in &self.entries {
            children.entry(*parent).or_default().push((name, *inode));
        }
        let mut paths = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut pending = vec![(String::new(), self.summary.root)];
        while let Some((path, inode)) = pending.pop() {
            for (name, child) in children.get(&inode).into_iter().flatten() {
                let slash = if path.is_empty() { "" } else { "/" };
                let path = format!("{path}{slash}{}", percent(name));
                let is_dir = self.inodes.get(child).is_some_and(|i| i.file_type == FileType::Dir);
                if is_dir && seen.insert(*child) {
                    pending.push((path, *child));
                } else {
                    paths.insert(path, *child);
                }
            }
            paths.insert(path, inode);
        }
        paths
    }

    /// Returns the inode of a path.
    pub fn find(&self, path: &str) -> Option<&Inode> {
        self.inodes.get(self.paths().get(path)?)
    }

    /// Returns the inode of a path that is there.
    ///
    /// # Panics
    /// Where it is not: a test has failed.
    pub fn at(&self, path: &str) -> &Inode {
        self.find(path).unwrap_or_else(|| panic!("no {path}"))
    }
}

/// Encodes bytes as the manifests do: `%`, the backslash and all that is not printable ASCII.
pub fn percent(bytes: &[u8]) -> String {
    let encode = |&byte: &u8| match byte {
        b'%' | b'\\' => format!("%{byte:02X}"),
        0x20..=0x7e => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    bytes.iter().map(encode).collect()
}
