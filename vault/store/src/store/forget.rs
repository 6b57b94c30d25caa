//! Policy, forgetting and undoing it, protection and holds.
//!
//! Each of these decides and writes under the lock of the receipts and in one update of the LOG:
//! no commit, and no other decision, comes between what it looked at and what it made of it. All
//! that one call changes becomes durable together or not at all.

use std::collections::{BTreeMap, BTreeSet};

use umbra_common::snapshot::Receipt;

use crate::error::{Error, Result};
use crate::ids::Timestamp;
use crate::log::{Entry, HoldOn, LogState, MAX_SEQUENCES};
use crate::receipt::receipt_name;
use crate::retention::{Candidate, Policy, Reason, Scope, Verdict};
use crate::store::Store;
use crate::store::inner::locked;
use crate::store::kept::{KeptSnapshot, KeptSnapshots};
use crate::store::receipts::Receipts;

/// Whether a call changes the store, or only says what it would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// It does.
    Do,
    /// It only says; works on a store that is open for reading, too.
    DryRun,
}

/// What became of the snapshots that a call was about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Those that are now what was asked for.
    pub changed: BTreeSet<u64>,
    /// Those that were it before.
    pub already: BTreeSet<u64>,
    /// Disks of which no snapshot can be seen any more (by forgetting).
    pub emptied: BTreeSet<Scope>,
}

/// What became of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldChanged {
    /// It was not so before.
    pub changed: bool,
    /// Snapshots that the store has of it, forgotten ones too.
    pub snapshots: u64,
}

impl Store {
    /// Returns the policy.
    pub fn policy(&self) -> Policy {
        self.log().with_state(|state| state.policy.clone())
    }

    /// Changes the policy and returns it as it is then. Forgets nothing.
    ///
    /// # Errors
    /// [`Error::Limit`] where it or a time in it is too long; as [`crate::Log::append`].
    pub fn set_policy(&self, now: Timestamp, change: impl FnOnce(&mut Policy)) -> Result<Policy> {
        self.inner.writable()?;
        self.log().update(now, |state| {
            let mut policy = state.policy.clone();
            change(&mut policy);
            policy.check()?;
            let entries = match policy == state.policy {
                true => Vec::new(),
                false => vec![Entry::PolicySet(policy.clone())],
            };
            Ok((entries, policy))
        })
    }

    /// Tells what the policy, changed by `change`, would keep of what can be seen now.
    pub fn simulate(&self, now: Timestamp, change: impl FnOnce(&mut Policy)) -> Vec<Verdict> {
        let receipts = locked(&self.inner.receipts);
        self.log().with_state(|state| {
            let mut policy = state.policy.clone();
            change(&mut policy);
            policy.decide(&candidates(&receipts, state), now)
        })
    }

    /// Forgets what the policy does not keep; returns what was decided of each snapshot.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; as [`crate::Log::append`].
    pub fn apply_policy(&self, now: Timestamp) -> Result<Vec<Verdict>> {
        self.inner.writable()?;
        let receipts = locked(&self.inner.receipts);
        self.log().update(now, |state| {
            let candidates = candidates(&receipts, state);
            let verdicts = state.policy.decide(&candidates, now);
            let dropped = verdicts.iter().filter(|verdict| !verdict.keeps());
            let dropped = dropped.map(|verdict| verdict.sequence).collect();
            Ok((forgotten_entries(&candidates, &dropped), verdicts))
        })
    }

    /// Hides snapshots, by the numbers of their receipts. Their space is given back by the first
    /// collection after the time to undo it.
    ///
    /// # Errors
    /// [`Error::Kept`] names those that are protected or held, [`Error::Expunged`] one that is
    /// gone, [`Error::Corrupt`] one whose receipt cannot be read; then none is forgotten.
    pub fn forget(
        &self,
        sequences: &BTreeSet<u64>,
        now: Timestamp,
        intent: Intent,
    ) -> Result<Changed> {
        let receipts = locked(&self.inner.receipts);
        self.decide(now, intent, |state| {
            let all = candidates(&receipts, state);
            let mut made = Changed::default();
            let mut kept = Vec::new();
            let mut absent = Vec::new();
            for sequence in sequences {
                if state.is_forgotten(*sequence) {
                    made.already.insert(*sequence);
                    continue;
                }
                let Ok(at) = all.binary_search_by_key(sequence, |one| one.sequence) else {
                    absent.push(*sequence);
                    continue;
                };
                let Some(found) = all.get(at) else { continue };
                match (reason_to_keep(found), receipts.stored.get(sequence)) {
                    (Some(why), Some(stored)) => kept.push(KeptSnapshot {
                        sequence: *sequence,
                        snapshot: stored.receipt.snapshot,
                        disk: found.disk.clone(),
                        why,
                    }),
                    _ => {
                        made.changed.insert(*sequence);
                    }
                }
            }
            refuse_absent(state, absent)?;
            if !kept.is_empty() {
                return Err(Error::Kept { snapshots: KeptSnapshots(kept) });
            }
            let is_left = |one: &&Candidate| !made.changed.contains(&one.sequence);
            let left: BTreeSet<&Scope> = all.iter().filter(is_left).map(|one| &one.disk).collect();
            let gone = all.iter().filter(|one| !is_left(one) && !left.contains(&one.disk));
            made.emptied = gone.map(|one| one.disk.clone()).collect();
            Ok((forgotten_entries(&all, &made.changed), made))
        })
    }

    /// Shows forgotten snapshots again.
    ///
    /// # Errors
    /// [`Error::Expunged`] where the space of one was given back; then nothing is undone.
    pub fn undo(
        &self,
        sequences: &BTreeSet<u64>,
        now: Timestamp,
        intent: Intent,
    ) -> Result<Changed> {
        let is_so = |state: &LogState, sequence| !state.is_forgotten(sequence);
        let entry = |sequences| Entry::ForgetUndone { sequences };
        self.set_each(sequences, (now, intent), is_so, entry)
    }

    /// Protects snapshots: neither policy nor anybody forgets them while they are.
    ///
    /// # Errors
    /// As [`Store::undo`].
    pub fn protect(
        &self,
        sequences: &BTreeSet<u64>,
        now: Timestamp,
        intent: Intent,
    ) -> Result<Changed> {
        let is_so = |state: &LogState, sequence| state.protected.contains(&sequence);
        let entry = |sequences| Entry::Protected { sequences, on: true };
        self.set_each(sequences, (now, intent), is_so, entry)
    }

    /// Ends the protection of snapshots.
    ///
    /// # Errors
    /// As [`Store::undo`].
    pub fn unprotect(
        &self,
        sequences: &BTreeSet<u64>,
        now: Timestamp,
        intent: Intent,
    ) -> Result<Changed> {
        let is_so = |state: &LogState, sequence| !state.protected.contains(&sequence);
        let entry = |sequences| Entry::Protected { sequences, on: false };
        self.set_each(sequences, (now, intent), is_so, entry)
    }

    /// Holds snapshots, those to come too; a second hold of the same replaces the reason.
    ///
    /// # Errors
    /// As [`Store::undo`], for a hold on one snapshot.
    pub fn hold(
        &self,
        on: &HoldOn,
        reason: &str,
        now: Timestamp,
        intent: Intent,
    ) -> Result<HoldChanged> {
        let receipts = locked(&self.inner.receipts);
        self.decide(now, intent, |state| {
            if let HoldOn::Snapshot(sequence) = on
                && !state.receipts.contains_key(sequence)
            {
                refuse_absent(state, [*sequence])?;
            }
            let reason = reason.to_owned();
            let changed = state.holds.get(on) != Some(&reason);
            let entry = Entry::Held { on: on.clone(), reason, released: false };
            let entries = changed.then_some(entry).into_iter().collect();
            Ok((entries, HoldChanged { changed, snapshots: held_by(on, &receipts, state) }))
        })
    }

    /// Ends a hold. Other holds on the same snapshots last.
    ///
    /// # Errors
    /// As [`crate::Log::append`].
    pub fn release(
        &self,
        on: &HoldOn,
        reason: &str,
        now: Timestamp,
        intent: Intent,
    ) -> Result<HoldChanged> {
        let receipts = locked(&self.inner.receipts);
        self.decide(now, intent, |state| {
            let changed = state.holds.contains_key(on);
            let entry = Entry::Held { on: on.clone(), reason: reason.to_owned(), released: true };
            let entries = changed.then_some(entry).into_iter().collect();
            Ok((entries, HoldChanged { changed, snapshots: held_by(on, &receipts, state) }))
        })
    }

    /// Writes what `decide` makes of the state, or only looks.
    fn decide<T>(
        &self,
        now: Timestamp,
        intent: Intent,
        decide: impl FnOnce(&LogState) -> Result<(Vec<Entry>, T)>,
    ) -> Result<T> {
        match intent {
            Intent::DryRun => self.log().with_state(decide).map(|(_, value)| value),
            Intent::Do => {
                self.inner.writable()?;
                self.log().update(now, decide)
            }
        }
    }

    /// Makes something true of each snapshot of which it is not.
    fn set_each(
        &self,
        sequences: &BTreeSet<u64>,
        (now, intent): (Timestamp, Intent),
        is_so: impl Fn(&LogState, u64) -> bool,
        entry: impl Fn(BTreeSet<u64>) -> Entry,
    ) -> Result<Changed> {
        self.decide(now, intent, |state| {
            let absent = sequences.iter().filter(|one| !state.receipts.contains_key(one));
            refuse_absent(state, absent.copied())?;
            let (already, changed): (BTreeSet<u64>, BTreeSet<u64>) =
                sequences.iter().partition(|sequence| is_so(state, **sequence));
            let list: Vec<u64> = changed.iter().copied().collect();
            let chunks = list.chunks(MAX_SEQUENCES);
            let entries = chunks.map(|chunk| entry(chunk.iter().copied().collect())).collect();
            Ok((entries, Changed { changed, already, emptied: BTreeSet::new() }))
        })
    }
}

/// Refuses a number that the LOG does not know (any more), or whose receipt cannot be read.
fn refuse_absent(state: &LogState, absent: impl IntoIterator<Item = u64>) -> Result<()> {
    match absent.into_iter().next() {
        None => Ok(()),
        Some(sequence) if !state.receipts.contains_key(&sequence) => {
            Err(Error::Expunged { sequence })
        }
        Some(sequence) => Err(Error::Corrupt {
            what: "the receipt",
            path: receipt_name(sequence),
            at: 0,
            reason: "it cannot be read, so that nobody knows what would be forgotten",
        }),
    }
}

/// Returns what can be seen and is in the LOG, in the order of the receipts.
fn candidates(receipts: &Receipts, state: &LogState) -> Vec<Candidate> {
    let stored = receipts.stored.iter();
    let seen = stored.filter(|(sequence, _)| {
        state.receipts.contains_key(sequence) && !state.is_forgotten(**sequence)
    });
    seen.filter_map(|(_, stored)| candidate(&stored.receipt, state)).collect()
}

fn candidate(receipt: &Receipt, state: &LogState) -> Option<Candidate> {
    let disk = disk_of(receipt)?;
    let held = state.hold_of(receipt.sequence, &disk).map(str::to_owned);
    Some(Candidate {
        sequence: receipt.sequence,
        time: Timestamp::from_parts(receipt.received),
        machine: receipt.machine,
        disk,
        tags: receipt.tags.clone(),
        protected: state.protected.contains(&receipt.sequence),
        held,
    })
}

/// Names the disk of a receipt; every receipt that was decoded has good names.
fn disk_of(receipt: &Receipt) -> Option<Scope> {
    Scope::of_disk(&receipt.machine_name, &receipt.disk)
}

fn reason_to_keep(found: &Candidate) -> Option<Reason> {
    match found.protected {
        true => Some(Reason::Protected),
        false => found.held.clone().map(Reason::Held),
    }
}

/// Counts the snapshots that a hold is on.
fn held_by(on: &HoldOn, receipts: &Receipts, state: &LogState) -> u64 {
    let is_on = |(sequence, disk): (u64, Option<Scope>)| match on {
        HoldOn::Snapshot(one) => *one == sequence,
        HoldOn::Scope(scope) => disk.is_some_and(|disk| scope.covers(&disk)),
    };
    let logged = receipts.stored.iter().filter(|(one, _)| state.receipts.contains_key(one));
    let disks = logged.map(|(sequence, stored)| (*sequence, disk_of(&stored.receipt)));
    crate::bytes::wide(disks.filter(|one| is_on(one.clone())).count())
}

/// Makes the entries that hide these snapshots: one for each disk, or more where they are many.
fn forgotten_entries(candidates: &[Candidate], dropped: &BTreeSet<u64>) -> Vec<Entry> {
    let mut disks: BTreeMap<&Scope, Vec<u64>> = BTreeMap::new();
    for found in candidates.iter().filter(|found| dropped.contains(&found.sequence)) {
        disks.entry(&found.disk).or_default().push(found.sequence);
    }
    let chunks = disks.iter().flat_map(|(disk, list)| {
        list.chunks(MAX_SEQUENCES).map(|chunk| (*disk, chunk.iter().copied().collect()))
    });
    chunks.map(|(disk, sequences)| Entry::Forgotten { disk: disk.clone(), sequences }).collect()
}
