//! What Debian ships: restic, borg, casync, partclone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Restored, Source, Tool, below};
use crate::env::BuildEnv;
use crate::process;

/// restic; its chunks are content-defined, 1 MiB on average.
pub(super) struct Restic<'e> {
    env: &'e BuildEnv,
    store: PathBuf,
    cache: PathBuf,
}

impl<'e> Restic<'e> {
    /// `restic init`.
    ///
    /// # Errors
    /// When it fails.
    pub(super) fn new(env: &'e BuildEnv, place: &Path) -> Result<Self> {
        let tool = Self { env, store: place.join("restic"), cache: place.join("restic-cache") };
        process::output(tool.command().arg("init"))?;
        Ok(tool)
    }

    fn command(&self) -> Command {
        let mut command = self.env.command("restic");
        command.arg("--repo").arg(&self.store).arg("--cache-dir").arg(&self.cache);
        command.args(["--quiet", "--compression", "auto"]).env("RESTIC_PASSWORD", "bench");
        command
    }
}

impl Tool for Restic<'_> {
    fn store(&self) -> &Path {
        &self.store
    }

    fn backup(&self, source: Source<'_>) -> Command {
        let mut command = self.command();
        command.args(["backup", "--force", "--host", source.machine]).arg(&source.disk.path);
        command
    }

    fn restore(&self, source: Source<'_>, into: &Path) -> Command {
        let mut command = self.command();
        command.args(["restore", "latest", "--host", source.machine, "--target"]).arg(into);
        command
    }

    fn restored(&self, source: Source<'_>, into: &Path) -> Restored {
        let original = source.disk.path.clone();
        Restored { copy: below(into, &original), original }
    }
}

/// borg; its chunks are content-defined, 2 MiB on average.
pub(super) struct Borg<'e> {
    env: &'e BuildEnv,
    place: PathBuf,
    store: PathBuf,
}

impl<'e> Borg<'e> {
    /// `borg init` without encryption.
    ///
    /// # Errors
    /// When it fails.
    pub(super) fn new(env: &'e BuildEnv, place: &Path) -> Result<Self> {
        let tool = Self { env, place: place.to_owned(), store: place.join("borg") };
        process::output(tool.command().args(["init", "--encryption", "none"]).arg(&tool.store))?;
        Ok(tool)
    }

    fn command(&self) -> Command {
        let mut command = self.env.command("borg");
        command
            .env("BORG_BASE_DIR", self.place.join("borg-home"))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        command
    }

    fn archive(&self, label: &str) -> String {
        format!("{}::{label}", self.store.display())
    }
}

impl Tool for Borg<'_> {
    fn store(&self) -> &Path {
        &self.store
    }

    fn backup(&self, source: Source<'_>) -> Command {
        let mut command = self.command();
        command.args(["create", "--compression", "zstd,3", "--files-cache", "disabled"]);
        command.arg(self.archive(source.label)).arg(&source.disk.path);
        command
    }

    fn restore(&self, source: Source<'_>, into: &Path) -> Command {
        let mut command = self.command();
        command.args(["extract", "--sparse"]).arg(self.archive(source.label)).current_dir(into);
        command
    }

    fn restored(&self, source: Source<'_>, into: &Path) -> Restored {
        let original = source.disk.path.clone();
        Restored { copy: below(into, &original), original }
    }
}

/// casync; its chunks are content-defined, 64 KiB on average, a file each.
pub(super) struct Casync<'e> {
    env: &'e BuildEnv,
    store: PathBuf,
}

impl<'e> Casync<'e> {
    /// An empty directory for chunks and indexes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn new(env: &'e BuildEnv, place: &Path) -> Result<Self> {
        let store = place.join("casync");
        fs::create_dir(&store)?;
        Ok(Self { env, store })
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = self.env.command("casync");
        command.arg(verb).arg(format!("--store={}", self.store.join("chunks.castr").display()));
        command
    }

    fn index(&self, label: &str) -> PathBuf {
        self.store.join(format!("{label}.caibx"))
    }
}

impl Tool for Casync<'_> {
    fn store(&self) -> &Path {
        &self.store
    }

    fn backup(&self, source: Source<'_>) -> Command {
        let mut command = self.command("make");
        command.arg("--compression=zstd").arg(self.index(source.label)).arg(&source.disk.path);
        command
    }

    fn restore(&self, source: Source<'_>, into: &Path) -> Command {
        let mut command = self.command("extract");
        command.arg(self.index(source.label)).arg(into.join(&source.disk.name));
        command
    }

    fn restored(&self, source: Source<'_>, into: &Path) -> Restored {
        Restored { copy: into.join(&source.disk.name), original: source.disk.path.clone() }
    }
}

/// partclone, through zstd into one file a backup. It takes a file system and no disk: the partition is copied out
/// beforehand, which is not measured.
pub(super) struct Partclone<'e> {
    env: &'e BuildEnv,
    store: PathBuf,
    place: PathBuf,
}

/// The arguments: partition, compressed file, log.
const CLONE: &str = "set -o pipefail
partclone.ext4 --clone --quiet --source \"$1\" --output - --logfile \"$3\" \
| zstd --quiet --force -3 -o \"$2\"";

/// The arguments: compressed file, partition to be written, log, bytes of the partition.
const RESTORE: &str = "set -o pipefail
zstd --quiet --decompress --stdout \"$1\" \
| partclone.restore --no_check --restore_raw_file --quiet --source - --output \"$2\" --logfile \"$3\"";

impl<'e> Partclone<'e> {
    /// An empty directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn new(env: &'e BuildEnv, place: &Path) -> Result<Self> {
        let store = place.join("partclone");
        fs::create_dir(&store)?;
        Ok(Self { env, store, place: place.to_owned() })
    }

    fn shell(&self, script: &str, arguments: [&Path; 2]) -> Command {
        let mut command = self.env.command("bash");
        command.args(["-c", script, "bash"]).args(arguments).arg(self.place.join("partclone.log"));
        command
    }

    fn partition(&self, source: Source<'_>) -> PathBuf {
        self.place.join(format!("{}.partition", source.disk.name))
    }

    fn image(&self, label: &str) -> PathBuf {
        self.store.join(format!("{label}.zst"))
    }
}

impl Tool for Partclone<'_> {
    fn store(&self) -> &Path {
        &self.store
    }

    fn prepare(&self, source: Source<'_>) -> Result<()> {
        source.disk.copy_root_to(self.env, &self.partition(source))
    }

    fn backup(&self, source: Source<'_>) -> Command {
        self.shell(CLONE, [&self.partition(source), &self.image(source.label)])
    }

    fn restore(&self, source: Source<'_>, into: &Path) -> Command {
        self.shell(RESTORE, [&self.image(source.label), &into.join("partition")])
    }

    fn restored(&self, source: Source<'_>, into: &Path) -> Restored {
        Restored { copy: into.join("partition"), original: self.partition(source) }
    }
}
