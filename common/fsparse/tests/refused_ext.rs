//! What the kernel refuses or does not show, and what it shows though it looks odd.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::{fs, os::unix::fs::symlink};

use support::{
    Image, Tree,
    made::{Made, noise, tools},
    walk,
};
use umbra_fsparse::ext::{Ext, Journal};

const CHECKED: &[&str] = &["-t", "ext4", "-b", "1024"];

fn open_and_walk(image: &Image) -> Tree {
    walk(&Ext::open(image, Journal::Replay).unwrap())
}

fn reasons(tree: &Tree) -> Vec<String> {
    tree.warnings.iter().map(|warning| warning.error.to_string()).collect()
}

fn small() -> Made {
    Made::new(CHECKED, "4M", |top| {
        fs::create_dir_all(top.join("dir/inner")).unwrap();
        fs::write(top.join("dir/file"), noise(3000, 1)).unwrap();
        fs::write(top.join("file"), noise(3000, 2)).unwrap();
        fs::hard_link(top.join("file"), top.join("hard")).unwrap();
        symlink("target", top.join("link")).unwrap();
        symlink("t".repeat(200), top.join("long")).unwrap();
    })
}

/// Without the key the bytes are no content and no target: files keep their extents and their
/// flag, links have no target. Names that no encryption makes are damage.
#[test]
fn what_says_that_it_is_encrypted_is_no_content() {
    if !tools() {
        return;
    }
    let all: Vec<String> = open_and_walk(&small().image()).paths().into_keys().collect();
    let extents = open_and_walk(&small().image()).at("file").extents.clone();
    for (commands, path) in [
        ("sif /file flags 0x80800\n", "hard"),
        ("sif /link flags 0x800\n", "link"),
        ("sif /long flags 0x80800\n", "long"),
    ] {
        let made = small();
        made.debugfs(commands);
        let tree = open_and_walk(&made.image());
        assert_eq!((reasons(&tree), tree.summary.complete), (Vec::new(), true));
        assert_eq!(tree.paths().into_keys().collect::<Vec<_>>(), all);
        let inode = tree.at(path);
        assert_eq!((inode.flags & 0x800, &inode.target), (0x800, &None), "{path}");
        match path {
            "hard" => assert_eq!(inode.extents, extents),
            "long" => assert_eq!(inode.extents.len(), 1),
            _ => assert_eq!(inode.extents, []),
        }
    }
    let made = small();
    made.debugfs("sif /dir flags 0x80800\n");
    let tree = open_and_walk(&made.image());
    let reason = "a name too short to be encrypted";
    assert!(reasons(&tree).iter().all(|found| found.contains(reason)), "{:?}", reasons(&tree));
    assert_eq!((reasons(&tree).len(), tree.summary.complete), (2, false));
    assert!(tree.find("dir/file").is_none() && tree.find("dir/inner").is_none());
}

/// `ext4_valid_extent_entries`, and e2fsck: such a tree is not read as it was written.
#[test]
fn a_node_that_starts_elsewhere_than_its_parent_says_is_refused() {
    if !tools() {
        return;
    }
    let mkfs = ["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"];
    let make = || {
        Made::new(&mkfs, "4M", |top| {
            let holes: Vec<u8> = (0..400u32)
                .flat_map(|n| if n % 2 == 0 { noise(1024, n + 9) } else { vec![0; 1024] })
                .collect();
            fs::write(top.join("holes"), holes).unwrap();
        })
    };
    let made = make();
    assert_eq!(reasons(&open_and_walk(&made.image())), Vec::<String>::new());
    // The root's second entry: its first word is the block of content where its child begins.
    let text = made.debugfs("ex /holes\n");
    let second = text.lines().find(|line| line.trim_start().starts_with("0/ 1   2/"));
    let start: u32 = second.unwrap().split_whitespace().nth(4).unwrap().parse().unwrap();
    for (wrong, reason) in
        [(start - 1, "starts elsewhere"), (start - 20, "reaches into another node's content")]
    {
        let made = make();
        made.debugfs(&format!("sif /holes block[6] {wrong}\n"));
        let tree = open_and_walk(&made.image());
        let reasons = reasons(&tree);
        assert!(reasons.len() == 1 && reasons[0].contains(reason), "{reasons:?}");
        assert!(!tree.paths().contains_key("holes"));
    }
}

/// `ext4_xattr_inode_get`: nothing else has a checksum of the value.
#[test]
fn a_large_attribute_that_fails_its_checksum_is_left_out() {
    if !tools() {
        return;
    }
    let made = Made::new(&["-t", "ext4", "-b", "1024", "-O", "ea_inode"], "8M", |top| {
        fs::write(top.join("file"), "x").unwrap();
    });
    let value = noise(1000, 3);
    fs::write(made.dir.path().join("large"), &value).unwrap();
    made.debugfs("ea_set -f large /file user.large\nea_set /file user.small tiny\n");
    let mut image = made.image();
    let tree = open_and_walk(&image);
    assert_eq!(reasons(&tree), Vec::<String>::new());
    let found = tree.at("file").xattrs.iter().find(|xattr| xattr.name == b"user.large");
    assert!(found.unwrap().value == value);

    let at = image.0.windows(value.len()).position(|bytes| bytes == value).unwrap();
    assert_eq!(at % 1024, 0, "the value has a block of its own");
    image.0[at + 500] ^= 1;
    let tree = open_and_walk(&image);
    let reasons = reasons(&tree);
    assert!(reasons.len() == 1 && reasons[0].contains("checksum of the value"), "{reasons:?}");
    let names: Vec<&[u8]> = tree.at("file").xattrs.iter().map(|xattr| &xattr.name[..]).collect();
    assert_eq!(names, [b"user.small"]);
}

/// `ext4_inode_csum_verify`: inodes have checksums in the file systems of Linux only.
#[test]
fn inodes_of_other_creators_have_no_checksum() {
    if !tools() {
        return;
    }
    let made = small();
    made.debugfs("ssv creator_os 3\nsif /file mtime @0x12345678\n");
    let mut image = made.image();
    // debugfs writes the checksum all the same: it must not hold.
    let bytes = 0x1234_5678_u32.to_le_bytes();
    let at = image.0.windows(4).position(|window| window == bytes).unwrap();
    image.0[at] = 0x79;
    let tree = open_and_walk(&image);
    assert_eq!(reasons(&tree), Vec::<String>::new());
    assert_eq!(tree.at("file").mtime.seconds, 0x1234_5679);
}

/// `ext4_iget`: it takes the room for fields, and looks for no attributes behind them.
#[test]
fn an_inode_that_declares_no_fields_has_no_attributes_inside() {
    if !tools() {
        return;
    }
    let made = small();
    made.debugfs("ea_set /file user.small tiny\n");
    assert_eq!(open_and_walk(&made.image()).at("file").xattrs.len(), 1);
    made.debugfs("sif /file extra_isize 0\n");
    let tree = open_and_walk(&made.image());
    assert_eq!(reasons(&tree), Vec::<String>::new());
    assert_eq!(tree.at("file").xattrs, []);
}
