//! What a store claims after damage and crashes: that something is known means that it can be
//! read, with everything below it, and stays so.

use super::damage::{assert_known_is_whole, closed, copy, killed, unreadable};
use super::*;
use crate::ids::PackId;
use crate::index::{Batch, Index, PackState};
use crate::pack::open_name;
use crate::receipt::receipt_name;
use crate::session::Base;
use crate::vfs::Vfs;

/// A record of this store that says to be `victim` and holds something else.
fn forged_record(victim: &Object) -> Vec<u8> {
    let body = b"something quite else".to_vec();
    let forged = Object { plain_len: 20, body, codec: Codec::None, ..victim.clone() };
    encoded(&forged)
}

/// A record as this store writes it, whatever its id says.
fn encoded(object: &Object) -> Vec<u8> {
    let (store, domain, cipher, key_epoch) = (STORE, DOMAIN, 0, 0);
    let stored_body = &object.body;
    crate::pack::RecordDraft { store, domain, cipher, key_epoch, object, stored_body }.encode().1
}

#[test]
fn a_forged_record_behind_a_sound_one_is_no_record_of_ours() {
    let vfs = SimVfs::default();
    let rig = Rig { index: Some(KeptIndex::default()), ..sim_rig(&vfs) };
    init(&rig);
    let store = rig.open();
    let victim = object(Kind::Chunk, &[], b"what the id says");
    // The sound one proves its id; the forged one stands exactly behind it.
    let bait = encoded(&object(Kind::Chunk, &[], &content(9, 700)));
    let disk = [content(3, 1_000), bait, forged_record(&victim), content(6, 1_000)].concat();
    let packed = object(Kind::Chunk, &[], &disk);
    let carrier = Object { codec: Codec::None, body: disk, ..packed };
    let agent = begin(&store, "d", None);
    put_all(&store, &agent, std::slice::from_ref(&carrier));
    store.flush().unwrap();
    let killed = vfs.after_kill();
    drop(store);
    for (vfs, dir) in [(&vfs, "packs/"), (&killed, "open/")] {
        for with_index in [false, true] {
            let vfs = vfs.after_kill();
            let name = vfs.files().into_iter().find(|name| name.starts_with(dir)).unwrap();
            vfs.damage(&name, |bytes| {
                bytes[128 + 120 + 5] ^= 1;
                if dir == "packs/" {
                    // Its table is gone, too.
                    *bytes.last_mut().unwrap() ^= 1;
                }
            });
            let index = with_index.then(|| rig.index.as_ref().unwrap().copied());
            let rig = Rig { index, ..sim_rig(&vfs) };
            let store = rig.open();
            let what = format!("{dir}, index {with_index}");
            let found = store.get(DOMAIN, &victim.reference);
            assert!(matches!(found, Err(Error::NotFound { .. })), "{what}: {found:?}");
            let agent = begin(&store, "d", None);
            let victims = [victim.reference, carrier.reference];
            assert_eq!(store.known(&agent.session, &victims).unwrap(), [false, false], "{what}");
            let rebuilt = store.rebuild_index(Timestamp(9)).unwrap();
            assert_eq!(store.known(&agent.session, &victims).unwrap(), [false, false], "{what}");
            assert!(rebuilt.objects <= 1, "{what}");
            drop((agent, store));
            let reader = rig.open_reader();
            assert!(reader.get(DOMAIN, &victim.reference).is_err(), "{what}");
        }
    }
}

/// Nothing that is known is unreadable.
fn assert_known_is_readable(store: &Store, objects: &[Object], what: &str) {
    let agent = begin(store, "probe", None);
    for object in objects {
        if store.known(&agent.session, &[object.reference]).unwrap() == [true] {
            assert_eq!(store.get(DOMAIN, &object.reference).as_ref().ok(), Some(object), "{what}");
        }
    }
}

#[test]
fn a_damaged_pack_whose_sealing_the_index_missed_claims_nothing_that_is_gone() {
    let (vfs, rig, objects) = closed(true);
    for name in vfs.files().into_iter().filter(|name| is_pack(name)) {
        for with_row in [false, true] {
            let (vfs, rig) = copy(&vfs, &rig);
            // Killed between the rename and the row; then the disk rots.
            let index = rig.index.as_ref().unwrap();
            let pack = PackId::from_hex(name.rsplit('/').next().unwrap()).unwrap();
            let row = Index::pack(index, pack).unwrap().unwrap();
            let open = crate::PackRow { state: PackState::Open, ..row };
            let batch = if with_row {
                Batch { packs: vec![(pack, open)], ..Batch::default() }
            } else {
                Batch { remove_packs: vec![pack], ..Batch::default() }
            };
            index.apply(&batch).unwrap();
            vfs.damage(&name, |bytes| {
                bytes[128 + 120 + 5] ^= 1;
                *bytes.last_mut().unwrap() ^= 1;
            });
            let store = rig.open();
            assert!(!store.damage().is_empty());
            assert_known_is_readable(&store, &objects, &name);
            assert_known_is_whole(&store, &objects);
            let agent = begin(&store, "one", None);
            put_all(&store, &agent, &objects);
            commit(&store, &agent, &objects);
            assert_holds(&store, &objects);
        }
    }
}

#[test]
fn an_index_that_lost_rows_in_the_midst_of_others_is_made_anew() {
    let (vfs, rig, objects) = killed(true);
    for number in 0..objects.len() {
        let (_, rig) = copy(&vfs, &rig);
        let index = rig.index.as_ref().unwrap();
        let row = index.rows().unwrap()[number];
        index.apply(&Batch { remove: vec![row], ..Batch::default() }).unwrap();
        let store = rig.open();
        assert_eq!(store.damage(), []);
        assert_holds(&store, &objects);
        assert_known_is_whole(&store, &objects);
        let agent = begin(&store, "one", Some(objects.last().unwrap().reference.id));
        assert_eq!(agent.session.base(), Base::Pinned);
    }
}

#[test]
fn a_rebuild_without_room_still_proves_what_it_leaves_where_it_is() {
    let (vfs, rig, objects) = killed(true);
    let index = rig.index.as_ref().unwrap();
    let open: Vec<String> =
        vfs.files().into_iter().filter(|name| name.starts_with("open/")).collect();
    let packs = index.packs().unwrap();
    let nodes = index.rows().unwrap().into_iter().find(|(_, row)| row.kind.is_node()).unwrap();
    let nodes = packs.iter().find(|(pack, _)| *pack == nodes.1.pack).unwrap();
    let mut tried = 0;
    for lost in open.iter().filter(|name| **name != open_name(nodes.0)) {
        // The end of the node pack must be copied, and cannot; its beginning stays.
        for watermark in (200..nodes.1.watermark).step_by(100) {
            let (vfs, rig) = copy(&vfs, &rig);
            let index = rig.index.as_ref().unwrap();
            let rows = index.rows().unwrap();
            let ends = |row: &crate::Location| row.offset + u64::from(row.record_len);
            let here: Vec<_> = rows.iter().filter(|(_, row)| row.pack == nodes.0).collect();
            let kept = here.iter().filter(|(_, row)| ends(row) <= watermark);
            let watermark = kept.clone().map(|(_, row)| ends(row)).max().unwrap_or(128);
            let records = kept.count() as u32;
            let remove = here.iter().filter(|(_, row)| ends(row) > watermark);
            let row = crate::PackRow { state: PackState::Open, watermark, records };
            let batch = Batch {
                remove: remove.map(|row| **row).collect(),
                packs: vec![(nodes.0, row)],
                ..Batch::default()
            };
            index.apply(&batch).unwrap();
            vfs.lose(lost);
            vfs.set_free_bytes(3 << 30);
            let store = rig.open();
            assert!(!store.damage().is_empty());
            assert_known_is_whole(&store, &objects);
            drop(store);
            vfs.set_free_bytes(50 << 30);
            let store = rig.open();
            assert_known_is_whole(&store, &objects);
            let agent = begin(&store, "one", None);
            put_all(&store, &agent, &objects);
            commit(&store, &agent, &objects);
            assert_holds(&store, &objects);
            tried += 1;
        }
    }
    assert!(tried > 3, "{tried}");
}

#[test]
fn what_could_not_be_put_anew_for_want_of_room_is_put_anew_later() {
    let vfs = SimVfs::default();
    let rig = Rig { index: Some(KeptIndex::default()), ..sim_rig(&vfs) };
    init(&rig);
    let store = rig.open();
    let agent = begin(&store, "d", None);
    let (first, chunk) = (object(Kind::Chunk, &[], b"lucky"), object(Kind::Chunk, &[], b"unlucky"));
    put_all(&store, &agent, std::slice::from_ref(&first));
    store.flush().unwrap();
    // The sync of its pack fails: its bytes stand in the page cache alone.
    vfs.fault_at(vfs.operations() + 1, crate::testing::Fault::Io);
    store.put(&agent.session, 7, &chunk).unwrap();
    store.flush().unwrap();
    assert!(locked(&agent.told).failed.contains_key(&7));
    let vfs = vfs.after_kill();
    let index = rig.index.as_ref().map(KeptIndex::copied);
    let rig = Rig { index, ..sim_rig(&vfs) };
    vfs.set_free_bytes(3 << 30);
    drop(rig.open());
    vfs.set_free_bytes(50 << 30);
    drop(rig.open());
    // The power goes, and later the index.
    let rig = sim_rig(&vfs.after_power_cut(0));
    let store = rig.open();
    assert_known_is_readable(&store, &[first, chunk], "after the power cut");
    assert_eq!(store.damage(), []);
}

#[test]
fn a_receipt_that_is_damaged_before_the_log_names_it_does_not_stop_commits() {
    let (vfs, rig, objects) = closed(false);
    let second = receipt_name(2);
    let file = vfs.create_new(&second).unwrap();
    file.pwrite(b"rot", 0).unwrap();
    file.sync_data().unwrap();
    vfs.sync_dir("receipts").unwrap();
    let store = rig.open();
    assert!(store.damage().iter().any(|damage| damage.path == second));
    let receipt = back_up(&store, "two", &disk_objects("two", 50, 5));
    assert_eq!(receipt.sequence, 3);
    assert_holds(&store, &objects);
    assert_eq!(store.receipts().len(), 2);
}

#[test]
fn one_unreadable_file_does_not_keep_the_rest_from_being_restored() {
    for make in [closed, killed] {
        let (vfs, rig, objects) = make(false);
        let second = rig.open();
        back_up(&second, "two", &disk_objects("two", 100, 20));
        drop(second);
        for name in vfs
            .files()
            .iter()
            .filter(|name| *name != "LOCK" && *name != "FORMAT" && !name.ends_with(".parity"))
        {
            let (vfs, rig) = copy(&vfs, &rig);
            assert!(vfs.make_unreadable(name));
            let reader = rig.open_reader();
            assert!(reader.damage().iter().any(|damage| damage.path == *name), "{name}");
            let all = [objects.clone(), disk_objects("two", 100, 20)].concat();
            let bad = unreadable(&reader, &all);
            assert!(bad < all.len(), "{name}: nothing can be read");
            assert!(name.starts_with("packs/") || bad == 0, "{name}");
        }
    }
}

#[test]
fn a_directory_whose_name_could_not_be_synced_is_synced_later() {
    let vfs = SimVfs::default();
    for dir in ["a", "a/b"] {
        vfs.mkdir(dir).unwrap();
    }
    let dirs = crate::vfs::DurableDirs::default();
    vfs.fault_at(vfs.operations(), crate::testing::Fault::Io);
    assert!(dirs.ensure(&vfs, "a/b/c").is_err());
    assert_eq!(vfs.after_power_cut(0).list("").unwrap(), [""; 0]);
    dirs.ensure(&vfs, "a/b/c").unwrap();
    assert_eq!(vfs.after_power_cut(0).list("a/b").unwrap(), ["c"]);
    let before = vfs.operations();
    dirs.ensure(&vfs, "a/b/c").unwrap();
    assert_eq!(vfs.operations(), before);
}

#[test]
fn nodes_of_a_pack_that_was_never_synced_are_no_damage_when_the_index_is_lost() {
    let vfs = SimVfs::default();
    let rig = sim_rig(&vfs);
    init(&rig);
    let store = rig.open();
    let agent = begin(&store, "d", None);
    let chunk = object(Kind::Chunk, &[], b"lost");
    let page = object(Kind::MapPage, &[chunk.reference], b"page");
    put_all(&store, &agent, &[chunk.clone(), page.clone()]);
    store.flush().unwrap();
    // As a power cut before any sync may leave it: the chunk's pack never was, and of the other
    // the first sector is lost, which holds the header.
    let vfs = vfs.after_kill();
    let open: Vec<String> = vfs.files().into_iter().filter(|n| n.starts_with("open/")).collect();
    let nodes = open.iter().find(|name| has_bytes(&vfs, name, &page.reference.id)).unwrap();
    open.iter().filter(|name| *name != nodes).for_each(|name| assert!(vfs.lose(name)));
    vfs.damage(nodes, |bytes| bytes[..128].fill(0));
    let rig = sim_rig(&vfs);
    for _ in 0..2 {
        let store = rig.open();
        assert_eq!(store.damage(), []);
        assert_known_is_whole(&store, &[chunk.clone(), page.clone()]);
        let index = Box::new(MemoryIndexOpener);
        let options = crate::CheckOptions::new(index, crate::ReadData::Everything);
        drop(store);
        let report = crate::check(&rig.vfs, &options).unwrap();
        assert!(!report.is_damaged(), "{:?}", report.findings);
    }
}

#[test]
fn a_pack_that_was_taken_over_with_nothing_in_it_is_no_damage_when_it_is_short() {
    let vfs = SimVfs::default();
    let rig = Rig { index: Some(KeptIndex::default()), ..sim_rig(&vfs) };
    init(&rig);
    let store = rig.open();
    let agent = begin(&store, "d", None);
    let chunk = object(Kind::Chunk, &[], b"unlucky");
    vfs.fault_at_sync(vfs.syncs(), crate::testing::Fault::Io);
    put_all(&store, &agent, std::slice::from_ref(&chunk));
    store.flush().unwrap();
    assert!(agent.durable().is_empty());
    drop((agent, store));
    // The next owner copies the record out of the page cache, and the pack stays as it is.
    drop(rig.open());
    let vfs = vfs.after_power_cut(0);
    let index = rig.index.as_ref().unwrap();
    let options = crate::CheckOptions::new(Box::new(index.clone()), crate::ReadData::Everything);
    let report = crate::check(&sim_rig(&vfs).vfs, &options).unwrap();
    assert!(!report.is_damaged(), "{:?}", report.findings);
    assert_holds(&sim_rig(&vfs).open(), &[chunk]);
}

#[test]
fn nothing_is_dropped_because_there_was_no_room_to_take_packs_over() {
    let vfs = SimVfs::default();
    let rig = Rig { index: Some(KeptIndex::default()), ..sim_rig(&vfs) };
    init(&rig);
    let objects = disk_objects("one", 0, 30);
    let store = rig.open();
    let early = rig.index.as_ref().unwrap().copied();
    let receipt = back_up(&store, "one", &objects);
    // The power goes, and with it all that the index was told; then the disk is full.
    for sealed in [false, true] {
        let vfs = vfs.after_power_cut(0);
        let index = Some(early.copied());
        let rig = Rig { index, ..sim_rig(&vfs) };
        if sealed {
            // The nodes' pack was sealed just before.
            let nodes = objects.last().unwrap().reference.id;
            let open = vfs.files().into_iter().filter(|name| name.starts_with("open/"));
            let others: Vec<String> = open.filter(|name| !has_bytes(&vfs, name, &nodes)).collect();
            let kept = vfs.after_kill();
            others.iter().for_each(|name| assert!(vfs.lose(name)));
            drop(Rig { index: None, ..rig.clone() }.open());
            for name in &others {
                copy_file(&kept, &vfs, name);
            }
        }
        vfs.set_free_bytes(3 << 30);
        for _ in 0..3 {
            let store = rig.open();
            assert_holds(&store, &objects);
            assert_known_is_whole(&store, &objects);
            assert_eq!(store.damage(), []);
        }
        vfs.set_free_bytes(50 << 30);
        for _ in 0..2 {
            let store = rig.open();
            assert_holds(&store, &objects);
            assert_known_is_whole(&store, &objects);
            let agent = begin(&store, "one", Some(receipt.snapshot));
            assert_eq!(agent.session.base(), Base::Pinned);
            assert_eq!(store.damage(), []);
        }
    }
}

fn has_bytes(vfs: &SimVfs, name: &str, id: &ObjectId) -> bool {
    content_of(vfs, name).windows(32).any(|bytes| *bytes == id.0)
}

fn content_of(vfs: &SimVfs, name: &str) -> Vec<u8> {
    let file = vfs.open(name, crate::vfs::Access::Read).unwrap();
    let mut content = vec![0; file.len().unwrap() as usize];
    file.pread(&mut content, 0).unwrap();
    content
}

fn copy_file(from: &SimVfs, to: &SimVfs, name: &str) {
    let file = to.create_new(name).unwrap();
    file.pwrite(&content_of(from, name), 0).unwrap();
    file.sync_data().unwrap();
    to.sync_dir("open").unwrap();
}

#[test]
fn an_orphan_that_comes_to_life_is_durable() {
    let vfs = SimVfs::default();
    let rig = sim_rig(&vfs);
    init(&rig);
    let store = rig.open();
    let agent = begin(&store, "d", None);
    let chunk = object(Kind::Chunk, &[], b"lost, and sent again");
    let page = object(Kind::MapPage, &[chunk.reference], b"page");
    put_all(&store, &agent, std::slice::from_ref(&chunk));
    store.flush().unwrap();
    // The sync of the node's pack fails: its bytes stand in the page cache alone, for good.
    vfs.fault_at_sync(vfs.syncs(), crate::testing::Fault::Io);
    put_all(&store, &agent, std::slice::from_ref(&page));
    store.flush().unwrap();
    assert!(agent.durable() == [0].into() && locked(&agent.told).failed.contains_key(&0));
    // Killed; the index and the chunk's pack are lost, and the chunk is sent again.
    let vfs = vfs.after_kill();
    let open = vfs.files().into_iter().filter(|name| name.starts_with("open/"));
    let chunks: Vec<String> = open.filter(|n| !has_bytes(&vfs, n, &page.reference.id)).collect();
    assert_eq!(chunks.len(), 1);
    assert!(vfs.lose(&chunks[0]));
    let rig = sim_rig(&vfs);
    let store = rig.open();
    let agent = begin(&store, "d", None);
    assert_eq!(store.known(&agent.session, &[page.reference]).unwrap(), [false]);
    put_all(&store, &agent, std::slice::from_ref(&chunk));
    store.flush().unwrap();
    store.rebuild_index(Timestamp(9)).unwrap();
    assert_eq!(store.known(&agent.session, &[page.reference]).unwrap(), [true]);
    let rig = sim_rig(&vfs.after_power_cut(0));
    let store = rig.open();
    assert_holds(&store, &[chunk, page]);
    assert_eq!(store.damage(), []);
}
