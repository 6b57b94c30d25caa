//! Bytes in the order in which they are wanted, while many requests for chunks are under way.
//!
//! A planning thread turns ranges of the disk into steps and cuts them into batches; a few threads
//! ask the vault for the chunks of a batch each; the caller gets the steps in order.

use std::collections::HashMap;

use crossbeam_channel::{Receiver, Sender, bounded};
use umbra_common::map::{Content, LocatedRun};
use umbra_common::node::Link;
use umbra_common::wire::RefusalCode;
use umbra_common::{ByteLen, Reference};
use umbra_net::{NetError, Reader, Wanted};

use crate::error::{Error, Result};

/// Bytes that one request is for, about.
const BATCH_BYTES: u64 = 8 << 20;
/// Distinct chunks of one request at most.
const BATCH_CHUNKS: usize = 512;
/// Steps of one batch at most.
const BATCH_STEPS: usize = 16 << 10;
/// Requests under way at once.
const REQUESTS: usize = 4;

/// Where chunks come from.
pub trait ChunkSource: Sync {
    /// Reads chunks in any order and hands each over: position in `wanted`, number, its proven
    /// bytes or in words why they cannot be had.
    ///
    /// # Errors
    /// Whatever makes further reading useless.
    fn chunks(&self, wanted: &[Wanted], each: &mut EachChunk<'_>) -> Result<()>;
}

/// Takes a chunk: position of its node in the request, its number there, its bytes.
pub type EachChunk<'a> = dyn FnMut(usize, u32, Result<Vec<u8>, String>) + 'a;

impl ChunkSource for Reader {
    fn chunks(&self, wanted: &[Wanted], each: &mut EachChunk<'_>) -> Result<()> {
        self.read(wanted, &mut |item, number, plain| {
            each(item, number, plain.map(|plain| plain.body).map_err(|error| chain(&error)));
            Ok::<(), NetError>(())
        })?;
        Ok(())
    }
}

/// Says an error with everything that led to it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Tells damage from a vault that does not answer: returns in words what is damaged.
///
/// # Errors
/// [`Error::Vault`] where the vault is gone or refuses, so that nothing else will be had either.
pub fn damage(error: umbra_common::Error) -> Result<String> {
    let lasting = |error: &NetError| match error {
        NetError::Damaged(_) => true,
        NetError::Refused { code, .. } => {
            matches!(code, RefusalCode::Damaged | RefusalCode::NotFound)
        }
        _ => false,
    };
    match error {
        umbra_common::Error::Unavailable { reference, source } => {
            match source.downcast::<NetError>() {
                Ok(error) if !lasting(&error) => Err(Error::Vault(*error)),
                Ok(source) => Ok(chain(&umbra_common::Error::Unavailable { reference, source })),
                Err(source) => Ok(chain(&umbra_common::Error::Unavailable { reference, source })),
            }
        }
        other => Ok(chain(&other)),
    }
}

/// Why there are zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The file has nothing there.
    Hole,
    /// The file has space there that was never written.
    Unwritten,
    /// The disk held zeros.
    Zeros,
    /// The disk's bytes were not kept: unreadable, free or left out.
    NotKept,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a, T> {
    /// Bytes.
    Data(&'a [u8]),
    /// Bytes that cannot be had: how many, and why.
    Missing(ByteLen, &'a str),
    /// Zeros.
    Gap(Gap, ByteLen),
    /// What the planner put between.
    Tag(T),
}

enum Step<T> {
    /// Part of chunk `slot` of the batch.
    Chunk {
        slot: usize,
        offset: u32,
        len: u64,
    },
    Bytes(Vec<u8>),
    Missing(ByteLen, String),
    Gap(Gap, ByteLen),
    Tag(T),
    Fail(Error),
}

struct Batch<T> {
    steps: Vec<Step<T>>,
    wanted: Vec<Wanted>,
    /// Position in `wanted` by node.
    nodes: HashMap<Reference, usize>,
    /// Slot by position in `wanted` and number.
    slots: HashMap<(usize, u32), usize>,
    /// How long the chunk of each slot is at least.
    lengths: Vec<u64>,
    /// The sum of `lengths`.
    bytes: u64,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        let (nodes, slots, lengths) = (HashMap::new(), HashMap::new(), Vec::new());
        Self { steps: Vec::new(), wanted: Vec::new(), nodes, slots, lengths, bytes: 0 }
    }
}

impl<T> Batch<T> {
    fn slot(&mut self, link: &Link) -> usize {
        let item = *self.nodes.entry(link.parent).or_insert_with(|| {
            self.wanted.push(Wanted { node: link.parent, objects: Vec::new() });
            self.wanted.len() - 1
        });
        let next = self.slots.len();
        let slot = *self.slots.entry((item, link.number)).or_insert(next);
        if slot == next
            && let Some(wanted) = self.wanted.get_mut(item)
        {
            wanted.objects.push((link.number, link.target));
            self.lengths.push(0);
        }
        slot
    }

    /// Notes that the chunk of a slot has at least `len` bytes: it comes whole, however little of
    /// it is wanted.
    fn reaches(&mut self, slot: usize, len: u64) {
        if let Some(known) = self.lengths.get_mut(slot)
            && let Some(more) = len.checked_sub(*known)
        {
            *known = len;
            self.bytes = self.bytes.saturating_add(more);
        }
    }
}

type Chunks = Vec<Result<Vec<u8>, String>>;

struct Fetched<T> {
    steps: Vec<Step<T>>,
    chunks: Result<Chunks>,
}

struct Work<T> {
    batch: Batch<T>,
    done: Sender<Fetched<T>>,
}

/// Collects steps; see [`stream`].
pub struct Planner<T> {
    batch: Batch<T>,
    work: Sender<Work<T>>,
    order: Sender<Receiver<Fetched<T>>>,
    last: Option<Link>,
}

/// The caller has ended; the planner's work is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl<T> Planner<T> {
    /// Adds what stands in a run of the image map.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn run(&mut self, located: &LocatedRun) -> Result<(), Stopped> {
        let len = located.run.disk.len();
        match (located.run.content, located.chunk) {
            (Content::Data { offset, .. }, Some(link)) => self.chunk(link, offset, len),
            (Content::Data { .. }, None) => {
                self.missing(len, "the image map names no chunk".into())
            }
            (Content::Zero, _) => self.gap(Gap::Zeros, len),
            (Content::Free | Content::Unreadable | Content::Excluded, _) => {
                self.gap(Gap::NotKept, len)
            }
        }
    }

    fn chunk(&mut self, link: Link, offset: u32, len: ByteLen) -> Result<(), Stopped> {
        // A chunk in several pieces is not worth two requests.
        if self.last != Some(link) {
            self.flush_if_full()?;
        }
        self.last = Some(link);
        let slot = self.batch.slot(&link);
        self.batch.reaches(slot, u64::from(offset).saturating_add(len.0));
        self.batch.steps.push(Step::Chunk { slot, offset, len: len.0 });
        Ok(())
    }

    /// Adds bytes that are known.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn bytes(&mut self, bytes: Vec<u8>) -> Result<(), Stopped> {
        self.push(Step::Bytes(bytes))
    }

    /// Adds bytes that cannot be had.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn missing(&mut self, len: ByteLen, why: String) -> Result<(), Stopped> {
        self.push(Step::Missing(len, why))
    }

    /// Adds bytes whose place in the vault cannot be found out. Where that is no damage but a
    /// vault that does not answer, the whole stream ends with it.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn lost(&mut self, len: ByteLen, error: umbra_common::Error) -> Result<(), Stopped> {
        match damage(error) {
            Ok(why) => self.missing(len, why),
            Err(error) => {
                self.push(Step::Fail(error))?;
                Err(Stopped)
            }
        }
    }

    /// Adds zeros.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn gap(&mut self, gap: Gap, len: ByteLen) -> Result<(), Stopped> {
        if len.0 == 0 { Ok(()) } else { self.push(Step::Gap(gap, len)) }
    }

    /// Adds a mark that the caller gets at this place.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn tag(&mut self, tag: T) -> Result<(), Stopped> {
        self.push(Step::Tag(tag))
    }

    fn push(&mut self, step: Step<T>) -> Result<(), Stopped> {
        self.flush_if_full()?;
        self.batch.steps.push(step);
        Ok(())
    }

    fn flush_if_full(&mut self) -> Result<(), Stopped> {
        let full = self.batch.bytes >= BATCH_BYTES
            || self.batch.slots.len() >= BATCH_CHUNKS
            || self.batch.steps.len() >= BATCH_STEPS;
        if full { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        let batch = std::mem::take(&mut self.batch);
        self.last = None;
        let (done, fetched) = bounded(1);
        // The order is bounded: no more batches are under way than requests.
        self.order.send(fetched).map_err(|_| Stopped)?;
        self.work.send(Work { batch, done }).map_err(|_| Stopped)
    }
}

/// Runs `plan` on a thread of its own and hands `each` what it planned, in order.
///
/// # Errors
/// Those of `each`, of the source, and of the planner other than [`Stopped`]; the first in the
/// order of the steps.
pub fn stream<T: Send>(
    source: &dyn ChunkSource,
    plan: impl FnOnce(&mut Planner<T>) -> Result<(), Stopped> + Send,
    mut each: impl FnMut(Event<'_, T>) -> Result<()>,
) -> Result<()> {
    let (work_tx, work_rx) = bounded::<Work<T>>(REQUESTS);
    let (order_tx, order_rx) = bounded::<Receiver<Fetched<T>>>(REQUESTS);
    std::thread::scope(|scope| {
        let planning = scope.spawn(move || {
            let mut planner =
                Planner { batch: Batch::default(), work: work_tx, order: order_tx, last: None };
            // A planner that stopped itself has put the reason into its last step.
            let _ = plan(&mut planner);
            planner.flush()
        });
        for _ in 0..REQUESTS {
            let work = work_rx.clone();
            scope.spawn(move || {
                for Work { batch, done } in work {
                    let chunks = fetch(source, &batch);
                    // A caller that ended does not want them.
                    let _ = done.send(Fetched { steps: batch.steps, chunks });
                }
            });
        }
        drop(work_rx);
        let mut outcome = Ok(());
        for fetched in &order_rx {
            outcome = match fetched.recv() {
                Ok(fetched) => deliver(fetched, &mut each),
                Err(_) => Err(Error::Internal("a thread that fetches chunks panicked".into())),
            };
            if outcome.is_err() {
                break;
            }
        }
        drop(order_rx);
        match planning.join() {
            Ok(_) => outcome,
            Err(_) => outcome.and(Err(Error::Internal("the planning of a read panicked".into()))),
        }
    })
}

fn fetch<T>(source: &dyn ChunkSource, batch: &Batch<T>) -> Result<Chunks> {
    let left_out = || Err("the vault left it out".to_owned());
    let mut chunks: Chunks = (0..batch.slots.len()).map(|_| left_out()).collect();
    if batch.wanted.is_empty() {
        return Ok(chunks);
    }
    source.chunks(&batch.wanted, &mut |item, number, bytes| {
        let slot = batch.slots.get(&(item, number)).and_then(|slot| chunks.get_mut(*slot));
        if let Some(slot) = slot {
            *slot = bytes;
        }
    })?;
    Ok(chunks)
}

fn deliver<T>(
    fetched: Fetched<T>,
    each: &mut impl FnMut(Event<'_, T>) -> Result<()>,
) -> Result<()> {
    let chunks = fetched.chunks?;
    for step in fetched.steps {
        match step {
            Step::Bytes(bytes) => each(Event::Data(&bytes))?,
            Step::Missing(len, why) => each(Event::Missing(len, &why))?,
            Step::Gap(gap, len) => each(Event::Gap(gap, len))?,
            Step::Tag(tag) => each(Event::Tag(tag))?,
            Step::Fail(error) => return Err(error),
            Step::Chunk { slot, offset, len } => {
                let part = match chunks.get(slot) {
                    Some(Ok(chunk)) => part_of(chunk, offset, len)
                        .ok_or("the image map names bytes that the chunk does not have"),
                    Some(Err(why)) => Err(why.as_str()),
                    None => Err("it was not asked for"),
                };
                match part {
                    Ok(bytes) => each(Event::Data(bytes))?,
                    Err(why) => each(Event::Missing(ByteLen(len), why))?,
                }
            }
        }
    }
    Ok(())
}

fn part_of(chunk: &[u8], offset: u32, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    chunk.get(start..end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use umbra_common::map::Run;
    use umbra_common::{ByteOffset, ByteRange, Kind, ObjectId};

    use super::*;

    /// Chunks of 256 KiB; notes how many each request is for.
    #[derive(Default)]
    struct Large(Mutex<Vec<usize>>);

    impl ChunkSource for Large {
        fn chunks(&self, wanted: &[Wanted], each: &mut EachChunk<'_>) -> Result<()> {
            let mut count = 0;
            for (item, wanted) in wanted.iter().enumerate() {
                for (number, _) in &wanted.objects {
                    each(item, *number, Ok(vec![7; 256 << 10]));
                    count += 1;
                }
            }
            self.0.lock().unwrap().push(count);
            Ok(())
        }
    }

    #[test]
    fn a_request_is_bounded_by_whole_chunks_and_not_by_what_is_wanted_of_them() {
        let node = Reference { kind: Kind::MapPage, id: ObjectId([1; 32]) };
        let located = |number: u32| {
            let chunk = ObjectId::of_chunk(&number.to_le_bytes());
            let start = ByteOffset(u64::from(number) * 512);
            let disk = ByteRange::new(start, ByteLen(512)).unwrap();
            let target = Reference { kind: Kind::Chunk, id: chunk };
            LocatedRun {
                run: Run { disk, content: Content::Data { chunk, offset: 200 << 10 } },
                chunk: Some(Link { parent: node, number, target }),
            }
        };
        let source = Large::default();
        let mut bytes = 0;
        let plan = |planner: &mut Planner<()>| {
            (0..300).try_for_each(|number| planner.run(&located(number)))
        };
        let count = |event: Event<'_, ()>| {
            let Event::Data(data) = event else { panic!("{event:?}") };
            assert_eq!(data, [7; 512]);
            bytes += data.len();
            Ok(())
        };
        stream(&source, plan, count).unwrap();
        assert_eq!(bytes, 300 * 512);
        let requests = source.0.into_inner().unwrap();
        assert_eq!(requests.iter().sum::<usize>(), 300);
        let most = requests.iter().max().copied().unwrap();
        assert!(most * (200 << 10) <= (BATCH_BYTES as usize) + (256 << 10), "{requests:?}");
    }
}
