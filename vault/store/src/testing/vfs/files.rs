//! The operations on a simulated disk.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::disk::{Disk, NameChange, SimFile};
use super::{Fault, SimVfs, eio, write_at};
use crate::bytes::{narrow, wide};
use crate::vfs::{Access, Space, Vfs, VfsFile, parent};

impl SimVfs {
    /// Waits, where the disk is a slow one; nobody else waits for that.
    fn pause(&self) {
        pause(&self.disk);
    }

    fn handle(&self, disk: &mut Disk, file: usize) -> Arc<dyn VfsFile> {
        disk.open_handle(file);
        Arc::new(SimHandle { disk: Arc::clone(&self.disk), file, locks: Mutex::new(false) })
    }
}

fn pause(disk: &Mutex<Disk>) {
    let pause = disk.lock().unwrap_or_else(PoisonError::into_inner).pause();
    match pause {
        Some(Duration::ZERO) => std::thread::yield_now(),
        Some(pause) => std::thread::sleep(pause),
        None => {}
    }
}

impl Vfs for SimVfs {
    fn open(&self, path: &str, _access: Access) -> io::Result<Arc<dyn VfsFile>> {
        let mut disk = self.disk();
        let file = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(&mut disk, file))
    }

    fn create_new(&self, path: &str) -> io::Result<Arc<dyn VfsFile>> {
        self.pause();
        let mut disk = self.disk();
        disk.step()?;
        let dir = parent(path);
        if !dir.is_empty() && !disk.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.take_name()?;
        let file = disk.files.len();
        disk.files.push(SimFile::default());
        disk.change(NameChange::Add(path.to_owned(), file));
        Ok(self.handle(&mut disk, file))
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
        disk.take_name()?;
        disk.change(NameChange::Dir(dir.to_owned()));
        Ok(true)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.pause();
        let mut disk = self.disk();
        disk.sync_step()?;
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
        self.pause();
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
        self.pause();
        let mut disk = self.disk();
        disk.step()?;
        let file = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        disk.change(NameChange::Remove(path.to_owned()));
        disk.give_back(file);
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let disk = self.disk();
        Ok(Space { free_bytes: disk.free_bytes(), total_bytes: disk.total_bytes })
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
        pause(&self.disk);
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
        pause(&self.disk);
        self.with(|disk| {
            let len = match disk.fault()? {
                Some(Fault::NoSpace) => return Err(io::ErrorKind::StorageFull.into()),
                Some(Fault::Io) => return Err(eio()),
                Some(Fault::Short) => buf.len().div_ceil(2),
                _ => buf.len(),
            };
            let len = narrow(disk.take_blocks(self.file, offset, wide(len))?);
            let bytes = buf.get(..len).unwrap_or_default();
            let file = disk.files.get_mut(self.file).ok_or_else(eio)?;
            write_at(&mut file.data, offset, bytes);
            file.unsynced.push((offset, bytes.to_vec()));
            Ok(len)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        pause(&self.disk);
        self.with(|disk| disk.sync_file(self.file))
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
        let locks = *self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.close_handle(self.file, locks);
    }
}
