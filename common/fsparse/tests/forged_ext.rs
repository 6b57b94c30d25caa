//! Forged ext: the tool that makes checksums right is itself checked, by e2fsck; then what fuzzing
//! found with it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use support::{
    Image,
    made::{Made, noise, tools},
};
use umbra_fsparse::{
    ByteRange, FileType, Inode, InodeNumber, ReadAt, Visitor, Warning,
    ext::{Ext, Journal},
    testing::Mender,
};

const KINDS: &[&[&str]] = &[
    &["-t", "ext4", "-b", "1024"],
    &["-t", "ext4", "-b", "4096", "-O", "metadata_csum_seed,inline_data"],
    &["-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "4096"],
    &["-t", "ext4", "-b", "1024", "-g", "256", "-O", "meta_bg,^resize_inode,^flex_bg,^64bit"],
    &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"],
    &["-t", "ext2", "-b", "1024"],
];

fn tree(top: &Path) {
    fs::create_dir(top.join("dir")).unwrap();
    for number in 0..60 {
        fs::write(top.join(format!("dir/{}{number}", "n".repeat(100))), "").unwrap();
    }
    let holes: Vec<u8> =
        (0..60).flat_map(|n| [noise(1024, n + 9), vec![0; 1024]].concat()).collect();
    fs::write(top.join("holes"), holes).unwrap();
    symlink("l".repeat(300), top.join("long")).unwrap();
}

fn made(kind: &[&str]) -> Made {
    let made = Made::new(&[kind, &["-N", "128"][..]].concat(), "8M", tree);
    fs::write(made.dir.path().join("value"), noise(800, 5)).unwrap();
    made.debugfs("ea_set -f value /holes user.value\n");
    made
}

/// Everything that a walk gives, for the mender: inodes, blocks of directories and trees.
#[derive(Default)]
struct Found {
    inodes: Vec<Inode>,
    used: Vec<ByteRange>,
}

impl Visitor for Found {
    fn inode(&mut self, inode: Inode) {
        self.inodes.push(inode);
    }
    fn entry(&mut self, _: InodeNumber, _: &[u8], _: InodeNumber) {}
    fn warning(&mut self, _: Warning) {}
    fn used(&mut self, range: ByteRange) {
        self.used.push(range);
    }
}

fn walk(image: &Image) -> Found {
    let mut found = Found::default();
    let ext = Ext::open(image, Journal::Replay).unwrap();
    ext.walk(&mut found).unwrap();
    found
}

fn word(image: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    u64::from(u32::from_le_bytes(*image[at..].first_chunk().unwrap()))
}

fn put(image: &mut [u8], at: u64, value: &[u8]) {
    let at = usize::try_from(at).unwrap();
    image[at..at + value.len()].copy_from_slice(value);
}

/// Makes every checksum of `image` anew; its structures stand where those of `sound` do.
fn mend_like(sound: &Image, image: &mut Image) {
    let mender = Mender::of(&image.0).unwrap();
    for number in 1..=128 {
        let at = usize::try_from(mender.inode_at(&sound.0, number).unwrap()).unwrap();
        let len = usize::try_from(mender.inode_size).unwrap();
        if sound.0[at..at + len].iter().any(|&byte| byte != 0) {
            mender.inode(&mut image.0, number).unwrap();
        }
    }
    for inode in &walk(sound).inodes {
        let number = inode.number.0;
        let at = mender.inode_at(&sound.0, number).unwrap();
        let attributes = word(&sound.0, at + 0x68) * mender.block_size;
        if attributes != 0 {
            mender.attribute_block(&mut image.0, attributes).unwrap();
        }
        if inode.flags & 0x8_0000 != 0 && sound.0[usize::try_from(at + 0x2e).unwrap()] == 1 {
            let node = word(&sound.0, at + 0x28 + 12 + 4) * mender.block_size;
            mender.extent_node(&mut image.0, node, number).unwrap();
        }
        let blocks = inode.extents.iter().filter(|_| inode.file_type == FileType::Dir);
        for extent in blocks.filter(|_| inode.flags & 0x1000_0000 == 0) {
            let mut at = extent.volume.start().0;
            while at < extent.volume.end().0 {
                mender.directory_block(&mut image.0, at, number).unwrap();
                at += mender.block_size;
            }
        }
    }
    for group in 0..mender.groups {
        mender.bitmaps(&mut image.0, group).unwrap();
    }
    mender.superblock(&mut image.0).unwrap();
}

#[test]
fn mending_a_sound_file_system_changes_nothing() {
    if !tools() {
        return;
    }
    for kind in KINDS {
        let sound = made(kind).image();
        let mut mended = Image(sound.0.clone());
        mend_like(&sound, &mut mended);
        let differ = sound.0.iter().zip(&mended.0).position(|(sound, mended)| sound != mended);
        assert_eq!(differ, None, "{kind:?}");
    }
}

#[test]
fn e2fsck_finds_no_wrong_checksum_in_what_was_mended() {
    if !tools() {
        return;
    }
    for kind in KINDS {
        let made = made(kind);
        let sound = made.image();
        let mut image = Image(sound.0.clone());
        // Another identity changes every checksum, unless their seed stands for itself.
        if word(&image.0, 1024 + 0x60) & 0x2000 == 0 {
            put(&mut image.0, 1024 + 0x68, &[0x5a; 16]);
        }
        let mender = Mender::of(&image.0).unwrap();
        for inode in &walk(&sound).inodes {
            let at = mender.inode_at(&image.0, inode.number.0).unwrap();
            put(&mut image.0, at + 2, &7_u16.to_le_bytes());
        }
        mend_like(&sound, &mut image);
        let path = made.dir.path().join("forged");
        fs::write(&path, &image.0).unwrap();
        let output = Command::new("e2fsck").args(["-f", "-n"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let about: Vec<&str> = said.lines().filter(|line| line.contains("checksum")).collect();
        assert_eq!(about, Vec::<&str>::new(), "{kind:?}:\n{said}");
    }
}

/// Found by fuzzing: a node behind the end was told as used before it was looked for.
#[test]
fn a_tree_that_leaves_the_volume_uses_nothing_there() {
    if !tools() {
        return;
    }
    for (kind, place) in [(0, 16), (5, 48)] {
        let made = made(KINDS[kind]);
        let mut image = made.image();
        let holes = walk(&image).inodes.into_iter().find(|i| i.extents.len() > 20).unwrap();
        let mender = Mender::of(&image.0).unwrap();
        let at = mender.inode_at(&image.0, holes.number.0).unwrap() + 0x28;
        // The tree's only leaf, or the file's block of pointers; then its attributes.
        put(&mut image.0, at + place, &4_000_000_u32.to_le_bytes());
        put(&mut image.0, at + 0x40, &5_000_000_u32.to_le_bytes());
        mender.inode(&mut image.0, holes.number.0).unwrap();
        let len = ReadAt::len(&image).0;
        let used = walk(&image).used;
        assert!(!used.is_empty() && used.iter().all(|range| range.end().0 <= len), "{used:?}");
    }
}
