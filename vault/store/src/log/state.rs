//! What the entries of the LOG amount to, and the clock that they make.

use std::collections::{BTreeMap, BTreeSet};

use umbra_common::ObjectId;
use umbra_common::wire::Fingerprint;

use crate::ids::{Digest, MachineId, PackId, StoreId, Timestamp};
use crate::log::entry::{Entry, HoldOn, Machine, Token};
use crate::retention::{Policy, Scope};

const SECOND_NANOS: u64 = 1_000_000_000;

/// What passes at most on the vault's clock from one entry to the next, in nanoseconds: a day.
const MAX_STEP_NANOS: i64 = 86_400 * 1_000_000_000;

/// What the entries of the LOG amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The store, once created.
    pub store: Option<StoreId>,
    /// When it was made.
    pub created: Timestamp,
    /// Machines by id.
    pub machines: BTreeMap<MachineId, Machine>,
    /// Tokens by id; `uses` is what is left.
    pub tokens: BTreeMap<[u8; 16], Token>,
    /// Receipts by sequence number: hash and snapshot.
    pub receipts: BTreeMap<u64, (Digest, ObjectId)>,
    /// The last receipt that was ever committed, expunged or not: number and hash.
    pub last_receipt: Option<(u64, Digest)>,
    /// Receipts that count no more: hash and snapshot.
    pub expunged: BTreeMap<u64, (Digest, ObjectId)>,
    /// One more at each sweep.
    pub gc_generation: u64,
    /// The sweep that has begun and not ended: hash of its list.
    pub sweep: Option<Digest>,
    /// Places of packs that are damaged and read no more, by pack.
    pub quarantined: BTreeMap<PackId, BTreeSet<u64>>,
    /// Number of an entry that changed `quarantined`, such that every later one that did was
    /// made durable together with it; 0: none did.
    pub quarantine_sequence: u64,
    /// Number of the last entry; the first is 1.
    pub sequence: u64,
    /// The policy; keeps everything until one is set.
    pub policy: Policy,
    /// Receipts that are protected.
    pub protected: BTreeSet<u64>,
    /// Holds that last, and why.
    pub holds: BTreeMap<HoldOn, String>,
    /// Receipts whose snapshots are hidden.
    pub forgotten: BTreeMap<u64, Forgotten>,
    /// The vault's own clock at the last entry, in nanoseconds; see [`LogState::vault_now`].
    pub vault_time: u64,
    /// The system's clock at the last entry.
    pub last_time: Option<Timestamp>,
}

/// A snapshot that was forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Whose it is.
    pub disk: Scope,
    /// When, on the vault's own clock, in nanoseconds.
    pub at: u64,
}

impl LogState {
    /// Returns what the vault's own clock shows, in nanoseconds.
    ///
    /// It is the sum of what passed from entry to entry, none counted as more than a day or less
    /// than nothing. The system's clock may jump ten years ahead: that costs one day of the time
    /// in which a forgetting can be undone. It may jump back: that costs none. Where nothing is
    /// written for days, it stands still after the first; then space is given back later, which
    /// harms nobody.
    pub fn vault_now(&self, now: Timestamp) -> u64 {
        let Some(last) = self.last_time else { return self.vault_time };
        let step = now.0.saturating_sub(last.0).clamp(0, MAX_STEP_NANOS);
        self.vault_time.saturating_add(u64::try_from(step).unwrap_or_default())
    }

    /// Returns the receipts whose space may be given back, in ascending order: forgotten and not
    /// undone, neither protected nor held, and the time to undo it over (or not waited for).
    pub fn due(&self, now: Timestamp, at_once: bool) -> Vec<u64> {
        let clock = self.vault_now(now);
        let grace = self.policy.undo_seconds.saturating_mul(SECOND_NANOS);
        let is_due = |(sequence, forgotten): (&u64, &Forgotten)| {
            let over = at_once || clock.saturating_sub(forgotten.at) >= grace;
            let kept = self.protected.contains(sequence)
                || self.hold_of(*sequence, &forgotten.disk).is_some();
            (over && !kept).then_some(*sequence)
        };
        self.forgotten.iter().filter_map(is_due).collect()
    }

    /// Returns how long a forgetting can still be undone for sure, in nanoseconds of the vault's
    /// clock; `None` where the receipt is not forgotten.
    pub fn undo_left(&self, sequence: u64, now: Timestamp) -> Option<u64> {
        let end = self.policy.undo_seconds.saturating_mul(SECOND_NANOS);
        let end = self.forgotten.get(&sequence)?.at.saturating_add(end);
        Some(end.saturating_sub(self.vault_now(now)))
    }

    /// Tells whether a receipt's snapshot is hidden.
    pub fn is_forgotten(&self, sequence: u64) -> bool {
        self.forgotten.contains_key(&sequence)
    }

    /// Returns why the snapshot of a disk is held, if it is; the narrowest hold tells.
    pub fn hold_of(&self, sequence: u64, disk: &Scope) -> Option<&str> {
        let scopes = disk.widening().into_iter().map(HoldOn::Scope);
        let mut holds = std::iter::once(HoldOn::Snapshot(sequence)).chain(scopes);
        holds.find_map(|hold| self.holds.get(&hold)).map(String::as_str)
    }

    /// Returns the machine with this public key, if one is enrolled.
    pub fn machine_by_key(&self, key: Fingerprint) -> Option<&Machine> {
        self.machines.values().find(|machine| machine.key == key)
    }

    /// Returns the machine with this name, if one is enrolled.
    pub fn machine_by_name(&self, name: &str) -> Option<&Machine> {
        self.machines.values().find(|machine| machine.name == name)
    }
}

impl LogState {
    /// Applies an entry.
    pub(crate) fn apply(&mut self, time: Timestamp, entry: &Entry) {
        self.vault_time = self.vault_now(time);
        self.last_time = Some(time);
        match entry {
            Entry::StoreCreated { store } => {
                self.store = Some(*store);
                self.created = time;
            }
            Entry::MachineEnrolled(machine) => {
                self.machines.insert(machine.id, machine.clone());
            }
            Entry::TokenIssued(token) => {
                self.tokens.insert(token.id, token.clone());
            }
            Entry::TokenUsed { token, .. } => {
                if let Some(token) = self.tokens.get_mut(token) {
                    token.uses = token.uses.saturating_sub(1);
                }
            }
            Entry::ReceiptCommitted { sequence, hash, snapshot } => {
                self.receipts.insert(*sequence, (*hash, *snapshot));
                self.last_receipt = self.last_receipt.max(Some((*sequence, *hash)));
            }
            Entry::Expunged { sequences } => {
                for sequence in sequences {
                    if let Some(receipt) = self.receipts.remove(sequence) {
                        self.expunged.insert(*sequence, receipt);
                    }
                    self.forgotten.remove(sequence);
                    self.protected.remove(sequence);
                    self.holds.remove(&HoldOn::Snapshot(*sequence));
                }
            }
            Entry::SweepBegun { generation, list } => {
                self.gc_generation = *generation;
                self.sweep = Some(*list);
            }
            Entry::SweepEnded { generation } => {
                if *generation == self.gc_generation {
                    self.sweep = None;
                }
            }
            Entry::PolicySet(policy) => self.policy = policy.clone(),
            Entry::Protected { sequences, on: true } => self.protected.extend(sequences),
            Entry::Protected { sequences, on: false } => {
                self.protected.retain(|sequence| !sequences.contains(sequence));
            }
            Entry::Held { on, released: true, .. } => {
                self.holds.remove(on);
            }
            Entry::Held { on, reason, released: false } => {
                self.holds.insert(on.clone(), reason.clone());
            }
            Entry::Forgotten { disk, sequences } => {
                let forgotten = Forgotten { disk: disk.clone(), at: self.vault_time };
                for sequence in sequences {
                    // Where it is hidden already, its time runs from the first on.
                    self.forgotten.entry(*sequence).or_insert_with(|| forgotten.clone());
                }
            }
            Entry::ForgetUndone { sequences } => {
                self.forgotten.retain(|sequence, _| !sequences.contains(sequence));
            }
            Entry::Quarantined { pack, offsets } => {
                self.quarantined.entry(*pack).or_default().extend(offsets);
                self.quarantine_sequence = self.sequence.saturating_add(1);
            }
            Entry::QuarantineLifted { pack, offsets } => {
                if let Some(known) = self.quarantined.get_mut(pack) {
                    known.retain(|offset| !offsets.is_empty() && !offsets.contains(offset));
                    if known.is_empty() {
                        self.quarantined.remove(pack);
                    }
                }
                self.quarantine_sequence = self.sequence.saturating_add(1);
            }
            Entry::IndexLost { .. } | Entry::IndexRebuilt { .. } | Entry::Audit { .. } => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
