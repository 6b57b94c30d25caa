//! Journal segments as files of the store's directory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use umbra_common::{ByteLen, ByteOffset, ByteRange};

use super::{Journal, Segment};
use crate::bytes::wide;
use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::objects::{ObjectStore, list_or_none};
use crate::vfs::{Access, DurableDirs, Vfs, VfsFile, parent, read_ranges, write_all};

/// How a sealed segment becomes an object.
#[derive(Clone)]
pub enum SealTo {
    /// Both are files of one directory tree: by a rename.
    Rename,
    /// Objects lie elsewhere: by one `put_new` of the whole.
    PutNew(Arc<dyn ObjectStore>),
}

/// Segments in the directory of a [`Vfs`].
pub struct LocalJournal {
    vfs: Arc<dyn Vfs>,
    seal_to: SealTo,
    dirs: DurableDirs,
}

impl LocalJournal {
    /// Stands for the segments in the directory of `vfs`.
    pub fn new(vfs: Arc<dyn Vfs>, seal_to: SealTo) -> Self {
        Self { vfs, seal_to, dirs: DurableDirs::default() }
    }

    fn open(&self, name: &str) -> Result<Arc<dyn VfsFile>> {
        self.vfs.open(name, Access::Read).map_err(|error| Error::io("open", name, error))
    }

    fn segment(&self, name: &str, file: Arc<dyn VfsFile>) -> LocalSegment {
        LocalSegment {
            vfs: Arc::clone(&self.vfs),
            name: name.to_owned(),
            file,
            position: AtomicU64::new(0),
            named: AtomicBool::new(false),
            torn: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
        }
    }
}

/// Returns the error of making a segment whose name may be taken.
fn taken(action: &'static str, name: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { name: name.to_owned() },
        _ => Error::io(action, name, error),
    }
}

impl Journal for LocalJournal {
    fn create(&self, name: &str) -> Result<Box<dyn Segment>> {
        let file = self.vfs.create_new(name).map_err(|error| taken("create", name, error))?;
        Ok(Box::new(self.segment(name, file)))
    }

    fn create_with(&self, name: &str, bytes: &[u8]) -> Result<Box<dyn Segment>> {
        let aside = format!("tmp/{}", name.replace('/', "_"));
        let file = self.vfs.create_new(&aside).map_err(|error| taken("create", &aside, error))?;
        let written = write_all(&*file, &aside, bytes, 0)
            .and_then(|()| {
                pass(Point::SegmentWritten);
                file.sync_data().map_err(|error| Error::io("sync", &aside, error))
            })
            .and_then(|()| {
                pass(Point::SegmentSynced);
                let renamed = self.vfs.rename_no_replace(&aside, name);
                renamed.map_err(|error| taken("rename to", name, error))
            });
        if let Err(error) = written {
            // The first error counts; what stays in tmp/ goes at the next opening.
            let _ = self.vfs.remove(&aside);
            return Err(error);
        }
        pass(Point::SegmentRenamed);
        let dir = parent(name);
        self.vfs.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
        pass(Point::SegmentNamed);
        let segment = self.segment(name, file);
        segment.position.store(wide(bytes.len()), Ordering::Release);
        segment.named.store(true, Ordering::Release);
        Ok(Box::new(segment))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        list_or_none(&*self.vfs, dir)
    }

    fn get_ranges(&self, name: &str, ranges: &[ByteRange]) -> Result<Vec<Vec<u8>>> {
        read_ranges(&*self.open(name)?, name, ranges)
    }

    fn len(&self, name: &str) -> Result<Option<u64>> {
        match self.open(name) {
            Ok(file) => file.len().map(Some).map_err(|error| Error::io("measure", name, error)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn seal(&self, name: &str, object: &str) -> Result<()> {
        match &self.seal_to {
            SealTo::Rename => {
                let dir = parent(object);
                self.dirs.ensure(&*self.vfs, dir)?;
                self.vfs
                    .rename_no_replace(name, object)
                    .map_err(|error| Error::io("rename to", object, error))?;
                pass(Point::SealRenamed);
                for dir in [dir, parent(name)] {
                    self.vfs.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
                }
                Ok(())
            }
            SealTo::PutNew(objects) => {
                let len = self.open(name)?.len();
                let len = len.map_err(|error| Error::io("measure", name, error))?;
                let whole = ByteRange::new(ByteOffset(0), ByteLen(len));
                let ranges: Vec<ByteRange> = whole.into_iter().collect();
                let bytes = self.get_ranges(name, &ranges)?.pop().unwrap_or_default();
                objects.put_new(object, &bytes)?;
                self.remove(name)
            }
        }
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.vfs.remove(name).map_err(|error| Error::io("remove", name, error))?;
        let dir = parent(name);
        self.vfs.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))
    }

    fn sync(&self, name: &str) -> Result<()> {
        self.open(name)?.sync_data().map_err(|error| Error::io("sync", name, error))?;
        let dir = parent(name);
        self.vfs.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))
    }
}

struct LocalSegment {
    vfs: Arc<dyn Vfs>,
    name: String,
    file: Arc<dyn VfsFile>,
    position: AtomicU64,
    /// Its name in the directory is durable.
    named: AtomicBool,
    /// A write failed: what stands at the position is unknown, nothing more may follow.
    torn: AtomicBool,
    /// A sync failed: what was not durable before will never be known to be.
    poisoned: AtomicBool,
}

impl Segment for LocalSegment {
    fn append(&self, bytes: &[u8]) -> Result<u64> {
        if self.torn.load(Ordering::Acquire) || self.poisoned.load(Ordering::Acquire) {
            return Err(Error::InDoubt { path: self.name.clone() });
        }
        let at = self.position.load(Ordering::Acquire);
        if let Err(error) = write_all(&*self.file, &self.name, bytes, at) {
            self.torn.store(true, Ordering::Release);
            return Err(error);
        }
        self.position.store(at.saturating_add(wide(bytes.len())), Ordering::Release);
        Ok(at)
    }

    fn sync(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::InDoubt { path: self.name.clone() });
        }
        let synced = self.file.sync_data().map_err(|error| Error::io("sync", &self.name, error));
        let named: Result<()> = synced.and_then(|()| {
            if self.named.load(Ordering::Acquire) {
                return Ok(());
            }
            let dir = parent(&self.name);
            self.vfs.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))
        });
        match &named {
            Ok(()) => self.named.store(true, Ordering::Release),
            Err(_) => self.poisoned.store(true, Ordering::Release),
        }
        named
    }

    fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }
}
