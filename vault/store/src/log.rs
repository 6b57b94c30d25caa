//! The LOG: an append-only, hash-chained file of what packs and receipts do not imply.
//!
//! It stands in segments, `log/<number>`. A segment is never reopened for writing: each process
//! starts one with its first entry, and its header names the entry that it continues. What an
//! earlier segment holds beyond that is void (a torn tail, or an entry whose sync failed).
//!
//! As a header makes entries void, it must never be seen without the entries that it comes with:
//! a segment appears in `log/` at once, with what it begins with. So do entries that count
//! together, in a segment that they begin: half of them would look like damage.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::ids::{StoreId, Timestamp};
use crate::index::{Batch, Index, LogMark};
use crate::journal::{Journal, Segment};
use crate::lock::Lock;

mod entry;
mod replay;
pub(crate) mod segment;
mod state;

pub(crate) use entry::MAX_SEQUENCES;
pub use entry::{Entry, HoldOn, Machine, Role, Token};
pub(crate) use replay::{Replayed, replay, segment_name};
use segment::{ChainEnd, LogRecord, SegmentHeader};
pub use state::{Forgotten, LogState};

/// A segment is left for a new one when it is this long.
const SEGMENT_BYTES: u64 = 16 << 20;

/// What a LOG is written with.
pub(crate) struct LogWriter {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) lock: Arc<Lock>,
    pub(crate) store: StoreId,
}

/// The LOG of an open store.
pub struct Log {
    inner: Mutex<Inner>,
    writer: Option<LogWriter>,
}

struct Inner {
    state: LogState,
    end: ChainEnd,
    next_segment: u64,
    segment: Option<Box<dyn Segment>>,
    /// A write failed, and what it left could not be made void yet.
    failed: bool,
    /// Where the mark of what is durable is left.
    index: Option<Arc<dyn Index>>,
}

impl Log {
    /// Continues what was replayed; without a writer it can only be read.
    pub(crate) fn new(replayed: Replayed, writer: Option<LogWriter>) -> Self {
        let Replayed { state, end, next_segment, .. } = replayed;
        let failed = false;
        let inner = Inner { state, end, next_segment, segment: None, failed, index: None };
        Self { inner: Mutex::new(inner), writer }
    }

    /// Writes the newest segment's entries again, into a segment of this process, with the same
    /// numbers and hashes; a torn tail is void from then on.
    ///
    /// The process before did not end in order. Its last sync may have failed: then the entries
    /// that we read are in the page cache and will never be on the disk, whatever a sync of ours
    /// says. What is built on them must not hang on that.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub(crate) fn write_again(
        &self,
        newest: Option<(ChainEnd, Vec<u8>)>,
        now: Timestamp,
    ) -> Result<()> {
        let (Some(writer), Some((after, entries))) = (&self.writer, newest) else {
            return Ok(());
        };
        let mut inner = self.inner();
        let end = std::mem::replace(&mut inner.end, after);
        let written = inner.write_durably(writer, &entries, now);
        inner.end = end;
        if written.is_err() {
            inner.segment = None;
        }
        written
    }

    /// Names the index that keeps the LOG's mark from now on, and leaves the mark there.
    ///
    /// # Errors
    /// What the index says.
    pub(crate) fn mark_in(&self, index: Arc<dyn Index>) -> Result<()> {
        let mut inner = self.inner();
        let mark = LogMark { sequence: inner.end.sequence };
        index.apply(&Batch { log_mark: Some(mark), ..Batch::default() })?;
        inner.index = Some(index);
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // State and chain change together, after everything that can fail.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an entry, makes it durable, and applies it to the state.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::LockLost`], and what the storage says.
    pub fn append(&self, entry: Entry, now: Timestamp) -> Result<()> {
        self.update(now, |_| Ok::<_, Error>((vec![entry], ())))
    }

    /// Tells whether everything is durable that a later process will read.
    pub(crate) fn is_in_order(&self) -> bool {
        !self.inner().failed
    }

    /// Reads the state through `read`; the LOG stands still meanwhile.
    pub fn with_state<T>(&self, read: impl FnOnce(&LogState) -> T) -> T {
        read(&self.inner().state)
    }

    /// Appends what `decide` makes of the state; nothing can come between the two.
    ///
    /// For example: use a token and enrol its machine, unless the token has no uses left. All
    /// entries become durable by one sync. `decide` must not use this LOG.
    ///
    /// # Errors
    /// What `decide` says, and as [`Log::append`]; then none of the entries counts.
    pub fn update<T, E: From<Error>>(
        &self,
        now: Timestamp,
        decide: impl FnOnce(&LogState) -> Result<(Vec<Entry>, T), E>,
    ) -> Result<T, E> {
        let mut inner = self.inner();
        let (entries, value) = decide(&inner.state)?;
        if !entries.is_empty() {
            let writer = self.writer.as_ref().ok_or(Error::ReadOnly)?;
            inner.write(writer, &entries, now)?;
        }
        Ok(value)
    }
}

impl Inner {
    fn write(&mut self, writer: &LogWriter, entries: &[Entry], now: Timestamp) -> Result<()> {
        let full = self.segment.as_ref().is_some_and(|s| s.position() > SEGMENT_BYTES);
        if full || entries.len() > 1 {
            self.segment = None;
        }
        let mut end = self.end;
        let mut bytes = Vec::new();
        for entry in entries {
            let (encoded, next) = LogRecord::encode(entry, now, end);
            // It would be written and never be read again: damage that we made ourselves.
            LogRecord::check_readable(&encoded)?;
            bytes.extend_from_slice(&encoded);
            end = next;
        }
        if let Err(error) = self.write_durably(writer, &bytes, now) {
            // What was written may or may not be on the disk. A new segment that continues the
            // entry before makes it void; if even that fails, the next append tries again.
            self.segment = None;
            self.failed = self.write_durably(writer, &[], now).is_err();
            return Err(error);
        }
        self.end = end;
        self.failed = false;
        for entry in entries {
            self.state.apply(now, entry);
        }
        self.state.sequence = end.sequence;
        if let Some(index) = &self.index {
            let mark = Some(LogMark { sequence: end.sequence });
            // The mark only helps to tell a torn tail from damage; the entry is durable.
            let _ = index.apply(&Batch { log_mark: mark, ..Batch::default() });
            pass(Point::LogMarked);
        }
        Ok(())
    }

    fn write_durably(&mut self, writer: &LogWriter, bytes: &[u8], now: Timestamp) -> Result<()> {
        writer.lock.check()?;
        if let Some(segment) = &self.segment {
            segment.append(bytes)?;
            pass(Point::LogAppended);
            segment.sync()?;
            pass(Point::LogSynced);
            // Again: who took the store over meanwhile may have read it without this entry.
            return writer.lock.check();
        }
        let number = self.next_segment;
        self.next_segment = number.saturating_add(1);
        let header = SegmentHeader {
            store: writer.store,
            number,
            after: self.end,
            epoch: writer.lock.epoch(),
            created: now,
        };
        let mut whole = header.encode();
        whole.extend_from_slice(bytes);
        self.segment = Some(writer.journal.create_with(&segment_name(number), &whole)?);
        writer.lock.check()
    }
}

/// The bytes of a segment with one entry of each kind, for the golden test.
#[cfg(test)]
pub(crate) fn golden_segment(store: StoreId) -> Vec<u8> {
    segment_of(store, entry::tests::one_of_each())
}

/// The same with the entries of quarantine.
#[cfg(test)]
pub(crate) fn golden_quarantine_segment(store: StoreId, pack: crate::ids::PackId) -> Vec<u8> {
    let offsets = vec![0, 128, 70_000, 16 << 20];
    let (lifted, all) = (vec![70_000], Vec::new());
    let entries = vec![
        Entry::Quarantined { pack, offsets },
        Entry::QuarantineLifted { pack, offsets: lifted },
        Entry::QuarantineLifted { pack, offsets: all },
    ];
    segment_of(store, entries)
}

#[cfg(test)]
fn segment_of(store: StoreId, entries: Vec<Entry>) -> Vec<u8> {
    let time = Timestamp(1_700_000_000_000_000_000);
    let mut end = ChainEnd::default();
    let header = SegmentHeader { store, number: 1, after: end, epoch: 2, created: time };
    let mut bytes = header.encode();
    for entry in entries {
        let (encoded, next) = LogRecord::encode(&entry, time, end);
        bytes.extend_from_slice(&encoded);
        end = next;
    }
    bytes
}

#[cfg(test)]
mod tests;
