//! Copying what is left of a failing store into a new directory.
//!
//! The copy is the same store: its id stays, and so agents, receipts and records (which name the
//! store) stay valid. Of the two only the copy must be used from then on.
//!
//! The old store is only read, sector by sector around what cannot be read. A pack that is whole,
//! or that its parity makes whole, is copied as it is; of any other the sound records, each proven
//! by its id, go into a new pack. Receipts and entries of the LOG are copied where they verify. The
//! new store has no index: its first opening makes it, and a check tells what is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bytes::{find_magic, narrow, wide};
use crate::error::{Error, Result};
use crate::format::FORMAT_NAME;
use crate::ids::{PackId, Timestamp};
use crate::journal::{Journal, LocalJournal, SealTo};
use crate::lock::{self, Lock};
use crate::log::segment::{ChainEnd, ENTRY_MAGIC, LogRecord, SegmentHeader};
use crate::log::{Entry as LogEntry, segment_name};
use crate::objects::{LocalObjects, ObjectStore};
use crate::pack::{
    Contents, Entry, PackHeader, PackKind, Parity, contents_name, open_name, parity_name,
    sealed_name,
};
use crate::receipt::{MAX_RECEIPT_FILE_BYTES, decode, sequence_of};
use crate::store::inner::{Inner, PackNames};
use crate::store::tolerant::{self, Left};
use crate::store::{OpenMode, open};
use crate::vfs::{Vfs, make_dirs};

/// Bytes of entries in one segment of the new LOG.
const SEGMENT_BYTES: usize = 16 << 20;

/// How a store is salvaged.
#[derive(Clone, Copy, Debug)]
pub struct SalvageOptions {
    /// 32 random bytes, from which ids of new packs are derived. Never the same twice.
    pub seed: [u8; 32],
    /// The time.
    pub now: Timestamp,
}

/// What was salvaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SalvageReport {
    /// Packs that were copied as they are.
    pub packs_whole: u64,
    /// Packs of these that their parity made whole.
    pub packs_from_parity: u64,
    /// Packs of which only some records were copied, or none.
    pub packs_in_part: u64,
    /// Records that were copied.
    pub records: u64,
    /// Records that a table names and that are lost.
    pub records_lost: u64,
    /// Bytes of packs that could not be read.
    pub bytes_unreadable: u64,
    /// Receipts that were copied.
    pub receipts: u64,
    /// Receipts that are damaged.
    pub receipts_lost: u64,
    /// Entries of the LOG that were copied.
    pub log_entries: u64,
    /// Entries of the LOG that are lost.
    pub log_entries_lost: u64,
}

/// Copies what verifies in the store of `from` into the empty directory of `to`.
///
/// # Errors
/// As [`crate::Store::open`] for the `FORMAT` of `from`; [`Error::Locked`] while it has an owner;
/// [`Error::NotEmpty`]; what the storage says, but for what the medium of `from` gives up.
pub fn salvage(
    from: &Arc<dyn Vfs>,
    to: &Arc<dyn Vfs>,
    options: &SalvageOptions,
) -> Result<SalvageReport> {
    let inner = open::insides(from, None, None)?;
    let format = open::read_format(&**from, OpenMode::ReadOnly)?;
    let ownership = lock::look(&**from)?;
    if ownership.held {
        let owner = ownership.owner;
        let (pid, since) = owner.map_or((0, Timestamp(0)), |owner| (owner.pid, owner.since));
        return Err(Error::Locked { pid, since });
    }
    to.mkdir("").map_err(|error| Error::io("make", "", error))?;
    let names = to.list("").map_err(|error| Error::io("list", "", error))?;
    if let Some(found) = names.into_iter().find(|name| name != "lost+found") {
        return Err(Error::NotEmpty { found });
    }
    for dir in open::DIRS {
        make_dirs(&**to, dir)?;
    }
    let lock = Lock::take(to, 0, options.now, || Ok(0))?;
    let copying = Copying {
        inner: &inner,
        objects: LocalObjects::new(Arc::clone(to)),
        journal: LocalJournal::new(Arc::clone(to), SealTo::Rename),
        names: PackNames::new(options.seed, 0),
        epoch: lock.epoch(),
    };
    let mut report = SalvageReport::default();
    copying.log(options.now, &mut report)?;
    copying.receipts(&mut report)?;
    let mut packs: BTreeMap<PackId, bool> =
        inner.open_packs()?.into_iter().map(|pack| (pack, true)).collect();
    packs.extend(inner.sealed_packs()?.into_iter().map(|pack| (pack, false)));
    for (pack, is_open) in packs {
        copying.pack(pack, is_open, &mut report)?;
    }
    // Last: a copy that was cut off is no store.
    copying.objects.put_new(FORMAT_NAME, &format.encode())?;
    lock.end_in_order()?;
    Ok(report)
}

struct Copying<'a> {
    inner: &'a Inner,
    objects: LocalObjects,
    journal: LocalJournal,
    names: PackNames,
    epoch: u64,
}

impl Copying<'_> {
    fn read_object(&self, name: &str) -> Result<Left> {
        let len = self.inner.objects.head(name)?.map_or(0, |info| info.len);
        let read = |range| {
            let found = self.inner.objects.get_ranges(name, &[range]);
            found.map(|mut found| found.pop().unwrap_or_default())
        };
        tolerant::read(&read, len)
    }

    fn read_segment(&self, name: &str) -> Result<Left> {
        let len = self.inner.open_len(name)?;
        let read = |range| {
            let found = self.inner.journal.get_ranges(name, &[range]);
            found.map(|mut found| found.pop().unwrap_or_default())
        };
        tolerant::read(&read, len)
    }

    /// Writes the entries of the LOG that verify, as a new chain.
    fn log(&self, now: Timestamp, report: &mut SalvageReport) -> Result<()> {
        let mut records: BTreeMap<u64, LogRecord> = BTreeMap::new();
        for name in self.inner.journal.list("log")? {
            let Ok(number) = name.parse::<u64>() else { continue };
            let path = segment_name(number);
            let bytes = self.read_segment(&path)?.bytes;
            match SegmentHeader::decode(&bytes, &path) {
                Ok(header) if header.store != self.inner.store => continue,
                // What an earlier segment holds beyond that is void.
                Ok(header) => records.retain(|sequence, _| *sequence <= header.after.sequence),
                Err(_) => {}
            }
            take_records(&bytes, &mut records);
        }
        let last = records.keys().next_back().copied().unwrap_or(0);
        report.log_entries_lost = last.saturating_sub(wide(records.len()));
        let mut segments = Segments::new(self, now);
        for record in records.into_values() {
            match LogEntry::decode(&record.payload) {
                // They speak of packs and of an index that the copy has not.
                Ok(
                    LogEntry::Quarantined { .. }
                    | LogEntry::QuarantineLifted { .. }
                    | LogEntry::IndexLost { .. }
                    | LogEntry::IndexRebuilt { .. },
                ) => {}
                Ok(entry) => {
                    report.log_entries = report.log_entries.saturating_add(1);
                    segments.add(&entry, record.time)?;
                }
                Err(_) => report.log_entries_lost = report.log_entries_lost.saturating_add(1),
            }
        }
        let text = "salvaged into a new directory".to_owned();
        segments.add(&LogEntry::Audit { machine: None, text }, now)?;
        segments.write()
    }

    fn receipts(&self, report: &mut SalvageReport) -> Result<()> {
        for name in self.inner.objects.list("receipts/")? {
            let Some(sequence) = sequence_of(&name) else { continue };
            let len = self.inner.objects.head(&name)?.map_or(0, |info| info.len);
            let bytes = match len <= MAX_RECEIPT_FILE_BYTES {
                true => self.read_object(&name)?.bytes,
                false => Vec::new(),
            };
            let ours = decode(&bytes, &name).is_ok_and(|(receipt, _)| {
                receipt.store == self.inner.store && receipt.sequence == sequence
            });
            if ours {
                self.objects.put_new(&name, &bytes)?;
                report.receipts = report.receipts.saturating_add(1);
            } else {
                report.receipts_lost = report.receipts_lost.saturating_add(1);
            }
        }
        Ok(())
    }

    fn pack(&self, pack: PackId, is_open: bool, report: &mut SalvageReport) -> Result<()> {
        let inner = self.inner;
        let left = match is_open {
            true => self.read_segment(&open_name(pack))?,
            false => self.read_object(&sealed_name(pack))?,
        };
        let unreadable = left.unreadable.iter().map(|range| range.end.saturating_sub(range.start));
        report.bytes_unreadable = report.bytes_unreadable.saturating_add(unreadable.sum());
        let mut bytes = left.bytes;
        let mut from_parity = 0;
        if !is_open
            && let Some((parity, object)) = inner.parity_of(pack)?
            && let Some(rebuilt) = parity.reconstruct(&bytes, &object)
        {
            from_parity = u64::from(rebuilt != bytes);
            bytes = rebuilt;
        }
        let table = match is_open {
            true => None,
            false => match inner.table_in(pack, &bytes) {
                Err(error) if error.is_unreadable() => None,
                other => other?,
            },
        };
        let is_known = table.is_some();
        let table = table.unwrap_or_else(|| inner.scanned(pack, &bytes));
        let name = sealed_name(pack);
        let record = |entry: &Entry| {
            bytes.get(narrow(entry.offset)..narrow(entry.end())).unwrap_or_default()
        };
        let sound: Vec<&Entry> = table
            .entries
            .iter()
            .filter(|entry| inner.sound_object(entry, record(entry), &name).is_some())
            .collect();
        let lost = wide(table.entries.len().saturating_sub(sound.len()));
        report.records = report.records.saturating_add(wide(sound.len()));
        report.records_lost = report.records_lost.saturating_add(lost);
        if is_known && lost == 0 && inner.is_sound_pack(pack, &bytes).unwrap_or(false) {
            report.packs_whole = report.packs_whole.saturating_add(1);
            report.packs_from_parity = report.packs_from_parity.saturating_add(from_parity);
            // A table that stands beside the pack goes along, before the pack.
            if inner.objects.head(&contents_name(pack))?.is_some() {
                self.objects.put_new(&contents_name(pack), &table.encode())?;
            }
            return self.put(pack, &bytes);
        }
        report.packs_in_part = report.packs_in_part.saturating_add(1);
        let records: Vec<(&Entry, &[u8])> =
            sound.into_iter().map(|entry| (entry, record(entry))).collect();
        self.new_pack(&records)
    }

    /// Writes records into a new pack, as they are.
    fn new_pack(&self, records: &[(&Entry, &[u8])]) -> Result<()> {
        let Some((first, _)) = records.first() else { return Ok(()) };
        let (pack, number) = self.names.next();
        let store = self.inner.store;
        let is_node = first.kind.is_node();
        let kind = if is_node { PackKind::Nodes } else { PackKind::Data };
        let (gc_generation, epoch) = (self.inner.gc_generation(), self.epoch);
        let header = PackHeader { kind, store, pack, gc_generation, epoch, number };
        let mut bytes = header.encode();
        let mut entries = Vec::new();
        for (entry, record) in records {
            entries.push(Entry { offset: wide(bytes.len()), ..(*entry).clone() });
            bytes.extend_from_slice(record);
        }
        let contents = Contents { store, pack, covers: wide(bytes.len()), entries };
        bytes.extend_from_slice(&contents.encode());
        self.put(pack, &bytes)
    }

    fn put(&self, pack: PackId, bytes: &[u8]) -> Result<()> {
        self.objects.put_new(&sealed_name(pack), bytes)?;
        match Parity::make(self.inner.store, pack, bytes) {
            Some(object) => self.objects.put_new(&parity_name(pack), &object),
            None => Ok(()),
        }
    }
}

/// The segments of a LOG that is written anew.
struct Segments<'a> {
    copying: &'a Copying<'a>,
    now: Timestamp,
    number: u64,
    /// What the segment continues, and what the next entry follows.
    after: ChainEnd,
    end: ChainEnd,
    bytes: Vec<u8>,
}

impl<'a> Segments<'a> {
    fn new(copying: &'a Copying<'a>, now: Timestamp) -> Self {
        let (after, end) = (ChainEnd::default(), ChainEnd::default());
        Self { copying, now, number: 1, after, end, bytes: Vec::new() }
    }

    fn add(&mut self, entry: &LogEntry, time: Timestamp) -> Result<()> {
        let (bytes, end) = LogRecord::encode(entry, time, self.end);
        self.bytes.extend_from_slice(&bytes);
        self.end = end;
        if self.bytes.len() > SEGMENT_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let header = SegmentHeader {
            store: self.copying.inner.store,
            number: self.number,
            after: self.after,
            epoch: self.copying.epoch,
            created: self.now,
        };
        let mut whole = header.encode();
        whole.append(&mut self.bytes);
        self.copying.journal.create_with(&segment_name(self.number), &whole)?;
        self.number = self.number.saturating_add(1);
        self.after = self.end;
        Ok(())
    }
}

/// Takes every entry of a segment that verifies; damaged bytes between them are passed over.
fn take_records(bytes: &[u8], records: &mut BTreeMap<u64, LogRecord>) {
    let mut at = 0;
    while let Some(next) = find_magic(bytes, &ENTRY_MAGIC, at) {
        at = next.saturating_add(1);
        if let Some(record) = bytes.get(next..).and_then(LogRecord::verify) {
            at = next.saturating_add(record.len);
            records.insert(record.sequence, record);
        }
    }
}
