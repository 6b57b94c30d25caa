//! What must be true: of the owner, of readers, of a check.

use std::collections::BTreeSet;

use umbra_common::snapshot::SessionNonce;
use umbra_common::wire::Object;
use umbra_common::{ObjectId, Reference};

use super::runner::{Kept, Runner};
use super::sessions::{DOMAIN, Sent, session_info};
use super::step::End;
use crate::bytes::wide;
use crate::error::{Result, chain};
use crate::store::check::{CheckOptions, CheckReport, ReadData, check};
use crate::store::{OpenMode, Store};
use crate::testing::JournaledIndex;
use crate::testing::random::Random;

/// Objects that are read in one step.
const READ_AT_ONCE: usize = 24;

impl Runner {
    /// Compares what was read with what was put.
    pub(super) fn compare(&mut self, reference: &Reference, found: Result<Object>) -> Kept {
        let found = found.map_err(|error| {
            format!("{reference:?} was promised and cannot be read: {}", chain(&error))
        })?;
        if self.world.objects.get(reference) != Some(&found) {
            return Err(format!("WRONG BYTES for {reference:?}: {found:?}"));
        }
        self.stats.objects_read = self.stats.objects_read.saturating_add(1);
        let bytes = wide(found.body.len());
        self.stats.bytes_compared = self.stats.bytes_compared.saturating_add(bytes);
        Ok(())
    }

    fn some_promised(&self, which: u64) -> Vec<Reference> {
        let mut all: Vec<Reference> = self.model.promised().iter().copied().collect();
        Random::new(which, "read").shuffle(&mut all);
        all.truncate(READ_AT_ONCE);
        all
    }

    pub(super) fn read(&mut self, which: u64, many: bool) -> Kept {
        let wanted = self.some_promised(which);
        let mut found = Vec::new();
        let store = self.store()?;
        if many {
            read_many(store, &wanted, &mut found);
        } else {
            found.extend(wanted.iter().map(|wanted| (*wanted, store.get(DOMAIN, wanted))));
        }
        self.compare_all(wanted.len(), found)
    }

    fn compare_all(&mut self, wanted: usize, found: Vec<(Reference, Result<Object>)>) -> Kept {
        if found.len() != wanted {
            return Err(format!("{wanted} objects were asked for, {} came", found.len()));
        }
        found.into_iter().try_for_each(|(reference, found)| self.compare(&reference, found))
    }

    /// Reads beside the owner, or after it.
    pub(super) fn read_beside(&mut self, fresh: bool) -> Kept {
        let reader = match self.reader.take().filter(|_| !fresh) {
            Some(reader) => reader,
            None => {
                let options = self.options(OpenMode::ReadOnly);
                Store::open(self.vfs(), options)
                    .map_err(|error| format!("no reader gets in: {}", chain(&error)))?
            }
        };
        reader.refresh().map_err(|error| format!("a reader failed: {}", chain(&error)))?;
        let wanted: Vec<Reference> = self.model.promised().iter().copied().collect();
        let mut found = Vec::new();
        read_many(&reader, &wanted, &mut found);
        self.compare_all(wanted.len(), found)?;
        let damage = reader.damage();
        if !damage.is_empty() {
            return Err(format!("a reader tells of damage: {damage:?}"));
        }
        self.has_receipts(&reader)?;
        self.reader = Some(reader);
        Ok(())
    }

    /// Every receipt that was given is there, unchanged.
    fn has_receipts(&self, store: &Store) -> Kept {
        let receipts = store.receipts();
        for given in self.model.roots() {
            if !receipts.contains(given) {
                return Err(format!("a receipt that was given is gone: {given:?}"));
            }
        }
        for (before, after) in receipts.iter().zip(receipts.iter().skip(1)) {
            let hash = before.hash().map_err(|error| chain(&error))?;
            // One between them may be forgotten.
            let follows = before.sequence.checked_add(1) == Some(after.sequence);
            let continues = after.previous == Some(hash) || !follows;
            if before.sequence >= after.sequence || !continues {
                return Err(format!("{after:?} does not continue {before:?}"));
            }
        }
        Ok(())
    }

    /// Compares all that the model knows with the owner's store.
    pub(super) fn verify(&mut self) -> Kept {
        let damage = self.store()?.damage();
        if !damage.is_empty() {
            return Err(format!("it tells of damage: {damage:?}"));
        }
        let everything: Vec<Reference> = self.world.objects.keys().copied().collect();
        let Some(known) = self.known(&everything)? else { return Ok(()) };
        let lost = self.model.promised().iter().find(|r| !known.contains(r));
        if let Some(lost) = lost.filter(|_| !self.cramped) {
            let key = crate::index::Key { domain: DOMAIN, id: lost.id };
            let row = self.store()?.row(&key).map_err(|error| chain(&error))?;
            return Err(format!("{lost:?} was promised and is not known; its row: {row:?}"));
        }
        for reference in &known {
            let object = self.world.objects.get(reference);
            let refs = object.map(|object| object.refs.as_slice()).unwrap_or_default();
            if let Some(child) = refs.iter().find(|child| !known.contains(child)) {
                return Err(format!("{reference:?} is known, and {child:?} below it is not"));
            }
        }
        // Whoever asked would have relied on it.
        known.iter().for_each(|reference| self.model.promise(*reference));
        self.has_receipts(self.store()?)?;
        // A commit whose answer was lost has given a receipt all the same.
        for receipt in self.store()?.receipts() {
            self.model.receive(&self.world, &receipt)?;
        }
        let promised = self.model.promised();
        if let Some(lost) = promised.iter().find(|r| !known.contains(r)).filter(|_| !self.cramped) {
            return Err(format!("a receipt reaches {lost:?}, which is not known"));
        }
        let wanted: Vec<Reference> = promised.iter().copied().collect();
        let mut found = Vec::new();
        read_many(self.store()?, &wanted, &mut found);
        self.compare_all(wanted.len(), found)
    }

    /// Asks what is known; `None` where the index is half made.
    fn known(&mut self, references: &[Reference]) -> Kept<Option<BTreeSet<Reference>>> {
        let sent = Sent::default();
        let version = self.world.versions.first().ok_or("no disks")?;
        let info = session_info(version, SessionNonce([0xff; 16]), None, &sent);
        let now = self.now();
        let store = self.store()?;
        let asked = store.begin(info, now).and_then(|session| store.known(&session, references));
        let known = self.unless_trouble("asking failed", asked)?;
        Ok(known.map(|known| {
            let pairs = references.iter().zip(known);
            pairs.filter(|(_, known)| *known).map(|(reference, _)| *reference).collect()
        }))
    }

    /// Runs a check of everything, and expects nothing to be wrong.
    pub(super) fn check(&mut self) -> Kept {
        self.stats.checks = self.stats.checks.saturating_add(1);
        let report = self.checked();
        let report = report.map_err(|error| format!("the check failed: {}", chain(&error)))?;
        if report.is_damaged() {
            let (findings, lost) = (&report.findings.list, &report.lost);
            return Err(format!("a check tells of damage: {findings:?}, lost {lost:?}"));
        }
        Ok(())
    }

    pub(super) fn checked(&self) -> Result<CheckReport> {
        let options = CheckOptions::new(Box::new(self.index.clone()), ReadData::Everything);
        check(&self.vfs(), &options)
    }

    /// What every schedule ends with: all is well again, backups can be made to their end, and
    /// whoever comes later finds everything.
    pub(super) fn finish(&mut self) -> Kept {
        self.end_faults();
        self.end(End::Close)?;
        self.check()?;
        self.open()?;
        self.trace.step("finish 1".to_owned());
        self.verify()?;
        let mut versions: Vec<usize> = (0..self.world.versions.len()).collect();
        Random::new(self.seed, "finish").shuffle(&mut versions);
        for version in versions.into_iter().take(2) {
            self.begin(0, wide(version), false, true)?;
            self.ask(0)?;
            self.put_all(0)?;
            self.settle()?;
            self.commit(0)?;
            self.settle()?;
        }
        self.trace.step("finish 2".to_owned());
        self.verify()?;
        self.end(End::Close)?;
        self.check()?;
        // The power goes after an orderly end: nothing of it is lost. Then the index is.
        self.fall(End::PowerCut(0))?;
        self.check()?;
        self.read_beside(true)?;
        self.reader = None;
        self.open()?;
        self.trace.step("finish 3".to_owned());
        self.verify()?;
        self.end(End::Drop)?;
        self.index = JournaledIndex::default();
        self.open()?;
        self.trace.step("finish 4".to_owned());
        self.verify()?;
        self.end(End::Close)
    }

    /// Returns the version that a receipt is of.
    pub(super) fn version_of(&self, snapshot: ObjectId) -> Option<usize> {
        self.world.versions.iter().position(|version| version.manifest.id == snapshot)
    }
}

fn read_many(store: &Store, wanted: &[Reference], found: &mut Vec<(Reference, Result<Object>)>) {
    store.get_many(DOMAIN, wanted, &mut |position, object| {
        found.extend(wanted.get(position).map(|reference| (*reference, object)));
        true
    });
}
