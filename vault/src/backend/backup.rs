//! A backup under way: one session of the store, over any number of connections.

use super::{DOMAIN, guard};
use crate::clock::now;
use crate::error::refusal;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use umbra_common::wire::{Begin, Commit, Object, Refusal, RefusalCode};
use umbra_common::{ObjectId, Reference};
use umbra_net::server::{Backup, Committing, OnSettled, Settled, Taken};
use umbra_store::{
    Base, CommitRequest, Error as StoreError, MachineId, Put, RunId, Session, SessionInfo,
    SessionNonce, Store, Timestamp,
};

/// Bits of a number that count the objects of one connection; the others count connections.
const SEQUENCE_BITS: u32 = 40;

/// A session of the store that outlives connections.
pub(super) struct Held {
    session: Session,
    disk: String,
    base: Option<ObjectId>,
    present: Arc<Mutex<Present>>,
}

/// Backups that are under way or wait for their agent, by machine and nonce.
pub(super) type Registry = Arc<Mutex<HashMap<(MachineId, [u8; 16]), Arc<Held>>>>;

/// The connection that the backup is on.
struct Present {
    /// Counts connections, from 1.
    epoch: u64,
    /// Where that connection wants to hear of its objects.
    settled: Option<OnSettled>,
    /// Since when there is none.
    idle_since: Option<Timestamp>,
}

impl Held {
    pub(super) fn begin(
        store: &Store,
        machine: MachineId,
        machine_name: &str,
        begin: &Begin,
    ) -> Result<Arc<Self>, StoreError> {
        let present = Arc::new(Mutex::new(Present { epoch: 0, settled: None, idle_since: None }));
        let told = Arc::clone(&present);
        let info = SessionInfo {
            machine,
            machine_name: machine_name.to_owned(),
            disk: begin.disk.clone(),
            domain: DOMAIN,
            nonce: SessionNonce(begin.nonce),
            run: RunId(begin.run),
            base: begin.base,
            on_settled: Box::new(move |settled| tell(&told, settled)),
        };
        let session = store.begin(info, now())?;
        Ok(Arc::new(Self { session, disk: begin.disk.clone(), base: begin.base, present }))
    }

    /// Tells whether a resumed backup is this one. Anything else under its nonce begins anew.
    pub(super) fn is_for(&self, begin: &Begin) -> bool {
        self.disk == begin.disk && self.base == begin.base
    }

    pub(super) fn base(&self) -> Base {
        self.session.base()
    }

    /// Tells whether it has waited for its agent since before `limit`.
    pub(super) fn is_older_than(&self, limit: Timestamp) -> bool {
        guard(&self.present).idle_since.is_some_and(|since| since < limit)
    }
}

/// Passes on what became of objects to the connection that brought them, if it still stands.
fn tell(present: &Mutex<Present>, settled: umbra_store::Settled) {
    let (epoch, listener) = {
        let present = guard(present);
        (present.epoch, present.settled.clone())
    };
    let Some(listener) = listener else { return };
    match settled {
        umbra_store::Settled::Durable { numbers } => {
            let here = numbers.into_iter().filter_map(|range| of_epoch(epoch, &range));
            here.for_each(|range| listener(Settled::Durable(range)));
        }
        umbra_store::Settled::Failed { error, .. } => listener(Settled::Failed(refusal(&error))),
    }
}

/// Returns the sequence numbers of a range that belong to connection `epoch`.
fn of_epoch(epoch: u64, range: &RangeInclusive<u64>) -> Option<RangeInclusive<u64>> {
    let first = epoch.checked_shl(SEQUENCE_BITS)?;
    let last = first | ((1 << SEQUENCE_BITS) - 1);
    let from = (*range.start()).max(first).checked_sub(first)?;
    let to = (*range.end()).min(last).checked_sub(first)?;
    (from <= to).then_some(from..=to)
}

/// A backup on one connection.
pub(super) struct Attached {
    store: Arc<Store>,
    registry: Registry,
    held: Arc<Held>,
    epoch: u64,
}

impl Attached {
    /// Puts the backup on a new connection; an earlier one loses it.
    pub(super) fn attach(
        store: Arc<Store>,
        registry: Registry,
        held: Arc<Held>,
        settled: OnSettled,
    ) -> Self {
        let epoch = {
            let mut present = guard(&held.present);
            present.epoch = present.epoch.saturating_add(1);
            present.settled = Some(settled);
            present.idle_since = None;
            present.epoch
        };
        Self { store, registry, held, epoch }
    }

    /// Renews the lease, unless another connection has taken the backup over.
    fn check(&self) -> Result<(), Refusal> {
        if guard(&self.held.present).epoch != self.epoch {
            return Err(Refusal {
                code: RefusalCode::Busy,
                text: "the backup goes on over another connection".to_owned(),
            });
        }
        self.store.touch(&self.held.session, now());
        Ok(())
    }

    fn leave(&self) {
        let mut present = guard(&self.held.present);
        if present.epoch == self.epoch {
            present.settled = None;
            present.idle_since = Some(now());
        }
    }
}

impl Backup for Attached {
    fn known(&self, references: &[Reference]) -> Result<Vec<bool>, Refusal> {
        self.check()?;
        self.store.known(&self.held.session, references).map_err(|error| refusal(&error))
    }

    fn put(&self, sequence: u64, object: Object) -> Result<Taken, Refusal> {
        self.check()?;
        let number = self.epoch.checked_shl(SEQUENCE_BITS).map(|epoch| epoch | sequence);
        let number = number.filter(|_| sequence >> SEQUENCE_BITS == 0).ok_or_else(|| Refusal {
            code: RefusalCode::Usage,
            text: "too many objects for one backup".to_owned(),
        })?;
        match self.store.put(&self.held.session, number, &object) {
            Ok(Put::Accepted) => Ok(Taken::Accepted),
            Ok(Put::Missing(references)) => Ok(Taken::Missing(references)),
            Err(error) => match error.root() {
                StoreError::WrongBytes { .. } | StoreError::Limit { .. } => {
                    Ok(Taken::Bad(error.to_string()))
                }
                _ => Err(refusal(&error)),
            },
        }
    }

    fn flush(&self) -> Result<(), Refusal> {
        self.store.flush().map_err(|error| refusal(&error))
    }

    fn commit(&self, commit: &Commit) -> Result<Committing, Refusal> {
        self.check()?;
        let labels = commit.labels.iter().map(|l| (l.name.clone(), l.value.clone())).collect();
        let request =
            CommitRequest { manifest: commit.manifest, tags: commit.tags.clone(), labels };
        let committed = self.store.commit(&self.held.session, &request, now());
        match committed.map_err(|error| refusal(&error))? {
            umbra_store::Commit::Committed(receipt) => {
                let bytes = receipt.to_bytes().map_err(|error| Refusal {
                    code: RefusalCode::Failed,
                    text: format!("the receipt cannot be encoded: {error}"),
                })?;
                Ok(Committing::Committed(bytes))
            }
            umbra_store::Commit::Missing(references) => Ok(Committing::Missing(references)),
        }
    }

    fn end(&self) {
        self.leave();
        guard(&self.registry).retain(|_, held| !Arc::ptr_eq(held, &self.held));
    }

    fn detach(&self) {
        self.leave();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_other_connections_are_left_out() {
        let number = |epoch: u64, sequence: u64| epoch << SEQUENCE_BITS | sequence;
        assert_eq!(of_epoch(2, &(number(2, 3)..=number(2, 9))), Some(3..=9));
        assert_eq!(of_epoch(2, &(number(1, 3)..=number(1, 9))), None);
        assert_eq!(of_epoch(2, &(number(3, 0)..=number(3, 9))), None);
        let over_the_edge = number(1, (1 << SEQUENCE_BITS) - 1)..=number(2, 1);
        assert_eq!(of_epoch(2, &over_the_edge), Some(0..=1));
    }
}
