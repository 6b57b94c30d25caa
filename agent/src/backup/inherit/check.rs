//! Compares what was read with what the base snapshot has, and puts both together.

use std::collections::HashSet;

use umbra_common::overlay::ContentHash;
use umbra_common::{ByteLen, ByteOffset, ByteRange};

use super::clean::by_window;
use super::{Inheritance, files, on_disk};
use crate::backup::chunk::{ChunkSummary, MapRun, RunContent};
use crate::backup::plan::FileItem;
use crate::survey::Survey;

/// What contradicts the base.
#[derive(Debug, Default)]
pub(super) struct Contradictions {
    /// Unchanged files that were read and came out as others.
    pub(super) files: HashSet<FileItem>,
    /// Bytes of the disk, in windows that should be as they were.
    pub(super) ranges: Vec<ByteRange>,
}

impl Contradictions {
    /// Tells whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.ranges.is_empty()
    }
}

impl Inheritance {
    /// Makes `chunks`, which began with what was adopted, the whole disk: every byte stands there
    /// once, and files that were not read have their hashes.
    ///
    /// The first `adopted` of its runs are those of the base. Returns what speaks against it;
    /// `chunks` is of no use where anything does.
    pub(super) fn settle(
        &self,
        survey: &Survey,
        chunks: &mut ChunkSummary,
        adopted: usize,
    ) -> Contradictions {
        let other = |&(item, content): &(&FileItem, _)| match chunks.contents.get(item) {
            // Nobody hashed it; its chunks are compared all the same.
            Some(ContentHash::HoleBudget) => false,
            found => found != Some(content),
        };
        let mut differing: HashSet<FileItem> =
            self.expected.iter().filter(other).map(|(item, _)| *item).collect();
        let found = chunks.runs.split_off(adopted.min(chunks.runs.len()));
        let mut kept = Vec::new();
        let mut doubted: Vec<ByteRange> = Vec::new();
        for run in found {
            let range = ByteRange::new(ByteOffset(run.disk), ByteLen(run.len)).unwrap_or_default();
            for (window, part) in by_window(range) {
                let part = part_of(&run, part);
                if !self.clean.has_window(window) {
                    kept.push(part);
                } else if !agrees(&chunks.runs, &part) {
                    doubted.extend(ByteRange::new(ByteOffset(part.disk), ByteLen(part.len)));
                }
            }
        }
        chunks.runs.append(&mut kept);
        differing.extend(self.files_at(survey, &doubted));
        chunks.contents.extend(&self.inherited);
        chunks.bytes_files += self.skipped.bytes_inherited;
        Contradictions { files: differing, ranges: doubted }
    }

    /// Returns the files that were read and lie in one of these ranges.
    fn files_at(&self, survey: &Survey, ranges: &[ByteRange]) -> Vec<FileItem> {
        if ranges.is_empty() {
            return Vec::new();
        }
        let mut parts = Vec::new();
        let touches = |item: &FileItem| {
            files::disk_bytes(survey, *item, &mut parts);
            let mut places = parts.iter().map(on_disk);
            places.any(|place| ranges.iter().any(|range| range.intersection(place).is_some()))
        };
        self.plan.files.iter().copied().filter(touches).collect()
    }
}

/// Returns the part of a run that lies in `range`, which is inside it.
fn part_of(run: &MapRun, range: ByteRange) -> MapRun {
    let skipped = range.start().0.saturating_sub(run.disk);
    MapRun { disk: range.start().0, len: range.len().0, content: after(run.content, skipped) }
}

/// Returns what stands `skipped` bytes further on.
pub(super) fn after(content: RunContent, skipped: u64) -> RunContent {
    match content {
        RunContent::Chunk { index, offset } => {
            let skipped = u32::try_from(skipped).unwrap_or(u32::MAX);
            RunContent::Chunk { index, offset: offset.saturating_add(skipped) }
        }
        other => other,
    }
}

/// Returns the first of `base`, which is sorted, that ends behind `at`.
pub(super) fn first_at(base: &[MapRun], at: u64) -> usize {
    base.partition_point(|run| run.disk + run.len <= at)
}

/// Tells whether `base`, sorted runs over the same table of chunks, says of the bytes of `run` what
/// `run` says.
pub(super) fn agrees(base: &[MapRun], run: &MapRun) -> bool {
    let end = run.disk + run.len;
    let mut at = run.disk;
    for past in base.get(first_at(base, at)..).unwrap_or_default() {
        if at >= end {
            break;
        }
        let same =
            after(past.content, at.saturating_sub(past.disk)) == after(run.content, at - run.disk);
        if past.disk > at || !same {
            return false;
        }
        at = past.disk + past.len;
    }
    at >= end
}
