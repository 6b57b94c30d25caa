//! The file that `recover` writes beside its final name.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::{Found, TargetKind, io_error, refused, unwritable};
use crate::error::Result;
use crate::mounts::FileId;

/// How often the name is tried where others finish at the same moment.
const TRIES: u32 = 8;

/// A file without its final name, locked for this program.
#[derive(Debug)]
pub(super) struct Aside {
    path: PathBuf,
    /// The final name as the user gave it.
    named: PathBuf,
    real: PathBuf,
    kind: TargetKind,
}

impl Aside {
    /// Makes an empty file beside the final name, or empties the one of a run that was killed.
    ///
    /// It is readable to its owner alone, as a disk has secrets of all its users; a file that is
    /// to be replaced passes its mode on, and its owner where that may be set.
    pub(super) fn open(found: &Found) -> Result<(Self, File)> {
        let mut name = found.real.file_name().unwrap_or_default().to_os_string();
        name.push(".umbra-partial");
        let path = found.real.with_file_name(name);
        for _ in 0..TRIES {
            let file = open_own(&path, &found.named)?;
            let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            // Other errors: a file system without locks has none to honour.
            if locked == Err(Errno::WOULDBLOCK) {
                let reason = "another `umbra recover` is writing it".into();
                return Err(refused(&found.named, reason, "wait for it, or name another file"));
            }
            // Another run may have given it its final name since it was opened.
            let locked = file.metadata().map_err(|source| io_error("look at", &path, source))?;
            let there = std::fs::symlink_metadata(&path);
            if there.is_ok_and(|there| FileId::of(&there) == FileId::of(&locked)) {
                file.set_len(0).map_err(|source| io_error("empty", &path, source))?;
                inherit(&file, found);
                let (named, real) = (found.named.clone(), found.real.clone());
                return Ok((Self { path, named, real, kind: found.kind }, file));
            }
        }
        let reason = "others keep making and naming it".into();
        Err(refused(&found.named, reason, "name another file"))
    }

    /// Gives the file its final name, and makes that durable.
    pub(super) fn name(&self) -> Result<()> {
        let failed = |source| io_error("name", &self.named, source);
        match self.kind {
            TargetKind::New => self.name_new()?,
            _ => std::fs::rename(&self.path, &self.real).map_err(failed)?,
        }
        let dir = File::open(self.real.parent().unwrap_or(Path::new("/")));
        let synced = dir.and_then(|dir| dir.sync_all());
        synced.map_err(|source| io_error("sync the directory of", &self.named, source))
    }

    fn name_new(&self) -> Result<()> {
        let renamed =
            rustix::fs::renameat_with(CWD, &self.path, CWD, &self.real, RenameFlags::NOREPLACE);
        let taken = || {
            let reason = "something has taken its name in the meantime".into();
            let hint = format!("the whole disk is in {}: move it", self.path.display());
            refused(&self.named, reason, &hint)
        };
        match renamed {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(taken()),
            // File systems that cannot do it in one step.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                if std::fs::symlink_metadata(&self.real).is_ok() {
                    return Err(taken());
                }
                let renamed = std::fs::rename(&self.path, &self.real);
                renamed.map_err(|source| io_error("name", &self.named, source))
            }
            Err(error) => Err(io_error("name", &self.named, error.into())),
        }
    }

    /// Removes the file.
    pub(super) fn remove(&self) {
        // The command ends with the error that led here; a partial file's name says what it is.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens a file of ours: no symlink, no second name, nobody else's.
fn open_own(path: &Path, named: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(|source| {
        // A symlink, a directory, a pipe without a reader.
        let is_foreign =
            matches!(source.raw_os_error(), Some(libc::ELOOP | libc::EISDIR | libc::ENXIO));
        match unwritable(named, source.kind()) {
            Some(error) => error,
            None if is_foreign => foreign(path),
            None => io_error("open for writing", path, source),
        }
    })?;
    let metadata = file.metadata().map_err(|source| io_error("look at", path, source))?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_file() || metadata.nlink() > 1 || !own {
        return Err(foreign(path));
    }
    Ok(file)
}

fn foreign(path: &Path) -> crate::Error {
    let reason = "the disk would be written there first, and it is not a file of ours".into();
    refused(path, reason, "remove it")
}

/// Passes on mode and owner of the file that will be replaced.
fn inherit(file: &File, found: &Found) {
    let Some(old) = &found.metadata else { return };
    // Only what may be set: an ordinary user gives no file away.
    let (uid, gid) = (Some(old.uid()), Some(old.gid()));
    if std::os::unix::fs::fchown(file, uid, gid).is_ok() {
        let mode = std::fs::Permissions::from_mode(old.mode() & 0o777);
        let _ = file.set_permissions(mode);
    }
}
