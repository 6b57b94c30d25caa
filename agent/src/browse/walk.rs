//! Everything below a directory, each directory before what is in it, names in byte order.

use std::collections::{HashMap, VecDeque};

use umbra_common::Reference;
use umbra_common::node::NodeSource;
use umbra_common::overlay::{self, Entries, Entry};

use super::Place;
use crate::error::Result;
use crate::fetch;

/// Entries of one directory that are read ahead, so that many directories are asked for at once.
const AHEAD: usize = 128;
/// Directories inside each other; more only a hostile image has.
const MAX_DEPTH: usize = 4096;

/// What a walk comes to.
#[derive(Debug)]
pub enum Visit {
    /// Something, and its path in the volume.
    Entry {
        /// Names joined by `/`; empty for the root.
        path: Vec<u8>,
        /// What stands there.
        entry: Box<Entry>,
    },
    /// A directory, or a part of one, that cannot be read.
    Lost {
        /// The directory's path.
        path: Vec<u8>,
        /// Why.
        reason: String,
    },
}

/// A walk over a directory and everything below it.
pub struct Walk<'s> {
    nodes: &'s dyn NodeSource,
    first: Option<Visit>,
    open: Vec<Level<'s>>,
    /// The directory that was visited last and is not entered yet.
    enter: Option<(Vec<u8>, Box<Entry>)>,
}

struct Level<'s> {
    path: Vec<u8>,
    entries: Entries<'s>,
    ahead: VecDeque<umbra_common::Result<Entry>>,
    ended: bool,
}

impl<'s> Walk<'s> {
    pub(crate) fn new(nodes: &'s dyn NodeSource, place: &Place) -> Self {
        let first = Visit::Entry { path: place.path.clone(), entry: Box::new(place.entry.clone()) };
        Self { nodes, first: Some(first), open: Vec::new(), enter: None }
    }

    /// Leaves out what is below the directory that was visited last.
    pub fn skip(&mut self) {
        self.enter = None;
    }

    /// Goes on to the next.
    ///
    /// # Errors
    /// [`crate::Error::Vault`]; damage is a visit.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Visit>> {
        let visit = match self.first.take() {
            Some(first) => Some(first),
            None => self.step()?,
        };
        if let Some(Visit::Entry { path, entry }) = &visit
            && entry.record.directory.is_some()
        {
            self.enter = Some((path.clone(), entry.clone()));
        }
        Ok(visit)
    }

    fn step(&mut self) -> Result<Option<Visit>> {
        if let Some((path, entry)) = self.enter.take() {
            if self.open.len() >= MAX_DEPTH {
                let reason = format!("more than {MAX_DEPTH} directories inside each other");
                return Ok(Some(Visit::Lost { path, reason }));
            }
            match entry.directory() {
                Ok(Some(link)) => {
                    let entries = overlay::entries(self.nodes, link);
                    let (ahead, ended) = (VecDeque::new(), false);
                    self.open.push(Level { path, entries, ahead, ended });
                }
                Ok(None) => {}
                Err(error) => {
                    return Ok(Some(Visit::Lost { path, reason: fetch::damage(error)? }));
                }
            }
        }
        while let Some(level) = self.open.last_mut() {
            if level.ahead.is_empty() && !level.ended {
                level.fill(self.nodes);
            }
            match level.ahead.pop_front() {
                Some(Ok(entry)) => {
                    let mut path = level.path.clone();
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(&entry.record.name);
                    return Ok(Some(Visit::Entry { path, entry: Box::new(entry) }));
                }
                Some(Err(error)) => {
                    let path = level.path.clone();
                    return Ok(Some(Visit::Lost { path, reason: fetch::damage(error)? }));
                }
                None => {
                    self.open.pop();
                }
            }
        }
        Ok(None)
    }
}

impl Level<'_> {
    fn fill(&mut self, nodes: &dyn NodeSource) {
        while self.ahead.len() < AHEAD {
            match self.entries.next() {
                Some(entry) => self.ahead.push_back(entry),
                None => {
                    self.ended = true;
                    break;
                }
            }
        }
        let mut wanted: HashMap<Reference, (Vec<u32>, Vec<Reference>)> = HashMap::new();
        for entry in self.ahead.iter().flatten() {
            if let Ok(Some(link)) = entry.directory() {
                let (numbers, targets) = wanted.entry(link.parent).or_default();
                if !numbers.contains(&link.number) {
                    numbers.push(link.number);
                    targets.push(link.target);
                }
            }
        }
        for (parent, (numbers, targets)) in wanted.iter().filter(|(_, (n, _))| n.len() > 1) {
            // Only warms the source's cache; what fails is asked for again, one by one.
            let _ = nodes.children(parent, numbers, targets);
        }
    }
}
