//! ext2, ext3 and ext4: open, replay, walk.

use std::collections::BTreeSet;

use umbra_fsparse::ext::{Ext, Journal};
use umbra_fsparse::{ByteLen, ByteRange, FileType, Inode, InodeNumber, ReadAt, Visitor, Warning};

use crate::input::patch;
use crate::limits::CountingDisk;

/// Checks what a walk promises.
struct Checker {
    volume: ByteLen,
    seen: BTreeSet<u64>,
    dirs: BTreeSet<u64>,
    named: BTreeSet<u64>,
    warnings: usize,
    names: u64,
    extents: u64,
    attribute_bytes: usize,
    used: Vec<ByteRange>,
}

impl Visitor for Checker {
    fn inode(&mut self, inode: Inode) {
        assert!(self.seen.insert(inode.number.0), "an inode is given twice");
        if inode.file_type == FileType::Dir {
            self.dirs.insert(inode.number.0);
        }
        assert_eq!(inode.mode & !0o7777, 0, "mode bits that are none");
        for time in [Some(inode.mtime), Some(inode.ctime), inode.crtime].into_iter().flatten() {
            assert!(time.nanos < 1_000_000_000, "a second in the nanoseconds");
        }
        assert!(inode.target.is_none() || inode.file_type == FileType::Symlink);
        assert!(
            inode.rdev.is_none() || matches!(inode.file_type, FileType::Char | FileType::Block)
        );
        assert!(inode.xattrs.is_sorted_by(|a, b| a.name < b.name), "attributes are not sorted");
        assert!(inode.xattrs.iter().all(|xattr| !xattr.name.is_empty()));
        let lens = inode.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len());
        self.attribute_bytes += lens.sum::<usize>();
        self.extents += inode.extents.len() as u64;
        let mut end = 0;
        for extent in &inode.extents {
            assert!(!extent.volume.is_empty(), "an empty extent");
            assert!(extent.volume.end().0 <= self.volume.0, "an extent leaves the volume");
            assert!(end <= extent.logical.0, "extents are not sorted, or overlap");
            let len = extent.volume.len().0;
            end = extent.logical.0.checked_add(len).expect("content ends below 2^64");
        }
    }

    fn entry(&mut self, parent: InodeNumber, name: &[u8], inode: InodeNumber) {
        assert!(self.dirs.contains(&parent.0), "a name before its directory");
        assert!(self.seen.contains(&inode.0), "a name before its inode");
        assert!(!name.is_empty() && name != b"." && name != b"..", "no name");
        assert!(!name.contains(&0) && !name.contains(&b'/'), "a name with NUL or /");
        self.named.insert(inode.0);
        self.names += 1;
    }

    fn warning(&mut self, _: Warning) {
        self.warnings += 1;
    }

    fn used(&mut self, range: ByteRange) {
        assert!(range.end().0 <= self.volume.0, "what is used lies inside the volume");
        self.used.push(range);
    }
}

/// The image: see [`patch`]. Checksums are switched off in the superblock unless the first byte's
/// highest bit is set.
pub(crate) fn ext(input: &[u8]) {
    let mut image = patch(input);
    if input.first().is_some_and(|first| first & 0x80 == 0) {
        // Read-only compatible features: gdt_csum, metadata_csum.
        for (at, clear) in [(1024 + 0x64, 0x10), (1024 + 0x65, 0x04)] {
            if let Some(byte) = image.get_mut(at) {
                *byte &= !clear;
            }
        }
    }
    check_image(&image);
}

/// Walks an image as it is and as it is after the journal's recovery, and finds its free space.
pub(crate) fn check_image(image: &[u8]) {
    let after = walk(image, Journal::Replay);
    // The feature that says that the journal holds changes; without it both walks are one.
    let dirty = image.get(1024 + 0x60).is_some_and(|features| features & 4 != 0);
    let before = if dirty { walk(image, Journal::Ignore) } else { None };
    // As a backup does it: only what was walked to its end, with the state before the replay.
    if let Some(after) = after.filter(|after| after.complete) {
        check_free(image, before.map(|before| before.used), after.used);
    }
}

/// What a walk that came to its end used.
struct Walked {
    used: Vec<ByteRange>,
    complete: bool,
}

/// Checks that no free range is one that something uses, and that they are what they promise.
fn check_free(image: &[u8], before: Option<Vec<ByteRange>>, after: Vec<ByteRange>) {
    let disk = CountingDisk::new(image);
    let Ok(ext) = Ext::open(&disk, Journal::Replay) else { panic!("it was opened before") };
    let older = Ext::open(&disk, Journal::Ignore).ok();
    let older = older.as_ref().filter(|_| ext.needs_recovery());
    let mut used = after;
    match (older, before) {
        (Some(_), Some(before)) => used.extend(before),
        // Its walk before the replay did not come to its end: a backup asks no further.
        (Some(_), None) => return,
        _ => {}
    }
    let used = merged(used);
    let Ok(free) = ext.free_space(older, &used) else { return };
    assert!(free.doubt.is_some() || free.groups_kept == 0, "groups are kept for a reason");
    let mut end = 0;
    for range in &free.ranges {
        assert!(!range.is_empty(), "an empty range");
        assert!(range.start().0 > end || end == 0, "free ranges are sorted and do not adjoin");
        assert!(range.start().0 >= 2048, "boot block and superblock are used");
        end = range.end().0;
        let next = used.partition_point(|used| used.end() <= range.start());
        let clear = used.get(next).is_none_or(|used| used.start() >= range.end());
        assert!(clear, "{range:?} is free and used");
    }
    assert!(end <= ext.len().0, "free space behind the file system");
    let block = ext.block_size().0;
    disk.check(32, 4 << 20);
    assert!(free.ranges.iter().all(|range| range.start().0 % block == 0), "not whole blocks");
}

/// Sorts ranges and joins those that touch or overlap.
fn merged(mut ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    ranges.sort_unstable_by_key(|range| range.start());
    let mut joined: Vec<ByteRange> = Vec::new();
    for range in ranges {
        match joined.last_mut().filter(|last| range.start() <= last.end()) {
            Some(last) => {
                let end = last.end().max(range.end());
                *last = ByteRange::between(last.start(), end).expect("sorted");
            }
            None => joined.push(range),
        }
    }
    joined
}

fn walk(image: &[u8], journal: Journal) -> Option<Walked> {
    let disk = CountingDisk::new(image);
    let Ok(ext) = Ext::open(&disk, journal) else {
        disk.check(16, 4 << 20);
        return None;
    };
    assert!(!ext.is_empty() && ext.label().len() <= 16);
    let mut checker = Checker {
        volume: disk.len(),
        seen: BTreeSet::new(),
        dirs: BTreeSet::new(),
        named: BTreeSet::new(),
        warnings: 0,
        names: 0,
        extents: 0,
        attribute_bytes: 0,
        used: Vec::new(),
    };
    let summary = ext.walk(&mut checker);
    // The walk's own bound: four times the blocks and inodes, and 4096, a block each.
    let (block, blocks) = (ext.block_size().0, ext.len().0 / ext.block_size().0);
    let size = blocks.min(disk.len().0 / block + 1);
    disk.check(64, (size * 8 + 8192) * block);
    // Shared structures do not make more of an image than it can hold.
    assert!(checker.names <= disk.len().0 / 12 + 4096, "{} names", checker.names);
    assert!(checker.attribute_bytes as u64 <= disk.len().0 + (16 << 20), "bytes of attributes");
    let most = 3 * (size * (4 + 4 * block / 128) + 8192);
    assert!(checker.extents <= most, "{} extents", checker.extents);
    let summary = summary.ok();
    if let Some(summary) = &summary {
        assert!(checker.dirs.contains(&summary.root.0), "the root is no directory");
        assert!(!checker.named.contains(&summary.root.0), "the root has a name");
        assert!(!summary.complete || checker.warnings == 0, "complete, with warnings");
        checker.seen.remove(&summary.root.0);
        assert_eq!(checker.seen, checker.named, "an inode without a name");
    }
    // `free_space` takes what COMPLETE walks used.
    let complete = summary.is_some_and(|summary| summary.complete);
    summary.map(|_| Walked { used: checker.used, complete })
}
