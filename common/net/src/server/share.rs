//! What the connections of one key may have together.

use super::connection::guard;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::Semaphore;
use umbra_common::wire::Fingerprint;

/// Most connections of one key.
pub(super) const MAX_CONNECTIONS: usize = 32;
/// The part of the budget that one key may have.
const PART_OF_BUDGET: usize = 4;
/// The least that this part can be, in KiB: one object must fit.
const LEAST_KIB: usize = 4096;

/// The share of one key: whoever owns it, or took it, cannot keep everybody else out.
pub(super) struct Share {
    /// Bytes of objects that have arrived and are not yet stored, in KiB.
    pub(super) budget: Arc<Semaphore>,
    /// Connections that may come.
    pub(super) connections: Arc<Semaphore>,
}

/// The shares of all keys that are connected.
pub(super) struct Shares {
    budget_kib: usize,
    by_key: Mutex<HashMap<Fingerprint, Weak<Share>>>,
}

impl Shares {
    /// Cuts shares from a budget.
    pub(super) fn new(budget_kib: usize) -> Self {
        let budget_kib = (budget_kib / PART_OF_BUDGET).max(LEAST_KIB);
        Self { budget_kib, by_key: Mutex::default() }
    }

    /// Returns the share of a key, which lives as long as somebody has it.
    pub(super) fn of(&self, key: Fingerprint) -> Arc<Share> {
        let mut by_key = guard(&self.by_key);
        if let Some(share) = by_key.get(&key).and_then(Weak::upgrade) {
            return share;
        }
        by_key.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Share {
            budget: Arc::new(Semaphore::new(self.budget_kib)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        });
        by_key.insert(key, Arc::downgrade(&share));
        share
    }
}
