//! The static programs, and what they say of themselves: completions and manual pages.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use super::{Layout, PROGRAMS, Program};
use crate::env::{BuildEnv, make_world_readable_dir};
use crate::process;

/// Links glibc and, since rustc then prefers static libraries, libstdc++ into the programs.
const STATIC: &str = "-C target-feature=+crt-static";

/// What ccache leaves out when it compares: crate cc hands it to the compiler in static builds, where it changes nothing, and
/// with it none of RocksDB's objects would be found.
const SAME_OBJECTS: &str = "-static";

/// The shells, as the programs call them.
const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// Builds both programs, proves that they need no library and sets them without debug information into `bin`.
///
/// # Errors
/// When one cannot be built, or needs a library.
pub(super) fn build(env: &BuildEnv, layout: &Layout) -> Result<()> {
    // The target is named although it is the host's, so that build scripts and macros stay dynamic.
    let mut cargo = env.cargo(&["build", "--release", "--locked", "--target", &layout.triple]);
    for program in PROGRAMS {
        cargo.args(["-p", program.crate_name]);
    }
    cargo.env("CARGO_TARGET_DIR", &layout.target_dir);
    cargo.env("CCACHE_IGNOREOPTIONS", SAME_OBJECTS);
    cargo.env("RUSTFLAGS", STATIC).env_remove("CARGO_ENCODED_RUSTFLAGS");
    process::run(&mut cargo)?;
    let bin = layout.staged.join("bin");
    make_world_readable_dir(&bin)?;
    for Program { name, .. } in PROGRAMS {
        let built = layout.target_dir.join(&layout.triple).join("release").join(name);
        let program = bin.join(name);
        fs::copy(&built, &program)?;
        // Function names stay, so that a backtrace says something.
        process::output(env.command("strip").arg("--strip-debug").arg(&program))?;
        prove_static(env, &program)?;
        println!(
            "    {name}: {} KiB, {} KiB with debug information",
            fs::metadata(&program)?.len().div_ceil(1024),
            fs::metadata(&built)?.len().div_ceil(1024)
        );
    }
    Ok(())
}

fn prove_static(env: &BuildEnv, program: &Path) -> Result<()> {
    let arguments = ["--wide", "--program-headers", "--dynamic"];
    let told = process::output(env.command("readelf").args(arguments).arg(program))?;
    let needs = foreign_needs(&String::from_utf8_lossy(&told));
    if !needs.is_empty() {
        bail!("{} is not static: {}", program.display(), needs.join(", "));
    }
    Ok(())
}

/// What a program wants from the system that it runs on, out of what readelf prints: a loader, libraries.
fn foreign_needs(told: &str) -> Vec<String> {
    let wanted = |line: &&str| {
        let mut words = line.split_whitespace();
        words.next() == Some("INTERP") || words.next() == Some("(NEEDED)")
    };
    told.lines().filter(wanted).map(|line| line.trim().to_owned()).collect()
}

/// Lets the static programs write their completions and manual pages into directories of their own.
///
/// # Errors
/// When a program does not run here.
pub(super) fn describe(env: &BuildEnv, layout: &Layout) -> Result<()> {
    for Program { name, .. } in PROGRAMS {
        let dir = layout.staged.join(name);
        make_world_readable_dir(&dir)?;
        let program = layout.staged.join("bin").join(name).to_string_lossy().into_owned();
        for shell in SHELLS {
            let script = process::output(env.command(&program).args(["completions", shell]))?;
            fs::write(dir.join(shell), script)?;
        }
        process::output(env.command(&program).arg("man").arg(dir.join("man")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::foreign_needs;

    #[test]
    fn loader_and_libraries_are_found_and_static_programs_have_none() {
        let dynamic = "
  INTERP         0x000318 0x0000000000000318 0x00001c 0x00001c R   0x1
      [Requesting program interpreter: /lib64/ld-linux-x86-64.so.2]
 0x0000000000000001 (NEEDED)             Shared library: [libstdc++.so.6]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x000000000000000c (INIT)               0x1000";
        assert_eq!(foreign_needs(dynamic).len(), 3);
        let fixed = "
  LOAD           0x000000 0x0000000000000000 0x0000000000000000 0x0338e8 R   0x1000
 0x000000006ffffffb (FLAGS_1)            Flags: NOW PIE";
        assert!(foreign_needs(fixed).is_empty());
    }
}
