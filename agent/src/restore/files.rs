//! Regular files: what is to be done with each, and the content on its way to the target.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, FileType as Kind, Stat};
use umbra_common::ByteOffset;
use umbra_common::overlay::{Entry, Extents};
use umbra_fsparse::Xattr;

use super::confined::{Dir, Name, Placing, Temporary};
use super::dirs::{DirError, DirId, Dirs};
use super::links::GroupKey;
use super::metadata::{self, Handle, Metadata, Refused};
use super::report::Summary;
use super::{Overwrite, Setting, is_fatal};
use crate::content::{ContentSink, FileEnd, Piece, for_zeros};
use crate::error::Result;
use crate::fetch::{self, Gap};

/// Bytes of an existing file that are read at a time.
const COMPARE_BYTES: usize = 256 << 10;
const OTHER_CONTENT: &str = "a file with other content stands there";

/// A file of the snapshot and where it goes.
#[derive(Debug)]
pub struct FileJob {
    /// The directory.
    pub dir: DirId,
    /// Name in the directory.
    pub name: Vec<u8>,
    /// The path below the target.
    pub path: Vec<u8>,
    /// What it is.
    pub entry: Entry,
    /// Its group, where it has several names.
    pub group: Option<GroupKey>,
}

impl FileJob {
    /// Where the content begins on the disk; reading in this order is fastest.
    pub fn first_byte(&self) -> u64 {
        match &self.entry.record.extents {
            Extents::Inline(list) => list.first().map_or(0, |extent| extent.disk.start().0),
            // Far fewer than the others, and large.
            Extents::Node(_) => u64::MAX,
        }
    }
}

/// What has to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write it.
    Write(Placing),
    /// Read it and compare it with what stands there.
    Compare,
    /// It stands there already.
    Equal,
    /// Something different stands there and stays.
    Keep(&'static str),
}

/// Decides what has to be done with a file of the snapshot.
///
/// # Errors
/// What the system says.
pub fn decide(
    dir: &Dir,
    name: Name<'_>,
    entry: &Entry,
    overwrite: Overwrite,
) -> io::Result<Action> {
    let Some(stat) = dir.find(name)? else { return Ok(Action::Write(Placing::New)) };
    if Kind::from_raw_mode(stat.st_mode) != Kind::RegularFile {
        return Ok(match replace_other(dir, name, &stat, overwrite)? {
            Some(placing) => Action::Write(placing),
            None => Action::Keep("something that is no file stands there"),
        });
    }
    let same_size = u64::try_from(stat.st_size) == Ok(entry.record.size.0);
    match overwrite {
        Overwrite::Always => Ok(Action::Write(Placing::Replace)),
        Overwrite::IfChanged if same_size && same_mtime(&stat, entry) => Ok(Action::Equal),
        Overwrite::IfChanged => Ok(Action::Write(Placing::Replace)),
        Overwrite::Never if !same_size => Ok(Action::Keep("a file of another size stands there")),
        Overwrite::Never => match entry.record.content.blake3() {
            None => Ok(Action::Compare),
            Some(hash) if hash_file(&dir.open_file(name)?)? == hash => Ok(Action::Equal),
            Some(_) => Ok(Action::Keep(OTHER_CONTENT)),
        },
    }
}

/// Decides whether what stands there, of another type than what is to come, goes away. An empty
/// directory is removed here; one that is not empty always stays.
///
/// # Errors
/// What the system says.
pub fn replace_other(
    dir: &Dir,
    name: Name<'_>,
    stat: &Stat,
    overwrite: Overwrite,
) -> io::Result<Option<Placing>> {
    if overwrite == Overwrite::Never {
        return Ok(None);
    }
    if Kind::from_raw_mode(stat.st_mode) != Kind::Directory {
        return Ok(Some(Placing::Replace));
    }
    match dir.remove_dir(name) {
        Ok(()) => Ok(Some(Placing::New)),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells whether a file was last changed when the snapshot says.
pub fn same_mtime(stat: &Stat, entry: &Entry) -> bool {
    let mtime = entry.record.mtime;
    i128::from(stat.st_mtime) == i128::from(mtime.seconds)
        && i128::from(stat.st_mtime_nsec) == i128::from(mtime.nanos)
}

fn hash_file(file: &File) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0_u8; COMPARE_BYTES];
    let mut at = 0;
    loop {
        let count = file.read_at(&mut buf, at)?;
        if count == 0 {
            return Ok(*hasher.finalize().as_bytes());
        }
        hasher.update(buf.get(..count).unwrap_or_default());
        at += count as u64;
    }
}

/// A file whose content is wanted.
pub struct Read {
    /// The job.
    pub job: FileJob,
    /// [`Action::Write`] or [`Action::Compare`].
    pub action: Action,
}

/// How a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stands there, as in the snapshot.
    Present,
    /// Something else stands there, or it could not be written; another name may fare better.
    Absent,
    /// Its content is damaged, under whatever name.
    Damaged,
}

/// Takes contents and writes the files.
pub struct FileSink<'a> {
    reads: &'a [Read],
    setting: &'a Setting<'a>,
    dirs: &'a mut Dirs,
    summary: &'a mut Summary,
    current: Option<Current>,
    fates: Vec<Fate>,
}

enum Current {
    Writing {
        file: File,
        temporary: Temporary,
        at: u64,
        placing: Placing,
    },
    Comparing {
        existing: File,
        at: u64,
    },
    /// It failed, which was reported.
    Failed,
}

impl<'a> FileSink<'a> {
    /// Makes a sink for the contents of `reads`, in their order.
    pub fn new(
        reads: &'a [Read],
        setting: &'a Setting<'a>,
        dirs: &'a mut Dirs,
        summary: &'a mut Summary,
    ) -> Self {
        let fates = vec![Fate::Absent; reads.len()];
        Self { reads, setting, dirs, summary, current: None, fates }
    }

    /// Returns what became of each file, in the order of `reads`.
    pub fn into_fates(self) -> Vec<Fate> {
        self.fates
    }

    fn path(&self, file: usize) -> &'a [u8] {
        self.reads.get(file).map_or(&[], |read| &read.job.path)
    }

    /// Starts file number `file` unless that was done.
    fn begin(&mut self, file: usize) -> Result<()> {
        if self.current.is_some() {
            return Ok(());
        }
        match self.open(file) {
            Ok(current) => self.current = Some(current),
            Err(error) => self.fail(file, error)?,
        }
        Ok(())
    }

    fn open(&mut self, file: usize) -> io::Result<Current> {
        let Some(read) = self.reads.get(file) else { return Ok(Current::Failed) };
        let dir = match self.dirs.open(read.job.dir) {
            Ok(dir) => dir,
            Err(DirError::Io(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::NotADirectory.into()),
        };
        if let Action::Write(placing) = &read.action {
            let (file, temporary) = dir.new_file()?;
            return Ok(Current::Writing { file, temporary, at: 0, placing: *placing });
        }
        let name = Name::new(&read.job.name).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Current::Comparing { existing: dir.open_file(name)?, at: 0 })
    }

    /// Names a file that could not be written; ends everything where no file could.
    fn fail(&mut self, file: usize, error: io::Error) -> Result<()> {
        // A temporary file goes away here.
        self.current = Some(Current::Failed);
        let path = self.path(file);
        if is_fatal(&error) {
            return Err(self.setting.fatal(path, error, self.summary.files));
        }
        self.summary.failed.add(path, &error.to_string());
        Ok(())
    }

    fn take(&mut self, file: usize, piece: &Piece<'_>) -> io::Result<()> {
        match &mut self.current {
            Some(Current::Writing { file, at, .. }) => {
                let (len, written) = write(file, *at, piece)?;
                *at += len;
                self.summary.bytes_written += written;
                self.setting.monitor.advance(written);
            }
            Some(Current::Comparing { existing, at }) => {
                let (len, equal) = compare(existing, *at, piece)?;
                *at += len;
                if !equal {
                    self.current = Some(Current::Failed);
                    let path = self.path(file);
                    self.summary.kept.add(path, OTHER_CONTENT);
                }
            }
            Some(Current::Failed) | None => {}
        }
        Ok(())
    }

    fn finish(&mut self, file: usize, current: Current) -> Result<Fate> {
        let Some(read) = self.reads.get(file) else { return Ok(Fate::Absent) };
        let (handle, temporary, placing) = match current {
            Current::Writing { file, temporary, placing, .. } => (file, temporary, placing),
            Current::Comparing { .. } => {
                self.summary.equal += 1;
                return Ok(Fate::Present);
            }
            Current::Failed => return Ok(Fate::Absent),
        };
        let xattrs = match read.job.entry.xattrs(self.setting.nodes) {
            Ok(xattrs) => xattrs,
            Err(error) => {
                let reason = fetch::damage(error)?;
                self.summary.damaged.add(&read.job.path, &reason);
                return Ok(Fate::Damaged);
            }
        };
        match complete(read, &handle, &xattrs, temporary, placing) {
            Ok(refused) => {
                self.summary.refused.add(&refused);
                self.summary.files += 1;
                Ok(Fate::Present)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.summary.kept.add(&read.job.path, "something came to stand there meanwhile");
                Ok(Fate::Absent)
            }
            Err(error) => {
                self.fail(file, error)?;
                Ok(Fate::Absent)
            }
        }
    }
}

/// Gives a whole file its metadata and its name.
fn complete(
    read: &Read,
    file: &File,
    xattrs: &[Xattr],
    temporary: Temporary,
    placing: Placing,
) -> io::Result<Refused> {
    // Where the file ends in a hole nothing has been written there.
    file.set_len(read.job.entry.record.size.0)?;
    let metadata = Metadata::of(&read.job.entry, xattrs);
    let refused = metadata::apply(Handle::Open(file.as_fd()), &metadata)?;
    let name = Name::new(&read.job.name).ok_or(io::ErrorKind::InvalidInput)?;
    temporary.place(name, placing)?;
    Ok(refused)
}

impl ContentSink for FileSink<'_> {
    fn piece(&mut self, file: usize, piece: Piece<'_>) -> Result<()> {
        self.begin(file)?;
        match self.take(file, &piece) {
            Ok(()) => Ok(()),
            Err(error) => self.fail(file, error),
        }
    }

    fn end(&mut self, file: usize, end: FileEnd) -> Result<()> {
        let fate = match &end.damage {
            Some(why) => {
                // A temporary file goes away here.
                self.current = None;
                let path = self.path(file);
                self.summary.damaged.add(path, why);
                Fate::Damaged
            }
            None => {
                self.begin(file)?;
                let current = self.current.take().unwrap_or(Current::Failed);
                self.finish(file, current)?
            }
        };
        self.current = None;
        if fate == Fate::Present && end.not_kept > 0 {
            let reason = format!("{} bytes were not read by the backup", end.not_kept);
            let path = self.path(file);
            self.summary.incomplete.add(path, &reason);
        }
        if let Some(slot) = self.fates.get_mut(file) {
            *slot = fate;
        }
        Ok(())
    }
}

/// Writes a piece at `at`; returns its length and the bytes that were written for it.
fn write(file: &File, at: u64, piece: &Piece<'_>) -> io::Result<(u64, u64)> {
    match piece {
        Piece::Data(bytes) => {
            file.write_all_at(bytes, at)?;
            let len = bytes.len() as u64;
            Ok((len, len))
        }
        Piece::Zeros(Gap::Hole | Gap::NotKept, len) => Ok((len.0, 0)),
        Piece::Zeros(Gap::Unwritten | Gap::Zeros, len) => {
            // The snapshot's file had space there (a swap file needs it). Where the target cannot
            // give it without writing, a hole reads the same.
            match rustix::fs::fallocate(file, FallocateFlags::empty(), at, len.0) {
                Err(error @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)) => {
                    Err(error.into())
                }
                _ => Ok((len.0, 0)),
            }
        }
    }
}

/// Compares a piece with what stands at `at`; returns its length and whether they are equal.
fn compare(file: &File, at: u64, piece: &Piece<'_>) -> io::Result<(u64, bool)> {
    match piece {
        Piece::Data(bytes) => Ok((bytes.len() as u64, equal_at(file, ByteOffset(at), bytes)?)),
        Piece::Zeros(_, len) => {
            let (mut from, mut equal) = (at, true);
            for_zeros::<io::Error>(*len, |zeros| {
                equal = equal && equal_at(file, ByteOffset(from), zeros)?;
                from += zeros.len() as u64;
                Ok(())
            })?;
            Ok((len.0, equal))
        }
    }
}

fn equal_at(file: &File, at: ByteOffset, bytes: &[u8]) -> io::Result<bool> {
    let mut found = vec![0_u8; bytes.len()];
    match file.read_exact_at(&mut found, at.0) {
        Ok(()) => Ok(found == bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
