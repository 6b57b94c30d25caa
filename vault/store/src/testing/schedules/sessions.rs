//! Sessions of a schedule: what each has left to bring, and what it was told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use umbra_common::Reference;
use umbra_common::snapshot::{MachineId, RunId, SessionNonce};

use super::model::Model;
use super::world::{DiskVersion, World};
use crate::ids::DomainId;
use crate::session::{Base, OnSettled, Session, SessionInfo, Settled};
use crate::testing::random::Random;

/// The domain of everything.
pub(super) const DOMAIN: DomainId = DomainId(0);

/// What a session was told and nobody has looked at yet.
#[derive(Default)]
pub(super) struct Told {
    durable: Vec<u64>,
    failed: Vec<(u64, String)>,
}

/// Objects that a session put, and what became of them. Outlives the session: what is on its way
/// is told all the same.
#[derive(Default)]
pub(super) struct Sent {
    told: Arc<Mutex<Told>>,
    pub(super) by_number: BTreeMap<u64, Reference>,
}

impl Sent {
    /// Notes what was promised since; returns what failed.
    pub(super) fn settle(&mut self, model: &mut Model) -> Vec<(Reference, String)> {
        let told = std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        for number in told.durable {
            if let Some(reference) = self.by_number.get(&number) {
                model.promise(*reference);
            }
        }
        let failed = told.failed.into_iter();
        failed.filter_map(|(number, why)| Some((*self.by_number.get(&number)?, why))).collect()
    }

    fn listener(&self) -> OnSettled {
        let told = Arc::clone(&self.told);
        Box::new(move |settled| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            match settled {
                Settled::Durable { numbers } => told.durable.extend(numbers.into_iter().flatten()),
                Settled::Failed { numbers, error } => {
                    let error = crate::error::chain(&error);
                    let numbers = numbers.into_iter().flatten();
                    told.failed.extend(numbers.map(|number| (number, error.clone())));
                }
            }
        })
    }
}

/// A session that backs a disk up.
pub(super) struct Slot {
    pub(super) session: Session,
    pub(super) version: usize,
    pub(super) nonce: SessionNonce,
    /// What it has not brought yet.
    pub(super) queue: VecDeque<Reference>,
    pub(super) sent: Sent,
}

impl Slot {
    /// Makes a slot for a session that has begun; what its base has goes unasked.
    pub(super) fn new(
        session: Session,
        version: usize,
        nonce: SessionNonce,
        sent: Sent,
        world: &World,
    ) -> Self {
        let this = world.versions.get(version);
        let base = this.and_then(|this| world.versions.get(this.before?));
        let base: BTreeSet<Reference> = match session.base() {
            Base::Pinned => base.into_iter().flat_map(|base| base.objects.clone()).collect(),
            Base::None | Base::Gone => BTreeSet::new(),
        };
        let objects = this.into_iter().flat_map(|this| this.objects.iter().copied());
        let queue = objects.filter(|reference| !base.contains(reference)).collect();
        Self { session, version, nonce, queue, sent }
    }

    /// Brings its objects in any order.
    pub(super) fn shuffle(&mut self, seed: u64) {
        Random::new(seed, "order").shuffle(self.queue.make_contiguous());
    }

    /// Takes the next object, with its number in what the session is told.
    pub(super) fn next(&mut self) -> Option<(u64, Reference)> {
        let reference = self.queue.pop_front()?;
        let number = crate::bytes::wide(self.sent.by_number.len());
        Some((number, reference))
    }

    /// Brings an object again, soon or late, unless it is in the queue already.
    pub(super) fn again(&mut self, reference: Reference, soon: bool) {
        if self.queue.contains(&reference) {
            return;
        }
        if soon {
            self.queue.push_front(reference);
        } else {
            self.queue.push_back(reference);
        }
    }
}

/// Says who begins a session.
pub(super) fn session_info(
    version: &DiskVersion,
    nonce: SessionNonce,
    base: Option<umbra_common::ObjectId>,
    sent: &Sent,
) -> SessionInfo {
    let name = version.name.clone();
    let byte = name.bytes().last().unwrap_or(0);
    SessionInfo {
        machine: MachineId([byte; 16]),
        machine_name: name.clone(),
        disk: name,
        domain: DOMAIN,
        nonce,
        run: RunId([1; 16]),
        base,
        on_settled: sent.listener(),
    }
}
