//! The upload stage: ask what the vault lacks, compress that, send it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender};
use umbra_common::node::{Node, NodeSink};
use umbra_common::snapshot::Receipt;
use umbra_common::wire::Object;
use umbra_common::{Kind, ObjectId, Reference};

use super::chunk::{KnownIds, NewChunk, Origin};
use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// Chunks asked for at once.
const ASK_CHUNKS: usize = 512;
/// Bytes of chunks that may wait for an answer.
const ASK_BYTES: usize = 8 << 20;
/// Stored bytes that a thread compresses before it gives them to the network.
const SEND_BYTES: usize = 256 << 10;
/// Nodes asked for at once.
const ASK_NODES: usize = 256;
/// zstd level of everything that is sent (DESIGN 2: measured).
pub const ZSTD_LEVEL: i32 = 3;

/// The vault's side of a backup, as the stages see it. All calls may block.
pub trait Uplink: Send + Sync {
    /// Asks which of `references` are durable in the vault and alive for this session.
    fn ask(&self, references: &[Reference]) -> Result<Vec<bool>>;
    /// Sends objects; returns when they may be forgotten here, not when they are durable. Several
    /// at a time cost less than one by one.
    fn send(&self, objects: Vec<Object>) -> Result<()>;
    /// Waits until everything that was sent is durable.
    fn settle(&self) -> Result<()>;
    /// Commits the manifest, which everything it refers to has preceded. `figures` stand in the
    /// receipt as labels, for lists.
    fn commit(
        &self,
        manifest: ObjectId,
        tags: &[String],
        figures: &[(&str, u64)],
    ) -> Result<Receipt>;
    /// Returns the bytes sent on the wire so far.
    fn bytes_sent(&self) -> u64;
}

/// Counters of what the vault lacked.
#[derive(Debug, Default)]
pub struct UploadCounts {
    /// Bytes of new chunks from files, before compression.
    pub new_files: AtomicU64,
    /// Bytes of new chunks from residue, before compression.
    pub new_residue: AtomicU64,
    /// Bytes of new nodes, before compression.
    pub new_meta: AtomicU64,
    /// Bytes of all new objects as stored.
    pub stored: AtomicU64,
    /// New chunks.
    pub chunks: AtomicU64,
}

/// Whether what the vault lacks is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendPolicy {
    /// Send it.
    Send,
    /// Only count it (`--dry-run`).
    CountOnly,
}

/// Asks for the chunks that arrive and hands on those that the vault lacks.
///
/// # Errors
/// What the uplink answers; [`Error::Internal`] where the next stage has ended.
pub fn ask_stage(
    uplink: &dyn Uplink,
    chunks: &Receiver<Vec<NewChunk>>,
    missing: &Sender<NewChunk>,
) -> Result<()> {
    let weigh = |group: &[NewChunk]| group.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
    while let Ok(mut batch) = chunks.recv() {
        let mut bytes = weigh(&batch);
        while batch.len() < ASK_CHUNKS && bytes < ASK_BYTES {
            // Waits a moment only, so that an idle source does not hold back what it gave.
            match chunks.recv_timeout(std::time::Duration::from_millis(20)) {
                Ok(group) => {
                    bytes += weigh(&group);
                    batch.extend(group);
                }
                Err(_) => break,
            }
        }
        let references: Vec<Reference> =
            batch.iter().map(|chunk| Reference { kind: Kind::Chunk, id: chunk.id }).collect();
        let known = ask(uplink, &references)?;
        for (chunk, known) in batch.drain(..).zip(known) {
            if !known && missing.send(chunk).is_err() {
                return Err(Error::Internal("the compression stage has ended".into()));
            }
        }
    }
    Ok(())
}

/// Asks, and makes sure that nothing goes without an answer: it would be taken for known.
fn ask(uplink: &dyn Uplink, references: &[Reference]) -> Result<Vec<bool>> {
    let known = uplink.ask(references)?;
    if known.len() == references.len() {
        return Ok(known);
    }
    let text = format!("{} questions have {} answers", references.len(), known.len());
    Err(Error::Internal(text))
}

/// Compresses and sends what arrives; several run side by side.
///
/// # Errors
/// What the uplink answers.
pub fn compress_stage(
    uplink: &dyn Uplink,
    missing: &Receiver<NewChunk>,
    policy: SendPolicy,
    counts: &UploadCounts,
    monitor: &dyn Monitor,
) -> Result<()> {
    while let Ok(first) = missing.recv() {
        let (mut next, mut group, mut bytes) = (Some(first), Vec::new(), 0);
        while let Some(chunk) = next.take() {
            count(&chunk, counts, monitor);
            if policy == SendPolicy::CountOnly {
                break;
            }
            let reference = Reference { kind: Kind::Chunk, id: chunk.id };
            let object = Object::pack_named(reference, Vec::new(), chunk.bytes, ZSTD_LEVEL)?;
            bytes += object.body.len();
            group.push(object);
            if bytes < SEND_BYTES {
                next = missing.try_recv().ok();
            }
        }
        counts.stored.fetch_add(bytes as u64, Ordering::Relaxed);
        if !group.is_empty() {
            uplink.send(group)?;
        }
    }
    Ok(())
}

fn count(chunk: &NewChunk, counts: &UploadCounts, monitor: &dyn Monitor) {
    let len = chunk.bytes.len() as u64;
    let counter = match chunk.origin {
        Origin::File => &counts.new_files,
        Origin::Residue => &counts.new_residue,
    };
    counter.fetch_add(len, Ordering::Relaxed);
    counts.chunks.fetch_add(1, Ordering::Relaxed);
    monitor.new_bytes(len);
}

/// Sends nodes, children first, and remembers all ids that the snapshot refers to.
pub struct NodeUpload<'a> {
    uplink: &'a dyn Uplink,
    known: &'a dyn KnownIds,
    policy: SendPolicy,
    counts: &'a UploadCounts,
    seen: HashSet<ObjectId>,
    waiting: Vec<(Reference, Node)>,
    failure: Option<Error>,
}

impl<'a> NodeUpload<'a> {
    /// Makes a sink for the nodes of one snapshot.
    pub fn new(
        uplink: &'a dyn Uplink,
        known: &'a dyn KnownIds,
        policy: SendPolicy,
        counts: &'a UploadCounts,
    ) -> Self {
        let (seen, waiting) = (HashSet::new(), Vec::new());
        Self { uplink, known, policy, counts, seen, waiting, failure: None }
    }

    /// Sends what waits and returns the ids of all nodes of the snapshot.
    ///
    /// # Errors
    /// What the uplink answers, also to an earlier node.
    pub fn finish(mut self) -> Result<HashSet<ObjectId>> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.send_waiting()?;
        Ok(self.seen)
    }

    /// Returns what went wrong below [`NodeSink::put`], whose own error cannot carry it.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn send_waiting(&mut self) -> Result<()> {
        let references: Vec<Reference> =
            self.waiting.iter().map(|(reference, _)| *reference).collect();
        if references.is_empty() {
            return Ok(());
        }
        let known = ask(self.uplink, &references)?;
        let mut objects = Vec::new();
        for ((reference, node), known) in self.waiting.drain(..).zip(known) {
            if known {
                continue;
            }
            let len = node.refs.len() * 33 + node.body.len();
            self.counts.new_meta.fetch_add(len as u64, Ordering::Relaxed);
            if self.policy == SendPolicy::Send {
                let object = Object::pack_named(reference, node.refs, node.body, ZSTD_LEVEL)?;
                let stored = object.refs.len() * 33 + object.body.len();
                self.counts.stored.fetch_add(stored as u64, Ordering::Relaxed);
                objects.push(object);
            }
        }
        if !objects.is_empty() {
            self.uplink.send(objects)?;
        }
        Ok(())
    }
}

impl NodeSink for NodeUpload<'_> {
    fn put(&mut self, node: Node) -> umbra_common::Result<Reference> {
        let reference = node.reference();
        if self.seen.insert(reference.id) && !self.known.contains(&reference.id) {
            self.waiting.push((reference, node));
            if self.waiting.len() >= ASK_NODES
                && let Err(error) = self.send_waiting()
            {
                let text = error.to_string();
                self.failure = Some(error);
                return Err(umbra_common::Error::Unavailable { reference, source: text.into() });
            }
        }
        Ok(reference)
    }
}
