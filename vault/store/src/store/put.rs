//! Taking objects: proving ids, finding what is there, appending the rest.

use std::sync::Arc;

use umbra_common::Reference;
use umbra_common::wire::Object;

use crate::bytes::wide;
use crate::cipher::CipherContext;
use crate::error::{Error, Result};
use crate::ids::DomainId;
use crate::index::Key;
use crate::object::{check_references, prove};
use crate::pack::{Entry, RecordDraft, RecordHeader};
use crate::session::{Put, SessionState, Settled};
use crate::store::in_flight::{Joined, Waiter};
use crate::store::inner::{DATA_LANES, Inner, locked};
use crate::store::lane::{Lane, Pending};

/// Bytes that a session appends to one lane before it takes the next: neighbours on the disk
/// stay neighbours in the pack, and all lanes sync.
const STRETCH_BYTES: u64 = 4 << 20;

/// What must be durable before a record counts.
enum Awaiting {
    /// These children, which are on their way.
    Children(Vec<Reference>),
    /// Nothing: it is the record of an object that the index knows.
    Healing,
}

/// A node's references, as far as they resolve.
enum Resolved {
    /// Each is alive or on its way; these are on their way.
    Awaiting(Vec<Reference>),
    /// These are not there.
    Missing(Vec<Reference>),
}

impl Inner {
    /// Takes an object of a session.
    pub(crate) fn put(
        &self,
        session: &Arc<SessionState>,
        number: u64,
        object: &Object,
    ) -> Result<Put> {
        self.writable()?;
        self.leases.check(session.id())?;
        prove(object)?;
        let waiter = Waiter { session: Arc::clone(session), number };
        if !object.reference.kind.is_node() {
            return self.put_chunk(waiter, object);
        }
        check_references(object.reference, &object.refs)?;
        // Children are appended before their parents are looked at: the node lane then holds
        // them in that order.
        let _order = locked(&self.node_order);
        self.put_node(waiter, object)
    }

    /// Takes a proven node of which something below is missing, for a rebuild of the index, which
    /// then marks it. Nobody relies on the index meanwhile.
    pub(crate) fn put_orphan(
        &self,
        session: &Arc<SessionState>,
        number: u64,
        object: &Object,
    ) -> Result<Put> {
        let waiter = Waiter { session: Arc::clone(session), number };
        let _order = locked(&self.node_order);
        if self.joins(&waiter, object)? {
            return Ok(Put::Accepted);
        }
        self.append(self.node_lane()?, &waiter, object, Awaiting::Children(Vec::new()))
    }

    fn put_chunk(&self, waiter: Waiter, object: &Object) -> Result<Put> {
        let session = Arc::clone(&waiter.session);
        if self.joins(&waiter, object)? {
            return Ok(Put::Accepted);
        }
        let lane = self.data_lane(&session)?;
        self.append(lane, &waiter, object, Awaiting::Children(Vec::new()))
    }

    /// Returns the lane that a session's chunks go to now.
    fn data_lane(&self, session: &SessionState) -> Result<&Lane> {
        let stretch = session.bytes_stored() / STRETCH_BYTES;
        let lane = session.id().wrapping_add(stretch) % wide(DATA_LANES);
        self.lanes.get(crate::bytes::narrow(lane)).ok_or(Error::ReadOnly)
    }

    /// Writes an object again whose record is damaged, though the index has a row for it. The row
    /// is switched when the new record is durable, and says what it said of descendants.
    ///
    /// # Errors
    /// As [`crate::Store::put`].
    pub(crate) fn put_healing(
        &self,
        session: &Arc<SessionState>,
        number: u64,
        object: &Object,
    ) -> Result<()> {
        self.writable()?;
        prove(object)?;
        let waiter = Waiter { session: Arc::clone(session), number };
        let key = Key { domain: session.info().domain, id: object.reference.id };
        match self.in_flight.join(key, waiter.clone(), || Ok(false))? {
            Joined::First => {
                let is_node = object.reference.kind.is_node();
                let lane = if is_node { self.node_lane()? } else { self.data_lane(session)? };
                self.append(lane, &waiter, object, Awaiting::Healing).map(drop)
            }
            // Somebody sends it at this moment: that record is as good.
            Joined::Waiting | Joined::Durable => Ok(()),
        }
    }

    fn put_node(&self, waiter: Waiter, object: &Object) -> Result<Put> {
        let domain = waiter.session.info().domain;
        let key = Key { domain, id: object.reference.id };
        let session = waiter.session.id();
        let awaited = if self.is_durable(session, &key, object.reference)? {
            Vec::new()
        } else {
            match self.resolve(session, domain, &object.refs)? {
                Resolved::Missing(missing) => return Ok(Put::Missing(missing)),
                Resolved::Awaiting(awaited) => awaited,
            }
        };
        if self.joins(&waiter, object)? {
            return Ok(Put::Accepted);
        }
        self.append(self.node_lane()?, &waiter, object, Awaiting::Children(awaited))
    }

    fn is_durable(&self, session: u64, key: &Key, reference: Reference) -> Result<bool> {
        let view = self.view_of(session);
        Ok(view.is_alive(self.index.find(key)?.as_ref(), reference.kind))
    }

    /// Joins those who wait for the object, or tells the session that it is durable; false where
    /// the caller must write it.
    fn joins(&self, waiter: &Waiter, object: &Object) -> Result<bool> {
        let session = &waiter.session;
        let key = Key { domain: session.info().domain, id: object.reference.id };
        let is_durable = || self.is_durable(session.id(), &key, object.reference);
        let joined = self.in_flight.join(key, waiter.clone(), is_durable)?;
        match joined {
            Joined::First => return Ok(false),
            Joined::Waiting => session.count_known(),
            Joined::Durable => {
                session.count_known();
                let numbers = vec![waiter.number..=waiter.number];
                session.tell(Settled::Durable { numbers });
            }
        }
        Ok(true)
    }

    /// Looks for what a node refers to: first on its way, then in the index, as objects go from
    /// the one to the other.
    fn resolve(&self, session: u64, domain: DomainId, refs: &[Reference]) -> Result<Resolved> {
        let keys: Vec<Key> = refs.iter().map(|child| Key { domain, id: child.id }).collect();
        let view = self.view_of(session);
        let coming = self.in_flight.among(&keys);
        let found = self.index.find_many(&keys)?;
        let (mut awaited, mut missing) = (Vec::new(), Vec::new());
        for ((child, coming), found) in refs.iter().zip(coming).zip(found) {
            if view.is_alive(found.as_ref(), child.kind) {
                continue;
            }
            if coming {
                awaited.push(*child);
            } else {
                missing.push(*child);
            }
        }
        Ok(if missing.is_empty() {
            Resolved::Awaiting(awaited)
        } else {
            Resolved::Missing(missing)
        })
    }

    fn append(
        &self,
        lane: &Lane,
        waiter: &Waiter,
        object: &Object,
        awaiting: Awaiting,
    ) -> Result<Put> {
        let domain = waiter.session.info().domain;
        let (header, record) = self.encode(domain, object);
        let (awaited, heals) = match awaiting {
            Awaiting::Children(children) => (children, false),
            Awaiting::Healing => (Vec::new(), true),
        };
        let pending = |offset| Pending {
            key: header.key(),
            entry: Entry::new(offset, &header, object.refs.clone()),
            awaited,
            moved: None,
            heals,
        };
        let appended = lane.append(&record, pending, |kind| self.new_pack(kind));
        if let Err(error) = appended {
            let error = Arc::new(error);
            // The caller gets the error from us; others who joined meanwhile are told.
            self.in_flight.fail_others(header.key(), waiter, &error);
            return Err(Error::Shared(error));
        }
        waiter.session.count_stored(wide(record.len()));
        Ok(Put::Accepted)
    }

    fn encode(&self, domain: DomainId, object: &Object) -> (RecordHeader, Vec<u8>) {
        let key_epoch = 0;
        let context = CipherContext { domain, key_epoch, id: object.reference.id };
        let sealed = self.cipher.as_ref().map(|cipher| cipher.seal(&context, object.body.clone()));
        let draft = RecordDraft {
            store: self.store,
            domain,
            cipher: self.cipher.as_ref().map_or(0, |cipher| cipher.number()),
            key_epoch,
            object,
            stored_body: sealed.as_deref().unwrap_or(&object.body),
        };
        draft.encode()
    }
}
