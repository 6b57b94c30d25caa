//! What lies where on the disk now, and whether the base's map can be of that.

use std::collections::{BTreeSet, HashMap};

use umbra_common::ByteRange;
use umbra_common::overlay::ContentHash;

use super::check::first_at;
use super::clean::windows_of;
use super::on_disk;
use crate::backup::chunk::{MapRun, RunContent};
use crate::backup::plan::{FileItem, FilePiece, Plan, pieces};
use crate::survey::Survey;

/// A piece of an unchanged file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) range: ByteRange,
    pub(super) kind: ClaimKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimKind {
    /// Content that does not begin and does not end the file.
    Middle,
    /// Content that begins the file.
    First,
    /// Content that ends it.
    Last,
    /// All of its content.
    Whole,
    /// What lies behind its end.
    Slack,
}

/// Lists the pieces of the unchanged files, sorted, and the windows that something else touches of
/// which the base's map cannot be right, or not be known to be.
pub(super) fn claims(
    survey: &Survey,
    plan: &Plan,
    unchanged: &HashMap<FileItem, ContentHash>,
) -> (Vec<Claim>, BTreeSet<u64>) {
    let mut claims = Vec::new();
    let mut touched: BTreeSet<u64> = BTreeSet::new();
    plan.unparsed.iter().for_each(|&volume| touched.extend(windows_of(volume)));
    let mut parts = Vec::new();
    for &item in &plan.files {
        let Some((inode, start)) = item.find(survey) else { continue };
        pieces(inode, start, &mut parts);
        if !unchanged.contains_key(&item) {
            parts.iter().for_each(|part| touched.extend(windows_of(on_disk(part))));
            continue;
        }
        for part in &parts {
            let range = on_disk(part);
            let kind = match *part {
                FilePiece::Zeros { .. } => continue,
                FilePiece::Slack { .. } => ClaimKind::Slack,
                FilePiece::Data { logical, disk } => {
                    let ends = logical.0.saturating_add(disk.len().0) >= inode.size.0;
                    match (logical.0 == 0, ends) {
                        (true, true) => ClaimKind::Whole,
                        (true, false) => ClaimKind::First,
                        (false, true) => ClaimKind::Last,
                        (false, false) => ClaimKind::Middle,
                    }
                }
            };
            let windows = windows_of(range);
            if kind == ClaimKind::Slack && windows.clone().count() > 1 {
                // Whether it is residue depends on all of it.
                touched.extend(windows);
            }
            claims.push(Claim { range, kind });
        }
    }
    claims.sort_unstable_by_key(|claim| claim.range.start());
    (claims, touched)
}

/// What the disk is now, each sorted and disjoint.
#[derive(Clone, Copy)]
pub(super) struct Layout<'a> {
    pub(super) claims: &'a [Claim],
    pub(super) residue: &'a [ByteRange],
    pub(super) free: &'a [ByteRange],
}

/// What of the disk lies in one window.
pub(super) struct WindowLayout {
    claims: Vec<Claim>,
    pub(super) residue: Vec<ByteRange>,
    free: Vec<ByteRange>,
}

impl Layout<'_> {
    /// Takes out what lies in a window; windows come in order.
    pub(super) fn take(&mut self, window: ByteRange) -> WindowLayout {
        let behind = self.claims.partition_point(|claim| claim.range.end() <= window.start());
        self.claims = self.claims.get(behind..).unwrap_or_default();
        let here = self.claims.iter().take_while(|claim| claim.range.start() < window.end());
        let claims = here.filter_map(|claim| {
            let range = claim.range.intersection(window)?;
            let (begins, ends) =
                (range.start() == claim.range.start(), range.end() == claim.range.end());
            let kind = match claim.kind {
                ClaimKind::Whole if begins && ends => ClaimKind::Whole,
                ClaimKind::Whole | ClaimKind::First if begins => ClaimKind::First,
                ClaimKind::Whole | ClaimKind::Last if ends => ClaimKind::Last,
                ClaimKind::Slack => ClaimKind::Slack,
                _ => ClaimKind::Middle,
            };
            Some(Claim { range, kind })
        });
        WindowLayout {
            claims: claims.collect(),
            residue: take(&mut self.residue, window),
            free: take(&mut self.free, window),
        }
    }
}

/// Takes the parts of sorted ranges that lie in a window.
fn take(ranges: &mut &[ByteRange], window: ByteRange) -> Vec<ByteRange> {
    let behind = ranges.partition_point(|range| range.end() <= window.start());
    *ranges = ranges.get(behind..).unwrap_or_default();
    let here = ranges.iter().take_while(|range| range.start() < window.end());
    here.filter_map(|range| range.intersection(window)).collect()
}

impl WindowLayout {
    /// Counts the bytes of content in it.
    pub(super) fn content_bytes(&self) -> u64 {
        let content = self.claims.iter().filter(|claim| claim.kind != ClaimKind::Slack);
        content.map(|claim| claim.range.len().0).sum()
    }
}

/// Tells whether the base's map of a window can be that of what is there now, and returns the slack
/// that it has in chunks.
pub(super) fn fits(
    here: &WindowLayout,
    window: ByteRange,
    past: &[MapRun],
) -> Option<Vec<ByteRange>> {
    let mut slack = Vec::new();
    let mut covered = 0;
    let kept = |run: &MapRun| matches!(run.content, RunContent::Chunk { .. } | RunContent::Zero);
    let zero = |run: &MapRun| run.content == RunContent::Zero;
    let all = |range: ByteRange, is: &dyn Fn(&MapRun) -> bool| touching(past, range).all(is);
    for claim in &here.claims {
        covered += claim.range.len().0;
        if !all(claim.range, &kept) || !is_cut(claim, past) {
            return None;
        }
        if claim.kind == ClaimKind::Slack && !all(claim.range, &zero) {
            slack.push(claim.range);
        }
    }
    for range in &here.residue {
        covered += range.len().0;
        if !all(*range, &kept) {
            return None;
        }
    }
    for range in &here.free {
        covered += range.len().0;
        if !all(*range, &|run| run.content == RunContent::Free) {
            return None;
        }
    }
    (covered == window.len().0).then_some(slack)
}

/// Tells whether chunks are cut where a file begins and ends, so that all of them are its own.
fn is_cut(claim: &Claim, past: &[MapRun]) -> bool {
    let (start, end) = (claim.range.start().0, claim.range.end().0);
    let begins = past.get(first_at(past, start)).is_some_and(|run| match run.content {
        RunContent::Chunk { offset, .. } => run.disk == start && offset == 0,
        _ => true,
    });
    let ends =
        past.get(first_at(past, end.saturating_sub(1))).is_some_and(|run| match run.content {
            RunContent::Chunk { .. } => run.disk + run.len == end,
            _ => true,
        });
    match claim.kind {
        ClaimKind::First => begins,
        ClaimKind::Last => ends,
        ClaimKind::Whole => begins && ends,
        ClaimKind::Middle | ClaimKind::Slack => true,
    }
}

/// Returns the runs that touch a range.
fn touching(past: &[MapRun], range: ByteRange) -> impl Iterator<Item = &MapRun> {
    let from = first_at(past, range.start().0);
    let rest = past.get(from..).unwrap_or_default();
    rest.iter().take_while(move |run| run.disk < range.end().0)
}
