//! Parity beside packs: made, made up for, and never in anybody's way.

use super::*;
use crate::pack::{Parity, parity_name, sealed_name};
use crate::store::tests::damage::closed;
use crate::testing::Fault;

fn packs_of(vfs: &SimVfs) -> Vec<String> {
    vfs.files().into_iter().filter(|name| is_pack(name)).collect()
}

pub(super) fn bytes_of(vfs: &SimVfs, name: &str) -> Vec<u8> {
    let mut found = Vec::new();
    assert!(vfs.damage(name, |bytes| found.clone_from(bytes)), "{name}");
    found
}

/// Each pack has its parity, which fits.
fn assert_parity(vfs: &SimVfs) {
    let packs = packs_of(vfs);
    assert!(!packs.is_empty());
    for name in packs {
        let object = bytes_of(vfs, &format!("{name}.parity"));
        let parity = Parity::decode(&object, &name).unwrap();
        assert_eq!(sealed_name(parity.pack), name);
        assert_eq!(parity_name(parity.pack), format!("{name}.parity"));
        assert_eq!(parity.sound_recovery(&object).len(), 2);
        assert!(parity.damaged_shards(&bytes_of(vfs, &name)).is_empty());
    }
}

#[test]
fn sealed_packs_get_parity_before_the_store_is_closed() {
    let (vfs, rig, objects) = closed(true);
    assert_parity(&vfs);
    let store = rig.open();
    assert_holds(&store, &objects);
    assert!(store.status().unwrap().packs_sealed > 1);
    assert_eq!(store.status().unwrap().packs_sealed as usize, packs_of(&vfs).len());
}

#[test]
fn what_was_not_made_is_made_after_the_next_opening() {
    let (vfs, rig, _) = closed(true);
    let packs = packs_of(&vfs);
    packs.iter().for_each(|name| assert!(vfs.lose(&format!("{name}.parity"))));
    // A reader makes none.
    drop(rig.open_reader());
    assert!(vfs.files().iter().all(|name| !name.ends_with(".parity")));
    // There is none of damaged bytes: it would make the damage look like what was written.
    vfs.damage(&packs[0], |bytes| bytes[200] ^= 1);
    let store = rig.open();
    store.inner.parity.wait_idle();
    assert!(!vfs.files().contains(&format!("{}.parity", packs[0])));
    drop(store);
    vfs.damage(&packs[0], |bytes| bytes[200] ^= 1);
    let store = rig.open();
    store.inner.parity.wait_idle();
    assert_parity(&vfs);
    drop(store);
}

#[test]
fn without_room_there_is_none_and_nobody_minds() {
    let vfs = SimVfs::default();
    let rig = sim_rig(&vfs);
    init(&rig);
    let objects = disk_objects("one", 0, 30);
    let store = rig.open();
    back_up(&store, "one", &objects);
    vfs.set_free_bytes(2 << 30);
    drop(store);
    assert!(vfs.files().iter().all(|name| !name.ends_with(".parity")));
    assert_holds(&rig.open(), &objects);
}

#[test]
fn a_pack_goes_with_its_parity() {
    let (vfs, rig, _) = closed(false);
    let store = rig.open();
    let packs = store.inner.sealed_packs().unwrap();
    store.inner.delete_pack(packs[0]).unwrap();
    assert!(!vfs.files().iter().any(|name| name.starts_with(&sealed_name(packs[0]))));
}

#[test]
fn a_fault_while_parity_is_made_hurts_nothing() {
    let (vfs, rig, objects) = closed(true);
    for name in packs_of(&vfs) {
        vfs.lose(&format!("{name}.parity"));
    }
    for fault in [Fault::NoSpace, Fault::Io, Fault::Short, Fault::Crash] {
        for at in 0.. {
            let (vfs, rig) = damage::copy(&vfs, &rig);
            let store = rig.open();
            store.inner.parity.wait_idle();
            let operations = vfs.operations();
            drop(store);
            // Again, with the fault at some operation of opening and making.
            let vfs = vfs.after_kill();
            for name in packs_of(&vfs) {
                vfs.lose(&format!("{name}.parity"));
            }
            let (vfs, rig) = damage::copy(&vfs, &rig);
            vfs.fault_at(at, fault);
            if let Ok(store) = rig.try_open(OpenMode::ReadWrite) {
                store.inner.parity.wait_idle();
            }
            vfs.clear_faults();
            for after in [vfs.after_kill(), vfs.after_power_cut(at)] {
                let rig = Rig { vfs: Arc::new(after.clone()), ..rig.clone() };
                let store = rig.open();
                store.inner.parity.wait_idle();
                assert_holds(&store, &objects);
                assert_eq!(store.damage(), []);
                assert_parity(&after);
            }
            if at > operations {
                break;
            }
        }
    }
}

/// What parity costs a backup: `cargo test -p umbra-store --release -- --ignored --nocapture cost`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    let bytes = content(3, 16 << 20);
    let began = std::time::Instant::now();
    for _ in 0..8 {
        Parity::make(STORE, crate::ids::PackId([1; 16]), &bytes).unwrap();
    }
    println!("parity of 16 MiB: {:?}", began.elapsed() / 8);
    let chunks: Vec<Object> =
        (0..3_200u64).map(|n| object(Kind::Chunk, &[], &content(n * 3, 128 << 10))).collect();
    for round in 0..3 {
        for parity in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let vfs: Arc<dyn Vfs> = Arc::new(RealVfs::new(dir.path()));
            Store::init(&vfs, &InitOptions { store: STORE, now: Timestamp(1) }).unwrap();
            let index = Box::new(MemoryIndexOpener);
            let owner = OpenOptions::owner(index, fresh_seed(), 1, Timestamp(1));
            let store = Store::open(vfs, OpenOptions { parity, ..owner }).unwrap();
            let began = std::time::Instant::now();
            let agent = begin(&store, "d", None);
            put_all(&store, &agent, &chunks);
            store.flush().unwrap();
            let flushed = began.elapsed();
            drop(agent);
            store.close().unwrap();
            println!("{round} parity {parity}: flushed {flushed:?}, closed {:?}", began.elapsed());
        }
    }
}
