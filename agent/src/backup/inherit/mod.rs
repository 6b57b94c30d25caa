//! What is taken over from the base snapshot without being read (`--skip-unchanged metadata`).
//!
//! A file whose metadata is that of the base (`files`) is not read where the windows of the disk
//! that it lies in are the base's (`windows`): every byte of such a window is an unchanged file's,
//! free in both, or was read and is what the base's map says. The window keeps its page and its
//! hash then, so that hash and map are of the same bytes whatever the disk holds. All other windows
//! are read whole, with whole files; what comes out of an unchanged file is compared with the base
//! (`check`), and where it differs the metadata lied: everything is read.

mod check;
mod clean;
mod files;
mod layout;
mod parent;
mod windows;
mod written_below;

use std::collections::{HashMap, HashSet};

use umbra_common::node::NodeSource;
use umbra_common::overlay::ContentHash;
use umbra_common::snapshot::Manifest;
use umbra_common::{ByteRange, ObjectId, Reference};

use super::chunk::MapRun;
use super::plan::{FileItem, FilePiece, Plan};
use super::{Job, Outcome, Parts, commit, plan, read_planned, upload};
use crate::error::Result;
use crate::monitor::{Monitor, Notice, Stage};
use crate::ranges::without;
use crate::source::Device;
use crate::survey::Survey;
use crate::tree::KEPT_WARNINGS;

pub(super) use clean::Clean;

/// The base snapshot, as its manifest describes it.
#[derive(Clone, Debug)]
pub struct Base {
    /// The manifest's reference.
    pub reference: Reference,
    /// The manifest.
    pub manifest: Manifest,
}

/// What a backup that skips unchanged files is to do.
pub struct Skip<'a> {
    /// The snapshot that the vault has pinned for this session, or why there is none.
    pub base: Result<Base, String>,
    /// Reads its nodes.
    pub nodes: &'a dyn NodeSource,
    /// How many of a million unchanged files are read all the same.
    pub reread_per_million: u32,
    /// Every so many snapshots everything is read; 1 is always.
    pub full_every: u64,
    /// Makes the choice of files that are read all the same another one each time.
    pub seed: [u8; 16],
}

/// What was skipped. Sizes in bytes of the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Files that were not read.
    pub files_inherited: u64,
    /// What they have on the disk.
    pub bytes_inherited: u64,
    /// Windows whose hash is the base's.
    pub windows_inherited: u64,
    /// Unchanged files that were read all the same, chosen at random.
    pub files_reread: u64,
    /// What they have on the disk.
    pub bytes_reread: u64,
    /// Files that turned out to be others than their metadata said.
    pub files_differing: u64,
    /// Snapshots since everything was read.
    pub runs_since_full: u64,
    /// Why everything was read, where it was asked not to.
    pub read_all_because: Option<String>,
}

/// What is taken from the base, and what is left to read.
pub(super) struct Inheritance {
    /// What is read.
    pub(super) plan: Plan,
    /// The windows that are as they were.
    pub(super) clean: Clean,
    /// Files that are not read, with the hash that the base has of them.
    inherited: HashMap<FileItem, ContentHash>,
    /// Unchanged files that are read, with the hash that has to come out.
    expected: HashMap<FileItem, ContentHash>,
    skipped: Skipped,
}

/// Chunks of the clean windows, each once, and their runs, in the order of the disk: what the chunk
/// stage begins with.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    pub(super) ids: Vec<ObjectId>,
    pub(super) runs: Vec<MapRun>,
}

/// What became of the attempt to skip files.
enum Attempt {
    Done(Box<Parts>),
    /// Everything has to be read; so much was read in vain.
    ReadAll {
        because: String,
        differing: u64,
        bytes_read: u64,
    },
}

/// Backs up a disk without reading what has not changed since the base, where that is known.
///
/// # Errors
/// As [`super::run`]. A base that cannot be used is none: everything is read then.
pub fn run(
    job: &Job<'_>,
    device: &dyn Device,
    survey: &Survey,
    skip: &Skip<'_>,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    let len = device.len();
    let plan = plan::make(survey, len, monitor);
    let mut counts = upload::UploadCounts::default();
    monitor.begin(Stage::Backup, Some(len.0));
    let scene = Scene { job, device, survey, monitor };
    let parts = match attempt(scene, skip, &plan, &counts)? {
        Attempt::Done(parts) => *parts,
        Attempt::ReadAll { because, differing, bytes_read } => {
            if job.policy == super::SendPolicy::Send {
                // What went up already is known now, and not sent again.
                job.uplink.settle()?;
            } else {
                counts = upload::UploadCounts::default();
            }
            monitor.begin(Stage::Backup, Some(len.0));
            let source = (device, survey);
            let (mut read, chunks) = read_planned(job, source, &plan, None, &counts, monitor)?;
            // In vain, but read.
            read.bytes_read += bytes_read;
            let read_all_because = Some(because);
            let files_differing = differing;
            let skipped = Skipped { files_differing, read_all_because, ..Skipped::default() };
            Parts { read, chunks, len, skipped }
        }
    };
    commit(job, survey, parts, &counts, monitor)
}

/// What a backup of a disk works with.
#[derive(Clone, Copy)]
struct Scene<'a> {
    job: &'a Job<'a>,
    device: &'a dyn Device,
    survey: &'a Survey,
    monitor: &'a dyn Monitor,
}

fn attempt(
    scene: Scene<'_>,
    skip: &Skip<'_>,
    plan: &Plan,
    counts: &upload::UploadCounts,
) -> Result<Attempt> {
    let read_all = |because: String| Attempt::ReadAll { because, differing: 0, bytes_read: 0 };
    let Scene { job, device, survey, monitor } = scene;
    let base = match &skip.base {
        Ok(base) => base,
        Err(because) => return Ok(read_all(because.clone())),
    };
    let usable = parent::usable(base, skip, scene);
    let volumes = match usable {
        Ok(volumes) => volumes,
        Err(because) => return Ok(read_all(because)),
    };
    let mut bytes_read = 0;
    let prepared = prepare(scene, skip, base, &volumes, plan, &mut bytes_read);
    let (prepared, adopted) = match prepared {
        Ok(prepared) => prepared,
        Err(damage) => {
            let message =
                format!("the base snapshot cannot be read ({damage}): everything is read instead");
            monitor.warning(Notice { subject: "vault".into(), at: None, message });
            let because = format!("the base snapshot cannot be read: {damage}");
            return Ok(Attempt::ReadAll { because, differing: 0, bytes_read });
        }
    };
    let source = (device, survey);
    let runs = adopted.runs.len();
    let base = Some((&prepared.clean, adopted));
    let (mut read, mut chunks) = read_planned(job, source, &prepared.plan, base, counts, monitor)?;
    read.bytes_read += bytes_read;
    let contradictions = prepared.settle(survey, &mut chunks, runs);
    if contradictions.is_empty() {
        let (len, skipped) = (device.len(), prepared.skipped);
        return Ok(Attempt::Done(Box::new(Parts { read, chunks, len, skipped })));
    }
    let differing = &contradictions.files;
    report(survey, differing, monitor);
    Ok(Attempt::ReadAll {
        because: "files had changed without a trace in their metadata".into(),
        differing: differing.len() as u64,
        bytes_read: read.bytes_read,
    })
}

/// Finds out what need not be read; adds what was read for it to `bytes_read`. An error, in words,
/// is damage of the base.
fn prepare(
    scene: Scene<'_>,
    skip: &Skip<'_>,
    base: &Base,
    volumes: &[parent::SameVolume],
    plan: &Plan,
    bytes_read: &mut u64,
) -> Result<(Inheritance, Adopted), String> {
    let Scene { device, survey, monitor, .. } = scene;
    let unchanged = files::unchanged(survey, skip.nodes, volumes)?;
    // Of the others the blocks are residue.
    let owned = plan.files.iter().filter_map(|item| Some((*item, *unchanged.get(item)?)));
    let trusted = owned.filter(|(item, _)| {
        item.find(survey).is_some_and(|(inode, start)| {
            !written_below::by_swapping(device, inode, start, bytes_read)
        })
    });
    let unchanged: HashMap<FileItem, ContentHash> = trusted.collect();
    let found = windows::find(device, survey, plan, &unchanged, (base, skip.nodes), bytes_read)?;
    let mut skipped = Skipped {
        windows_inherited: found.clean.windows.len() as u64,
        runs_since_full: base.manifest.counts.runs_since_full.saturating_add(1),
        ..Skipped::default()
    };
    let mut inherited = HashMap::new();
    let mut expected = HashMap::new();
    let mut parts = Vec::new();
    for (&item, &content) in &unchanged {
        let bytes = files::disk_bytes(survey, item, &mut parts);
        if !parts.iter().all(|part| found.clean.has(on_disk(part))) {
            expected.insert(item, content);
        } else if chosen(skip, item) {
            skipped.files_reread += 1;
            skipped.bytes_reread += bytes;
            expected.insert(item, content);
        } else {
            skipped.files_inherited += 1;
            skipped.bytes_inherited += bytes;
            inherited.insert(item, content);
        }
    }
    let kept = plan.files.iter().copied().filter(|item| !inherited.contains_key(item));
    let clean: Vec<ByteRange> = found.clean.ranges(device.len());
    let rest = Plan {
        files: kept.collect(),
        not_owned: plan.not_owned.clone(),
        residue: without(&plan.residue, &clean),
        unparsed: plan.unparsed.clone(),
        free: without(&plan.free, &clean),
    };
    monitor.advance(clean.iter().map(|range| range.len().0).sum());
    let windows::Found { clean, adopted } = found;
    let inheritance = Inheritance { plan: rest, clean, inherited, expected, skipped };
    Ok((inheritance, adopted))
}

/// Returns the bytes of the disk that a piece of a file has.
fn on_disk(part: &FilePiece) -> ByteRange {
    match *part {
        FilePiece::Data { disk, .. } | FilePiece::Slack { disk } => disk,
        FilePiece::Zeros { .. } => ByteRange::default(),
    }
}

/// Tells whether an unchanged file is read all the same.
fn chosen(skip: &Skip<'_>, item: FileItem) -> bool {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&skip.seed);
    hasher.update(&item.volume.to_le_bytes());
    hasher.update(&item.inode.to_le_bytes());
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    let drawn = u64::from(u32::from_le_bytes([a, b, c, d])) * 1_000_000;
    drawn >> 32 < u64::from(skip.reread_per_million)
}

/// Says which files lied: the first of them by name, all by number.
fn report(survey: &Survey, differing: &HashSet<FileItem>, monitor: &dyn Monitor) {
    let mut items: Vec<FileItem> = differing.iter().copied().collect();
    items.sort_unstable();
    for &item in items.iter().take(KEPT_WARNINGS) {
        let volume = survey.volumes.get(item.volume as usize);
        let path = volume.map_or("", |volume| volume.path.as_str());
        let name = files::name(survey, item);
        monitor.warning(Notice {
            subject: format!("{path}{}", String::from_utf8_lossy(&name)),
            at: volume.map(|volume| volume.range.start()),
            message: "its content changed and its size, times and place did not: something wrote \
                      below the file system, or the medium fails; everything is read now"
                .into(),
        });
    }
}
