//! What a collection has condemned and not swept: alive for the sessions that began before, not
//! there for those that began later.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use umbra_common::Kind;

use crate::bytes::narrow32;
use crate::ids::PackId;
use crate::index::Location;
use crate::store::inner::{Inner, locked};

/// Condemned locations, about 4 bytes each.
pub(crate) struct Condemned {
    /// Number of the last session that began before.
    last_session: u64,
    /// Offsets of condemned records, sorted. No pack reaches 4 GiB.
    by_pack: HashMap<PackId, Vec<u32>>,
    changed: Mutex<Changed>,
}

/// What changed since it was decided.
#[derive(Default)]
struct Changed {
    /// A receipt that came later reaches it.
    rescued: HashSet<(PackId, u32)>,
    /// A node that was stored on something condemned.
    tainted: HashSet<(PackId, u32)>,
}

impl Condemned {
    pub(super) fn new(last_session: u64, by_pack: HashMap<PackId, Vec<u32>>) -> Self {
        Self { last_session, by_pack, changed: Mutex::default() }
    }

    /// Tells whether a session began too late to rely on what is condemned. The store's own (0)
    /// puts anew what it finds on the disk, and began before any.
    pub(crate) fn is_hidden_from(&self, session: u64) -> bool {
        session > self.last_session
    }

    /// Returns the number of the last session that began before.
    pub(super) fn last_session(&self) -> u64 {
        self.last_session
    }

    /// Tells whether the record at a location is condemned.
    pub(crate) fn has(&self, location: &Location) -> bool {
        self.has_at(location.pack, location.offset)
    }

    /// As [`Condemned::has`].
    pub(super) fn has_at(&self, pack: PackId, offset: u64) -> bool {
        let offset = narrow32_of(offset);
        let decided =
            self.by_pack.get(&pack).is_some_and(|offsets| offsets.binary_search(&offset).is_ok());
        let changed = locked(&self.changed);
        let place = (pack, offset);
        (decided || changed.tainted.contains(&place)) && !changed.rescued.contains(&place)
    }

    /// Condemns a node that was stored on something condemned.
    pub(crate) fn taint(&self, pack: PackId, offset: u64) {
        locked(&self.changed).tainted.insert((pack, narrow32_of(offset)));
    }

    /// Takes it back for a record that a root reaches after all; true where it was condemned.
    pub(super) fn rescue(&self, location: &Location) -> bool {
        let condemned = self.has(location);
        if condemned {
            let place = (location.pack, narrow32_of(location.offset));
            locked(&self.changed).rescued.insert(place);
        }
        condemned
    }

    /// Tells whether a record that was condemned was rescued.
    pub(super) fn is_rescued(&self, pack: PackId, offset: u64) -> bool {
        locked(&self.changed).rescued.contains(&(pack, narrow32_of(offset)))
    }

    /// Returns the packs of nodes that were stored on something condemned, and not rescued.
    pub(super) fn tainted(&self) -> HashMap<PackId, HashSet<u32>> {
        let changed = locked(&self.changed);
        let mut found: HashMap<PackId, HashSet<u32>> = HashMap::new();
        for place in changed.tainted.difference(&changed.rescued) {
            found.entry(place.0).or_default().insert(place.1);
        }
        found
    }
}

/// Narrows the offset of a record; packs are shorter than 64 MiB.
pub(super) fn narrow32_of(offset: u64) -> u32 {
    narrow32(crate::bytes::narrow(offset))
}

/// What one session sees as alive.
pub(crate) struct View(pub(crate) Option<Arc<Condemned>>);

impl View {
    /// Tells whether an index row stands for an object that is alive for the session.
    pub(crate) fn is_alive(&self, location: Option<&Location>, kind: Kind) -> bool {
        let hidden =
            |location: &Location| self.0.as_ref().is_some_and(|condemned| condemned.has(location));
        Inner::is_alive(location, kind) && !location.is_some_and(hidden)
    }
}
