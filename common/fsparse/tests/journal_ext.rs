//! Journals of whole file systems, written by debugfs.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::{collections::BTreeMap, fs, process::Command};

use support::{
    Image, Tree, content,
    made::{Made, noise, tools},
    walk,
};
use umbra_fsparse::{
    Error, FileType, InodeNumber,
    ext::{Ext, Journal},
};

fn clean_walk(image: &Image) -> Tree {
    let tree = walk(&Ext::open(image, Journal::Replay).unwrap());
    assert_eq!(tree.warnings, []);
    tree
}

fn contents(image: &Image, tree: &Tree) -> BTreeMap<String, Vec<u8>> {
    let files = tree.paths().into_iter().filter(|(_, number)| is_file(tree, *number));
    files.map(|(path, number)| (path, content(image, &tree.inodes[&number]))).collect()
}

fn is_file(tree: &Tree, number: InodeNumber) -> bool {
    tree.inodes[&number].file_type == FileType::File
}

fn block(image: &Image, number: usize) -> &[u8] {
    &image.0[number * 1024..(number + 1) * 1024]
}

/// Returns the numbers of the blocks in which two images differ.
fn differing(one: &Image, other: &Image) -> Vec<usize> {
    (0..one.0.len() / 1024).filter(|&at| block(one, at) != block(other, at)).collect()
}

/// The kernel makes a mounted file system longer through the journal: the superblock on the disk
/// still has the old length, and what stands beyond it counts.
#[test]
fn a_file_system_that_grew_in_the_journal_alone() {
    if !tools() {
        return;
    }
    for mkfs in [&["-t", "ext4", "-b", "1024"][..], &["-t", "ext3", "-b", "1024", "-I", "128"]] {
        let made = Made::new(mkfs, "8M", |top| {
            fs::write(top.join("old"), noise(3000, 1)).unwrap();
        });
        let path = made.dir.path().join("image");
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).arg(&path).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        fs::File::options().write(true).open(&path).unwrap().set_len(24 << 20).unwrap();
        let before = made.image();
        run("resize2fs", &["-f"]);
        // More than the old length holds, so that new files have inodes and blocks beyond it.
        let mut commands = String::new();
        for number in 0..10 {
            let name = format!("new{number}");
            fs::write(made.dir.path().join(&name), noise(1 << 20, number)).unwrap();
            commands += &format!("write {name} {name}\n");
        }
        made.debugfs(&commands);
        run("e2fsck", &["-fp"]);
        let after = made.image();
        let expected = contents(&after, &clean_walk(&after));
        assert_eq!(expected.len(), 11);

        // Content goes home at once; all else that changed is in the journal.
        let tree = clean_walk(&after);
        let mut image = Image(before.0.clone());
        let files = tree.inodes.values().filter(|inode| inode.file_type == FileType::File);
        for extent in files.flat_map(|inode| &inode.extents) {
            let start = usize::try_from(extent.volume.start().0).unwrap();
            let end = usize::try_from(extent.volume.end().0).unwrap();
            image.0[start..end].copy_from_slice(&after.0[start..end]);
        }
        let changed = differing(&image, &after);
        assert!(changed.iter().any(|&number| number > 8192) && changed.len() < 900);
        let bytes = changed.iter().flat_map(|&number| block(&after, number));
        fs::write(made.dir.path().join("blocks"), bytes.copied().collect::<Vec<u8>>()).unwrap();
        let list: Vec<String> = changed.iter().map(ToString::to_string).collect();
        // debugfs writes no block beyond the end, so it gets the long file system.
        made.debugfs(&format!("jo\njw -b {} blocks\njc\n", list.join(",")));
        let written = made.image();
        for number in differing(&after, &written).into_iter().filter(|&number| number != 1) {
            let at = number * 1024;
            image.0[at..at + 1024].copy_from_slice(block(&written, number));
        }
        fs::write(&path, &image.0).unwrap();
        made.debugfs("feature needs_recovery\n");

        let image = made.image();
        let ext = Ext::open(&image, Journal::Replay).unwrap();
        assert!(ext.needs_recovery());
        assert_eq!(ext.len().0, 24 << 20, "{mkfs:?}");
        assert!(contents(&image, &clean_walk(&image)) == expected, "{mkfs:?}");
    }
}

/// What stands in the block's own place is out of date, and so is what an inode there says.
#[test]
fn a_damaged_copy_in_the_journal_costs_what_it_holds() {
    if !tools() {
        return;
    }
    let made = Made::new(&["-t", "ext4", "-b", "1024"], "16M", |top| {
        fs::write(top.join("file"), noise(10 * 1024, 6)).unwrap();
        fs::write(top.join("other"), noise(1024, 7)).unwrap();
    });
    let tree = clean_walk(&made.image());
    let block = tree.at("file").extents[0].volume.start().0 / 1024 + 3;
    let replaced = noise(1024, 8);
    fs::write(made.dir.path().join("new"), &replaced).unwrap();
    made.debugfs(&format!("jo -c\njw -b {block} new\njc\n"));
    let mut image = made.image();
    let file = content(&image, clean_walk(&image).at("file"));
    assert!(file[3 * 1024..4 * 1024] == replaced);

    let copy = image.0.windows(1024).position(|bytes| bytes == replaced).unwrap();
    image.0[copy + 77] ^= 1;
    let tree = walk(&Ext::open(&image, Journal::Replay).unwrap());
    let paths = tree.paths();
    assert!(!paths.contains_key("file") && paths.contains_key("other"));
    let reasons: Vec<String> = tree.warnings.iter().map(|w| w.error.to_string()).collect();
    assert!(reasons.len() == 2, "{reasons:?}");
    assert!(reasons[0].contains("its checksum does not hold"), "{reasons:?}");
    assert!(reasons[1].contains("newest copy of its content is damaged"), "{reasons:?}");
}

#[test]
fn a_journal_that_is_no_file_is_refused() {
    if !tools() {
        return;
    }
    let made = Made::new(&["-t", "ext4", "-b", "1024"], "16M", |top| {
        fs::write(top.join("file"), noise(1024, 6)).unwrap();
    });
    fs::write(made.dir.path().join("new"), noise(1024, 8)).unwrap();
    made.debugfs("jo\njw -b 9000 new\njc\n");
    made.debugfs("sif <8> mode 0040700\n");
    let image = made.image();
    let error = Ext::open(&image, Journal::Replay).err();
    assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
}
