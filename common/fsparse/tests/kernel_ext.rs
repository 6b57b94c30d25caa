//! The ext parser against the kernel's own mount of images made on the spot.
//!
//! Each dirty image is copied while writers have it mounted: the parser reads it as it is, the
//! kernel recovers and mounts a copy, and that copy is compared too. `cargo xtask diff-walk
//! --made` does the same in every state. Needs root and loop devices; says so and passes without.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::{collections::BTreeSet, fs, process::Command};

use support::{Image, Tree, walk};
use umbra_fsparse::{
    ByteOffset, ByteRange, Codec, ReadAt,
    ext::{Ext, Journal},
};
use umbra_walkdiff::{
    compare::{Places, compare_tree, lines},
    image::ImageFile,
    kernel::skip_reason,
    made::{Made, State, VARIANTS, Variant, make},
    run,
    volume::{Stage, Verdict, diff},
};

/// Kinds that differ from others by their journal alone (`jbd2_e2fsck` looks at those) or by a
/// size: only with UMBRA_TEST_FULL.
const LIKE_OTHERS: [&str; 12] = [
    "2k",
    "ext3-1k",
    "ext3-4k",
    "async-commit",
    "small-journal",
    "no-csum",
    "no-csum-2k",
    "no-64bit",
    "data-no-csum",
    "journal-csum-v1",
    "uninit-data",
    "bigalloc-32k",
];

#[test]
fn dirty_images_read_as_the_kernel_recovers_them() {
    if let Some(reason) = skip_reason() {
        println!("SKIPPED: {reason}");
        return;
    }
    let mut escaped = 0;
    let mut made = 0;
    let full = std::env::var_os("UMBRA_TEST_FULL").is_some();
    for (number, variant) in (1..).zip(VARIANTS) {
        if !full && LIKE_OTHERS.contains(&variant.name) {
            continue;
        }
        let Some(image) = made_or_said(variant, State::Dirty, number * 1000) else { continue };
        made += 1;
        let (manifest, stages) = compared(variant, &image);
        if variant.name == "fast-commit" {
            // Not replayed, and said so: such a volume keeps all its blocks.
            let found = lines(&stages[0].differences);
            assert!(found.contains("fast commits, which this version cannot read"), "{found}");
            equal(variant, &stages[1..]);
            continue;
        }
        equal(variant, &stages);
        if variant.has_journal() {
            assert_eq!(stages.len(), 2, "{}", variant.name);
            assert!(stages[0].replayed_blocks > 20, "{}", variant.name);
            escaped += the_journal_makes_the_difference(variant, &image, &manifest);
        }
    }
    assert!(escaped > 0, "no block of content was escaped in the journal");
    assert!(made > VARIANTS.len() / 2, "{made} of {} kinds could be made", VARIANTS.len());
}

#[test]
fn full_and_fragmented_images_read_as_the_kernel_reads_them() {
    if let Some(reason) = skip_reason() {
        println!("SKIPPED: {reason}");
        return;
    }
    for (number, name) in (1..).zip(["1k", "ext3-2k", "bigalloc", "inline-1k", "no-extents"]) {
        let variant = Variant::named(name);
        for state in [State::Full, State::Fragmented] {
            let Some(image) = made_or_said(variant, state, number * 100_000) else { continue };
            let (_, stages) = compared(variant, &image);
            equal(variant, &stages);
            if state == State::Fragmented {
                assert!(stages[0].compared.extents > 1200, "{name}: {:?}", stages[0].compared);
            }
        }
    }
}

fn made_or_said(variant: &Variant, state: State, seed: u32) -> Option<Made> {
    println!("{} {state:?}: seed {seed}", variant.name);
    make(variant, state, seed, |_| Ok(())).unwrap().or_say(variant)
}

/// Compares the image, and what the kernel made of it, with the kernel's mount.
fn compared(variant: &Variant, made: &Made) -> (Vec<serde_json::Value>, Vec<Stage>) {
    let copy = made.copy("recovered.img").unwrap();
    let file = ImageFile::open(made.image()).unwrap();
    let whole = ByteRange::new(ByteOffset(0), file.len()).unwrap();
    match diff(&file, whole, &copy, made.dir()).unwrap() {
        Verdict::Compared { manifest, stages } => (manifest, stages),
        other => panic!("{}: {other:?}", variant.name),
    }
}

fn equal(variant: &Variant, stages: &[Stage]) {
    for stage in stages {
        let Stage { name, compared, differences, warnings, .. } = stage;
        println!("{} {name}: {compared:?}", variant.name);
        assert!(differences.is_empty(), "{}:\n{}", variant.name, lines(differences));
        assert_eq!(warnings, &[] as &[String], "{}", variant.name);
        assert!(compared.contents > 100 && compared.xattrs > 50, "{compared:?}");
        assert!(compared.extents > 100 || *name == "as it stands", "{compared:?}");
    }
}

/// The comparison means something: without the replay it fails. Returns how many blocks of
/// content the journal has escaped.
fn the_journal_makes_the_difference(
    variant: &Variant,
    made: &Made,
    manifest: &[serde_json::Value],
) -> usize {
    let image = Image(made.bytes().unwrap());
    let ignoring = walk(&Ext::open(&image, Journal::Ignore).unwrap());
    let (_, differences) = compare_tree(&image, &ignoring, manifest, Places::Journal);
    assert!(differences.len() > 10, "{}: the same without the journal", variant.name);
    let tree = walk(&Ext::open(&image, Journal::Replay).unwrap());
    let extents = tree.inodes.values().flat_map(|inode| &inode.extents);
    extents.filter(|extent| extent.codec == Codec::Jbd2Escaped).count()
}

/// What some features are made for is there, and came through.
#[test]
fn what_one_feature_is_made_for_is_there() {
    if let Some(reason) = skip_reason() {
        println!("SKIPPED: {reason}");
        return;
    }
    if let Some(tree) = fresh("ea-inode", "") {
        let lens: Vec<usize> = tree.at("large").xattrs.iter().map(|x| x.value.len()).collect();
        assert_eq!(lens, [20000, 3000, 65536]);
    }
    if let Some(tree) = fresh("large-dir", "") {
        let many = tree.entries.iter().filter(|(_, name, _)| name.len() > 240).count();
        assert_eq!(many, 40_000);
    }
    let projects = "sif <13> projid 77\nsif <14> projid 65536\nsif <15> projid 0xfffffffe\n";
    if let Some(tree) = fresh("project", projects) {
        let found: BTreeSet<u32> = tree.inodes.values().map(|inode| inode.project).collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [0, 77, 65536, 0xffff_fffe]);
    }
}

/// Makes an image, lets debugfs change it, compares, and returns its tree.
fn fresh(name: &str, commands: &str) -> Option<Tree> {
    let variant = Variant::named(name);
    let made = made_or_said(variant, State::Fresh, 7)?;
    if !commands.is_empty() {
        let script = made.dir().join("commands");
        fs::write(&script, commands).unwrap();
        run(Command::new("debugfs").args(["-w", "-f"]).arg(script).arg(made.image())).unwrap();
    }
    equal(variant, &compared(variant, &made).1);
    let image = Image(made.bytes().unwrap());
    let ext = Ext::open(&image, Journal::Replay).unwrap();
    Some(walk(&ext))
}
