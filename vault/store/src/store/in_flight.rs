//! Objects that were put and are not settled yet, and who waits for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::index::Key;
use crate::session::{SessionState, Settled, to_ranges};

/// Somebody who put an object.
#[derive(Clone)]
pub(crate) struct Waiter {
    pub(crate) session: Arc<SessionState>,
    pub(crate) number: u64,
}

/// The table of objects on their way to the disk. One object is written once, however many
/// sessions put it; all are told when it is durable.
#[derive(Default)]
pub(crate) struct InFlight {
    waiters: Mutex<HashMap<Key, Vec<Waiter>>>,
    settled: Condvar,
}

/// What a put finds.
pub(crate) enum Joined {
    /// Nobody writes it: the caller must.
    First,
    /// It is on its way: the waiter was added.
    Waiting,
    /// It is durable.
    Durable,
}

impl InFlight {
    fn waiters(&self) -> MutexGuard<'_, HashMap<Key, Vec<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a waiter; `is_durable` is asked while no object can be settled unseen.
    pub(crate) fn join(
        &self,
        key: Key,
        waiter: Waiter,
        is_durable: impl FnOnce() -> Result<bool>,
    ) -> Result<Joined> {
        let mut waiters = self.waiters();
        if let Some(others) = waiters.get_mut(&key) {
            others.push(waiter);
            return Ok(Joined::Waiting);
        }
        if is_durable()? {
            return Ok(Joined::Durable);
        }
        waiters.insert(key, vec![waiter]);
        Ok(Joined::First)
    }

    /// Tells which of `keys` are on their way.
    pub(crate) fn among(&self, keys: &[Key]) -> Vec<bool> {
        let waiters = self.waiters();
        keys.iter().map(|key| waiters.contains_key(key)).collect()
    }

    /// Waits until one of `keys` may have been settled; true when none is on its way any more.
    pub(crate) fn wait(&self, keys: &[Key], at_most: Duration) -> bool {
        let waiters = self.waiters();
        let pending =
            |waiters: &HashMap<_, _>| keys.iter().any(|key: &Key| waiters.contains_key(key));
        if !pending(&waiters) {
            return true;
        }
        let waited = self.settled.wait_timeout(waiters, at_most);
        let (waiters, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !pending(&waiters)
    }

    /// Takes objects out whose fate the index shows by now, and tells their waiters.
    pub(crate) fn settle(&self, outcomes: Vec<(Key, Result<(), Arc<Error>>)>) {
        let mut durable = Numbers::default();
        let mut failed: Vec<(Arc<Error>, Waiter)> = Vec::new();
        let mut waiters = self.waiters();
        for (key, outcome) in outcomes {
            for waiter in waiters.remove(&key).unwrap_or_default() {
                match &outcome {
                    Ok(()) => durable.add(waiter),
                    Err(error) => failed.push((Arc::clone(error), waiter)),
                }
            }
        }
        drop(waiters);
        self.settled.notify_all();
        for (session, numbers) in durable.by_session.into_values() {
            session.tell(Settled::Durable { numbers: to_ranges(numbers) });
        }
        for (error, waiter) in failed {
            let numbers = to_ranges(vec![waiter.number]);
            waiter.session.tell(Settled::Failed { numbers, error });
        }
    }
}

impl InFlight {
    /// Takes an object out that could not be appended, and tells everybody but `own`.
    pub(crate) fn fail_others(&self, key: Key, own: &Waiter, error: &Arc<Error>) {
        let waiters = self.waiters().remove(&key).unwrap_or_default();
        self.settled.notify_all();
        let is_own =
            |other: &Waiter| other.number == own.number && other.session.id() == own.session.id();
        for waiter in waiters.into_iter().filter(|waiter| !is_own(waiter)) {
            let numbers = to_ranges(vec![waiter.number]);
            waiter.session.tell(Settled::Failed { numbers, error: Arc::clone(error) });
        }
    }
}

/// Numbers by session.
#[derive(Default)]
struct Numbers {
    by_session: BTreeMap<u64, (Arc<SessionState>, Vec<u64>)>,
}

impl Numbers {
    fn add(&mut self, waiter: Waiter) {
        let id = waiter.session.id();
        let entry = self.by_session.entry(id).or_insert_with(|| (waiter.session, Vec::new()));
        entry.1.push(waiter.number);
    }
}
