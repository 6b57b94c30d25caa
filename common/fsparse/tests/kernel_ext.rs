//! The ext parser against the kernel's mount of images made on the spot.
//!
//! Each image is copied while writers have it mounted: the parser reads it as it is, the kernel
//! recovers and mounts a copy. Needs root and loop devices; says so and passes without.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod dirty_image;
mod support;

use std::process::Command;

use dirty_image::{Dirty, Image, Mount, Variant, make, run, skip_reason, sync};
use support::{
    compare::{Places, compare_tree},
    kernel_tree, walk,
};
use umbra_fsparse::{
    Codec,
    ext::{Ext, Journal},
};

const DIRTY: &[Variant] = &[
    Variant { name: "default 4k", mkfs: &["-t", "ext4", "-b", "4096"], mount: "rw" },
    Variant { name: "default 1k", mkfs: &["-t", "ext4", "-b", "1024"], mount: "rw" },
    Variant { name: "ext3 2k", mkfs: &["-t", "ext3", "-b", "2048"], mount: "rw" },
    Variant {
        name: "uninit_bg, 128-byte inodes",
        mkfs: &["-t", "ext4", "-O", "^metadata_csum,uninit_bg", "-I", "128"],
        mount: "rw",
    },
    Variant {
        name: "inline data, data=journal",
        mkfs: &["-t", "ext4", "-b", "4096", "-O", "inline_data", "-I", "512"],
        mount: "data=journal",
    },
    Variant { name: "data=journal 1k", mkfs: &["-t", "ext4", "-b", "1024"], mount: "data=journal" },
    Variant { name: "meta_bg", mkfs: &["-t", "ext4", "-O", "meta_bg,^resize_inode"], mount: "rw" },
];

const CLEAN: &[Variant] = &[
    Variant { name: "ext2", mkfs: &["-t", "ext2", "-b", "1024"], mount: "rw" },
    Variant {
        name: "bigalloc",
        mkfs: &["-t", "ext4", "-O", "bigalloc", "-C", "16384"],
        mount: "rw",
    },
    Variant {
        name: "bigalloc 1k, meta_bg",
        mkfs: &["-t", "ext4", "-b", "1024", "-O", "bigalloc,meta_bg,^resize_inode"],
        mount: "rw",
    },
    Variant {
        name: "ea_inode, large_dir",
        mkfs: &["-t", "ext4", "-O", "ea_inode,large_dir"],
        mount: "rw",
    },
    Variant { name: "1 KiB inodes", mkfs: &["-t", "ext4", "-I", "1024"], mount: "rw" },
    Variant {
        name: "without dir_index, filetype, 64bit",
        mkfs: &["-t", "ext4", "-O", "^dir_index,^filetype,^64bit,^metadata_csum"],
        mount: "rw",
    },
];

#[test]
fn dirty_images_read_as_the_kernel_recovers_them() {
    if let Some(reason) = skip_reason() {
        println!("SKIPPED: {reason}");
        return;
    }
    let mut escaped = 0;
    for (number, variant) in (1..).zip(DIRTY) {
        let seed = number * 1000;
        let dirty = make(variant, seed, |_| {});
        let image = Image(&dirty.bytes);
        let ext = Ext::open(&image, Journal::Replay).unwrap();
        assert!(ext.needs_recovery() && ext.replayed_blocks() > 20, "{}", variant.name);
        let tree = walk(&ext);
        assert_eq!(tree.warnings, [], "{}", variant.name);
        let (manifest, recovered) = recover(&dirty);
        let (compared, problems) = compare_tree(&image, &tree, &manifest, Places::Journal);
        println!("{}: seed {seed}, {compared:?}", variant.name);
        assert!(problems.is_empty(), "{}:\n{}", variant.name, problems.join("\n"));
        assert!(compared.contents > 100 && compared.xattrs > 50, "{compared:?}");
        let extents = tree.inodes.values().flat_map(|inode| &inode.extents);
        escaped += extents.filter(|extent| extent.codec == Codec::Jbd2Escaped).count();

        // The comparison means something: without the replay it fails.
        let ignoring = Ext::open(&image, Journal::Ignore).unwrap();
        let tree = walk(&ignoring);
        let (_, problems) = compare_tree(&image, &tree, &manifest, Places::Journal);
        assert!(problems.len() > 10, "{}: the same without the journal", variant.name);
        clean(variant, &manifest, &recovered);
    }
    assert!(escaped > 0, "no block of content was escaped in the journal");
}

#[test]
fn rarer_features_read_as_the_kernel_reads_them() {
    if let Some(reason) = skip_reason() {
        println!("SKIPPED: {reason}");
        return;
    }
    for (number, variant) in (1..).zip(CLEAN) {
        let dirty = make(variant, number * 10_000, |mount| {
            if variant.name.starts_with("ea_inode") {
                large_attributes(mount);
            }
            sync(mount);
        });
        let (manifest, recovered) = recover(&dirty);
        clean(variant, &manifest, &recovered);
    }
}

/// Gives a file attributes that need inodes of their own.
fn large_attributes(mount: &Mount) {
    let script = "import os, sys\n\
        open(sys.argv[1], 'w').close()\n\
        for n in (3000, 20000, 65536):\n    \
            os.setxattr(sys.argv[1], f'user.large{n}', os.urandom(n))\n";
    run(Command::new("python3").args(["-c", script]).arg(mount.0.join("large")));
}

/// Compares the image that the kernel recovered, the places of all extents with it.
fn clean(variant: &Variant, manifest: &[serde_json::Value], recovered: &[u8]) {
    let image = Image(recovered);
    let ext = Ext::open(&image, Journal::Replay).unwrap();
    assert!(!ext.needs_recovery(), "{}", variant.name);
    let tree = walk(&ext);
    assert_eq!(tree.warnings, [], "{}", variant.name);
    let (compared, problems) = compare_tree(&image, &tree, manifest, Places::Compared);
    println!("{}: clean, {compared:?}", variant.name);
    assert!(problems.is_empty(), "{}:\n{}", variant.name, problems.join("\n"));
    assert!(compared.extents > 100 && compared.contents > 100, "{compared:?}");
    if variant.name.starts_with("ea_inode") {
        assert_eq!(tree.at("large").xattrs.len(), 3);
    }
}

/// Lets the kernel recover a copy, and returns what it then says, and the copy.
fn recover(dirty: &Dirty) -> (Vec<serde_json::Value>, Vec<u8>) {
    let path = dirty.copy("recovered.img");
    let mount = Mount::new(&path, path.with_extension("mount"), "noatime");
    let manifest = kernel_tree(&mount.0);
    drop(mount);
    (manifest, std::fs::read(path).unwrap())
}
