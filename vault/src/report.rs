//! What a vault says about itself.

use crate::clock::rfc3339;
use crate::enrol::role_name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use umbra_store::{MachineId, OpenMode, Store, Timestamp};

/// A machine without a snapshot for this long is named first.
const STALE_NANOS: i64 = 24 * 3600 * 1_000_000_000;

/// A machine, as the administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineReport {
    /// Its name.
    pub machine: String,
    /// Its id, in hexadecimal digits.
    pub id: String,
    /// What it may do; `None` for one that only ever came through an embedded vault.
    pub role: Option<String>,
    /// Its key's name.
    pub fingerprint: Option<String>,
    /// Its snapshots.
    pub snapshots: u64,
    /// Time of the newest, RFC 3339.
    pub latest: Option<String>,
    /// No snapshot in the last 24 hours.
    pub stale: bool,
}

/// Damage that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageReport {
    /// Name below the store's directory.
    pub path: String,
    /// Offset in that file.
    pub at: u64,
    /// What is wrong.
    pub reason: String,
}

/// The state of a vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The store's id.
    pub store: String,
    /// Its directory.
    pub path: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Where it is served, if it is.
    pub listen: Option<String>,
    /// The vault's key, where it is served.
    pub fingerprint: Option<String>,
    /// Process id of the vault that answers.
    pub pid: u32,
    /// Open for reading only.
    pub read_only: bool,
    /// Snapshots that can be seen.
    pub snapshots: u64,
    /// Snapshots that are forgotten and can still return.
    pub forgotten: u64,
    /// Objects.
    pub objects: u64,
    /// Bytes of all records.
    pub bytes_stored: u64,
    /// Packs that are sealed.
    pub packs_sealed: u64,
    /// Packs that are being written.
    pub packs_open: u64,
    /// Backups under way.
    pub sessions: u64,
    /// Free for an ordinary user.
    pub bytes_free: u64,
    /// Size of the file system.
    pub bytes_total: u64,
    /// Machines, those without a snapshot in 24 hours first.
    pub machines: Vec<MachineReport>,
    /// Damage found since the store was opened.
    pub damage: Vec<DamageReport>,
}

/// Lists machines: the enrolled ones and those that have snapshots; stale ones first, then by name.
pub(crate) fn machines(store: &Store, now: Timestamp) -> Vec<MachineReport> {
    let mut seen: BTreeMap<MachineId, (MachineReport, Option<Timestamp>)> = BTreeMap::new();
    store.log().with_state(|state| {
        for machine in state.machines.values() {
            let report = MachineReport {
                machine: machine.name.clone(),
                id: hex(&machine.id.0),
                role: Some(role_name(machine.role).to_owned()),
                fingerprint: Some(machine.key.to_string()),
                snapshots: 0,
                latest: None,
                stale: true,
            };
            seen.insert(machine.id, (report, None));
        }
    });
    for receipt in store.receipts() {
        let (report, latest) = seen.entry(receipt.machine).or_insert_with(|| {
            let report = MachineReport {
                machine: receipt.machine_name.clone(),
                id: hex(&receipt.machine.0),
                role: None,
                fingerprint: None,
                snapshots: 0,
                latest: None,
                stale: true,
            };
            (report, None)
        });
        report.snapshots = report.snapshots.saturating_add(1);
        *latest = (*latest).max(Some(Timestamp::from_parts(receipt.received)));
    }
    let mut machines: Vec<MachineReport> = seen
        .into_values()
        .map(|(mut report, latest)| {
            report.latest = latest.map(rfc3339);
            report.stale = latest.is_none_or(|at| now.0.saturating_sub(at.0) > STALE_NANOS);
            report
        })
        .collect();
    machines.sort_by(|a, b| b.stale.cmp(&a.stale).then_with(|| a.machine.cmp(&b.machine)));
    machines
}

/// Looks at everything. Counts every row of the index.
pub(crate) fn status(
    store: &Store,
    path: String,
    now: Timestamp,
) -> Result<Status, umbra_store::Error> {
    let state = store.status()?;
    let damage = state.damage.into_iter();
    Ok(Status {
        store: hex(&state.store.0),
        path,
        created: rfc3339(state.created),
        listen: None,
        fingerprint: None,
        pid: std::process::id(),
        read_only: state.mode == OpenMode::ReadOnly,
        snapshots: state.receipts,
        forgotten: state.forgotten,
        objects: state.objects,
        bytes_stored: state.bytes_stored,
        packs_sealed: state.packs_sealed,
        packs_open: state.packs_open,
        sessions: state.sessions,
        bytes_free: state.space.free_bytes,
        bytes_total: state.space.total_bytes,
        machines: machines(store, now),
        damage: damage
            .map(|one| DamageReport { path: one.path, at: one.at, reason: one.reason })
            .collect(),
    })
}

/// Prints an id.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
