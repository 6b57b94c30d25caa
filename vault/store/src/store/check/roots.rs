//! LOG, receipts, and the snapshots that they name: what everything else must be reached from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use umbra_common::snapshot::Receipt;
use umbra_common::{Kind, ObjectId, Reference};

use crate::error::{Error, Result, chain};
use crate::ids::{Digest, DomainId, PackId, Timestamp};
use crate::lock::Owner;
use crate::log::{Replayed, replay};
use crate::receipt::{MAX_RECEIPT_FILE_BYTES, decode, receipt_name, sequence_of};
use crate::store::check::report::{Finding, FindingKind, Findings};
use crate::store::contents::range;
use crate::store::inner::{Inner, locked};

/// A snapshot that there must be.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// Number of its receipt.
    pub(crate) sequence: u64,
    /// Name of the receipt's file, whether it is there or not.
    pub(crate) name: String,
    pub(crate) domain: DomainId,
    pub(crate) snapshot: ObjectId,
    /// What the receipt says; `None` where it is gone and the LOG alone names the snapshot.
    pub(crate) receipt: Option<Box<Receipt>>,
}

impl Root {
    /// Returns the reference to its manifest.
    pub(crate) fn manifest(&self) -> Reference {
        Reference { kind: Kind::Manifest, id: self.snapshot }
    }

    /// Says what is missing where its manifest is.
    pub(crate) fn says(&self) -> String {
        format!("receipt {} names snapshot {}, which no pack has", self.sequence, self.snapshot)
    }

    /// Returns when the vault received it.
    pub(crate) fn received(&self) -> Option<Timestamp> {
        Some(Timestamp::from_parts(self.receipt.as_ref()?.received))
    }
}

/// What LOG and receipts say.
pub(crate) struct Roots {
    pub(crate) list: Vec<Root>,
    /// Number of the LOG's last entry.
    pub(crate) log_end: u64,
    /// The GC generation that the index must have.
    pub(crate) gc_generation: u64,
    /// Receipts that were read and are right.
    pub(crate) receipts: u64,
    /// Places that are known to be damaged, by pack.
    pub(crate) quarantined: BTreeMap<PackId, BTreeSet<u64>>,
}

/// Reads LOG and receipts, and compares the one with the others.
///
/// # Errors
/// What the storage says, but for what the medium gives up.
pub(crate) fn read(inner: &Inner, owner: Option<&Owner>, findings: &mut Findings) -> Result<Roots> {
    // The LOG first: what it names is there, whoever commits meanwhile.
    let mut replayed = replay(&*inner.journal, inner.store)?;
    note_log_damage(&mut replayed, owner, findings);
    let mut read = Reading { inner, replayed: &replayed, findings, found: BTreeMap::new() };
    let mut highest = 0u64;
    for name in inner.objects.list("receipts/")? {
        let Some(sequence) = sequence_of(&name) else { continue };
        if replayed.state.expunged.contains_key(&sequence) {
            continue;
        }
        highest = highest.max(sequence);
        read.receipt(&name, sequence)?;
    }
    read.check_chain(highest);
    let found = read.found;
    let mut list: Vec<Root> = Vec::new();
    let mut receipts = 0u64;
    for (sequence, (receipt, _)) in found {
        receipts = receipts.saturating_add(1);
        list.push(Root {
            sequence,
            name: receipt_name(sequence),
            domain: DomainId(receipt.domain),
            snapshot: receipt.snapshot,
            receipt: Some(Box::new(receipt)),
        });
    }
    for (sequence, (_, snapshot)) in &replayed.state.receipts {
        if list.binary_search_by_key(sequence, |root| root.sequence).is_err() {
            let root = Root {
                sequence: *sequence,
                name: receipt_name(*sequence),
                // The only one so far; the LOG does not say.
                domain: DomainId(0),
                snapshot: *snapshot,
                receipt: None,
            };
            let at = list.partition_point(|other| other.sequence < *sequence);
            list.insert(at, root);
        }
    }
    note_sweep(inner, &replayed, findings);
    let (log_end, gc_generation) = (replayed.state.sequence, replayed.state.gc_generation);
    let quarantined = replayed.state.quarantined;
    Ok(Roots { list, log_end, gc_generation, receipts, quarantined })
}

/// Notes which packs a sweep deletes: records without a row in them are no damage.
fn note_sweep(inner: &Inner, replayed: &Replayed, findings: &mut Findings) {
    let list = match inner.read_sweep_list(&replayed.state) {
        Ok(list) => list.map(Arc::new),
        Err(error) => {
            let reason = format!("{}; the next opening makes the index anew", chain(&error));
            let name = crate::store::gc::list_name(replayed.state.gc_generation);
            findings.add(Finding::at(FindingKind::Log, &name, 0, reason));
            None
        }
    };
    *locked(&inner.doomed) = list;
}

fn note_log_damage(replayed: &mut Replayed, owner: Option<&Owner>, findings: &mut Findings) {
    if let Some(damage) = replayed.damage.take() {
        let (path, at) = match damage.root() {
            Error::Corrupt { path, at, .. } => (path.clone(), *at),
            Error::Io { path, .. }
            | Error::Decode { path, .. }
            | Error::Unsupported { path, .. } => (path.clone(), 0),
            _ => ("log".to_owned(), 0),
        };
        findings.add(Finding::at(FindingKind::Log, &path, at, chain(&damage)));
    } else if let Some((path, at)) = replayed.torn.take()
        && owner.is_some_and(|owner| owner.ended)
    {
        let reason = "the store was closed in order, and its last entry is not whole";
        findings.add(Finding::at(FindingKind::Log, &path, at, reason));
    }
}

/// Receipts that are being read.
struct Reading<'a> {
    inner: &'a Inner,
    replayed: &'a Replayed,
    findings: &'a mut Findings,
    found: BTreeMap<u64, (Receipt, Digest)>,
}

impl Reading<'_> {
    fn fault(&mut self, name: &str, reason: impl Into<String>) {
        self.findings.add(Finding::at(FindingKind::Receipt, name, 0, reason));
    }

    fn receipt(&mut self, name: &str, sequence: u64) -> Result<()> {
        let len = self.inner.objects.head(name)?.map_or(0, |info| info.len);
        if len > MAX_RECEIPT_FILE_BYTES {
            self.fault(name, "the receipt is too long");
            return Ok(());
        }
        let bytes = match self.inner.objects.get_ranges(name, &[range(0, len)?]) {
            Ok(mut found) => found.pop().unwrap_or_default(),
            Err(error) if error.is_unreadable() => {
                self.fault(name, chain(&error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (receipt, hash) = match decode(&bytes, name) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.fault(name, chain(&error));
                return Ok(());
            }
        };
        if receipt.store != self.inner.store || receipt.sequence != sequence {
            self.fault(name, "the receipt is that of another store or place");
            return Ok(());
        }
        let logged = self.replayed.state.receipts.get(&sequence);
        if logged.is_some_and(|logged| *logged != (hash, receipt.snapshot)) {
            self.fault(name, "the LOG names another receipt in its place");
            return Ok(());
        }
        self.found.insert(sequence, (receipt, hash));
        Ok(())
    }

    /// Notes receipts that are gone, and those that do not continue the one before.
    fn check_chain(&mut self, highest: u64) {
        let logged = &self.replayed.state.receipts;
        let expunged = &self.replayed.state.expunged;
        let last = self.replayed.state.last_receipt.map_or(0, |(sequence, _)| sequence);
        let last = last.max(highest);
        let mut faults = Vec::new();
        let named = logged.keys().chain(expunged.keys()).chain(self.found.keys());
        let named: Vec<u64> = named.copied().collect();
        // What nothing names is a gap; many in a row are one.
        let mut gaps = named;
        gaps.sort_unstable();
        gaps.dedup();
        let mut next = 1u64;
        for sequence in gaps.iter().copied().chain([last.saturating_add(1)]) {
            if sequence > next && next <= last {
                let reason = format!("receipts {next} to {} are gone", sequence.saturating_sub(1));
                faults.push((next, reason));
            }
            next = next.max(sequence.saturating_add(1));
        }
        for sequence in logged.keys().filter(|sequence| !self.found.contains_key(sequence)) {
            faults.push((*sequence, "the LOG names a receipt that is gone or damaged".to_owned()));
        }
        for (sequence, (receipt, _)) in &self.found {
            let Some(before) = sequence.checked_sub(1) else { continue };
            let known = self.found.get(&before).map(|(_, hash)| *hash);
            let known = known.or_else(|| logged.get(&before).map(|(hash, _)| *hash));
            let known = known.or_else(|| expunged.get(&before).map(|(hash, _)| *hash));
            let continues = match known {
                Some(hash) => receipt.previous == Some(hash.0),
                None => before > 0 || receipt.previous.is_none(),
            };
            if !continues {
                faults.push((*sequence, "it does not continue the receipt before it".to_owned()));
            }
        }
        faults.sort();
        for (sequence, reason) in faults {
            self.fault(&receipt_name(sequence), reason);
        }
    }
}

/// Notes what is wrong where the index names a later entry of the LOG than there is.
pub(crate) fn check_mark(mark: u64, log_end: u64, findings: &mut Findings) {
    if mark > log_end {
        let reason = format!(
            "the index names entry {mark}, and the LOG ends at {log_end}: durable entries are gone"
        );
        findings.add(Finding::at(FindingKind::Log, "log", 0, reason));
    }
}
