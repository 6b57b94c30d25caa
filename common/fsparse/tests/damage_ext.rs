//! The ext parser on damaged images: the damage costs what it touches and nothing else.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::Path,
};

use proptest::{
    prelude::*,
    test_runner::{RngSeed, TestRunner},
};
use support::{
    Image, Tree, content,
    made::{Made, noise, tools},
    walk,
};
use umbra_fsparse::{
    ByteLen, ByteOffset, ByteRange, Error, FileType, Inode, InodeNumber, ReadAt, ReadError,
    Visitor, Warning,
    ext::{Ext, Journal},
};

const CHECKED: &[&str] = &["-t", "ext4", "-b", "1024"];
const UNCHECKED: &[&str] = &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"];

fn tree(top: &Path) {
    fs::create_dir_all(top.join("dir/inner")).unwrap();
    fs::write(top.join("dir/inner/deep"), noise(3000, 1)).unwrap();
    fs::write(top.join("dir/other"), noise(5000, 2)).unwrap();
    fs::write(top.join("first"), noise(20_000, 3)).unwrap();
    let holes: Vec<u8> = (0..200u32)
        .flat_map(|n| if n % 2 == 0 { noise(1024, n + 9) } else { vec![0; 1024] })
        .collect();
    fs::write(top.join("holes"), holes).unwrap();
    fs::write(top.join("inlined"), noise(100, 4)).unwrap();
    symlink("short", top.join("short")).unwrap();
    symlink("l".repeat(300), top.join("long")).unwrap();
    fs::hard_link(top.join("first"), top.join("second")).unwrap();
    fs::create_dir(top.join("many")).unwrap();
    for number in 0..40 {
        fs::write(top.join(format!("many/{}-{number}", "n".repeat(50))), "").unwrap();
    }
}

fn open_and_walk(image: &Image) -> Tree {
    walk(&Ext::open(image, Journal::Replay).unwrap())
}

/// Asserts that there is one warning, of this reason, and that only these paths are gone.
fn expect(image: &Image, sound: &BTreeSet<String>, reason: &str, gone: &[&str]) {
    let tree = open_and_walk(image);
    assert!(!tree.summary.complete);
    let reasons: Vec<String> = tree.warnings.iter().map(|w| w.error.to_string()).collect();
    assert!(reasons.len() == 1 && reasons[0].contains(reason), "{reasons:?}, not {reason}");
    let left: BTreeSet<String> = tree.paths().into_keys().collect();
    let missing: Vec<&str> = sound.difference(&left).map(String::as_str).collect();
    assert_eq!(missing, gone);
}

fn paths(image: &Image) -> BTreeSet<String> {
    let tree = open_and_walk(image);
    assert_eq!(tree.warnings, []);
    tree.paths().into_keys().collect()
}

#[test]
fn checksums_find_what_is_damaged() {
    if !tools() {
        return;
    }
    let made = Made::new(CHECKED, "4M", tree);
    let sound = made.image();
    let all = paths(&sound);
    let tree = open_and_walk(&sound);
    let flip = |at: u64| {
        let mut image = Image(sound.0.clone());
        image.0[usize::try_from(at).unwrap()] ^= 0x10;
        image
    };
    let start = |path: &str| tree.at(path).extents[0].volume.start().0;

    // A name in a directory's block: all its names are gone.
    let inner = ["dir/inner", "dir/inner/deep", "dir/other"];
    expect(&flip(start("dir") + 28), &all, "wrong checksum", &inner);
    expect(&flip(start("dir") + 1024 - 5), &all, "checksum is missing", &inner);
    // Content: none of the parser's business.
    assert_eq!(paths(&flip(start("first"))), all);
    // The leaf of an extent tree (the block that debugfs calls ETB0).
    let leaf = number_after(&made.debugfs("stat /holes\n"), "(ETB0):");
    expect(&flip(leaf * 1024 + 100), &all, "wrong checksum", &["holes"]);
    // An inode: both names are gone.
    let table = made.debugfs("imap /first\n");
    let at = number_after(&table, "located at block ") * 1024;
    let within = u64::from_str_radix(table.rsplit("0x").next().unwrap().trim(), 16).unwrap();
    expect(&flip(at + within + 4), &all, "wrong checksum", &["first", "second"]);
    // The superblock and the descriptors.
    let error = Ext::open(&flip(1024 + 0x120), Journal::Replay).err();
    assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
    let image = flip(2048 + 8);
    let ext = Ext::open(&image, Journal::Replay).unwrap();
    assert_eq!(ext.warnings().len(), 1);
    assert!(ext.walk(&mut Checker::new(&image)).is_err(), "the root's inode is out of reach");
}

/// Returns the number after `mark`.
fn number_after(text: &str, mark: &str) -> u64 {
    let (_, rest) = text.split_once(mark).unwrap_or_else(|| panic!("no {mark} in {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn structures_that_contradict_each_other() {
    if !tools() {
        return;
    }
    let all = paths(&Made::new(CHECKED, "4M", tree).image());
    let table = {
        let made = Made::new(CHECKED, "4M", tree);
        number_after(&made.debugfs("imap <2>\n"), "located at block ")
    };
    let steals = format!("sif /dir/other block[5] {table}\n");
    let cases: &[(&str, &str, &[&str])] = &[
        ("sif /first links_count 0\n", "not in use", &["first", "second"]),
        ("sif /dir/other mode 0\n", "unknown file type", &["dir/other"]),
        ("sif /dir/other block[5] 4000000\n", "past the end", &["dir/other"]),
        (&steals, "own structures", &["dir/other"]),
        ("sif /dir/other block[0] 0\n", "no extent header", &["dir/other"]),
        ("sif /dir/other block[4] 0\n", "an empty extent", &["dir/other"]),
        ("sif /dir/other size 0x8000000000000000\n", "negative size", &["dir/other"]),
        ("sif /short size 0\n", "absurd length", &["short"]),
        ("sif /short size 4\nsif /short block[0] 0\n", "NUL", &["short"]),
        ("sif /long size 1025\n", "absurd length", &["long"]),
        ("link <2> /dir/loop\n", "a second name", &[]),
        ("link <8> /dir/journal\n", "reserved inode", &[]),
        ("link /dir /many/again\n", "a second name", &[]),
        ("sif /dir size 2048\n", "a part of the directory is missing", &[]),
        (
            "sif /dir/other flags 0x10080000\n",
            "which the superblock does not allow",
            &["dir/other"],
        ),
        ("sif /dir/other extra_isize 200\n", "absurd size of its extra", &["dir/other"]),
    ];
    for (commands, reason, gone) in cases {
        let made = Made::new(CHECKED, "4M", tree);
        made.debugfs(commands);
        println!("{commands}");
        expect(&made.image(), &all, reason, gone);
    }
}

#[test]
fn a_block_map_that_leads_into_itself_costs_one_file() {
    if !tools() {
        return;
    }
    let made = Made::new(&["-t", "ext2", "-b", "1024"], "4M", tree);
    let all = paths(&made.image());
    for (word, reason) in [("TIND", "twice"), ("DIND", "twice"), ("IND", "share a block")] {
        let made = Made::new(&["-t", "ext2", "-b", "1024"], "4M", tree);
        let block = open_and_walk(&made.image()).at("dir/other").extents[0].volume.start().0;
        made.debugfs(&format!("sif /dir/other block[{word}] {}\n", block / 1024));
        let mut image = made.image();
        let pointers = u32::try_from(block / 1024).unwrap().to_le_bytes().repeat(256);
        let start = usize::try_from(block).unwrap();
        image.0[start..start + 1024].copy_from_slice(&pointers);
        let volume = Counting { bytes: &image.0, read: Cell::new(0), bad: None };
        let tree = walk(&Ext::open(&volume, Journal::Replay).unwrap());
        let reasons: Vec<String> = tree.warnings.iter().map(|w| w.error.to_string()).collect();
        assert!(reasons.len() == 1 && reasons[0].contains(reason), "{reasons:?}, not {reason}");
        let left: BTreeSet<String> = tree.paths().into_keys().collect();
        assert_eq!(all.difference(&left).collect::<Vec<_>>(), ["dir/other"]);
        assert!(volume.read.get() < 4 << 20);
    }
}

#[test]
fn names_that_no_file_can_have() {
    if !tools() {
        return;
    }
    let made = Made::new(UNCHECKED, "4M", tree);
    let sound = made.image();
    let all = paths(&sound);
    let root = open_and_walk(&sound).at("").extents[0].volume.start().0;
    let root = usize::try_from(root).unwrap();
    let block = &sound.0[root..root + 1024];
    let name = block.windows(5).position(|bytes| bytes == b"holes").unwrap() + root;
    for (at, byte, reason) in [
        (name + 2, b'/', "a name that no file can have"),
        (name + 2, 0, "a name that no file can have"),
        (name - 2, 0, "a name that no file can have"),
        (name - 4, 3, "absurd length of a record"),
        (name - 2, 200, "a name longer than its record"),
    ] {
        let mut image = Image(sound.0.clone());
        image.0[at] = byte;
        let tree = open_and_walk(&image);
        let left: BTreeSet<String> = tree.paths().into_keys().collect();
        assert!(!left.contains("holes") && left.is_subset(&all), "{reason}");
        let reasons: Vec<String> = tree.warnings.iter().map(|w| w.error.to_string()).collect();
        assert!(reasons.len() == 1 && reasons[0].contains(reason), "{reasons:?}, not {reason}");
    }
}

#[test]
fn a_cut_off_volume_gives_what_is_left() {
    if !tools() {
        return;
    }
    let made = Made::new(CHECKED, "16M", |top| {
        tree(top);
        fs::write(top.join("large"), noise(6 << 20, 8)).unwrap();
    });
    let whole = made.image();
    let sound = open_and_walk(&whole);
    for megabytes in [1, 4, 8, 12] {
        let cut = Image(whole.0[..megabytes << 20].to_vec());
        let ext = Ext::open(&cut, Journal::Replay).unwrap();
        assert!(!ext.warnings().is_empty());
        let tree = walk(&ext);
        assert!(!tree.summary.complete);
        for (path, number) in tree.paths() {
            let inode = &tree.inodes[&number];
            if inode.file_type == FileType::Dir {
                continue; // Its blocks may be cut off; the names that are left are worth having.
            }
            assert_eq!(inode, sound.at(&path));
            if inode.file_type == FileType::File {
                assert!(content(&cut, inode) == content(&whole, inode), "{path}");
            }
        }
    }
}

/// A volume that counts the bytes read and fails where it is told to.
struct Counting<'a> {
    bytes: &'a [u8],
    read: Cell<u64>,
    bad: Option<ByteRange>,
}

impl ReadAt for Counting<'_> {
    fn len(&self) -> ByteLen {
        ReadAt::len(self.bytes)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read.set(self.read.get() + buf.len() as u64);
        let wanted = ByteRange::new(offset, ByteLen(buf.len() as u64)).unwrap();
        match self.bad.and_then(|bad| bad.intersection(wanted)) {
            Some(bad) => Err(ReadError::Unreadable(bad)),
            None => self.bytes.read_at(offset, buf),
        }
    }
}

#[test]
fn a_bad_sector_costs_one_directory() {
    if !tools() {
        return;
    }
    let made = Made::new(CHECKED, "4M", tree);
    let image = made.image();
    let all = paths(&image);
    let dir = open_and_walk(&image).at("dir/inner").extents[0].volume;
    let volume = Counting { bytes: &image.0, read: Cell::new(0), bad: Some(dir) };
    let tree = walk(&Ext::open(&volume, Journal::Replay).unwrap());
    assert!(matches!(tree.warnings[..], [Warning { error: Error::Io { .. }, .. }]));
    let left: BTreeSet<String> = tree.paths().into_keys().collect();
    let missing: Vec<&String> = all.difference(&left).collect();
    assert_eq!(missing, ["dir/inner/deep"]);
}

/// Checks every promise of the model while a walk goes on.
struct Checker {
    volume: ByteRange,
    given: BTreeMap<InodeNumber, FileType>,
    named: BTreeSet<InodeNumber>,
    warnings: u64,
}

impl Checker {
    fn new(image: &Image) -> Self {
        let volume = ByteRange::new(ByteOffset(0), ReadAt::len(image)).unwrap();
        Self { volume, given: BTreeMap::new(), named: BTreeSet::new(), warnings: 0 }
    }
}

impl Visitor for Checker {
    fn inode(&mut self, inode: Inode) {
        let mut end = 0;
        for extent in &inode.extents {
            assert!(self.volume.contains(extent.volume), "{extent:?} leaves the volume");
            assert!(!extent.volume.is_empty(), "{extent:?} is empty");
            assert!(extent.logical.0 >= end, "{extent:?} overlaps");
            end = extent.logical.checked_add(extent.volume.len()).unwrap().0;
        }
        assert!(inode.mtime.nanos < 1_000_000_000 && inode.ctime.nanos < 1_000_000_000);
        assert!(inode.xattrs.is_sorted_by(|one, next| one.name < next.name));
        assert!(inode.nlink > 0 && inode.size.0 <= i64::MAX as u64);
        // What an encrypted link leads to is nobody's to tell.
        let encrypted = inode.flags & 0x800 != 0;
        let has_target = inode.file_type == FileType::Symlink && !encrypted;
        assert_eq!(inode.target.is_some(), has_target);
        assert!(self.given.insert(inode.number, inode.file_type).is_none(), "given twice");
    }

    fn entry(&mut self, parent: InodeNumber, name: &[u8], inode: InodeNumber) {
        assert_eq!(self.given.get(&parent), Some(&FileType::Dir));
        assert!(!name.is_empty() && name != b"." && name != b"..");
        assert!(!name.contains(&0) && !name.contains(&b'/'));
        let first = self.named.insert(inode);
        assert!(first || self.given[&inode] != FileType::Dir, "a directory with two names");
        assert!(self.given.contains_key(&inode), "an entry before its inode");
    }

    fn warning(&mut self, _: Warning) {
        self.warnings += 1;
    }
}

/// Bytes to overwrite: place and value.
type Damage = Vec<(prop::sample::Index, u8)>;

fn damage() -> impl Strategy<Value = Damage> {
    let value = prop_oneof![Just(0u8), Just(0xff), Just(1), Just(2), any::<u8>()];
    prop::collection::vec((any::<prop::sample::Index>(), value), 1..24)
}

#[test]
fn random_damage_breaks_no_promise() {
    if !tools() {
        return;
    }
    let seed = match std::env::var("UMBRA_TEST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => 0x6578_7434,
    };
    let cases = std::env::var("UMBRA_TEST_CASES").map_or(1500, |cases| cases.parse().unwrap());
    println!("UMBRA_TEST_SEED={seed} UMBRA_TEST_CASES={cases}");
    let variants: &[&[&str]] = &[
        UNCHECKED,
        CHECKED,
        &["-t", "ext2", "-b", "1024"],
        &["-t", "ext3", "-b", "1024", "-I", "128"],
        &["-t", "ext4", "-b", "1024", "-I", "256", "-O", "^metadata_csum,inline_data,ea_inode"],
    ];
    for mkfs in variants {
        let made = Made::new(&[mkfs, &["-N", "96"][..]].concat(), "2M", |top| {
            tree(top);
            fs::remove_file(top.join("holes")).unwrap();
            let holes: Vec<u8> = (0..900u32)
                .flat_map(|n| if n % 9 == 0 { noise(1024, n + 9) } else { vec![0; 1024] })
                .collect();
            fs::write(top.join("holes"), holes).unwrap();
        });
        fs::write(made.dir.path().join("value"), noise(800, 5)).unwrap();
        made.debugfs("ea_set /dir user.small tiny\nea_set -f value /first user.value\n");
        let image = made.image();
        let places = metadata(&image);
        let config = ProptestConfig {
            cases,
            rng_seed: RngSeed::Fixed(seed),
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let (opened, walked) = (Cell::new(0u32), Cell::new(0u32));
        let checked = TestRunner::new(config).run(&damage(), |damage| {
            let mut bytes = image.0.clone();
            for (place, value) in damage {
                bytes[*place.get(&places)] = value;
            }
            let (did_open, did_walk) = try_all(Image(bytes));
            opened.set(opened.get() + u32::from(did_open));
            walked.set(walked.get() + u32::from(did_walk));
            Ok(())
        });
        checked.unwrap();
        println!("{mkfs:?}: {} of {cases} opened, {} walked", opened.get(), walked.get());
        assert!(opened.get() > cases / 20 && walked.get() > cases / 50, "nothing was tested");
    }
}

/// Returns the places of everything but long stretches of zeros and of content.
fn metadata(image: &Image) -> Vec<usize> {
    let files: Vec<_> = open_and_walk(image)
        .inodes
        .into_values()
        .filter(|inode| inode.file_type == FileType::File)
        .flat_map(|inode| inode.extents)
        .filter(|extent| extent.kind == umbra_fsparse::ExtentKind::Data)
        .collect();
    let of_file = |at: usize| {
        let at = ByteRange::new(ByteOffset(at as u64), ByteLen(1)).unwrap();
        files.iter().any(|extent| extent.volume.contains(at))
    };
    let used = |block: usize| {
        let bytes = &image.0[block * 128..(block + 1) * 128];
        bytes.iter().any(|&byte| byte != 0) && !of_file(block * 128)
    };
    let blocks = (0..image.0.len() / 128).filter(|&block| used(block));
    blocks.flat_map(|block| block * 128..(block + 1) * 128).collect()
}

/// Opens and walks, and says how far that went.
fn try_all(image: Image) -> (bool, bool) {
    let volume = Counting { bytes: &image.0, read: Cell::new(0), bad: None };
    let Ok(ext) = Ext::open(&volume, Journal::Replay) else {
        return (false, false);
    };
    let mut checker = Checker::new(&image);
    let summary = ext.walk(&mut checker);
    if let Ok(summary) = summary {
        assert_eq!(summary.complete, checker.warnings == 0);
        assert!(checker.given.contains_key(&summary.root));
    }
    // 64 KiB for each of the counted steps is the most that the bound allows.
    let steps = 4 * (image.0.len() as u64 / 1024 + image.0.len() as u64 / 128) + 4096;
    assert!(volume.read.get() < steps * 65536);
    (true, summary.is_ok())
}
