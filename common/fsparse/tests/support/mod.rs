//! What the tests of file systems share beside `umbra-walkdiff`: the corpus and small images.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

pub mod made;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use umbra_fsparse::{Inode, ReadAt, ext::Ext};
pub use umbra_walkdiff::{image::Image, tree::Tree};

/// Finds the corpus beside the repository.
pub fn corpus() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().map(|dir| dir.join("shared/corpus")).find(|dir| dir.is_dir())
}

/// Decompresses an image of the corpus.
pub fn decompress(path: &Path) -> Image {
    Image(zstd(path))
}

/// Reads a manifest: one JSON object a line.
pub fn manifest(path: &Path) -> Vec<serde_json::Value> {
    let text = String::from_utf8(zstd(path)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn zstd(path: &Path) -> Vec<u8> {
    let output = Command::new("zstd").args(["-dcq", "--long=27"]).arg(path).output().unwrap();
    assert!(output.status.success(), "zstd {}", path.display());
    output.stdout
}

/// Walks the file system and keeps everything.
pub fn walk(ext: &Ext<'_>) -> Tree {
    Tree::of(ext).unwrap()
}

/// Rebuilds a file's content from the image through its extents.
pub fn content(image: &dyn ReadAt, inode: &Inode) -> Vec<u8> {
    let mut content = Vec::new();
    umbra_walkdiff::content::pieces(image, inode, |bytes| content.extend_from_slice(bytes))
        .unwrap();
    content
}
