//! The content of files, read through the image map.
//!
//! A file's extents are ranges of the disk; the map says which chunks hold them. The content is
//! proven by the file's own hash, which was made when the disk was read and not from the map.

use umbra_common::map::MapReader;
use umbra_common::node::NodeSource;
use umbra_common::overlay::{Entry, Extent};
use umbra_common::{ByteLen, ByteOffset, ByteRange};
use umbra_fsparse::{Codec, ExtentKind};

use crate::backup;
use crate::catalog::Snapshot;
use crate::error::Result;
use crate::fetch::{self, ChunkSource, Event, Gap, Planner, Stopped};

/// Bytes of a block's start that a journal's copy may have escaped.
const ESCAPED_BYTES: u64 = 4;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A piece of a file's content; pieces come in order and cover it.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// Zeros, and why they are zeros.
    Zeros(Gap, ByteLen),
}

/// How the reading of a file ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileEnd {
    /// True where the content hashes to what the snapshot says.
    pub proven: bool,
    /// Bytes that the backup could not read or left out; they came as zeros.
    pub not_kept: u64,
    /// What is wrong, where the content could not be had or is not what it should be. Pieces stop
    /// where bytes are missing.
    pub damage: Option<String>,
}

/// Takes the content of files, one after the other.
pub trait ContentSink {
    /// Takes a piece of file number `file`.
    ///
    /// # Errors
    /// Whatever shall end the whole reading.
    fn piece(&mut self, file: usize, piece: Piece<'_>) -> Result<()>;

    /// Takes the end of file number `file`; an empty one has no pieces before it.
    ///
    /// # Errors
    /// Whatever shall end the whole reading.
    fn end(&mut self, file: usize, end: FileEnd) -> Result<()>;
}

/// Reads file contents of one snapshot.
#[derive(Clone, Copy)]
pub struct ContentReader<'s> {
    /// The image map.
    pub map: MapReader<'s>,
    /// Length of the disk.
    pub disk_len: ByteLen,
    /// Where nodes come from.
    pub nodes: &'s dyn NodeSource,
    /// Where chunks come from.
    pub chunks: &'s dyn ChunkSource,
}

impl<'s> ContentReader<'s> {
    /// Reads from `snapshot`.
    ///
    /// # Errors
    /// As [`Snapshot::map_link`].
    pub fn new(
        snapshot: &Snapshot,
        nodes: &'s dyn NodeSource,
        chunks: &'s dyn ChunkSource,
    ) -> Result<Self> {
        let disk_len = snapshot.manifest.disk.length;
        let map = MapReader::new(nodes, snapshot.map_link()?, disk_len);
        Ok(Self { map, disk_len, nodes, chunks })
    }
}

/// What stands between the pieces of two files.
enum Tag {
    Begin { file: usize, hash: Option<[u8; 32]> },
    End,
}

impl ContentReader<'_> {
    /// Reads the content of regular files in the order given; `sink` gets their positions.
    ///
    /// # Errors
    /// Those of `sink`, and [`crate::Error::Vault`]. Damage of one file is no error here.
    pub fn read_files(&self, files: &[&Entry], sink: &mut dyn ContentSink) -> Result<()> {
        let plan = |planner: &mut Planner<Tag>| {
            for (file, entry) in files.iter().enumerate() {
                let hash = entry.record.content.blake3();
                planner.tag(Tag::Begin { file, hash })?;
                self.plan_file(entry, planner)?;
                planner.tag(Tag::End)?;
            }
            Ok(())
        };
        let mut current: Option<Current> = None;
        fetch::stream(self.chunks, plan, |event| {
            match event {
                Event::Tag(Tag::Begin { file, hash }) => current = Some(Current::new(file, hash)),
                Event::Tag(Tag::End) => {
                    if let Some(current) = current.take() {
                        sink.end(current.file, current.finish())?;
                    }
                }
                Event::Data(bytes) => {
                    if let Some(current) = current.as_mut().filter(|c| c.end.damage.is_none()) {
                        current.data(bytes);
                        sink.piece(current.file, Piece::Data(bytes))?;
                    }
                }
                Event::Gap(gap, len) => {
                    if let Some(current) = current.as_mut().filter(|c| c.end.damage.is_none()) {
                        current.zeros(gap, len);
                        sink.piece(current.file, Piece::Zeros(gap, len))?;
                    }
                }
                Event::Missing(len, why) => {
                    if let Some(current) = current.as_mut() {
                        current.missing(len, why);
                    }
                }
            }
            Ok(())
        })
    }

    /// Reads one regular file.
    ///
    /// # Errors
    /// Those of `each`, and [`crate::Error::Vault`].
    pub fn read_file(
        &self,
        entry: &Entry,
        each: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<FileEnd> {
        struct One<'f> {
            each: &'f mut dyn FnMut(Piece<'_>) -> Result<()>,
            end: FileEnd,
        }
        impl ContentSink for One<'_> {
            fn piece(&mut self, _: usize, piece: Piece<'_>) -> Result<()> {
                (self.each)(piece)
            }
            fn end(&mut self, _: usize, end: FileEnd) -> Result<()> {
                self.end = end;
                Ok(())
            }
        }
        let mut one = One { each, end: FileEnd::default() };
        self.read_files(&[entry], &mut one)?;
        Ok(one.end)
    }

    fn plan_file(&self, entry: &Entry, planner: &mut Planner<Tag>) -> Result<(), Stopped> {
        let size = entry.record.size.0;
        let mut at = 0_u64;
        let extents = match entry.extents(self.nodes, ByteOffset(0)) {
            Ok(extents) => extents,
            Err(error) => return planner.lost(entry.record.size, error),
        };
        for extent in extents {
            let extent = match extent {
                Ok(extent) => extent,
                Err(lost) => {
                    let rest = ByteLen(size.saturating_sub(at));
                    return planner.lost(rest, lost.error);
                }
            };
            let content = extent.content();
            if content.start().0 >= size {
                break;
            }
            // Extents are sorted and do not overlap: the overlay's reader refuses others.
            let hole = content.start().0.saturating_sub(at);
            planner.gap(Gap::Hole, ByteLen(hole))?;
            let end = content.end().0.min(size);
            let len = ByteLen(end.saturating_sub(content.start().0));
            self.plan_extent(&extent, len, planner)?;
            at = end;
        }
        planner.gap(Gap::Hole, ByteLen(size.saturating_sub(at)))
    }

    /// Plans the first `len` bytes of what an extent holds.
    fn plan_extent(
        &self,
        extent: &Extent,
        len: ByteLen,
        planner: &mut Planner<Tag>,
    ) -> Result<(), Stopped> {
        if extent.kind == ExtentKind::Unwritten {
            return planner.gap(Gap::Unwritten, len);
        }
        match extent.codec {
            Codec::None => self.plan_disk(extent.disk.start(), len, planner),
            Codec::Jbd2Escaped => {
                // The decoded bytes are the disk's but for the first ones.
                let part = extent.part.unwrap_or_default().start().0;
                let mut start = [0_u8; 4];
                backup::decode(extent.codec, &mut start);
                let escaped = ESCAPED_BYTES.saturating_sub(part).min(len.0);
                let from = usize::try_from(part.min(ESCAPED_BYTES)).unwrap_or_default();
                let until = from.saturating_add(usize::try_from(escaped).unwrap_or_default());
                planner.bytes(start.get(from..until).unwrap_or_default().to_vec())?;
                let disk = extent.disk.start().checked_add(ByteLen(part + escaped));
                let rest = ByteLen(len.0 - escaped);
                match disk {
                    Some(disk) => self.plan_disk(disk, rest, planner),
                    None => planner.missing(rest, "an extent ends past 2^64".into()),
                }
            }
            other => {
                let why = format!("its compression ({other:?}) is not read by this version");
                planner.missing(len, why)
            }
        }
    }

    fn plan_disk(
        &self,
        start: ByteOffset,
        len: ByteLen,
        planner: &mut Planner<Tag>,
    ) -> Result<(), Stopped> {
        let range = ByteRange::new(start, len).unwrap_or_default();
        let mut at = start.0;
        for run in self.map.runs(range) {
            match run {
                Ok(run) => {
                    at = run.run.disk.end().0;
                    planner.run(&run)?;
                }
                Err(lost) => {
                    at = lost.range.end().0;
                    planner.lost(lost.range.len(), lost.error)?;
                }
            }
        }
        let end = start.0.saturating_add(len.0);
        match end.saturating_sub(at) {
            0 => Ok(()),
            rest => planner.missing(ByteLen(rest), "an extent lies beyond the disk".into()),
        }
    }
}

/// The file whose pieces come now.
struct Current {
    file: usize,
    at: u64,
    hasher: blake3::Hasher,
    hash: Option<[u8; 32]>,
    end: FileEnd,
}

impl Current {
    fn new(file: usize, hash: Option<[u8; 32]>) -> Self {
        Self { file, at: 0, hasher: blake3::Hasher::new(), hash, end: FileEnd::default() }
    }

    fn data(&mut self, bytes: &[u8]) {
        self.at = self.at.saturating_add(bytes.len() as u64);
        if self.hash.is_some() {
            self.hasher.update(bytes);
        }
    }

    fn zeros(&mut self, gap: Gap, len: ByteLen) {
        self.at = self.at.saturating_add(len.0);
        if gap == Gap::NotKept {
            self.end.not_kept = self.end.not_kept.saturating_add(len.0);
        }
        // A file with a hash has holes within the budget that its hashing had.
        let mut left = if self.hash.is_some() { len.0 } else { 0 };
        while left > 0 {
            let zeros = part(&ZEROS, left);
            self.hasher.update(zeros);
            left = left.saturating_sub(zeros.len() as u64);
        }
    }

    fn missing(&mut self, len: ByteLen, why: &str) {
        let (from, until) = (self.at, self.at.saturating_add(len.0));
        self.end.damage.get_or_insert_with(|| format!("bytes {from}..{until}: {why}"));
    }

    fn finish(mut self) -> FileEnd {
        let Some(hash) = self.hash.filter(|_| self.end.damage.is_none()) else { return self.end };
        let found = self.hasher.finalize();
        // Constant time is of no use here, but this is the comparison that blake3 offers.
        self.end.proven = found == hash;
        if !self.end.proven {
            let expected = blake3::Hash::from(hash);
            let text = format!("its content hashes to {found}, and was {expected} when backed up");
            self.end.damage = Some(text);
        }
        self.end
    }
}

/// Returns the first `len` bytes, or all where there are fewer.
fn part(bytes: &[u8], len: u64) -> &[u8] {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
    bytes.get(..len).unwrap_or_default()
}

/// Calls `each` with zeros, `len` bytes in all.
///
/// # Errors
/// Those of `each`.
pub fn for_zeros<E>(len: ByteLen, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut left = len.0;
    while left > 0 {
        let zeros = part(&ZEROS, left);
        each(zeros)?;
        left = left.saturating_sub(zeros.len() as u64);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
