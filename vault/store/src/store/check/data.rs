//! Reads packs whole: every record's check, every object's id.
//!
//! One thread a processor, each with one pack in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use umbra_common::Reference;
use umbra_common::wire::Object;

use crate::bytes::{narrow, wide};
use crate::error::{Error, Result, chain};
use crate::ids::PackId;
use crate::object::prove;
use crate::pack::{Entry, Record};
use crate::store::check::lost::{LossCause, Lost, RecordPlace};
use crate::store::check::packs::{Pack, Packs};
use crate::store::check::report::{Finding, FindingKind, Findings};
use crate::store::contents::range;
use crate::store::inner::{Inner, locked};

/// Most threads.
const MAX_THREADS: usize = 8;

/// What the threads have found.
#[derive(Default)]
struct Read {
    packs: u64,
    bytes: u64,
    bad: Vec<Bad>,
}

/// A record that is not what it should be.
struct Bad {
    path: String,
    pack: PackId,
    entry: Entry,
    reason: String,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReadCounts {
    pub(super) packs: u64,
    pub(super) bytes: u64,
}

/// Chooses a share of the packs, in millionths, by a seed: at least one where there is one.
pub(super) fn choose(packs: &[Pack], millionths: u32, seed: u64) -> Vec<Pack> {
    let wanted = wide(packs.len()).saturating_mul(millionths.into()).div_ceil(1_000_000);
    let place = |pack: &Pack| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(&pack.id.0);
        *hasher.finalize().as_bytes()
    };
    let mut chosen = packs.to_vec();
    chosen.sort_by_cached_key(place);
    chosen.truncate(narrow(wanted));
    chosen
}

/// Reads packs and notes each record that is damaged.
///
/// # Errors
/// What the storage says, but for what the medium gives up.
pub(super) fn read(
    inner: &Inner,
    packs: &Packs<'_>,
    chosen: &[Pack],
    findings: &mut Findings,
    lost: &mut Lost,
) -> Result<ReadCounts> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let read = Mutex::new(Read::default());
    let first_error: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(pack) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            match read_pack(inner, packs, pack) {
                Ok((bytes, bad)) => {
                    let mut read = locked(&read);
                    read.packs = read.packs.saturating_add(1);
                    read.bytes = read.bytes.saturating_add(bytes);
                    read.bad.extend(bad);
                }
                Err(error) => {
                    locked(&first_error).get_or_insert(error);
                    failed.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, MAX_THREADS) {
            scope.spawn(work);
        }
        work();
    });
    if let Some(error) = locked(&first_error).take() {
        return Err(error);
    }
    let Read { packs, bytes, mut bad } = std::mem::take(&mut *locked(&read));
    bad.sort_by(|a, b| (&a.path, a.entry.offset).cmp(&(&b.path, b.entry.offset)));
    for Bad { path, pack, entry, reason } in bad {
        let key = entry.row(pack).0;
        let finding = Finding::at(FindingKind::Record, &path, entry.offset, reason);
        findings.add_new(finding.of(key, entry.kind));
        let reference = Reference { kind: entry.kind, id: entry.id };
        let place = RecordPlace { pack, offset: entry.offset, len: entry.record_len() };
        lost.add(entry.domain, reference, LossCause::Damaged, Some(place));
    }
    Ok(ReadCounts { packs, bytes })
}

/// Reads one pack; returns its length and its bad records.
fn read_pack(inner: &Inner, packs: &Packs<'_>, pack: &Pack) -> Result<(u64, Vec<Bad>)> {
    let entries = packs.entries(pack)?;
    let path = pack.name();
    let end = entries.last().map_or(0, Entry::end);
    // All at once; one unreadable sector must not take the rest along.
    let bytes = match inner.pack_ranges(pack.id, &[range(0, end)?]) {
        Ok(mut found) => Some(found.pop().unwrap_or_default()),
        Err(error) if error.is_unreadable() => None,
        Err(error) => return Err(error),
    };
    let mut bad = Vec::new();
    for entry in entries {
        let fault = match &bytes {
            Some(bytes) => {
                let record = bytes.get(narrow(entry.offset)..narrow(entry.end()));
                fault_of(inner, &entry, record.unwrap_or_default(), &path)
            }
            None => {
                let place = range(entry.offset, entry.record_len().into())?;
                match inner.pack_ranges(pack.id, &[place]) {
                    Ok(found) => {
                        let record = found.first().map(Vec::as_slice).unwrap_or_default();
                        fault_of(inner, &entry, record, &path)
                    }
                    Err(error) if error.is_unreadable() => Some(chain(&error)),
                    Err(error) => return Err(error),
                }
            }
        };
        if let Some(reason) = fault {
            bad.push(Bad { path: path.clone(), pack: pack.id, entry, reason });
        }
    }
    Ok((end, bad))
}

/// Says what is wrong with a record, where something is.
fn fault_of(inner: &Inner, entry: &Entry, bytes: &[u8], path: &str) -> Option<String> {
    match open(inner, entry, bytes, path) {
        Ok(object) => prove(&object).err().map(|error| chain(&error)),
        Err(reason) => Some(reason),
    }
}

/// Verifies a record against its entry and takes its cipher off.
fn open(inner: &Inner, entry: &Entry, bytes: &[u8], path: &str) -> Result<Object, String> {
    let record = Record::verify(bytes, inner.store).map_err(|fault| fault.reason().to_owned())?;
    if Entry::new(entry.offset, &record.header, record.refs.clone()) != *entry {
        return Err("the record is not what the table of contents says".to_owned());
    }
    inner.open_body(&record, path, entry.offset).map_err(|error| chain(&error))
}

/// Tells whether the record of an entry is sound.
///
/// # Errors
/// What the storage says, but for what the medium gives up.
pub(super) fn is_sound(inner: &Inner, pack: &Pack, entry: &Entry) -> Result<bool> {
    let place = range(entry.offset, entry.record_len().into())?;
    match inner.pack_ranges(pack.id, &[place]) {
        Ok(found) => {
            let record = found.first().map(Vec::as_slice).unwrap_or_default();
            Ok(fault_of(inner, entry, record, &pack.name()).is_none())
        }
        Err(error) if error.is_unreadable() || error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
