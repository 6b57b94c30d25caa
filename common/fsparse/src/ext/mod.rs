//! ext2, ext3 and ext4, read only, with the journal replayed in memory.
//!
//! [`Ext::open`] reads the superblock, the journal and the group descriptors; [`Ext::walk`] then
//! gives each inode that has a name, with the byte ranges of the volume that hold its content.
//! Damage costs what it touches: an inode whose content would be wrong is left out with its
//! names, and said so.
//!
//! SOURCE: Linux `fs/ext4/ext4.h` and the files beside it; e2fsprogs `lib/ext2fs`.

mod acl;
mod block_map;
mod blocks;
pub(crate) mod checksum;
mod content;
mod dir;
mod dirhash;
mod extent_tree;
mod features;
mod fields;
mod free;
mod group;
mod inode;
mod mapping;
mod nokey;
mod reader;
mod superblock;
mod time;
mod walk;
mod xattr;
mod zones;

use alloc::vec::Vec;

pub use self::free::FreeSpace;
use self::{
    blocks::{Block, Blocks, Cache},
    group::Groups,
    inode::{FLAG_INLINE, RawInode},
    mapping::Mapping,
    reader::Reader,
    superblock::Superblock,
    zones::Zones,
};
use crate::{
    ByteLen, ByteRange, Error, FileType, ReadAt, Result, Visitor, WalkSummary, Warning,
    jbd2::{self, JournalGeometry, Replay},
};

/// What to do with a journal that holds changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// Read the file system as it is after the journal's recovery.
    Replay,
    /// Read it as it stands, which after a crash or on a live disk is wrong: for tests and
    /// diagnosis only.
    Ignore,
}

/// An ext2, ext3 or ext4 file system on a volume.
pub struct Ext<'a> {
    superblock: Superblock,
    blocks: Blocks<'a>,
    groups: Groups,
    zones: Zones,
    needs_recovery: bool,
    replayed_blocks: usize,
    warnings: Vec<Warning>,
}

impl<'a> Ext<'a> {
    /// Opens the file system that starts at the volume's first byte.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the magic is missing; [`Error::Corrupt`] where the superblock,
    /// or the journal that would have to be replayed, is damaged; [`Error::Unsupported`] for an
    /// unknown incompatible feature or a journal that cannot be replayed; [`Error::Io`].
    pub fn open(volume: &'a dyn ReadAt, journal: Journal) -> Result<Self> {
        let superblock = Superblock::read(volume)?;
        let needs_recovery = superblock.features.has(features::HAS_JOURNAL)
            && superblock.features.has(features::RECOVER);
        let mut ext = Self::with(volume, superblock, &Replay::empty());
        ext.needs_recovery = needs_recovery;
        if !needs_recovery || journal == Journal::Ignore {
            ext.protect_journal();
            return Ok(ext);
        }
        let (replay, warnings) = ext.replay(volume)?;
        let superblock = replayed_superblock(&ext, volume, &replay)?;
        ext = Self::with(volume, superblock, &replay);
        ext.needs_recovery = true;
        ext.replayed_blocks = replay.len();
        ext.warnings.extend(warnings);
        ext.protect_journal();
        Ok(ext)
    }

    /// Returns the name that the user gave the file system, raw bytes, at most 16; empty without.
    pub fn label(&self) -> &[u8] {
        let label = &self.superblock.label;
        label.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Returns its UUID.
    pub fn uuid(&self) -> [u8; 16] {
        self.superblock.uuid
    }

    /// Returns `ext2`, `ext3` or `ext4`, as its features say.
    pub fn kind(&self) -> &'static str {
        self.superblock.features.kind()
    }

    /// Returns the length of a block in bytes.
    pub fn block_size(&self) -> ByteLen {
        ByteLen(u64::from(self.superblock.block_size))
    }

    /// Returns the length of the file system. The volume may be longer, and, cut off, shorter.
    pub fn len(&self) -> ByteLen {
        self.superblock.len()
    }

    /// Tells whether it has no block, which no file system that opens does.
    pub fn is_empty(&self) -> bool {
        self.len().0 == 0
    }

    /// Tells whether the journal held changes when the file system was opened.
    pub fn needs_recovery(&self) -> bool {
        self.needs_recovery
    }

    /// Tells whether it was unmounted by whoever wrote it last, and no errors were found in it:
    /// only then its times are as new as its content.
    pub fn is_clean(&self) -> bool {
        let state = self.superblock.state;
        !self.needs_recovery && state.valid && !state.errors
    }

    /// Returns how many blocks are read from the journal instead of from their place.
    pub fn replayed_blocks(&self) -> usize {
        self.replayed_blocks
    }

    /// Returns what was wrong already when it was opened. [`Ext::walk`] gives the same warnings.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Gives every inode that has a name and every name.
    ///
    /// In a damaged directory two entries may have the same name.
    ///
    /// # Errors
    /// [`Error::Limit`] where the walk would read more than a sound file system of that size
    /// could need; any error of the root directory's own inode. Everything else is a warning.
    pub fn walk(&self, visitor: &mut dyn Visitor) -> Result<WalkSummary> {
        walk::walk(self, visitor)
    }

    fn with(volume: &'a dyn ReadAt, superblock: Superblock, replay: &Replay) -> Self {
        let blocks = Blocks::new(volume, superblock.block_size, superblock.blocks, replay);
        let mut warnings = Vec::new();
        if volume.len() < superblock.len() {
            let error = Error::Corrupt {
                structure: "ext superblock",
                at: superblock::AT,
                reason: "the file system is longer than its volume",
            };
            warnings.push(Warning { inode: None, error });
        }
        let groups = group::read_all(&superblock, &blocks, &mut warnings);
        let zones = Zones::new(&superblock, &groups, blocks.end());
        let (needs_recovery, replayed_blocks) = (false, 0);
        Self { superblock, blocks, groups, zones, needs_recovery, replayed_blocks, warnings }
    }

    /// Keeps files from claiming the journal's blocks.
    fn protect_journal(&mut self) {
        // A journal that cannot be mapped protects no blocks; whoever needs it finds out why.
        if let Ok((_, mapping)) = self.journal() {
            let runs = mapping.runs.iter().map(|run| (run.first, run.count));
            self.zones = core::mem::take(&mut self.zones).with(runs);
        }
    }

    fn reader(&self) -> Reader<'_> {
        Reader::new(&self.superblock, &self.blocks, &self.groups, &self.zones)
    }

    /// Finds the journal's inode and its blocks.
    fn journal(&self) -> Result<(RawInode, Mapping)> {
        let fields = fields::Fields::new("journal inode", superblock::AT, &[]);
        let inside = self.superblock.features.has(features::HAS_JOURNAL);
        if !inside || self.superblock.journal_inode == 0 {
            return Err(fields.unsupported("an external journal"));
        }
        let mut reader = self.reader();
        let inode = reader.inode(self.superblock.journal_inode, &mut Vec::new())?;
        if inode.file_type != FileType::File || inode.has(FLAG_INLINE) {
            return Err(inode.block_map().corrupt("the journal is no file with blocks"));
        }
        let mapping = reader.map(&inode)?;
        Ok((inode, mapping))
    }

    /// Returns the journal's blocks in order.
    fn journal_ranges(&self) -> Result<Vec<ByteRange>> {
        let (inode, mapping) = self.journal()?;
        if let Some(error) = mapping.damage.into_iter().next() {
            return Err(error);
        }
        let block_size = u64::from(self.superblock.block_size);
        let count = inode.size.checked_div(block_size).unwrap_or(0);
        let mut ranges = Vec::new();
        let mut next = 0;
        for run in mapping.runs.iter().filter(|run| run.logical < count) {
            if run.logical != next || run.unwritten {
                break;
            }
            next = run.logical_end().min(count);
            ranges.push(self.blocks.range(run.first, next.saturating_sub(run.logical)));
        }
        match next < count || count == 0 {
            true => Err(inode.block_map().corrupt("the journal has a hole")),
            false => Ok(ranges),
        }
    }

    fn replay(&self, volume: &dyn ReadAt) -> Result<(Replay, Vec<Warning>)> {
        let ranges = self.journal_ranges()?;
        let block_size = self.superblock.block_size;
        let on_volume = volume.len().0.checked_div(u64::from(block_size)).unwrap_or(0);
        let geometry = JournalGeometry {
            block_size,
            // A file system that was made longer while mounted has its new length, and blocks
            // beyond the old one, in the journal alone.
            fs_blocks: self.superblock.blocks.max(on_volume),
            blocks: &ranges,
            fs_uuid: self.superblock.uuid,
        };
        // Not found means "no ext here" to our caller, and here the journal is what is missing.
        jbd2::replay(volume, &geometry).map_err(|error| match error {
            Error::NotFound { structure, at } => {
                Error::Corrupt { structure, at, reason: "the journal is not there" }
            }
            other => other,
        })
    }
}

/// Reads the superblock again: the journal may hold a newer one.
fn replayed_superblock(ext: &Ext<'_>, volume: &dyn ReadAt, replay: &Replay) -> Result<Superblock> {
    let sb = &ext.superblock;
    let structure = "ext superblock";
    let blocks = Blocks::new(volume, sb.block_size, sb.blocks, replay);
    let mut cache = Cache::nodes(sb.block_size);
    let bytes = cache.block(&blocks, Block(sb.own_block()));
    let bytes = bytes.map_err(|source| Error::Io { structure, source })?;
    let skipped = usize::from(sb.block_size > 1024).saturating_mul(superblock::LEN);
    let fields = fields::Fields::new(structure, superblock::AT, bytes);
    let replayed = match Superblock::parse(fields.slice(skipped, superblock::LEN)?) {
        Err(Error::NotFound { .. }) => return Err(fields.corrupt("the journal's copy is none")),
        other => other?,
    };
    if replayed.block_size != sb.block_size {
        return Err(fields.corrupt("the journal changes the block size"));
    }
    Ok(replayed)
}
