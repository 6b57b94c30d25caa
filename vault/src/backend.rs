//! Answers agents from the store.

mod backup;
mod rights;

use crate::clock::now;
use crate::enrol;
use crate::error::refusal;
use backup::{Attached, Held, Registry, trim};
use rights::{Rights, Sees};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use umbra_common::snapshot::is_name;
use umbra_common::wire::{
    BaseState, Begin, Begun, Enroll, Enrolled, Fingerprint, List, ListEntry, Object, Refusal,
    RefusalCode,
};
use umbra_common::{Kind, ObjectId, Reference};
use umbra_net::server::{Backend, Backup, Kept, OnSettled, Peer, Visitor};
use umbra_store::{Base, DomainId, MachineId, Receipt, Store};

/// The dedup domain of all machines, so far.
pub(crate) const DOMAIN: DomainId = DomainId(0);

/// The store behind the wire.
pub struct StoreBackend {
    store: Arc<Store>,
    /// Keys that the owner of the store let in, and how often.
    grants: Mutex<HashMap<Fingerprint, usize>>,
    /// Backups that are under way or wait for their agent.
    held: Registry,
}

impl StoreBackend {
    /// Makes the backend of an open store.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, grants: Mutex::default(), held: Registry::default() }
    }

    /// Lets a key in as the store's owner until [`revoke`](Self::revoke) is called as often.
    pub fn grant(&self, key: Fingerprint) {
        let mut grants = guard(&self.grants);
        let count = grants.entry(key).or_default();
        *count = count.saturating_add(1);
    }

    /// Takes a grant back. Connections that stand go on.
    pub fn revoke(&self, key: &Fingerprint) {
        let mut grants = guard(&self.grants);
        if let Some(count) = grants.get_mut(key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                grants.remove(key);
            }
        }
    }

    /// Lets go of the backups that wait for their agents to come back: these then ask anew what the
    /// vault has.
    pub fn release_parked(&self) {
        guard(&self.held).retain(|_, held| held.is_attached());
    }

    /// Lets go of every backup, so that the store can be closed.
    pub fn release(&self) {
        guard(&self.held).clear();
    }

    fn rights(&self, visitor: &Visitor) -> Result<Rights, Refusal> {
        rights::of(&self.store, visitor)
    }

    /// Finds the backup of this nonce, or begins it.
    fn hold(
        &self,
        rights: &Rights,
        visitor: &Visitor,
        begin: &Begin,
    ) -> Result<Arc<Held>, Refusal> {
        let key = (rights.machine, begin.nonce);
        trim(&self.held, now());
        let parked = guard(&self.held).get(&key).cloned();
        if let Some(parked) = parked.filter(|parked| parked.is_for(begin)) {
            // What the lost connection brought is settled, so that it is not sent twice.
            self.store.flush().map_err(|error| refusal(&error))?;
            return Ok(parked);
        }
        let held = Held::begin(&self.store, rights.machine, &visitor.machine, begin)
            .map_err(|error| refusal(&error))?;
        guard(&self.held).insert(key, Arc::clone(&held));
        Ok(held)
    }

    fn latest(&self, machine: MachineId, disk: &str) -> Option<ObjectId> {
        let receipts = self.store.receipts();
        let mine = |receipt: &&Arc<Receipt>| receipt.machine == machine && receipt.disk == disk;
        receipts.iter().rev().find(mine).map(|receipt| receipt.snapshot)
    }

    fn manifest(&self, snapshot: ObjectId) -> Result<Object, umbra_store::Error> {
        self.store.get(DOMAIN, &Reference { kind: Kind::Manifest, id: snapshot })
    }
}

impl Backend for StoreBackend {
    fn identify(&self, key: &Fingerprint) -> Peer {
        if guard(&self.grants).contains_key(key) {
            return Peer::Owner;
        }
        let name = self
            .store
            .log()
            .with_state(|state| state.machine_by_key(*key).map(|machine| machine.name.clone()));
        name.map_or(Peer::Unknown, Peer::Machine)
    }

    fn enroll(&self, key: &Fingerprint, enroll: &Enroll) -> Result<Enrolled, Refusal> {
        enrol::enroll(&self.store, *key, enroll)
    }

    fn begin(
        &self,
        visitor: &Visitor,
        begin: &Begin,
        settled: OnSettled,
    ) -> Result<(Arc<dyn Backup>, Begun), Refusal> {
        let rights = self.rights(visitor)?;
        if !rights.backs_up {
            return Err(rights::refused("this key may not back anything up"));
        }
        if !is_name(&begin.disk) || !is_name(&visitor.machine) {
            return Err(Refusal {
                code: RefusalCode::Usage,
                text: "names of machines and disks are 1 to 64 letters, digits, dots, dashes and \
                       underscores"
                    .to_owned(),
            });
        }
        let held = self.hold(&rights, visitor, begin)?;
        let base = match held.base() {
            Base::None => BaseState::None,
            Base::Pinned => BaseState::Pinned,
            Base::Gone => BaseState::Gone,
        };
        let begun = Begun { base, latest: self.latest(rights.machine, &begin.disk) };
        let store = Arc::clone(&self.store);
        let registry = Arc::clone(&self.held);
        let attached = Attached::attach(store, registry, held, visitor.clone(), settled);
        Ok((Arc::new(attached), begun))
    }

    fn list(
        &self,
        visitor: &Visitor,
        list: &List,
        after: Option<u64>,
        each: &mut dyn FnMut(u64, ListEntry) -> bool,
    ) -> Result<(), Refusal> {
        let rights = self.rights(visitor)?;
        let asked = |wish: &Option<String>, name: &str| wish.as_deref().is_none_or(|w| w == name);
        let shown = |receipt: &Arc<Receipt>| {
            Some(receipt.sequence) > after
                && rights.sees(receipt)
                && asked(&list.machine, &receipt.machine_name)
                && asked(&list.disk, &receipt.disk)
        };
        for receipt in self.store.receipts().into_iter().filter(shown) {
            let bytes = receipt.to_bytes().map_err(|error| Refusal {
                code: RefusalCode::Failed,
                text: format!("receipt {} cannot be encoded: {error}", receipt.sequence),
            })?;
            // A damaged manifest must not hide the other snapshots; opening it tells.
            let manifest = list.manifests.then(|| self.manifest(receipt.snapshot).ok()).flatten();
            if !each(receipt.sequence, ListEntry { receipt: bytes, manifest }) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, visitor: &Visitor, snapshot: &ObjectId) -> Result<(Object, Kept), Refusal> {
        let rights = self.rights(visitor)?;
        // Several machines may have receipts of one snapshot.
        let shown = |receipt: &Arc<Receipt>| receipt.snapshot == *snapshot && rights.sees(receipt);
        let pin = match self.store.receipts().iter().any(shown) {
            true => self.store.pin(snapshot),
            false => None,
        };
        // One answer for all: nothing is told about what others have.
        let pin = pin.ok_or_else(|| Refusal {
            code: RefusalCode::NotFound,
            text: format!("the vault has no snapshot {snapshot} for this machine"),
        })?;
        let manifest = self.manifest(*snapshot).map_err(|error| refusal(&error))?;
        Ok((manifest, Box::new(pin)))
    }

    fn may_read(&self, visitor: &Visitor) -> Result<(), Refusal> {
        match self.rights(visitor)?.sees {
            Sees::Everything | Sees::Own => Ok(()),
            Sees::Nothing => Err(rights::refused("this key may not read anything")),
        }
    }

    fn references(&self, node: &Reference) -> Result<Vec<Reference>, Refusal> {
        let object = self.store.get(DOMAIN, node).map_err(|error| refusal(&error))?;
        Ok(object.refs)
    }

    fn read(
        &self,
        references: &[Reference],
        each: &mut dyn FnMut(usize, Result<Object, Refusal>) -> bool,
    ) {
        self.store.get_many(DOMAIN, references, &mut |position, result| {
            each(position, result.map_err(|error| refusal(&error)))
        });
    }
}

/// Locks; a panic elsewhere leaves nothing half done behind these locks.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rights {
    fn sees(&self, receipt: &Receipt) -> bool {
        match self.sees {
            Sees::Everything => true,
            Sees::Own => receipt.machine == self.machine,
            Sees::Nothing => false,
        }
    }
}
