//! Free space against e2fsprogs and the kernel: what is called free may hold anything.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use support::{
    Image,
    made::{noise, run, tools},
};
use tempfile::TempDir;
use umbra_fsparse::{
    ByteRange, Inode, InodeNumber, ReadAt, Visitor, Warning,
    ext::{Ext, FreeSpace, Journal},
};
use umbra_walkdiff::{
    kernel::{Mount, skip_reason},
    made::{State, VARIANTS, Variant, make},
};

/// What the kernel changes while it is mounted; the first few always.
const DIRTY: [&str; 6] = ["4k", "uninit-data", "bigalloc-1k", "1k", "ext3-2k", "data-4k"];

/// Collects what a walk uses.
#[derive(Default)]
struct Used(Vec<ByteRange>);

impl Visitor for Used {
    fn inode(&mut self, _: Inode) {}
    fn entry(&mut self, _: InodeNumber, _: &[u8], _: InodeNumber) {}
    fn warning(&mut self, _: Warning) {}
    fn used(&mut self, range: ByteRange) {
        self.0.push(range);
    }
}

fn used_of(exts: &[&Ext<'_>]) -> Vec<ByteRange> {
    let mut used = Used::default();
    for ext in exts {
        // A disk as it stands before its journal's replay may be damaged.
        let _ = ext.walk(&mut used);
    }
    used.0.sort();
    let mut merged: Vec<ByteRange> = Vec::new();
    for range in used.0 {
        match merged.last_mut() {
            Some(last) if range.start() <= last.end() => {
                *last = ByteRange::between(last.start(), last.end().max(range.end())).unwrap();
            }
            _ => merged.push(range),
        }
    }
    merged
}

fn free_of(image: &dyn ReadAt) -> umbra_fsparse::Result<FreeSpace> {
    let ext = Ext::open(image, Journal::Replay)?;
    let before = Ext::open(image, Journal::Ignore)?;
    let before = ext.needs_recovery().then_some(&before);
    let used: Vec<&Ext<'_>> = [Some(&ext), before].into_iter().flatten().collect();
    ext.free_space(before, &used_of(&used))
}

/// Lists the free KiB of the image as dumpe2fs, which replays nothing, prints them.
fn dumpe2fs(image: &Path) -> BTreeSet<u64> {
    // It also prints bitmaps whose checksum is wrong, as before a replay, and fails then.
    let output = Command::new("dumpe2fs").arg(image).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    };
    let (block, cluster) = (number("Block size:"), number("Cluster size:"));
    let last = cluster.max(block) - 1;
    let end = number("Block count:") * block;
    assert!(text.contains("\nGroup 0:"), "{output:?}");
    let mut free = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("  Free blocks: ")) {
        for range in line.split(", ").filter(|range| !range.is_empty()) {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
            free.extend(from * block / 1024..(to * block + last + 1).min(end) / 1024);
        }
    }
    free
}

fn kib(free: &FreeSpace) -> BTreeSet<u64> {
    let of = |range: &ByteRange| range.start().0 / 1024..range.end().0 / 1024;
    free.ranges.iter().flat_map(of).collect()
}

/// Overwrites what is free with bytes that are no zeros and no structure.
fn spoil(bytes: &mut [u8], free: &FreeSpace) {
    for range in &free.ranges {
        bytes[range.start().0 as usize..range.end().0 as usize].fill(0xa5);
    }
}

fn tree(top: &Path) {
    for (number, size) in [0, 1, 100, 1023, 4097, 70_000, 3_000_000].iter().enumerate() {
        fs::write(top.join(format!("f{number}")), noise(*size, number as u32 + 7)).unwrap();
    }
    let mut holes = Vec::new();
    for block in 0..600u32 {
        holes.extend(if block % 2 == 0 { noise(4096, block + 100) } else { vec![0; 4096] });
    }
    fs::write(top.join("holes"), &holes).unwrap();
    std::os::unix::fs::symlink("s".repeat(200), top.join("link")).unwrap();
    fs::create_dir(top.join("many")).unwrap();
    for number in 0..500 {
        fs::write(top.join(format!("many/{number}-{}", "n".repeat(number % 60))), "").unwrap();
    }
}

/// Makes an image of 64 MiB that holds [`tree`].
fn made(dir: &TempDir, mkfs: &[&str]) -> Vec<u8> {
    let (top, path) = (dir.path().join("tree"), dir.path().join("made.img"));
    if !top.exists() {
        fs::create_dir(&top).unwrap();
        tree(&top);
    }
    fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    run(Command::new("mke2fs").args(["-q", "-F"]).args(mkfs).arg("-d").arg(&top).arg(&path));
    fs::read(path).unwrap()
}

#[test]
fn a_clean_file_system_has_the_free_blocks_that_e2fsprogs_lists() {
    if !tools() {
        return;
    }
    let dir = TempDir::new().unwrap();
    for variant in VARIANTS {
        let mkfs = variant.name;
        let image = Image(made(&dir, variant.mkfs));
        let free = free_of(&image).unwrap();
        assert_eq!((free.groups_kept, &free.doubt), (0, &None), "{mkfs:?}");
        let path = dir.path().join("made.img");
        let (ours, theirs) = (kib(&free), dumpe2fs(&path));
        assert!(ours.len() > 20_000, "{mkfs:?}: {} KiB", ours.len());
        let over = ours.difference(&theirs).count();
        let under = theirs.difference(&ours).count();
        assert_eq!((over, under), (0, 0), "{mkfs:?}: KiB more and fewer");

        let mut bytes = image.0;
        spoil(&mut bytes, &free);
        fs::write(&path, bytes).unwrap();
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(&path));
    }
}

#[test]
fn a_bitmap_in_doubt_keeps_its_group() {
    if !tools() {
        return;
    }
    let dir = TempDir::new().unwrap();
    for mkfs in ["1k", "ext2-1k", "uninit-1k"] {
        let mkfs = Variant::named(mkfs).mkfs;
        let image = Image(made(&dir, mkfs));
        let free = free_of(&image).unwrap();
        let path = dir.path().join("made.img");
        let debugfs = |requests: &str| {
            fs::write(&path, &image.0).unwrap();
            let script = dir.path().join("requests");
            fs::write(&script, requests).unwrap();
            run(Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(&path));
            Image(fs::read(&path).unwrap())
        };
        // Used blocks called free, counts and checksums as debugfs leaves them: consistent.
        let stale = debugfs("freeb 1000 3000\n");
        let stale = free_of(&stale).unwrap();
        let more: Vec<u64> = kib(&stale).difference(&kib(&free)).copied().collect();
        assert!(stale.groups_kept > 0 || more.is_empty(), "{mkfs:?}: {more:?}");
        // The group counts another number.
        let counts = debugfs("set_bg 1 free_blocks_count 77\nset_bg 1 checksum calc\n");
        let counts = free_of(&counts).unwrap();
        assert_eq!(counts.groups_kept, 1, "{mkfs:?}");
        assert!(counts.doubt.is_some());
        let group = |kib: &u64| (8193..16385).contains(kib);
        assert_eq!(kib(&counts).iter().filter(|kib| group(kib)).count(), 0, "{mkfs:?}");
        assert!(kib(&counts).is_subset(&kib(&free)));
        // A bitmap at a place that the file system does not have, also where none need be read.
        for number in 0..8 {
            for bitmap in ["block_bitmap", "inode_bitmap"] {
                let request = format!("set_bg {number} {bitmap} 65537\n");
                let forged = debugfs(&format!("{request}set_bg {number} checksum calc\n"));
                let forged = free_of(&forged).unwrap();
                assert!(forged.groups_kept > 0, "{mkfs:?}: {request}");
                let first = 1 + 8192 * number;
                let given = kib(&forged).range(first..first + 8192).count();
                assert_eq!(given, 0, "{mkfs:?}: {request}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_any_bitmap_gives_no_used_block_away() {
    if !tools() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let mut image = Image(made(&dir, Variant::named("1k").mkfs));
    let free = kib(&free_of(&image).unwrap());
    let output = run(Command::new("dumpe2fs").arg(dir.path().join("made.img")));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let bitmaps = text.lines().filter_map(|line| line.trim().strip_prefix("Block bitmap at "));
    let bitmaps: Vec<usize> =
        bitmaps.map(|rest| rest.split([' ', ',']).next().unwrap().parse().unwrap()).collect();
    assert_eq!(bitmaps.len(), 8);
    for bitmap in bitmaps {
        for bit in [0, 100, 2000, 5000, 8191] {
            let at = bitmap * 1024 + bit / 8;
            image.0[at] ^= 1 << (bit % 8);
            let spoiled = free_of(&image).unwrap();
            image.0[at] ^= 1 << (bit % 8);
            // An uninitialised bitmap is not looked at.
            assert!(spoiled.groups_kept <= 1);
            assert!(kib(&spoiled).is_subset(&free), "bit {bit} of block {bitmap}");
        }
    }
}

#[test]
fn a_file_system_that_proves_nothing_keeps_everything() {
    if !tools() {
        return;
    }
    let dir = TempDir::new().unwrap();
    // s_state: the kernel found errors; not unmounted and no journal.
    for (mkfs, state) in [("4k", 3u16), ("ext2-1k", 0), ("ext2-1k", 2)] {
        let mut image = Image(made(&dir, Variant::named(mkfs).mkfs));
        assert!(free_of(&image).is_ok());
        let path = dir.path().join("made.img");
        let request = format!("set_super_value state {state}");
        run(Command::new("debugfs").args(["-w", "-R", &request]).arg(&path));
        image.0 = fs::read(&path).unwrap();
        let error = free_of(&image).unwrap_err();
        println!("{error}");
    }
    // An unknown read-only compatible feature.
    let mut image = Image(made(&dir, &["-t", "ext2", "-b", "1024"]));
    image.0[1024 + 0x66] |= 0x80;
    assert!(free_of(&image).is_err());
}

#[test]
fn what_is_free_on_a_mounted_file_system_may_hold_anything() {
    if let Some(reason) = skip_reason() {
        println!("SKIPPED: {reason}");
        return;
    }
    let full = std::env::var_os("UMBRA_TEST_FULL").is_some();
    let names = if full { &DIRTY[..] } else { &DIRTY[..3] };
    for (number, name) in (1..).zip(names) {
        let variant = Variant::named(name);
        // A file that is deleted and still open, blocks freed in the journal alone, blocks
        // promised to a file.
        let promised = |mount: &Mount| {
            let script = "import os, sys\n\
                fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)\n\
                os.posix_fallocate(fd, 0, 1 << 20)\n\
                os.fsync(fd)\n";
            let path = mount.dir().join("promised");
            run(Command::new("python3").args(["-c", script]).arg(path));
            Ok(())
        };
        let dirty = make(variant, State::Dirty, number * 100_000, promised).unwrap();
        if let Some(dirty) = dirty.or_say(variant) {
            spoiled_copy_is_as_good(variant, &dirty.bytes().unwrap());
        }
    }
}

/// Fills what is free of the image with rubbish: neither the kernel nor e2fsck may see a
/// difference.
fn spoiled_copy_is_as_good(variant: &Variant, bytes: &[u8]) {
    let dir = TempDir::new().unwrap();
    let image = Image(bytes.to_vec());
    let free = free_of(&image).unwrap();
    let total: u64 = free.ranges.iter().map(|range| range.len().0).sum();
    println!("{}: {total} free, {} groups kept", variant.name, free.groups_kept);
    assert!(total > 8 << 20, "{}: {total} bytes free", variant.name);
    let (whole, spoiled) = (dir.path().join("whole.img"), dir.path().join("spoiled.img"));
    fs::write(&whole, bytes).unwrap();
    let raw = dumpe2fs(&whole);
    assert!(kib(&free).is_subset(&raw), "{}: used before the replay", variant.name);
    let mut copy = bytes.to_vec();
    spoil(&mut copy, &free);
    fs::write(&spoiled, copy).unwrap();
    let seen = [&whole, &spoiled].map(|path| {
        let mount = Mount::new(path, None, path.with_extension("mount"), "noatime").unwrap();
        let tree = mount.manifest().unwrap();
        mount.unmount().unwrap();
        tree
    });
    assert!(seen[0].len() > 500, "{}", variant.name);
    assert!(seen[0] == seen[1], "{}: a file changed", variant.name);
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&spoiled));
    let after = dumpe2fs(&whole);
    assert!(kib(&free).is_subset(&after), "{}: used after the replay", variant.name);
}
