//! The stage that proves what was read: the image hash is made HERE, from the positions that were
//! read and of the very bytes that are chunked, never from the map.

use crossbeam_channel::{Receiver, Sender, bounded};
use umbra_common::image_hash::{ImageHash, WindowHash};
use umbra_common::{ByteOffset, ByteRange};

use super::batch::{Batch, Segment};
use super::inherit::Clean;
use super::plan::Plan;
use super::proof::Proof;
use super::read::{Reader, Role, Span, Step};
use super::reading::{Reading, Reads, by_loss};
use crate::error::{Error, Result};
use crate::ranges::merged;
use crate::source::Device;
use crate::survey::Survey;

/// Spans that were read and wait to be proven.
const SPANS: usize = 4;

/// What reading a disk came to.
#[derive(Debug)]
pub struct ReadSummary {
    /// The hash of the whole disk.
    pub image_hash: ImageHash,
    /// One hash a window.
    pub windows: Vec<WindowHash>,
    /// Bytes read from the device, gaps included.
    pub bytes_read: u64,
    /// What the device did not give; sorted, merged.
    pub unreadable: Vec<ByteRange>,
    /// Why what was read may not be one state of the disk, where the device says so.
    pub changed: Option<String>,
}

/// Where batches go, and used buffers come from.
pub struct Output {
    /// Takes what was read and proven.
    pub batches: Sender<Batch>,
    /// Gives buffers that are free again.
    pub recycled: Receiver<Vec<u8>>,
}

/// Reads and proves one disk.
pub struct ProvenReader<'a> {
    device: &'a dyn Device,
    survey: &'a Survey,
    clean: Option<&'a Clean>,
    pub(super) proof: Proof<'a>,
    bytes_read: u64,
    unreadable: Vec<ByteRange>,
}

impl<'a> ProvenReader<'a> {
    /// Makes a reader of a device.
    pub fn new(device: &'a dyn Device, survey: &'a Survey) -> Self {
        let proof = Proof::new(device);
        Self { device, survey, clean: None, proof, bytes_read: 0, unreadable: Vec::new() }
    }

    /// Takes the hashes of windows from the base snapshot; the plan has what else is read.
    ///
    /// # Errors
    /// [`Error::Internal`] where the disk has no such window.
    pub(super) fn inherit(mut self, clean: Option<&'a Clean>) -> Result<Self> {
        self.clean = clean;
        if let Some(clean) = clean {
            self.proof.inherit(&clean.windows)?;
        }
        Ok(self)
    }

    /// Reads everything in the plan: files with the residue between them, then unparsed volumes.
    ///
    /// # Errors
    /// [`Error::Internal`] where the plan did not cover the disk exactly; the receiver's end of
    /// the channel gone ends the stage early with [`Error::Internal`] too. [`Error::Refused`]
    /// where the device gave several answers for one place.
    pub fn run(mut self, plan: &'a Plan, out: Output) -> Result<ReadSummary> {
        let Output { batches, recycled } = out;
        self.proof.leave_out(&plan.free);
        let (span_tx, span_rx) = bounded::<Span>(SPANS);
        let (device, survey, clean) = (self.device, self.survey, self.clean);
        let (proven, read) = std::thread::scope(|scope| {
            let recycled = &recycled;
            let reading = super::spawn(scope, "umbra-read", move || {
                Reads::run(device, recycled, |reads| {
                    Reader::new(device, survey, reads, span_tx).beside(clean).run(plan)
                })
            })?;
            let proven = span_rx.into_iter().try_for_each(|span| {
                let batch = self.prove(span)?;
                let gone = |_| Error::Internal("the stage that cuts has ended".into());
                batches.send(batch).map_err(gone)
            });
            Ok::<_, Error>((proven, super::join(reading)))
        })?;
        // A reader that lost its neighbour says only that.
        proven?;
        self.bytes_read += read?;
        let changed = self.device.settled()?;
        if let Some(change) = &changed {
            self.proof.stand(change)?;
        }
        let (image_hash, windows) = self.proof.finish()?;
        let unreadable = merged(self.unreadable);
        Ok(ReadSummary { image_hash, windows, bytes_read: self.bytes_read, unreadable, changed })
    }

    /// Adds the bytes of a span to the proof and says what they are.
    fn prove(&mut self, span: Span) -> Result<Batch> {
        let Span { mut reading, steps } = span;
        let lost = self.proof.with_lost_before(std::mem::take(&mut reading.lost), reading.span);
        let mut segments = Vec::with_capacity(steps.len());
        // Hashed together where they follow each other: BLAKE3 is faster in large pieces.
        let mut run = ByteRange::default();
        for step in steps {
            match step {
                Step::Ready(segment) => {
                    match segment {
                        Segment::Free { disk } => self.proof.add_zeros(disk)?,
                        Segment::Zeros { disk: Some(disk), len, .. } => {
                            let range = ByteRange::new(disk, len).unwrap_or_default();
                            self.proof.add_zeros(range)?;
                        }
                        _ => {}
                    }
                    segments.push(segment);
                }
                Step::Read { disk, position, role } => {
                    for (part, is_lost) in by_loss(disk, &lost) {
                        if is_lost {
                            self.proof.add_lost(part)?;
                            self.unreadable.push(part);
                            segments.push(match role {
                                Role::Slack => Segment::LostSlack { disk: part },
                                Role::Stream => Segment::Unreadable { disk: part },
                            });
                            continue;
                        }
                        if part.start() != run.end() {
                            self.add(&reading, run)?;
                            run = ByteRange::between(part.start(), part.start()).unwrap_or(part);
                        }
                        run = ByteRange::between(run.start(), part.end()).unwrap_or(part);
                        segments.push(match role {
                            Role::Slack => Segment::ZeroSlack { disk: part },
                            Role::Stream => Segment::Bytes {
                                at: reading.place(part)?,
                                disk: part.start(),
                                position: position + (part.start().0 - disk.start().0),
                            },
                        });
                    }
                }
            }
        }
        self.add(&reading, run)?;
        self.bytes_read += self.proof.bound()?;
        Ok(Batch { buffer: reading.buffer, segments })
    }

    fn add(&mut self, reading: &Reading, range: ByteRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let start: ByteOffset = range.start();
        self.proof.add(start, reading.bytes(range)?)
    }
}
