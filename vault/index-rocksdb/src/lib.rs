//! The index of a store in RocksDB: the one crate that names RocksDB.
//!
//! It holds nothing that packs, receipts and LOG do not imply. Batches go to RocksDB's log, which
//! is not synced: what a power cut takes from its end lies behind the packs' watermarks and is
//! scanned again. All rows stand in one column family, so that no batch survives in part. That
//! nothing is taken from its midst is checked at each opening; see `wal.rs`.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode,
    LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};
use umbra_store::{
    Batch, Error, Index, IndexFormat, IndexOpener, Key, Location, LogMark, PackId, PackRow, Result,
};

mod rows;
mod wal;

/// Memory for blocks, with their bloom filters and indexes, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// Memory for rows that are not written to a table yet, in bytes, two times.
const WRITE_BUFFER_BYTES: usize = 16 << 20;

/// Bits of bloom filter a row: one look-up in a hundred for what is not there reads a table.
const BLOOM_BITS: f64 = 10.0;

/// Open tables of an owner; the rest is opened when needed.
const MAX_OPEN_FILES: i32 = 512;

/// RocksDB's log is cut when it is this long, in bytes: what an opening must replay.
const MAX_LOG_BYTES: u64 = 64 << 20;

/// Opens the index in a directory.
#[derive(Clone, Debug)]
pub struct RocksIndexOpener {
    dir: PathBuf,
}

impl RocksIndexOpener {
    /// Stands for the index in `dir`, which is a store's `index/`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Returns the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl RocksIndexOpener {
    /// Refuses what RocksDB would take: a way out of the store, a log with a hole.
    fn check(&self) -> Result<()> {
        // Root may open a store that is somebody else's.
        let found = std::fs::symlink_metadata(&self.dir);
        if found.is_ok_and(|found| found.is_symlink()) {
            let reason = "it is a symlink";
            return Err(Error::Corrupt { what: "the index", path: "index".into(), at: 0, reason });
        }
        wal::check(&self.dir)
    }
}

impl IndexOpener for RocksIndexOpener {
    fn open(&self) -> Result<Box<dyn Index>> {
        self.check()?;
        let mut options = options();
        options.create_if_missing(true);
        options.set_max_open_files(MAX_OPEN_FILES);
        let db = DB::open(&options, &self.dir).map_err(failed("open it"))?;
        Ok(Box::new(RocksIndex { db, writing: Mutex::new(()) }))
    }

    fn open_read_only(&self) -> Result<Box<dyn Index>> {
        self.check()?;
        let mut options = options();
        // All tables are opened at once: the owner may delete them while we read.
        options.set_max_open_files(-1);
        let db = DB::open_for_read_only(&options, &self.dir, false)
            .map_err(failed("open it for reading"))?;
        Ok(Box::new(RocksIndex { db, writing: Mutex::new(()) }))
    }

    fn destroy(&self) -> Result<()> {
        // Not through RocksDB, which reads what it deletes.
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", "index", error));
            }
            _ => {}
        }
        std::fs::create_dir_all(&self.dir).map_err(|error| Error::io("make", "index", error))
    }
}

fn options() -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    tables.set_bloom_filter(BLOOM_BITS, false);
    // Filters count against the cache, so that memory is bounded on any store.
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&tables);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(MAX_LOG_BYTES);
    // A log is replayed up to its first bad record: batches are lost from the end alone.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_paranoid_checks(true);
    // Ids do not compress; pack ids and offsets do a little.
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_max_background_jobs(2);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options
}

/// An open index.
struct RocksIndex {
    db: DB,
    /// Held while a batch is compared and written, so that nothing comes between.
    writing: Mutex<()>,
}

fn failed(action: &'static str) -> impl Fn(rocksdb::Error) -> Error {
    move |source| match source.kind() {
        // RocksDB keeps the system's error as text alone.
        rocksdb::ErrorKind::IOError if source.as_ref().contains("No space left") => {
            let source = Some(std::io::ErrorKind::StorageFull.into());
            Error::NoSpace { path: "index".to_owned(), source }
        }
        _ => Error::Index { action, source: Box::new(source) },
    }
}

impl RocksIndex {
    fn row<T>(&self, key: &[u8], decode: impl FnOnce(&[u8]) -> Option<T>) -> Result<Option<T>> {
        let found = self.db.get_pinned(key).map_err(failed("look up"))?;
        found.map(|bytes| decode(&bytes).ok_or_else(rows::damaged)).transpose()
    }

    /// Calls `each` for the rows whose keys begin with `prefix`, by key.
    fn for_rows(&self, prefix: u8, mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let mut options = ReadOptions::default();
        options.set_readahead_size(4 << 20);
        options.fill_cache(false);
        let start = [prefix];
        let from = IteratorMode::From(&start, Direction::Forward);
        for row in self.db.iterator_opt(from, options) {
            let (key, value) = row.map_err(failed("list"))?;
            if key.first() != Some(&prefix) {
                break;
            }
            each(&key, &value)?;
        }
        Ok(())
    }
}

impl Index for RocksIndex {
    fn format(&self) -> Result<Option<IndexFormat>> {
        self.row(&rows::FORMAT_KEY, rows::decode_format)
    }

    fn wipe(&self, format: IndexFormat) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = WriteBatch::default();
        batch.delete_range([0u8].as_slice(), [0xff_u8].as_slice());
        batch.put(rows::FORMAT_KEY, rows::encode_format(format));
        // Synced: what made somebody wipe it may be gone when a power cut brings the rows back.
        let mut durable = WriteOptions::default();
        durable.set_sync(true);
        self.db.write_opt(batch, &durable).map_err(failed("empty it"))?;
        self.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    fn find(&self, key: &Key) -> Result<Option<Location>> {
        self.row(&rows::object_key(key), rows::decode_location)
    }

    fn find_many(&self, keys: &[Key]) -> Result<Vec<Option<Location>>> {
        let found = self.db.multi_get(keys.iter().map(rows::object_key));
        found
            .into_iter()
            .map(|found| {
                let found = found.map_err(failed("look up"))?;
                found.map(|row| rows::decode_location(&row).ok_or_else(rows::damaged)).transpose()
            })
            .collect()
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = WriteBatch::default();
        for (key, location) in &batch.remove {
            let row = self.find(key)?;
            if row.is_some_and(|row| row.pack == location.pack && row.offset == location.offset) {
                changes.delete(rows::object_key(key));
            }
        }
        for (key, expected, new) in &batch.replace {
            let row = self.find(key)?;
            if row.is_some_and(|row| row.pack == expected.pack && row.offset == expected.offset) {
                changes.put(rows::object_key(key), rows::encode_location(new));
            }
        }
        for (key, location) in &batch.put {
            changes.put(rows::object_key(key), rows::encode_location(location));
        }
        for pack in &batch.remove_packs {
            changes.delete(rows::pack_key(*pack));
        }
        for (pack, row) in &batch.packs {
            changes.put(rows::pack_key(*pack), rows::encode_pack(*row));
        }
        if let Some(mark) = batch.log_mark {
            changes.put(rows::LOG_MARK_KEY, mark.sequence.to_le_bytes());
        }
        if let Some(format) = batch.format {
            changes.put(rows::FORMAT_KEY, rows::encode_format(format));
        }
        self.db.write(changes).map_err(failed("write"))
    }

    fn pack(&self, pack: PackId) -> Result<Option<PackRow>> {
        self.row(&rows::pack_key(pack), rows::decode_pack)
    }

    fn packs(&self) -> Result<Vec<(PackId, PackRow)>> {
        let mut found = Vec::new();
        self.for_rows(rows::PACK_PREFIX, |key, value| {
            let pack = rows::decode_pack_key(key).zip(rows::decode_pack(value));
            found.push(pack.ok_or_else(rows::damaged)?);
            Ok(())
        })?;
        Ok(found)
    }

    fn for_each(&self, each: &mut dyn FnMut(Key, Location) -> Result<()>) -> Result<()> {
        self.for_rows(rows::OBJECT_PREFIX, |key, value| {
            let row = rows::decode_object_key(key).zip(rows::decode_location(value));
            let (key, location) = row.ok_or_else(rows::damaged)?;
            each(key, location)
        })
    }

    fn log_mark(&self) -> Result<LogMark> {
        let decode = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
        let sequence = self.row(&rows::LOG_MARK_KEY, decode)?;
        Ok(LogMark { sequence: sequence.unwrap_or(0) })
    }

    fn sync(&self) -> Result<()> {
        self.db.flush_wal(true).map_err(failed("sync"))
    }
}

#[cfg(test)]
mod tests;
