//! What happens when the medium does harm: no wrong byte is given, and a check finds all of it.

use std::collections::BTreeSet;

use umbra_common::{ObjectId, Reference};

use super::runner::{Kept, Runner};
use super::sessions::DOMAIN;
use super::step::End;
use crate::error::{Error, chain};
use crate::ids::PackId;
use crate::index::{Batch, Index, Location};
use crate::receipt::receipt_name;
use crate::store::check::{CheckReport, FindingKind, IndexChecked};
use crate::store::{OpenMode, Store};
use crate::testing::random::Random;
use crate::testing::{Harm, Hit};

/// Tells whether harm to a file is within what a store must bear: the LOCK holds no data, and
/// what lies in `tmp/` is nobody's.
fn counts(path: &str) -> bool {
    path != "LOCK" && !path.starts_with("tmp/")
}

impl Runner {
    /// Ends the store, lets its medium harm it, and looks at what is left.
    pub(super) fn damage(&mut self, end: End, seed: u64, harms: u64, harm: Option<Harm>) -> Kept {
        self.end_faults();
        let orderly = self.orderly && matches!(end, End::Close);
        self.end(end)?;
        self.index_is_whole = !matches!(end, End::PowerCut(_) | End::KillThenPowerCut(_));
        let cut = !self.index_is_whole;
        self.check()?;
        let mut random = Random::new(seed, "damage");
        let mut hits = Vec::new();
        for _ in 0..harms {
            if random.chance(15) {
                let what = self.harm_index(&mut random)?;
                self.trace.note(what);
                self.index_is_whole = false;
                continue;
            }
            let harm = harm.or_else(|| random.pick(&Harm::ALL).copied()).unwrap_or(Harm::BitFlip);
            let place = random.pick(&["packs/", "packs/", "", "receipts/", "log/", "open/"]);
            let place = place.copied().unwrap_or_default();
            let hit =
                self.vfs.harm(random.next(), harm, |path| counts(path) && path.starts_with(place));
            self.trace.note(&hit.as_ref().map_or("no hit".to_owned(), ToString::to_string));
            hits.extend(hit);
        }
        let more = crate::bytes::wide(hits.len());
        self.stats.harms = self.stats.harms.saturating_add(more);
        self.look(&hits, orderly, cut)
    }

    /// Harms the index, and says how.
    fn harm_index(&mut self, random: &mut Random) -> Kept<&'static str> {
        let rows = self.index.rows().map_err(|error| chain(&error))?;
        let packs = self.index.packs().map_err(|error| chain(&error))?;
        let row = random.pick(&rows).copied();
        let pack = random.pick(&packs).copied();
        let mut batch = Batch::default();
        let said = match (random.below(6), row, pack) {
            (0, Some(row), _) => {
                batch.remove.push(row);
                "a row of the index is gone"
            }
            (1, Some((key, row)), _) => {
                let offset = row.offset ^ random.below(4096).saturating_add(1);
                batch.put.push((key, Location { offset, ..row }));
                "a row of the index names another offset"
            }
            (2, Some((key, row)), _) => {
                let location = random.pick(&rows).map_or(row, |(_, location)| *location);
                batch.put.push((key, location));
                "a row of the index names another's place"
            }
            (3, _, Some((pack, _))) => {
                batch.remove_packs.push(pack);
                "the row of a pack is gone"
            }
            (4, Some((key, row)), _) => {
                batch.put.push((key, Location { pack: PackId([7; 16]), ..row }));
                "a row of the index names a pack that never was"
            }
            _ => {
                self.index.break_it();
                return Ok("the index cannot be opened");
            }
        };
        self.index.damage(&batch).map_err(|error| chain(&error))?;
        Ok(said)
    }

    /// Checks the harmed store, and then reads all of it.
    fn look(&mut self, hits: &[Hit], orderly: bool, cut: bool) -> Kept {
        let report = match self.harmed_report()? {
            Some(report) => report,
            // FORMAT is hit: nobody gets in, and says so.
            None => return Ok(()),
        };
        self.read_harmed(&report, OpenMode::ReadOnly, &BTreeSet::new())?;
        // A store that ended in order every time has no byte that carries nothing.
        if orderly && !hits.is_empty() && !report.is_damaged() {
            return Err("no damage is told of, and every byte carried something".to_owned());
        }
        // The owner makes good what it can, and gives no wrong byte either.
        let (vfs, index) = (self.vfs.after_kill(), self.index.after_kill());
        // Where the power took rows of the index it cannot tell nodes that miss a child from ones
        // that were never acknowledged, and does not take them over.
        let above = if cut { self.above(&report) } else { BTreeSet::new() };
        self.read_harmed(&report, OpenMode::ReadWrite, &above)?;
        // And so it does without an index.
        self.vfs = vfs;
        self.index = crate::testing::JournaledIndex::default();
        self.read_harmed(&report, OpenMode::ReadWrite, &BTreeSet::new())?;
        self.index = index.map_err(|error| chain(&error))?;
        Ok(())
    }

    fn harmed_report(&mut self) -> Kept<Option<CheckReport>> {
        self.stats.checks = self.stats.checks.saturating_add(1);
        match self.checked() {
            Ok(report) => Ok(Some(report)),
            Err(Error::NotAStore { .. }) => Ok(None),
            Err(Error::Corrupt { path, .. } | Error::Unsupported { path, .. })
                if path == "FORMAT" =>
            {
                Ok(None)
            }
            Err(error) if error.is_unreadable() && error.to_string().contains("FORMAT") => Ok(None),
            Err(error) => Err(format!("the check failed: {}", chain(&error))),
        }
    }

    /// Opens the harmed store and reads everything that was promised: it is right, or it is an
    /// error and the check has told of it.
    fn read_harmed(
        &mut self,
        report: &CheckReport,
        mode: OpenMode,
        excused: &BTreeSet<Reference>,
    ) -> Kept {
        self.stats.openings = self.stats.openings.saturating_add(1);
        let store = match Store::open(self.vfs(), self.options(mode)) {
            Ok(store) => store,
            Err(error) => {
                self.trace.note(&format!("{mode:?}: {}", chain(&error)));
                return match report.is_damaged() {
                    true => Ok(()),
                    false => Err(format!("{mode:?} cannot open it, and no check told of that")),
                };
            }
        };
        // By the id alone: a row of the index that is wrong may say another kind.
        let told: BTreeSet<ObjectId> = report.lost.iter().map(|lost| lost.reference.id).collect();
        // Without all rows of the index nothing tells of what no receipt reaches and is gone, nor
        // of each object below a node that is gone.
        let all_rows = report.index == IndexChecked::Compared && self.index_is_whole;
        let rooted = self.rooted();
        let below = self.below(&told);
        let wanted: Vec<Reference> = self.model.promised().iter().copied().collect();
        let mut lost = 0u64;
        for reference in wanted {
            match store.get(DOMAIN, &reference) {
                Ok(object) => self.compare(&reference, Ok(object))?,
                Err(error) => {
                    lost = lost.saturating_add(1);
                    let is_told = told.contains(&reference.id)
                        || excused.contains(&reference)
                        || !all_rows
                            && (!rooted.contains(&reference) || below.contains(&reference.id));
                    if !is_told {
                        return Err(format!(
                            "{mode:?} cannot read {reference:?} ({}), and no check told of it",
                            chain(&error)
                        ));
                    }
                }
            }
        }
        self.stats.objects_lost = self.stats.objects_lost.saturating_add(lost);
        self.receipts_are_told(&store, report)
    }

    /// Returns everything below these objects.
    fn below(&self, told: &BTreeSet<ObjectId>) -> BTreeSet<ObjectId> {
        let mut below = BTreeSet::new();
        // Children stand before parents, so one pass from the end finds all of them.
        for version in &self.world.versions {
            for reference in version.objects.iter().rev() {
                if told.contains(&reference.id) || below.contains(&reference.id) {
                    let object = self.world.objects.get(reference);
                    let refs = object.map(|object| object.refs.as_slice()).unwrap_or_default();
                    below.extend(refs.iter().map(|child| child.id));
                }
            }
        }
        below
    }

    /// Returns everything above the objects that a check has told of.
    fn above(&self, report: &CheckReport) -> BTreeSet<Reference> {
        let told: BTreeSet<Reference> = report.lost.iter().map(|lost| lost.reference).collect();
        let mut above = BTreeSet::new();
        for version in &self.world.versions {
            for reference in &version.objects {
                let object = self.world.objects.get(reference);
                let refs = object.map(|object| object.refs.as_slice()).unwrap_or_default();
                if refs.iter().any(|child| told.contains(child) || above.contains(child)) {
                    above.insert(*reference);
                }
            }
        }
        above
    }

    /// Returns what the receipts that were given reach.
    fn rooted(&self) -> BTreeSet<Reference> {
        let versions = self.model.roots().filter_map(|root| self.version_of(root.snapshot));
        let versions = versions.filter_map(|version| self.world.versions.get(version));
        versions.flat_map(|version| version.objects.iter().copied()).collect()
    }

    /// Every receipt that was given is there unchanged, or the check has told of it.
    fn receipts_are_told(&self, store: &Store, report: &CheckReport) -> Kept {
        let there = store.receipts();
        for given in self.model.roots() {
            if there.contains(given) {
                continue;
            }
            if let Some(other) = there.iter().find(|other| other.sequence == given.sequence) {
                return Err(format!("WRONG RECEIPT {other:?} in the place of {given:?}"));
            }
            let name = receipt_name(given.sequence);
            // Where the LOG is damaged, too, nothing names the last receipts.
            let log = report.findings.totals.contains_key(&FindingKind::Log);
            if !log && !report.findings.list.iter().any(|finding| finding.path == name) {
                return Err(format!("{name} is gone, and no check told of it"));
            }
        }
        Ok(())
    }
}
