//! What is compared: umbra in its two forms, and what Debian ships.
//!
//! All compress with zstd at its level 3 or what comes nearest: restic's `auto` is its zstd at the
//! default level, casync offers no choice of level. restic encrypts and cannot be told not to (AES
//! in hardware); nobody else does here.

mod peers;
mod umbra;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::disks::Disk;
use crate::env::BuildEnv;
use peers::{Borg, Casync, Partclone, Restic};

pub(super) use umbra::Umbra;

/// The tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// umbra with the vault in a directory, started for each command.
    Embedded,
    /// umbra with a vault that is running.
    Running,
    /// `restic backup --force`.
    Restic,
    /// `borg create`, every file read in full.
    Borg,
    /// `casync make` of a blob.
    Casync,
    /// `partclone.ext4 | zstd -3`, which sees the file system only.
    Partclone,
}

impl Kind {
    /// All of them, in the order of a round.
    pub(super) const ALL: &[Self] =
        &[Self::Embedded, Self::Running, Self::Restic, Self::Borg, Self::Casync, Self::Partclone];

    /// The name in a table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Embedded => "umbra, vault in a directory",
            Self::Running => "umbra, running vault",
            Self::Restic => "restic",
            Self::Borg => "borg",
            Self::Casync => "casync",
            Self::Partclone => "partclone, zstd -3",
        }
    }

    /// True for what is not ours.
    pub(super) fn is_peer(self) -> bool {
        !matches!(self, Self::Embedded | Self::Running)
    }

    /// The tool with a new, empty store in this directory.
    ///
    /// # Errors
    /// When the store cannot be made.
    pub(super) fn open<'e>(self, env: &'e BuildEnv, place: &Path) -> Result<Box<dyn Tool + 'e>> {
        crate::env::make_world_readable_dir(place)?;
        Ok(match self {
            Self::Embedded => Box::new(Umbra::embedded(env, place)?),
            Self::Running => Box::new(Umbra::running(env, place)?),
            Self::Restic => Box::new(Restic::new(env, place)?),
            Self::Borg => Box::new(Borg::new(env, place)?),
            Self::Casync => Box::new(Casync::new(env, place)?),
            Self::Partclone => Box::new(Partclone::new(env, place)?),
        })
    }
}

/// One backup: which disk, of which machine, under which name.
#[derive(Clone, Copy)]
pub(super) struct Source<'d> {
    /// The disk.
    pub(super) disk: &'d Disk,
    /// Whose it is; the same name again is a later backup of the same disk.
    pub(super) machine: &'d str,
    /// What the backup is called; every one has its own.
    pub(super) label: &'d str,
}

/// A tool with its store.
pub(super) trait Tool {
    /// Everything that it keeps, without its caches.
    fn store(&self) -> &Path;

    /// Gets ready what is not measured for this source.
    ///
    /// # Errors
    /// When that fails.
    fn prepare(&self, source: Source<'_>) -> Result<()> {
        let _ = source;
        Ok(())
    }

    /// Backs the disk up, reading it in full.
    fn backup(&self, source: Source<'_>) -> Command;

    /// Brings the disk back into an empty directory.
    fn restore(&self, source: Source<'_>, into: &Path) -> Command;

    /// What [`Tool::restore`] writes there, and what it has to equal.
    fn restored(&self, source: Source<'_>, into: &Path) -> Restored;

    /// The process of a running vault.
    fn vault(&self) -> Option<u32> {
        None
    }
}

/// A file that came back, and the one that it is a copy of.
pub(super) struct Restored {
    /// The copy.
    pub(super) copy: PathBuf,
    /// The original.
    pub(super) original: PathBuf,
}

/// Where a tool puts a file that it stored under its whole path.
fn below(into: &Path, path: &Path) -> PathBuf {
    into.join(path.strip_prefix("/").unwrap_or(path))
}
