//! The disk after a power cut, and after a kill.

use std::collections::BTreeSet;

use super::disk::{Disk, NameChange, SimFile};
use super::{SimVfs, sectors, write_at};
use crate::testing::random::Random;
use crate::vfs::parent;

impl SimVfs {
    /// Returns the disk as a power cut would leave it now: each unsynced write and name may have
    /// survived, in part or not, as the seed says; seed 0 loses them all.
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let disk = self.disk();
        let mut random = Random::new(seed, "power cut");
        let mut survives = || seed != 0 && random.chance(50);
        let mut files = Vec::new();
        for file in &disk.files {
            let mut durable = file.durable.clone();
            for (offset, bytes) in &file.unsynced {
                for (at, piece) in sectors(*offset, bytes) {
                    if survives() {
                        write_at(&mut durable, at, piece);
                    }
                }
            }
            if !file.unsynced.is_empty() && durable.len() < file.data.len() && survives() {
                // The length was written, and what should stand there was not.
                durable.resize(file.data.len(), 0);
            }
            files.push(SimFile { data: durable.clone(), durable, ..SimFile::default() });
        }
        let mut names = disk.durable_names.clone();
        let mut dirs = disk.durable_dirs.clone();
        for change in &disk.unsynced_names {
            // An Add after whose Rename the file already has its new name is void.
            let moved = matches!(change, NameChange::Add(_, file)
                if names.values().any(|other| other == file));
            if survives() && !moved {
                change.apply(&mut names, &mut dirs);
            }
        }
        // What stands in a directory whose own name is gone cannot be reached.
        let reachable = |path: &str, dirs: &BTreeSet<String>| {
            let mut above = parent(path);
            while !above.is_empty() && dirs.contains(above) {
                above = parent(above);
            }
            above.is_empty()
        };
        let all = dirs.clone();
        dirs.retain(|dir| reachable(dir, &all));
        names.retain(|name, _| reachable(name, &all));
        let (durable_names, durable_dirs) = (names.clone(), dirs.clone());
        disk.started_again(Disk {
            files,
            names,
            dirs,
            durable_names,
            durable_dirs,
            ..Disk::default()
        })
    }

    /// Returns the disk as a killed process leaves it: everything written is there, and what was
    /// not synced still is not.
    pub fn after_kill(&self) -> Self {
        let disk = self.disk();
        let fresh = |file: &SimFile| SimFile { locked: false, handles: 0, ..file.clone() };
        disk.started_again(Disk {
            files: disk.files.iter().map(fresh).collect(),
            names: disk.names.clone(),
            dirs: disk.dirs.clone(),
            durable_names: disk.durable_names.clone(),
            durable_dirs: disk.durable_dirs.clone(),
            unsynced_names: disk.unsynced_names.clone(),
            ..Disk::default()
        })
    }
}

impl Disk {
    /// Gives a disk without faults the room of this one.
    fn started_again(&self, mut again: Self) -> SimVfs {
        again.total_bytes = self.total_bytes;
        again.others_bytes = self.others_bytes;
        again.unreadable.clone_from(&self.unreadable);
        again.unreadable_ranges.clone_from(&self.unreadable_ranges);
        again.count_used();
        SimVfs::of(again)
    }
}
