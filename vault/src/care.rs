//! Snapshot care: what is asked of a store about policy, forgetting, protection and holds, and its
//! answers, for people and programs.
//!
//! Names are read where they were typed ([`SnapshotName`]), and looked up where the store is: then
//! a running vault and a stopped store answer alike.

mod changes;
mod holds;
mod names;
mod policy;

pub use changes::{CareDone, CareRequest, Verb};
pub use holds::{HoldDone, HoldReport, HoldRequest};
pub use names::{Picked, SnapshotName};
pub use policy::{
    PolicyChange, PolicyDone, PolicyReport, PolicyRequest, RuleReport, SnapshotVerdict,
};

pub(crate) use changes::change;
pub(crate) use holds::hold;
pub(crate) use policy::policy;

use crate::clock::rfc3339;
use serde::{Deserialize, Serialize};
use umbra_store::{Receipt, Timestamp};

/// A snapshot, as answers name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// Its id.
    pub snapshot: String,
    /// Whose it is.
    pub machine: String,
    /// Of which disk.
    pub disk: String,
    /// When the vault received it, RFC 3339.
    pub time: String,
    /// Its tags.
    pub tags: Vec<String>,
}

impl SnapshotReport {
    fn of(receipt: &Receipt) -> Self {
        Self {
            snapshot: receipt.snapshot.to_string(),
            machine: receipt.machine_name.clone(),
            disk: receipt.disk.clone(),
            time: rfc3339(Timestamp::from_parts(receipt.received)),
            tags: receipt.tags.clone(),
        }
    }

    /// Names it for people.
    pub(crate) fn line(&self) -> String {
        let short = self.snapshot.get(..12).unwrap_or(&self.snapshot);
        let time = self.time.get(..19).unwrap_or(&self.time).replace('T', " ");
        format!("{short}  {time}  {}/{}", self.machine, self.disk)
    }
}
