//! Objects in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use umbra_common::ByteRange;

use crate::bytes::{narrow, wide};
use crate::error::{Error, Result};
use crate::objects::{ObjectInfo, ObjectStore};

/// Objects in memory: durable as soon as `put_new` returns, and nothing else to commit with.
#[derive(Debug, Default)]
pub struct MemoryObjects {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MemoryObjects {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the bytes of an object, as a failing disk would; false where there is none.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.objects().get_mut(name).map(change).is_some()
    }
}

fn not_found(name: &str) -> Error {
    Error::io("open", name, io::ErrorKind::NotFound.into())
}

impl ObjectStore for MemoryObjects {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return Err(Error::Exists { name: name.to_owned() });
        }
        objects.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn get_ranges(&self, name: &str, ranges: &[ByteRange]) -> Result<Vec<Vec<u8>>> {
        let objects = self.objects();
        let bytes = objects.get(name).ok_or_else(|| not_found(name))?;
        let read = |range: &ByteRange| {
            let found = bytes.get(narrow(range.start().0)..narrow(range.end().0));
            let short = || Error::io("read", name, io::ErrorKind::UnexpectedEof.into());
            found.map(<[u8]>::to_vec).ok_or_else(short)
        };
        ranges.iter().map(read).collect()
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        let info = |bytes: &Vec<u8>| ObjectInfo { name: name.to_owned(), len: wide(bytes.len()) };
        Ok(self.objects().get(name).map(info))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let objects = self.objects();
        Ok(objects.keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.objects().remove(name).map(drop).ok_or_else(|| not_found(name))
    }
}
