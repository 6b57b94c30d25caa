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
use umbra_common::id_table::{IdTable, Ids};

use crate::backup::KnownIds;
use crate::error::{Error, Result};

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
        let table = IdTable::decode(&map).filter(|table| table.store == *store)?;
        let snapshot = Some(table.snapshot);
        Some(Self { map: Some(map), snapshot })
    }

    /// Returns the snapshot that the table stands for.
    pub fn snapshot(&self) -> Option<ObjectId> {
        self.snapshot
    }

    /// Returns how many ids it holds.
    pub fn len(&self) -> usize {
        self.ids().len()
    }

    /// Tells whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn ids(&self) -> Ids<'_> {
        self.map.as_ref().map(|map| Ids::of(map)).unwrap_or_default()
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
        let header = IdTable::header(&key.store, key.snapshot, &ids);
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

impl KnownIds for KnownTable {
    fn contains(&self, id: &ObjectId) -> bool {
        self.ids().contains(id)
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
