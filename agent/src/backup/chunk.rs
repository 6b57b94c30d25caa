//! The stage that names chunks: they become ids, map runs and content hashes.

use std::collections::{HashMap, VecDeque};

use crossbeam_channel::Sender;
use umbra_common::overlay::ContentHash;
use umbra_common::{ByteLen, ByteRange, ObjectId};

use super::batch::Stream;
use super::cut::{Bytes, CutBatch, Step};
use super::ids::Ids;
use super::plan::FileItem;
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

/// What the naming stage found out.
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

/// The stage that names chunks.
pub struct NameStage<'a> {
    survey: &'a Survey,
    known: &'a dyn KnownIds,
    out: Sender<Vec<NewChunk>>,
    /// New chunks of the batch that is being worked through.
    new: Vec<NewChunk>,
    ids: Ids,
    summary: ChunkSummary,
    stream: Option<Stream>,
    /// Bytes of the current stream so far, since the last unreadable place.
    pushed: u64,
    backing: VecDeque<Backing>,
    hash: FileHash,
    hole_budget: u64,
}

/// A piece of the current stream: its position there, and the disk bytes behind it.
struct Backing {
    at: u64,
    len: u64,
    disk: Option<u64>,
}

/// The hash of the current file's content.
enum FileHash {
    /// It has none: this is no file.
    None,
    /// Nothing of it was hashed yet.
    Begun {
        size: u64,
        holes_left: u64,
    },
    /// All of it is one chunk, whose id is the hash.
    Whole(ObjectId),
    Running {
        hasher: Box<blake3::Hasher>,
        holes_left: u64,
    },
    Absent(ContentHash),
}

impl<'a> NameStage<'a> {
    /// Makes a stage that hands chunks which `known` lacks to `out`.
    pub fn new(
        survey: &'a Survey,
        known: &'a dyn KnownIds,
        device_len: ByteLen,
        out: Sender<Vec<NewChunk>>,
    ) -> Self {
        Self {
            survey,
            known,
            out,
            new: Vec::new(),
            ids: Ids::default(),
            summary: ChunkSummary::default(),
            stream: None,
            pushed: 0,
            backing: VecDeque::new(),
            hash: FileHash::None,
            hole_budget: device_len.0.saturating_mul(HOLE_BUDGET_DEVICES),
        }
    }

    /// Takes over what the base snapshot has, before the first batch: `runs` of the chunks `ids`,
    /// each once. None of these chunks goes any further.
    ///
    /// # Errors
    /// [`Error::Internal`] where there are too many.
    pub(super) fn adopt(&mut self, ids: Vec<ObjectId>, runs: Vec<MapRun>) -> Result<()> {
        self.ids = Ids::of(ids)?;
        self.summary = ChunkSummary { runs, ..ChunkSummary::default() };
        Ok(())
    }

    /// Returns the runs found so far.
    pub(super) fn runs(&self) -> &[MapRun] {
        &self.summary.runs
    }

    /// Works through one batch and returns its buffer.
    ///
    /// # Errors
    /// [`Error::Internal`] where the next stage has ended.
    pub(super) fn batch(&mut self, batch: CutBatch) -> Result<Vec<u8>> {
        for step in batch.steps {
            match step {
                Step::Begin(stream) => self.begin(stream),
                Step::Backing { len, disk, is_hole } => self.place(len, disk, is_hole),
                Step::Data { at, bytes } => self.data(at, bytes, &batch.buffer)?,
                Step::Zero { at, len } => {
                    self.hash_zeros(len);
                    self.map(at, len, |_| RunContent::Zero)?;
                }
                Step::Unreadable(disk) => self.unreadable(disk),
                Step::LostSlack(disk) => self.run(disk, RunContent::Unreadable),
                Step::ZeroSlack(disk) => self.run(disk, RunContent::Zero),
                Step::Free(disk) => self.run(disk, RunContent::Free),
                Step::End => self.end()?,
            }
        }
        self.hand_on()?;
        Ok(batch.buffer)
    }

    /// Ends the stage.
    pub fn finish(self) -> ChunkSummary {
        ChunkSummary { ids: self.ids.into_ids(), ..self.summary }
    }

    fn run(&mut self, disk: ByteRange, content: RunContent) {
        let run = MapRun { disk: disk.start().0, len: disk.len().0, content };
        self.summary.runs.push(run);
    }

    fn begin(&mut self, stream: Stream) {
        self.stream = Some(stream);
        self.pushed = 0;
        self.backing.clear();
        self.hash = FileHash::None;
        if let Stream::File(item) = stream {
            let (size, data) = self.sizes(item);
            let holes_left = data.saturating_add(HOLE_BUDGET_FILE).min(self.hole_budget);
            self.hash = FileHash::Begun { size, holes_left };
        }
    }

    /// Returns a file's size and how many bytes its extents have.
    fn sizes(&self, item: FileItem) -> (u64, u64) {
        item.find(self.survey).map_or((0, 0), |(inode, _)| {
            let data = inode.extents.iter().map(|extent| extent.volume.len().0).sum();
            (inode.size.0, data)
        })
    }

    fn place(&mut self, len: u64, disk: Option<u64>, is_hole: bool) {
        self.backing.push_back(Backing { at: self.pushed, len, disk });
        self.pushed += len;
        if is_hole {
            self.allow_zeros(len);
        } else if matches!(self.stream, Some(Stream::File(_))) {
            self.summary.bytes_files += len;
        }
    }

    /// Takes zeros that nobody read off the budget for hashing them.
    fn allow_zeros(&mut self, len: u64) {
        let (FileHash::Begun { holes_left, .. } | FileHash::Running { holes_left, .. }) =
            &mut self.hash
        else {
            return;
        };
        match holes_left.checked_sub(len) {
            Some(left) => {
                *holes_left = left;
                self.hole_budget = self.hole_budget.saturating_sub(len);
            }
            None => self.hash = FileHash::Absent(ContentHash::HoleBudget),
        }
    }

    /// Names a chunk of the current stream.
    fn data(&mut self, at: u64, bytes: Bytes, buffer: &[u8]) -> Result<()> {
        let content = match &bytes {
            Bytes::Buffer(place) => buffer.get(place.clone()).unwrap_or_default(),
            Bytes::Own(bytes) => bytes,
        };
        let (id, len) = (ObjectId::of_chunk(content), content.len() as u64);
        self.hash_data(id, content);
        let (index, is_new) = self.ids.number(id)?;
        if is_new && !self.known.contains(&id) {
            let bytes = match bytes {
                Bytes::Buffer(_) => content.to_vec(),
                Bytes::Own(bytes) => bytes,
            };
            self.new.push(NewChunk { id, bytes, origin: self.origin() });
        }
        self.map(at, len, |offset| RunContent::Chunk {
            index,
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
        })
    }

    fn origin(&self) -> Origin {
        match self.stream {
            Some(Stream::File(_)) => Origin::File,
            _ => Origin::Residue,
        }
    }

    /// Adds a chunk to the hash of the file, while its bytes are in the processor's caches.
    fn hash_data(&mut self, id: ObjectId, bytes: &[u8]) {
        if matches!(self.hash, FileHash::Begun { size, .. } if size == bytes.len() as u64) {
            self.hash = FileHash::Whole(id);
        } else if let Some(hasher) = self.hasher() {
            hasher.update(bytes);
        }
    }

    fn hash_zeros(&mut self, len: u64) {
        let Some(hasher) = self.hasher() else { return };
        let mut left = len;
        while left > 0 {
            let take = left.min(ZEROS.len() as u64);
            hasher.update(ZEROS.get(..take as usize).unwrap_or_default());
            left -= take;
        }
    }

    /// Returns the hasher of the current file, which has begun then.
    fn hasher(&mut self) -> Option<&mut blake3::Hasher> {
        if let FileHash::Begun { holes_left, .. } = self.hash {
            self.hash = FileHash::Running { hasher: Box::default(), holes_left };
        }
        match &mut self.hash {
            FileHash::Running { hasher, .. } => Some(hasher),
            _ => None,
        }
    }

    /// Goes on behind bytes that nobody could read.
    fn unreadable(&mut self, disk: ByteRange) {
        self.backing.clear();
        self.pushed = 0;
        self.run(disk, RunContent::Unreadable);
        if !matches!(self.hash, FileHash::None) {
            self.hash = FileHash::Absent(ContentHash::Unreadable);
        }
    }

    fn end(&mut self) -> Result<()> {
        let Some(Stream::File(item)) = self.stream.take() else { return Ok(()) };
        let hash = match std::mem::replace(&mut self.hash, FileHash::None) {
            FileHash::None => return Ok(()),
            FileHash::Absent(reason) => reason,
            // Extents that do not add up to the size: a hash of other bytes than a reader gets.
            _ if self.sizes(item).0 != self.pushed => ContentHash::Damaged,
            FileHash::Begun { .. } => ContentHash::Blake3(*blake3::hash(&[]).as_bytes()),
            FileHash::Whole(id) => ContentHash::Blake3(id.0),
            FileHash::Running { hasher, .. } => ContentHash::Blake3(*hasher.finalize().as_bytes()),
        };
        self.summary.contents.insert(item, hash);
        Ok(())
    }

    /// Gives the new chunks of one batch to the next stage.
    fn hand_on(&mut self) -> Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        let sent = self.out.send(std::mem::take(&mut self.new));
        sent.map_err(|_| Error::Internal("the upload stage has ended".into()))
    }

    /// Gives the disk bytes behind `len` bytes of the stream from `at` on their place in the map.
    fn map(&mut self, at: u64, len: u64, content: impl Fn(u64) -> RunContent) -> Result<()> {
        let mut done = 0;
        while done < len {
            let Some(front) = self.backing.front_mut() else {
                return Err(Error::Internal("a chunk without bytes behind it".into()));
            };
            let take = front.len.min(len - done);
            if front.at != at + done || take == 0 {
                return Err(Error::Internal("chunks and disk bytes are out of step".into()));
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
        Ok(())
    }
}
