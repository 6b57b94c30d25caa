//! Objects that were given for sending and are not yet known to be durable.

use crate::Reference;
use crate::wire::object::Object;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Where an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits until this many objects that it refers to are durable.
    Waiting(usize),
    /// May go out.
    Ready,
    /// Went out on the present connection under this number.
    Sent(u64),
    /// Went out on a lost connection; the vault is being asked.
    Asked,
}

#[derive(Debug)]
struct Entry {
    object: Arc<Object>,
    state: State,
}

/// The window. An object leaves it when it is durable.
#[derive(Debug, Default)]
pub(super) struct Window {
    entries: HashMap<Reference, Entry>,
    /// Object -> nodes in the window that wait for it.
    dependents: HashMap<Reference, Vec<Reference>>,
    ready: VecDeque<Reference>,
    sent: BTreeMap<u64, Reference>,
    next_sequence: u64,
    bytes: u64,
}

impl Window {
    /// Weight of all objects in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many objects went out on the present connection.
    pub(super) fn sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Nothing may go out now, and something is on its way.
    pub(super) fn is_stalled(&self) -> bool {
        self.ready.is_empty() && !self.sent.is_empty()
    }

    /// Something may go out now.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes an object in, unless it is in already.
    pub(super) fn insert(&mut self, object: Arc<Object>) {
        let reference = object.reference;
        if self.entries.contains_key(&reference) {
            return;
        }
        let awaited: HashSet<Reference> =
            object.refs.iter().filter(|child| self.entries.contains_key(child)).copied().collect();
        for child in &awaited {
            self.dependents.entry(*child).or_default().push(reference);
        }
        let state = match awaited.len() {
            0 => State::Ready,
            count => State::Waiting(count),
        };
        if state == State::Ready {
            self.ready.push_back(reference);
        }
        self.bytes = self.bytes.saturating_add(object.weight());
        self.entries.insert(reference, Entry { object, state });
    }

    /// Gives the next object that may go out a number.
    pub(super) fn next(&mut self) -> Option<(u64, Arc<Object>)> {
        while let Some(reference) = self.ready.pop_front() {
            let Some(entry) = self.entries.get_mut(&reference) else { continue };
            if entry.state != State::Ready {
                continue;
            }
            let sequence = self.next_sequence;
            self.next_sequence = sequence.saturating_add(1);
            entry.state = State::Sent(sequence);
            self.sent.insert(sequence, reference);
            return Some((sequence, Arc::clone(&entry.object)));
        }
        None
    }

    /// What went out under a number and is not durable yet.
    pub(super) fn sent(&self, sequence: u64) -> Option<Reference> {
        self.sent.get(&sequence).copied()
    }

    /// The vault has these durably.
    pub(super) fn acknowledge(&mut self, range: RangeInclusive<u64>) {
        let references: Vec<Reference> =
            self.sent.range(range).map(|(_, reference)| *reference).collect();
        references.iter().for_each(|reference| self.remove(reference));
    }

    /// The connection is lost: returns what went out on it and was not acknowledged, in the order
    /// in which it went. The vault must be asked for all of it.
    pub(super) fn unsettle(&mut self) -> Vec<Reference> {
        self.next_sequence = 0;
        self.sent.clear();
        let mut asked: Vec<(u64, Reference)> = Vec::new();
        for (reference, entry) in &mut self.entries {
            match entry.state {
                State::Sent(sequence) => {
                    entry.state = State::Asked;
                    asked.push((sequence, *reference));
                }
                // The connection was lost a second time, before the answer: first of all.
                State::Asked => asked.push((0, *reference)),
                State::Waiting(_) | State::Ready => {}
            }
        }
        asked.sort_unstable();
        asked.into_iter().map(|(_, reference)| reference).collect()
    }

    /// The vault answered for an object of [`unsettle`](Self::unsettle).
    pub(super) fn settle(&mut self, reference: &Reference, durable: bool) {
        if durable {
            self.remove(reference);
        } else if let Some(entry) = self.entries.get_mut(reference)
            && entry.state == State::Asked
        {
            entry.state = State::Ready;
            self.ready.push_back(*reference);
        }
    }

    fn remove(&mut self, reference: &Reference) {
        let Some(entry) = self.entries.remove(reference) else { return };
        self.bytes = self.bytes.saturating_sub(entry.object.weight());
        if let State::Sent(sequence) = entry.state {
            self.sent.remove(&sequence);
        }
        for dependent in self.dependents.remove(reference).unwrap_or_default() {
            let Some(waiting) = self.entries.get_mut(&dependent) else { continue };
            if let State::Waiting(count) = waiting.state {
                waiting.state = match count {
                    0 | 1 => State::Ready,
                    more => State::Waiting(more.saturating_sub(1)),
                };
                if waiting.state == State::Ready {
                    self.ready.push_back(dependent);
                }
            }
        }
    }
}
