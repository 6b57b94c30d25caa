//! Salvage: what can be read is in the copy, the rest is named, and the copy is a whole store.

use super::repair::{World, world};
use super::*;
use crate::store::check::ReadData;
use crate::store::salvage::{SalvageOptions, SalvageReport, salvage};

fn salvaged(world: &World) -> (World, SalvageReport) {
    let to = SimVfs::default();
    let from: Arc<dyn Vfs> = Arc::new(world.vfs.clone());
    let target: Arc<dyn Vfs> = Arc::new(to.clone());
    let options = SalvageOptions { seed: fresh_seed(), now: Timestamp(60) };
    let report = salvage(&from, &target, &options).unwrap();
    let rig = Rig { index: Some(KeptIndex::default()), ..sim_rig(&to) };
    (World { vfs: to, rig, disks: world.copy().disks }, report)
}

fn all(world: &World) -> Vec<Object> {
    world.disks.iter().flat_map(|disk| disk.objects.clone()).collect()
}

/// What is left can be read, and a backup makes the copy whole.
fn assert_goes_on(copy: &World, readable: &[Object], what: &str) {
    let store = copy.rig.open();
    assert_eq!(store.id(), STORE, "{what}");
    assert_holds(&store, readable);
    damage::assert_known_is_whole(&store, &all(copy));
    for disk in &copy.disks {
        let agent = begin(&store, disk.name, None);
        put_all(&store, &agent, &disk.objects);
        commit(&store, &agent, &disk.objects);
    }
    assert_holds(&store, &all(copy));
    drop(store);
    let report = copy.check(ReadData::Everything);
    assert!(!report.is_damaged(), "{what}: {:?}", report.findings.list);
}

#[test]
fn a_whole_store_is_copied_whole() {
    let world = world();
    let receipts = world.rig.open_reader().receipts();
    let (copy, report) = salvaged(&world);
    assert_eq!((report.records_lost, report.packs_in_part, report.receipts), (0, 0, 2));
    assert_eq!(report.log_entries_lost, 0);
    let check = copy.check(ReadData::Everything);
    assert!(!check.is_damaged(), "{:?}", check.findings.list);
    assert_eq!(copy.rig.open_reader().receipts(), receipts);
    assert_goes_on(&copy, &all(&world), "whole");
    // Not into a store, and not from one that somebody owns.
    let from: Arc<dyn Vfs> = Arc::new(world.vfs.clone());
    let options = SalvageOptions { seed: fresh_seed(), now: Timestamp(60) };
    let again = salvage(&from, &copy.rig.vfs, &options);
    assert!(matches!(again, Err(Error::NotEmpty { .. })));
    let _owner = world.rig.open();
    let empty: Arc<dyn Vfs> = Arc::new(SimVfs::default());
    assert!(matches!(salvage(&from, &empty, &options), Err(Error::Locked { .. })));
}

/// Sectors of 4096 bytes anywhere, 200 of them in the last round, that cannot be read.
#[test]
fn sectors_that_cannot_be_read() {
    let world = world();
    let mut random = 7u64;
    let mut lost_somewhere = 0;
    for round in 0..21 {
        let sectors = if round == 20 { 200 } else { 1 + round / 2 };
        for parity in [true, false] {
            let world = world.copy();
            if !parity {
                let names = world.vfs.files();
                names.iter().filter(|name| name.ends_with(".parity")).for_each(|name| {
                    assert!(world.vfs.lose(name));
                });
            }
            let targets: Vec<(String, u64)> = world
                .vfs
                .files()
                .into_iter()
                .filter(|name| !["LOCK", "FORMAT"].contains(&name.as_str()))
                .map(|name| {
                    let len = super::parity::bytes_of(&world.vfs, &name).len() as u64;
                    (name, len)
                })
                .collect();
            let total: u64 = targets.iter().map(|(_, len)| len.div_ceil(4096)).sum();
            for _ in 0..sectors {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let mut sector = (random >> 20) % total;
                let hit = targets.iter().find(|(_, len)| {
                    let here = sector < len.div_ceil(4096);
                    sector -= if here { 0 } else { len.div_ceil(4096) };
                    here
                });
                let at = sector * 4096;
                assert!(world.vfs.make_unreadable_at(&hit.unwrap().0, at..at + 4096));
            }
            let what = format!("round {round}, {sectors} sectors, parity {parity}");
            let (copy, report) = salvaged(&world);
            let reader = copy.rig.open_reader();
            let objects = all(&world);
            let readable: Vec<Object> = objects
                .iter()
                .filter(|object| reader.get(DOMAIN, &object.reference).is_ok())
                .cloned()
                .collect();
            drop(reader);
            let lost = objects.len() - readable.len();
            lost_somewhere += lost;
            // Every object whose sectors can be read is there, parity or not.
            let old = world.rig.open_reader();
            for object in &objects {
                if old.get(DOMAIN, &object.reference).is_ok() {
                    assert!(readable.contains(object), "{what}: {:?}", object.reference);
                }
            }
            let check = copy.check(ReadData::Everything);
            assert_eq!(lost > 0, !check.lost.is_empty(), "{what}: {report:?}");
            if parity && sectors == 1 {
                assert_eq!((lost, report.records_lost), (0, 0), "{what}: {report:?}");
            }
            assert_goes_on_unless_receipts(&copy, &readable, &report, &what);
        }
    }
    assert!(lost_somewhere > 20, "{lost_somewhere}");
}

/// A receipt that is lost stays named; everything else is as in a whole store.
fn assert_goes_on_unless_receipts(
    copy: &World,
    readable: &[Object],
    report: &SalvageReport,
    what: &str,
) {
    if report.receipts_lost == 0 && report.log_entries_lost == 0 {
        assert_goes_on(copy, readable, what);
    } else {
        assert_holds(&copy.rig.open(), readable);
    }
}

#[test]
fn open_packs_of_a_killed_vault_come_along() {
    let (vfs, rig, objects) = damage::killed(true);
    let to = SimVfs::default();
    let from: Arc<dyn Vfs> = Arc::new(vfs.clone());
    let target: Arc<dyn Vfs> = Arc::new(to.clone());
    let options = SalvageOptions { seed: fresh_seed(), now: Timestamp(60) };
    let report = salvage(&from, &target, &options).unwrap();
    assert!(report.packs_in_part > 0 && report.records_lost == 0, "{report:?}");
    assert_holds(&Rig { vfs: target, index: None, ..rig }.open(), &objects);
}
