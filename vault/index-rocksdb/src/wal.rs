//! Looks for holes in RocksDB's log, which is not synced.
//!
//! What a power cut leaves of an unsynced file is not always its beginning: a page in the middle
//! may be zeros, or an older log may end early where a newer one is there. RocksDB takes zeros in
//! the place of a record for the end of a block, and an early end for the end of the file, and
//! goes on with what follows. Then rows are lost in the midst of others, watermarks behind them
//! are not, and nobody would scan the packs for them again. But each batch carries the number of
//! its first change: a number that is passed over shows the hole.
//!
//! Format: `db/log_format.h` and `db/write_batch.cc` of RocksDB.

use std::path::Path;

use crc::{Crc, Table};
use umbra_store::{Error, Result};

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&crc::CRC_32_ISCSI);

/// Length of a block of the log.
const BLOCK_BYTES: usize = 32 << 10;

/// Length of a record's header: checksum (4), length (2), type (1).
const HEADER_BYTES: usize = 7;

/// Longest log that is looked at: far beyond what RocksDB lets one become.
const MAX_LOG_BYTES: u64 = 1 << 30;

/// Types of a record: a whole batch, or its first, a middle, its last piece.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Length of a batch's header: number of its first change (8), count of its changes (4).
const BATCH_HEADER_BYTES: usize = 12;

/// Refuses an index whose log has a hole that RocksDB would pass over.
pub(crate) fn check(dir: &Path) -> Result<()> {
    let fail = |error| Error::io("read", "index", error);
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(fail)?,
    };
    let mut logs = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|e| e == "log")) {
            logs.push((number, path));
        }
    }
    logs.sort_unstable();
    let mut walk = Walk::default();
    for (_, path) in logs {
        let len = std::fs::metadata(&path).map_err(fail)?.len();
        if len > MAX_LOG_BYTES {
            return Err(Error::Limit { what: "the index's log", found: len, limit: MAX_LOG_BYTES });
        }
        let bytes = match std::fs::read(&path) {
            // Its owner has written its rows to a table meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(fail)?,
        };
        if !walk.log(&bytes) {
            return Err(Error::Corrupt {
                what: "the index",
                path: "index".to_owned(),
                at: 0,
                reason: "its log has lost batches in the midst of others",
            });
        }
    }
    Ok(())
}

/// What is known on the way through the logs.
#[derive(Default)]
struct Walk {
    /// The number that the next change must have.
    next: Option<u64>,
    /// A log ended with a bad record: RocksDB goes on with the next log only if it continues here.
    stopped: bool,
}

impl Walk {
    /// Walks through one log as RocksDB does; false where it would pass over a hole.
    fn log(&mut self, bytes: &[u8]) -> bool {
        let mut batch: Option<Vec<u8>> = None;
        for block in bytes.chunks(BLOCK_BYTES) {
            let mut rest = block;
            while let Some(record) = Record::first(rest) {
                match (record.kind, &mut batch) {
                    // Taken for the end of the block.
                    (0, None) if record.body.is_empty() => break,
                    _ if !record.is_sound() => return self.stop(),
                    (FULL, None) if !self.batch(record.body) => return false,
                    (FULL, None) => {}
                    (FIRST, None) => batch = Some(record.body.to_vec()),
                    (MIDDLE, Some(batch)) => batch.extend_from_slice(record.body),
                    (LAST, Some(head)) => {
                        head.extend_from_slice(record.body);
                        let whole = batch.take().unwrap_or_default();
                        if !self.batch(&whole) {
                            return false;
                        }
                    }
                    (FULL | FIRST | MIDDLE | LAST | 0, _) => return self.stop(),
                    // About the log, not about rows.
                    _ => {}
                }
                if self.stopped {
                    return true;
                }
                rest = record.rest;
            }
            // Fewer bytes than a header are padding; a record that is cut off ends the log.
            if rest.len() >= HEADER_BYTES && Record::first(rest).is_none() {
                return self.stop();
            }
        }
        if batch.is_some() { self.stop() } else { true }
    }

    /// RocksDB stops here by itself.
    fn stop(&mut self) -> bool {
        self.stopped = true;
        true
    }

    /// Takes a batch; false where batches before it are missing that are not known to be.
    fn batch(&mut self, batch: &[u8]) -> bool {
        let header = batch.split_at_checked(BATCH_HEADER_BYTES).map(|(header, _)| header);
        let fields = header.and_then(|header| {
            let (first, count) = header.split_first_chunk::<8>()?;
            let count = count.first_chunk::<4>()?;
            Some((u64::from_le_bytes(*first), u32::from_le_bytes(*count)))
        });
        let Some((first, count)) = fields else { return self.stop() };
        if self.stopped {
            self.stopped = self.next != Some(first);
            if self.stopped {
                return true;
            }
        }
        if self.next.is_some_and(|next| first > next) {
            return false;
        }
        self.next = Some(first.saturating_add(count.into()));
        true
    }
}

/// One record of a block.
struct Record<'a> {
    checksum: u32,
    kind: u8,
    body: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the record at the start of `bytes`; `None` where none fits there.
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let (checksum, rest) = bytes.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (kind, rest) = rest.split_first()?;
        let (body, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
        Some(Self { checksum: u32::from_le_bytes(*checksum), kind: *kind, body, rest })
    }

    fn is_sound(&self) -> bool {
        masked_crc(self.kind, self.body) == self.checksum
    }
}

/// Returns the checksum of a record as it stands in its header.
fn masked_crc(kind: u8, body: &[u8]) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&[kind]);
    digest.update(body);
    digest.finalize().rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_a_masked_crc32c() {
        let plain: u32 = 0xe306_9283; // of "123456789", by the catalogue
        let masked = plain.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked_crc(b'1', b"23456789"), masked);
    }

    fn batch(first: u64, count: u32) -> Vec<u8> {
        [first.to_le_bytes().as_slice(), &count.to_le_bytes(), &[9; 88]].concat()
    }

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let crc = masked_crc(kind, body);
        let len = u16::try_from(body.len()).unwrap();
        [crc.to_le_bytes().as_slice(), &len.to_le_bytes(), &[kind], body].concat()
    }

    fn is_sound(logs: &[Vec<u8>]) -> bool {
        let mut walk = Walk::default();
        logs.iter().all(|log| walk.log(log))
    }

    #[test]
    fn holes_are_found_and_ends_are_not() {
        let full = |first, count| record(FULL, &batch(first, count));
        let log = |parts: &[Vec<u8>]| parts.concat();
        assert!(is_sound(&[log(&[full(7, 2), full(9, 1)]), log(&[full(10, 3)])]));
        assert!(is_sound(&[log(&[full(7, 0), full(7, 2)]), Vec::new(), log(&[full(9, 3)])]));
        // A batch is missing, inside a log and at the end of one.
        assert!(!is_sound(&[log(&[full(7, 2), full(10, 1)])]));
        assert!(!is_sound(&[log(&[full(7, 2)]), log(&[full(10, 1)])]));
        // Zeros up to the end of the block, then a batch: RocksDB goes on with it.
        let mut holed = full(7, 2);
        holed.resize(BLOCK_BYTES, 0);
        assert!(is_sound(&[log(&[holed.clone(), full(9, 1)])]), "padding alone");
        assert!(!is_sound(&[log(&[holed.clone(), full(10, 1)])]));
        assert!(is_sound(&[holed]));
        // A bad record: RocksDB stops, and takes a later log only where that continues.
        let mut bad = full(9, 1);
        *bad.last_mut().unwrap() ^= 1;
        assert!(is_sound(&[log(&[full(7, 2), bad.clone(), full(11, 1)])]));
        assert!(is_sound(&[log(&[full(7, 2), bad.clone()]), log(&[full(10, 1)])]));
        assert!(is_sound(&[log(&[full(7, 2), bad.clone()]), log(&[full(9, 1), full(10, 1)])]));
        assert!(!is_sound(&[log(&[full(7, 2), bad]), log(&[full(9, 1), full(11, 1)])]));
        // A batch in pieces.
        let whole = batch(9, 1);
        let (head, tail) = whole.split_at(50);
        let pieces = [record(FIRST, head), record(LAST, tail)].concat();
        assert!(is_sound(&[log(&[full(7, 2), pieces.clone(), full(10, 1)])]));
        assert!(!is_sound(&[log(&[full(7, 2), pieces, full(12, 1)])]));
        assert!(is_sound(&[log(&[full(7, 2), record(FIRST, head)])]));
        assert!(is_sound(&[log(&[full(7, 2), full(9, 1)[..30].to_vec()])]));
    }
}
