//! Which names of a snapshot are hit: directories whose names are lost, files whose extents or
//! attributes are, files that lie in damaged ranges of the disk.
//!
//! A directory below which nothing is hit is read once for all snapshots that share it and have
//! damage in the same ranges.

use std::collections::HashMap;

use umbra_common::overlay::{Entries, Entry, Extents, Xattrs, entries, root};
use umbra_common::snapshot::{Manifest, Volume};
use umbra_common::{ByteOffset, ObjectId, Reference};
use umbra_fsparse::{ExtentKind, FileType};

use crate::ids::DomainId;
use crate::store::check::lost::Lost;
use crate::store::check::nodes::Nodes;
use crate::store::check::ranges::DamagedRanges;
use crate::store::check::report::{HitPath, SnapshotHit};
use crate::store::check::source::PackNodes;

/// Directories whose count of hit names is remembered, about 100 bytes each.
const KEPT_COUNTS: usize = 1 << 20;

/// Finds names.
pub(super) struct Files<'a> {
    source: &'a PackNodes<'a>,
    nodes: &'a Nodes,
    lost: &'a Lost,
    domain: DomainId,
    /// Numbers of lists of damaged ranges.
    lists: HashMap<[u8; 32], u32>,
    /// Names that are hit below a directory, by list of damaged ranges.
    counts: HashMap<(u32, ObjectId), u64>,
}

/// A directory that is being read.
struct Open<'s> {
    id: ObjectId,
    entries: Entries<'s>,
    path: Vec<u8>,
    /// Names that were hit before it.
    before: u64,
}

/// One volume of one snapshot.
struct Walk<'a> {
    volume: &'a Volume,
    ranges: &'a DamagedRanges,
    list: u32,
    /// Names that may still be kept.
    room: usize,
    hit: &'a mut SnapshotHit,
}

impl Walk<'_> {
    fn add(&mut self, path: &[u8], reason: &'static str) {
        self.hit.paths_total = self.hit.paths_total.saturating_add(1);
        if self.hit.paths.len() < self.room {
            let (volume, path) = (self.volume.path.clone(), path.to_vec());
            self.hit.paths.push(HitPath { volume, path, reason });
        }
    }
}

impl<'a> Files<'a> {
    pub(super) fn new(
        source: &'a PackNodes<'a>,
        nodes: &'a Nodes,
        lost: &'a Lost,
        domain: DomainId,
    ) -> Self {
        let (lists, counts) = (HashMap::new(), HashMap::new());
        Self { source, nodes, lost, domain, lists, counts }
    }

    /// Adds the names of a snapshot that are hit; at most `room` are kept.
    pub(super) fn find(
        &mut self,
        own: Reference,
        manifest: &Manifest,
        ranges: &DamagedRanges,
        room: usize,
        hit: &mut SnapshotHit,
    ) {
        let next = u32::try_from(self.lists.len()).unwrap_or(u32::MAX);
        let list = *self.lists.entry(ranges.fingerprint()).or_insert(next);
        for volume in &manifest.volumes {
            let Some(overlay) = volume.overlay else { continue };
            let mut walk = Walk { volume, ranges, list, room, hit };
            if !self.may_hit(&walk, overlay) {
                continue;
            }
            let Some(link) = manifest.link(own, overlay) else { continue };
            match root(self.source, link) {
                Ok(entry) => self.walk(&entry, &mut walk),
                Err(_) => walk.add(b"", "the root directory is lost, with every name below it"),
            }
        }
    }

    /// Tells whether something below a node can be hit at all.
    fn may_hit(&self, walk: &Walk<'_>, node: Reference) -> bool {
        !walk.ranges.list().is_empty() || self.is_gone(node)
    }

    /// Tells whether a node, or something below it, is lost.
    fn is_gone(&self, node: Reference) -> bool {
        self.lost.hits(self.domain, node) || self.nodes.is_bad(self.domain, node)
    }

    fn walk(&mut self, top: &Entry, walk: &mut Walk<'_>) {
        self.look_at(top, b"", walk);
        let mut stack: Vec<Open<'a>> = Vec::new();
        stack.extend(self.enter(top, Vec::new(), walk));
        while let Some(open) = stack.last_mut() {
            match open.entries.next() {
                Some(Ok(entry)) => {
                    let mut path = open.path.clone();
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(&entry.record.name);
                    self.look_at(&entry, &path, walk);
                    stack.extend(self.enter(&entry, path, walk));
                }
                Some(Err(_)) => {
                    let path = open.path.clone();
                    walk.add(&path, "names in this directory are lost, with all below them");
                }
                None => {
                    let Some(open) = stack.pop() else { break };
                    let below = walk.hit.paths_total.saturating_sub(open.before);
                    if self.counts.len() >= KEPT_COUNTS {
                        self.counts.clear();
                    }
                    self.counts.insert((walk.list, open.id), below);
                }
            }
        }
    }

    /// Opens a directory, unless it is known what is hit below it.
    fn enter(&self, entry: &Entry, path: Vec<u8>, walk: &mut Walk<'_>) -> Option<Open<'a>> {
        let link = entry.directory().ok().flatten()?;
        if !self.may_hit(walk, link.target) {
            return None;
        }
        let id = link.target.id;
        let known = self.counts.get(&(walk.list, id)).copied();
        let full = walk.hit.paths.len() >= walk.room;
        if let Some(below) = known.filter(|below| *below == 0 || full) {
            walk.hit.paths_total = walk.hit.paths_total.saturating_add(below);
            return None;
        }
        let before = walk.hit.paths_total;
        Some(Open { id, entries: entries(self.source, link), path, before })
    }

    fn look_at(&self, entry: &Entry, path: &[u8], walk: &mut Walk<'_>) {
        if let Some(reason) = self.fault_of(entry, walk.ranges) {
            walk.add(path, reason);
        }
    }

    /// Says what is wrong with a name, what lies below a directory left out.
    fn fault_of(&self, entry: &Entry, ranges: &DamagedRanges) -> Option<&'static str> {
        let record = &entry.record;
        // A directory's own blocks are not read for its files.
        if record.file_type == FileType::File {
            let listed = matches!(&record.extents, Extents::Node(node) if self.is_gone(*node));
            if (listed || !ranges.list().is_empty())
                && let Some(reason) = self.fault_of_content(entry, ranges)
            {
                return Some(reason);
            }
        }
        match &record.xattrs {
            Xattrs::Nodes(nodes) if nodes.iter().any(|node| self.is_gone(*node)) => {
                Some("its extended attributes are lost")
            }
            _ => None,
        }
    }

    fn fault_of_content(&self, entry: &Entry, ranges: &DamagedRanges) -> Option<&'static str> {
        let lost = "where its content lies is lost";
        let Ok(extents) = entry.extents(self.source, ByteOffset(0)) else { return Some(lost) };
        for extent in extents {
            let Ok(extent) = extent else { return Some(lost) };
            if extent.kind != ExtentKind::Unwritten && ranges.hit(extent.disk) {
                return Some("its content is damaged");
            }
        }
        None
    }
}
