//! What the tests of file systems share: images in memory, a collecting visitor, contents.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

pub mod compare;
pub mod made;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};
use umbra_fsparse::{
    ByteLen, ByteOffset, Codec, ExtentKind, FileType, Inode, InodeNumber, ReadAt, ReadError,
    Visitor, WalkSummary, Warning, ext::Ext,
};

/// Finds the corpus beside the repository.
pub fn corpus() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().map(|dir| dir.join("shared/corpus")).find(|dir| dir.is_dir())
}

/// An image in memory.
pub struct Image(pub Vec<u8>);

impl Image {
    /// Decompresses a `.zst` file.
    pub fn decompress(path: &Path) -> Self {
        Self(zstd(path))
    }
}

impl ReadAt for Image {
    fn len(&self) -> ByteLen {
        ByteLen(self.0.len() as u64)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0[..].read_at(offset, buf)
    }
}

/// Reads a manifest: one JSON object a line.
pub fn manifest(path: &Path) -> Vec<serde_json::Value> {
    lines(zstd(path))
}

/// Returns what the kernel says of the mounted tree, as a manifest.
pub fn kernel_tree(mounted: &Path) -> Vec<serde_json::Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/kernel_tree.py");
    let output = Command::new("python3").arg(script).arg(mounted).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    lines(output.stdout)
}

fn lines(text: Vec<u8>) -> Vec<serde_json::Value> {
    let text = String::from_utf8(text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn zstd(path: &Path) -> Vec<u8> {
    let output = Command::new("zstd").args(["-dcq", "--long=27"]).arg(path).output().unwrap();
    assert!(output.status.success(), "zstd {}", path.display());
    output.stdout
}

/// Everything that a walk gave.
pub struct Tree {
    pub inodes: BTreeMap<InodeNumber, Inode>,
    pub entries: Vec<(InodeNumber, Vec<u8>, InodeNumber)>,
    pub warnings: Vec<Warning>,
    pub order_errors: Vec<String>,
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

/// Walks the file system and keeps everything.
pub fn walk(ext: &Ext<'_>) -> Tree {
    let mut collector = Collector::default();
    let summary = ext.walk(&mut collector).unwrap();
    let Collector { inodes, entries, warnings, order_errors } = collector;
    Tree { inodes, entries, warnings, order_errors, summary }
}

impl Tree {
    /// Returns each path (percent-encoded, the root is empty) and its inode; of two equal names
    /// the later one.
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
                if self.inodes[child].file_type == FileType::Dir {
                    assert!(seen.insert(*child), "directory loop at {path}");
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
    pub fn at(&self, path: &str) -> &Inode {
        let paths = self.paths();
        let number = paths.get(path).unwrap_or_else(|| panic!("no {path}"));
        &self.inodes[number]
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

/// Rebuilds a file's content from the image through its extents.
pub fn content(image: &dyn ReadAt, inode: &Inode) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(inode.size.0).unwrap()];
    for extent in inode.extents.iter().filter(|extent| extent.kind != ExtentKind::Unwritten) {
        let mut bytes = vec![0; usize::try_from(extent.volume.len().0).unwrap()];
        image.read_at(extent.volume.start(), &mut bytes).unwrap();
        if extent.codec == Codec::Jbd2Escaped {
            bytes[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
        }
        let start = usize::try_from(extent.logical.0).unwrap().min(content.len());
        let len = bytes.len().min(content.len() - start);
        content[start..start + len].copy_from_slice(&bytes[..len]);
    }
    content
}

/// Returns the SHA-256 of a file's content in hexadecimal digits.
pub fn sha256_of_file(image: &dyn ReadAt, inode: &Inode) -> String {
    // Holes may be longer than memory: the content goes through in pieces.
    const PIECE: u64 = 1 << 20;
    let mut hash = Sha256::new();
    let mut at = 0;
    let mut piece = vec![0; PIECE as usize];
    while at < inode.size.0 {
        let len = PIECE.min(inode.size.0 - at);
        let piece = &mut piece[..len as usize];
        piece.fill(0);
        for extent in inode.extents.iter().filter(|extent| extent.kind != ExtentKind::Unwritten) {
            let logical = extent.logical.0;
            let from = logical.max(at);
            let to = (logical + extent.volume.len().0).min(at + len);
            if from >= to {
                continue;
            }
            let place = ByteOffset(extent.volume.start().0 + (from - logical));
            let target = &mut piece[(from - at) as usize..(to - at) as usize];
            image.read_at(place, target).unwrap();
            if extent.codec == Codec::Jbd2Escaped && from == logical {
                target[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
            }
        }
        hash.update(&*piece);
        at += len;
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
