//! The files of a system: a Debian that mmdebstrap makes once, or some files of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::env::{BuildEnv, is_root};
use crate::process;
use crate::transcript::timed;

/// A Debian system that is made once and kept as an archive.
pub(crate) struct Debian {
    /// The archive's file name; a change of what it holds changes the name.
    pub(crate) archive_name: &'static str,
    /// What is installed beside the smallest system, separated by commas.
    pub(crate) packages: &'static str,
    /// What making it costs, in words.
    pub(crate) cost: &'static str,
}

/// What a system is made of.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    /// A Debian system.
    Debian(&'static Debian),
    /// Some hundred files of this machine.
    SomeFiles,
}

/// Makes the archive of a system with mmdebstrap where it is missing.
///
/// # Errors
/// When mmdebstrap fails; the message says what it needs.
pub(super) fn debian_archive(env: &BuildEnv, debian: &Debian) -> Result<PathBuf> {
    let dir = env.cache_dir.join("demo");
    crate::env::make_world_readable_dir(&dir)?;
    let archive = dir.join(debian.archive_name);
    if archive.exists() {
        println!("Debian system of an earlier run: {}", archive.display());
        return Ok(archive);
    }
    println!("making a Debian system with mmdebstrap: once, {}", debian.cost);
    let part = dir.join(format!("part-{}-{}", std::process::id(), debian.archive_name));
    let mode = if is_root() { "root" } else { "unshare" };
    let made = timed("mmdebstrap", || {
        process::output(
            env.command("mmdebstrap")
                .arg(format!("--mode={mode}"))
                .arg("--variant=minbase")
                .arg(format!("--include={}", debian.packages))
                .arg("bookworm")
                .arg(&part),
        )
    });
    made.context(if is_root() {
        "no Debian system could be made; `cargo xtask demo --small` does without"
    } else {
        "no Debian system could be made without root (that needs user namespaces and an entry for \
         this user in /etc/subuid and /etc/subgid); `cargo xtask demo --small` does without"
    })?;
    fs::rename(&part, &archive)?;
    Ok(archive)
}

/// Unpacks with owners and device nodes where we are root; an ordinary user gets the rest.
///
/// # Errors
/// When tar fails.
pub(super) fn unpack(env: &BuildEnv, archive: &Path, tree: &Path) -> Result<()> {
    let mut tar = env.command("tar");
    tar.args(["--extract", "--zstd", "--file"]).arg(archive).arg("--directory").arg(tree);
    if is_root() {
        tar.args(["--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*"]);
    } else {
        tar.args(["--exclude=./dev/*"]);
    }
    process::output(&mut tar)?;
    Ok(())
}

/// A small system: programs and documents that any Debian machine has.
///
/// # Errors
/// When a tool fails.
pub(super) fn copy_some_files(env: &BuildEnv, tree: &Path) -> Result<()> {
    for (dir, count) in [("usr/bin", 350), ("usr/share", 500)] {
        let mut find = env.command("find");
        find.current_dir("/").arg(dir).args(["-xdev", "!", "-readable", "-prune", "-o"]);
        let listed = process::output(find.args(["-type", "f", "-size", "-600k", "-print0"]))?;
        let mut paths: Vec<&[u8]> =
            listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
        paths.sort_unstable();
        paths.truncate(count);
        let mut copy = env
            .command("cp")
            .current_dir("/")
            .args(["--archive", "--parents", "--target-directory"])
            .arg(tree)
            .args(paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()))
            .stdin(Stdio::null())
            .spawn()?;
        ensure!(copy.wait()?.success(), "cp failed");
    }
    // The small system's files are read by an ordinary user, whatever the umask says.
    process::output(Command::new("chmod").args(["-R", "u+rwX,go+rX"]).arg(tree))?;
    Ok(())
}
