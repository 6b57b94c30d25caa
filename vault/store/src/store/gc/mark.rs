//! What the roots reach: one bit for each record of each sealed pack.
//!
//! Liveness comes from the tables of contents alone, never from rows of the index. The same walk
//! as a check's finds what is missing; then nothing is collected.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use umbra_common::{Kind, Reference};

use crate::bytes::wide;
use crate::error::{Error, Result};
use crate::ids::{DomainId, PackId};
use crate::pack::Entry;
use crate::store::check::closure::{Closure, PART_CHUNKS, Part, beginning, chunks_of};
use crate::store::check::lost::Lost;
use crate::store::check::nodes::Nodes;
use crate::store::check::packs::Packs;
use crate::store::check::report::{FindingKind, Findings};
use crate::store::check::roots::Root;
use crate::store::gc::list::Bits;
use crate::store::inner::Inner;

/// How much of a sealed pack the roots reach.
pub(super) struct PackUse {
    /// The records that they reach.
    pub(super) live: Bits,
    /// Bytes of those.
    pub(super) live_bytes: u64,
    /// Records that they do not reach.
    pub(super) dead: u64,
    /// Length of the pack in bytes.
    pub(super) len: u64,
    /// It holds a node.
    pub(super) has_nodes: bool,
}

impl PackUse {
    /// Tells whether the pack is worth to be deleted: less than half of it is of use.
    pub(super) fn is_victim(&self) -> bool {
        self.live_bytes.saturating_mul(2) < self.len
    }
}

/// What was marked.
pub(super) struct Marks<'a> {
    inner: &'a Inner,
    pub(super) packs: Packs<'a>,
    pub(super) nodes: Nodes,
    /// Sealed packs; open ones are never deleted.
    pub(super) sealed: HashMap<PackId, PackUse>,
}

impl<'a> Marks<'a> {
    /// Marks what the roots reach.
    ///
    /// # Errors
    /// [`Error::NotCollected`] where something is missing or damaged; what the storage says.
    pub(super) fn make(inner: &'a Inner, roots: &[Root]) -> Result<Self> {
        let rows = inner.index.packs()?.into_iter().collect();
        let quarantined = inner.log.with_state(|state| state.quarantined.clone());
        let accepted = accepted_losses(inner, &quarantined)?;
        let mut packs = Packs::list(inner)?.with_rows(rows).with_quarantine(quarantined);
        let (mut nodes, mut findings, mut lost) =
            (Nodes::default(), Findings::default(), Lost::default());
        let mut chunks = 0u64;
        for number in 0..packs.list.len() {
            let table = packs.examine(number, &mut findings)?;
            let Some(pack) = packs.list.get(number) else { continue };
            chunks = chunks.saturating_add(chunks_of(&table.entries));
            nodes.take(pack.id, &table.entries);
        }
        stop_at(&findings, &lost, &accepted)?;
        nodes.sort();
        let mut closure = Closure {
            packs: &packs,
            nodes: &mut nodes,
            lost: &mut lost,
            findings: &mut findings,
            chunks,
        };
        let left = closure.run(roots)?;
        stop_at(&findings, &lost, &accepted)?;
        if left > 0 {
            return Err(missing(format!("{left} nodes are gone since they were listed")));
        }
        let mut marks = Self { inner, packs, nodes, sealed: HashMap::new() };
        marks.prove_closed(&accepted)?;
        let parts = chunks.div_ceil(PART_CHUNKS).max(1);
        for number in 0..parts {
            marks.mark_part(Part { number, parts })?;
        }
        Ok(marks)
    }

    /// Proves that what is marked has all its nodes marked, apart from how they were marked: one
    /// that was passed over would be lost with all that stands below it.
    fn prove_closed(&self, accepted: &Accepted) -> Result<()> {
        for pack in self.packs.list.iter().filter(|pack| pack.has_nodes) {
            for entry in self.packs.entries(pack)?.iter().filter(|entry| self.is_reached(entry)) {
                for child in entry.refs.iter().filter(|child| child.kind.is_node()) {
                    let node = self.nodes.find(entry.domain, *child);
                    let lost = accepted.contains(&(entry.domain, *child));
                    if !lost && !node.is_some_and(|node| self.nodes.is_reached(node)) {
                        return Err(missing(format!(
                            "{} {} is needed and was not marked: a fault of this program",
                            child.kind.name(),
                            child.id
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    fn is_reached(&self, entry: &Entry) -> bool {
        let own = Reference { kind: entry.kind, id: entry.id };
        let node = self.nodes.find(entry.domain, own);
        node.is_some_and(|node| self.nodes.is_reached(node))
    }

    /// Sets the bits of a part of the chunks, and with the first part those of the nodes.
    fn mark_part(&mut self, part: Part) -> Result<()> {
        let mut reached: Vec<u64> = Vec::new();
        for pack in self.packs.list.iter().filter(|pack| pack.has_nodes) {
            for entry in self.packs.entries(pack)?.iter().filter(|entry| self.is_reached(entry)) {
                let chunks = entry.refs.iter().filter(|child| child.kind == Kind::Chunk);
                let beginnings = chunks.map(|child| beginning(entry.domain, &child.id));
                reached.extend(beginnings.filter(|beginning| part.has(*beginning)));
            }
        }
        reached.sort_unstable();
        reached.dedup();
        for pack in self.packs.list.iter().filter(|pack| !pack.open) {
            let entries = raw_entries(self.inner, pack.id)?;
            let bad = self.inner.quarantined(pack.id);
            let mut used = self.sealed.remove(&pack.id).unwrap_or_else(|| PackUse {
                live: Bits::new(entries.len()),
                live_bytes: 0,
                dead: wide(entries.len()),
                len: pack.len,
                has_nodes: pack.has_nodes,
            });
            if used.live.len() != entries.len() {
                return Err(missing(format!("{} changed meanwhile", pack.name())));
            }
            for (number, entry) in entries.iter().enumerate() {
                let live = match entry.kind {
                    Kind::Chunk => {
                        // An equal beginning of another id keeps a dead chunk, and loses nothing.
                        let beginning = beginning(entry.domain, &entry.id);
                        part.has(beginning) && reached.binary_search(&beginning).is_ok()
                    }
                    _ => part.number == 0 && self.is_reached(entry),
                };
                // What is known to be damaged is of no use to anybody.
                if live && !bad.contains(&entry.offset) {
                    used.live.set(number);
                    used.live_bytes = used.live_bytes.saturating_add(entry.record_len().into());
                    used.dead = used.dead.saturating_sub(1);
                }
            }
            self.sealed.insert(pack.id, used);
        }
        Ok(())
    }

    /// Returns the records of a sealed pack, in the order of its bits.
    ///
    /// # Errors
    /// [`Error::NotCollected`] where the table is not what it was; what the storage says.
    pub(super) fn entries(&self, pack: PackId) -> Result<Vec<Entry>> {
        let entries = raw_entries(self.inner, pack)?;
        let expected = self.sealed.get(&pack).map_or(0, |used| used.live.len());
        if entries.len() == expected {
            return Ok(entries);
        }
        Err(missing(format!("{} changed meanwhile", crate::pack::sealed_name(pack))))
    }
}

fn missing(reason: String) -> Error {
    Error::NotCollected { reason }
}

/// Returns what the table of a sealed pack names, known to be damaged or not.
fn raw_entries(inner: &Inner, pack: PackId) -> Result<Vec<Entry>> {
    let table = inner.table(pack)?;
    let name = crate::pack::sealed_name(pack);
    let table = table.ok_or_else(|| missing(format!("{name} has no sound table of contents")))?;
    Ok(table.entries)
}

/// Objects whose loss is known and stands in the LOG.
type Accepted = HashSet<(DomainId, Reference)>;

/// Returns the objects that stood where the LOG says that something is damaged. That one of them
/// does not resolve says nothing about what else may be missing.
fn accepted_losses(
    inner: &Inner,
    quarantined: &BTreeMap<PackId, BTreeSet<u64>>,
) -> Result<Accepted> {
    let mut accepted = Accepted::new();
    for (pack, offsets) in quarantined {
        let Some(table) = inner.table(*pack)? else { continue };
        let known = table.entries.iter().filter(|entry| offsets.contains(&entry.offset));
        accepted.extend(
            known.map(|entry| (entry.domain, Reference { kind: entry.kind, id: entry.id })),
        );
    }
    Ok(accepted)
}

/// Ends the collection where something is missing or damaged: what is reached only through that
/// would look dead.
fn stop_at(findings: &Findings, lost: &Lost, accepted: &Accepted) -> Result<()> {
    let counts = |kind: FindingKind| kind.is_damage() && kind != FindingKind::Missing;
    if let Some(first) = findings.list.iter().find(|finding| counts(finding.kind)) {
        return Err(missing(format!("{} at byte {}: {}", first.path, first.at, first.reason)));
    }
    if findings.totals.keys().any(|kind| counts(*kind)) {
        return Err(missing("more is damaged than can be told".to_owned()));
    }
    let Some(unknown) = lost.first_beside(accepted) else { return Ok(()) };
    let Reference { kind, id } = unknown.reference;
    Err(missing(format!("{} {id} is referred to, and no pack has it", kind.name())))
}
