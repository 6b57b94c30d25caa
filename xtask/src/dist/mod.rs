//! What a user installs: a static tarball, two Debian packages, a file for containers; and the proof that they work.
//!
//! The programs are linked statically against glibc and libstdc++, so that those of a Debian 12 run on a Debian 11 and
//! in an empty container (docs/building.md says what that costs). They are built in a target directory of their own.

mod check;
mod chroot;
mod container;
mod deb;
mod dns;
mod licences;
mod programs;
mod tarball;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::env::{BuildEnv, is_root, make_world_readable_dir};
use crate::process;
use crate::setup::{self, Purpose};

/// What `cargo xtask dist` can be told.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Installs and runs everything in fresh Debian 11 and 12 systems; needs root.
    #[arg(long)]
    check: bool,
}

/// One program that is distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Program {
    name: &'static str,
    crate_name: &'static str,
}

const PROGRAMS: [Program; 2] = [
    Program { name: "umbra", crate_name: "umbra-agent" },
    Program { name: "umbra-vault", crate_name: "umbra-vault" },
];

/// The file with the checksums of all others.
const SUMS_NAME: &str = "SHA256SUMS";

/// Where things are made, and what they are called.
struct Layout {
    /// Cargo's name for the machine.
    triple: String,
    version: String,
    /// Cargo's target directory for static programs.
    target_dir: PathBuf,
    /// What goes into the packages beside what the checkout has. Below cargo's own directory of built programs, because
    /// cargo-deb knows only that place by a name (`target/release`) that holds everywhere.
    staged: PathBuf,
    /// The results.
    packages: PathBuf,
    /// Seconds since 1970 that every file in the tarball bears: those of the commit.
    time: String,
}

/// Makes everything, and with `--check` proves it.
///
/// # Errors
/// When something cannot be installed or built, or does not hold.
pub(crate) fn run(env: &BuildEnv, options: &Options) -> Result<()> {
    if options.check && !is_root() {
        bail!("--check runs the packages in Debian systems of their own, which needs root");
    }
    setup::install(env, Purpose::Dist)?;
    let layout = Layout::find(env)?;
    make(env, &layout)?;
    if options.check {
        check::run(env, &layout)?;
    }
    Ok(())
}

fn make(env: &BuildEnv, layout: &Layout) -> Result<()> {
    for dir in [&layout.staged, &layout.packages] {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        make_world_readable_dir(dir)?;
    }
    timed("static programs", || programs::build(env, layout))?;
    timed("completions and manual pages", || programs::describe(env, layout))?;
    timed("licences", || licences::write(env, layout))?;
    timed("tarball", || tarball::make(env, layout))?;
    timed("Debian packages", || deb::make(env, layout))?;
    sums(env, &layout.packages)?;
    println!("\n{}", layout.packages.display());
    for path in files_below(&layout.packages)? {
        let bytes = fs::metadata(layout.packages.join(&path))?.len();
        println!("    {:>9} KiB  {}", bytes.div_ceil(1024), path.display());
    }
    Ok(())
}

impl Layout {
    fn find(env: &BuildEnv) -> Result<Self> {
        let told = process::output(env.command("rustc").arg("-vV"))?;
        let triple = static_triple(&String::from_utf8_lossy(&told))?;
        let manifest = fs::read_to_string(env.root.join("Cargo.toml"))?;
        let version = manifest
            .lines()
            .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
            .context("Cargo.toml names no version")?
            .to_owned();
        let target_dir = env.target_dir.join("dist");
        let staged = target_dir.join(&triple).join("release/dist");
        let packages = target_dir.join("packages");
        let commit = env.command("git").args(["log", "-1", "--format=%ct"]).output()?;
        let time = String::from_utf8_lossy(&commit.stdout).trim().to_owned();
        // An exported tree has no commit; then all files are of 1970.
        let time = if time.is_empty() { "0".to_owned() } else { time };
        Ok(Self { triple, version, target_dir, staged, packages, time })
    }

    /// The tarball's name without its endings, and that of the directory in it.
    fn name(&self) -> String {
        let architecture = self.triple.split('-').next().unwrap_or_default();
        format!("umbra-{}-{architecture}-linux", self.version)
    }
}

/// The triple for which static programs are built on this host, out of what `rustc -vV` says.
fn static_triple(told: &str) -> Result<String> {
    let host = told
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc -vV names no host")?;
    if !host.ends_with("-linux-gnu") {
        bail!("packages are made on Linux with glibc, and this is {host}");
    }
    Ok(host.to_owned())
}

/// Writes `SHA256SUMS` for every file below a directory.
fn sums(env: &BuildEnv, dir: &Path) -> Result<()> {
    let paths = files_below(dir)?;
    let told = process::output(env.command("sha256sum").current_dir(dir).args(&paths))?;
    fs::write(dir.join(SUMS_NAME), told)?;
    Ok(())
}

/// Paths of all files below a directory, relative to it, in order.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(inner) = dirs.pop() {
        for entry in fs::read_dir(dir.join(&inner))? {
            let entry = entry?;
            let path = inner.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                dirs.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Does something, prints what it was and how long it took.
fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let done = work().with_context(|| what.to_owned())?;
    println!("{what}: {:.1} s", begin.elapsed().as_secs_f64());
    Ok(done)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::static_triple;

    #[test]
    fn static_programs_are_for_the_host_with_glibc() {
        let told = "rustc 1.95.0\nbinary: rustc\nhost: aarch64-unknown-linux-gnu\nrelease: 1.95.0";
        assert_eq!(static_triple(told).unwrap(), "aarch64-unknown-linux-gnu");
        assert!(static_triple("host: x86_64-unknown-linux-musl").is_err());
        assert!(static_triple("host: x86_64-apple-darwin").is_err());
        assert!(static_triple("rustc 1.95.0").is_err());
    }
}
