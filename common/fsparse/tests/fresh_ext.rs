//! The ext parser on images made by e2fsprogs on the spot, without root.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::{
    cell::Cell,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use support::{
    Image, Tree, content,
    made::{Made, noise, tools},
    walk,
};
use tempfile::TempDir;
use umbra_fsparse::{
    ByteLen, ByteOffset, ByteRange, Codec, DeviceNumber, Error, ExtentKind, FileType, Inode,
    InodeNumber, ReadAt, ReadError, Timestamp, Visitor, Warning,
    ext::{Ext, Journal},
};
use umbra_walkdiff::made::{VARIANTS, Variant};

fn make_tree(top: &Path) {
    for (number, size) in [0, 1, 59, 60, 61, 1023, 4096, 4097, 70_000, 5_000_000].iter().enumerate()
    {
        fs::write(top.join(format!("f{size}")), noise(*size, number as u32 + 7)).unwrap();
    }
    // Every other block: more extents than one leaf holds.
    let mut holes = Vec::new();
    for block in 0..1500u32 {
        holes.extend(if block % 2 == 0 { noise(4096, block + 100) } else { vec![0; 4096] });
    }
    fs::write(top.join("holes"), &holes).unwrap();
    let sparse = fs::File::create(top.join("far")).unwrap();
    sparse.set_len(3 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(3000, 5), 2 << 30).unwrap();
    for len in [1, 59, 60, 61, 200, 1000] {
        symlink("s".repeat(len), top.join(format!("link{len}"))).unwrap();
    }
    fs::hard_link(top.join("f4097"), top.join("hard")).unwrap();
    fs::create_dir(top.join("many")).unwrap();
    for number in 0..700 {
        fs::write(top.join(format!("many/{number}-{}", "n".repeat(number % 60))), "").unwrap();
    }
    fs::create_dir_all(top.join("a/b/c/d/e")).unwrap();
    fs::set_permissions(top.join("a/b"), fs::Permissions::from_mode(0o1751)).unwrap();
}

fn clean_walk(image: &Image) -> Tree {
    let tree = walk(&Ext::open(image, Journal::Replay).unwrap());
    assert_eq!(tree.warnings, []);
    assert_eq!(tree.order_errors, Vec::<String>::new());
    assert!(tree.summary.complete);
    tree
}

#[test]
fn trees_come_back_as_they_were_written() {
    if !tools() {
        return;
    }
    // With inline_data mke2fs 1.47 forgets the hole that a file ends with, and so its size (the
    // kernel reads what we read): `kernel_ext` has those kinds.
    let whole = |variant: &&Variant| !variant.mkfs.iter().any(|arg| arg.contains("inline_data"));
    for variant in VARIANTS.iter().filter(whole) {
        let mkfs = variant.name;
        let made = Made::new(variant.mkfs, "64M", make_tree);
        let image = made.image();
        let tree = clean_walk(&image);
        let source = made.dir.path().join("tree");
        let mut count = 0;
        for (path, number) in tree.paths() {
            if path == "lost+found" {
                continue;
            }
            count += 1;
            let inode = &tree.inodes[&number];
            let place = source.join(&path);
            let theirs = fs::symlink_metadata(&place).unwrap_or_else(|_| panic!("{path}"));
            if !path.is_empty() {
                assert_eq!(u32::from(inode.mode), theirs.mode() & 0o7777, "{mkfs:?} {path}");
                assert_eq!(inode.mtime.seconds, theirs.mtime(), "{mkfs:?} {path}");
                assert_eq!((inode.uid, inode.gid), (theirs.uid(), theirs.gid()), "{path}");
            }
            if theirs.is_dir() {
                assert_eq!(inode.file_type, FileType::Dir);
            } else if theirs.is_symlink() {
                let target = fs::read_link(&place).unwrap();
                assert_eq!(inode.target.as_deref(), Some(target.as_os_str().as_encoded_bytes()));
            } else if path == "far" {
                assert_eq!(inode.size.0, theirs.len(), "{mkfs} {path}");
                let sum: u64 = inode.extents.iter().map(|e| e.volume.len().0).sum();
                assert!(sum <= 131_072, "{mkfs:?}: {sum}");
                let bytes = content_from(&image, inode, 2 << 30, 3000);
                assert!(bytes == noise(3000, 5), "{mkfs:?} {path}");
            } else {
                assert_eq!(u64::from(inode.nlink), theirs.nlink());
                assert!(content(&image, inode) == fs::read(&place).unwrap(), "{mkfs:?} {path}");
            }
        }
        assert_eq!(count, 700 + 10 + 2 + 6 + 1 + 1 + 5 + 1, "{mkfs:?}");
    }
}

/// Returns a part of the content that lies in one extent.
fn content_from(image: &Image, inode: &Inode, at: u64, len: usize) -> Vec<u8> {
    let within = |e: &&umbra_fsparse::Extent| {
        e.logical.0 <= at && at + len as u64 <= e.logical.0 + e.volume.len().0
    };
    let extent = inode.extents.iter().find(within).unwrap();
    let start = (extent.volume.start().0 + at - extent.logical.0) as usize;
    image.0[start..start + len].to_vec()
}

#[test]
fn extents_are_those_of_debugfs() {
    if !tools() {
        return;
    }
    for mkfs in [&["-t", "ext4", "-b", "1024"][..], &["-t", "ext4", "-b", "4096"]] {
        let made = Made::new(mkfs, "64M", make_tree);
        made.debugfs("fallocate /f70000 100 300\nfallocate /f0 5 9\n");
        let image = made.image();
        let tree = clean_walk(&image);
        let block_size = Ext::open(&image, Journal::Replay).unwrap().block_size().0;
        let mut unwritten = 0;
        let mut deepest = 0;
        for path in ["holes", "f70000", "f5000000", "f0", "many"] {
            let text = made.debugfs(&format!("ex /{path}\n"));
            let (theirs, depth) = leaves(&text, block_size);
            deepest = deepest.max(depth);
            let rows = tree.at(path).extents.iter().map(|e| {
                (e.logical.0, e.volume.start().0, e.volume.len().0, e.kind == ExtentKind::Unwritten)
            });
            let ours = join(rows.collect());
            assert_eq!(ours, join(theirs), "{mkfs:?} {path}");
            unwritten += ours.iter().filter(|row| row.3).count();
        }
        assert!(unwritten >= 2, "{unwritten}");
        assert!(deepest >= 1, "no extent tree of more than one level");
    }
}

type Row = (u64, u64, u64, bool);

fn join(rows: Vec<Row>) -> Vec<Row> {
    let mut joined: Vec<Row> = Vec::new();
    for row in rows {
        match joined.last_mut() {
            Some(last)
                if last.0 + last.2 == row.0 && last.1 + last.2 == row.1 && last.3 == row.3 =>
            {
                last.2 += row.2;
            }
            _ => joined.push(row),
        }
    }
    joined
}

/// Parses the leaves of `debugfs ex`: level, entry, logical first - last, physical first - last,
/// length, flags.
fn leaves(text: &str, block_size: u64) -> (Vec<Row>, u64) {
    let mut rows = Vec::new();
    let mut depth = 0;
    for line in text.lines().filter(|line| line.contains('-') && line.contains('/')) {
        let spaced = line.replace(['/', '-'], " ");
        let mut words = spaced.split_whitespace();
        let Some(Ok(level)) = words.next().map(str::parse::<u64>) else { continue };
        let numbers: Vec<u64> = words.clone().map_while(|word| word.parse().ok()).collect();
        let &[levels, _, _, first, _, physical, _, len] = &numbers[..] else { continue };
        depth = depth.max(levels);
        if level == levels {
            let unwritten = line.contains("Uninit");
            rows.push((first * block_size, physical * block_size, len * block_size, unwritten));
        }
    }
    (rows, depth)
}

#[test]
fn metadata_that_only_debugfs_can_set() {
    if !tools() {
        return;
    }
    let mkfs = [
        "-t",
        "ext4",
        "-b",
        "1024",
        "-O",
        "project,ea_inode",
        "-L",
        "label of ours",
        "-U",
        "01234567-89ab-cdef-0123-456789abcdef",
    ];
    let made = Made::new(&mkfs, "64M", |top| {
        fs::write(top.join("file"), "x").unwrap();
    });
    fs::write(made.dir.path().join("large"), noise(1024, 3)).unwrap();
    fs::write(made.dir.path().join("middle"), noise(700, 4)).unwrap();
    made.debugfs(
        "mknod old b 8 1\nmknod new c 1 1\nmknod fifo p\n\
         sif /new block[0] 0\nsif /new block[1] 0x11112c70\n\
         ea_set -f large /file user.large\n\
         ea_set -f middle /file user.middle\n\
         ea_set /file security.selinux label\n\
         sif /file mtime @0x80000000\nsif /file mtime_extra 20\n\
         sif /file ctime @0xffffffff\nsif /file ctime_extra 0\n\
         sif /file crtime @0\nsif /file crtime_extra 0xee6b27ff\n\
         sif /file projid 77\nsif /file uid 4000000001\nsif /file gid 70001\n\
         sif /file generation 12345\n",
    );
    let image = made.image();
    let ext = Ext::open(&image, Journal::Replay).unwrap();
    assert_eq!(ext.label(), b"label of ours");
    assert_eq!(ext.uuid()[..4], [1, 0x23, 0x45, 0x67]);
    assert_eq!((ext.kind(), ext.block_size().0, ext.len().0), ("ext4", 1024, 64 << 20));
    let tree = clean_walk(&image);
    let rdev = |path| tree.at(path).rdev;
    assert_eq!(rdev("old"), Some(DeviceNumber { major: 8, minor: 1 }));
    assert_eq!(rdev("new"), Some(DeviceNumber { major: 300, minor: 70000 }));
    assert_eq!(tree.at("fifo").file_type, FileType::Fifo);
    let file = tree.at("file");
    assert_eq!(file.ctime, Timestamp { seconds: -1, nanos: 0 });
    assert_eq!(file.mtime, Timestamp { seconds: -0x8000_0000, nanos: 5 });
    assert_eq!(file.crtime, Some(Timestamp { seconds: 3 << 32, nanos: 999_999_999 }));
    assert_eq!((file.project, file.uid, file.gid), (77, 4_000_000_001, 70001));
    assert_eq!(file.generation, 12345);
    let xattr = |name: &str| {
        let found = file.xattrs.iter().find(|xattr| xattr.name == name.as_bytes());
        found.map(|xattr| xattr.value.clone()).unwrap_or_default()
    };
    // debugfs reads one block of it, and gives it an inode of its own.
    assert!(xattr("user.large") == noise(1024, 3));
    assert!(xattr("user.middle") == noise(700, 4));
    assert_eq!(xattr("security.selinux"), b"label");
}

#[test]
fn a_swap_partition_is_no_ext_and_a_journal_device_is_unsupported() {
    if !tools() {
        return;
    }
    let image = Image(vec![0; 1 << 20]);
    let error = Ext::open(&image, Journal::Replay).err();
    assert!(matches!(error, Some(Error::NotFound { .. })));
    let image = Image(vec![0; 100]);
    let error = Ext::open(&image, Journal::Replay).err();
    assert!(matches!(error, Some(Error::NotFound { .. })));

    let dir = TempDir::new().unwrap();
    let path = dir.path().join("image");
    let status = Command::new("mke2fs")
        .args(["-q", "-F", "-O", "journal_dev", "-b", "1024"])
        .arg(&path)
        .arg("8M")
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let image = Image(fs::read(&path).unwrap());
    let error = Ext::open(&image, Journal::Replay).err();
    assert!(matches!(error, Some(Error::Unsupported { .. })), "{error:?}");
}

/// Counts what a walk gives.
#[derive(Default)]
struct Counter {
    inodes: u64,
    entries: u64,
    extents: u64,
    warnings: u64,
}

impl Visitor for Counter {
    fn inode(&mut self, inode: Inode) {
        self.inodes += 1;
        self.extents += inode.extents.len() as u64;
    }

    fn entry(&mut self, _: InodeNumber, _: &[u8], _: InodeNumber) {
        self.entries += 1;
    }

    fn warning(&mut self, warning: Warning) {
        println!("{warning:?}");
        self.warnings += 1;
    }
}

/// A file that counts what is read of it.
struct File(fs::File, Cell<u64>);

impl ReadAt for File {
    fn len(&self) -> ByteLen {
        ByteLen(self.0.metadata().unwrap().len())
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let range = ByteRange::new(offset, ByteLen(buf.len() as u64)).unwrap_or_default();
        self.1.set(self.1.get() + buf.len() as u64);
        std::os::unix::fs::FileExt::read_exact_at(&self.0, buf, offset.0)
            .map_err(|_| ReadError::Unreadable(range))
    }
}

/// Times the walk of the image that UMBRA_EXT_IMAGE names.
#[test]
#[ignore = "a measurement: UMBRA_EXT_IMAGE=FILE cargo test ... -- --ignored --nocapture"]
fn walk_of_a_large_image() {
    let path = std::env::var_os("UMBRA_EXT_IMAGE").unwrap();
    let file = File(fs::File::open(path).unwrap(), Cell::new(0));
    let start = std::time::Instant::now();
    let ext = Ext::open(&file, Journal::Replay).unwrap();
    let mut counter = Counter::default();
    let summary = ext.walk(&mut counter).unwrap();
    let Counter { inodes, entries, extents, warnings } = counter;
    println!(
        "{inodes} inodes, {entries} entries, {extents} extents, {warnings} warnings, {} MiB read, \
         {:?}",
        file.1.get() >> 20,
        start.elapsed()
    );
    assert!(summary.complete);
}

#[test]
fn content_that_stands_in_the_journal_alone() {
    if !tools() {
        return;
    }
    let made = Made::new(&["-t", "ext4", "-b", "1024"], "16M", |top| {
        fs::write(top.join("file"), noise(10 * 1024, 6)).unwrap();
    });
    let before = made.image();
    let extents = clean_walk(&before).at("file").extents.clone();
    assert_eq!(extents.len(), 1, "one run of ten blocks");
    let first = extents[0].volume.start().0 / 1024;
    // Blocks 3, 4 and 7 of the file; block 4 begins with the magic that the journal escapes.
    let mut replaced = noise(3 * 1024, 8);
    replaced[1024..1028].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
    fs::write(made.dir.path().join("new"), &replaced).unwrap();
    let list = format!("{},{},{}", first + 3, first + 4, first + 7);
    made.debugfs(&format!("jo\njw -b {list} new\njc\n"));

    let image = made.image();
    let ext = Ext::open(&image, Journal::Replay).unwrap();
    assert!(ext.needs_recovery());
    assert_eq!(ext.replayed_blocks(), 3);
    let tree = clean_walk(&image);
    let mut expected = noise(10 * 1024, 6);
    expected[3 * 1024..5 * 1024].copy_from_slice(&replaced[..2048]);
    expected[7 * 1024..8 * 1024].copy_from_slice(&replaced[2048..]);
    let file = tree.at("file");
    assert!(content(&image, file) == expected);
    let rows: Vec<_> = file
        .extents
        .iter()
        .map(|e| (e.logical.0 / 1024, e.volume.len().0 / 1024, e.codec))
        .collect();
    let plain = Codec::None;
    assert_eq!(
        rows,
        [
            (0, 3, plain),
            (3, 1, plain),
            (4, 1, Codec::Jbd2Escaped),
            (5, 2, plain),
            (7, 1, plain),
            (8, 2, plain)
        ]
    );
    let ignoring = walk(&Ext::open(&image, Journal::Ignore).unwrap());
    assert!(content(&image, ignoring.at("file")) == noise(10 * 1024, 6));
}
