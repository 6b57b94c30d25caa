//! The Debian packages: what is in them stands in `[package.metadata.deb]` of the two crates, cargo-deb packs it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Layout, PROGRAMS, Program};
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
        compress_manual_pages(env, layout, program)?;
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

/// Debian wants its manual pages compressed (policy 12.1), and cargo-deb leaves those of the `man1`
/// directory as they are. The same pages give the same bytes.
fn compress_manual_pages(env: &BuildEnv, layout: &Layout, program: Program) -> Result<()> {
    let dir = layout.staged.join(program.name).join("man");
    let mut gzip = env.command("gzip");
    gzip.args(["--best", "--no-name", "--keep", "--force"]);
    for page in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = page?.path();
        if path.extension().is_some_and(|extension| extension == "1") {
            gzip.arg(path);
        }
    }
    process::output(&mut gzip).map(drop)
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
