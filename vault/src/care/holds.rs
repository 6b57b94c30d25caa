//! Holds: an administrator's word that nothing of a machine, a disk or a snapshot goes.

use crate::care::names::{Among, pick};
use crate::care::{Picked, SnapshotName};
use crate::clock::now;
use crate::error::{Result, VaultError};
use crate::place::Place;
use serde::{Deserialize, Serialize};
use umbra_store::{HoldOn, Intent, LogState, Scope, Store};

/// What is held, or let go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HoldRequest {
    /// What was typed.
    pub on: String,
    /// The same, where it can be the name of a snapshot.
    pub snapshot: Option<SnapshotName>,
    /// Why.
    pub reason: String,
    /// The hold ends.
    pub release: bool,
    /// It is only said what would be done.
    pub dry_run: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldDone {
    /// What the hold is on: `*`, `MACHINE`, `MACHINE/DISK`, or `snapshot ID`.
    pub on: String,
    /// It was not so before.
    pub changed: bool,
    /// Snapshots that the store has of it.
    pub snapshots: u64,
}

/// A hold that lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// What it is on, as in [`HoldDone`].
    pub on: String,
    /// Why.
    pub reason: String,
}

/// Sets a hold, or ends it.
///
/// # Errors
/// [`VaultError::Usage`] where the name can mean two things, [`VaultError::NotFound`] where the
/// vault has nothing of that name; what the store says.
pub(crate) fn hold(store: &Store, place: &Place, request: &HoldRequest) -> Result<HoldDone> {
    let on = find(store, request)?;
    let intent = if request.dry_run { Intent::DryRun } else { Intent::Do };
    let made = match request.release {
        false => store.hold(&on, &request.reason, now(), intent),
        true => store.release(&on, &request.reason, now(), intent),
    };
    let made = made.map_err(|error| place.store_error(error))?;
    let on = store.log().with_state(|state| name_of(state, &on));
    Ok(HoldDone { on, changed: made.changed, snapshots: made.snapshots })
}

/// Lists the holds that last.
pub(super) fn list(state: &LogState) -> Vec<HoldReport> {
    let holds = state.holds.iter();
    holds
        .map(|(on, reason)| HoldReport { on: name_of(state, on), reason: reason.clone() })
        .collect()
}

fn name_of(state: &LogState, on: &HoldOn) -> String {
    match on {
        HoldOn::Scope(scope) => scope.to_string(),
        HoldOn::Snapshot(sequence) => match state.receipts.get(sequence) {
            Some((_, snapshot)) => format!("snapshot {snapshot}"),
            None => format!("receipt {sequence}"),
        },
    }
}

/// Finds what the hold is on. A hold on a name that nothing has would only seem to hold something.
fn find(store: &Store, request: &HoldRequest) -> Result<HoldOn> {
    let scope = Scope::parse(&request.on).filter(|scope| is_known(store, scope));
    let held = |scope: &Scope| {
        store.log().with_state(|state| state.holds.contains_key(&HoldOn::Scope(scope.clone())))
    };
    let scope = scope.or_else(|| Scope::parse(&request.on).filter(held));
    // MACHINE/DISK is a scope here, and never all the snapshots that there are of it now.
    let name = request.snapshot.clone();
    let name = name.filter(|name| !matches!(name, SnapshotName::Disk { .. }));
    let snapshot = name.map(|name| {
        let picked = Picked { names: vec![name], machine: None, disk: None };
        pick(store, &picked, Among::Seen)
    });
    match (scope, snapshot) {
        (Some(_), Some(Ok(_))) => Err(VaultError::Usage {
            what: format!("{:?} is the name of a machine, and begins a snapshot's id", request.on),
            hint: "name the disks of the machine one by one (MACHINE/DISK), or the snapshot by \
                   more digits or as MACHINE/DISK@TIME"
                .to_owned(),
        }),
        (Some(scope), _) => Ok(HoldOn::Scope(scope)),
        (None, Some(found)) => match found?.first() {
            Some(receipt) => Ok(HoldOn::Snapshot(receipt.sequence)),
            None => Err(VaultError::Internal("a name stands for no snapshot")),
        },
        (None, None) => Err(VaultError::NotFound {
            what: format!("the vault knows no machine, disk or snapshot {:?}", request.on),
            hint: "`umbra-vault agent list` shows machines, `umbra snapshots --all-machines` disks"
                .to_owned(),
        }),
    }
}

/// Tells whether a machine is enrolled or a receipt names it (and the disk).
fn is_known(store: &Store, scope: &Scope) -> bool {
    let enrolled =
        |name: &str| store.log().with_state(|state| state.machine_by_name(name).is_some());
    let received = || {
        store.all_receipts().iter().any(|receipt| {
            let disk = Scope::of_disk(&receipt.machine_name, &receipt.disk);
            disk.is_some_and(|disk| scope.covers(&disk))
        })
    };
    match (scope.machine(), scope.disk()) {
        (None, _) => true,
        (Some(machine), None) => enrolled(machine) || received(),
        (Some(_), Some(_)) => received(),
    }
}
