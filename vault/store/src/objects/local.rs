//! Objects as files: written aside, synced, renamed without replacing, directory synced.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use umbra_common::ByteRange;

use super::{ObjectInfo, ObjectStore};
use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::vfs::{Access, DurableDirs, Vfs, parent, read_ranges, write_all};

/// Objects in a store's own directory; half written ones lie in `tmp/`.
pub struct LocalObjects {
    vfs: Arc<dyn Vfs>,
    aside: AtomicU64,
    dirs: DurableDirs,
}

impl LocalObjects {
    /// Stands for the objects in the directory of `vfs`.
    pub fn new(vfs: Arc<dyn Vfs>) -> Self {
        Self { vfs, aside: AtomicU64::new(0), dirs: DurableDirs::default() }
    }

    /// Removes what an earlier process left half written. Only for the store's owner.
    ///
    /// # Errors
    /// What the storage says.
    pub fn clear_aside(&self) -> Result<()> {
        for name in list_or_none(&*self.vfs, "tmp")? {
            let path = format!("tmp/{name}");
            self.vfs.remove(&path).map_err(|error| Error::io("remove", &path, error))?;
        }
        Ok(())
    }

    fn write_aside(&self, aside: &str, bytes: &[u8]) -> Result<()> {
        let file = self.vfs.create_new(aside).map_err(|error| Error::io("create", aside, error))?;
        write_all(&*file, aside, bytes, 0)?;
        pass(Point::AsideWritten);
        file.sync_data().map_err(|error| Error::io("sync", aside, error))?;
        pass(Point::AsideSynced);
        Ok(())
    }
}

impl ObjectStore for LocalObjects {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let number = self.aside.fetch_add(1, Ordering::Relaxed);
        let aside = format!("tmp/{}.{number}", name.replace('/', "_"));
        let dir = parent(name);
        self.dirs.ensure(&*self.vfs, dir)?;
        let renamed = self.write_aside(&aside, bytes).and_then(|()| {
            self.vfs.rename_no_replace(&aside, name).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Error::Exists { name: name.to_owned() },
                _ => Error::io("rename to", name, error),
            })
        });
        if let Err(error) = renamed {
            // The first error counts; what stays in tmp/ goes at the next opening.
            let _ = self.vfs.remove(&aside);
            return Err(error);
        }
        pass(Point::AsideRenamed);
        self.vfs.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
        pass(Point::AsideNamed);
        Ok(())
    }

    fn get_ranges(&self, name: &str, ranges: &[ByteRange]) -> Result<Vec<Vec<u8>>> {
        let file =
            self.vfs.open(name, Access::Read).map_err(|error| Error::io("open", name, error))?;
        read_ranges(&*file, name, ranges)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        match self.vfs.open(name, Access::Read) {
            Ok(file) => {
                let len = file.len().map_err(|error| Error::io("measure", name, error))?;
                Ok(Some(ObjectInfo { name: name.to_owned(), len }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", name, error)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let dir = prefix.trim_end_matches('/');
        let mut names = Vec::new();
        for name in list_or_none(&*self.vfs, dir)? {
            let path = format!("{dir}/{name}");
            // Packs stand one level deeper, in directories of two digits.
            if dir == "packs" && name.len() == 2 {
                names.extend(
                    list_or_none(&*self.vfs, &path)?.iter().map(|inner| format!("{path}/{inner}")),
                );
            } else {
                names.push(path);
            }
        }
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.vfs.remove(name).map_err(|error| Error::io("remove", name, error))?;
        let dir = parent(name);
        self.vfs.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))
    }
}

/// Lists a directory; one that does not exist has no names.
pub(crate) fn list_or_none(vfs: &dyn Vfs, dir: &str) -> Result<Vec<String>> {
    match vfs.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| Error::io("list", dir, error)),
    }
}
