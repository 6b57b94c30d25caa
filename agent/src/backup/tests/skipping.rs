//! What is taken from the base unread: the same snapshot as from reading everything, and where
//! the disk lies, a snapshot that is true to its own hash.

use super::*;
use crate::backup::inherit::{Base, Skip};

/// When the files of the disk were made, and when its snapshots are.
const MADE: i64 = 1000;
const FIRST: i64 = 1_000_000;
const SECOND: i64 = 2_000_000;
const WINDOW: usize = 16 << 20;
const ALL: u32 = 1_000_000;

/// A disk of files that lie one behind the other, behind a window of residue and with a little of
/// it between them.
#[derive(Clone)]
struct Scene {
    bytes: Vec<u8>,
    files: Vec<Inode>,
}

/// Bytes that are quickly made and packed, and differ from block to block.
fn filling(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 4096);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (0..512).for_each(|_| bytes.extend(state.to_be_bytes()));
    }
    bytes.truncate(len);
    bytes
}

impl Scene {
    /// Fills windows 1 to 3 with files; what is behind them is zeros.
    fn new(seed: u64) -> Self {
        let mut bytes = filling(seed, WINDOW);
        let mut files = Vec::new();
        let mut state = seed | 1;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        let mut number = 10;
        while bytes.len() < 4 * WINDOW - (3 << 20) - 8192 {
            let size = 1 + below(3 << 20);
            let start = bytes.len() as u64;
            bytes.extend(filling(seed ^ number, usize::try_from(size).unwrap()));
            let end = bytes.len().div_ceil(4096) * 4096;
            // Some have something behind their end, in the last block.
            match below(4) {
                0 => bytes.extend(filling(number, end - bytes.len())),
                _ => bytes.resize(end, 0),
            }
            let extent = Extent {
                logical: ByteOffset(0),
                volume: span(start, end as u64 - start),
                kind: ExtentKind::Data,
                codec: Codec::None,
            };
            let mut file = inode(number, FileType::File, size, vec![extent]);
            (file.ctime.seconds, file.mtime.seconds) = (MADE, MADE);
            files.push(file);
            if below(3) == 0 {
                bytes.extend(filling(!number, 4096));
            }
            number += 1;
        }
        bytes.resize(5 * WINDOW, 0);
        Self { bytes, files }
    }

    fn survey(&self) -> Survey {
        let mut survey = survey_of(self.bytes.len() as u64, self.files.clone());
        survey.volumes[0].uuid = Some("3f1c9a52-0000-4000-8000-000000000001".into());
        survey
    }

    /// Changes a byte of a file's content without a trace in its metadata.
    fn change_silently(&mut self, file: usize, at: u64) {
        let file = &self.files[file];
        let place = file.extents[0].volume.start().0 + at % file.size.0;
        self.bytes[usize::try_from(place).unwrap()] ^= 0x55;
    }

    /// Returns a file that lies in one window, and one that lies in two.
    fn inside_and_across(&self) -> (usize, usize) {
        let windows = |file: &Inode| {
            let range = file.extents[0].volume;
            (range.start().0 / WINDOW as u64, (range.end().0 - 1) / WINDOW as u64)
        };
        let find = |wanted: fn((u64, u64)) -> bool| {
            self.files.iter().position(|file| wanted(windows(file))).unwrap()
        };
        (find(|(first, last)| first == last && first == 1), find(|(first, last)| first != last))
    }

    fn full(&self, vault: &MemoryVault, time: i64) -> Outcome {
        let mut labels = labels();
        labels.time.seconds = time;
        let job =
            Job { uplink: vault, known: &NoneKnown, policy: SendPolicy::Send, labels: &labels };
        let disk = MemoryDisk::new(self.bytes.clone());
        let survey = self.survey();
        run(&job, Input::Disk { device: &disk, survey: &survey }, &Quiet::default()).unwrap()
    }

    fn skipping(&self, vault: &MemoryVault, base: ObjectId, order: Order) -> Skipping {
        let nodes = vault.nodes.lock().unwrap().clone();
        self.skipping_with(vault, base, order, &nodes)
    }

    fn skipping_with(
        &self,
        vault: &MemoryVault,
        base: ObjectId,
        order: Order,
        nodes: &MemoryNodes,
    ) -> Skipping {
        let mut labels = labels();
        labels.time.seconds = SECOND;
        let job =
            Job { uplink: vault, known: &NoneKnown, policy: SendPolicy::Send, labels: &labels };
        let disk = MemoryDisk::new(self.bytes.clone());
        let reference = Reference { kind: Kind::Manifest, id: base };
        let skip = Skip {
            base: Ok(Base { reference, manifest: vault.manifest(base) }),
            nodes,
            reread_per_million: order.reread,
            full_every: order.every,
            seed: [7; 16],
        };
        let monitor = Quiet::default();
        let outcome = run_skipping(&job, &disk, &self.survey(), &skip, &monitor).unwrap();
        let read = disk.read.load(Ordering::Relaxed);
        assert_eq!(outcome.bytes_read, read, "all that was read is counted");
        Skipping { outcome, read, warnings: monitor.warnings().0 }
    }
}

#[derive(Clone, Copy)]
struct Order {
    reread: u32,
    every: u64,
}

const NO_REREAD: Order = Order { reread: 0, every: 10 };

struct Skipping {
    outcome: Outcome,
    read: u64,
    warnings: Vec<Notice>,
}

fn hash_of(disk: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("umbra 1 image hash");
    hasher.update(&(disk.len() as u64).to_le_bytes());
    for window in disk.chunks(WINDOW) {
        hasher.update(blake3::hash(window).as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// What must be the same, however a disk was read.
fn roots(vault: &MemoryVault, outcome: &Outcome) -> (Reference, Vec<Option<Reference>>, [u8; 32]) {
    let manifest = vault.manifest(outcome.snapshot);
    let overlays = manifest.volumes.iter().map(|volume| volume.overlay).collect();
    (manifest.map.reference, overlays, outcome.image_hash)
}

/// Checks that a snapshot is that of reading everything.
fn expect_as_full(scene: &Scene, vault: &MemoryVault, outcome: &Outcome) {
    let other = MemoryVault::default();
    let full = scene.full(&other, SECOND);
    assert_eq!(roots(vault, outcome), roots(&other, &full));
    assert!(vault.reassemble(outcome.snapshot) == scene.bytes);
    let (mut ours, mut theirs) = (outcome.ids.clone(), full.ids.clone());
    for ids in [&mut ours, &mut theirs] {
        ids.retain(|id| *id != outcome.snapshot && *id != full.snapshot);
        ids.sort_unstable();
    }
    assert_eq!(ours, theirs, "the table of known ids");
    assert_eq!(outcome.chunks_total, full.chunks_total);
    assert_eq!(outcome.bytes_files, full.bytes_files);
    assert_eq!(outcome.map, full.map);
}

#[test]
fn an_unchanged_disk_is_hardly_read_and_comes_out_the_same() {
    let scene = Scene::new(1);
    let vault = MemoryVault::default();
    let first = scene.full(&vault, FIRST);
    let again = scene.skipping(&vault, first.snapshot, NO_REREAD);
    expect_as_full(&scene, &vault, &again.outcome);
    let skipped = &again.outcome.skipped;
    assert_eq!(skipped.read_all_because, None);
    assert_eq!(skipped.files_inherited, scene.files.len() as u64);
    assert_eq!(skipped.bytes_inherited, first.bytes_files);
    assert_eq!((skipped.windows_inherited, skipped.runs_since_full), (3, 1));
    // Two windows of residue, and what little there is between the files.
    assert!(again.read < 2 * WINDOW as u64 + (4 << 20), "{} read", again.read);
    let counts = vault.manifest(again.outcome.snapshot).counts;
    assert_eq!(counts.files_inherited, skipped.files_inherited);
    assert_eq!((counts.windows_inherited, counts.runs_since_full), (3, 1));
    // The next one stands on that.
    let third = scene.skipping(&vault, again.outcome.snapshot, Order { reread: ALL, every: 3 });
    assert_eq!(third.outcome.skipped.runs_since_full, 2);
    assert_eq!(third.outcome.skipped.files_reread, scene.files.len() as u64);
    expect_as_full(&scene, &vault, &third.outcome);
    let last = scene.skipping(&vault, third.outcome.snapshot, Order { reread: 0, every: 3 });
    assert_eq!(last.outcome.skipped.runs_since_full, 0);
    assert!(last.read >= scene.bytes.len() as u64);
}

#[test]
fn changed_files_and_changed_residue_come_out_as_from_reading_everything() {
    let scene = Scene::new(2);
    let vault = MemoryVault::default();
    let first = scene.full(&vault, FIRST);
    let (inside, across) = scene.inside_and_across();
    for file in [inside, across] {
        let mut changed = scene.clone();
        changed.change_silently(file, 5000);
        changed.files[file].ctime.seconds = FIRST + 10;
        let again = changed.skipping(&vault, first.snapshot, NO_REREAD);
        assert!(again.outcome.skipped.files_inherited > 0);
        assert!(again.warnings.is_empty(), "{:?}", again.warnings);
        expect_as_full(&changed, &vault, &again.outcome);
    }
    // Its inode tells nothing, but a directory block of the same window does.
    let mut changed = scene.clone();
    let residue = changed.files.windows(2).find_map(|pair| {
        let (end, next) = (pair[0].extents[0].volume.end(), pair[1].extents[0].volume.start());
        (end != next).then_some(end.0)
    });
    changed.bytes[usize::try_from(residue.unwrap()).unwrap() + 9] ^= 1;
    let again = changed.skipping(&vault, first.snapshot, NO_REREAD);
    assert_eq!(again.outcome.skipped.windows_inherited, 2);
    expect_as_full(&changed, &vault, &again.outcome);
}

#[test]
fn a_file_that_changed_when_the_base_was_read_is_read() {
    for (seconds, is_trusted) in [(FIRST - 3, true), (FIRST - 1, false), (FIRST + 5, false)] {
        let mut scene = Scene::new(3);
        let (inside, _) = scene.inside_and_across();
        scene.files[inside].ctime.seconds = seconds;
        let vault = MemoryVault::default();
        let first = scene.full(&vault, FIRST);
        let again = scene.skipping(&vault, first.snapshot, NO_REREAD);
        expect_as_full(&scene, &vault, &again.outcome);
        let all = again.outcome.skipped.files_inherited == scene.files.len() as u64;
        assert_eq!(all, is_trusted, "{seconds}");
    }
}

/// What nobody looks at is as it was in the base, and so says the hash; what somebody looks at
/// makes everything be read.
#[test]
fn a_change_without_a_trace_is_found_or_stays_as_it_was() {
    let scene = Scene::new(4);
    let vault = MemoryVault::default();
    let first = scene.full(&vault, FIRST);
    let (inside, across) = scene.inside_and_across();
    for file in [inside, across] {
        for at in [0, u64::MAX] {
            let mut changed = scene.clone();
            let at = at.min(changed.files[file].size.0 - 1);
            changed.change_silently(file, at);
            let unseen = changed.skipping(&vault, first.snapshot, NO_REREAD);
            assert!(vault.reassemble(unseen.outcome.snapshot) == scene.bytes);
            assert_eq!(unseen.outcome.image_hash, hash_of(&scene.bytes));

            let seen = changed.skipping(&vault, first.snapshot, Order { reread: ALL, every: 10 });
            assert_eq!(seen.outcome.skipped.files_differing, 1);
            assert_eq!(seen.outcome.skipped.runs_since_full, 0);
            let name = format!("disk/f{}", changed.files[file].number.0);
            assert_eq!(seen.warnings.len(), 1, "{:?}", seen.warnings);
            assert_eq!(seen.warnings[0].subject, name);
            let manifest = vault.manifest(seen.outcome.snapshot);
            assert_eq!((manifest.counts.files_differing, manifest.warnings_total), (1, 1));
            expect_as_full(&changed, &vault, &seen.outcome);

            let due = changed.skipping(&vault, first.snapshot, Order { reread: 0, every: 1 });
            expect_as_full(&changed, &vault, &due.outcome);
        }
    }
}

/// A window that is read for another file's sake shows what is wrong with an unchanged one.
#[test]
fn a_change_without_a_trace_beside_a_change_is_found() {
    let scene = Scene::new(5);
    let vault = MemoryVault::default();
    let first = scene.full(&vault, FIRST);
    let (_, across) = scene.inside_and_across();
    for (silent, honest) in [(across, across - 1), (across, across + 1), (across - 1, across)] {
        let mut changed = scene.clone();
        changed.change_silently(silent, 100);
        changed.change_silently(honest, 200);
        changed.files[honest].ctime.seconds = FIRST + 10;
        let again = changed.skipping(&vault, first.snapshot, NO_REREAD);
        assert_eq!(again.outcome.skipped.files_differing, 1, "{silent} beside {honest}");
        expect_as_full(&changed, &vault, &again.outcome);
    }
}

#[test]
fn slack_is_compared_where_its_file_is_read() {
    let scene = Scene::new(6);
    let vault = MemoryVault::default();
    let first = scene.full(&vault, FIRST);
    let zero_slack = scene.files.iter().find_map(|file| {
        let range = file.extents[0].volume;
        let (from, to) = (range.start().0 + file.size.0, range.end().0);
        let (from, to) = (usize::try_from(from).unwrap(), usize::try_from(to).unwrap());
        (from < to && scene.bytes[from..to].iter().all(|&byte| byte == 0)).then_some(from)
    });
    let mut changed = scene.clone();
    changed.bytes[zero_slack.unwrap()] = 1;
    let again = changed.skipping(&vault, first.snapshot, Order { reread: ALL, every: 10 });
    assert_eq!(again.outcome.skipped.files_differing, 1);
    expect_as_full(&changed, &vault, &again.outcome);
}

#[test]
fn a_base_that_cannot_be_read_or_used_is_none() {
    let scene = Scene::new(7);
    let vault = MemoryVault::default();
    let first = scene.full(&vault, FIRST);
    let nodes = vault.nodes.lock().unwrap().clone();
    let parts: Vec<Reference> =
        nodes.iter().map(|(r, _)| *r).filter(|r| r.kind != Kind::Manifest).collect();
    let mut kinds = 0;
    for kind in [Kind::MapPage, Kind::MapNode, Kind::Directory] {
        for lost in parts.iter().filter(|reference| reference.kind == kind) {
            let mut damaged = nodes.clone();
            damaged.remove(lost);
            let again = scene.skipping_with(&vault, first.snapshot, NO_REREAD, &damaged);
            if again.outcome.skipped.read_all_because.is_none() {
                // The page of a window that nobody needed.
                assert_eq!(kind, Kind::MapPage);
                continue;
            }
            kinds += 1;
            assert_eq!(again.warnings.len(), 1);
            assert_eq!(again.outcome.skipped.files_inherited, 0);
            expect_as_full(&scene, &vault, &again.outcome);
        }
    }
    assert!(kinds >= 4, "{kinds}");

    let mut other = scene.clone();
    other.bytes.resize(scene.bytes.len() + 4096, 0);
    let again = other.skipping(&vault, first.snapshot, NO_REREAD);
    assert!(again.outcome.skipped.read_all_because.is_some());
    expect_as_full(&other, &vault, &again.outcome);
}

/// The kernel writes to a swap file, and a boot loader to its environment, by block number.
#[test]
fn what_is_written_without_the_file_system_is_read() {
    for mark in [b"SWAPSPACE2", b"S1SUSPEND\0"] {
        let mut scene = Scene::new(9);
        let (inside, _) = scene.inside_and_across();
        let file = &mut scene.files[inside];
        let whole = file.extents[0].volume.len().0 / 4096 * 4096;
        assert!(whole >= 40_960);
        file.size.0 = whole;
        let start = usize::try_from(file.extents[0].volume.start().0).unwrap();
        scene.bytes[start + 4086..start + 4096].copy_from_slice(mark);
        let vault = MemoryVault::default();
        let first = scene.full(&vault, FIRST);
        let mut changed = scene.clone();
        changed.change_silently(inside, 20_000);
        let again = changed.skipping(&vault, first.snapshot, NO_REREAD);
        assert!(again.outcome.skipped.files_inherited > 0);
        assert_eq!(again.outcome.skipped.files_differing, 0);
        expect_as_full(&changed, &vault, &again.outcome);
    }
}

#[test]
fn another_file_system_in_the_same_place_is_read() {
    let scene = Scene::new(8);
    let vault = MemoryVault::default();
    let first = scene.full(&vault, FIRST);
    let manifest = vault.manifest(first.snapshot);
    let nodes = vault.nodes.lock().unwrap().clone();
    let reference = Reference { kind: Kind::Manifest, id: first.snapshot };
    type Change = fn(&mut Survey);
    let changes: [(&str, Change); 5] = [
        ("uuid", |survey| survey.volumes[0].uuid = Some("another".into())),
        ("no uuid", |survey| survey.volumes[0].uuid = None),
        ("kind", |survey| survey.volumes[0].kind = "ext3"),
        ("dirty", |survey| survey.volumes[0].left = Left::Dirty),
        ("free", |survey| survey.free = FreePolicy::Skip),
    ];
    for (what, change) in changes {
        let mut survey = scene.survey();
        change(&mut survey);
        let mut labels = labels();
        labels.time.seconds = SECOND;
        let known = &NoneKnown;
        let job = Job { uplink: &vault, known, policy: SendPolicy::CountOnly, labels: &labels };
        let base = Ok(Base { reference, manifest: manifest.clone() });
        let skip =
            Skip { base, nodes: &nodes, reread_per_million: 0, full_every: 10, seed: [1; 16] };
        let disk = MemoryDisk::new(scene.bytes.clone());
        let outcome = run_skipping(&job, &disk, &survey, &skip, &Quiet::default()).unwrap();
        assert!(outcome.skipped.read_all_because.is_some(), "{what}");
        assert_eq!(outcome.image_hash, hash_of(&scene.bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// Whatever is done to the disk, the snapshot is that of its hash; and where nothing was
    /// done behind the file system's back, it is that of the disk.
    #[test]
    fn any_change_gives_a_true_snapshot(
        seed in any::<u64>(),
        edits in proptest::collection::vec((any::<u64>(), 0_u8..6), 0..6),
        reread in prop_oneof![Just(0), Just(ALL / 2), Just(ALL)],
    ) {
        let scene = Scene::new(seed);
        let vault = MemoryVault::default();
        let first = scene.full(&vault, FIRST);
        let mut changed = scene.clone();
        let mut is_silent = false;
        for (draw, edit) in edits {
            let file = usize::try_from(draw % changed.files.len() as u64).unwrap();
            match edit {
                0 => {
                    changed.change_silently(file, draw >> 8);
                    is_silent = true;
                }
                1 => {
                    changed.change_silently(file, draw >> 8);
                    changed.files[file].ctime.seconds = FIRST + 1;
                }
                2 => {
                    let size = changed.files[file].size.0;
                    changed.files[file].size.0 = 1 + (draw >> 8) % size;
                    changed.files[file].ctime.seconds = FIRST + 1;
                }
                3 if changed.files.len() > 1 => {
                    changed.files.remove(file);
                }
                // Names, owner and mode tell nothing of the content.
                4 => changed.files[file].nlink += 1,
                _ => changed.bytes[usize::try_from(draw % WINDOW as u64).unwrap()] ^= 1,
            }
        }
        let again = changed.skipping(&vault, first.snapshot, Order { reread, every: 10 });
        let disk = vault.reassemble(again.outcome.snapshot);
        prop_assert_eq!(again.outcome.image_hash, hash_of(&disk));
        if !is_silent || reread == ALL {
            prop_assert!(disk == changed.bytes);
            expect_as_full(&changed, &vault, &again.outcome);
        }
    }
}
