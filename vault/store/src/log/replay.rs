//! Reads the LOG's segments into their entries, and tells a torn tail from damage.

use umbra_common::{ByteLen, ByteOffset, ByteRange};

use crate::bytes::narrow;
use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::journal::Journal;
use crate::log::entry::Entry;
use crate::log::segment::{
    ChainEnd, LogRecord, SEGMENT_HEADER_BYTES, SegmentEntries, SegmentHeader,
};
use crate::log::state::LogState;

/// What the LOG holds.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) state: LogState,
    /// What the next entry follows.
    pub(crate) end: ChainEnd,
    /// A number that no segment has.
    pub(crate) next_segment: u64,
    /// The newest lock epoch that a segment names.
    pub(crate) epoch: u64,
    /// The entries of the newest segment as they stand there, and what they follow.
    pub(crate) newest: Option<(ChainEnd, Vec<u8>)>,
    /// Where the newest segment's entries end before its bytes do: a torn tail, or damage.
    pub(crate) torn: Option<(String, u64)>,
    /// The first damage; the state is that before it.
    pub(crate) damage: Option<Error>,
}

/// Returns the name of a segment.
pub(crate) fn segment_name(number: u64) -> String {
    format!("log/{number:016}")
}

/// A chain that is being read: entries, and where each of the last segment ends.
#[derive(Default)]
struct Chain {
    records: Vec<LogRecord>,
    /// Where reading of the newest segment stopped, where it stopped before its end.
    stopped: Option<(String, u64)>,
}

impl Chain {
    fn end(&self) -> ChainEnd {
        let last = self.records.last();
        last.map_or(ChainEnd::default(), |record| ChainEnd {
            sequence: record.sequence,
            hash: record.check,
        })
    }

    /// Makes entries void that the next segment does not continue; false where it continues
    /// something that is not there.
    fn cut_to(&mut self, after: ChainEnd) -> bool {
        while self.end().sequence > after.sequence {
            self.records.pop();
        }
        self.end() == after
    }
}

/// Replays all segments. Damage is reported, not returned as an error.
///
/// # Errors
/// What the storage says.
pub(crate) fn replay(journal: &dyn Journal, store: StoreId) -> Result<Replayed> {
    let mut found = Replayed { next_segment: 1, ..Replayed::default() };
    let mut chain = Chain::default();
    for name in journal.list("log")? {
        let Ok(number) = name.parse::<u64>() else { continue };
        let path = segment_name(number);
        found.next_segment = found.next_segment.max(number.saturating_add(1));
        if found.damage.is_some() {
            continue;
        }
        let bytes = match read_whole(journal, &path) {
            Ok(bytes) => bytes,
            Err(error) if error.is_unreadable() => {
                found.damage = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        match SegmentHeader::decode(&bytes, &path) {
            Ok(header) => {
                found.epoch = found.epoch.max(header.epoch);
                found.damage = take_segment(&mut chain, &header, &bytes, &path, store);
                let end = chain.stopped.as_ref().map_or(bytes.len(), |(_, at)| narrow(*at));
                let entries = bytes.get(SEGMENT_HEADER_BYTES..end).unwrap_or_default();
                found.newest = Some((header.after, entries.to_vec()));
            }
            Err(error @ Error::Unsupported { .. }) => found.damage = Some(error),
            // A segment that was never synced: void, unless a later one needs its entries, which
            // the later one's header shows. The newest that counts is then the one before it.
            Err(_) => {
                chain.stopped = Some((path, 0));
                found.newest.get_or_insert_with(|| (chain.end(), Vec::new()));
            }
        }
    }
    for record in &chain.records {
        let path = || "log".to_owned();
        match Entry::decode(&record.payload) {
            Ok(entry) => found.state.apply(record.time, &entry),
            Err(source) => {
                found.damage.get_or_insert(Error::Decode { path: path(), source });
                break;
            }
        }
        found.state.sequence = record.sequence;
    }
    found.end = chain.end();
    found.torn = chain.stopped;
    Ok(found)
}

/// Takes the entries of one segment; returns the damage that its header or its entries show.
fn take_segment(
    chain: &mut Chain,
    header: &SegmentHeader,
    bytes: &[u8],
    path: &str,
    store: StoreId,
) -> Option<Error> {
    let corrupt =
        |path: String, at, reason| Some(Error::Corrupt { what: "the LOG", path, at, reason });
    if header.store != store {
        return corrupt(path.to_owned(), 0, "the segment belongs to another store");
    }
    if !chain.cut_to(header.after) {
        let (path, at) = chain.stopped.take().unwrap_or_else(|| (path.to_owned(), 0));
        return corrupt(path, at, "entries are missing that a later segment continues");
    }
    let entries = SegmentEntries::read(bytes, header.after);
    chain.records.extend(entries.records);
    chain.stopped = entries.ends_at.map(|at| (path.to_owned(), at));
    if entries.damaged {
        let at = entries.ends_at.unwrap_or_default();
        return corrupt(path.to_owned(), at, "an entry is damaged and later ones follow");
    }
    None
}

fn read_whole(journal: &dyn Journal, path: &str) -> Result<Vec<u8>> {
    let len = journal.len(path)?.unwrap_or_default();
    let range = ByteRange::new(ByteOffset(0), ByteLen(len));
    let ranges: Vec<ByteRange> = range.into_iter().collect();
    Ok(journal.get_ranges(path, &ranges)?.pop().unwrap_or_default())
}
