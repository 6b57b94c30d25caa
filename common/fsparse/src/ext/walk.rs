//! The walk: from the root through all directories.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{
    Ext, content,
    dir::{Entries, Rules},
    features,
    fields::{Fields, byte_len},
    inode::{FLAG_CASEFOLD, FLAG_EA_INODE, FLAG_ENCRYPT, FLAG_INDEX, FLAG_INLINE, RawInode},
    mapping::Run,
    nokey::Names,
    reader::Reader,
    xattr,
};
use crate::{Error, ExtentKind, FileType, InodeNumber, Result, Visitor, WalkSummary, Warning};

const ROOT: u32 = 2;
/// Names of a directory that are held at once: their inodes are read in order of numbers.
const BATCH: usize = 16384;
/// Where the first block of a hash tree says which hash it has (`struct dx_root_info`).
const HASH_VERSION_AT: usize = 28;

/// Walks the whole tree.
///
/// # Errors
/// `Limit`; any error of the root's inode.
pub(super) fn walk(ext: &Ext<'_>, visitor: &mut dyn Visitor) -> Result<WalkSummary> {
    let mut walker = Walker {
        reader: ext.reader(),
        visitor,
        complete: true,
        given: InodeSet::default(),
        directories: InodeSet::default(),
        refused: InodeSet::default(),
        pending: Vec::new(),
        batch: Batch::default(),
        scratch: Vec::new(),
    };
    for warning in ext.warnings() {
        walker.warn(warning.inode, warning.error.clone());
    }
    let root = walker.load(ROOT)?;
    if root.file_type != FileType::Dir {
        let reason = "the root is not a directory";
        let at = super::superblock::AT;
        return Err(Error::Corrupt { structure: "inode", at, reason });
    }
    walker.give(ROOT, root);
    while let Some(directory) = walker.pending.pop() {
        match walker.directory(directory) {
            Err(error @ Error::Limit { .. }) => return Err(error),
            Err(error) => walker.warn(Some(id(directory)), error),
            Ok(()) => {}
        }
    }
    Ok(WalkSummary { root: id(ROOT), complete: walker.complete })
}

fn id(number: u32) -> InodeNumber {
    InodeNumber(u64::from(number))
}

struct Walker<'e, 'v> {
    reader: Reader<'e>,
    visitor: &'v mut dyn Visitor,
    complete: bool,
    /// Inodes that the visitor has.
    given: InodeSet,
    /// Those of them that are directories: no second name may lead there.
    directories: InodeSet,
    /// Inodes that cannot be given.
    refused: InodeSet,
    pending: Vec<u32>,
    batch: Batch,
    scratch: Vec<u8>,
}

/// Names of one directory.
#[derive(Default)]
struct Batch {
    entries: Vec<Named>,
    names: Vec<u8>,
}

struct Named {
    inode: u32,
    start: usize,
    end: usize,
}

impl Walker<'_, '_> {
    fn warn(&mut self, inode: Option<InodeNumber>, error: Error) {
        self.complete = false;
        self.visitor.warning(Warning { inode, error });
    }

    /// Reads an inode with all that belongs to it.
    fn load(&mut self, number: u32) -> Result<crate::Inode> {
        let mut bytes = core::mem::take(&mut self.scratch);
        let loaded = self.load_with(number, &mut bytes);
        self.scratch = bytes;
        self.tell_used();
        loaded
    }

    /// Tells which blocks the last thing read uses.
    fn tell_used(&mut self) {
        for (first, count) in core::mem::take(&mut self.reader.used) {
            self.visitor.used(self.reader.blocks.range(first, count));
        }
    }

    fn load_with(&mut self, number: u32, bytes: &mut Vec<u8>) -> Result<crate::Inode> {
        let raw = self.reader.inode(number, bytes)?;
        if raw.has(FLAG_EA_INODE) {
            return Err(raw.block_map().corrupt("it holds an attribute's value and has a name"));
        }
        let attributes = xattr::read(&mut self.reader, &raw, bytes)?;
        // Inodes may share trees and attributes, which cost little to read again and much to keep.
        let lens = attributes.list.iter().map(|xattr| [xattr.name.len(), xattr.value.len()]);
        self.reader.attributes.take(byte_len(lens.flatten().sum()).0)?;
        let inode = content::complete(&mut self.reader, &raw, &attributes)?;
        let places = inode.extents.iter().filter(|extent| extent.kind != ExtentKind::Inline);
        self.reader.steps.take(u64::try_from(places.count()).unwrap_or(u64::MAX))?;
        for error in attributes.damage {
            self.warn(Some(raw.id()), error);
        }
        Ok(crate::Inode { xattrs: attributes.list, ..inode })
    }

    fn give(&mut self, number: u32, inode: crate::Inode) {
        self.given.insert(number);
        if inode.file_type == FileType::Dir {
            self.directories.insert(number);
            self.pending.push(number);
        }
        self.visitor.inode(inode);
    }

    /// Gives the names of a directory.
    fn directory(&mut self, number: u32) -> Result<()> {
        let mut bytes = core::mem::take(&mut self.scratch);
        let raw = self.reader.inode(number, &mut bytes);
        let listed = raw.and_then(|raw| match raw.has(FLAG_INLINE) {
            true => self.inline_directory(&raw, &bytes),
            false => self.block_directory(&raw),
        });
        self.scratch = bytes;
        self.tell_used();
        listed?;
        self.flush(number)
    }

    fn inline_directory(&mut self, raw: &RawInode, bytes: &[u8]) -> Result<()> {
        // The damage of other attributes was told when the inode was given.
        let attributes = xattr::read(&mut self.reader, raw, bytes)?;
        let names = self.names(raw, None)?;
        for piece in content::inline_directory(raw, bytes, &attributes)? {
            self.entries(raw.number, names, Ok(Entries::of_inline(piece.at, piece.bytes)))?;
        }
        Ok(())
    }

    fn block_directory(&mut self, raw: &RawInode) -> Result<()> {
        let mapping = self.reader.map(raw)?;
        for error in mapping.damage {
            self.warn(Some(raw.id()), error);
        }
        let superblock = self.reader.superblock;
        let checksums = superblock.features.has(features::METADATA_CSUM);
        let rules = Rules { seed: checksums.then_some(raw.seed), indexed: raw.has(FLAG_INDEX) };
        let names = self.names(raw, mapping.runs.first())?;
        let blocks = raw.size.div_ceil(u64::from(superblock.block_size));
        let mut next = 0;
        for run in &mapping.runs {
            if run.logical >= blocks {
                break;
            }
            if run.logical > next || run.unwritten {
                self.warn(Some(raw.id()), hole(raw));
            }
            next = run.logical_end();
            if !run.unwritten {
                let count = run.count.min(blocks.saturating_sub(run.logical));
                self.block_run(raw, (rules, names), Run { count, ..*run })?;
            }
        }
        if next < blocks {
            self.warn(Some(raw.id()), hole(raw));
        }
        Ok(())
    }

    /// Tells how the directory's names are shown; `first` is where its blocks begin.
    fn names(&mut self, raw: &RawInode, first: Option<&Run>) -> Result<Names> {
        if !raw.has(FLAG_ENCRYPT) {
            return Ok(Names::Plain);
        }
        let superblock = self.reader.superblock;
        if raw.has(FLAG_CASEFOLD) {
            return Ok(Names::Stored);
        }
        let indexed = raw.has(FLAG_INDEX);
        let one_block = raw.size.checked_div(u64::from(superblock.block_size)) == Some(1);
        let hashed = indexed || one_block || raw.has(FLAG_INLINE);
        if !superblock.features.has(features::DIR_INDEX) || !hashed {
            return Ok(Names::Unhashed);
        }
        let mut version = superblock.hashes.default_version;
        if let Some(run) = first.filter(|run| indexed && run.logical == 0 && !run.unwritten) {
            let structure = "directory block";
            let at = self.reader.blocks.place(run.first);
            let bytes = self.reader.nodes.block(self.reader.blocks, run.first);
            let bytes = bytes.map_err(|source| Error::Io { structure, source })?;
            version = Fields::new(structure, at, bytes).u8(HASH_VERSION_AT)?;
        }
        Ok(Names::Hashed(superblock.hashes, version))
    }

    fn block_run(
        &mut self,
        raw: &RawInode,
        (rules, names): (Rules, Names),
        run: Run,
    ) -> Result<()> {
        for ahead in 0..run.count {
            self.reader.steps.take(1)?;
            let block = super::blocks::Block(run.first.0.saturating_add(ahead));
            let at = self.reader.blocks.place(block);
            let structure = "directory block";
            let bytes = self.reader.nodes.block(self.reader.blocks, block);
            let bytes = bytes.map_err(|source| Error::Io { structure, source });
            let entries = bytes.and_then(|bytes| Entries::of_block(rules, at, bytes));
            let (count, damage) = self.batch.take(raw.number, at, (entries, names));
            for error in damage {
                self.warn(Some(raw.id()), error);
            }
            self.reader.names.take(count)?;
            if self.batch.entries.len() >= BATCH {
                self.flush(raw.number)?;
            }
        }
        Ok(())
    }

    fn entries(
        &mut self,
        directory: u32,
        names: Names,
        entries: Result<Entries<'_>>,
    ) -> Result<()> {
        let at = super::superblock::AT;
        let (count, damage) = self.batch.take(directory, at, (entries, names));
        for error in damage {
            self.warn(Some(id(directory)), error);
        }
        self.reader.names.take(count)
    }

    /// Gives the names of the batch, and the inodes that no earlier name led to.
    fn flush(&mut self, directory: u32) -> Result<()> {
        let mut batch = core::mem::take(&mut self.batch);
        // Sorting makes the reads of the inode table go forward.
        batch.entries.sort_unstable_by_key(|named| (named.inode, named.start));
        for named in &batch.entries {
            if self.present(named.inode)? {
                let name = batch.names.get(named.start..named.end).unwrap_or_default();
                self.visitor.entry(id(directory), name, id(named.inode));
            }
        }
        batch.entries.clear();
        batch.names.clear();
        self.batch = batch;
        Ok(())
    }

    /// Sees to it that the visitor has the inode; false where the name must be left out.
    fn present(&mut self, number: u32) -> Result<bool> {
        if self.directories.contains(number) {
            let error = corrupt("a directory has a second name");
            self.warn(Some(id(number)), error);
            return Ok(false);
        }
        if self.given.contains(number) {
            return Ok(true);
        }
        if self.refused.contains(number) {
            return Ok(false);
        }
        let loaded = match number < self.reader.superblock.first_inode {
            true => Err(corrupt("a name leads to a reserved inode")),
            false => self.load(number),
        };
        match loaded {
            Ok(inode) => {
                self.give(number, inode);
                Ok(true)
            }
            Err(error @ Error::Limit { .. }) => Err(error),
            Err(error) => {
                self.refused.insert(number);
                self.warn(Some(id(number)), error);
                Ok(false)
            }
        }
    }
}

impl Batch {
    /// Takes the entries of one piece of a directory, and returns how many names it took and what
    /// was wrong with the piece.
    fn take(
        &mut self,
        directory: u32,
        at: crate::ByteOffset,
        (entries, names): (Result<Entries<'_>>, Names),
    ) -> (u64, Vec<Error>) {
        let fields = Fields::new("directory", at, &[]);
        let before = self.entries.len();
        let mut damage = Vec::new();
        let mut scratch = Vec::new();
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => return (0, alloc::vec![error]),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    damage.push(error);
                    break;
                }
            };
            match entry.name {
                b"." if entry.inode != directory => {
                    damage.push(fields.corrupt("its name for itself leads elsewhere"));
                    continue;
                }
                b"." | b".." => continue,
                _ => {}
            }
            match names.show(&entry, &mut scratch) {
                None => damage.push(fields.corrupt("a name too short to be encrypted")),
                Some(name) if name.is_empty() || name.iter().any(|&b| b == 0 || b == b'/') => {
                    damage.push(fields.corrupt("a name that no file can have"));
                }
                Some(name) => {
                    let start = self.names.len();
                    self.names.extend_from_slice(name);
                    let end = self.names.len();
                    self.entries.push(Named { inode: entry.inode, start, end });
                }
            }
        }
        (byte_len(self.entries.len().saturating_sub(before)).0, damage)
    }
}

fn hole(raw: &RawInode) -> Error {
    raw.block_map().corrupt("a part of the directory is missing")
}

fn corrupt(reason: &'static str) -> Error {
    Error::Corrupt { structure: "directory tree", at: super::superblock::AT, reason }
}

/// A set of inode numbers, small for numbers that lie close together.
#[derive(Default)]
struct InodeSet {
    words: BTreeMap<u32, u64>,
}

impl InodeSet {
    fn insert(&mut self, number: u32) {
        *self.words.entry(number >> 6).or_default() |= 1 << (number & 63);
    }

    fn contains(&self, number: u32) -> bool {
        self.words.get(&(number >> 6)).is_some_and(|word| word & 1 << (number & 63) != 0)
    }
}
