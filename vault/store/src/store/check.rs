//! Checks a whole store, without changing anything: structure, closure from the roots, and on
//! request every record. What it finds is told as the snapshots and files that it hits.
//!
//! It takes no lock and may run beside the store's owner. What looks wrong there is looked at
//! again: only what is wrong both times is told.
//!
//! Memory: 57 bytes a node, 8 bytes a chunk up to 512 MiB (beyond that there are more passes over
//! the tables), 200 bytes a lost object up to a million, one pack a thread, and 32 MiB of nodes
//! while names are looked for.
//!
//! In this order, so that nobody who writes meanwhile looks like damage: LOG, receipts, names of
//! packs, index, tables. What a receipt names stood in the packs before it; what a table names
//! stood in the index before the pack was sealed.

use std::collections::{BTreeSet, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use umbra_common::Reference;

use crate::bytes::wide;
use crate::cipher::Cipher;
use crate::error::Result;
use crate::ids::PackId;
use crate::index::IndexOpener;
use crate::lock::{self, Ownership};
use crate::objects::ObjectStore;
use crate::store::inner::Inner;
use crate::store::open;
use crate::vfs::Vfs;

pub(crate) mod closure;
mod copies;
mod data;
mod files;
mod hits;
mod index;
pub(crate) mod lost;
mod names;
pub(crate) mod nodes;
pub(crate) mod packs;
mod ranges;
pub(crate) mod report;
pub(crate) mod roots;
mod source;

pub use lost::{LossCause, LostObject, RecordPlace};
pub use report::{
    CheckReport, Finding, FindingKind, Findings, HitPath, IndexChecked, Reach, SnapshotHit,
};

use closure::{Closure, chunks_of};
use hits::Hits;
use index::{Compared, Sound};
use lost::Lost;
use nodes::Nodes;
use packs::Packs;
use roots::Roots;

/// How much of the packs is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadData {
    /// Headers and tables of contents alone.
    Nothing,
    /// Every record of every pack.
    Everything,
    /// Every record of some packs.
    Share {
        /// How many of the packs, in millionths.
        millionths: u32,
        /// What the choice is made from; the same choice for the same number.
        seed: u64,
    },
}

/// How a store is checked.
pub struct CheckOptions {
    /// Where the index comes from.
    pub index: Box<dyn IndexOpener>,
    /// Where packs and receipts lie; `None`: in the store's directory.
    pub objects: Option<Arc<dyn ObjectStore>>,
    /// Decrypts bodies; `None`: plain.
    pub cipher: Option<Arc<dyn Cipher>>,
    /// How much is read.
    pub read: ReadData,
    /// Bytes of packs that are read in a second, at most.
    pub limit_bytes: Option<NonZeroU64>,
    /// Told after each pack that was read.
    pub progress: Option<Box<dyn Fn(CheckProgress) + Send + Sync>>,
}

/// How far the reading of packs is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckProgress {
    /// Packs that were read.
    pub packs: u64,
    /// Packs that are to be read.
    pub packs_total: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

impl CheckOptions {
    /// The usual options.
    pub fn new(index: Box<dyn IndexOpener>, read: ReadData) -> Self {
        let (limit_bytes, progress) = (None, None);
        Self { index, objects: None, cipher: None, read, limit_bytes, progress }
    }
}

/// Checks the store in the directory of `vfs`. Damage stands in the report.
///
/// # Errors
/// [`crate::Error::NotAStore`], [`crate::Error::Unsupported`] and [`crate::Error::Corrupt`] for
/// its `FORMAT`; what the storage says, where that is no damage.
pub fn check(vfs: &Arc<dyn Vfs>, options: &CheckOptions) -> Result<CheckReport> {
    let (objects, cipher) = (options.objects.clone(), options.cipher.clone());
    let inner = open::insides(vfs, objects, cipher)?;
    let mut found = Structure::of(&inner, options)?;
    if found.ownership.held && (found.findings.total() > 0 || !found.lost.is_empty()) {
        let again = Structure::of(&inner, options)?;
        found = again.with_what_was_there_before(&found);
    }
    let report = found.read_and_name(options)?;
    Ok(report)
}

/// What the tables, the receipts, the LOG and the index say, compared with each other.
struct Structure<'a> {
    inner: &'a Inner,
    ownership: Ownership,
    roots: Roots,
    packs: Packs<'a>,
    nodes: Nodes,
    /// Packs whose header or table is damaged.
    unsound: HashSet<PackId>,
    index: Option<Compared>,
    checked: IndexChecked,
    findings: Findings,
    lost: Lost,
    objects: u64,
    node_records: u64,
    bytes_void: u64,
}

impl<'a> Structure<'a> {
    fn of(inner: &'a Inner, options: &CheckOptions) -> Result<Self> {
        let mut findings = Findings::default();
        let ownership = lock::look(&*inner.vfs)?;
        if ownership.owner.is_none() {
            let reason = "it cannot be read; the next owner makes it anew";
            findings.add(Finding::at(FindingKind::Lock, lock::LOCK_NAME, 0, reason));
        }
        let mut roots = roots::read(inner, ownership.owner.as_ref(), &mut findings)?;
        let quarantined = std::mem::take(&mut roots.quarantined);
        let listed = Packs::list(inner)?;
        let (index, checked) =
            index::open(inner, &*options.index, roots.gc_generation, ownership.held, &mut findings);
        let rows = index.as_ref().map(Compared::pack_rows).unwrap_or_default();
        let mut found = Self {
            inner,
            ownership,
            roots,
            packs: listed.with_rows(rows).with_quarantine(quarantined),
            nodes: Nodes::default(),
            unsound: HashSet::new(),
            index,
            checked,
            findings,
            lost: Lost::default(),
            objects: 0,
            node_records: 0,
            bytes_void: 0,
        };
        names::check(inner, &found.packs, &mut found.findings)?;
        found.compare_mark()?;
        let (unsound, chunks) = found.examine_packs()?;
        found.compare_rows(&unsound)?;
        found.unsound = unsound;
        found.nodes.sort();
        let mut closure = Closure {
            packs: &found.packs,
            nodes: &mut found.nodes,
            lost: &mut found.lost,
            findings: &mut found.findings,
            chunks,
        };
        closure.run(&found.roots.list)?;
        found.read_manifests();
        Ok(found)
    }

    /// Compares the end of the LOG with what the index knows of it.
    fn compare_mark(&mut self) -> Result<()> {
        let Some(mark) = self.index.as_ref().map(Compared::log_mark) else { return Ok(()) };
        let mark = match mark {
            Ok(mark) => mark,
            Err(error) => {
                self.drop_index(&error);
                return Ok(());
            }
        };
        let mut end = self.roots.log_end;
        if mark > end && self.ownership.held {
            // The owner went on writing before we opened the index.
            end = crate::log::replay(&*self.inner.journal, self.inner.store)?.state.sequence;
        }
        roots::check_mark(mark, end, &mut self.findings);
        Ok(())
    }

    /// Reads every table; returns the packs that have none that is sound, and how many chunks
    /// there are.
    fn examine_packs(&mut self) -> Result<(HashSet<PackId>, u64)> {
        let mut unsound = HashSet::new();
        let mut chunks = 0u64;
        for number in 0..self.packs.list.len() {
            let before = self.findings.damage();
            let table = self.packs.examine(number, &mut self.findings)?;
            let Some(pack) = self.packs.list.get(number).copied() else { continue };
            let mut sound = Sound::Yes;
            if self.findings.damage() != before {
                unsound.insert(pack.id);
                sound = Sound::No;
            } else if self.inner.is_doomed(pack.id) {
                sound = Sound::Doomed;
            }
            let here = chunks_of(&table.entries);
            chunks = chunks.saturating_add(here);
            self.objects = self.objects.saturating_add(wide(table.entries.len()));
            let nodes = wide(table.entries.len()).saturating_sub(here);
            self.node_records = self.node_records.saturating_add(nodes);
            self.bytes_void = self.bytes_void.saturating_add(table.void);
            self.nodes.take(pack.id, &table.entries);
            if let Some(index) = &mut self.index {
                let compared =
                    index.compare(&pack, sound, &table, &mut self.findings, &mut self.lost);
                if let Err(error) = compared {
                    self.drop_index(&error);
                }
            }
        }
        Ok((unsound, chunks))
    }

    fn compare_rows(&mut self, unsound: &HashSet<PackId>) -> Result<()> {
        let Some(index) = &self.index else { return Ok(()) };
        let compared = index.compare_rows(&self.packs, unsound, &mut self.findings, &mut self.lost);
        match compared {
            Err(error) if open::is_of_index(&error) => self.drop_index(&error),
            other => other?,
        }
        Ok(())
    }

    /// Goes on without an index that fails.
    fn drop_index(&mut self, error: &crate::error::Error) {
        self.index = None;
        self.checked = index::unusable(&crate::error::chain(error), &mut self.findings);
    }

    fn read_manifests(&mut self) {
        let roots = &self.roots.list;
        for (domain, id, finding) in
            hits::unreadable_manifests(self.inner, &self.nodes, &self.lost, roots)
        {
            self.findings.add(finding);
            let reference = Reference { kind: umbra_common::Kind::Manifest, id };
            let place = self.nodes.copies(domain, reference).first();
            let place = place.map(nodes::NodePlace::place);
            self.lost.add(domain, reference, LossCause::Damaged, place);
        }
    }

    /// Leaves only what an earlier look has found too.
    fn with_what_was_there_before(mut self, before: &Self) -> Self {
        self.findings.keep_common(&before.findings);
        self.lost.keep_common(&before.lost);
        self
    }

    /// Lists the packs in which something is damaged: `read` are those whose data is.
    fn damaged_packs(&self, read: &BTreeSet<PackId>) -> Vec<PackId> {
        let mut packs: BTreeSet<PackId> = self.unsound.iter().chain(read).copied().collect();
        packs.extend(self.lost.places().map(|place| place.pack));
        if let Some(index) = &self.index {
            packs.extend(index.packs_that_are_gone());
        }
        packs.into_iter().collect()
    }

    /// Reads as much of the packs as was asked for, and tells whom the damage hits.
    fn read_and_name(mut self, options: &CheckOptions) -> Result<CheckReport> {
        let list = &self.packs.list;
        let (chosen, seed) = match options.read {
            ReadData::Nothing => (Vec::new(), None),
            ReadData::Everything => (list.clone(), None),
            ReadData::Share { millionths, seed } => {
                (data::choose(list, millionths, seed), Some(seed))
            }
        };
        let reading = data::Reading {
            inner: self.inner,
            packs: &self.packs,
            unsound: &self.unsound,
            options,
        };
        let counts = reading.read(&chosen, &mut self.findings, &mut self.lost)?;
        let damaged_packs = self.damaged_packs(&counts.damaged);
        copies::look(self.inner, &self.packs, self.index.as_ref(), &mut self.lost)?;
        closure::spoil(&self.packs, &mut self.nodes, &mut self.lost, &self.roots.list)?;
        let hits = Hits { inner: self.inner, nodes: &self.nodes, lost: &self.lost };
        let (snapshots, more) = hits.find(&self.roots.list);
        for finding in more {
            self.findings.add_new(finding);
        }
        self.findings.tell_reach(&self.lost);
        let packs_without_parity = wide(self.inner.without_parity()?.len());
        let (lost, lost_untold) = self.lost.into_list();
        Ok(CheckReport {
            store: self.inner.store,
            owned: self.ownership.held,
            packs: wide(self.packs.list.len()),
            packs_read: counts.packs,
            objects: self.objects,
            nodes: self.node_records,
            nodes_reached: self.nodes.reached(),
            bytes: self.packs.list.iter().fold(0, |sum, pack| pack.len.saturating_add(sum)),
            bytes_read: counts.bytes,
            bytes_void: self.bytes_void,
            receipts: self.roots.receipts,
            index: self.checked,
            seed,
            findings: self.findings,
            lost,
            lost_untold,
            damaged_packs,
            packs_without_parity,
            snapshots,
        })
    }
}
