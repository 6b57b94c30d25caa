//! Compares what a walk gave with the lines of a manifest: every path, both ways, every field.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::{Value, json};
use umbra_fsparse::{ExtentKind, FileType, Inode, ReadAt, Timestamp};

use crate::{
    content,
    tree::{Tree, percent},
};

const UNWRITTEN: u64 = 0x800;
const INLINE: u64 = 0x200;
/// The flags that `FS_IOC_GETFLAGS` shows, by their numbers on the disk.
///
/// SOURCE: `EXT4_FL_USER_VISIBLE` of Linux `fs/ext4/ext4.h`.
const VISIBLE_FLAGS: u32 = 0x725b_dfff;
/// Inherits the project: shown on directories only (`ext4_fileattr_get`).
const PROJECT_INHERIT: u32 = 0x2000_0000;
/// Content and names are encrypted.
const ENCRYPTED: u32 = 0x800;

/// What a comparison went through, so that one that compared nothing fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Paths that both sides have.
    pub entries: usize,
    /// Extents of the witness.
    pub extents: usize,
    /// Contents, by hash.
    pub contents: usize,
    /// Extended attributes of ours.
    pub xattrs: usize,
    /// Encrypted files and links, whose content nobody shows without the key.
    pub locked: usize,
}

/// Whether the places of extents are compared too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// As FIEMAP has them.
    Compared,
    /// The journal's copies stand elsewhere, and recovery gives back blocks past a file's end.
    Journal,
}

/// One field of one path in which the two differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Percent-encoded; the root is empty.
    pub path: String,
    /// Which field.
    pub field: &'static str,
    /// What our walk says.
    pub ours: String,
    /// What the witness says.
    pub theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, field, ours, theirs } = self;
        write!(f, "/{path}: {field}: ours {ours}, the kernel's {theirs}")
    }
}

/// Formats differences, one a line.
pub fn lines(differences: &[Difference]) -> String {
    differences.iter().map(|difference| format!("{difference}\n")).collect()
}

/// Compares a tree with a manifest.
pub fn compare_tree(
    volume: &dyn ReadAt,
    tree: &Tree,
    manifest: &[Value],
    places: Places,
) -> (Compared, Vec<Difference>) {
    let mut side = Side { volume, places, compared: Compared::default(), found: Vec::new() };
    let paths = tree.paths();
    for error in &tree.order_errors {
        side.differ("", "order of the walk", error.clone(), String::new());
    }
    if paths.len() != tree.entries.len() + 1 {
        let names = format!("{} names", tree.entries.len());
        side.differ("", "names", names, format!("{} paths", paths.len()));
    }
    let mut expected = BTreeSet::new();
    for line in manifest {
        let path = line["path"].as_str().unwrap_or_default();
        let inode = paths.get(path).and_then(|number| tree.inodes.get(number));
        match (inode, line["error"].as_str()) {
            // What neither reads is no difference.
            (None, Some(_)) => {}
            (None, None) => side.differ(path, "path", "missing".into(), "there".into()),
            (Some(_), Some(error)) => side.differ(path, "path", "there".into(), error.into()),
            (Some(inode), None) => side.compare(path, inode, line),
        }
        expected.insert(path);
    }
    for path in paths.keys().filter(|path| !expected.contains(path.as_str())) {
        side.differ(path, "path", "there".into(), "missing".into());
    }
    (side.compared, side.found)
}

struct Side<'a> {
    volume: &'a dyn ReadAt,
    places: Places,
    compared: Compared,
    found: Vec<Difference>,
}

impl Side<'_> {
    fn differ(&mut self, path: &str, field: &'static str, ours: String, theirs: String) {
        self.found.push(Difference { path: path.to_owned(), field, ours, theirs });
    }

    fn compare(&mut self, path: &str, inode: &Inode, line: &Value) {
        for (field, ours, theirs) in metadata(inode, line) {
            // What the manifest does not know is not compared.
            let absent = theirs.is_null() && !matches!(field, "target" | "rdev");
            if ours != theirs && !absent {
                self.differ(path, field, ours.to_string(), theirs.to_string());
            }
        }
        let (ours, theirs) = (our_xattrs(inode), their_xattrs(line));
        if ours != theirs {
            self.differ(path, "xattrs", format!("{ours:?}"), format!("{theirs:?}"));
        }
        self.compared.xattrs += inode.xattrs.len();
        self.compared.locked += usize::from(line["locked"] == true);
        if let Some(extents) = line["extents"].as_array()
            && self.places == Places::Compared
        {
            self.extents(path, inode, extents);
        }
        if let Some(sha256) = line["sha256"].as_str() {
            match content::sha256(self.volume, inode) {
                Ok(ours) if ours == sha256 => {}
                Ok(ours) => self.differ(path, "content", ours, sha256.to_owned()),
                Err(error) => self.differ(path, "content", error.to_string(), sha256.to_owned()),
            }
            self.compared.contents += 1;
        }
        self.compared.entries += 1;
    }

    fn extents(&mut self, path: &str, inode: &Inode, extents: &[Value]) {
        let (ours, theirs) = (our_extents(inode), their_extents(extents));
        self.compared.extents += extents.len();
        if ours == theirs {
            return;
        }
        // Long lists are alike for the most part: the first row that is not says enough.
        let same = ours.iter().zip(&theirs).take_while(|(one, other)| one == other).count();
        let row = |rows: &[Row]| match rows.get(same) {
            Some(row) => format!("{same} of {}: {row:?}", rows.len()),
            None => format!("only {same}"),
        };
        self.differ(path, "extents", row(&ours), row(&theirs));
    }
}

/// Lists the fields that are plain values, on both sides.
fn metadata(inode: &Inode, line: &Value) -> Vec<(&'static str, Value, Value)> {
    let target = inode.target.as_ref().map(|target| percent(target));
    let rdev = inode.rdev.map(|rdev| json!([rdev.major, rdev.minor]));
    let hidden = if inode.file_type == FileType::Dir { 0 } else { PROJECT_INHERIT };
    let flags = inode.flags & VISIBLE_FLAGS & !hidden;
    let mut fields = vec![
        ("type", json!(type_letter(inode.file_type)), "type"),
        ("mode", json!(inode.mode), "mode"),
        ("uid", json!(inode.uid), "uid"),
        ("gid", json!(inode.gid), "gid"),
        ("nlink", json!(inode.nlink), "nlink"),
        ("inode number", json!(inode.number.0), "ino"),
        ("mtime", nanos(inode.mtime), "mtime_ns"),
        ("ctime", nanos(inode.ctime), "ctime_ns"),
        ("crtime", inode.crtime.map(nanos).into(), "crtime_ns"),
        ("generation", json!(inode.generation), "generation"),
        ("project", json!(inode.project), "project"),
        ("flags", json!(format!("{flags:#x}")), "flags"),
        ("target", target.into(), "target"),
        ("rdev", rdev.into(), "rdev"),
    ];
    if inode.file_type == FileType::File {
        fields.push(("size", json!(inode.size.0), "size"));
    }
    if line["locked"] == true {
        let encrypted = inode.flags & ENCRYPTED != 0;
        fields.push(("encrypted", json!(encrypted), "locked"));
    }
    fields.into_iter().map(|(field, ours, key)| (field, ours, line[key].clone())).collect()
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

/// Nanoseconds since 1970 as JSON; the latest times of ext4 need the unsigned half.
fn nanos(time: Timestamp) -> Value {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    match i64::try_from(nanos) {
        Ok(nanos) => json!(nanos),
        Err(_) => u64::try_from(nanos).map_or_else(|_| json!(nanos.to_string()), |n| json!(n)),
    }
}

fn our_xattrs(inode: &Inode) -> BTreeMap<String, String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let xattrs = inode.xattrs.iter();
    xattrs.map(|xattr| (percent(&xattr.name), hex(&xattr.value))).collect()
}

fn their_xattrs(line: &Value) -> BTreeMap<String, String> {
    let xattrs = line["xattrs"].as_object().into_iter().flatten();
    xattrs.map(|(name, hex)| (name.clone(), hex.as_str().unwrap_or("?").to_owned())).collect()
}

/// One extent: content, volume, length, flags.
type Row = (u64, u64, u64, u64);

/// Inline data is one piece to FIEMAP, at the start of the first.
fn our_extents(inode: &Inode) -> Vec<Row> {
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

fn their_extents(extents: &[Value]) -> Vec<Row> {
    merge(extents.iter().map(|extent| {
        let field = |index: usize| extent[index].as_u64().unwrap_or(u64::MAX);
        (field(0), field(1), field(2), field(3) & (UNWRITTEN | INLINE))
    }))
}

fn merge(rows: impl Iterator<Item = Row>) -> Vec<Row> {
    let mut merged: Vec<Row> = Vec::new();
    for row in rows {
        match merged.last_mut() {
            Some(last)
                if last.0.checked_add(last.2) == Some(row.0)
                    && last.3 == row.3
                    && (last.1.checked_add(last.2) == Some(row.1) || row.3 == INLINE) =>
            {
                last.2 += row.2;
            }
            _ => merged.push(row),
        }
    }
    merged
}
