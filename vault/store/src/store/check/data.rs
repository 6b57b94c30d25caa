//! Reads packs whole: every record's check, every object's id.
//!
//! One thread a processor, each with one pack in memory.

use std::collections::{BTreeSet, HashSet};
use std::num::NonZeroU64;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use umbra_common::Reference;
use umbra_common::wire::Object;

use crate::bytes::{narrow, wide};
use crate::error::{Error, Result, chain};
use crate::ids::PackId;
use crate::object::prove;
use crate::pack::{Entry, Record, parity_name};
use crate::store::check::lost::{LossCause, Lost, RecordPlace};
use crate::store::check::packs::{Pack, Packs};
use crate::store::check::report::{Finding, FindingKind, Findings};
use crate::store::check::{CheckOptions, CheckProgress};
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
    parity: Vec<BadParity>,
}

/// What was found in one pack.
struct PackRead {
    bytes: u64,
    bad: Vec<Bad>,
    parity: Option<BadParity>,
}

/// The parity of a pack that is not what it should be.
struct BadParity {
    pack: PackId,
    at: u64,
    reason: String,
}

/// A record that is not what it should be.
struct Bad {
    path: String,
    pack: PackId,
    entry: Entry,
    reason: String,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadCounts {
    pub(super) packs: u64,
    pub(super) bytes: u64,
    /// The packs in which something is not what it should be.
    pub(super) damaged: BTreeSet<PackId>,
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

/// Keeps the reading of packs below so many bytes a second.
struct Pace {
    limit: Option<NonZeroU64>,
    began: Instant,
    bytes: AtomicU64,
}

impl Pace {
    fn new(limit: Option<NonZeroU64>) -> Self {
        Self { limit, began: Instant::now(), bytes: AtomicU64::new(0) }
    }

    /// Waits until it is time to read so many bytes more.
    fn wait(&self, bytes: u64) {
        let Some(limit) = self.limit else { return };
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let due_ms = before.saturating_mul(1_000).checked_div(limit.get()).unwrap_or(0);
        let due = Duration::from_millis(due_ms);
        std::thread::sleep(due.saturating_sub(self.began.elapsed()));
    }
}

/// What is read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) inner: &'a Inner,
    pub(super) packs: &'a Packs<'a>,
    /// Packs whose header or table is damaged.
    pub(super) unsound: &'a HashSet<PackId>,
    pub(super) options: &'a CheckOptions,
}

impl Reading<'_> {
    /// Reads packs and notes each record that is damaged.
    ///
    /// # Errors
    /// What the storage says, but for what the medium gives up.
    pub(super) fn read(
        self,
        chosen: &[Pack],
        findings: &mut Findings,
        lost: &mut Lost,
    ) -> Result<ReadCounts> {
        let pace = Pace::new(self.options.limit_bytes);
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let read = Mutex::new(Read::default());
        let first_error: Mutex<Option<Error>> = Mutex::new(None);
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let Some(pack) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                pace.wait(pack.len);
                match self.read_pack(pack) {
                    Ok(found) => {
                        let mut read = locked(&read);
                        read.packs = read.packs.saturating_add(1);
                        read.bytes = read.bytes.saturating_add(found.bytes);
                        read.bad.extend(found.bad);
                        read.parity.extend(found.parity);
                        let (packs, bytes) = (read.packs, read.bytes);
                        drop(read);
                        if let Some(tell) = &self.options.progress {
                            tell(CheckProgress { packs, packs_total: wide(chosen.len()), bytes });
                        }
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
        let Read { packs, bytes, mut bad, mut parity } = std::mem::take(&mut *locked(&read));
        let damaged = bad.iter().map(|bad| bad.pack).chain(parity.iter().map(|bad| bad.pack));
        let damaged = damaged.collect();
        parity.sort_by_key(|bad| bad.pack);
        bad.sort_by(|a, b| (&a.path, a.entry.offset).cmp(&(&b.path, b.entry.offset)));
        for Bad { path, pack, entry, reason } in bad {
            let key = entry.row(pack).0;
            let finding = Finding::at(FindingKind::Record, &path, entry.offset, reason);
            findings.add_new(finding.of(key, entry.kind));
            let reference = Reference { kind: entry.kind, id: entry.id };
            let place = RecordPlace { pack, offset: entry.offset, len: entry.record_len() };
            lost.add(entry.domain, reference, LossCause::Damaged, Some(place));
        }
        for BadParity { pack, at, reason } in parity {
            findings.add(Finding::at(FindingKind::Parity, &parity_name(pack), at, reason));
        }
        Ok(ReadCounts { packs, bytes, damaged })
    }

    /// Reads one pack.
    fn read_pack(self, pack: &Pack) -> Result<PackRead> {
        let inner = self.inner;
        let entries = self.packs.entries(pack)?;
        let path = pack.name();
        let end = entries.last().map_or(0, Entry::end);
        let end = if pack.open { end } else { end.max(pack.len) };
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
        let whole = bytes.filter(|_| {
            bad.is_empty()
                && !self.unsound.contains(&pack.id)
                && !self.packs.has_quarantine(pack.id)
        });
        let parity = if pack.open { None } else { parity_fault(inner, pack, whole.as_deref())? };
        Ok(PackRead { bytes: end, bad, parity })
    }
}

/// Says what is wrong with the parity of a sealed pack; `whole` are the bytes of the pack where it
/// is sound as far as tables and checks go.
fn parity_fault(inner: &Inner, pack: &Pack, whole: Option<&[u8]>) -> Result<Option<BadParity>> {
    let fault = |at, reason: &str| {
        let reason = reason.to_owned();
        Ok(Some(BadParity { pack: pack.id, at, reason }))
    };
    if inner.objects.head(&parity_name(pack.id))?.is_none() {
        return Ok(None);
    }
    let Some((parity, object)) = inner.parity_of(pack.id)? else {
        return fault(0, "the parity has no sound header");
    };
    let shard = |number: usize| wide(number).saturating_mul(parity.shard_bytes.into());
    let sound = parity.sound_recovery(&object);
    let mut numbers = (0..parity.recovery.len()).zip(sound.iter().map(|(number, _)| *number));
    if sound.len() < parity.recovery.len() {
        let first = numbers.find(|(want, found)| want != found);
        let first = first.map_or(sound.len(), |(want, _)| want);
        let at = wide(parity.header_bytes()).saturating_add(shard(first));
        return fault(at, "a recovery shard is damaged");
    }
    let Some(whole) = whole else { return Ok(None) };
    if wide(whole.len()) != parity.pack_len {
        return fault(48, "the parity is that of a pack of another length");
    }
    match parity.damaged_shards(whole).first() {
        Some(first) => {
            let at = wide(*first).saturating_mul(32).saturating_add(64);
            fault(at, "the pack is not what the parity was made of")
        }
        None => Ok(None),
    }
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
