//! Forgetting snapshots, undoing it, protecting them and ending that.

use crate::care::names::{Among, pick};
use crate::care::{Picked, SnapshotReport};
use crate::clock::{now, rfc3339};
use crate::error::Result;
use crate::place::Place;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use umbra_store::{Intent, Receipt, Store, Timestamp};

/// What is done with snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// They are hidden.
    Forget,
    /// They are shown again.
    Undo,
    /// Nobody forgets them from now on.
    Protect,
    /// That ends.
    Unprotect,
}

/// What is done with which snapshots.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CareRequest {
    /// What.
    pub verb: Verb,
    /// With which.
    pub picked: Picked,
    /// It is only said what would be done.
    pub dry_run: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CareDone {
    /// Snapshots that are now as they shall be.
    pub changed: Vec<SnapshotReport>,
    /// Snapshots that were so before.
    pub already: Vec<SnapshotReport>,
    /// Disks of which no snapshot can be seen any more, `MACHINE/DISK`.
    pub emptied: Vec<String>,
    /// Until when it can be undone if the vault is in use every day, RFC 3339.
    pub undo_until: String,
}

/// Does it.
///
/// # Errors
/// [`crate::VaultError::Usage`] and [`crate::VaultError::NotFound`] for names; what the store
/// says.
pub(crate) fn change(store: &Store, place: &Place, request: &CareRequest) -> Result<CareDone> {
    let among = match request.verb {
        Verb::Undo => Among::Forgotten,
        Verb::Forget | Verb::Protect | Verb::Unprotect => Among::Seen,
    };
    let found = pick(store, &request.picked, among)?;
    let sequences: BTreeSet<u64> = found.iter().map(|receipt| receipt.sequence).collect();
    let intent = if request.dry_run { Intent::DryRun } else { Intent::Do };
    let time = now();
    let made = match request.verb {
        Verb::Forget => store.forget(&sequences, time, intent),
        Verb::Undo => store.undo(&sequences, time, intent),
        Verb::Protect => store.protect(&sequences, time, intent),
        Verb::Unprotect => store.unprotect(&sequences, time, intent),
    };
    let made = made.map_err(|error| place.store_error(error))?;
    let reports = |wanted: &BTreeSet<u64>| {
        let wanted = |receipt: &&Arc<Receipt>| wanted.contains(&receipt.sequence);
        found.iter().filter(wanted).map(|receipt| SnapshotReport::of(receipt)).collect()
    };
    Ok(CareDone {
        changed: reports(&made.changed),
        already: reports(&made.already),
        emptied: made.emptied.iter().map(ToString::to_string).collect(),
        undo_until: undo_until(store, time),
    })
}

/// Until when what is forgotten now can be undone for sure, as far as clocks tell.
pub(super) fn undo_until(store: &Store, time: Timestamp) -> String {
    let nanos = store.policy().undo_seconds.saturating_mul(1_000_000_000);
    rfc3339(Timestamp(time.0.saturating_add(i64::try_from(nanos).unwrap_or(i64::MAX))))
}
