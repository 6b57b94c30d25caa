#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use umbra_fsparse::{Timestamp, Xattr};

use super::confined::{Dir, Name};
use super::*;
use crate::browse::Links;
use crate::fixture::{Fixture, Piece, Random, Spec, What, content_of, file, spec};
use crate::monitor::Quiet;

mod hostile;
mod overwrite;
mod roundtrip;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Restores everything into `target`.
fn restore_all(fixture: &Fixture, target: &Path, overwrite: Overwrite) -> Result<Summary> {
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let (selections, _) = select_all(&browser)?;
    run(fixture, &selections, target, overwrite, Filter::new(&[], &[])?)
}

fn run(
    fixture: &Fixture,
    selections: &[Selection],
    target: &Path,
    overwrite: Overwrite,
    filter: Filter,
) -> Result<Summary> {
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let options = Options { overwrite, filter };
    restore(&browser, fixture.content(), selections, target, &options, &Quiet::default())
}

/// Everything below a directory as the system shows it: path to a description.
fn read_tree(top: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![top.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
            if meta.is_dir() {
                waiting.push(path.clone());
            }
            found.insert(name, describe(&path, &meta));
        }
    }
    found
}

fn describe(path: &Path, meta: &std::fs::Metadata) -> String {
    let kind = meta.file_type();
    let what = if kind.is_symlink() {
        format!("link {:?}", std::fs::read_link(path).unwrap())
    } else if kind.is_dir() {
        "dir".into()
    } else if kind.is_fifo() {
        "fifo".into()
    } else if kind.is_char_device() {
        format!("char {}", meta.rdev())
    } else {
        format!("file {}", blake3::hash(&std::fs::read(path).unwrap()))
    };
    let mut list = [0_u8; 4096];
    let len = rustix::fs::llistxattr(path, &mut list).unwrap_or(0);
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let xattrs: Vec<String> = names
        .map(|name| {
            let mut value = [0_u8; 256];
            let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            format!("{}={:?}", String::from_utf8_lossy(name), &value[..len])
        })
        .collect();
    let mode = if kind.is_symlink() { 0 } else { meta.mode() & 0o7777 };
    format!(
        "{what} {mode:o} {}:{} {}.{} {xattrs:?}",
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec()
    )
}

/// Describes a spec as [`describe`] does what became of it.
fn expected(spec: &Spec) -> String {
    let what = match &spec.what {
        What::File(pieces) => format!("file {}", blake3::hash(&content_of(pieces))),
        What::Dir => "dir".into(),
        What::Symlink(target) => format!("link {:?}", Path::new(OsStr::from_bytes(target))),
        What::Fifo => "fifo".into(),
        What::Device(major, minor) => format!("char {}", rustix::fs::makedev(*major, *minor)),
        What::Link(_) => unreachable!("described by its first name"),
    };
    let mode = if matches!(spec.what, What::Symlink(_)) { 0 } else { spec.mode };
    let xattrs = spec.xattrs.iter();
    let xattrs: Vec<String> = xattrs
        .map(|xattr| format!("{}={:?}", String::from_utf8_lossy(&xattr.name), xattr.value))
        .collect();
    let time = spec.mtime;
    format!("{what} {mode:o} {}:{} {}.{} {xattrs:?}", spec.uid, spec.gid, time.seconds, time.nanos)
}

fn no_temporary_names(top: &Path) {
    let left = read_tree(top);
    let left: Vec<_> =
        left.keys().filter(|p| p.windows(14).any(|w| w == b".umbra-partial")).collect();
    assert!(left.is_empty(), "{left:?}");
}
