//! The build environment, decided in one place: where build results go, which compiler cache is used, what cargo is told.
//!
//! Every command of xtask builds with the same environment, profile and package selection (`--release --workspace`).
//! A narrower selection can change the features of a shared dependency, and RocksDB would be compiled a second time
//! (about 30 CPU-minutes).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result};

/// The machine-wide cache directory, used where it can be written (by root, or once root made it writable).
const SYSTEM_CACHE_DIR: &str = "/var/cache/umbra";

/// Directory in which Debian keeps compiler wrappers that go through ccache. It is put before `PATH`: naming ccache in
/// `CXX` would become part of librocksdb-sys' fingerprint, and builds with and without it would undo each other.
const CCACHE_WRAPPER_DIR: &str = "/usr/lib/ccache";

/// Variables that `cargo run` gives to xtask and that must not reach a nested cargo: some build scripts (ring's) run
/// again whenever one of them changes.
const CARGO_RUN_VARIABLES: &[&str] = &[
    "CARGO",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_LINKS",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "LD_LIBRARY_PATH",
    "OUT_DIR",
    "RUST_RECURSION_COUNT",
];

/// Where things are and how they are built.
pub(crate) struct BuildEnv {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Holds everything that is kept between runs: build results, compiler cache, Python environment, demo disks.
    pub(crate) cache_dir: PathBuf,
    /// Cargo's target directory: an existing `CARGO_TARGET_DIR`, else `target` in the cache directory.
    pub(crate) target_dir: PathBuf,
    search_path: OsString,
}

impl BuildEnv {
    /// Finds the checkout and makes the cache directory, readable by everybody.
    ///
    /// # Errors
    /// When no cache directory can be made.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask stands in a workspace")?
            .to_owned();
        let root = env::var_os("CARGO_MANIFEST_DIR")
            .and_then(|dir| Path::new(&dir).parent().map(Path::to_owned))
            .unwrap_or(root);
        let cache_dir = cache_dir()?;
        let target_dir = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) if !dir.is_empty() => root.join(dir),
            _ => cache_dir.join("target"),
        };
        make_world_readable_dir(&target_dir)?;
        Ok(Self { root, cache_dir, target_dir, search_path: search_path()? })
    }

    /// Directory of the built programs.
    pub(crate) fn bin_dir(&self) -> PathBuf {
        self.target_dir.join("release")
    }

    /// True when no build of RocksDB stands in the target directory yet.
    pub(crate) fn rocksdb_is_cold(&self) -> bool {
        let Ok(entries) = fs::read_dir(self.bin_dir().join("build")) else { return true };
        !entries.flatten().any(|entry| {
            entry.file_name().to_string_lossy().starts_with("librocksdb-sys-")
                && entry.path().join("out/librocksdb.a").exists()
        })
    }

    /// A program with xtask's search path, run in the checkout.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("PATH", &self.search_path);
        command
    }

    /// `cargo ARGUMENT...` in the build environment.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.calling_cargo("cargo");
        command.args(arguments);
        command
    }

    /// A program that is cargo or calls it, in the build environment.
    pub(crate) fn calling_cargo(&self, program: &str) -> Command {
        let mut command = self.command(program);
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || CARGO_RUN_VARIABLES.contains(&text.as_ref()) {
                command.env_remove(&name);
            }
        }
        command.env("CARGO_TARGET_DIR", &self.target_dir);
        if env::var_os("CCACHE_DIR").is_none() {
            command.env("CCACHE_DIR", self.cache_dir.join("ccache"));
        }
        command
    }

    /// Finds a program by name in xtask's search path.
    pub(crate) fn which(&self, program: &str) -> Option<PathBuf> {
        env::split_paths(&self.search_path).map(|dir| dir.join(program)).find(|path| path.is_file())
    }

    /// The Python that has the modules of docs/formats: the one of our own environment where it was made.
    pub(crate) fn python(&self) -> PathBuf {
        let own = self.cache_dir.join("python/bin/python3");
        if own.exists() { own } else { PathBuf::from("python3") }
    }
}

/// True for the superuser, as `id -u` tells (xtask has no unsafe code and no libc).
pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Makes a directory and its missing parents, readable by everybody whatever the umask says.
///
/// # Errors
/// When it can neither be made nor is there.
pub(crate) fn make_world_readable_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for dir in missing {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot set the mode of {}", dir.display()))?;
    }
    Ok(())
}

fn cache_dir() -> Result<PathBuf> {
    let system = Path::new(SYSTEM_CACHE_DIR);
    if make_world_readable_dir(system).is_ok() && is_writable(system) {
        return Ok(system.to_owned());
    }
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
        _ => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    let dir = base.join("umbra");
    make_world_readable_dir(&dir)?;
    Ok(dir)
}

fn is_writable(dir: &Path) -> bool {
    let probe = dir.join(format!(".probe-{}", std::process::id()));
    let written = fs::write(&probe, b"").is_ok();
    // A probe that cannot be removed does no harm; the answer is known.
    let _ = fs::remove_file(&probe);
    written
}

/// ccache's wrappers first, the system directories (absent from an ordinary user's path) last.
fn search_path() -> Result<OsString> {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&inherited).collect();
    if Path::new(CCACHE_WRAPPER_DIR).is_dir() && dirs.first() != Some(&CCACHE_WRAPPER_DIR.into()) {
        dirs.insert(0, CCACHE_WRAPPER_DIR.into());
    }
    for dir in ["/usr/sbin", "/sbin"] {
        if !dirs.iter().any(|known| known == Path::new(dir)) {
            dirs.push(dir.into());
        }
    }
    env::join_paths(dirs).context("PATH cannot be put together")
}
