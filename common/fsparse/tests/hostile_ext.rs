//! File systems made to cost much: small images must not become large tables.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::{fs, path::Path};

use support::{
    Image,
    made::{Made, noise, tools},
};
use umbra_fsparse::{
    Error, Inode, InodeNumber, Visitor, Warning,
    ext::{Ext, Journal},
};

/// Counts what a walk gives.
#[derive(Default)]
struct Counter {
    names: u64,
    extents: u64,
    attribute_bytes: u64,
    warnings: u64,
}

impl Visitor for Counter {
    fn inode(&mut self, inode: Inode) {
        self.extents += inode.extents.len() as u64;
        let lens = inode.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len());
        self.attribute_bytes += lens.sum::<usize>() as u64;
    }

    fn entry(&mut self, _: InodeNumber, _: &[u8], _: InodeNumber) {
        self.names += 1;
    }

    fn warning(&mut self, _: Warning) {
        self.warnings += 1;
    }
}

/// Walks to the limit that must be reached, and returns what was given until then.
fn to_the_limit(image: &Image) -> Counter {
    let mut counter = Counter::default();
    let error = Ext::open(image, Journal::Replay).unwrap().walk(&mut counter).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
    counter
}

fn put(image: &mut Image, at: usize, value: u32) {
    image.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn claimed_groups_cost_nothing_where_the_volume_has_none() {
    if !tools() {
        return;
    }
    let made = Made::new(&["-t", "ext4", "-b", "1024", "-I", "1024", "-N", "64"], "4M", |_| {});
    made.debugfs("feature -metadata_csum -uninit_bg 64bit\n");
    let mut image = made.image();
    // 3 million groups of 256 blocks, each of one inode: a superblock that agrees with itself.
    let groups = 3_000_000;
    put(&mut image, 1024, groups);
    put(&mut image, 1024 + 4, groups * 256 + 1);
    put(&mut image, 1024 + 0x20, 256);
    put(&mut image, 1024 + 0x24, 256);
    put(&mut image, 1024 + 0x28, 1);
    image.0[1024 + 0xfe] = 64;
    let ext = Ext::open(&image, Journal::Replay).unwrap();
    let warnings = ext.warnings().len();
    assert!(warnings > 0 && warnings <= 1001, "{warnings} warnings");
}

/// A directory's block and a block of pointers to nothing but that block.
fn shared_directories(top: &Path) {
    fs::create_dir(top.join("full")).unwrap();
    for number in 0..80 {
        fs::write(top.join(format!("full/{number}")), "").unwrap();
    }
    fs::write(top.join("pointers"), noise(1024, 1)).unwrap();
    for number in 0..40 {
        fs::create_dir(top.join(format!("d{number}"))).unwrap();
    }
}

#[test]
fn directories_that_share_blocks_give_no_more_names_than_the_volume_can_hold() {
    if !tools() {
        return;
    }
    let made = Made::new(&["-t", "ext2", "-b", "1024", "-N", "1024"], "4M", shared_directories);
    let block = |path: &str| first_block(&made, path);
    let (names, pointers) = (block("/full"), block("/pointers"));
    let mut commands = String::new();
    for number in 0..40 {
        commands += &format!(
            "sif /d{number} block[IND] {pointers}\nsif /d{number} size {}\n",
            (12 + 256) * 1024
        );
    }
    made.debugfs(&commands);
    let mut image = made.image();
    for index in 0..256 {
        put(&mut image, pointers as usize * 1024 + index * 4, names);
    }
    let given = to_the_limit(&image);
    let most = (image.0.len() / 12 + 4096) as u64;
    assert!(given.names <= most, "{} names, at most {most} fit", given.names);
}

fn first_block(made: &Made, path: &str) -> u32 {
    let text = made.debugfs(&format!("bmap {path} 0\n"));
    let number = text.lines().find_map(|line| line.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no block in {text}"))
}

#[test]
fn files_that_share_a_tree_give_no_more_extents_than_the_volume_can_hold() {
    if !tools() {
        return;
    }
    let made = Made::new(&["-t", "ext2", "-b", "1024", "-N", "2048"], "4M", |top| {
        fs::write(top.join("pointers"), noise(1024, 1)).unwrap();
        fs::write(top.join("content"), noise(512 * 1024, 2)).unwrap();
        for number in 0..1500 {
            fs::write(top.join(format!("f{number}")), "").unwrap();
        }
    });
    let (pointers, content) = (first_block(&made, "/pointers"), first_block(&made, "/content"));
    let mut commands = String::new();
    for number in 0..1500 {
        commands += &format!("sif /f{number} block[IND] {pointers}\nsif /f{number} size 200000\n");
    }
    made.debugfs(&commands);
    let mut image = made.image();
    for index in 0..256 {
        // Every other block: none adjoins the one before.
        put(&mut image, pointers as usize * 1024 + index * 4, content + 2 * (index as u32 % 250));
    }
    for index in 250..256 {
        put(&mut image, pointers as usize * 1024 + index * 4, 0);
    }
    let given = to_the_limit(&image);
    let most = 4 * (4096 + 2048) + 4096;
    assert!(given.extents <= most, "{} extents, at most {most}", given.extents);
}

#[test]
fn inodes_that_share_attributes_give_no_more_bytes_than_the_volume_has() {
    if !tools() {
        return;
    }
    let mkfs = ["-t", "ext4", "-b", "65536", "-O", "^metadata_csum", "-N", "2048"];
    let made = Made::new(&mkfs, "32M", |top| {
        for number in 0..1000 {
            fs::write(top.join(format!("f{number}")), "").unwrap();
        }
    });
    fs::write(made.dir.path().join("value"), noise(60_000, 5)).unwrap();
    made.debugfs("ea_set -f value /f0 user.large\n");
    let text = made.debugfs("stat /f0\n");
    let (_, acl) = text.split_once("File ACL: ").unwrap();
    let acl: u32 = acl.split_whitespace().next().unwrap().parse().unwrap();
    let links = (1..1000).map(|number| format!("sif /f{number} file_acl {acl}\n"));
    made.debugfs(&links.collect::<String>());
    let image = made.image();
    let given = to_the_limit(&image);
    let most = image.0.len() as u64 + (16 << 20);
    assert!(given.attribute_bytes <= most, "{} bytes, at most {most}", given.attribute_bytes);
}
