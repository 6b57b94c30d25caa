//! Snapshots that are not forgotten, as an error names them.

use std::fmt;

use umbra_common::ObjectId;

use crate::retention::{Reason, Scope};

/// Most that are named; the others are counted.
const MAX_NAMED: usize = 20;

/// A snapshot that somebody wanted to forget and that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSnapshot {
    /// Number of its receipt.
    pub sequence: u64,
    /// The snapshot.
    pub snapshot: ObjectId,
    /// Whose it is.
    pub disk: Scope,
    /// Why: protected or held.
    pub why: Reason,
}

/// All of them, in the order of their receipts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSnapshots(pub Vec<KeptSnapshot>);

impl fmt::Display for KeptSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell snapshots apart, and what the commands take.
        let id = self.snapshot.to_string();
        let short = id.get(..12).unwrap_or(&id);
        write!(f, "snapshot {short} of {} is {}", self.disk, self.why)
    }
}

impl fmt::Display for KeptSnapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, kept) in self.0.iter().take(MAX_NAMED).enumerate() {
            let between = if number == 0 { "" } else { "; " };
            write!(f, "{between}{kept}")?;
        }
        match self.0.len().saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}
