//! Whether a snapshot can be given back: every node, every chunk, the image hash made again, and
//! every file against its own hash.

use std::collections::BTreeMap;

use umbra_common::image_hash::{ImageHash, WindowHash, image_hash};
use umbra_common::map::{Content, MapReader, Window, WindowContent};
use umbra_common::overlay::Entry;
use umbra_common::{ByteLen, ByteOffset, ByteRange};
use umbra_fsparse::FileType;

use crate::browse::{Browser, Visit};
use crate::catalog::Snapshot;
use crate::content::{ContentReader, ContentSink, FileEnd, Piece, for_zeros};
use crate::error::Result;
use crate::fetch::{self, Event, Gap, Planner, Stopped};
use crate::monitor::{Monitor, Stage};
use crate::restore::Named;

mod against;

pub use against::{Difference, against};

/// Damaged ranges that are kept; all are counted.
const KEPT_RANGES: usize = 1000;
/// Files that are read together, sorted by their place on the disk.
const SLICE_FILES: usize = 32 << 10;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Nodes only.
    References,
    /// Every chunk too.
    Chunks,
    /// Every file through the map too.
    Files,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes of the disk whose chunks were read.
    pub bytes_read: u64,
    /// Windows of the disk whose hash was compared.
    pub windows: u64,
    /// The image hash as it was made again; `None` where chunks were not read or are missing.
    pub image_hash: Option<[u8; 32]>,
    /// Entries of directories that were read.
    pub entries: u64,
    /// Files whose content was proven against its own hash.
    pub files_proven: u64,
    /// Files that were read and have no hash of their own.
    pub files_without_hash: u64,
    /// Damaged ranges of the disk, in its order, and what is wrong with each.
    pub ranges: Vec<(ByteRange, String)>,
    /// How many damaged ranges there are.
    pub ranges_total: u64,
    /// Files and directories that are hit.
    pub paths: Named,
    /// Damage that is no range and no file.
    pub other: Vec<String>,
}

impl Report {
    /// Tells whether damage was found.
    pub fn is_damaged(&self) -> bool {
        self.ranges_total > 0 || self.paths.total > 0 || !self.other.is_empty()
    }

    fn damaged(&mut self, range: ByteRange, reason: &str) {
        if let Some((last, why)) = self.ranges.last_mut()
            && last.end() == range.start()
            && why == reason
        {
            *last = ByteRange::between(last.start(), range.end()).unwrap_or(*last);
            return;
        }
        self.ranges_total += 1;
        if self.ranges.len() < KEPT_RANGES {
            self.ranges.push((range, reason.to_owned()));
        }
    }

    /// Tells whether a range of the disk has damage in it, as far as it is kept.
    fn hits(&self, range: ByteRange) -> bool {
        self.ranges.iter().any(|(damaged, _)| damaged.intersection(range).is_some())
    }
}

/// Verifies a snapshot.
///
/// # Errors
/// [`crate::Error::Vault`] where the vault does not answer. Damage stands in the report.
pub fn verify(
    snapshot: &Snapshot,
    content: ContentReader<'_>,
    depth: Depth,
    monitor: &dyn Monitor,
) -> Result<Report> {
    let len = snapshot.manifest.disk.length;
    let mut report = Report::default();
    monitor.begin(Stage::Verify, (depth >= Depth::Chunks).then_some(len.0));
    if depth == Depth::References {
        read_map(&content.map, len, &mut report)?;
    } else {
        let counts = read_chunks(&content, &mut report, monitor)?;
        compare_hash(snapshot, counts, &mut report);
    }
    let browser = Browser::new(snapshot, content.nodes);
    if depth == Depth::Files {
        monitor.begin(Stage::Verify, Some(snapshot.manifest.volumes.iter().map(|v| v.bytes).sum()));
    }
    read_files(&browser, &content, depth, &mut report, monitor)?;
    Ok(report)
}

/// Reads every page of the map; no chunks.
fn read_map(map: &MapReader<'_>, len: ByteLen, report: &mut Report) -> Result<()> {
    let whole = ByteRange::new(ByteOffset(0), len).unwrap_or_default();
    let mut at = 0;
    for run in map.runs(whole) {
        match run {
            Ok(run) => at = run.run.disk.end().0,
            Err(lost) => {
                at = lost.range.end().0;
                let reason = fetch::damage(lost.error)?;
                report.damaged(lost.range, &reason);
            }
        }
    }
    if at != len.0 {
        report.other.push(format!("the image map ends at byte {at} of {}", len.0));
    }
    Ok(())
}

/// What stands between the windows of the stream.
enum Tag {
    /// A window's bytes follow.
    Begin(Window),
    /// All of them came.
    End,
    /// A window that is folded into its parent.
    Folded(Window),
    /// A part of the map that cannot be read.
    Lost(ByteRange, String),
    /// The vault does not answer.
    Fail(crate::Error),
}

/// Bytes of the disk by what the map says of them, counted while reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ReadCounts {
    data: u64,
    zero: u64,
    not_kept: u64,
    hash: Option<ImageHash>,
}

/// A window under way.
struct Open {
    window: Window,
    hasher: blake3::Hasher,
    at: u64,
    whole: bool,
}

impl Open {
    fn range(&self, len: u64) -> ByteRange {
        ByteRange::new(ByteOffset(self.at), ByteLen(len)).unwrap_or_default()
    }
}

/// Reads every chunk in the order of the disk, and compares the hash of each window.
fn read_chunks(
    content: &ContentReader<'_>,
    report: &mut Report,
    monitor: &dyn Monitor,
) -> Result<ReadCounts> {
    let map = content.map;
    let mut counts = ReadCounts::default();
    let mut hashes: Vec<WindowHash> = Vec::new();
    let mut complete = true;
    let mut open: Option<Open> = None;
    fetch::stream(
        content.chunks,
        |planner| plan_windows(&map, planner),
        |event| {
            match event {
                Event::Tag(Tag::Begin(window)) => {
                    let at = window.range.start().0;
                    let hasher = blake3::Hasher::new();
                    open = Some(Open { window, hasher, at, whole: true });
                }
                Event::Tag(Tag::End) => {
                    let Some(open) = open.take() else { return Ok(()) };
                    report.windows += 1;
                    let hash = WindowHash(*open.hasher.finalize().as_bytes());
                    if !open.whole {
                        complete = false;
                    } else if hash != open.window.hash {
                        report.damaged(
                            open.window.range,
                            "its bytes do not hash to what the disk had",
                        );
                    }
                    hashes.push(hash);
                }
                Event::Tag(Tag::Folded(window)) => {
                    report.windows += 1;
                    let len = window.range.len();
                    match window.content {
                        WindowContent::Folded(Content::Zero) => counts.zero += len.0,
                        _ => counts.not_kept += len.0,
                    }
                    monitor.advance(len.0);
                    hashes.push(WindowHash::of_zeros(len));
                }
                Event::Tag(Tag::Lost(range, reason)) => {
                    complete = false;
                    report.damaged(range, &reason);
                }
                Event::Tag(Tag::Fail(error)) => return Err(error),
                Event::Data(bytes) => {
                    let len = bytes.len() as u64;
                    counts.data += len;
                    report.bytes_read += len;
                    monitor.advance(len);
                    if let Some(open) = &mut open {
                        open.hasher.update(bytes);
                        open.at += len;
                    }
                }
                Event::Gap(gap, len) => {
                    match gap {
                        Gap::NotKept => counts.not_kept += len.0,
                        _ => counts.zero += len.0,
                    }
                    monitor.advance(len.0);
                    if let Some(open) = &mut open {
                        for_zeros(len, |zeros| {
                            open.hasher.update(zeros);
                            Ok::<(), crate::Error>(())
                        })?;
                        open.at += len.0;
                    }
                }
                Event::Missing(len, why) => {
                    if let Some(open) = &mut open {
                        report.damaged(open.range(len.0), why);
                        open.at += len.0;
                        open.whole = false;
                    }
                }
            }
            Ok(())
        },
    )?;
    if complete {
        counts.hash = image_hash(content.disk_len, hashes).ok();
    }
    Ok(counts)
}

fn plan_windows(map: &MapReader<'_>, planner: &mut Planner<Tag>) -> Result<(), Stopped> {
    for window in map.windows() {
        let window = match window {
            Ok(window) => window,
            Err(lost) => {
                match fetch::damage(lost.error) {
                    Ok(reason) => planner.tag(Tag::Lost(lost.range, reason))?,
                    Err(error) => return planner.tag(Tag::Fail(error)),
                }
                continue;
            }
        };
        if matches!(window.content, WindowContent::Folded(_)) {
            planner.tag(Tag::Folded(window))?;
            continue;
        }
        let range = window.range;
        planner.tag(Tag::Begin(window))?;
        plan_runs(map, range, planner)?;
        planner.tag(Tag::End)?;
    }
    Ok(())
}

/// Plans what the map says of a range.
fn plan_runs<T>(
    map: &MapReader<'_>,
    range: ByteRange,
    planner: &mut Planner<T>,
) -> Result<(), Stopped> {
    for run in map.runs(range) {
        match run {
            Ok(run) => planner.run(&run)?,
            Err(lost) => planner.lost(lost.range.len(), lost.error)?,
        }
    }
    Ok(())
}

fn compare_hash(snapshot: &Snapshot, counts: ReadCounts, report: &mut Report) {
    let Some(hash) = counts.hash else { return };
    report.image_hash = Some(hash.0);
    let wanted = snapshot.manifest.image_hash;
    if hash != wanted {
        report.other.push(format!("the image hash is {hash}, and was {wanted} when backed up"));
    }
    let said = snapshot.manifest.counts;
    let not_kept = said.bytes_free + said.bytes_unreadable + said.bytes_excluded;
    if (counts.data, counts.zero, counts.not_kept) != (said.bytes_data, said.bytes_zero, not_kept) {
        report.other.push("the map holds other amounts of data and zeros than were counted".into());
    }
}

/// Reads every directory, and with [`Depth::Files`] every file.
fn read_files(
    browser: &Browser<'_>,
    content: &ContentReader<'_>,
    depth: Depth,
    report: &mut Report,
    monitor: &dyn Monitor,
) -> Result<()> {
    let volumes: Vec<usize> = browser.volumes().map(|(index, _)| index).collect();
    for volume in volumes {
        let name = browser.volume_path(volume);
        let root = match browser.root(volume) {
            Ok(root) => root,
            Err(crate::Error::Damage { detail, .. }) => {
                report.paths.add(name.as_bytes(), &detail);
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut walk = browser.walk(&root);
        // By first byte of the disk, so that a slice is read in its order.
        let mut files: BTreeMap<(u64, u64), (Vec<u8>, Entry)> = BTreeMap::new();
        while let Some(visit) = walk.next()? {
            let (path, entry) = match visit {
                Visit::Lost { path, reason } => {
                    report.paths.add(&in_volume(name, &path), &reason);
                    continue;
                }
                Visit::Entry { path, entry } => (path, entry),
            };
            report.entries += 1;
            let path = in_volume(name, &path);
            let first = look_at(content, &path, &entry, depth, report)?;
            if depth == Depth::Files && entry.record.file_type == FileType::File {
                files.insert((first, report.entries), (path, *entry));
            }
            if files.len() >= SLICE_FILES {
                prove(content, std::mem::take(&mut files), report, monitor)?;
            }
        }
        prove(content, files, report, monitor)?;
    }
    Ok(())
}

/// Reads everything of an entry but its content; returns where that begins on the disk.
fn look_at(
    content: &ContentReader<'_>,
    path: &[u8],
    entry: &Entry,
    depth: Depth,
    report: &mut Report,
) -> Result<u64> {
    let mut damage = None;
    let mut first = u64::MAX;
    let is_file = entry.record.file_type == FileType::File;
    if let Err(error) = entry.xattrs(content.nodes) {
        damage = Some(fetch::damage(error)?);
    }
    match entry.extents(content.nodes, ByteOffset(0)) {
        Ok(extents) => {
            for extent in extents {
                match extent {
                    Ok(extent) => {
                        first = first.min(extent.disk.start().0);
                        // A deep look reads them and says more. A directory's own blocks are not
                        // read for its files.
                        let looks = depth < Depth::Files && is_file && damage.is_none();
                        if looks && report.hits(extent.disk) {
                            damage = Some("it lies in a damaged range of the disk".into());
                        }
                    }
                    Err(lost) => damage = Some(fetch::damage(lost.error)?),
                }
            }
        }
        Err(error) => damage = Some(fetch::damage(error)?),
    }
    if let Some(reason) = damage {
        report.paths.add(path, &reason);
    }
    Ok(first)
}

/// Reads files and counts those that hash to what they should.
fn prove(
    content: &ContentReader<'_>,
    files: BTreeMap<(u64, u64), (Vec<u8>, Entry)>,
    report: &mut Report,
    monitor: &dyn Monitor,
) -> Result<()> {
    struct Prove<'a> {
        paths: Vec<&'a [u8]>,
        report: &'a mut Report,
        monitor: &'a dyn Monitor,
    }
    impl ContentSink for Prove<'_> {
        fn piece(&mut self, _: usize, piece: Piece<'_>) -> Result<()> {
            if let Piece::Data(bytes) = piece {
                self.monitor.advance(bytes.len() as u64);
            }
            Ok(())
        }

        fn end(&mut self, file: usize, end: FileEnd) -> Result<()> {
            match end.damage {
                Some(why) => {
                    let path = self.paths.get(file).copied().unwrap_or_default();
                    self.report.paths.add(path, &why);
                }
                None if end.proven => self.report.files_proven += 1,
                None => self.report.files_without_hash += 1,
            }
            Ok(())
        }
    }
    let entries: Vec<&Entry> = files.values().map(|(_, entry)| entry).collect();
    let paths = files.values().map(|(path, _)| path.as_slice()).collect();
    content.read_files(&entries, &mut Prove { paths, report, monitor })
}

fn in_volume(volume: &str, path: &[u8]) -> Vec<u8> {
    [volume.as_bytes(), b"/", path].concat()
}

#[cfg(test)]
mod tests;
