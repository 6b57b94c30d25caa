//! Journals that the kernel wrote, replayed here and by e2fsck, must give the same image.
//!
//! Needs root and loop devices to make the images; says so and passes where they are missing.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{collections::BTreeMap, fs, io::Write, iter, ops::Range, path::Path, process::Command};

use umbra_fsparse::{
    ByteLen, ByteOffset, ByteRange, Error, Warning,
    jbd2::{JournalGeometry, Replay, replay},
};

use umbra_walkdiff::{
    image::Image,
    kernel::{Mount, skip_reason},
    made::{Made, State, Variant, make},
    run,
};

/// Each its own kind of journal, or of what stands in it.
const JOURNALS: [&str; 13] = [
    "1k",
    "4k",
    "small-journal",
    "no-csum",
    "no-64bit",
    "no-csum-2k",
    "ext3-4k",
    "ext3-1k",
    "ext3-data",
    "data-4k",
    "data-no-csum",
    "journal-csum-v1",
    "async-commit",
];

#[test]
fn replays_as_e2fsck_does() {
    if let Some(reason) = skip_reason() {
        println!("SKIPPED: {reason}");
        return;
    }
    for (number, name) in (1..).zip(JOURNALS) {
        let variant = Variant::named(name);
        let seed = number * 100;
        let Some(dirty) = dirty(variant, seed, |_| {}) else { continue };
        let (replay, warnings) = read(&dirty).unwrap();
        assert_eq!(warnings, [], "{}", variant.name);
        let escaped = replay.iter().filter(|(_, copy)| copy.escaped).count();
        let changed = compare(&dirty, &replay, variant.name);
        println!(
            "{}: seed {seed}, {} blocks, {escaped} escaped, {changed} changed",
            variant.name,
            replay.len()
        );
        assert!(changed > 20, "{}: the journal holds next to nothing", variant.name);
    }
}

#[test]
fn revoked_blocks_keep_the_data_that_came_after() {
    if let Some(reason) = skip_reason() {
        println!("SKIPPED: {reason}");
        return;
    }
    for (number, name) in (1..).zip(["1k", "ext3-1k", "4k"]) {
        let variant = Variant::named(name);
        let revokes = |mount: &Mount| revoke(mount.dir());
        let Some(dirty) = dirty(variant, number * 7, revokes) else { continue };
        let (replay, warnings) = read(&dirty).unwrap();
        assert_eq!(warnings, []);
        let changed = compare(&dirty, &replay, variant.name);
        println!("{name}: {} blocks, {changed} changed", replay.len());
    }
}

/// Has blocks journaled as a directory's, freed, and then used for data that is not journaled:
/// replaying the directory would destroy the data.
fn revoke(mounted: &Path) {
    let commit = || fs::File::create(mounted.join("commit")).unwrap().sync_all().unwrap();
    let dir = mounted.join("dir");
    fs::create_dir(&dir).unwrap();
    for number in 0..400 {
        fs::write(dir.join(format!("{number}-{}", "n".repeat(200))), []).unwrap();
    }
    commit();
    fs::remove_dir_all(&dir).unwrap();
    commit();
    // Filling the disk is the sure way to use those blocks again.
    let mut file = fs::File::create(mounted.join("fill")).unwrap();
    while file.write_all(&[0xaa; 65536]).is_ok() {}
    file.sync_all().unwrap();
}

#[test]
fn fast_commits_are_unsupported_until_a_full_commit() {
    if let Some(reason) = skip_reason() {
        println!("SKIPPED: {reason}");
        return;
    }
    let variant = Variant { extra: &[], ..*Variant::named("fast-commit") };
    let new_file = |mount: &Mount| {
        fs::File::create(mount.dir().join("file")).unwrap().sync_all().unwrap();
    };
    // One full commit, and an fsync that needs no second one.
    let commit_and_fsync = |mount: &Mount| {
        mount.sync().unwrap();
        new_file(mount);
    };
    let Some(fast) = dirty(&variant, 1, commit_and_fsync) else { return };
    let error = read(&fast).unwrap_err();
    assert!(matches!(error, Error::Unsupported { feature: "fast commits", .. }), "{error}");

    let fsync_and_commit = |mount: &Mount| {
        new_file(mount);
        mount.sync().unwrap();
    };
    let Some(full) = dirty(&variant, 3, fsync_and_commit) else { return };
    let (replay, warnings) = read(&full).unwrap();
    assert_eq!(warnings, []);
    println!("{}: {} blocks", variant.name, replay.len());
    compare(&full, &replay, variant.name);
}

/// Makes a file system that was copied while mounted; says so where that cannot be.
fn dirty(variant: &Variant, seed: u32, finish: impl FnOnce(&Mount)) -> Option<Made> {
    let finish = |mount: &Mount| {
        finish(mount);
        Ok(())
    };
    make(variant, State::Dirty, seed, finish).unwrap().or_say(variant)
}

/// The geometry of the journal, from e2fsprogs.
struct Geometry {
    block_size: u32,
    fs_blocks: u64,
    journal: Vec<ByteRange>,
}

impl Geometry {
    fn of(image: &Path) -> Self {
        let header = run(Command::new("dumpe2fs").arg("-h").arg(image)).unwrap();
        let header = String::from_utf8_lossy(&header.stdout).into_owned();
        assert!(header.contains(" needs_recovery "), "the image is clean: {header}");
        let field = |name: &str| -> u64 {
            let line = header.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let block_size = field("Block size:");
        let stat = run(Command::new("debugfs").args(["-c", "-R", "stat <8>"]).arg(image)).unwrap();
        let stat = String::from_utf8_lossy(&stat.stdout).into_owned();
        let (_, list) = stat.split_once("EXTENTS:").or(stat.split_once("BLOCKS:")).expect(&stat);
        let journal = list
            .split([',', '\n'])
            // Blocks of the map have a name instead of a logical number.
            .filter(|piece| piece.trim().strip_prefix('(').is_some_and(starts_with_digit))
            .map(|piece| blocks(piece.rsplit(':').next().unwrap(), block_size))
            .collect();
        let fs_blocks = field("Block count:");
        Self { block_size: block_size.try_into().unwrap(), fs_blocks, journal }
    }
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Parses `first-last` or one block number.
fn blocks(text: &str, block_size: u64) -> ByteRange {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let [first, last]: [u64; 2] = [first, last].map(|n| n.trim().parse().unwrap());
    let start = ByteOffset(first * block_size);
    ByteRange::new(start, ByteLen((last + 1 - first) * block_size)).unwrap()
}

fn read(dirty: &Made) -> Result<(Replay, Vec<Warning>), Error> {
    let geometry = Geometry::of(dirty.image());
    replay(
        &Image(dirty.bytes().unwrap()),
        &JournalGeometry {
            block_size: geometry.block_size,
            fs_blocks: geometry.fs_blocks,
            blocks: &geometry.journal,
            fs_uuid: [0; 16],
        },
    )
}

/// Finds the blocks that differ, and the first byte of each that does.
fn different(a: &[u8], b: &[u8], block_size: usize) -> BTreeMap<usize, usize> {
    assert_eq!(a.len(), b.len());
    let pairs = a.chunks(block_size).zip(b.chunks(block_size)).enumerate();
    let first = |(a, b): (&[u8], &[u8])| a.iter().zip(b).position(|(a, b)| a != b);
    pairs.filter_map(|(block, pair)| Some((block, first(pair)?))).collect()
}

/// Writes every copy home and compares with what e2fsck makes of the image. Returns the number
/// of blocks that e2fsck changed.
fn compare(dirty: &Made, replay: &Replay, name: &str) -> usize {
    let path = dirty.copy("e2fsck.img").unwrap();
    let geometry = Geometry::of(&path);
    let block_size = geometry.block_size as usize;
    let status = Command::new("e2fsck").args(["-E", "journal_only", "-y"]).arg(&path).output();
    let status = status.unwrap();
    assert!(matches!(status.status.code(), Some(0 | 1)), "{name}: {status:?}");
    let mut expected = fs::read(&path).unwrap();

    let before = dirty.bytes().unwrap();
    let mut found = before.clone();
    for (block, copy) in replay.iter() {
        let from = copy.volume.start().0 as usize;
        let to = block as usize * block_size;
        found.copy_within(from..from + block_size, to);
        if copy.escaped {
            found[to..to + 4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
        }
    }
    let journal = geometry.journal[0].start().0 as usize;
    for image in [&mut expected, &mut found] {
        for range in RESET.iter().cloned().chain(iter::once(journal..journal + 1024)) {
            image[range].fill(0);
        }
    }
    assert_eq!(different(&expected, &found, block_size), BTreeMap::new(), "{name}");
    // The comparison means something: this many blocks differ without the replay.
    different(&expected, &before, block_size).len()
}

/// The fields of the superblock that e2fsck sets when it has replayed: `s_wtime`, `s_state`,
/// `s_feature_incompat` (needs_recovery), `s_kbytes_written`, `s_checksum`.
const RESET: &[Range<usize>] = &[
    1024 + 0x30..1024 + 0x34,
    1024 + 0x3a..1024 + 0x3c,
    1024 + 0x60..1024 + 0x64,
    1024 + 0x178..1024 + 0x180,
    1024 + 0x3fc..1024 + 0x400,
];
