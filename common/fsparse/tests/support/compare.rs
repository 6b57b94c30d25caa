//! Compares what a walk gave with the lines of a manifest.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::Value;
use umbra_fsparse::{ExtentKind, FileType, Inode, ReadAt};

use super::{Tree, percent, sha256_of_file};

const UNWRITTEN: u64 = 0x800;
const INLINE: u64 = 0x200;

/// What a comparison went through, so that one that compared nothing fails.
#[derive(Debug, Default)]
pub struct Compared {
    pub entries: usize,
    pub extents: usize,
    pub contents: usize,
    pub xattrs: usize,
}

/// Whether the places of extents are compared too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// As FIEMAP has them.
    Compared,
    /// The journal's copies stand elsewhere, and recovery gives back blocks past a file's end.
    Journal,
}

/// Compares a tree with a manifest: every path, both ways.
pub fn compare_tree(
    image: &dyn ReadAt,
    tree: &Tree,
    manifest: &[Value],
    places: Places,
) -> (Compared, Vec<String>) {
    let paths = tree.paths();
    let mut compared = Compared::default();
    let mut problems = tree.order_errors.clone();
    if paths.len() != tree.entries.len() + 1 {
        problems.push(format!("{} entries, {} paths", tree.entries.len(), paths.len()));
    }
    let mut expected = BTreeSet::new();
    for line in manifest {
        let path = line["path"].as_str().unwrap();
        match paths.get(path) {
            Some(inode) => compare(image, &tree.inodes[inode], line, places, &mut compared)
                .into_iter()
                .for_each(|problem| problems.push(format!("{path}: {problem}"))),
            None => problems.push(format!("{path}: missing")),
        }
        expected.insert(path);
    }
    for path in paths.keys().filter(|path| !expected.contains(path.as_str())) {
        problems.push(format!("{path}: too much"));
    }
    (compared, problems)
}

fn compare(
    image: &dyn ReadAt,
    inode: &Inode,
    line: &Value,
    places: Places,
    compared: &mut Compared,
) -> Vec<String> {
    let mut problems = Vec::new();
    let mut equal = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            problems.push(format!("{what}: {ours}, the kernel says {theirs}"));
        }
    };
    let number = |key: &str| line[key].to_string();
    equal("type", type_letter(inode.file_type).to_owned(), line["type"].as_str().unwrap().into());
    if inode.file_type == FileType::File {
        equal("size", inode.size.0.to_string(), number("size"));
    }
    equal("mode", inode.mode.to_string(), number("mode"));
    equal("uid", inode.uid.to_string(), number("uid"));
    equal("gid", inode.gid.to_string(), number("gid"));
    equal("nlink", inode.nlink.to_string(), number("nlink"));
    equal("ino", inode.number.0.to_string(), number("ino"));
    equal("mtime", nanos(inode.mtime).to_string(), number("mtime_ns"));
    equal("ctime", nanos(inode.ctime).to_string(), number("ctime_ns"));
    equal("xattrs", format!("{:?}", our_xattrs(inode)), format!("{:?}", their_xattrs(line)));
    compared.xattrs += inode.xattrs.len();
    let target = inode.target.as_ref().map(|target| percent(target));
    equal("target", format!("{target:?}"), format!("{:?}", line["target"].as_str()));
    let rdev = inode.rdev.map(|rdev| serde_json::json!([rdev.major, rdev.minor]));
    equal("rdev", rdev.unwrap_or_default().to_string(), line["rdev"].to_string());
    if let Some(extents) = line["extents"].as_array()
        && places == Places::Compared
    {
        equal("extents", format!("{:?}", ours(inode)), format!("{:?}", theirs(extents)));
        compared.extents += extents.len();
    }
    if let Some(sha256) = line["sha256"].as_str() {
        equal("sha256", sha256_of_file(image, inode), sha256.to_owned());
        compared.contents += 1;
    }
    compared.entries += 1;
    problems
}

fn type_letter(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "f",
        FileType::Dir => "d",
        FileType::Symlink => "l",
        FileType::Fifo => "p",
        FileType::Socket => "s",
        FileType::Char => "c",
        FileType::Block => "b",
    }
}

fn nanos(time: umbra_fsparse::Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn our_xattrs(inode: &Inode) -> BTreeMap<String, String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let xattrs = inode.xattrs.iter();
    xattrs.map(|xattr| (percent(&xattr.name), hex(&xattr.value))).collect()
}

fn their_xattrs(line: &Value) -> BTreeMap<String, String> {
    let Some(xattrs) = line["xattrs"].as_object() else {
        return BTreeMap::new();
    };
    xattrs.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

/// One extent: content, volume, length, flags.
type Row = (u64, u64, u64, u64);

/// Inline data is one piece to FIEMAP, at the start of the first.
fn ours(inode: &Inode) -> Vec<Row> {
    let rows = inode.extents.iter().map(|extent| {
        let flags = match extent.kind {
            ExtentKind::Data => 0,
            ExtentKind::Unwritten => UNWRITTEN,
            ExtentKind::Inline => INLINE,
        };
        (extent.logical.0, extent.volume.start().0, extent.volume.len().0, flags)
    });
    merge(rows)
}

fn theirs(extents: &[Value]) -> Vec<Row> {
    merge(extents.iter().map(|extent| {
        let field = |index: usize| extent[index].as_u64().unwrap();
        (field(0), field(1), field(2), field(3) & (UNWRITTEN | INLINE))
    }))
}

fn merge(rows: impl Iterator<Item = Row>) -> Vec<Row> {
    let mut merged: Vec<Row> = Vec::new();
    for row in rows {
        match merged.last_mut() {
            Some(last)
                if last.0 + last.2 == row.0
                    && last.3 == row.3
                    && (last.1 + last.2 == row.1 || row.3 == INLINE) =>
            {
                last.2 += row.2;
            }
            _ => merged.push(row),
        }
    }
    merged
}
