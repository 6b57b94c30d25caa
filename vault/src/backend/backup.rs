//! A backup under way: one session of the store, over any number of connections.

use super::rights::{self, Rights};
use super::{DOMAIN, guard};
use crate::clock::now;
use crate::error::refusal;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use umbra_common::wire::{Begin, Commit, Object, Refusal, RefusalCode};
use umbra_common::{ObjectId, Reference};
use umbra_net::server::{Backup, Committing, OnSettled, Settled, Taken, Visitor};
use umbra_store::{
    Base, CommitRequest, Error as StoreError, MachineId, Put, RunId, Session, SessionInfo,
    SessionNonce, Store, Timestamp,
};

/// Bits of a number that count the objects of one connection; the others count connections.
const SEQUENCE_BITS: u32 = 40;

/// How long the vault waits for an agent that lost its connection: the life of a lease.
const PARKED_NANOS: i64 = 24 * 3600 * 1_000_000_000;
/// Most backups of one machine that wait for it.
const PARKED_OF_MACHINE: usize = 64;
/// Most backups of all machines that wait.
const PARKED: usize = 1024;

/// A session of the store that outlives connections.
pub(super) struct Held {
    session: Session,
    disk: String,
    base: Option<ObjectId>,
    machine: MachineId,
    present: Arc<Mutex<Present>>,
}

/// Backups that are under way or wait for their agent, by machine and nonce.
pub(super) type Registry = Arc<Mutex<HashMap<(MachineId, [u8; 16]), Arc<Held>>>>;

/// Lets go of backups whose agents have been away for too long, and of those away longest where
/// too many wait. That costs them their lease; their agents begin anew and send nothing that is
/// durable once more.
pub(super) fn trim(registry: &Registry, now: Timestamp) {
    let oldest = Timestamp(now.0.saturating_sub(PARKED_NANOS));
    let mut registry = guard(registry);
    registry.retain(|_, held| held.idle_since().is_none_or(|since| since >= oldest));
    let mut parked: Vec<_> = registry
        .iter()
        .filter_map(|(key, held)| held.idle_since().map(|since| (since, *key)))
        .collect();
    parked.sort_unstable_by_key(|&(since, _)| Reverse(since));
    let mut of_machine: HashMap<MachineId, usize> = HashMap::new();
    let mut kept = 0_usize;
    for (_, key) in parked {
        let own = of_machine.entry(key.0).or_default();
        if *own < PARKED_OF_MACHINE && kept < PARKED {
            *own = own.saturating_add(1);
            kept = kept.saturating_add(1);
        } else {
            registry.remove(&key);
        }
    }
}

/// The connection that the backup is on.
struct Present {
    /// Counts connections, from 1.
    epoch: u64,
    /// Where that connection wants to hear of its objects.
    settled: Option<OnSettled>,
    /// Since when there is none.
    idle_since: Option<Timestamp>,
    /// It has its receipt, which any later session gets too: no need to wait for the agent.
    committed: bool,
}

impl Held {
    pub(super) fn begin(
        store: &Store,
        machine: MachineId,
        machine_name: &str,
        begin: &Begin,
    ) -> Result<Arc<Self>, StoreError> {
        let present = Present { epoch: 0, settled: None, idle_since: None, committed: false };
        let present = Arc::new(Mutex::new(present));
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
        Ok(Arc::new(Self { session, disk: begin.disk.clone(), base: begin.base, machine, present }))
    }

    /// Tells whether a resumed backup is this one. Anything else under its nonce begins anew.
    pub(super) fn is_for(&self, begin: &Begin) -> bool {
        self.disk == begin.disk && self.base == begin.base
    }

    pub(super) fn base(&self) -> Base {
        self.session.base()
    }

    /// Tells whether it is on a connection.
    pub(super) fn is_attached(&self) -> bool {
        self.idle_since().is_none()
    }

    /// Tells since when it has waited for its agent; `None` while it is on a connection.
    fn idle_since(&self) -> Option<Timestamp> {
        guard(&self.present).idle_since
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
    visitor: Visitor,
    epoch: u64,
}

impl Attached {
    /// Puts the backup on a new connection; an earlier one loses it.
    pub(super) fn attach(
        store: Arc<Store>,
        registry: Registry,
        held: Arc<Held>,
        visitor: Visitor,
        settled: OnSettled,
    ) -> Self {
        let epoch = {
            let mut present = guard(&held.present);
            present.epoch = present.epoch.saturating_add(1);
            present.settled = Some(settled);
            present.idle_since = None;
            present.epoch
        };
        Self { store, registry, held, visitor, epoch }
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

    /// Tells whether the visitor may still speak for the machine: its key may have been replaced
    /// since the backup began.
    fn still_may(&self) -> Result<(), Refusal> {
        match rights::of(&self.store, &self.visitor)? {
            Rights { backs_up: true, machine, .. } if machine == self.held.machine => Ok(()),
            _ => Err(rights::refused("this key may not back this machine up any more")),
        }
    }

    /// Leaves the connection. Tells whether somebody may still want the backup: another connection,
    /// or the agent when it comes back.
    fn leave(&self) -> bool {
        let mut present = guard(&self.held.present);
        if present.epoch == self.epoch {
            present.settled = None;
            present.idle_since.get_or_insert_with(now);
        }
        present.epoch != self.epoch || !present.committed
    }

    fn forget(&self) {
        guard(&self.registry).retain(|_, held| !Arc::ptr_eq(held, &self.held));
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
        self.still_may()?;
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
                guard(&self.held.present).committed = true;
                Ok(Committing::Committed(bytes))
            }
            umbra_store::Commit::Missing(references) => Ok(Committing::Missing(references)),
        }
    }

    fn end(&self) {
        // Where another connection has taken the backup over, it is that one's to end.
        let present = guard(&self.held.present).epoch;
        self.leave();
        if present == self.epoch {
            self.forget();
        }
    }

    fn detach(&self) {
        if !self.leave() {
            self.forget();
        }
        trim(&self.registry, now());
    }
}

/// A connection may go while its backup begins: then nobody is left to detach it.
impl Drop for Attached {
    fn drop(&mut self) {
        self.detach();
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
