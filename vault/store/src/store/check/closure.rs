//! From the roots down: every reference must resolve to an object that some pack has.
//!
//! References stand in the packs' tables, so no body is read. Parents stand behind their
//! children, so one pass over the tables from the newest pack to the oldest follows all of them;
//! where a child was sent again after its parent there are more. Chunks are looked up in a sorted
//! list of the first 8 bytes of their ids, made for a part of them at a time: 8 bytes a chunk, at
//! most [`PART_CHUNKS`] of them in memory. (That a missing chunk passes for a present one takes
//! two equal beginnings of 64 bits among BLAKE3 hashes: 1 in 10^11 a TiB of chunks.)

use umbra_common::{Kind, ObjectId, Reference};

use crate::bytes::{narrow, wide};
use crate::error::Result;
use crate::ids::DomainId;
use crate::index::Key;
use crate::pack::Entry;
use crate::store::check::lost::{LossCause, Lost};
use crate::store::check::nodes::Nodes;
use crate::store::check::packs::Packs;
use crate::store::check::report::{Finding, FindingKind, Findings};
use crate::store::check::roots::Root;

/// Chunks that are looked up in one pass: 512 MiB of memory, about 4 TiB of disks.
pub(crate) const PART_CHUNKS: u64 = 64 << 20;

/// What the walk works with.
pub(crate) struct Closure<'a> {
    pub(crate) packs: &'a Packs<'a>,
    pub(crate) nodes: &'a mut Nodes,
    pub(crate) lost: &'a mut Lost,
    pub(crate) findings: &'a mut Findings,
    /// Chunks that the packs have, each as often as it stands there.
    pub(crate) chunks: u64,
}

/// A node that was met, and where it stands.
struct Referrer<'a> {
    path: &'a str,
    entry: &'a Entry,
}

impl Closure<'_> {
    /// Marks what the roots reach, and notes what is missing. Returns how many nodes were reached
    /// whose table is gone since, so that nobody knows what they refer to.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn run(&mut self, roots: &[Root]) -> Result<u64> {
        let mut waiting = 0u64;
        for root in roots {
            let manifest = root.manifest();
            match self.nodes.find(root.domain, manifest) {
                Some(node) => waiting = waiting.saturating_add(u64::from(self.nodes.reach(node))),
                None => self.missing(root.domain, manifest, &root.name, 0, root.says()),
            }
        }
        let left = self.follow(waiting)?;
        self.look_up_chunks()?;
        Ok(left)
    }

    /// Follows references between nodes; `waiting` of them are reached and not yet followed. Returns
    /// how many could not be followed.
    fn follow(&mut self, mut waiting: u64) -> Result<u64> {
        while waiting > 0 {
            let mut followed = false;
            for pack in self.packs.list.iter().rev().filter(|pack| pack.has_nodes) {
                let path = pack.name();
                let entries = self.packs.entries(pack)?;
                for entry in entries.iter().rev() {
                    let own = Reference { kind: entry.kind, id: entry.id };
                    let Some(node) = self.nodes.find(entry.domain, own) else { continue };
                    if !self.nodes.is_reached(node) || !self.nodes.follow(node) {
                        continue;
                    }
                    waiting = waiting.saturating_sub(1);
                    followed = true;
                    let from = Referrer { path: &path, entry };
                    waiting = waiting.saturating_add(self.reach_children(&from));
                }
            }
            if !followed {
                // A table that was there is gone; the next check says so.
                break;
            }
        }
        Ok(waiting)
    }

    /// Marks the nodes that a node refers to; returns how many of them are new.
    fn reach_children(&mut self, from: &Referrer<'_>) -> u64 {
        let mut new = 0u64;
        for child in from.entry.refs.iter().filter(|child| child.kind.is_node()) {
            match self.nodes.find(from.entry.domain, *child) {
                Some(node) => new = new.saturating_add(u64::from(self.nodes.reach(node))),
                None => self.missing_child(from, *child),
            }
        }
        new
    }

    /// Looks for the chunks that reached nodes refer to.
    fn look_up_chunks(&mut self) -> Result<()> {
        let parts = self.chunks.div_ceil(PART_CHUNKS).max(1);
        for number in 0..parts {
            let part = Part { number, parts };
            let known = self.chunk_beginnings(part)?;
            for pack in self.packs.list.iter().filter(|pack| pack.has_nodes) {
                let path = pack.name();
                for entry in &self.packs.entries(pack)? {
                    let own = Reference { kind: entry.kind, id: entry.id };
                    let node = self.nodes.find(entry.domain, own);
                    if !node.is_some_and(|node| self.nodes.is_reached(node)) {
                        continue;
                    }
                    let from = Referrer { path: &path, entry };
                    for child in entry.refs.iter().filter(|child| child.kind == Kind::Chunk) {
                        let beginning = beginning(entry.domain, &child.id);
                        if part.has(beginning) && known.binary_search(&beginning).is_err() {
                            self.missing_child(&from, *child);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the beginnings of the ids of a part of the chunks, sorted.
    fn chunk_beginnings(&self, part: Part) -> Result<Vec<u64>> {
        let mut known =
            Vec::with_capacity(narrow(self.chunks.checked_div(part.parts).unwrap_or(0)));
        for pack in &self.packs.list {
            let entries = self.packs.entries(pack)?;
            let chunks = entries.iter().filter(|entry| entry.kind == Kind::Chunk);
            let beginnings = chunks.map(|entry| beginning(entry.domain, &entry.id));
            known.extend(beginnings.filter(|beginning| part.has(*beginning)));
        }
        known.sort_unstable();
        known.dedup();
        Ok(known)
    }

    fn missing_child(&mut self, from: &Referrer<'_>, child: Reference) {
        let entry = from.entry;
        let reason = format!(
            "{} {} refers to {} {}, which no pack has",
            entry.kind.name(),
            entry.id,
            child.kind.name(),
            child.id
        );
        self.missing(entry.domain, child, from.path, entry.offset, reason);
    }

    fn missing(
        &mut self,
        domain: DomainId,
        reference: Reference,
        path: &str,
        at: u64,
        reason: String,
    ) {
        let key = Key { domain, id: reference.id };
        if self.lost.find(key, reference.kind).is_none_or(|l| l.cause != LossCause::Missing) {
            let finding = Finding::at(FindingKind::Missing, path, at, reason);
            self.findings.add(finding.of(key, reference.kind));
        }
        self.lost.add(domain, reference, LossCause::Missing, None);
    }
}

/// Finds, from the lost objects up, every node that lost something below it, and notes which of
/// the lost objects a snapshot reaches.
///
/// # Errors
/// What the storage says.
pub(crate) fn spoil(
    packs: &Packs<'_>,
    nodes: &mut Nodes,
    lost: &mut Lost,
    roots: &[Root],
) -> Result<()> {
    for root in roots {
        lost.reach(root.domain, root.manifest());
    }
    let mut changed = !lost.is_empty();
    while changed {
        changed = false;
        for pack in packs.list.iter().filter(|pack| pack.has_nodes) {
            for entry in &packs.entries(pack)? {
                let own = Reference { kind: entry.kind, id: entry.id };
                let Some(node) = nodes.find(entry.domain, own) else { continue };
                let reached = nodes.is_reached(node);
                let mut bad = false;
                for child in &entry.refs {
                    if reached {
                        lost.reach(entry.domain, *child);
                    }
                    bad = bad
                        || lost.hits(entry.domain, *child)
                        || (child.kind.is_node() && nodes.is_bad(entry.domain, *child));
                }
                changed |= bad && nodes.spoil(node);
            }
        }
    }
    Ok(())
}

/// A part of all ids.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) number: u64,
    pub(crate) parts: u64,
}

impl Part {
    /// Tells whether an id that begins so is in the part: hashes are spread evenly.
    pub(crate) fn has(self, beginning: u64) -> bool {
        beginning.checked_rem(self.parts) == Some(self.number)
    }
}

/// Returns the first 8 bytes of an id, other ones in other domains.
pub(crate) fn beginning(domain: DomainId, id: &ObjectId) -> u64 {
    let first = id.0.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    first ^ u64::from(domain.0).rotate_right(32)
}

/// Counts the chunks among entries.
pub(crate) fn chunks_of(entries: &[Entry]) -> u64 {
    wide(entries.iter().filter(|entry| entry.kind == Kind::Chunk).count())
}
