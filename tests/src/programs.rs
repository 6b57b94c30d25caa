//! The two programs, run in a place of their own: own configuration, own cache, no setting of the user's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::json::Answer;
use crate::skip;

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    bin_dir: PathBuf,
}

impl Programs {
    /// Finds the programs by `UMBRA_BIN_DIR`; without it the test is skipped.
    pub fn find(test: &str) -> Option<Self> {
        let Some(dir) = std::env::var_os("UMBRA_BIN_DIR") else {
            skip(test, "UMBRA_BIN_DIR names no directory of built programs; use cargo xtask test");
            return None;
        };
        let bin_dir = PathBuf::from(dir);
        for program in ["umbra", "umbra-vault"] {
            assert!(bin_dir.join(program).exists(), "{program} is not in {}", bin_dir.display());
        }
        Some(Self { bin_dir })
    }

    /// The path of one program.
    pub fn path(&self, program: &str) -> PathBuf {
        self.bin_dir.join(program)
    }
}

/// One machine's (or vault administrator's) home: a temporary directory with configuration and cache of its own.
#[derive(Debug)]
pub struct Home {
    programs: Programs,
    dir: TempDir,
}

impl Home {
    /// Makes an empty home.
    ///
    /// # Errors
    /// When the temporary directory cannot be made.
    pub fn new(programs: &Programs) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("umbra-e2e-").tempdir()?;
        Ok(Self { programs: programs.clone(), dir })
    }

    /// The directory, removed at the end.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the directory, with everything in it, where it is.
    pub fn keep(self) -> PathBuf {
        self.dir.keep()
    }

    /// A path in the home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The programs that this home runs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// `umbra` in this home.
    pub fn umbra(&self) -> Command {
        self.command("umbra", "agent.toml")
    }

    /// `umbra-vault` in this home.
    pub fn vault(&self) -> Command {
        self.command("umbra-vault", "vault.toml")
    }

    fn command(&self, program: &str, config: &str) -> Command {
        let mut command = Command::new(self.programs.path(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("UMBRA_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.dir())
            .env("HOME", self.dir())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("UMBRA_CONFIG", self.path(config))
            .env("UMBRA_CACHE_DIR", self.path("cache"));
        command
    }

    /// Makes an embedded store in this home and returns its URL.
    ///
    /// # Errors
    /// When `umbra init` fails.
    pub fn init_store(&self) -> Result<String> {
        let url = format!("file://{}", self.path("store").display());
        Answer::of(self.umbra().args(["init", &url]))?.expect_code(0)?;
        Ok(url)
    }

    /// Backs up an image file as disk `disk` of machine `m`, and returns the summary.
    ///
    /// # Errors
    /// When the backup fails or prints no summary.
    pub fn backup(&self, image: &Path, disk: &str) -> Result<serde_json::Value> {
        self.backup_with(image, disk, &[])
    }

    /// The same with more arguments.
    ///
    /// # Errors
    /// When it fails or prints no summary.
    pub fn backup_with(
        &self,
        image: &Path,
        disk: &str,
        more: &[&str],
    ) -> Result<serde_json::Value> {
        let mut command = self.umbra();
        command.args(["--json", "--machine", "m", "--disk", disk, "backup"]).args(more).arg(image);
        Answer::of(&mut command)?.expect_code(0)?.summary()
    }

    /// Recovers a snapshot to a new file in this home and returns the summary.
    ///
    /// # Errors
    /// When it fails or prints no summary.
    pub fn recover(&self, snapshot: &str, to: &Path) -> Result<serde_json::Value> {
        let mut command = self.umbra();
        command.args(["--json", "--yes", "recover", snapshot, "--to"]).arg(to);
        Answer::of(&mut command)?.expect_code(0)?.summary()
    }
}

/// The same command as an ordinary user without any right (uid and gid 65534), where we are root; unchanged otherwise.
pub fn as_ordinary_user(command: &Command) -> Command {
    if !crate::is_root() {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args());
        copy_surroundings(command, &mut same);
        return same;
    }
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    copy_surroundings(command, &mut wrapped);
    wrapped
}

fn copy_surroundings(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
    if let Some(dir) = from.get_current_dir() {
        to.current_dir(dir);
    }
}

/// Opens a tree to the ordinary user of [`as_ordinary_user`]: he owns it then.
///
/// # Errors
/// When the owner cannot be changed.
pub fn give_to_ordinary_user(dir: &Path) -> Result<()> {
    if crate::is_root() {
        crate::must(Command::new("chown").args(["-R", "65534:65534"]).arg(dir))
            .context("giving a directory away")?;
    }
    Ok(())
}
