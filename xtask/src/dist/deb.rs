//! The Debian packages: what is in them stands in `[package.metadata.deb]` of the two crates, cargo-deb packs it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Layout, PROGRAMS};
use crate::env::BuildEnv;
use crate::process;

const CARGO_DEB_VERSION: &str = "3.8.0";

/// Packs both packages.
///
/// # Errors
/// When cargo-deb cannot be installed or fails.
pub(super) fn make(env: &BuildEnv, layout: &Layout) -> Result<()> {
    let cargo_deb = install(env)?.to_string_lossy().into_owned();
    for program in PROGRAMS {
        let mut pack = env.calling_cargo(&cargo_deb);
        pack.args(["--no-build", "--no-strip", "--quiet", "--locked", "--target", &layout.triple])
            .args(["--package", program.crate_name, "--output"])
            .arg(&layout.packages)
            .env("CARGO_TARGET_DIR", &layout.target_dir)
            .env("SOURCE_DATE_EPOCH", &layout.time);
        process::run(&mut pack)?;
    }
    Ok(())
}

/// Finds cargo-deb in the cache directory, or installs it there: once, about two minutes.
fn install(env: &BuildEnv) -> Result<PathBuf> {
    let root = env.cache_dir.join(format!("cargo-deb-{CARGO_DEB_VERSION}"));
    let program = root.join("bin/cargo-deb");
    if program.exists() {
        return Ok(program);
    }
    let build_dir = root.join("build");
    let mut cargo = env.cargo(&["install", "--locked", "cargo-deb", "--version"]);
    cargo.arg(CARGO_DEB_VERSION).arg("--root").arg(&root).env("CARGO_TARGET_DIR", &build_dir);
    process::run(&mut cargo)?;
    fs::remove_dir_all(&build_dir).context("cargo-deb's build results")?;
    Ok(program)
}
