//! The state of a simulated disk: contents and names as processes see them and as a power cut
//! leaves them, room, faults.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use super::{Fault, eio, sectors, write_at};
use crate::bytes::wide;
use crate::testing::random::Random;
use crate::vfs::parent;

/// What a file takes of the disk comes in pieces of this length.
const BLOCK_BYTES: u64 = 4096;

/// The disk of a simulation that says nothing else.
const TOTAL_BYTES: u64 = 100 << 30;

pub(super) struct Disk {
    pub(super) files: Vec<SimFile>,
    pub(super) names: BTreeMap<String, usize>,
    pub(super) dirs: BTreeSet<String>,
    pub(super) durable_names: BTreeMap<String, usize>,
    pub(super) durable_dirs: BTreeSet<String>,
    /// Changes to names that no directory sync covers yet.
    pub(super) unsynced_names: Vec<NameChange>,
    pub(super) operations: u64,
    pub(super) syncs: u64,
    pub(super) faults: BTreeMap<u64, Fault>,
    pub(super) sync_faults: BTreeMap<u64, Fault>,
    /// From this operation on everything fails so.
    pub(super) fault_from: Option<(u64, Fault)>,
    pub(super) faults_met: u64,
    pub(super) crashed: bool,
    /// What a failed sync made durable all the same.
    pub(super) partly: Option<Random>,
    pub(super) slow: Option<Random>,
    pub(super) total_bytes: u64,
    /// What others have of the disk.
    pub(super) others_bytes: u64,
    /// Blocks of the files and directories, in bytes.
    pub(super) used_bytes: u64,
    /// Files whose medium gives their bytes up.
    pub(super) unreadable: BTreeSet<usize>,
    /// Parts of files that cannot be read.
    pub(super) unreadable_ranges: Vec<(usize, std::ops::Range<u64>)>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            names: BTreeMap::new(),
            dirs: BTreeSet::new(),
            durable_names: BTreeMap::new(),
            durable_dirs: BTreeSet::new(),
            unsynced_names: Vec::new(),
            operations: 0,
            syncs: 0,
            faults: BTreeMap::new(),
            sync_faults: BTreeMap::new(),
            fault_from: None,
            faults_met: 0,
            crashed: false,
            partly: None,
            slow: None,
            total_bytes: TOTAL_BYTES,
            others_bytes: 0,
            used_bytes: 0,
            unreadable: BTreeSet::new(),
            unreadable_ranges: Vec::new(),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct SimFile {
    pub(super) data: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) unsynced: Vec<(u64, Vec<u8>)>,
    pub(super) locked: bool,
    /// Handles that are open: a removed file gives its room back with the last of them.
    pub(super) handles: usize,
}

impl SimFile {
    /// Its blocks, one of them for its name and inode.
    fn used_bytes(&self) -> u64 {
        blocks(wide(self.data.len())).saturating_add(BLOCK_BYTES)
    }
}

fn blocks(len: u64) -> u64 {
    len.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

#[derive(Clone)]
pub(super) enum NameChange {
    Dir(String),
    Add(String, usize),
    Rename { from: String, to: String, file: usize },
    Remove(String),
}

impl NameChange {
    pub(super) fn touches(&self, dir: &str) -> bool {
        match self {
            Self::Dir(path) | Self::Add(path, _) | Self::Remove(path) => parent(path) == dir,
            // One transaction of the file system: syncing either directory commits it.
            Self::Rename { from, to, .. } => parent(from) == dir || parent(to) == dir,
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<String, usize>, dirs: &mut BTreeSet<String>) {
        match self {
            Self::Dir(path) => {
                dirs.insert(path.clone());
            }
            Self::Add(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Rename { from, to, file } => {
                // The new name is durable even where the old one never was.
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl Disk {
    /// Counts an operation; says how it goes wrong, where it does.
    pub(super) fn fault(&mut self) -> io::Result<Option<Fault>> {
        let number = self.operations;
        self.operations = number.saturating_add(1);
        if self.crashed {
            return Err(eio());
        }
        let from = self.fault_from.filter(|(from, _)| number >= *from).map(|(_, fault)| fault);
        let fault = self.faults.remove(&number).or(from);
        self.meet(fault)
    }

    fn meet(&mut self, fault: Option<Fault>) -> io::Result<Option<Fault>> {
        self.faults_met = self.faults_met.saturating_add(u64::from(fault.is_some()));
        match fault {
            Some(Fault::Crash) => {
                self.crashed = true;
                Err(eio())
            }
            other => Ok(other),
        }
    }

    /// As `fault`, for operations that either happen or fail.
    pub(super) fn step(&mut self) -> io::Result<()> {
        happens(self.fault()?)
    }

    /// As `step`, for a sync.
    pub(super) fn sync_step(&mut self) -> io::Result<()> {
        let number = self.syncs;
        self.syncs = number.saturating_add(1);
        self.step()?;
        let fault = self.sync_faults.remove(&number);
        happens(self.meet(fault)?)
    }

    /// Syncs a file's content.
    pub(super) fn sync_file(&mut self, number: usize) -> io::Result<()> {
        let fault = self.sync_step();
        if self.crashed {
            // Nothing happened: who is killed here leaves the pages as they were.
            return fault;
        }
        let mut partly = self.partly.as_mut();
        let file = self.files.get_mut(number).ok_or_else(eio)?;
        let unsynced = std::mem::take(&mut file.unsynced);
        // As Linux does: after a failed sync the pages are clean, and lost with the power.
        for (offset, bytes) in &unsynced {
            for (at, piece) in sectors(*offset, bytes) {
                if fault.is_ok() || partly.as_mut().is_some_and(|random| random.chance(50)) {
                    write_at(&mut file.durable, at, piece);
                }
            }
        }
        fault
    }

    pub(super) fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names, &mut self.dirs);
        self.unsynced_names.push(change);
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.others_bytes).saturating_sub(self.used_bytes)
    }

    pub(super) fn set_free_bytes(&mut self, free_bytes: u64) {
        self.count_used();
        let kept = self.used_bytes.saturating_add(free_bytes);
        self.total_bytes = self.total_bytes.max(kept);
        self.others_bytes = self.total_bytes.saturating_sub(kept);
    }

    pub(super) fn set_capacity(&mut self, total_bytes: u64) {
        self.total_bytes = total_bytes;
        self.others_bytes = 0;
        self.count_used();
    }

    /// Counts what files with a name or a handle take, and directories.
    pub(super) fn count_used(&mut self) {
        let named: BTreeSet<usize> = self.names.values().copied().collect();
        let held = self.files.iter().enumerate();
        let held = held.filter(|(number, file)| file.handles > 0 || named.contains(number));
        let files = held.fold(0u64, |sum, (_, file)| sum.saturating_add(file.used_bytes()));
        let dirs = wide(self.dirs.len()).saturating_mul(BLOCK_BYTES);
        self.used_bytes = files.saturating_add(dirs);
    }

    /// Takes a block for a new name.
    pub(super) fn take_name(&mut self) -> io::Result<()> {
        if self.free_bytes() < BLOCK_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.used_bytes = self.used_bytes.saturating_add(BLOCK_BYTES);
        Ok(())
    }

    /// Takes the blocks for a write; returns how much of it they hold.
    pub(super) fn take_blocks(&mut self, number: usize, offset: u64, len: u64) -> io::Result<u64> {
        let file = self.files.get(number).ok_or_else(eio)?;
        let had = blocks(wide(file.data.len()));
        let room = had.saturating_add(self.free_bytes() / BLOCK_BYTES * BLOCK_BYTES);
        if len > 0 && room <= offset {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let fits = len.min(room.saturating_sub(offset));
        let more = blocks(offset.saturating_add(fits)).saturating_sub(had);
        self.used_bytes = self.used_bytes.saturating_add(more);
        Ok(fits)
    }

    pub(super) fn open_handle(&mut self, number: usize) {
        if let Some(file) = self.files.get_mut(number) {
            file.handles = file.handles.saturating_add(1);
        }
    }

    /// Closes a handle; a file without a name goes with the last.
    pub(super) fn close_handle(&mut self, number: usize, unlock: bool) {
        let Some(file) = self.files.get_mut(number) else { return };
        file.locked = file.locked && !unlock;
        file.handles = file.handles.saturating_sub(1);
        if file.handles == 0 {
            self.give_back(number);
        }
    }

    /// Gives the room of a file back that has neither a name nor a handle.
    pub(super) fn give_back(&mut self, number: usize) {
        let held = self.files.get(number).is_none_or(|file| file.handles > 0);
        if !held && !self.names.values().any(|other| *other == number) {
            let used = self.files.get(number).map_or(0, SimFile::used_bytes);
            self.used_bytes = self.used_bytes.saturating_sub(used);
        }
    }

    /// Says how long an operation waits before it happens.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        match self.slow.as_mut()?.below(32) {
            0 => self.slow.as_mut().map(|random| Duration::from_micros(random.below(300))),
            1..=8 => Some(Duration::ZERO),
            _ => None,
        }
    }
}

fn happens(fault: Option<Fault>) -> io::Result<()> {
    match fault {
        Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
        Some(Fault::Io) => Err(eio()),
        _ => Ok(()),
    }
}
