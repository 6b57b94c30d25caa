//! The chunk stage: streams become chunks, map runs and content hashes.

use std::collections::{HashMap, VecDeque};

use crossbeam_channel::Sender;
use umbra_common::chunker::{ChunkParams, Chunker, Cut};
use umbra_common::overlay::ContentHash;
use umbra_common::{ByteLen, ByteOffset, ByteRange, ObjectId};

use super::plan::FileItem;
use super::read::{Batch, Segment, Stream};
use crate::error::{Error, Result};
use crate::survey::Survey;

/// Zeros of holes that may be hashed for one file beyond the bytes that it has.
const HOLE_BUDGET_FILE: u64 = 1 << 30;
/// Zeros of holes that may be hashed for all files, in lengths of the device.
const HOLE_BUDGET_DEVICES: u64 = 4;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Ids that the vault has for certain, because the pinned base snapshot refers to them.
pub trait KnownIds: Send + Sync {
    /// Tells whether the base refers to `id`.
    fn contains(&self, id: &ObjectId) -> bool;
}

/// Where the bytes of a new chunk came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The content of a file.
    File,
    /// Bytes of no file.
    Residue,
}

/// A chunk that this run has not met before and the base does not have.
#[derive(Debug)]
pub struct NewChunk {
    /// Its name.
    pub id: ObjectId,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where they came from.
    pub origin: Origin,
}

/// What a range of the disk holds, as the map will say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunContent {
    /// Bytes of a chunk: position in [`ChunkSummary::ids`], offset in the chunk.
    Chunk {
        /// Position in the table of ids.
        index: u32,
        /// First byte in the chunk.
        offset: u32,
    },
    /// Zeros.
    Zero,
    /// Nothing: free space that is not kept.
    Free,
    /// The device did not give them.
    Unreadable,
}

/// A run of the image map before it is sorted.
#[derive(Clone, Copy, Debug)]
pub struct MapRun {
    /// First byte on the disk.
    pub disk: u64,
    /// Bytes.
    pub len: u64,
    /// What they are.
    pub content: RunContent,
}

/// What the chunk stage found out.
#[derive(Debug, Default)]
pub struct ChunkSummary {
    /// Ids of all chunks of the disk, each once.
    pub ids: Vec<ObjectId>,
    /// Every byte of the disk exactly once, in the order of reading.
    pub runs: Vec<MapRun>,
    /// Content hashes of the files of the plan.
    pub contents: HashMap<FileItem, ContentHash>,
    /// Bytes of file content that stand on the disk.
    pub bytes_files: u64,
}

struct Sink<'a> {
    known: &'a dyn KnownIds,
    out: Sender<Vec<NewChunk>>,
    /// New chunks of the batch that is being worked through.
    new: Vec<NewChunk>,
    table: HashMap<ObjectId, u32>,
    summary: ChunkSummary,
    origin: Origin,
    backing: VecDeque<Backing>,
    last_chunk: Option<(ObjectId, u64)>,
    cuts: u64,
    failure: Option<Error>,
}

/// A piece of the current stream: its position there, and the disk bytes behind it.
struct Backing {
    at: u64,
    len: u64,
    disk: Option<u64>,
}

/// The chunk stage.
pub struct ChunkStage<'a> {
    survey: &'a Survey,
    sink: Sink<'a>,
    parsed: Chunker,
    unparsed: Chunker,
    stream: Option<Stream>,
    pushed: u64,
    hash: FileHash,
    hole_budget: u64,
}

enum FileHash {
    None,
    /// The whole content is one chunk: its id is the hash.
    FromChunk,
    Running {
        hasher: Box<blake3::Hasher>,
        holes_left: u64,
    },
    Absent(ContentHash),
}

impl<'a> ChunkStage<'a> {
    /// Makes a chunk stage that hands chunks which `known` lacks to `out`.
    pub fn new(
        survey: &'a Survey,
        known: &'a dyn KnownIds,
        device_len: ByteLen,
        out: Sender<Vec<NewChunk>>,
    ) -> Self {
        let sink = Sink {
            known,
            out,
            new: Vec::new(),
            table: HashMap::new(),
            summary: ChunkSummary::default(),
            origin: Origin::Residue,
            backing: VecDeque::new(),
            last_chunk: None,
            cuts: 0,
            failure: None,
        };
        Self {
            survey,
            sink,
            parsed: Chunker::new(ChunkParams::PARSED),
            unparsed: Chunker::new(ChunkParams::UNPARSED),
            stream: None,
            pushed: 0,
            hash: FileHash::None,
            hole_budget: device_len.0.saturating_mul(HOLE_BUDGET_DEVICES),
        }
    }

    /// Takes over what the base snapshot has, before the first batch: `runs` of the chunks `ids`,
    /// each once. None of these chunks goes any further.
    pub(super) fn adopt(&mut self, ids: Vec<ObjectId>, runs: Vec<MapRun>) {
        self.sink.table = ids.iter().copied().zip(0..).collect();
        self.sink.summary = ChunkSummary { ids, runs, ..ChunkSummary::default() };
    }

    /// Returns what was found so far.
    pub(super) fn found(&self) -> &ChunkSummary {
        &self.sink.summary
    }

    /// Works through one batch.
    ///
    /// # Errors
    /// [`Error::Internal`] where the next stage has ended.
    pub fn batch(&mut self, batch: &Batch) -> Result<()> {
        for segment in &batch.segments {
            match segment {
                Segment::Begin(stream) => self.begin(*stream),
                Segment::Bytes { at, disk, position } => {
                    let bytes = batch.buffer.get(at.clone()).unwrap_or_default();
                    self.bytes(bytes, *disk, *position);
                }
                Segment::Zeros { disk, len, position } => self.zeros(*disk, *len, *position),
                Segment::Unreadable { disk } => self.unreadable(*disk),
                Segment::LostSlack { disk } => self.run(*disk, RunContent::Unreadable),
                Segment::ZeroSlack { disk } => self.run(*disk, RunContent::Zero),
                Segment::Free { disk } => self.run(*disk, RunContent::Free),
                Segment::End => self.end(),
            }
            if let Some(failure) = self.sink.failure.take() {
                return Err(failure);
            }
        }
        self.sink.hand_on()
    }

    /// Ends the stage.
    pub fn finish(self) -> ChunkSummary {
        self.sink.summary
    }

    fn run(&mut self, disk: ByteRange, content: RunContent) {
        let run = MapRun { disk: disk.start().0, len: disk.len().0, content };
        self.sink.summary.runs.push(run);
    }

    fn begin(&mut self, stream: Stream) {
        self.stream = Some(stream);
        self.pushed = 0;
        self.sink.cuts = 0;
        self.sink.last_chunk = None;
        self.sink.backing.clear();
        self.sink.origin = Origin::Residue;
        self.hash = FileHash::None;
        if let Stream::File(item) = stream {
            self.sink.origin = Origin::File;
            let (size, data) = self.sizes(item);
            let [min, _, _] = ChunkParams::PARSED.sizes();
            self.hash = if size <= u64::from(min) {
                FileHash::FromChunk
            } else {
                let holes_left = data.saturating_add(HOLE_BUDGET_FILE).min(self.hole_budget);
                FileHash::Running { hasher: Box::default(), holes_left }
            };
        }
    }

    /// Returns a file's size and how many bytes its extents have.
    fn sizes(&self, item: FileItem) -> (u64, u64) {
        let volume = self.survey.volumes.get(item.volume as usize);
        let inodes = volume.and_then(|volume| volume.tree.as_ref()).map(|tree| tree.inodes());
        let inode = inodes.and_then(|inodes| inodes.get(item.inode as usize));
        inode.map_or((0, 0), |inode| {
            let data = inode.extents.iter().map(|extent| extent.volume.len().0).sum();
            (inode.size.0, data)
        })
    }

    fn place(&mut self, len: u64, disk: Option<u64>) {
        self.sink.backing.push_back(Backing { at: self.pushed, len, disk });
        self.pushed += len;
    }

    fn bytes(&mut self, bytes: &[u8], disk: ByteOffset, position: u64) {
        let len = bytes.len() as u64;
        self.place(len, Some(disk.0));
        if self.sink.origin == Origin::File {
            self.sink.summary.bytes_files += len;
        }
        if let FileHash::Running { hasher, .. } = &mut self.hash {
            hasher.update(bytes);
        }
        let (chunker, sink) = self.chunker();
        chunker.push(ByteOffset(position), bytes, &mut |cut| sink.cut(cut));
    }

    fn zeros(&mut self, disk: Option<ByteOffset>, len: ByteLen, position: u64) {
        self.place(len.0, disk.map(|disk| disk.0));
        self.hash_zeros(len.0);
        let (chunker, sink) = self.chunker();
        chunker.push_zeros(ByteOffset(position), len, &mut |cut| sink.cut(cut));
    }

    fn hash_zeros(&mut self, len: u64) {
        let FileHash::Running { hasher, holes_left } = &mut self.hash else { return };
        if len > *holes_left {
            self.hash = FileHash::Absent(ContentHash::HoleBudget);
            return;
        }
        *holes_left -= len;
        self.hole_budget = self.hole_budget.saturating_sub(len);
        let mut left = len;
        while left > 0 {
            let take = left.min(ZEROS.len() as u64);
            hasher.update(ZEROS.get(..take as usize).unwrap_or_default());
            left -= take;
        }
    }

    /// Ends the chunk before bytes that nobody could read; what follows starts a new one.
    fn unreadable(&mut self, disk: ByteRange) {
        let (chunker, sink) = self.chunker();
        chunker.finish(&mut |cut| sink.cut(cut));
        self.sink.backing.clear();
        self.pushed = 0;
        self.run(disk, RunContent::Unreadable);
        if !matches!(self.hash, FileHash::None) {
            self.hash = FileHash::Absent(ContentHash::Unreadable);
        }
    }

    fn end(&mut self) {
        let (chunker, sink) = self.chunker();
        chunker.finish(&mut |cut| sink.cut(cut));
        let Some(Stream::File(item)) = self.stream.take() else { return };
        let hash = match std::mem::replace(&mut self.hash, FileHash::None) {
            FileHash::None => return,
            FileHash::Absent(reason) => reason,
            FileHash::Running { hasher, .. } => ContentHash::Blake3(*hasher.finalize().as_bytes()),
            FileHash::FromChunk => match self.sink.last_chunk {
                Some((id, len)) if self.sink.cuts == 1 && len == self.pushed => {
                    ContentHash::Blake3(id.0)
                }
                _ => {
                    self.sink.failure = Some(Error::Internal("a small file has two chunks".into()));
                    return;
                }
            },
        };
        self.sink.summary.contents.insert(item, hash);
    }

    fn chunker(&mut self) -> (&mut Chunker, &mut Sink<'a>) {
        match self.stream {
            Some(Stream::Unparsed) => (&mut self.unparsed, &mut self.sink),
            _ => (&mut self.parsed, &mut self.sink),
        }
    }
}

impl Sink<'_> {
    fn cut(&mut self, cut: Cut<'_>) {
        self.cuts += 1;
        match cut {
            Cut::Data { at, bytes } => {
                let id = ObjectId::of_chunk(bytes);
                self.last_chunk = Some((id, bytes.len() as u64));
                let index = self.index_of(id, bytes);
                self.map(at.0, bytes.len() as u64, |offset| RunContent::Chunk {
                    index,
                    offset: u32::try_from(offset).unwrap_or(u32::MAX),
                });
            }
            Cut::Zero { at, len } => self.map(at.0, len.0, |_| RunContent::Zero),
        }
    }

    /// Gives the new chunks of one batch to the next stage.
    fn hand_on(&mut self) -> Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        let sent = self.out.send(std::mem::take(&mut self.new));
        sent.map_err(|_| Error::Internal("the upload stage has ended".into()))
    }

    fn index_of(&mut self, id: ObjectId, bytes: &[u8]) -> u32 {
        if let Some(&index) = self.table.get(&id) {
            return index;
        }
        let Ok(index) = u32::try_from(self.summary.ids.len()) else {
            self.failure = Some(Error::Internal("more than 2^32 chunks on one disk".into()));
            return 0;
        };
        self.table.insert(id, index);
        self.summary.ids.push(id);
        if !self.known.contains(&id) {
            self.new.push(NewChunk { id, bytes: bytes.to_vec(), origin: self.origin });
        }
        index
    }

    /// Gives the disk bytes behind `len` bytes of the stream from `at` on their place in the map.
    fn map(&mut self, at: u64, len: u64, content: impl Fn(u64) -> RunContent) {
        let mut done = 0;
        while done < len {
            let Some(front) = self.backing.front_mut() else {
                self.failure = Some(Error::Internal("a chunk without bytes behind it".into()));
                return;
            };
            let take = front.len.min(len - done);
            if front.at != at + done || take == 0 {
                self.failure =
                    Some(Error::Internal("chunks and disk bytes are out of step".into()));
                return;
            }
            if let Some(disk) = front.disk {
                self.summary.runs.push(MapRun { disk, len: take, content: content(done) });
                front.disk = Some(disk + take);
            }
            front.at += take;
            front.len -= take;
            done += take;
            if front.len == 0 {
                self.backing.pop_front();
            }
        }
    }
}
