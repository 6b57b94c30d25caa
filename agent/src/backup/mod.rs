//! The backup: read, chunk, ask, compress, send; then map, overlay, manifest.
//!
//! Plain threads with bounded channels between them: some read the disk, one proves what was read
//! (the image hash), one cuts it into chunks, one names them (ids, map, content hashes), one asks
//! the vault, and as many as there are cores compress and send. Every byte of the disk goes through
//! the naming stage once; the map is proven to cover the disk before anything is committed.

mod batch;
mod chunk;
mod content;
mod cut;
mod ids;
mod image_map;
mod inherit;
mod manifest;
mod overlay;
mod plan;
mod proof;
mod prove;
mod read;
mod reading;
mod residue;
mod stream;
mod upload;

use std::io::Read;
use std::sync::atomic::Ordering;
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::bounded;
use umbra_common::node::NodeSink;
use umbra_common::overlay::ContentHash;
use umbra_common::snapshot::{Consistency, Method, Receipt};
use umbra_common::{ByteLen, ObjectId, Reference};

use crate::error::{Error, Result};
use crate::monitor::{Monitor, Notice, Stage};
use crate::source::Device;
use crate::survey::Survey;

use inherit::Adopted;

pub use chunk::{ChunkSummary, KnownIds};
pub use content::decode;
pub use image_map::MapCounts;
pub use inherit::{Base, Skip, Skipped, run as run_skipping};
pub use manifest::Labels;
pub use prove::ReadSummary;
pub use upload::{SendPolicy, Uplink};

/// Batches of one span each between two stages (2 MiB each).
const BATCHES: usize = 4;
/// Buffers that wait to be filled again.
const RECYCLED: usize = reading::IN_FLIGHT + 3 * BATCHES;
/// New chunks of one batch each between chunking and asking (2 MiB at most).
const GROUPS: usize = 4;
/// Missing chunks between asking and compressing.
const MISSING: usize = 64;

/// Where the bytes of a disk come from.
pub enum Input<'a> {
    /// A device, and what is on it.
    Disk {
        /// The disk.
        device: &'a dyn Device,
        /// What is on it.
        survey: &'a Survey,
    },
    /// A stream of unknown length, kept in disk order (standard input).
    Stream(&'a mut (dyn Read + Send)),
}

/// One disk to back up.
pub struct Job<'a> {
    /// The vault.
    pub uplink: &'a dyn Uplink,
    /// What the vault has for certain.
    pub known: &'a dyn KnownIds,
    /// Whether anything is sent.
    pub policy: SendPolicy,
    /// What the snapshot says about its origin.
    pub labels: &'a Labels,
}

/// What a backup came to. Sizes in bytes.
#[derive(Debug)]
pub struct Outcome {
    /// The snapshot's id.
    pub snapshot: ObjectId,
    /// The vault's receipt; absent where nothing was sent.
    pub receipt: Option<Receipt>,
    /// The disk's length.
    pub bytes_total: u64,
    /// Read from the device.
    pub bytes_read: u64,
    /// The disk by what the map says.
    pub map: MapCounts,
    /// File content on the disk.
    pub bytes_files: u64,
    /// New bytes before compression: files, residue, nodes.
    pub bytes_new: [u64; 3],
    /// New bytes as stored.
    pub bytes_stored: u64,
    /// Bytes on the wire.
    pub bytes_sent: u64,
    /// Distinct chunks of the disk.
    pub chunks_total: u64,
    /// Of these, new to the vault.
    pub chunks_new: u64,
    /// Names in the overlay.
    pub files: u64,
    /// The proof of the whole disk.
    pub image_hash: [u8; 32],
    /// All ids that the snapshot refers to.
    pub ids: Vec<ObjectId>,
    /// Number of ranges that could not be read.
    pub unreadable: usize,
    /// How far the snapshot is one state of the disk.
    pub consistency: Consistency,
    /// What was not read, because it has not changed.
    pub skipped: Skipped,
}

/// Backs up one disk, all of it.
///
/// # Errors
/// What the vault or this system answers; nothing is committed then.
pub fn run(job: &Job<'_>, input: Input<'_>, monitor: &dyn Monitor) -> Result<Outcome> {
    let counts = upload::UploadCounts::default();
    match input {
        Input::Disk { device, survey } => {
            let len = device.len();
            let plan = plan::make(survey, len, monitor);
            monitor.begin(Stage::Backup, Some(len.0));
            let source = (device, survey);
            let (read, chunks) = read_planned(job, source, &plan, None, &counts, monitor)?;
            let skipped = Skipped::default();
            commit(job, survey, Parts { read, chunks, len, skipped }, &counts, monitor)
        }
        Input::Stream(input) => {
            monitor.begin(Stage::Backup, None);
            let nothing = Survey::of_stream(ByteLen(0));
            let unbounded = ByteLen(u64::MAX);
            let ((read, len), chunks) =
                run_stages(job, (&nothing, unbounded), None, &counts, monitor, |out| {
                    stream::run(input, &out)
                })?;
            let survey = Survey::of_stream(len);
            let skipped = Skipped::default();
            commit(job, &survey, Parts { read, chunks, len, skipped }, &counts, monitor)
        }
    }
}

/// Reads what a plan says, beside what is taken from the base, up to the upload of all chunks.
fn read_planned(
    job: &Job<'_>,
    (device, survey): (&dyn Device, &Survey),
    plan: &plan::Plan,
    base: Option<(&inherit::Clean, Adopted)>,
    counts: &upload::UploadCounts,
    monitor: &dyn Monitor,
) -> Result<(ReadSummary, ChunkSummary)> {
    let disk = (survey, device.len());
    let (clean, adopted) = base.unzip();
    let (read, mut chunks) = run_stages(job, disk, adopted, counts, monitor, |out| {
        prove::ProvenReader::new(device, survey).inherit(clean)?.run(plan, out)
    })?;
    for &(item, reason) in &plan.not_owned {
        chunks.contents.insert(item, hash_not_owned(device, survey, item, reason, &read));
    }
    Ok((read, chunks))
}

/// Sends map, overlay and manifest and commits the snapshot.
fn commit(
    job: &Job<'_>,
    survey: &Survey,
    parts: Parts,
    counts: &upload::UploadCounts,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    monitor.begin(Stage::Commit, None);
    if job.policy == SendPolicy::Send {
        job.uplink.settle()?;
    }
    let len = parts.len;
    let mut sink = upload::NodeUpload::new(job.uplink, job.known, job.policy, counts);
    let built = write_nodes(job, survey, parts, monitor, &mut sink);
    if let Some(failure) = sink.take_failure() {
        return Err(failure);
    }
    let mut built = built?;
    built.ids.extend(sink.finish()?);
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let bytes_new = [&counts.new_files, &counts.new_residue, &counts.new_meta].map(load);
    let receipt = match job.policy {
        SendPolicy::Send => {
            job.uplink.settle()?;
            let figures =
                [("bytes_new", bytes_new.iter().sum()), ("bytes_stored", load(&counts.stored))];
            Some(job.uplink.commit(built.manifest.id, &job.labels.tags, &figures)?)
        }
        SendPolicy::CountOnly => None,
    };
    Ok(Outcome {
        snapshot: built.manifest.id,
        receipt,
        bytes_total: len.0,
        bytes_read: built.bytes_read,
        map: built.map,
        bytes_files: built.bytes_files,
        bytes_new,
        bytes_stored: load(&counts.stored),
        bytes_sent: job.uplink.bytes_sent(),
        chunks_total: built.chunks_total,
        chunks_new: load(&counts.chunks),
        files: built.files,
        image_hash: built.image_hash,
        ids: built.ids,
        unreadable: built.unreadable,
        consistency: built.consistency,
        skipped: built.skipped,
    })
}

/// Hashes a file by a reading of its own, where that must give what the snapshot keeps.
fn hash_not_owned(
    device: &dyn Device,
    survey: &Survey,
    item: plan::FileItem,
    reason: plan::NotOwned,
    read: &ReadSummary,
) -> ContentHash {
    // A second reading of a disk that changes would prove other bytes than those that are kept.
    if device.may_change() || read.changed.is_some() {
        return ContentHash::Shared;
    }
    match (item.find(survey), reason) {
        (Some((inode, base)), plan::NotOwned::Indirect) => {
            content::hash(device, inode, base, &read.unreadable)
        }
        _ => ContentHash::Damaged,
    }
}

type Joined<'scope, T> = ScopedJoinHandle<'scope, Result<T>>;

/// Runs the stages up to the upload of all chunks; `read` is the first of them.
fn run_stages<T: Send>(
    job: &Job<'_>,
    (survey, len): (&Survey, ByteLen),
    adopted: Option<Adopted>,
    counts: &upload::UploadCounts,
    monitor: &dyn Monitor,
    read: impl FnOnce(prove::Output) -> Result<T> + Send,
) -> Result<(T, ChunkSummary)> {
    let (batch_tx, batch_rx) = bounded(BATCHES);
    let (cut_tx, cut_rx) = bounded(BATCHES);
    let (recycle_tx, recycle_rx) = bounded(RECYCLED);
    let (chunk_tx, chunk_rx) = bounded(GROUPS);
    let (missing_tx, missing_rx) = bounded(MISSING);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let out = prove::Output { batches: batch_tx, recycled: recycle_rx };
        let reading = spawn(scope, "umbra-prove", move || read(out))?;
        let cutting = spawn(scope, "umbra-cut", move || cut::run(batch_rx, &cut_tx))?;
        let asking = spawn(scope, "umbra-ask", move || {
            upload::ask_stage(job.uplink, &chunk_rx, &missing_tx)
        })?;
        let mut sending: Vec<Joined<'_, ()>> = Vec::new();
        for _ in 0..workers {
            let missing = missing_rx.clone();
            sending.push(spawn(scope, "umbra-send", move || {
                upload::compress_stage(job.uplink, &missing, job.policy, counts, monitor)
            })?);
        }
        drop(missing_rx);
        let mut stage = chunk::NameStage::new(survey, job.known, len, chunk_tx);
        let adopted = adopted.map_or(Ok(()), |Adopted { ids, runs }| stage.adopt(ids, runs));
        let chunked = adopted.and_then(|()| {
            cut_rx.into_iter().try_for_each(|batch: cut::CutBatch| {
                let disk_bytes = batch.disk_bytes;
                let buffer = stage.batch(batch)?;
                monitor.advance(disk_bytes);
                // Where many wait already, one less is kept.
                let _ = recycle_tx.try_send(buffer);
                Ok(())
            })
        });
        let summary = stage.finish();
        let mut failures: Vec<Error> = sending.into_iter().filter_map(|s| join(s).err()).collect();
        failures.extend(join(asking).err());
        failures.extend(join(cutting).err());
        let read = join(reading).map_err(|error| failures.push(error)).ok();
        failures.extend(chunked.err());
        // A stage that lost its neighbour says so; the neighbour says why.
        let root = failures.iter().position(|error| !matches!(error, Error::Internal(_)));
        match (read, failures.is_empty()) {
            (Some(read), true) => Ok((read, summary)),
            _ => Err(failures.swap_remove(root.unwrap_or_default())),
        }
    })
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<Joined<'scope, T>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn_scoped(scope, work)
        .map_err(|source| Error::Io { what: "start the thread", path: name.into(), source })
}

fn join<T>(handle: Joined<'_, T>) -> Result<T> {
    handle.join().unwrap_or_else(|_| Err(Error::Internal("a stage of the backup panicked".into())))
}

struct Parts {
    read: ReadSummary,
    chunks: ChunkSummary,
    len: ByteLen,
    skipped: Skipped,
}

struct Built {
    manifest: Reference,
    map: MapCounts,
    bytes_read: u64,
    bytes_files: u64,
    chunks_total: u64,
    files: u64,
    image_hash: [u8; 32],
    ids: Vec<ObjectId>,
    unreadable: usize,
    consistency: Consistency,
    skipped: Skipped,
}

/// Tells what could not be read; the map has every such range, the snapshot names the first.
fn report_unreadable(read: &ReadSummary, monitor: &dyn Monitor) {
    for range in read.unreadable.iter().take(crate::tree::KEPT_WARNINGS) {
        monitor.warning(Notice {
            subject: "source".into(),
            at: Some(range.start()),
            message: format!("{range} cannot be read; zeros stand in their place"),
        });
    }
}

/// Says how the source was read, with what came to light while it was read.
fn method_of(job: &Job<'_>, read: &ReadSummary) -> Method {
    let mut method = job.labels.method.clone();
    if let Some(change) = &read.changed {
        method.consistency = Consistency::Fuzzy;
        method.text = format!("{}, but {change}", method.text);
    }
    method
}

/// Writes map, overlay and manifest, children first.
fn write_nodes(
    job: &Job<'_>,
    survey: &Survey,
    parts: Parts,
    monitor: &dyn Monitor,
    sink: &mut dyn NodeSink,
) -> Result<Built> {
    let Parts { read, chunks, len, skipped } = parts;
    report_unreadable(&read, monitor);
    let method = method_of(job, &read);
    let ChunkSummary { ids, runs, contents, bytes_files } = chunks;
    let (map_root, map) = image_map::build(runs, &ids, &read.windows, len, sink)?;
    let mut overlays = Vec::new();
    let mut files = 0;
    for (index, volume) in survey.volumes.iter().enumerate() {
        let built = overlay::build(index, volume, &contents, monitor, sink)?;
        files += built.as_ref().map_or(0, |overlay| overlay.names);
        overlays.push(built);
    }
    let facts = manifest::Facts {
        labels: job.labels,
        method: &method,
        survey,
        len,
        map_root,
        map,
        overlays: &overlays,
        image_hash: read.image_hash,
        unreadable: &read.unreadable,
        chunks: ids.len() as u64,
        files,
        warnings: monitor.warnings(),
        skipped: &skipped,
    };
    let manifest = sink.put(manifest::make(&facts)?)?;
    Ok(Built {
        manifest,
        map,
        bytes_read: read.bytes_read,
        bytes_files,
        chunks_total: ids.len() as u64,
        files,
        image_hash: read.image_hash.0,
        unreadable: read.unreadable.len(),
        consistency: method.consistency,
        ids,
        skipped,
    })
}

#[cfg(test)]
mod tests;
