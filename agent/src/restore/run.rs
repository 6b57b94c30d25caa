//! A restore under way: what was collected, and what became of it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use umbra_common::overlay::Entry;
use umbra_fsparse::{FileType, Xattr};

use super::confined::{Dir, Name};
use super::dirs::{DirError, DirId, Dirs};
use super::files::{Action, Fate, FileJob, FileSink, Read, decide};
use super::filter::{Filter, Verdict};
use super::links::{Groups, Leader, Made, group_of, make_link, make_object};
use super::metadata::{self, Handle, Metadata};
use super::report::Summary;
use super::select::{self, Selection};
use super::{Setting, is_fatal};
use crate::browse::Browser;
use crate::content::ContentReader;
use crate::error::Result;
use crate::fetch;

/// Files that are sorted by their place on the disk together; bounds the memory of a restore.
const SLICE_FILES: usize = 32 << 10;

/// Why what is encrypted is left out.
const LOCKED: &str = "it is encrypted, and the key is not in the snapshot";

/// A restore under way.
pub(super) struct Run<'a> {
    content: ContentReader<'a>,
    setting: &'a Setting<'a>,
    dirs: Dirs,
    groups: Groups,
    /// Files to be written.
    files: Vec<FileJob>,
    /// Further names of files.
    names: Vec<FileJob>,
    /// Device nodes, fifos, sockets.
    objects: Vec<FileJob>,
    symlinks: Vec<FileJob>,
    summary: Summary,
}

impl<'a> Run<'a> {
    /// Starts a restore into `dirs`.
    pub(super) fn new(content: ContentReader<'a>, setting: &'a Setting<'a>, dirs: Dirs) -> Self {
        Self {
            content,
            setting,
            dirs,
            groups: Groups::new(),
            files: Vec::new(),
            names: Vec::new(),
            objects: Vec::new(),
            symlinks: Vec::new(),
            summary: Summary::default(),
        }
    }

    /// Returns what it came to.
    pub(super) fn into_summary(self) -> Summary {
        self.summary
    }

    /// Restores everything that was selected.
    pub(super) fn all(
        &mut self,
        browser: &Browser<'_>,
        selections: &[Selection],
        filter: &Filter,
    ) -> Result<()> {
        for selection in selections {
            self.selection(browser, selection, filter)?;
        }
        self.finish()
    }

    /// Makes the directories of a selection and collects the rest.
    fn selection(
        &mut self,
        browser: &Browser<'_>,
        selection: &Selection,
        filter: &Filter,
    ) -> Result<()> {
        let mut base = DirId::TARGET;
        for (name, entry) in &selection.above {
            base = self.dirs.plan(base, name, entry.as_ref());
        }
        let volume = selection.place.volume;
        select::visit(browser, selection, filter, base, |parent, name, visited| match visited {
            select::Visited::Lost { reason, .. } => {
                let path = self.dirs.path(*parent).to_vec();
                self.summary.damaged.add(&path, &reason);
                Ok(None)
            }
            select::Visited::Found(found) if found.entry.record.file_type == FileType::Dir => {
                self.directory(*parent, name, &found)
            }
            select::Visited::Found(found) if found.verdict == Verdict::Include => {
                self.object(volume, *parent, name, *found.entry)?;
                Ok(None)
            }
            select::Visited::Found(_) => Ok(None),
        })
    }

    /// Makes a directory; `None` where nothing can go into it.
    fn directory(
        &mut self,
        parent: DirId,
        name: &[u8],
        found: &select::Found,
    ) -> Result<Option<DirId>> {
        let id = if name.is_empty() {
            // The root of a volume lands in the directory itself.
            self.dirs.describe(parent, Some(&found.entry));
            parent
        } else {
            self.dirs.plan(parent, name, Some(&found.entry))
        };
        if found.verdict != Verdict::Include {
            return Ok(Some(id));
        }
        // Its name is none that it ever had. It is not made, and what is in it is named below.
        if !name.is_empty() && self.dirs.is_encrypted(parent) {
            let path = self.dirs.path(id).to_vec();
            self.summary.encrypted.add(&path, LOCKED);
            return Ok(Some(id));
        }
        match self.dirs.open(id) {
            Ok(_) => Ok(Some(id)),
            Err(error) => {
                let path = self.dirs.path(id).to_vec();
                self.no_directory(&path, error)?;
                Ok(None)
            }
        }
    }

    /// Names a directory that cannot be had.
    fn no_directory(&mut self, path: &[u8], error: DirError) -> Result<()> {
        match error {
            DirError::Kept => {
                self.summary.kept.add(path, "something that is no directory stands there");
            }
            DirError::Reported => {}
            DirError::Io(error) => self.failed(path, error)?,
        }
        Ok(())
    }

    fn object(&mut self, volume: usize, dir: DirId, name: &[u8], entry: Entry) -> Result<()> {
        let group = group_of(volume, &entry);
        let (path, name) = (self.dirs.path_in(dir, name), name.to_vec());
        // Ciphertext must not pass for the file, nor what encodes its name for the name.
        if entry.record.is_encrypted() || self.dirs.is_encrypted(dir) {
            self.summary.encrypted.add(&path, LOCKED);
            return Ok(());
        }
        let job = FileJob { dir, name, path, entry, group };
        match job.entry.record.file_type {
            FileType::File => {
                let led = job.group.is_some_and(|group| self.groups.contains_key(&group));
                if led {
                    self.names.push(job);
                } else {
                    self.lead(job);
                }
            }
            FileType::Symlink => self.symlinks.push(job),
            _ => self.objects.push(job),
        }
        if self.files.len() >= SLICE_FILES { self.write_files() } else { Ok(()) }
    }

    /// Takes a file as the first name of its group.
    fn lead(&mut self, job: FileJob) {
        if let Some(group) = job.group {
            self.groups.insert(group, Leader::Pending);
        }
        self.files.push(job);
    }

    fn finish(&mut self) -> Result<()> {
        self.write_files()?;
        self.write_names()?;
        for job in std::mem::take(&mut self.objects) {
            self.write_object(&job)?;
        }
        for job in std::mem::take(&mut self.symlinks) {
            self.write_object(&job)?;
        }
        self.summary.dirs = self.dirs.count_made();
        self.finish_dirs()
    }

    /// Names a file that could not be written; ends the run where no file could.
    fn failed(&mut self, path: &[u8], error: io::Error) -> Result<()> {
        if is_fatal(&error) {
            return Err(self.setting.fatal(path, error, self.summary.files));
        }
        self.summary.failed.add(path, &error.to_string());
        Ok(())
    }

    /// Writes the files that were collected, in the order of the disk.
    fn write_files(&mut self) -> Result<()> {
        let mut jobs = std::mem::take(&mut self.files);
        jobs.sort_by_key(FileJob::first_byte);
        let mut reads = Vec::with_capacity(jobs.len());
        for job in jobs {
            match self.decide(&job)? {
                Some(Action::Equal) => {
                    self.summary.equal += 1;
                    self.settle(&job, Fate::Present);
                }
                Some(Action::Keep(reason)) => {
                    self.summary.kept.add(&job.path, reason);
                    self.settle(&job, Fate::Absent);
                }
                Some(action) => reads.push(Read { job, action }),
                None => self.settle(&job, Fate::Absent),
            }
        }
        let entries: Vec<&Entry> = reads.iter().map(|read| &read.job.entry).collect();
        let mut sink = FileSink::new(&reads, self.setting, &mut self.dirs, &mut self.summary);
        self.content.read_files(&entries, &mut sink)?;
        let fates = sink.into_fates();
        for (read, fate) in reads.iter().zip(fates) {
            self.settle(&read.job, fate);
        }
        Ok(())
    }

    fn decide(&mut self, job: &FileJob) -> Result<Option<Action>> {
        let dir = match self.dirs.open(job.dir) {
            Ok(dir) => dir,
            Err(error) => {
                let path = self.dirs.path(job.dir).to_vec();
                return self.no_directory(&path, error).map(|()| None);
            }
        };
        let decided = match Name::new(&job.name) {
            Some(name) => decide(&dir, name, &job.entry, self.setting.overwrite),
            None => Err(hostile_name()),
        };
        match decided {
            Ok(action) => Ok(Some(action)),
            Err(error) => self.failed(&job.path, error).map(|()| None),
        }
    }

    /// Remembers what became of the first name of a group.
    fn settle(&mut self, job: &FileJob, fate: Fate) {
        let Some(group) = job.group else { return };
        let leader = match fate {
            Fate::Present => Leader::Present { dir: job.dir, name: job.name.clone() },
            Fate::Absent => Leader::Absent,
            Fate::Damaged => Leader::Damaged,
        };
        self.groups.insert(group, leader);
    }

    /// Gives files their further names; where the first could not be written another leads.
    fn write_names(&mut self) -> Result<()> {
        while !self.names.is_empty() {
            for job in std::mem::take(&mut self.names) {
                match job.group.and_then(|group| self.groups.get(&group).cloned()) {
                    Some(Leader::Present { dir, name }) => {
                        if let Some(alone) = self.write_name(job, dir, &name)? {
                            self.files.push(alone);
                        }
                    }
                    Some(Leader::Pending) => self.names.push(job),
                    Some(Leader::Damaged) => {
                        self.summary.damaged.add(&job.path, "as its other name");
                    }
                    Some(Leader::Absent) | None => self.lead(job),
                }
            }
            self.write_files()?;
        }
        Ok(())
    }

    /// Gives a file a further name; returns the job where it has to be a file of its own.
    fn write_name(&mut self, mut job: FileJob, dir: DirId, name: &[u8]) -> Result<Option<FileJob>> {
        let made = match self.link(&job, dir, name) {
            Ok(made) => made,
            Err(DirError::Io(error)) => return self.failed(&job.path, error).map(|()| None),
            Err(error) => {
                let path = self.dirs.path(job.dir).to_vec();
                return self.no_directory(&path, error).map(|()| None);
            }
        };
        match made {
            Made::NoLinks | Made::NoDevice => {
                job.group = None;
                return Ok(Some(job));
            }
            Made::New(_) => self.summary.hard_links += 1,
            Made::Equal => self.summary.equal += 1,
            Made::Kept(reason) => self.summary.kept.add(&job.path, reason),
        }
        Ok(None)
    }

    fn link(&mut self, job: &FileJob, from: DirId, name: &[u8]) -> Result<Made, DirError> {
        let dir = self.dirs.open(job.dir)?;
        let from = self.dirs.open(from)?;
        let leader = Name::new(name).ok_or_else(|| DirError::Io(hostile_name()))?;
        let made = make_link(&dir, job, (&from, leader), self.setting.overwrite);
        made.map_err(DirError::Io)
    }

    /// Makes a symbolic link, a device node, a fifo or a socket.
    fn write_object(&mut self, job: &FileJob) -> Result<()> {
        let xattrs = match job.entry.xattrs(self.setting.nodes) {
            Ok(xattrs) => xattrs,
            Err(error) => {
                let reason = fetch::damage(error)?;
                self.summary.damaged.add(&job.path, &reason);
                return Ok(());
            }
        };
        let made = match self.make(job, &xattrs) {
            Ok(made) => made,
            Err(DirError::Io(error)) => return self.failed(&job.path, error),
            Err(error) => {
                let path = self.dirs.path(job.dir).to_vec();
                return self.no_directory(&path, error);
            }
        };
        let fate = match &made {
            Made::New(_) | Made::Equal => Fate::Present,
            _ => Fate::Absent,
        };
        match made {
            Made::New(refused) => {
                self.summary.refused.add(&refused);
                match job.entry.record.file_type {
                    FileType::Symlink => self.summary.symlinks += 1,
                    _ => self.summary.special += 1,
                }
            }
            Made::Equal => self.summary.equal += 1,
            Made::Kept(reason) => self.summary.kept.add(&job.path, reason),
            Made::NoDevice => self.summary.refused.devices += 1,
            Made::NoLinks => {}
        }
        let led = job
            .group
            .is_some_and(|group| matches!(self.groups.get(&group), Some(Leader::Present { .. })));
        if !led {
            self.settle(job, fate);
        }
        Ok(())
    }

    fn make(&mut self, job: &FileJob, xattrs: &[Xattr]) -> Result<Made, DirError> {
        let leader = job.group.and_then(|group| self.groups.get(&group).cloned());
        if let Some(Leader::Present { dir, name }) = leader {
            match self.link(job, dir, &name)? {
                Made::NoLinks => {}
                made => return Ok(made),
            }
        }
        let dir = self.dirs.open(job.dir)?;
        make_object(&dir, job, xattrs, self.setting.overwrite).map_err(DirError::Io)
    }

    /// Sets the metadata of the directories, from below.
    pub(super) fn finish_dirs(&mut self) -> Result<()> {
        let (setting, summary) = (self.setting, &mut self.summary);
        self.dirs.finish(|finish| {
            let xattrs = match finish.entry.xattrs(setting.nodes) {
                Ok(xattrs) => xattrs,
                Err(error) => {
                    let reason = fetch::damage(error)?;
                    summary.damaged.add(finish.path, &reason);
                    Vec::new()
                }
            };
            let metadata = Metadata::of(finish.entry, &xattrs);
            if finish.stays {
                let differs = finish.dir.and_then(|dir| metadata::differs(dir.as_fd(), &metadata));
                summary.dirs_kept += u64::from(differs.unwrap_or(false));
                return Ok(());
            }
            let applied = finish
                .dir
                .and_then(|dir: Arc<Dir>| metadata::apply(Handle::Open(dir.as_fd()), &metadata));
            match applied {
                Ok(refused) => summary.refused.add(&refused),
                Err(error) if is_fatal(&error) => {
                    return Err(setting.fatal(finish.path, error, summary.files));
                }
                Err(error) => summary.failed.add(finish.path, &error.to_string()),
            }
            Ok(())
        })
    }
}

fn hostile_name() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no file can have this name")
}
