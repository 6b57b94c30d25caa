//! A disk back from the vault, byte for byte, proven by the image hash.
//!
//! The map is walked in batches; the vault streams the chunks of a batch in the order of its
//! packs; each is proven on arrival and written where the map says, by the thread that fetched it.
//! Another thread makes the image hash of what was written, and once more of what the target gives
//! back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use umbra_common::image_hash::{ImageHash, ImageHasher, SequentialImageHasher};
use umbra_common::map::{Content, LocatedRun, MapReader};
use umbra_common::node::NodeSource;
use umbra_common::{ByteLen, ByteOffset, ByteRange, Reference};
use umbra_net::Wanted;

use crate::catalog::Snapshot;
use crate::error::{Error, Result};
use crate::fetch::ChunkSource;
use crate::monitor::{Monitor, Stage};
use crate::target::{Medium, PIECE_BYTES, Piece, Target};

/// Bytes of the disk whose chunks are asked for in one request.
const BATCH_BYTES: u64 = 16 << 20;
/// Requests under way at once.
const REQUESTS: usize = 3;
/// Chunks that wait to be hashed.
const CHUNKS: usize = 64;
/// Pieces of the target that are read back and wait to be hashed.
const PIECES: usize = 3;

/// What a recovery came to. Sizes in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovered {
    /// Written from chunks.
    pub written: u64,
    /// Zeros that had to be made.
    pub zeroed: u64,
    /// Chunks fetched, decompressed.
    pub fetched: u64,
    /// The image hash, equal to the snapshot's.
    pub image_hash: [u8; 32],
    /// True where the target was read back.
    pub verified: bool,
}

/// Whether the target is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// Read everything back and prove it.
    Verify,
    /// Trust the system's answers.
    Skip,
}

/// Where the bytes of a chunk go.
#[derive(Clone, Copy, Debug)]
struct Place {
    disk: ByteOffset,
    offset: u32,
    len: u64,
}

/// Chunks of some pages, and where they go.
#[derive(Default)]
struct Batch {
    wanted: Vec<Wanted>,
    /// By position in `wanted` and number in the page.
    places: HashMap<(usize, u32), Vec<Place>>,
    pages: HashMap<Reference, usize>,
    bytes: u64,
}

/// What was written, or is to be zeros.
enum Work {
    Chunk { bytes: Vec<u8>, places: Vec<Place> },
    Zeros(ByteRange),
}

/// Writes the disk of `snapshot` to `target` and proves it.
///
/// # Errors
/// [`Error::Damage`] where the vault's bytes are not those of the snapshot, [`Error::Io`] of the
/// target, [`Error::Vault`]. The target is not whole then.
pub fn recover(
    snapshot: &Snapshot,
    chunks: &dyn ChunkSource,
    nodes: &dyn NodeSource,
    target: &Target,
    read_back: ReadBack,
    monitor: &dyn Monitor,
) -> Result<Recovered> {
    let len = snapshot.manifest.disk.length;
    monitor.begin(Stage::Restore, Some(len.0));
    let (batch_tx, batch_rx) = bounded::<Batch>(REQUESTS);
    let (work_tx, work_rx) = bounded::<Work>(CHUNKS);
    let failed = &AtomicBool::new(false);
    let (written, hash) = std::thread::scope(|scope| {
        let planned = {
            let work = work_tx.clone();
            scope.spawn(move || plan(snapshot, nodes, &batch_tx, &work, failed))
        };
        let mut fetching = Vec::new();
        for _ in 0..REQUESTS {
            let (batches, work) = (batch_rx.clone(), work_tx.clone());
            fetching.push(scope.spawn(move || {
                let fetched = fetch(snapshot, chunks, target, &batches, &work, failed);
                // Nothing that comes now makes a whole disk.
                failed.fetch_or(fetched.is_err(), Ordering::Relaxed);
                fetched
            }));
        }
        drop((batch_rx, work_tx));
        let hashed = hash(len, work_rx, target, monitor);
        let join = |result: std::thread::Result<Result<()>>| {
            result.unwrap_or_else(|_| Err(Error::Internal("a stage of recover panicked".into())))
        };
        let planned = join(planned.join());
        let fetched: Vec<Result<()>> = fetching.into_iter().map(|t| join(t.join())).collect();
        let (hashed, outcome) = match hashed {
            Ok(hashed) => (Some(hashed), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let failures = fetched.into_iter().chain([outcome, planned]).filter_map(Result::err);
        match (failures.min_by_key(rank), hashed) {
            (Some(error), _) => Err(error),
            (None, Some(hashed)) => Ok(hashed),
            (None, None) => Err(Error::Internal("recover has neither a hash nor an error".into())),
        }
    })?;
    let expected = snapshot.manifest.image_hash;
    if hash != expected {
        let detail = "the image hash of what was written is not the snapshot's";
        return Err(damaged(snapshot, detail.into()));
    }
    let mut recovered = Recovered { image_hash: hash.0, ..written };
    if read_back == ReadBack::Verify {
        let medium = target.settle()?;
        monitor.begin(Stage::Verify, Some(len.0));
        if read_hash(medium, len, monitor)? != expected {
            let detail = "the target gave back other bytes than were written";
            return Err(damaged(snapshot, detail.into()));
        }
        recovered.verified = true;
    }
    Ok(recovered)
}

/// Orders failures: a target or a vault that failed is the cause of everything else, and a stage
/// that ended early the cause of nothing.
fn rank(error: &Error) -> u8 {
    match error {
        Error::Io { .. } | Error::Damage { .. } => 0,
        Error::Internal(_) => 2,
        _ => 1,
    }
}

fn damaged(snapshot: &Snapshot, detail: String) -> Error {
    Error::Damage {
        what: format!("snapshot {}", snapshot.reference.id),
        detail,
        hint: "run `umbra verify` on it; the target is not whole".into(),
    }
}

/// Walks the map; zeros go straight to the writer, chunks to the requests.
fn plan(
    snapshot: &Snapshot,
    nodes: &dyn NodeSource,
    batches: &Sender<Batch>,
    work: &Sender<Work>,
    failed: &AtomicBool,
) -> Result<()> {
    let gone = || Error::Internal("the stages of recover ended early".into());
    let len = snapshot.manifest.disk.length;
    let whole = ByteRange::new(ByteOffset(0), len).unwrap_or_default();
    let map = MapReader::new(nodes, snapshot.map_link()?, len);
    let mut batch = Batch::default();
    for run in map.runs(whole) {
        let LocatedRun { run, chunk } = run.map_err(|lost| Error::Damage {
            what: format!("the image map at {}", lost.range),
            detail: lost.error.to_string(),
            hint: "run `umbra verify` on the snapshot".into(),
        })?;
        let (Content::Data { offset, .. }, Some(link)) = (run.content, chunk) else {
            work.send(Work::Zeros(run.disk)).map_err(|_| gone())?;
            continue;
        };
        let place = Place { disk: run.disk.start(), offset, len: run.disk.len().0 };
        let item = *batch.pages.entry(link.parent).or_insert_with(|| {
            batch.wanted.push(Wanted { node: link.parent, objects: Vec::new() });
            batch.wanted.len() - 1
        });
        let places = batch.places.entry((item, link.number)).or_default();
        if places.is_empty()
            && let Some(wanted) = batch.wanted.get_mut(item)
        {
            wanted.objects.push((link.number, link.target));
        }
        places.push(place);
        batch.bytes += place.len;
        if batch.bytes >= BATCH_BYTES {
            if failed.load(Ordering::Relaxed) {
                return Err(gone());
            }
            batches.send(std::mem::take(&mut batch)).map_err(|_| gone())?;
        }
    }
    batches.send(batch).map_err(|_| gone())
}

/// Asks for the chunks of one batch after the other and writes them, until one of them cannot be
/// had here or by another thread.
fn fetch(
    snapshot: &Snapshot,
    chunks: &dyn ChunkSource,
    target: &Target,
    batches: &Receiver<Batch>,
    work: &Sender<Work>,
    failed: &AtomicBool,
) -> Result<()> {
    for mut batch in batches {
        if batch.wanted.is_empty() || failed.load(Ordering::Relaxed) {
            continue;
        }
        let wanted = std::mem::take(&mut batch.wanted);
        let mut failure = None;
        chunks.chunks(&wanted, &mut |item, number, bytes| {
            let places = batch.places.remove(&(item, number)).unwrap_or_default();
            let sent = match bytes {
                // The first failure says why; nothing is written after it.
                _ if failure.is_some() => return,
                Ok(bytes) => write(target, &bytes, &places).and_then(|()| {
                    work.send(Work::Chunk { bytes, places })
                        .map_err(|_| Error::Internal("the hash of recover ended early".into()))
                }),
                Err(why) => Err(damaged(snapshot, why)),
            };
            failure = sent.err();
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !batch.places.is_empty() {
            return Err(Error::Internal("the vault left chunks out without a word".into()));
        }
    }
    Ok(())
}

/// Returns the part of a chunk that belongs at a place.
fn part_at<'c>(chunk: &'c [u8], place: &Place) -> Result<&'c [u8]> {
    let start = place.offset as usize;
    let end = start.saturating_add(usize::try_from(place.len).unwrap_or(usize::MAX));
    chunk.get(start..end).ok_or_else(|| Error::Damage {
        what: format!("the image map at {}", place.disk),
        detail: "it names bytes that its chunk does not have".into(),
        hint: "run `umbra verify` on the snapshot".into(),
    })
}

fn write(target: &Target, chunk: &[u8], places: &[Place]) -> Result<()> {
    places.iter().try_for_each(|place| target.write(place.disk, part_at(chunk, place)?))
}

/// Makes the zeros, and the image hash of them and of the chunks that were written.
fn hash(
    len: ByteLen,
    work: Receiver<Work>,
    target: &Target,
    monitor: &dyn Monitor,
) -> Result<(Recovered, ImageHash)> {
    let hash_error = |error| Error::Internal(format!("the image hash: {error}"));
    let mut hasher = ImageHasher::new(len);
    let mut recovered = Recovered::default();
    for work in work {
        match work {
            Work::Zeros(range) => {
                recovered.zeroed += target.zero(range)?;
                hasher.add_zeros(range).map_err(hash_error)?;
                monitor.advance(range.len().0);
            }
            Work::Chunk { bytes, places } => {
                recovered.fetched += bytes.len() as u64;
                for place in &places {
                    hasher.add(place.disk, part_at(&bytes, place)?).map_err(hash_error)?;
                    recovered.written += place.len;
                    monitor.advance(place.len);
                }
            }
        }
    }
    match hasher.finish() {
        Ok(hash) => Ok((recovered, hash)),
        Err(error) => Err(Error::Internal(format!("the map does not cover the disk: {error}"))),
    }
}

/// What was read back.
enum Back {
    Bytes(Piece),
    Zeros(ByteLen),
}

/// Reads the whole target back, and hashes one piece while the next is read.
fn read_hash(medium: Medium<'_>, len: ByteLen, monitor: &dyn Monitor) -> Result<ImageHash> {
    let (back_tx, back_rx) = bounded::<Back>(PIECES);
    let (used_tx, used_rx) = bounded::<Piece>(PIECES + 1);
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || read_all(medium, len, &back_tx, &used_rx));
        let mut hasher = SequentialImageHasher::new(len);
        for back in back_rx {
            match back {
                Back::Bytes(piece) => {
                    hasher.push(piece.bytes())?;
                    monitor.advance(piece.bytes().len() as u64);
                    let _ = used_tx.try_send(piece);
                }
                Back::Zeros(len) => {
                    hasher.push_zeros(len)?;
                    monitor.advance(len.0);
                }
            }
        }
        let read = reading.join();
        read.unwrap_or_else(|_| Err(Error::Internal("the reading back panicked".into())))?;
        Ok(hasher.finish()?)
    })
}

fn read_all(
    mut medium: Medium<'_>,
    len: ByteLen,
    back: &Sender<Back>,
    used: &Receiver<Piece>,
) -> Result<()> {
    let gone = |_| Error::Internal("the hash of what is read back ended early".into());
    let (mut at, end) = (ByteOffset(0), ByteOffset(len.0));
    while at < end {
        let data = medium.next_data(at, end);
        if data > at {
            back.send(Back::Zeros(ByteLen(data.0 - at.0))).map_err(gone)?;
            at = data;
            continue;
        }
        let take = (end.0 - at.0).min(PIECE_BYTES as u64);
        let mut piece = used.try_recv().unwrap_or_default();
        medium.read(at, usize::try_from(take).unwrap_or_default(), &mut piece)?;
        back.send(Back::Bytes(piece)).map_err(gone)?;
        at = ByteOffset(at.0 + take);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
