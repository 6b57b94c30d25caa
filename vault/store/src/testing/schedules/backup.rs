//! What sessions do: begin, ask, put, commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use umbra_common::snapshot::{Receipt, SessionNonce};

use super::runner::{Kept, Runner};
use super::sessions::{Sent, Slot, session_info};
use crate::bytes::{narrow, wide};
use crate::session::{Base, Commit, CommitRequest, Put};

impl Runner {
    pub(super) fn begin(
        &mut self,
        slot: usize,
        version: u64,
        with_base: bool,
        same_nonce: bool,
    ) -> Kept {
        let number = narrow(version.checked_rem(wide(self.world.versions.len())).unwrap_or(0));
        let version = self.world.versions.get(number).cloned().ok_or("no disks")?;
        let base = version.before.filter(|_| with_base);
        let base = base.and_then(|base| self.world.versions.get(base)).map(|base| base.manifest.id);
        let now = self.now();
        let nonce = match self.nonces.get(&number).filter(|_| same_nonce) {
            Some(nonce) => *nonce,
            None => {
                let [a, b, c, d, e, f, g, h] = now.0.to_le_bytes();
                SessionNonce([a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0])
            }
        };
        self.nonces.insert(number, nonce);
        let sent = Sent::default();
        let info = session_info(&version, nonce, base, &sent);
        let begun = self.store()?.begin(info, now);
        let Some(session) = self.unless_trouble("no session could begin", begun)? else {
            return Ok(());
        };
        let rooted = base.is_some_and(|base| self.model.roots().any(|r| r.snapshot == base));
        match (session.base(), base) {
            (Base::Gone, Some(base)) if rooted && !self.cramped => {
                return Err(format!("base {base} is gone, and its receipt was given"));
            }
            (Base::Pinned, Some(base)) => {
                // Its ids go unasked: that is a promise.
                let objects = self.version_of(base).and_then(|base| self.world.versions.get(base));
                for reference in objects.into_iter().flat_map(|version| &version.objects) {
                    self.model.promise(*reference);
                }
            }
            (Base::None, None) | (Base::Gone, Some(_)) => {}
            (said, asked) => return Err(format!("base {asked:?} is {said:?}")),
        }
        let slot_of = Slot::new(session, number, nonce, sent, &self.world);
        if let Some(place) = self.slots.get_mut(slot) {
            let before = place.replace(slot_of);
            self.given_up.extend(before.map(|slot| slot.sent));
        }
        Ok(())
    }

    pub(super) fn ask(&mut self, slot: usize) -> Kept {
        let Some(Some(asking)) = self.slots.get(slot) else { return Ok(()) };
        let wanted: Vec<_> = asking.queue.iter().copied().collect();
        let known = self.store()?.known(&asking.session, &wanted);
        let Some(known) = self.unless_trouble("asking failed", known)? else { return Ok(()) };
        for (reference, known) in wanted.into_iter().zip(known) {
            if known {
                self.model.promise(reference);
                if let Some(Some(asking)) = self.slots.get_mut(slot) {
                    asking.queue.retain(|other| *other != reference);
                }
            } else if self.model.promised().contains(&reference) && !self.cramped {
                return Err(format!("{reference:?} was promised and is not known"));
            }
        }
        Ok(())
    }

    /// Puts some objects; returns how many are left.
    pub(super) fn put(&mut self, slot: usize, count: u64) -> Kept<usize> {
        for _ in 0..count {
            let Some(Some(putting)) = self.slots.get_mut(slot) else { return Ok(0) };
            let Some((number, reference)) = putting.next() else { return Ok(0) };
            let Some(object) = self.world.objects.get(&reference) else { continue };
            let Some(store) = &self.store else { return Ok(0) };
            match store.put(&putting.session, number, object) {
                Ok(Put::Accepted) => {
                    putting.sent.by_number.insert(number, reference);
                }
                Ok(Put::Missing(missing)) => {
                    putting.again(reference, false);
                    for child in missing {
                        if self.model.promised().contains(&child) && !self.cramped {
                            return Err(format!("{child:?} was promised and is missing"));
                        }
                        let sent = putting.sent.by_number.values().any(|sent| *sent == child);
                        if sent && !self.trouble {
                            return Err(format!("{child:?} was put and is missing"));
                        }
                        putting.again(child, true);
                    }
                }
                Err(error) => {
                    putting.again(reference, false);
                    self.unless_trouble::<()>("putting failed", Err(error))?;
                    break;
                }
            }
        }
        let putting = self.slots.get(slot).and_then(Option::as_ref);
        Ok(putting.map_or(0, |putting| putting.queue.len()))
    }

    pub(super) fn put_all(&mut self, slot: usize) -> Kept {
        // A node that came before its children comes again after them.
        for _ in 0..30 {
            if self.put(slot, 400)? == 0 {
                return Ok(());
            }
        }
        if self.trouble { Ok(()) } else { Err("there is no end to what is missing".to_owned()) }
    }

    pub(super) fn commit(&mut self, slot: usize) -> Kept {
        let Some(Some(committing)) = self.slots.get(slot) else { return Ok(()) };
        let version = committing.version;
        let nonce = committing.nonce;
        let left = committing.queue.len();
        let Some(manifest) = self.world.versions.get(version).map(|v| v.manifest) else {
            return Ok(());
        };
        let now = self.now();
        let Some(Some(committing)) = self.slots.get(slot) else { return Ok(()) };
        let committed = self.store()?.commit(&committing.session, &request(manifest.id), now);
        // What it waited for was told meanwhile.
        self.settle()?;
        match self.unless_trouble("committing failed", committed)? {
            Some(Commit::Committed(receipt)) => {
                if receipt.snapshot != manifest.id || receipt.nonce != nonce {
                    return Err(format!("the receipt is that of another backup: {receipt:?}"));
                }
                let same = |given: &&Arc<Receipt>| {
                    (given.snapshot, given.nonce) == (receipt.snapshot, receipt.nonce)
                };
                if self.model.roots().filter(same).any(|given| *given != receipt) {
                    return Err(format!("committed twice: {receipt:?}"));
                }
                self.trace.note(&format!("receipt {}", receipt.sequence));
                self.model.receive(&self.world, &receipt)
            }
            Some(Commit::Missing(missing)) => {
                let promised = self.model.promised().contains(&manifest) && !self.cramped;
                if missing != [manifest] || promised {
                    return Err(format!("{missing:?} is missing to a commit"));
                }
                if left == 0 && !self.trouble {
                    return Err("everything was put, and the manifest is missing".to_owned());
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn commit_again(&mut self, which: u64) -> Kept {
        let given: Vec<_> = self.model.roots().map(Arc::clone).collect();
        let which = narrow(which.checked_rem(wide(given.len())).unwrap_or(0));
        let Some(receipt) = given.get(which) else { return Ok(()) };
        let version = self.version_of(receipt.snapshot);
        let version = version.and_then(|version| self.world.versions.get(version)).cloned();
        let version = version.ok_or("a receipt of nothing")?;
        let now = self.now();
        let sent = Sent::default();
        let info = session_info(&version, receipt.nonce, None, &sent);
        let store = self.store()?;
        let committed = store
            .begin(info, now)
            .and_then(|session| store.commit(&session, &request(receipt.snapshot), now));
        match self.unless_trouble("committing again failed", committed)? {
            Some(Commit::Committed(again)) if again == *receipt => Ok(()),
            Some(Commit::Missing(_)) if self.cramped => Ok(()),
            None => Ok(()),
            other => Err(format!("{receipt:?}, asked for again, is {other:?}")),
        }
    }
}

fn request(manifest: umbra_common::ObjectId) -> CommitRequest {
    CommitRequest { manifest, tags: Vec::new(), labels: BTreeMap::new() }
}
