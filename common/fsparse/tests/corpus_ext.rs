//! The ext parser against the kernel's own view of the corpus images (../shared/corpus).
//!
//! Every image's manifest was made by mounting it with Linux; the extents come from FIEMAP.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use support::{corpus, decompress, walk};
use umbra_fsparse::ext::{Ext, Journal};
use umbra_walkdiff::compare::{Places, compare_tree, lines};

#[test]
fn ext4_default_4k() {
    check("ext4-default-4k", "ext4");
}

#[test]
fn ext4_1k() {
    check("ext4-1k", "ext4");
}

#[test]
fn ext3_indirect() {
    check("ext3-indirect", "ext3");
}

#[test]
fn ext4_nojournal_128inode() {
    check("ext4-nojournal-128inode", "ext4");
}

#[test]
fn ext4_inline() {
    check("ext4-inline", "ext4");
}

#[test]
fn metabg() {
    check("h-ext4-metabg", "ext4");
}

#[test]
fn csumseed_sparse2_orphan() {
    check("h-ext4-csumseed-sparse2-orphan", "ext4");
}

#[test]
fn flag_encrypt() {
    check("h-ext4-flag-encrypt", "ext4");
}

/// Walks the image and compares it with its manifest, line by line.
fn check(name: &str, kind: &str) {
    let Some(corpus) = corpus() else {
        println!("skipped: no shared/corpus beside the repository");
        return;
    };
    let image = decompress(&corpus.join(format!("{name}.img.zst")));
    let manifest = support::manifest(&corpus.join(format!("{name}.manifest.jsonl.zst")));
    let ext = Ext::open(&image, Journal::Replay).unwrap();
    assert_eq!(ext.kind(), kind);
    assert!(!ext.needs_recovery());
    let tree = walk(&ext);
    assert_eq!(tree.warnings, []);
    assert!(tree.summary.complete);
    let (compared, differences) = compare_tree(&image, &tree, &manifest, Places::Compared);
    println!("{name}: {compared:?}");
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), lines(&differences));
    assert!(compared.extents > 50 && compared.contents > 50 && compared.entries > 100);
}
