//! Bare Debian systems in which packages are tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::timed;
use crate::env::{BuildEnv, make_world_readable_dir};
use crate::process;

/// What an entered system is told of the world outside: nothing.
const SEARCH_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A directory that is entered as a root.
pub(super) struct Root {
    pub(super) dir: PathBuf,
}

impl Root {
    /// Unpacks a Debian system of essential packages and apt only; makes it first where the cache has none.
    ///
    /// # Errors
    /// When it can neither be had from the cache nor from Debian.
    pub(super) fn debian(env: &BuildEnv, codename: &str, place: &Path) -> Result<Self> {
        let archive = archive(env, codename)?;
        let dir = place.join(codename);
        make_world_readable_dir(&dir)?;
        let mut tar = env.command("tar");
        tar.args(["--extract", "--numeric-owner", "--same-permissions", "--file"]).arg(archive);
        process::output(tar.arg("--directory").arg(&dir))?;
        Ok(Self { dir })
    }

    /// A program in this root, by its path there. It sees its own `/proc` and nothing of our variables.
    ///
    /// The mounts are those of a namespace that ends with the program: nothing is left to unmount.
    pub(super) fn command(&self, env: &BuildEnv, options: &[&str], program: &[&str]) -> Command {
        let mut command = env.command("unshare");
        command.arg(format!("--mount-proc={}", self.dir.join("proc").display()));
        command.arg("chroot").args(options).arg(&self.dir).args(program);
        command.env_clear();
        command.envs(SEARCH_PATH.split_once('='));
        command
    }

    /// Runs a shell script in this root, with process ids of its own: whatever it starts ends with it.
    ///
    /// # Errors
    /// When it fails; what it said stands before.
    pub(super) fn script(&self, env: &BuildEnv, script: &Script<'_>) -> Result<()> {
        let path = format!("/tmp/{}", script.name);
        fs::write(self.dir.join(path.trim_start_matches('/')), script.text)?;
        let mut command = env.command("unshare");
        command.args(["--pid", "--fork", "--kill-child"]);
        command.arg(format!("--mount-proc={}", self.dir.join("proc").display()));
        command.arg("chroot").arg(&self.dir).args(["env", "-i", SEARCH_PATH, "HOME=/root"]);
        command.args(script.variables).args(["sh", "-eu", &path]);
        process::run_quietly(&mut command).with_context(|| script.name.to_owned())
    }
}

/// A script and what it is told.
pub(super) struct Script<'s> {
    pub(super) name: &'s str,
    pub(super) text: &'s str,
    /// `NAME=VALUE`.
    pub(super) variables: &'s [String],
}

fn archive(env: &BuildEnv, codename: &str) -> Result<PathBuf> {
    let dir = env.cache_dir.join("dist");
    make_world_readable_dir(&dir)?;
    let archive = dir.join(format!("{codename}-minbase-1.tar"));
    if archive.exists() {
        return Ok(archive);
    }
    let part = dir.join(format!("part-{}-{codename}.tar", std::process::id()));
    timed(&format!("mmdebstrap {codename}: once, about a minute and 40 MB of downloads"), || {
        let mut make = env.command("mmdebstrap");
        make.args(["--mode=root", "--variant=minbase", codename]).arg(&part);
        process::output(&mut make)
    })?;
    fs::rename(&part, &archive)?;
    Ok(archive)
}
