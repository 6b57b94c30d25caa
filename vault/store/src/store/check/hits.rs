//! Which snapshots lost something, and where on their disks.

use std::collections::BTreeMap;

use umbra_common::map::{MapReader, WindowContent};
use umbra_common::snapshot::Manifest;
use umbra_common::{ObjectId, Reference};

use crate::ids::DomainId;
use crate::store::check::files::Files;
use crate::store::check::lost::Lost;
use crate::store::check::nodes::Nodes;
use crate::store::check::ranges::DamagedRanges;
use crate::store::check::report::{Finding, SnapshotHit};
use crate::store::check::roots::Root;
use crate::store::check::source::PackNodes;
use crate::store::inner::Inner;

/// Names and ranges kept of one snapshot; all are counted.
const KEPT_OF_ONE: usize = 1_000;

/// Names kept of all snapshots together.
const KEPT_OF_ALL: usize = 100_000;

/// What is needed to tell.
pub(super) struct Hits<'a> {
    pub(super) inner: &'a Inner,
    pub(super) nodes: &'a Nodes,
    pub(super) lost: &'a Lost,
}

impl Hits<'_> {
    /// Names the snapshots that are hit, and what was found to be damaged on the way.
    pub(super) fn find(&self, roots: &[Root]) -> (Vec<SnapshotHit>, Vec<Finding>) {
        let mut by_domain: BTreeMap<DomainId, Vec<&Root>> = BTreeMap::new();
        for root in roots {
            by_domain.entry(root.domain).or_default().push(root);
        }
        let (mut hits, mut findings) = (Vec::new(), Vec::new());
        let mut room = KEPT_OF_ALL;
        for (domain, roots) in by_domain {
            let source = PackNodes::new(self.inner, self.nodes, self.lost, domain);
            let mut files = Files::new(&source, self.nodes, self.lost, domain);
            for root in roots {
                if let Some(hit) = self.look_at(root, &source, &mut files, room.min(KEPT_OF_ONE)) {
                    room = room.saturating_sub(hit.paths.len());
                    hits.push(hit);
                }
            }
            findings.extend(source.take_findings());
        }
        hits.sort_by_key(|hit| hit.sequence);
        (hits, findings)
    }

    /// Looks at one snapshot; `None` where nothing of it is lost.
    fn look_at(
        &self,
        root: &Root,
        source: &PackNodes<'_>,
        files: &mut Files<'_>,
        room: usize,
    ) -> Option<SnapshotHit> {
        let own = root.manifest();
        let lost = self.lost.hits(root.domain, own);
        let bad = self.nodes.is_bad(root.domain, own);
        if root.receipt.is_some() && !lost && !bad {
            return None;
        }
        let mut hit = SnapshotHit {
            sequence: root.sequence,
            snapshot: root.snapshot,
            machine: String::new(),
            disk: String::new(),
            received: root.received(),
            whole: None,
            bytes_damaged: 0,
            ranges: Vec::new(),
            ranges_total: 0,
            paths: Vec::new(),
            paths_total: 0,
        };
        let manifest = source.read(own).and_then(|node| Manifest::from_node(&node));
        match (&root.receipt, &manifest) {
            (Some(receipt), _) => {
                hit.machine.clone_from(&receipt.machine_name);
                hit.disk.clone_from(&receipt.disk);
            }
            (None, Ok(manifest)) => {
                hit.machine.clone_from(&manifest.machine);
                hit.disk.clone_from(&manifest.disk.name);
            }
            (None, Err(_)) => {}
        }
        if root.receipt.is_none() {
            hit.whole = Some("its receipt is gone or damaged: the vault does not list it");
        }
        let Ok(manifest) = manifest else {
            hit.whole = Some("its manifest is lost: nothing of it can be given back");
            return Some(hit);
        };
        if bad {
            let ranges = self.damaged_ranges(root.domain, own, &manifest, source);
            hit.bytes_damaged = ranges.bytes();
            hit.ranges_total = crate::bytes::wide(ranges.list().len());
            hit.ranges = ranges.list().iter().take(KEPT_OF_ONE).copied().collect();
            files.find(own, &manifest, &ranges, room, &mut hit);
        }
        Some(hit)
    }

    /// Finds the ranges of the disk that cannot be given back. Only pages below which something
    /// is lost are read.
    fn damaged_ranges(
        &self,
        domain: DomainId,
        own: Reference,
        manifest: &Manifest,
        source: &PackNodes<'_>,
    ) -> DamagedRanges {
        let mut damaged = DamagedRanges::default();
        let map = MapReader::new(source, manifest.map_link(own), manifest.disk.length);
        for window in map.windows() {
            let pages = match window {
                Ok(window) => match window.content {
                    WindowContent::Pages(pages) => pages,
                    WindowContent::Folded(_) => continue,
                },
                Err(lost) => {
                    damaged.add(lost.range);
                    continue;
                }
            };
            for (range, page) in pages {
                if self.lost.hits(domain, page) {
                    damaged.add(range);
                } else if self.nodes.is_bad(domain, page) {
                    for run in map.runs(range) {
                        match run {
                            Ok(run) => {
                                let chunk = run.chunk.map(|link| link.target);
                                if chunk.is_some_and(|chunk| self.lost.hits(domain, chunk)) {
                                    damaged.add(run.run.disk);
                                }
                            }
                            Err(lost) => damaged.add(lost.range),
                        }
                    }
                }
            }
        }
        damaged
    }
}

/// Reads the manifest of every root once, and says which cannot be read or decoded.
pub(super) fn unreadable_manifests(
    inner: &Inner,
    nodes: &Nodes,
    lost: &Lost,
    roots: &[Root],
) -> Vec<(DomainId, ObjectId, Finding)> {
    let mut seen = std::collections::BTreeSet::new();
    let mut bad = Vec::new();
    for root in roots {
        let own = root.manifest();
        if !seen.insert((root.domain, own)) || lost.hits(root.domain, own) {
            continue;
        }
        let source = PackNodes::new(inner, nodes, lost, root.domain);
        let decoded = source.read(own).and_then(|node| Manifest::from_node(&node).map(drop));
        let Err(error) = decoded else { continue };
        let mut findings = source.take_findings();
        let finding = findings.pop().unwrap_or_else(|| {
            use crate::store::check::report::FindingKind;
            let key = crate::index::Key { domain: root.domain, id: own.id };
            let reason = crate::error::chain(&error);
            Finding::at(FindingKind::Record, &root.name, 0, reason).of(key, own.kind)
        });
        bad.push((root.domain, own.id, finding));
    }
    bad
}
