//! Files in memory that forget, at a crash, what was not synced, and fail where they are told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bytes::{narrow, wide};
use crate::vfs::{Access, Space, Vfs, VfsFile, parent};

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails for want of space.
    NoSpace,
    /// It fails with EIO; a sync that does has lost what it should have made durable.
    Io,
    /// A write writes half of what it should; other operations succeed.
    Short,
    /// It does not happen, and nothing happens after it.
    Crash,
}

/// Files in memory. Clones share them.
#[derive(Clone)]
pub struct SimVfs {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    files: Vec<SimFile>,
    names: BTreeMap<String, usize>,
    dirs: BTreeSet<String>,
    durable_names: BTreeMap<String, usize>,
    durable_dirs: BTreeSet<String>,
    /// Changes to names that no directory sync covers yet.
    unsynced_names: Vec<NameChange>,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    /// From this operation on everything fails so.
    fault_from: Option<(u64, Fault)>,
    crashed: bool,
    free_bytes: u64,
    /// Files whose medium gives their bytes up.
    unreadable: BTreeSet<usize>,
    /// Parts of files that cannot be read.
    unreadable_ranges: Vec<(usize, std::ops::Range<u64>)>,
}

#[derive(Clone, Default)]
struct SimFile {
    data: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
    locked: bool,
}

#[derive(Clone)]
enum NameChange {
    Dir(String),
    Add(String, usize),
    Rename { from: String, to: String, file: usize },
    Remove(String),
}

impl NameChange {
    fn touches(&self, dir: &str) -> bool {
        match self {
            Self::Dir(path) | Self::Add(path, _) | Self::Remove(path) => parent(path) == dir,
            // One transaction of the file system: syncing either directory commits it.
            Self::Rename { from, to, .. } => parent(from) == dir || parent(to) == dir,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, usize>, dirs: &mut BTreeSet<String>) {
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

impl Default for SimVfs {
    fn default() -> Self {
        let disk = Disk { free_bytes: 100 << 30, ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }
}

/// A small generator of pseudo-random numbers (splitmix64).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl SimVfs {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many operations that change something were tried so far.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Lets the operation with this number (from 0) meet a fault.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.disk().faults.insert(operation, fault);
    }

    /// Takes every fault back that no operation has met yet.
    ///
    /// How many operations a piece of work takes depends on how its threads meet: a fault meant for
    /// the last of them may otherwise wait for whatever the test does next.
    pub fn clear_faults(&self) {
        let mut disk = self.disk();
        disk.faults.clear();
        disk.fault_from = None;
    }

    /// Lets every operation from this number on meet a fault; `None` ends that.
    pub fn fault_from(&self, from: Option<(u64, Fault)>) {
        self.disk().fault_from = from;
    }

    /// Sets how much room is left.
    pub fn set_free_bytes(&self, free_bytes: u64) {
        self.disk().free_bytes = free_bytes;
    }

    /// Returns the disk as a power cut would leave it now: each unsynced write and name may have
    /// survived, in part or not, as the seed says; seed 0 loses them all.
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let disk = self.disk();
        let mut random = seed;
        let mut survives = || seed != 0 && next_random(&mut random).is_multiple_of(2);
        let mut files = Vec::new();
        for file in &disk.files {
            let mut durable = file.durable.clone();
            for (offset, bytes) in &file.unsynced {
                for (sector, piece) in bytes.chunks(512).enumerate() {
                    if survives() {
                        let at = offset.saturating_add(wide(sector).saturating_mul(512));
                        write_at(&mut durable, at, piece);
                    }
                }
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
        Self::rebooted(files, names, dirs, disk.free_bytes)
    }

    /// Returns the disk as a killed process leaves it: everything written is there, and what was
    /// not synced still is not.
    pub fn after_kill(&self) -> Self {
        let disk = self.disk();
        let copy = Disk {
            files: disk.files.iter().map(|f| SimFile { locked: false, ..f.clone() }).collect(),
            names: disk.names.clone(),
            dirs: disk.dirs.clone(),
            durable_names: disk.durable_names.clone(),
            durable_dirs: disk.durable_dirs.clone(),
            unsynced_names: disk.unsynced_names.clone(),
            free_bytes: disk.free_bytes,
            ..Disk::default()
        };
        Self { disk: Arc::new(Mutex::new(copy)) }
    }

    fn rebooted(
        files: Vec<SimFile>,
        names: BTreeMap<String, usize>,
        dirs: BTreeSet<String>,
        free_bytes: u64,
    ) -> Self {
        let disk = Disk {
            files,
            durable_names: names.clone(),
            names,
            durable_dirs: dirs.clone(),
            dirs,
            free_bytes,
            ..Disk::default()
        };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// Changes the bytes of a file behind everybody's back; false where there is none.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut disk = self.disk();
        let Some(number) = disk.names.get(path).copied() else { return false };
        let Some(file) = disk.files.get_mut(number) else { return false };
        change(&mut file.data);
        file.durable = file.data.clone();
        file.unsynced.clear();
        true
    }

    /// Lets every reading of a file fail with EIO; false where there is none.
    pub fn make_unreadable(&self, path: &str) -> bool {
        let mut disk = self.disk();
        let Some(number) = disk.names.get(path).copied() else { return false };
        disk.unreadable.insert(number)
    }

    /// Lets every reading of these bytes of a file fail with EIO; false where there is no such file.
    pub fn make_unreadable_at(&self, path: &str, range: std::ops::Range<u64>) -> bool {
        let mut disk = self.disk();
        let Some(number) = disk.names.get(path).copied() else { return false };
        disk.unreadable_ranges.push((number, range));
        true
    }

    /// Removes a file behind everybody's back; false where there is none.
    pub fn lose(&self, path: &str) -> bool {
        let mut disk = self.disk();
        disk.durable_names.remove(path);
        disk.names.remove(path).is_some()
    }

    /// Returns the names of all files.
    pub fn files(&self) -> Vec<String> {
        self.disk().names.keys().cloned().collect()
    }
}

fn write_at(data: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = narrow(offset);
    let end = start.saturating_add(bytes.len());
    if data.len() < end {
        data.resize(end, 0);
    }
    if let Some(place) = data.get_mut(start..end) {
        place.copy_from_slice(bytes);
    }
}

fn eio() -> io::Error {
    io::Error::other("a simulated fault")
}

impl Disk {
    /// Counts an operation; says how it goes wrong, where it does.
    fn fault(&mut self) -> io::Result<Option<Fault>> {
        let number = self.operations;
        self.operations = number.saturating_add(1);
        if self.crashed {
            return Err(eio());
        }
        let from = self.fault_from.filter(|(from, _)| number >= *from).map(|(_, fault)| fault);
        let fault = self.faults.get(&number).copied().or(from);
        match fault {
            Some(Fault::Crash) => {
                self.crashed = true;
                Err(eio())
            }
            other => Ok(other),
        }
    }

    /// As `fault`, for operations that either happen or fail.
    fn step(&mut self) -> io::Result<()> {
        match self.fault()? {
            Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Io) => Err(eio()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names, &mut self.dirs);
        self.unsynced_names.push(change);
    }
}

impl Vfs for SimVfs {
    fn open(&self, path: &str, _access: Access) -> io::Result<Arc<dyn VfsFile>> {
        let disk = self.disk();
        let file = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimHandle { disk: Arc::clone(&self.disk), file, locks: Mutex::new(false) }))
    }

    fn create_new(&self, path: &str) -> io::Result<Arc<dyn VfsFile>> {
        let mut disk = self.disk();
        disk.step()?;
        let dir = parent(path);
        if !dir.is_empty() && !disk.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = disk.files.len();
        disk.files.push(SimFile::default());
        disk.change(NameChange::Add(path.to_owned(), file));
        Ok(Arc::new(SimHandle { disk: Arc::clone(&self.disk), file, locks: Mutex::new(false) }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let disk = self.disk();
        if !dir.is_empty() && !disk.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let all = disk.names.keys().chain(&disk.dirs).filter(|path| parent(path) == dir);
        let last = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut names: Vec<String> = all.map(last).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn mkdir(&self, dir: &str) -> io::Result<bool> {
        let mut disk = self.disk();
        if dir.is_empty() || disk.dirs.contains(dir) {
            return Ok(false);
        }
        disk.step()?;
        disk.change(NameChange::Dir(dir.to_owned()));
        Ok(true)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        let disk = &mut *disk;
        let (synced, rest): (Vec<_>, Vec<_>) =
            disk.unsynced_names.drain(..).partition(|change| change.touches(dir));
        for change in synced {
            change.apply(&mut disk.durable_names, &mut disk.durable_dirs);
        }
        disk.unsynced_names = rest;
        Ok(())
    }

    fn rename_no_replace(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        if disk.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        disk.change(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), file });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        if !disk.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space { free_bytes: self.disk().free_bytes, total_bytes: 100 << 30 })
    }
}

struct SimHandle {
    disk: Arc<Mutex<Disk>>,
    file: usize,
    locks: Mutex<bool>,
}

impl SimHandle {
    fn with<T>(&self, run: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        run(&mut self.disk.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl VfsFile for SimHandle {
    fn pread(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|disk| {
            let end = offset.saturating_add(wide(buf.len()));
            let hit = |(file, range): &(usize, std::ops::Range<u64>)| {
                *file == self.file && range.start < end && offset < range.end
            };
            if disk.unreadable.contains(&self.file) || disk.unreadable_ranges.iter().any(hit) {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
            }
            let file = disk.files.get(self.file).ok_or_else(eio)?;
            let rest = file.data.get(narrow(offset)..).unwrap_or_default();
            let len = rest.len().min(buf.len());
            buf.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            Ok(len)
        })
    }

    fn pwrite(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.with(|disk| {
            let len = match disk.fault()? {
                Some(Fault::NoSpace) => return Err(io::ErrorKind::StorageFull.into()),
                Some(Fault::Io) => return Err(eio()),
                Some(Fault::Short) => buf.len().div_ceil(2),
                _ => buf.len(),
            };
            let bytes = buf.get(..len).unwrap_or_default();
            let file = disk.files.get_mut(self.file).ok_or_else(eio)?;
            write_at(&mut file.data, offset, bytes);
            file.unsynced.push((offset, bytes.to_vec()));
            Ok(len)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk| {
            let fault = disk.step();
            let file = disk.files.get_mut(self.file).ok_or_else(eio)?;
            let unsynced = std::mem::take(&mut file.unsynced);
            // As Linux does: after a failed sync the pages are clean, and lost with the power.
            fault?;
            for (offset, bytes) in unsynced {
                write_at(&mut file.durable, offset, &bytes);
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|disk| Ok(wide(disk.files.get(self.file).ok_or_else(eio)?.data.len())))
    }

    fn try_lock(&self) -> io::Result<bool> {
        let taken = self.with(|disk| {
            let file = disk.files.get_mut(self.file).ok_or_else(eio)?;
            Ok(!std::mem::replace(&mut file.locked, true))
        })?;
        *self.locks.lock().unwrap_or_else(PoisonError::into_inner) |= taken;
        Ok(taken)
    }
}

impl Drop for SimHandle {
    fn drop(&mut self) {
        if *self.locks.lock().unwrap_or_else(PoisonError::into_inner) {
            let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(file) = disk.files.get_mut(self.file) {
                file.locked = false;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
}
