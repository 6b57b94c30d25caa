//! Repairs: what parity or a copy gives back is made anew, the rest is known and healed by the next
//! backup; nothing that could be read is lost, wherever a repair is cut off.

use super::disks::{Disk, chunk, disk, file};
use super::parity::bytes_of;
use super::*;
use crate::ids::PackId;
use crate::index::{Index, Location};
use crate::pack::{Parity, contents_name, open_name, parity_name, sealed_name};
use crate::store::check::{CheckOptions, CheckReport, FindingKind, ReadData, check};
use crate::store::repair::{RepairOptions, RepairReport};
use crate::testing::Fault;

/// Two disks that share the file `same`, on a simulated disk; packs of 400 KiB and more.
pub(super) struct World {
    pub(super) vfs: SimVfs,
    pub(super) rig: Rig,
    pub(super) disks: [Disk; 2],
}

pub(super) fn world() -> World {
    let first = [
        file("etc", "one", &[1, 3, 15, 17, 19, 21, 25]),
        file("etc", "two", &[27, 29, 31, 33]),
        file("usr", "same", &[5, 7, 35]),
    ];
    let second = [file("home", "other", &[11, 37, 39]), file("home", "same", &[5, 7, 35])];
    let disks = [disk("alpha", "sda", &first), disk("beta", "vda", &second)];
    let vfs = SimVfs::default();
    let rig = Rig { index: Some(KeptIndex::default()), ..sim_rig(&vfs) };
    init(&rig);
    for disk in &disks {
        back_up(&rig.open(), disk.name, &disk.objects);
    }
    World { vfs, rig, disks }
}

impl World {
    /// A copy that can be harmed.
    pub(super) fn copy(&self) -> Self {
        let (vfs, rig) = damage::copy(&self.vfs, &self.rig);
        let disks = self.disks.each_ref();
        let disks = disks.map(|disk| Disk { objects: disk.objects.clone(), ..*disk });
        Self { vfs, rig, disks }
    }

    pub(super) fn find(&self, reference: Reference) -> Location {
        let key = Key { domain: DOMAIN, id: reference.id };
        Index::find(self.rig.index.as_ref().unwrap(), &key).unwrap().unwrap()
    }

    pub(super) fn check(&self, read: ReadData) -> CheckReport {
        let vfs: Arc<dyn Vfs> = Arc::new(self.vfs.clone());
        check(&vfs, &CheckOptions::new(self.rig.opener(), read)).unwrap()
    }

    /// Flips a bit in each record.
    pub(super) fn flip(&self, references: &[Reference]) {
        for reference in references {
            let place = self.find(*reference);
            let at = place.offset as usize + place.record_len as usize - 3;
            assert!(self.vfs.damage(&sealed_name(place.pack), |bytes| bytes[at] ^= 0x10));
        }
    }

    /// Flips bits in so many shards of a pack, the last bit of the file never among them.
    fn flip_shards(&self, pack: PackId, shards: &[usize]) {
        let object = bytes_of(&self.vfs, &parity_name(pack));
        let parity = Parity::decode(&object, "p").unwrap();
        self.vfs.damage(&sealed_name(pack), |bytes| {
            for shard in shards {
                let at = shard * parity.shard_bytes as usize;
                let end = (at + parity.shard_bytes as usize).min(bytes.len());
                bytes[at..end].fill(0xee);
            }
        });
    }

    fn shards(&self, pack: PackId) -> usize {
        let object = bytes_of(&self.vfs, &parity_name(pack));
        Parity::decode(&object, "p").unwrap().data.len()
    }

    /// Takes all parity away.
    fn lose_parity(&self) {
        let names: Vec<String> = self.vfs.files();
        names.iter().filter(|name| name.ends_with(".parity")).for_each(|name| {
            assert!(self.vfs.lose(name));
        });
    }

    /// Repairs what a check finds.
    pub(super) fn repair(&self, store: &Store) -> RepairReport {
        repair(self, store).unwrap()
    }

    fn all(&self) -> Vec<Object> {
        self.disks.iter().flat_map(|disk| disk.objects.clone()).collect()
    }

    fn packs(&self) -> Vec<PackId> {
        let names = self.vfs.files().into_iter().filter(|name| is_pack(name));
        names.map(|name| PackId::from_hex(name.rsplit('/').next().unwrap()).unwrap()).collect()
    }
}

fn repair(world: &World, store: &Store) -> Result<RepairReport> {
    let report = world.check(ReadData::Everything);
    let index = [FindingKind::IndexRow, FindingKind::Index];
    let rebuild_index = index.iter().any(|kind| report.findings.totals.contains_key(kind));
    let options = RepairOptions { packs: report.damaged_packs, rebuild_index, dry_run: false };
    store.repair(&options, Timestamp(40))
}

/// Nothing is wrong but what is known.
fn assert_sound(report: &CheckReport, what: &str) {
    assert!(!report.is_damaged(), "{what}: {:?} {:?}", report.findings.list, report.lost);
    assert_eq!(report.findings.damage(), 0, "{what}");
}

/// The same ids are found when the index is made anew, and each reads.
fn assert_same_rebuilt(world: &World, what: &str) {
    let before = world.rig.index.as_ref().unwrap().rows().unwrap();
    let rig = Rig { index: Some(KeptIndex::default()), ..world.rig.clone() };
    drop(rig.open());
    let after = rig.index.as_ref().unwrap().rows().unwrap();
    let keys = |rows: &[(Key, Location)]| {
        rows.iter().map(|(key, row)| (*key, row.kind, row.incomplete)).collect::<Vec<_>>()
    };
    assert_eq!(keys(&before), keys(&after), "{what}");
}

#[test]
fn each_shard_in_turn_is_made_anew() {
    let world = world();
    let mut tried = 0;
    for pack in world.packs() {
        let count = world.shards(pack);
        for shard in 0..count {
            for second in [None, Some((shard + 1 + tried % 7) % count)] {
                let world = world.copy();
                let mut shards = vec![shard];
                shards.extend(second.filter(|second| *second != shard));
                let what = format!("{pack} {shards:?} of {count}");
                world.flip_shards(pack, &shards);
                assert!(world.check(ReadData::Everything).is_damaged(), "{what}");
                let store = world.rig.open();
                let report = world.repair(&store);
                assert_eq!(report.lost, 0, "{what}: {report:?}");
                assert_holds(&store, &world.all());
                assert_sound(&world.check(ReadData::Everything), &what);
                drop(store);
                assert_sound(&world.check(ReadData::Everything), &what);
                let store = world.rig.open();
                assert_eq!(store.damage(), [], "{what}");
                // The index was not made anew for it, and nothing is sent twice.
                let agent = begin(&store, "sda", Some(world.disks[0].snapshot().id));
                assert_eq!(agent.session.base(), Base::Pinned, "{what}");
                assert_holds(&store, &world.all());
                drop((agent, store));
                assert_same_rebuilt(&world, &what);
                tried += 1;
            }
        }
    }
    println!("{tried} damaged packs");
}

#[test]
fn three_shards_are_too_many_and_the_next_backup_heals() {
    let world = world();
    let mut lost = 0;
    for pack in world.packs() {
        let count = world.shards(pack);
        for first in (0..count.saturating_sub(2)).step_by(5) {
            let world = world.copy();
            let what = format!("{pack} {first}.. of {count}");
            world.flip_shards(pack, &[first, first + 1, first + 2]);
            let store = world.rig.open();
            let objects = world.all();
            let readable: Vec<Object> = objects
                .iter()
                .filter(|object| store.get(DOMAIN, &object.reference).is_ok())
                .cloned()
                .collect();
            let report = world.repair(&store);
            assert!(report.lost > 0 || report.from_copies > 0 || first + 3 >= count, "{what}");
            lost += report.lost;
            assert_holds(&store, &readable);
            damage::assert_known_is_whole(&store, &objects);
            let found = world.check(ReadData::Everything);
            let hit = report.lost > 0;
            assert_eq!(found.is_damaged(), hit, "{what}: {:?}", found.findings.list);
            assert_eq!(!found.snapshots.is_empty(), hit, "{what}");
            drop(store);
            assert_same_rebuilt(&world, &what);
            let store = world.rig.open();
            assert_eq!(store.damage(), [], "{what}: what is known is no news");
            for disk in &world.disks {
                let base = disk.snapshot().id;
                let is_hit = found.snapshots.iter().any(|hit| hit.snapshot == base);
                let agent = begin(&store, disk.name, Some(base));
                assert_eq!(agent.session.base() == Base::Gone, is_hit, "{what}");
                put_all(&store, &agent, &disk.objects);
                commit(&store, &agent, &disk.objects);
            }
            assert_holds(&store, &objects);
            drop(store);
            let healed = world.check(ReadData::Everything);
            assert_sound(&healed, &what);
            assert_eq!(healed.snapshots.len(), 0);
            assert_same_rebuilt(&world, &what);
            // There is nothing left to be done.
            let store = world.rig.open();
            let again = world.repair(&store);
            assert_eq!((again.lost, again.from_parity, again.quarantined), (0, 0, 0), "{what}");
        }
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn headers_and_tables_are_made_up_for() {
    let world = world();
    for parity in [true, false] {
        for pack in world.packs() {
            let name = sealed_name(pack);
            let len = bytes_of(&world.vfs, &name).len();
            for at in [3, 8, 20, 50, 100, len - 1, len - 45, len - 60, len - 100] {
                let world = world.copy();
                if !parity {
                    world.lose_parity();
                }
                let what = format!("{name} byte {at} of {len}, parity {parity}");
                world.vfs.damage(&name, |bytes| bytes[at] ^= 4);
                let store = world.rig.open();
                let report = world.repair(&store);
                assert_eq!((report.lost, report.from_parity), (0, 0), "{what}: {report:?}");
                assert_holds(&store, &world.all());
                drop(store);
                assert_sound(&world.check(ReadData::Everything), &what);
                assert_eq!(world.vfs.files().contains(&contents_name(pack)), at > 128, "{what}");
                let store = world.rig.open();
                assert_eq!(store.damage(), [], "{what}");
                assert_holds(&store, &world.all());
                drop(store);
                assert_same_rebuilt(&world, &what);
            }
        }
    }
}

#[test]
fn a_pack_that_is_cut_short_or_gone() {
    let world = world();
    for pack in world.packs() {
        let name = sealed_name(pack);
        let len = bytes_of(&world.vfs, &name).len();
        for keep in [0, 100, len / 3, len.saturating_sub(9_000), len - 100, len - 1] {
            for gone in [false, true] {
                let world = world.copy();
                let what = format!("{name} cut to {keep}, gone {gone}");
                let store = world.rig.open();
                match gone {
                    true => assert!(world.vfs.lose(&name)),
                    false => assert!(world.vfs.damage(&name, |bytes| bytes.truncate(keep))),
                }
                let report = world.repair(&store);
                let lost = report.lost > 0;
                let object = bytes_of(&world.vfs, &parity_name(pack));
                let parity = Parity::decode(&object, "p").unwrap();
                let shard = parity.shard_bytes as usize;
                let cut = if gone { 99 } else { parity.data.len() - keep / shard };
                assert_eq!(lost, cut > 2, "{what}: {report:?}");
                damage::assert_known_is_whole(&store, &world.all());
                let found = world.check(ReadData::Everything);
                assert_eq!(found.is_damaged(), lost, "{what}: {:?}", found.findings.list);
                for disk in &world.disks {
                    let agent = begin(&store, disk.name, None);
                    put_all(&store, &agent, &disk.objects);
                    commit(&store, &agent, &disk.objects);
                }
                assert_holds(&store, &world.all());
                drop(store);
                assert_sound(&world.check(ReadData::Everything), &what);
                let store = world.rig.open();
                assert_eq!(store.damage(), [], "{what}");
                assert_holds(&store, &world.all());
            }
        }
    }
}

#[test]
fn another_sound_copy_is_read_from_then_on() {
    let world = world();
    world.lose_parity();
    // Sent again while the first was thought to be lost, and then that one rots.
    let store = world.rig.open();
    let first = world.find(chunk(5));
    world.flip(&[chunk(5)]);
    world.repair(&store);
    let agent = begin(&store, "sda", None);
    put_all(&store, &agent, &world.disks[0].objects);
    store.flush().unwrap();
    drop((agent, store));
    let second = world.find(chunk(5));
    assert_ne!((first.pack, first.offset), (second.pack, second.offset));
    world.lose_parity();
    // The first is sound again: somebody brought the file back.
    let at = first.offset as usize + first.record_len as usize - 3;
    assert!(world.vfs.damage(&sealed_name(first.pack), |bytes| bytes[at] ^= 0x10));
    world.flip(&[chunk(5)]);
    let store = world.rig.open();
    let report = world.repair(&store);
    assert_eq!((report.lifted, report.lost), (1, 0), "{report:?}");
    assert_holds(&store, &world.all());
    drop(store);
    assert_sound(&world.check(ReadData::Everything), "after");
    assert_eq!(world.find(chunk(5)).pack, first.pack);
    assert_same_rebuilt(&world, "after");
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing() {
    let world = world();
    world.flip(&[chunk(5)]);
    let pack = world.find(chunk(1)).pack;
    let options = |dry_run| RepairOptions {
        packs: world.check(ReadData::Everything).damaged_packs,
        rebuild_index: false,
        dry_run,
    };
    let store = world.rig.open();
    let rows = world.rig.index.as_ref().unwrap().rows().unwrap();
    let (files, operations) = (world.vfs.files(), world.vfs.operations());
    let said = store.repair(&options(true), Timestamp(30)).unwrap();
    assert!(said.dry_run && said.from_parity == 1, "{said:?}");
    assert_eq!((world.vfs.files(), world.vfs.operations()), (files, operations));
    assert_eq!(world.rig.index.as_ref().unwrap().rows().unwrap(), rows);
    let done = store.repair(&options(false), Timestamp(30)).unwrap();
    assert_eq!((done.from_parity, done.quarantined), (1, 1));
    assert_eq!(said.packs, done.packs);
    assert!(pack != world.find(chunk(5)).pack);
}

#[test]
fn damaged_parity_is_made_anew() {
    let world = world();
    for pack in world.packs() {
        let name = parity_name(pack);
        let len = bytes_of(&world.vfs, &name).len();
        for at in [0, 9, 70, len - 1] {
            let world = world.copy();
            world.vfs.damage(&name, |bytes| bytes[at] ^= 1);
            let report = world.check(ReadData::Everything);
            let kinds: Vec<_> = report.findings.totals.keys().copied().collect();
            assert_eq!(kinds, [FindingKind::Parity], "{name} {at}");
            let store = world.rig.open();
            assert!(world.repair(&store).packs.iter().any(|told| told.parity));
            drop(store);
            assert_sound(&world.check(ReadData::Everything), &name);
        }
    }
}

/// A repair that is cut off at each of its operations, then an opening, a repair, a backup.
#[test]
fn a_crash_at_every_operation_of_a_repair() {
    let whole = world();
    let mut points = 0;
    let cases: [(&str, bool); 3] = [("parity", true), ("nothing", false), ("both", true)];
    for (case, parity) in cases {
        let harmed = whole.copy();
        if !parity {
            harmed.lose_parity();
        }
        match case {
            "both" => {
                let page = harmed.disks[0].of_kind(Kind::MapPage)[0];
                let pack = harmed.find(page).pack;
                harmed.flip(&[chunk(5), page]);
                harmed.flip_shards(harmed.find(chunk(1)).pack, &[2, 3, 4]);
                harmed.vfs.damage(&sealed_name(pack), |bytes| *bytes.last_mut().unwrap() ^= 1);
            }
            _ => harmed.flip(&[chunk(5), chunk(1)]),
        }
        for at in 0.. {
            let world = harmed.copy();
            let store = world.rig.open();
            store.inner.parity.wait_idle();
            let objects = world.all();
            let readable: Vec<Object> = objects
                .iter()
                .filter(|object| store.get(DOMAIN, &object.reference).is_ok())
                .cloned()
                .collect();
            let start = world.vfs.operations();
            world.vfs.fault_at(start + at, Fault::Crash);
            let done = repair(&world, &store);
            let kept = world.rig.index.as_ref().unwrap().copied();
            let cut = world.vfs.operations() > start + at;
            let ends = [
                world.vfs.after_kill(),
                world.vfs.after_power_cut(0),
                world.vfs.after_power_cut(at + 1),
            ];
            let before = harmed.rig.index.as_ref().unwrap().copied();
            drop(store);
            for (number, after) in ends.into_iter().enumerate() {
                // The end of the index may be lost too.
                for index in [kept.copied(), before.copied()] {
                    let what = format!("{case}, operation {at}, end {number}");
                    let after = after.after_kill();
                    let rig = Rig { index: Some(index), ..sim_rig(&after) };
                    let world = World { vfs: after, rig, disks: world.copy().disks };
                    let store = match world.rig.try_open(OpenMode::ReadWrite) {
                        Ok(store) => store,
                        Err(error) => panic!("{what}: {error}"),
                    };
                    assert_holds(&store, &readable);
                    damage::assert_known_is_whole(&store, &objects);
                    world.repair(&store);
                    assert_holds(&store, &readable);
                    damage::assert_known_is_whole(&store, &objects);
                    for disk in &world.disks {
                        let agent = begin(&store, disk.name, None);
                        put_all(&store, &agent, &disk.objects);
                        commit(&store, &agent, &disk.objects);
                    }
                    assert_holds(&store, &objects);
                    drop(store);
                    assert_sound(&world.check(ReadData::Everything), &what);
                    points += 1;
                }
            }
            if !cut {
                assert!(done.is_ok(), "{case}: {:?}", done.err());
                break;
            }
        }
    }
    println!("{points} ends of repairs");
    assert!(points > 100, "{points}");
}

#[test]
fn a_check_keeps_below_its_limit_and_tells_how_far_it_is() {
    let world = world();
    let told = Arc::new(Mutex::new(Vec::new()));
    let vfs: Arc<dyn Vfs> = Arc::new(world.vfs.clone());
    let mut options = CheckOptions::new(world.rig.opener(), ReadData::Everything);
    let sink = Arc::clone(&told);
    options.progress = Some(Box::new(move |progress| locked(&sink).push(progress)));
    let bytes = check(&vfs, &options).unwrap().bytes;
    let whole = locked(&told).iter().max_by_key(|progress| progress.packs).copied().unwrap();
    assert_eq!((whole.packs, whole.bytes), (whole.packs_total, bytes));
    assert_eq!(locked(&told).len() as u64, whole.packs);
    // All but the last pack are waited for.
    options.limit_bytes = std::num::NonZeroU64::new(bytes * 4);
    let began = std::time::Instant::now();
    check(&vfs, &options).unwrap();
    assert!(began.elapsed().as_millis() > 5, "{:?}", began.elapsed());
}

#[test]
fn a_repair_and_a_rebuild_keep_each_other_out() {
    let world = world();
    let store = world.rig.open();
    let guard = store.inner.maintenance.begin("a test").unwrap();
    assert!(matches!(store.rebuild_index(Timestamp(1)), Err(Error::Busy { .. })));
    let options = RepairOptions::default();
    assert!(matches!(store.repair(&options, Timestamp(1)), Err(Error::Busy { .. })));
    drop(guard);
    store.rebuild_index(Timestamp(1)).unwrap();
    store.repair(&options, Timestamp(1)).unwrap();
    let reader = world.rig.open_reader();
    assert!(matches!(reader.repair(&options, Timestamp(1)), Err(Error::ReadOnly)));
    assert!(!world.vfs.files().contains(&open_name(world.packs()[0])));
}
