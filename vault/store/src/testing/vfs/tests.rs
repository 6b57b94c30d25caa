//! That the simulated disk loses, tears, fills and fails as it says.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::vfs::{Access, Space, Vfs, VfsFile};

fn content(vfs: &SimVfs, path: &str) -> Option<Vec<u8>> {
    let file = vfs.open(path, Access::Read).ok()?;
    let mut buf = vec![0; narrow(file.len().unwrap())];
    file.pread(&mut buf, 0).unwrap();
    Some(buf)
}

#[test]
fn a_power_cut_takes_what_was_not_synced() {
    let vfs = SimVfs::default();
    let file = vfs.create_new("a").unwrap();
    file.pwrite(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(content(&vfs.after_power_cut(0), "a"), None);
    vfs.sync_dir("").unwrap();
    file.pwrite(b" and not", 6).unwrap();
    assert_eq!(content(&vfs.after_power_cut(0), "a").unwrap(), b"synced");
    assert_eq!(content(&vfs.after_kill(), "a").unwrap(), b"synced and not");
    let file = vfs.open("a", Access::Write).unwrap();
    vfs.fault_at(vfs.operations(), Fault::Io);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(content(&vfs.after_power_cut(0), "a").unwrap(), b"synced");
    assert_eq!(content(&vfs, "a").unwrap(), b"synced and not");
}

/// A file whose name and first bytes are durable.
fn durable(vfs: &SimVfs, path: &str, bytes: &[u8]) -> std::sync::Arc<dyn VfsFile> {
    let file = vfs.create_new(path).unwrap();
    file.pwrite(bytes, 0).unwrap();
    file.sync_data().unwrap();
    vfs.sync_dir("").unwrap();
    file
}

#[test]
fn a_full_disk_takes_what_fits_and_gives_back_what_is_removed() {
    let vfs = SimVfs::default();
    vfs.set_capacity(10 * 4096);
    let file = vfs.create_new("a").unwrap();
    assert_eq!(vfs.free_bytes(), 9 * 4096);
    assert_eq!(file.pwrite(&[1; 5000], 0).unwrap(), 5000);
    assert_eq!(vfs.free_bytes(), 7 * 4096);
    // Within the blocks that it has, then more than there is room for.
    assert_eq!(file.pwrite(&[1; 3192], 5000).unwrap(), 3192);
    assert_eq!(vfs.free_bytes(), 7 * 4096);
    assert_eq!(file.pwrite(&[2; 100_000], 8192).unwrap(), 7 * 4096);
    assert_eq!(file.pwrite(&[2], 9 * 4096).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(vfs.create_new("b").err().unwrap().kind(), io::ErrorKind::StorageFull);
    assert_eq!(vfs.mkdir("d").unwrap_err().kind(), io::ErrorKind::StorageFull);
    // What stands there can be written over; what is removed is given back with its last handle.
    assert_eq!(file.pwrite(&[3; 4096], 0).unwrap(), 4096);
    vfs.remove("a").unwrap();
    assert_eq!(vfs.free_bytes(), 0);
    drop(file);
    assert_eq!(vfs.space().unwrap(), Space { free_bytes: 10 * 4096, total_bytes: 10 * 4096 });
    // A kill closes handles.
    let file = vfs.create_new("c").unwrap();
    file.pwrite(&[1; 4096], 0).unwrap();
    vfs.remove("c").unwrap();
    assert_eq!((vfs.free_bytes(), vfs.after_kill().free_bytes()), (8 * 4096, 10 * 4096));
    // Others take room, too.
    vfs.set_free_bytes(4096);
    assert_eq!(file.pwrite(&[1; 9000], 4096).unwrap(), 4096);
    assert_eq!(vfs.space().unwrap(), Space { free_bytes: 0, total_bytes: 10 * 4096 });
}

#[test]
fn a_power_cut_tears_writes_and_reorders_them_across_files() {
    let vfs = SimVfs::default();
    let (a, b) = (durable(&vfs, "a", b""), durable(&vfs, "b", b""));
    // Four sectors, of which the first and the last are shared with what was there.
    a.pwrite(&[1; 1536], 256).unwrap();
    b.pwrite(&[2; 512], 0).unwrap();
    let (mut torn, mut later_alone, mut zeros_at_end, mut lengths) = (0, 0, 0, 0);
    for seed in 1..200 {
        let after = vfs.after_power_cut(seed);
        let (a, b) = (content(&after, "a").unwrap(), content(&after, "b").unwrap());
        assert!(a.len() <= 1792 && a.iter().take(256).all(|byte| *byte == 0));
        let sectors: Vec<bool> = [256..512, 512..1024, 1024..1536, 1536..1792]
            .map(|sector| a.get(sector).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 1)))
            .to_vec();
        let bytes = a.iter().filter(|byte| **byte == 1).count();
        let lens = [256, 512, 512, 256];
        let whole = sectors.iter().zip(lens).map(|(there, len)| usize::from(*there) * len).sum();
        assert_eq!(bytes, whole, "a sector is there whole or not at all");
        torn += usize::from(sectors[1] != sectors[2]);
        later_alone += usize::from(!sectors.contains(&true) && b.contains(&2));
        zeros_at_end += usize::from(a.last() == Some(&0));
        lengths += usize::from(a.len() == 1792 && !sectors[3]);
    }
    assert!(torn > 50 && later_alone > 2 && zeros_at_end > 10, "{torn} {later_alone}");
    assert_eq!(lengths, zeros_at_end);
}

#[test]
fn the_sync_that_was_named_fails_and_may_have_done_some_of_its_work() {
    let vfs = SimVfs::default();
    let file = durable(&vfs, "a", &[1; 8192]);
    vfs.fault_at_sync(vfs.syncs() + 1, Fault::Io);
    assert!(vfs.has_faults());
    file.pwrite(&[2; 512], 0).unwrap();
    file.sync_data().unwrap();
    file.pwrite(&[3; 8192], 0).unwrap();
    assert!(file.sync_data().is_err());
    assert!(!vfs.has_faults());
    assert_eq!(vfs.faults_met(), 1);
    file.sync_data().unwrap();
    let lost = content(&vfs.after_power_cut(9), "a").unwrap();
    assert_eq!((lost[0], lost.contains(&3)), (2, false));
    // With part of its work done, whatever the power cut does.
    vfs.fail_partly(Some(1));
    vfs.fault_at_sync(vfs.syncs(), Fault::Io);
    file.pwrite(&[4; 8192], 0).unwrap();
    assert!(file.sync_data().is_err());
    let part = content(&vfs.after_power_cut(0), "a").unwrap();
    assert!(part.contains(&4) && part.contains(&1));
}

#[test]
fn a_kill_at_a_sync_leaves_what_a_later_sync_makes_durable() {
    let vfs = SimVfs::default();
    let file = durable(&vfs, "a", b"1");
    file.pwrite(b"2", 0).unwrap();
    vfs.fault_at_sync(vfs.syncs(), Fault::Crash);
    assert!(file.sync_data().is_err() && vfs.is_halted());
    let after = vfs.after_kill();
    after.open("a", Access::Write).unwrap().sync_data().unwrap();
    assert_eq!(content(&after.after_power_cut(0), "a").unwrap(), b"2");
    // A halt is a crash that no operation was chosen for.
    after.halt();
    assert!(after.create_new("b").is_err());
    assert!(after.after_kill().create_new("b").is_ok());
}

#[test]
fn harm_says_what_it_hit_and_hits_nothing_else() {
    for seed in 0..100 {
        for harm in Harm::ALL {
            let vfs = SimVfs::default();
            let bytes: Vec<u8> = (0..6_000u32).map(|at| (at / 256 + 1) as u8).collect();
            durable(&vfs, "a", &bytes);
            durable(&vfs, "b", &bytes);
            let hit = vfs.harm(seed, harm, |name| name == "b").unwrap();
            assert_eq!((hit.harm, hit.path.as_str()), (harm, "b"));
            assert_eq!(vfs.harm(seed, harm, |name| name == "c"), None);
            assert_eq!(content(&vfs, "a").unwrap(), bytes);
            let (at, end) = (hit.at as usize, (hit.at + hit.len) as usize);
            match harm {
                Harm::Lost => assert_eq!(content(&vfs, "b"), None),
                Harm::Unreadable => {
                    let mut buf = [0];
                    assert!(vfs.open("b", Access::Read).unwrap().pread(&mut buf, 0).is_err());
                }
                Harm::CutShort => assert_eq!(content(&vfs, "b").unwrap(), bytes[..at]),
                _ => {
                    let after = content(&vfs, "b").unwrap();
                    assert_eq!(after.len(), bytes.len());
                    assert_eq!((&after[..at], &after[end..]), (&bytes[..at], &bytes[end..]));
                    assert!(after[at] != bytes[at] && after[end - 1] != bytes[end - 1]);
                    let flipped: u32 =
                        after.iter().zip(&bytes).map(|(a, b)| (a ^ b).count_ones()).sum();
                    assert_eq!(flipped == 1, harm == Harm::BitFlip, "{hit}");
                    if harm == Harm::Swapped {
                        let sorted = |bytes: &[u8]| {
                            let mut sorted = bytes.to_vec();
                            sorted.sort_unstable();
                            sorted
                        };
                        assert_eq!(sorted(&after), sorted(&bytes));
                    }
                }
            }
            let same = SimVfs::default();
            durable(&same, "b", &bytes);
            assert_eq!(same.harm(seed, harm, |_| true), Some(hit), "the same seed, the same hit");
        }
    }
}

#[test]
fn a_slow_disk_lets_its_callers_wait() {
    let vfs = SimVfs::default();
    let file = durable(&vfs, "a", &[0; 8]);
    vfs.slow_down(Some(3));
    let begun = std::time::Instant::now();
    for _ in 0..2_000 {
        file.pwrite(&[1], 0).unwrap();
    }
    // About 62 sleeps of 150 microseconds; a sleep is never shorter than it should be.
    assert!(begun.elapsed() > std::time::Duration::from_millis(4), "{:?}", begun.elapsed());
    vfs.slow_down(None);
    assert_eq!(vfs.disk().pause(), None);
}
