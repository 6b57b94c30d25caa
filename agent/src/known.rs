//! The agent's table of ids that the base snapshot refers to: sorted, on disk, mapped.
//!
//! It only ever saves questions: the vault pins the base before the table is trusted, and a table
//! that is damaged, of another store or of another snapshot is not used.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use memmap2::Mmap;
use umbra_common::ObjectId;

use crate::backup::KnownIds;
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"UMBRAIDS";
const VERSION: u16 = 1;
/// Magic, version, store id, snapshot id, BLAKE3 of what follows.
const HEADER_BYTES: usize = 8 + 2 + 16 + 32 + 32;
const ID_BYTES: usize = 32;

/// A table of known ids, or an empty one.
#[derive(Debug, Default)]
pub struct KnownTable {
    map: Option<Mmap>,
    snapshot: Option<ObjectId>,
}

/// Names the snapshot that a table stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableKey {
    /// The store.
    pub store: [u8; 16],
    /// The snapshot whose ids the table holds.
    pub snapshot: ObjectId,
}

impl KnownTable {
    /// Opens the table at `path`, or an empty one where it cannot be used for `store`.
    pub fn open(path: &Path, store: &[u8; 16]) -> Self {
        Self::try_open(path, store).unwrap_or_default()
    }

    fn try_open(path: &Path, store: &[u8; 16]) -> Option<Self> {
        let file = File::open(path).ok()?;
        // SAFETY: the file is this program's own, written aside and renamed into place, and
        // never written again; nobody else truncates files in the cache directory.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let (header, ids) = map.split_at_checked(HEADER_BYTES)?;
        let snapshot = ObjectId(header.get(26..58)?.try_into().ok()?);
        let sound = header.get(..8)? == MAGIC
            && header.get(8..10)? == VERSION.to_le_bytes()
            && header.get(10..26)? == store
            && ids.len() % ID_BYTES == 0
            && header.get(58..90)? == table_check(&header[..58], ids);
        sound.then_some(Self { map: Some(map), snapshot: Some(snapshot) })
    }

    /// Returns the snapshot that the table stands for.
    pub fn snapshot(&self) -> Option<ObjectId> {
        self.snapshot
    }

    /// Returns how many ids it holds.
    pub fn len(&self) -> usize {
        self.ids().len() / ID_BYTES
    }

    /// Tells whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn ids(&self) -> &[u8] {
        self.map.as_ref().and_then(|map| map.get(HEADER_BYTES..)).unwrap_or_default()
    }

    /// Writes the table of `key` aside and renames it to `path`. `ids` need not be sorted.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn write(path: &Path, key: &TableKey, mut ids: Vec<ObjectId>) -> Result<()> {
        ids.sort_unstable();
        ids.dedup();
        let context = |source| Error::Io { what: "write the cache", path: path.into(), source };
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(context)?;
        // A name that no other process has, in whatever container it runs: nobody may go on
        // writing a file that has its place already.
        let aside = tempfile::Builder::new().prefix(".").suffix(".tmp").tempfile_in(dir);
        let mut out = BufWriter::new(aside.map_err(context)?);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&key.store);
        header.extend_from_slice(&key.snapshot.0);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header);
        ids.iter().for_each(|id| {
            hasher.update(&id.0);
        });
        header.extend_from_slice(hasher.finalize().as_bytes());
        out.write_all(&header).map_err(context)?;
        ids.iter().try_for_each(|id| out.write_all(&id.0)).map_err(context)?;
        let aside = out.into_inner().map_err(|error| context(error.into_error()))?;
        aside.persist(path).map(drop).map_err(|error| context(error.error))
    }

    /// Removes the table at `path`: the vault lacks something that it says is there.
    pub fn forget(path: &Path) {
        // Without the right to remove it a person has to; the error that led here says what.
        let _ = std::fs::remove_file(path);
    }
}

fn table_check(header: &[u8], ids: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    hasher.update(ids);
    *hasher.finalize().as_bytes()
}

impl KnownIds for KnownTable {
    fn contains(&self, id: &ObjectId) -> bool {
        let (ids, _) = self.ids().as_chunks::<ID_BYTES>();
        ids.binary_search(&id.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn holds_what_was_written_and_refuses_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m/d.ids");
        let ids: Vec<ObjectId> =
            (0_u32..1000).map(|n| ObjectId::of_chunk(&n.to_le_bytes())).collect();
        let key = TableKey { store: [7; 16], snapshot: ObjectId([9; 32]) };
        KnownTable::write(&path, &key, ids.clone()).unwrap();
        let table = KnownTable::open(&path, &key.store);
        assert_eq!((table.len(), table.snapshot()), (1000, Some(key.snapshot)));
        assert!(ids.iter().all(|id| table.contains(id)));
        assert!(!table.contains(&ObjectId::of_chunk(b"another")));
        assert!(KnownTable::open(&path, &[8; 16]).is_empty(), "another store's table");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(KnownTable::open(&path, &key.store).is_empty(), "a damaged table");
    }
}
