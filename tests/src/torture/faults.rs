//! Calls of the system that fail under the vault: a library (`faults.c`) that is loaded into it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::trouble::up_to_power;
use crate::images::Noise;
use crate::must;

/// The library's source.
const SOURCE: &str = include_str!("faults.c");

/// What fails, where, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The first name below the store's directory, or "any".
    pub part: &'static str,
    /// Which calls: write, sync, rename, create, any.
    pub call: &'static str,
    /// With what: eio, enospc, short.
    pub error: &'static str,
    /// at, from, one-in.
    pub when: &'static str,
    /// The number that belongs to it.
    pub count: u64,
    /// For one-in.
    pub seed: u64,
}

/// Parts of a store that are written.
pub const PARTS: [&str; 6] = ["open", "index", "log", "receipts", "packs", "any"];
/// Calls that fail.
pub const CALLS: [&str; 5] = ["write", "sync", "rename", "create", "any"];
/// Errors they fail with.
pub const ERRORS: [&str; 3] = ["eio", "enospc", "short"];

impl Fault {
    /// A random one.
    pub fn random(noise: &mut Noise) -> Self {
        let mut one_of = |list: &[&'static str]| {
            let number = noise.below(u64::try_from(list.len()).unwrap_or(1));
            list.get(usize::try_from(number).unwrap_or_default()).copied().unwrap_or("any")
        };
        let (part, call, error) = (one_of(&PARTS), one_of(&CALLS), one_of(&ERRORS));
        let when = one_of(&["at", "at", "from", "one-in"]);
        let count = match when {
            "one-in" => 2 + noise.below(40),
            _ => up_to_power(noise, 7),
        };
        // A short write is an error of nobody; whoever writes goes on behind it.
        let call = if error == "short" { "write" } else { call };
        Self { part, call, error, when, count, seed: noise.next_number() >> 1 }
    }

    /// Puts it under the program of a command.
    ///
    /// # Errors
    /// When the library cannot be built.
    pub fn arm(&self, command: &mut Command, store: &Path, library: &Path) {
        // The kernel's name of the directory, which is what the library sees.
        let dir = store.canonicalize().unwrap_or_else(|_| store.to_owned());
        command
            .env("LD_PRELOAD", library)
            .env("UMBRA_FAULT_DIR", dir)
            .env("UMBRA_FAULT_PART", self.part)
            .env("UMBRA_FAULT_CALL", self.call)
            .env("UMBRA_FAULT_ERROR", self.error)
            .env("UMBRA_FAULT_WHEN", self.when)
            .env("UMBRA_FAULT_COUNT", self.count.to_string())
            .env("UMBRA_FAULT_SEED", self.seed.to_string())
            .env("UMBRA_FAULT_LOG", log_of(store));
    }
}

/// Where the calls that failed are told.
fn log_of(store: &Path) -> PathBuf {
    store.with_extension("faults")
}

/// How many calls failed since this was asked before.
pub fn take_count(store: &Path) -> u64 {
    let told = fs::read(log_of(store)).unwrap_or_default();
    // Without it the next count begins at zero, too.
    let _ = fs::remove_file(log_of(store));
    u64::try_from(told.iter().filter(|byte| **byte == b'\n').count()).unwrap_or_default()
}

/// Builds the library, once for each version of its source.
///
/// # Errors
/// Why it cannot be built or used here: no compiler, no seccomp.
pub fn library() -> Result<PathBuf> {
    let cache = std::env::var_os("UMBRA_TEST_CACHE_DIR");
    let dir = cache.map_or_else(std::env::temp_dir, PathBuf::from);
    fs::create_dir_all(&dir)?;
    let name = blake3::hash(SOURCE.as_bytes()).to_hex();
    let built = dir.join(format!("faults-{}.so", name.get(..16).context("a hash is longer")?));
    if built.exists() {
        return Ok(built);
    }
    let place = tempfile::tempdir_in(&dir)?;
    let (source, aside) = (place.path().join("faults.c"), place.path().join("faults.so"));
    fs::write(&source, SOURCE)?;
    must(Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&aside).arg(&source))?;
    // A trial: where the kernel has no seccomp, this fails.
    must(
        Command::new("/bin/true")
            .env("LD_PRELOAD", &aside)
            .env("UMBRA_FAULT_DIR", place.path())
            .env("UMBRA_FAULT_LOG", place.path().join("log")),
    )?;
    fs::rename(aside, &built)?;
    Ok(built)
}
