//! Which windows of the disk are as the base snapshot has them.
//!
//! A window is looked at only where all files in it are unchanged; then what else is in it must be
//! what the base's map says. Free space has to be free there too; residue is read, cut into chunks
//! as always, and compared. A window that is mostly residue is not worth it: where it turned out to
//! be another, its residue would be read twice for nothing.

use std::collections::{BTreeSet, HashMap};

use crossbeam_channel::bounded;
use umbra_common::image_hash::{WINDOW_BYTES, WindowHash};
use umbra_common::map::{Content, MapReader, Run, Runs, WindowContent};
use umbra_common::node::NodeSource;
use umbra_common::overlay::ContentHash;
use umbra_common::{ByteLen, ByteOffset, ByteRange, ObjectId};

use super::check::agrees;
use super::clean::{Clean, windows_of};
use super::layout::{ClaimKind, Layout, claims, fits};
use super::{Adopted, Base};
use crate::backup::batch::{Batch, Segment, Stream};
use crate::backup::chunk::{KnownIds, MapRun, NameStage, RunContent};
use crate::backup::cut::CutStage;
use crate::backup::plan::{FileItem, Plan};
use crate::fetch::chain;
use crate::source::{Device, read_salvaging};
use crate::survey::Survey;

/// Residue is read ahead where the unchanged files of its window have this many times its bytes.
const FILE_SHARE: u64 = 4;
/// Most bytes of residue that are read at once.
const READ_BYTES: u64 = 1 << 20;
/// Gaps that are read through may add one part in this many to the bytes that are wanted.
const WASTE_DIVISOR: u64 = 8;
/// Ranges shorter than this are read without asking for holes.
const HOLE_QUERY_BYTES: u64 = 64 << 10;

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) clean: Clean,
    pub(super) adopted: Adopted,
}

/// Finds the windows that are the base's; adds what was read for it to `bytes_read`. An error, in
/// words, is damage of the base.
pub(super) fn find(
    device: &dyn Device,
    survey: &Survey,
    plan: &Plan,
    unchanged: &HashMap<FileItem, ContentHash>,
    (base, nodes): (&Base, &dyn NodeSource),
    bytes_read: &mut u64,
) -> Result<Found, String> {
    let len = device.len();
    let (claims, touched) = claims(survey, plan, unchanged);
    let candidates: BTreeSet<u64> = claims
        .iter()
        .filter(|claim| claim.kind != ClaimKind::Slack)
        .flat_map(|claim| windows_of(claim.range))
        .filter(|window| !touched.contains(window))
        .collect();
    let map = MapReader::new(nodes, base.manifest.map_link(base.reference), len);
    let hashes = hashes(&map, &candidates)?;
    let mut search = Search {
        device,
        survey,
        layout: Layout { claims: &claims, residue: &plan.residue, free: &plan.free },
        table: HashMap::new(),
        found: Found::default(),
        bytes_read,
    };
    let mut stretch: Option<(u64, Runs<'_>, Option<Run>)> = None;
    for &(window, range, hash) in &hashes {
        // One reading of the map for windows that follow each other.
        let (mut runs, mut left) = match stretch.take() {
            Some((next, runs, left)) if next == window => (runs, left),
            _ => {
                let end = stretch_end(&hashes, window, len);
                let stretch = ByteRange::between(range.start(), end).unwrap_or(range);
                (map.runs(stretch), None)
            }
        };
        let past = window_runs(&mut runs, &mut left, range)?;
        search.window((window, range, hash), &past);
        stretch = Some((window + 1, runs, left));
    }
    search.found.clean.slack.sort_unstable_by_key(|slack| slack.start());
    Ok(search.found)
}

/// Reads the hashes of windows.
fn hashes(
    map: &MapReader<'_>,
    wanted: &BTreeSet<u64>,
) -> Result<Vec<(u64, ByteRange, WindowHash)>, String> {
    let mut hashes = Vec::new();
    if wanted.is_empty() {
        return Ok(hashes);
    }
    for window in map.windows() {
        let window = window.map_err(|lost| chain(&lost))?;
        // One without a page holds no byte of a file that was kept.
        if matches!(window.content, WindowContent::Pages(_)) && wanted.contains(&window.index) {
            hashes.push((window.index, window.range, window.hash));
        }
    }
    Ok(hashes)
}

/// Returns where the windows end that follow `window` without a gap.
fn stretch_end(hashes: &[(u64, ByteRange, WindowHash)], window: u64, len: ByteLen) -> ByteOffset {
    let from = hashes.partition_point(|(index, ..)| *index < window);
    let rest = hashes.get(from..).unwrap_or_default();
    let count = rest.iter().zip(window..).take_while(|((index, ..), next)| index == next).count();
    let end = window.saturating_add(count as u64).saturating_mul(WINDOW_BYTES);
    ByteOffset(end.min(len.0))
}

/// Takes the runs of one window from those of a stretch; `left` is what the last run has of the
/// next window.
fn window_runs(
    runs: &mut Runs<'_>,
    left: &mut Option<Run>,
    window: ByteRange,
) -> Result<Vec<Run>, String> {
    let mut taken = Vec::new();
    let mut at = window.start();
    while at < window.end() {
        let run = match left.take() {
            Some(run) => run,
            None => match runs.next() {
                Some(Ok(located)) => located.run,
                Some(Err(lost)) => return Err(chain(&lost)),
                None => return Err(format!("its map ends at byte {}", at.0)),
            },
        };
        let end = run.disk.end().min(window.end());
        let disk = ByteRange::between(run.disk.start(), end).unwrap_or_default();
        taken.push(Run { disk, ..run });
        if let Some(rest) = ByteRange::between(end, run.disk.end()).filter(|rest| !rest.is_empty())
        {
            let content = run.content.after(disk.len().0).unwrap_or(run.content);
            *left = Some(Run { disk: rest, content });
        }
        at = end;
    }
    Ok(taken)
}

/// Everything is known, so that no chunk of a comparison is sent.
struct AllKnown;

impl KnownIds for AllKnown {
    fn contains(&self, _: &ObjectId) -> bool {
        true
    }
}

struct Search<'a> {
    device: &'a dyn Device,
    survey: &'a Survey,
    layout: Layout<'a>,
    /// Positions in the table of `found`.
    table: HashMap<ObjectId, u32>,
    found: Found,
    bytes_read: &'a mut u64,
}

impl Search<'_> {
    /// Looks at a window, of which the base's map says `past`.
    fn window(&mut self, (window, range, hash): (u64, ByteRange, WindowHash), past: &[Run]) {
        let here = self.layout.take(range);
        let (ids, runs) = numbered(past);
        let Some(slack) = fits(&here, range, &runs) else { return };
        let content = here.content_bytes();
        let mut residue = here.residue;
        residue.extend(&slack);
        residue.sort_unstable_by_key(|part| part.start());
        let bytes = |ranges: &[ByteRange]| ranges.iter().map(|range| range.len().0).sum::<u64>();
        if bytes(&residue).saturating_mul(FILE_SHARE) > content {
            return;
        }
        if !self.reads_as(&residue, &ids, &runs) {
            return;
        }
        let table = &mut self.table;
        let mut number = |id: ObjectId| {
            let next = u32::try_from(self.found.adopted.ids.len()).ok()?;
            Some(*table.entry(id).or_insert_with(|| {
                self.found.adopted.ids.push(id);
                next
            }))
        };
        let numbers: Option<Vec<u32>> = ids.iter().map(|&id| number(id)).collect();
        let Some(numbers) = numbers else { return };
        let renumbered = runs.iter().filter_map(|run| {
            let RunContent::Chunk { index, offset } = run.content else { return Some(*run) };
            let index = *numbers.get(index as usize)?;
            Some(MapRun { content: RunContent::Chunk { index, offset }, ..*run })
        });
        self.found.adopted.runs.extend(renumbered);
        self.found.clean.slack.extend(slack);
        self.found.clean.windows.insert(window, hash);
    }

    /// Reads the residue of a window and tells whether it comes out as what `past` says of it.
    fn reads_as(&mut self, residue: &[ByteRange], ids: &[ObjectId], past: &[MapRun]) -> bool {
        let (out, _) = bounded(1);
        let mut cutter = CutStage::new();
        let mut stage = NameStage::new(self.survey, &AllKnown, self.device.len(), out);
        if stage.adopt(ids.to_vec(), Vec::new()).is_err() {
            return false;
        }
        let begin = Batch { segments: vec![Segment::Begin(Stream::Residue)], ..Batch::default() };
        if stage.batch(cutter.batch(begin)).is_err() {
            return false;
        }
        let mut compared = 0;
        let mut rest = residue;
        loop {
            let (batch, tail) = match rest.is_empty() {
                true => (Batch { segments: vec![Segment::End], ..Batch::default() }, rest),
                false => match self.read(rest) {
                    Some(read) => read,
                    None => return false,
                },
            };
            let is_last = rest.is_empty();
            if stage.batch(cutter.batch(batch)).is_err() {
                return false;
            }
            let runs = stage.runs().get(compared..).unwrap_or_default();
            if !runs.iter().all(|run| agrees(past, run)) {
                return false;
            }
            compared += runs.len();
            if is_last {
                return true;
            }
            rest = tail;
        }
    }

    /// Reads the first of some ranges of one window with one reading; returns what is left.
    /// `None` where the device does not give them.
    fn read<'r>(&mut self, ranges: &'r [ByteRange]) -> Option<(Batch, &'r [ByteRange])> {
        let mut taken = 0;
        let (mut wanted, mut wasted) = (0_u64, 0_u64);
        let mut span: Option<ByteRange> = None;
        for range in ranges {
            let whole = span.map_or(*range, |span| {
                ByteRange::between(span.start(), range.end()).unwrap_or(*range)
            });
            let gap = span.map_or(0, |span| range.start().0.saturating_sub(span.end().0));
            let fits = whole.len().0 <= READ_BYTES
                && wasted + gap <= (wanted + range.len().0) / WASTE_DIVISOR;
            if taken > 0 && gap > 0 && !fits {
                break;
            }
            wanted += range.len().0;
            wasted += gap;
            span = Some(whole);
            taken += 1;
        }
        let span = span?;
        let (here, rest) = ranges.split_at_checked(taken)?;
        let mut batch = Batch::default();
        if let [only] = here
            && only.len().0 >= HOLE_QUERY_BYTES
        {
            self.read_beside_holes(*only, &mut batch)?;
            return Some((batch, rest));
        }
        batch.buffer.resize(usize::try_from(span.len().0).ok()?, 0);
        if !read_salvaging(self.device, span.start(), &mut batch.buffer).is_empty() {
            return None;
        }
        *self.bytes_read += span.len().0;
        for range in here {
            let start = usize::try_from(range.start().0 - span.start().0).ok()?;
            let end = start + usize::try_from(range.len().0).ok()?;
            batch.segments.push(bytes_at(start..end, range.start()));
        }
        Some((batch, rest))
    }

    /// Reads a long range of one window, what the device knows to be zeros left out.
    fn read_beside_holes(&mut self, range: ByteRange, batch: &mut Batch) -> Option<()> {
        let mut at = range.start();
        let end = ByteRange::between(range.end(), range.end())?;
        for hole in self.device.holes(range).into_iter().chain([end]) {
            let data = ByteRange::between(at, hole.start())?;
            if !data.is_empty() {
                let start = batch.buffer.len();
                batch.buffer.resize(start + usize::try_from(data.len().0).ok()?, 0);
                let buffer = batch.buffer.get_mut(start..)?;
                if !read_salvaging(self.device, at, buffer).is_empty() {
                    return None;
                }
                *self.bytes_read += data.len().0;
                batch.segments.push(bytes_at(start..batch.buffer.len(), at));
            }
            if !hole.is_empty() {
                let (disk, len, position) = (Some(hole.start()), hole.len(), hole.start().0);
                batch.segments.push(Segment::Zeros { disk, len, position });
            }
            at = hole.end();
        }
        Some(())
    }
}

fn bytes_at(at: std::ops::Range<usize>, disk: ByteOffset) -> Segment {
    Segment::Bytes { at, disk, position: disk.0 }
}

/// Gives the chunks of some runs numbers, in a table of their own. What the base does not have as
/// bytes or zeros becomes what is compared with nothing.
fn numbered(past: &[Run]) -> (Vec<ObjectId>, Vec<MapRun>) {
    let mut ids = Vec::new();
    let mut table: HashMap<ObjectId, u32> = HashMap::new();
    let numbered = past.iter().map(|run| {
        let content = match run.content {
            Content::Data { chunk, offset } => {
                let next = u32::try_from(ids.len()).unwrap_or(u32::MAX);
                let index = *table.entry(chunk).or_insert_with(|| {
                    ids.push(chunk);
                    next
                });
                RunContent::Chunk { index, offset }
            }
            Content::Zero => RunContent::Zero,
            Content::Free => RunContent::Free,
            Content::Unreadable | Content::Excluded => RunContent::Unreadable,
        };
        MapRun { disk: run.disk.start().0, len: run.disk.len().0, content }
    });
    let runs = numbered.collect();
    (ids, runs)
}
