//! Readers that keep a snapshot while they have it open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use umbra_common::ObjectId;

use crate::ids::DomainId;
use crate::store::inner::locked;

/// How many readers have a snapshot open.
type Open = Arc<Mutex<BTreeMap<(DomainId, ObjectId), usize>>>;

/// The snapshots that somebody reads.
#[derive(Clone, Default)]
pub(crate) struct Readers {
    open: Open,
}

/// Keeps what a snapshot needs until it is dropped.
pub struct ReaderPin {
    open: Open,
    key: (DomainId, ObjectId),
}

impl Readers {
    pub(super) fn pin(&self, domain: DomainId, snapshot: ObjectId) -> ReaderPin {
        let key = (domain, snapshot);
        let mut open = locked(&self.open);
        let count = open.entry(key).or_default();
        *count = count.saturating_add(1);
        ReaderPin { open: Arc::clone(&self.open), key }
    }

    /// Returns the snapshots that somebody reads.
    pub(super) fn pinned(&self) -> Vec<(DomainId, ObjectId)> {
        locked(&self.open).keys().copied().collect()
    }
}

impl Drop for ReaderPin {
    fn drop(&mut self) {
        let mut open = locked(&self.open);
        if let Some(count) = open.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}
