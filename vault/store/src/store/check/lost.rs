//! Objects that cannot be given back, why, and whether anybody needs them.

use std::collections::{BTreeMap, HashSet};

use umbra_common::Reference;

use crate::ids::{DomainId, PackId};
use crate::index::Key;

/// Lost objects that are kept: about 200 bytes each.
const KEPT_LOST: usize = 1 << 20;

/// Why an object cannot be given back; the last says most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LossCause {
    /// Its record may be sound, but the index does not lead to it: a rebuild of the index helps.
    Unindexed,
    /// Its record is damaged.
    Damaged,
    /// No pack has it, and something refers to it.
    Missing,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPlace {
    /// The pack.
    pub pack: PackId,
    /// Offset of the record in it, in bytes.
    pub offset: u64,
    /// Length of the record in bytes.
    pub len: u32,
}

/// An object that cannot be given back, or of which one copy is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostObject {
    /// Whose it is.
    pub domain: DomainId,
    /// Kind and id.
    pub reference: Reference,
    /// Why.
    pub cause: LossCause,
    /// The damaged record, or the one that the index does not lead to.
    pub place: Option<RecordPlace>,
    /// A sound copy elsewhere.
    pub sound_copy: Option<RecordPlace>,
    /// The sound copy is the one that is read: nobody misses anything.
    pub superseded: bool,
    /// A snapshot reaches it.
    pub reached: bool,
}

/// What is lost, by domain and reference.
#[derive(Default)]
pub(crate) struct Lost {
    objects: BTreeMap<(DomainId, Reference), LostObject>,
    untold: u64,
}

impl Lost {
    /// Adds an object. What is known of it stays, but for a cause that says more: no pack has it,
    /// before its record is damaged, before the index does not lead to it.
    pub(crate) fn add(
        &mut self,
        domain: DomainId,
        reference: Reference,
        cause: LossCause,
        place: Option<RecordPlace>,
    ) {
        let full = self.objects.len() >= KEPT_LOST;
        if let Some(known) = self.objects.get_mut(&(domain, reference)) {
            if cause > known.cause {
                (known.cause, known.place) = (cause, place.or(known.place));
            }
            return;
        }
        if full {
            self.untold = self.untold.saturating_add(1);
            return;
        }
        let lost = LostObject {
            domain,
            reference,
            cause,
            place,
            sound_copy: None,
            superseded: false,
            reached: false,
        };
        self.objects.insert((domain, reference), lost);
    }

    /// Tells whether nothing is lost.
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Tells whether somebody who reads this object would not get it.
    pub(crate) fn hits(&self, domain: DomainId, reference: Reference) -> bool {
        self.objects.get(&(domain, reference)).is_some_and(|lost| !lost.superseded)
    }

    /// Returns an object.
    pub(crate) fn find(&self, key: Key, kind: umbra_common::Kind) -> Option<&LostObject> {
        self.objects.get(&(key.domain, Reference { kind, id: key.id }))
    }

    /// Returns an object, to be changed.
    pub(crate) fn find_mut(
        &mut self,
        domain: DomainId,
        reference: Reference,
    ) -> Option<&mut LostObject> {
        self.objects.get_mut(&(domain, reference))
    }

    /// Leaves only those that are lost in another check too.
    pub(crate) fn keep_common(&mut self, other: &Self) {
        self.objects.retain(|key, _| other.objects.contains_key(key));
    }

    /// Notes that a snapshot reaches an object, where it is a lost one.
    pub(crate) fn reach(&mut self, domain: DomainId, reference: Reference) {
        if let Some(lost) = self.objects.get_mut(&(domain, reference)) {
            lost.reached = true;
        }
    }

    /// Returns the places that are damaged or that the index does not lead to.
    pub(super) fn places(&self) -> impl Iterator<Item = RecordPlace> {
        self.objects.values().filter_map(|lost| lost.place)
    }

    /// Returns the first object that is not among `known`; every one counts where more are lost than
    /// are kept.
    pub(crate) fn first_beside(
        &self,
        known: &HashSet<(DomainId, Reference)>,
    ) -> Option<&LostObject> {
        let mut objects = self.objects.iter();
        let unknown = |(key, _): &(&(DomainId, Reference), &LostObject)| {
            self.untold > 0 || !known.contains(*key)
        };
        objects.find(unknown).map(|(_, lost)| lost)
    }

    /// Returns the objects, and how many more there were.
    pub(crate) fn into_list(self) -> (Vec<LostObject>, u64) {
        (self.objects.into_values().collect(), self.untold)
    }
}
