//! A vault in memory: objects become durable some time after they were put.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use umbra_common::wire::{
    BaseState, Begin, Begun, Commit, Enroll, Enrolled, Fingerprint, List, ListEntry, Object,
    Refusal, RefusalCode,
};
use umbra_common::{Kind, ObjectId, Reference};
use umbra_net::Identity;
use umbra_net::server::{
    Backend, Backup, Committing, Kept, OnSettled, Peer, Serve, Server, Settled, Taken, Visitor,
};

pub(crate) const SECRET: [u8; 16] = [5; 16];

#[derive(Default)]
pub(crate) struct Inside {
    pub(crate) durable: HashMap<Reference, Object>,
    pending: Vec<(u64, Object, OnSettled)>,
    pub(crate) receipts: Vec<(ObjectId, [u8; 16])>,
    pub(crate) machines: HashMap<Fingerprint, String>,
    pub(crate) puts: u64,
    pub(crate) ended: u64,
    /// What the next put is refused with.
    pub(crate) full: bool,
}

#[derive(Default)]
pub(crate) struct MemoryVault {
    pub(crate) inside: Arc<Mutex<Inside>>,
}

impl Inside {
    fn sync(&mut self) {
        for (sequence, object, settled) in std::mem::take(&mut self.pending) {
            self.durable.insert(object.reference, object);
            settled(Settled::Durable(sequence..=sequence));
        }
    }
}

impl MemoryVault {
    /// Makes objects durable every 10 ms, and when it is told to.
    pub(crate) fn new() -> Arc<Self> {
        let vault = Self::patient();
        let inside = Arc::downgrade(&vault.inside);
        std::thread::spawn(move || {
            while let Some(inside) = inside.upgrade() {
                inside.lock().unwrap().sync();
                drop(inside);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        vault
    }

    /// Makes objects durable only when it is told to.
    pub(crate) fn patient() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub(crate) fn serve(self: &Arc<Self>, identity: &Identity, listen: SocketAddr) -> Server {
        let options = Serve {
            identity: identity.clone(),
            listen,
            store: [7; 16],
            software: "test".into(),
            budget_bytes: 16 << 20,
        };
        Server::start(options, Arc::clone(self) as Arc<dyn Backend>).unwrap()
    }

    pub(crate) fn add(&self, key: Fingerprint, name: &str) {
        self.inside.lock().unwrap().machines.insert(key, name.to_owned());
    }
}

pub(crate) fn refusal(code: RefusalCode, text: &str) -> Refusal {
    Refusal { code, text: text.to_owned() }
}

struct MemoryBackup {
    inside: Arc<Mutex<Inside>>,
    settled: OnSettled,
    nonce: [u8; 16],
}

impl Backend for MemoryVault {
    fn identify(&self, key: &Fingerprint) -> Peer {
        let inside = self.inside.lock().unwrap();
        inside.machines.get(key).map_or(Peer::Unknown, |name| Peer::Machine(name.clone()))
    }

    fn enroll(&self, key: &Fingerprint, enroll: &Enroll) -> Result<Enrolled, Refusal> {
        if enroll.secret != SECRET {
            return Err(refusal(RefusalCode::NotAuthorised, "no such token"));
        }
        self.add(*key, &enroll.machine);
        let machine = enroll.machine.clone();
        Ok(Enrolled { machine_id: [1; 16], machine, store: [7; 16] })
    }

    fn begin(
        &self,
        _visitor: &Visitor,
        begin: &Begin,
        settled: OnSettled,
    ) -> Result<(Arc<dyn Backup>, Begun), Refusal> {
        let mut inside = self.inside.lock().unwrap();
        inside.sync();
        let latest = inside.receipts.last().map(|(manifest, _)| *manifest);
        let base = match begin.base {
            None => BaseState::None,
            Some(base) if inside.receipts.iter().any(|(id, _)| *id == base) => BaseState::Pinned,
            Some(_) => BaseState::Gone,
        };
        let backup = MemoryBackup { inside: self.inside.clone(), settled, nonce: begin.nonce };
        Ok((Arc::new(backup), Begun { base, latest }))
    }

    fn list(
        &self,
        _visitor: &Visitor,
        list: &List,
        after: Option<u64>,
        each: &mut dyn FnMut(u64, ListEntry) -> bool,
    ) -> Result<(), Refusal> {
        let receipts = self.inside.lock().unwrap().receipts.clone();
        let places = (0..).zip(&receipts);
        for (place, (id, nonce)) in places.filter(|(place, _)| Some(*place) > after) {
            let manifest = Reference { kind: Kind::Manifest, id: *id };
            let found = || self.inside.lock().unwrap().durable[&manifest].clone();
            let manifest = list.manifests.then(found);
            if !each(place, ListEntry { receipt: nonce.to_vec(), manifest }) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, _visitor: &Visitor, snapshot: &ObjectId) -> Result<(Object, Kept), Refusal> {
        let manifest = Reference { kind: Kind::Manifest, id: *snapshot };
        let inside = self.inside.lock().unwrap();
        let found = inside.durable.get(&manifest).cloned();
        let found = found.ok_or_else(|| refusal(RefusalCode::NotFound, "no such snapshot"))?;
        let kept: Kept = Box::new(());
        Ok((found, kept))
    }

    fn may_read(&self, _visitor: &Visitor) -> Result<(), Refusal> {
        Ok(())
    }

    fn references(&self, node: &Reference) -> Result<Vec<Reference>, Refusal> {
        let inside = self.inside.lock().unwrap();
        let found = inside.durable.get(node).map(|object| object.refs.clone());
        found.ok_or_else(|| refusal(RefusalCode::NotFound, "no such node"))
    }

    fn read(
        &self,
        references: &[Reference],
        each: &mut dyn FnMut(usize, Result<Object, Refusal>) -> bool,
    ) {
        // Backwards: "pack order".
        for (position, reference) in references.iter().enumerate().rev() {
            let found = self.inside.lock().unwrap().durable.get(reference).cloned();
            if !each(position, found.ok_or_else(|| refusal(RefusalCode::Damaged, "lost"))) {
                return;
            }
        }
    }
}

impl Backup for MemoryBackup {
    fn known(&self, references: &[Reference]) -> Result<Vec<bool>, Refusal> {
        let inside = self.inside.lock().unwrap();
        Ok(references.iter().map(|r| inside.durable.contains_key(r)).collect())
    }

    fn put(&self, sequence: u64, object: Object) -> Result<Taken, Refusal> {
        let mut inside = self.inside.lock().unwrap();
        inside.puts += 1;
        if inside.full {
            return Err(refusal(RefusalCode::NoSpace, "the store is full"));
        }
        let lacking = |r: &&Reference| !inside.durable.contains_key(r);
        let missing: Vec<_> = object.refs.iter().filter(lacking).copied().collect();
        if !missing.is_empty() {
            return Ok(Taken::Missing(missing));
        }
        if let Err(error) = object.clone().open() {
            return Ok(Taken::Bad(error.to_string()));
        }
        inside.pending.push((sequence, object, self.settled.clone()));
        Ok(Taken::Accepted)
    }

    fn flush(&self) -> Result<(), Refusal> {
        self.inside.lock().unwrap().sync();
        Ok(())
    }

    fn commit(&self, commit: &Commit) -> Result<Committing, Refusal> {
        let mut inside = self.inside.lock().unwrap();
        let manifest = Reference { kind: Kind::Manifest, id: commit.manifest };
        if !inside.durable.contains_key(&manifest) {
            return Ok(Committing::Missing(vec![manifest]));
        }
        let receipt = (commit.manifest, self.nonce);
        if !inside.receipts.contains(&receipt) {
            inside.receipts.push(receipt);
        }
        Ok(Committing::Committed(self.nonce.to_vec()))
    }

    fn end(&self) {
        self.inside.lock().unwrap().ended += 1;
    }

    fn detach(&self) {}
}
