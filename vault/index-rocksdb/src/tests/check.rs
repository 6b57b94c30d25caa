//! `check` on real stores: each kind of damage is found and named, with the snapshots and files
//! that it hits, and with no others.
#![allow(clippy::print_stdout)]

use umbra_common::{Kind, Reference};
use umbra_store::{
    CheckReport, FindingKind, IndexChecked, LossCause, Reach, ReadData, SnapshotHit,
};

mod damage;
mod flips;
mod rows;
mod world;

use world::{Disk, World, back_up, begin, chunk, disk, file};

/// Two disks of two machines that share the file `same`; `one` has a chunk that no other file has.
fn two_disks() -> [Disk; 2] {
    let mut attributed = file("usr", "attributed", &[23]);
    attributed.large_xattrs = true;
    let first = [
        file("etc", "one", &[1, 2]),
        file("etc", "two", &[3]),
        file("usr", "same", &[5, 6, 7]),
        attributed,
        file("", "top", &[9]),
    ];
    let second = [
        file("home", "other", &[11, 12]),
        file("home", "same again", &[5, 6, 7]),
        file("", "top", &[13]),
    ];
    [disk("alpha", "sda", &first), disk("beta", "vda", &second)]
}

fn world() -> (World, [Disk; 2]) {
    let disks = two_disks();
    (World::with(&[&disks[0], &disks[1]]), disks)
}

/// Nothing is wrong at all.
fn assert_whole(report: &CheckReport) {
    assert_eq!(report.findings.list, []);
    assert!(!report.is_damaged());
    assert!(report.lost.is_empty() && report.snapshots.is_empty());
}

/// `machine/disk: path, path` of each snapshot that is hit.
fn hits(report: &CheckReport) -> Vec<String> {
    let paths = |hit: &SnapshotHit| -> Vec<String> {
        assert_eq!(hit.paths_total as usize, hit.paths.len());
        hit.paths.iter().map(|path| String::from_utf8(path.path.clone()).unwrap()).collect()
    };
    let line =
        |hit: &SnapshotHit| format!("{}/{}: {}", hit.machine, hit.disk, paths(hit).join(", "));
    report.snapshots.iter().map(line).collect()
}

/// The kinds of what was found, each once.
fn kinds(report: &CheckReport) -> Vec<FindingKind> {
    report.findings.totals.keys().copied().collect()
}

/// Everything that is stored, but for times of reading.
fn contents(world: &World) -> Vec<(String, Vec<u8>, std::time::SystemTime)> {
    let read = |name: String| {
        let path = world.dir().join(&name);
        let changed = std::fs::metadata(&path).unwrap().modified().unwrap();
        (name, std::fs::read(path).unwrap(), changed)
    };
    world.files("").into_iter().map(read).collect()
}

#[test]
fn a_whole_store_has_nothing_and_is_not_changed() {
    let (world, disks) = world();
    let before = contents(&world);
    let structure = world.check(ReadData::Nothing);
    assert_whole(&structure);
    assert_eq!(structure.index, IndexChecked::Compared);
    assert_eq!((structure.packs_read, structure.bytes_read), (0, 0));
    assert_eq!((structure.receipts, structure.owned, structure.bytes_void), (2, false, 0));
    let read = world.check(ReadData::Everything);
    assert_whole(&read);
    assert_eq!(read.packs_read, read.packs);
    let mut all: Vec<Reference> =
        disks.iter().flat_map(|disk| disk.objects.iter().map(|o| o.reference)).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(read.objects as usize, all.len());
    let nodes = all.iter().filter(|reference| reference.kind.is_node()).count();
    assert_eq!((read.nodes as usize, read.nodes_reached as usize), (nodes, nodes));
    assert!(contents(&world) == before, "the check changed the store");
}

#[test]
fn a_store_without_an_index_is_checked_by_its_packs() {
    let (world, _) = world();
    world.flip_in(chunk(2));
    std::fs::remove_dir_all(world.dir().join("index")).unwrap();
    std::fs::create_dir(world.dir().join("index")).unwrap();
    let before = contents(&world);
    assert_whole(&world.check(ReadData::Nothing));
    let report = world.check(ReadData::Everything);
    assert_eq!(report.index, IndexChecked::Absent);
    assert_eq!(hits(&report), ["alpha/sda: etc/one"]);
    assert!(contents(&world) == before, "the check changed the store");
}

#[test]
fn a_new_store_is_whole() {
    let world = World::with(&[]);
    assert_whole(&world.check(ReadData::Everything));
}

/// The owner goes on meanwhile: what it has not finished is no damage.
#[test]
fn a_store_is_checked_beside_its_owner() {
    let disks = two_disks();
    let world = World::with(&[&disks[0]]);
    let store = world.open();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seed = 1_000u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let name: &'static str = Box::leak(format!("disk-{seed}").into_boxed_str());
                let chunks: &'static [u64] = Box::leak(vec![seed, seed + 1].into_boxed_slice());
                let disk = disk("gamma", name, &[file("var", "grows", chunks)]);
                back_up(&store, &disk);
                seed += 2;
            }
        });
        let mut checks = 0;
        while checks < 12 || store.receipts().len() < 10 {
            checks += 1;
            let report = world.check(ReadData::Everything);
            assert!(report.owned);
            assert_whole(&report);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    back_up(&store, &disks[1]);
    // Damage below what the owner has synced is found all the same.
    let pack = world.pack_of(chunk(5));
    world.flip_in(chunk(5));
    let report = world.check(ReadData::Everything);
    assert!(report.owned);
    assert_eq!(hits(&report), ["alpha/sda: usr/same", "beta/vda: home/same again"]);
    assert_eq!(report.findings.list[0].path, pack);
    store.close().unwrap();
}

#[test]
fn a_share_of_the_packs_is_chosen_by_its_seed() {
    let (world, disks) = world();
    // Each owner has packs of its own.
    for seed in 50..54 {
        let chunks: &'static [u64] = Box::leak(vec![seed].into_boxed_slice());
        let store = world.open();
        back_up(&store, &disk(disks[0].machine, "more", &[file("", "more", chunks)]));
        store.close().unwrap();
    }
    let share = |millionths, seed| world.check(ReadData::Share { millionths, seed });
    let whole = world.check(ReadData::Everything);
    assert!(whole.packs >= 8, "{} packs are too few to choose from", whole.packs);
    assert_eq!(share(1, 7).packs_read, 1);
    assert_eq!(share(500_000, 7).packs_read, whole.packs.div_ceil(2));
    assert_eq!(share(1_000_000, 7).bytes_read, whole.bytes_read);
    assert_eq!(share(1, 7).seed, Some(7));
    world.flip_in(chunk(2));
    let found: Vec<bool> = (0..40).map(|seed| share(1, seed).is_damaged()).collect();
    let again: Vec<bool> = (0..40).map(|seed| share(1, seed).is_damaged()).collect();
    assert_eq!(found, again);
    assert!(found.contains(&true) && found.contains(&false), "{found:?}");
}

/// What a later backup brought again is damage still, but hits nobody.
#[test]
fn what_was_sent_again_hits_nobody() {
    let (world, disks) = world();
    let pack = world.pack_of(chunk(2));
    // Its table is lost, so that the next owner reads it and finds the damage.
    world.flip_in(chunk(2));
    world.harm(&pack, |bytes| bytes.truncate(bytes.len() - 20));
    let store = world.open();
    back_up(&store, &disks[0]);
    store.close().unwrap();
    let report = world.check(ReadData::Everything);
    assert_eq!(hits(&report), [""; 0]);
    assert!(report.lost.iter().all(|lost| lost.superseded), "{:?}", report.lost);
    assert!(report.is_damaged());
}
