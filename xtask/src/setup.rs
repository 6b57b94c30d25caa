//! Installs what the machine lacks, and says before what it will do and cost.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::env::{BuildEnv, is_root};
use crate::process;

/// What the machine is to be made ready for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Building and every test.
    Test,
    /// Building and the demo.
    Demo,
    /// Building, the demo's disks, and what the bench compares with.
    Bench,
    /// Building and testing what is distributed.
    Dist,
    /// All of it but what only the bench needs.
    Everything,
}

/// Which purposes need a package.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Build,
    Tests,
    Demo,
    TestsAndDemo,
    Bench,
    DemoAndDist,
}

impl For {
    fn applies(self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Everything => self != For::Bench,
            Purpose::Test => !matches!(self, For::Demo | For::DemoAndDist | For::Bench),
            Purpose::Demo => !matches!(self, For::Tests | For::Bench),
            Purpose::Bench => self != For::Tests,
            Purpose::Dist => matches!(self, For::Build | For::DemoAndDist),
        }
    }
}

/// How a package is known to be there.
enum Probe {
    Program(&'static str),
    /// The same, and root does without it.
    ProgramUnlessRoot(&'static str),
    /// A libclang that can be loaded at run time; bindgen makes RocksDB's bindings with it.
    Libclang,
}

struct Package {
    debian_name: &'static str,
    needed_for: For,
    probe: Probe,
    reason: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        debian_name: "g++",
        needed_for: For::Build,
        probe: Probe::Program("g++"),
        reason: "compiles RocksDB",
    },
    Package {
        debian_name: "gcc",
        needed_for: For::Tests,
        probe: Probe::Program("cc"),
        reason: "builds the library that lets calls of the system fail under a vault",
    },
    Package {
        debian_name: "ccache",
        needed_for: For::Build,
        probe: Probe::Program("ccache"),
        reason: "keeps RocksDB's objects for the next target directory",
    },
    Package {
        debian_name: "libclang-dev",
        needed_for: For::Build,
        probe: Probe::Libclang,
        reason: "makes RocksDB's bindings",
    },
    Package {
        debian_name: "zstd",
        needed_for: For::TestsAndDemo,
        probe: Probe::Program("zstd"),
        reason: "unpacks test images and the demo's system",
    },
    Package {
        debian_name: "e2fsprogs",
        needed_for: For::TestsAndDemo,
        probe: Probe::Program("debugfs"),
        reason: "makes and checks ext4 file systems",
    },
    Package {
        debian_name: "gdisk",
        needed_for: For::TestsAndDemo,
        probe: Probe::Program("sgdisk"),
        reason: "makes and checks GPT disks",
    },
    Package {
        debian_name: "eatmydata",
        needed_for: For::TestsAndDemo,
        probe: Probe::Program("eatmydata"),
        reason: "keeps sgdisk from syncing the whole machine for a test image",
    },
    Package {
        debian_name: "attr",
        needed_for: For::Tests,
        probe: Probe::Program("setfattr"),
        reason: "sets extended attributes on test files",
    },
    Package {
        debian_name: "acl",
        needed_for: For::Tests,
        probe: Probe::Program("setfacl"),
        reason: "sets access lists on test files",
    },
    Package {
        debian_name: "python3",
        needed_for: For::Tests,
        probe: Probe::Program("python3"),
        reason: "runs the independent checkers",
    },
    Package {
        debian_name: "mmdebstrap",
        needed_for: For::DemoAndDist,
        probe: Probe::Program("mmdebstrap"),
        reason: "makes the Debian systems of the demo and for testing packages",
    },
    Package {
        debian_name: "uidmap",
        needed_for: For::Demo,
        probe: Probe::ProgramUnlessRoot("newuidmap"),
        reason: "lets mmdebstrap work without root",
    },
    Package {
        debian_name: "restic",
        needed_for: For::Bench,
        probe: Probe::Program("restic"),
        reason: "is compared with",
    },
    Package {
        debian_name: "borgbackup",
        needed_for: For::Bench,
        probe: Probe::Program("borg"),
        reason: "is compared with",
    },
    Package {
        debian_name: "casync",
        needed_for: For::Bench,
        probe: Probe::Program("casync"),
        reason: "is compared with",
    },
    Package {
        debian_name: "partclone",
        needed_for: For::Bench,
        probe: Probe::Program("partclone.ext4"),
        reason: "is compared with",
    },
    Package {
        debian_name: "time",
        needed_for: For::Bench,
        probe: Probe::Program("time"),
        reason: "tells CPU time and peak memory",
    },
];

/// Free space below which a first build is not begun.
const BUILD_BYTES: u64 = 6 << 30;

/// Installs what `purpose` needs and the machine lacks.
///
/// # Errors
/// When something is missing that cannot be installed here; the message says what to install.
pub(crate) fn install(env: &BuildEnv, purpose: Purpose) -> Result<()> {
    check_rust(env)?;
    let missing: Vec<&Package> = PACKAGES
        .iter()
        .filter(|package| package.needed_for.applies(purpose) && !is_present(env, package))
        .collect();
    announce(env, &missing)?;
    install_packages(env, &missing)?;
    for package in missing {
        if !is_present(env, package) {
            bail!("{} was installed, and what it is for is still missing", package.debian_name);
        }
    }
    if matches!(purpose, Purpose::Test | Purpose::Everything) {
        install_python_modules(env)?;
    }
    Ok(())
}

fn check_rust(env: &BuildEnv) -> Result<()> {
    let manifest = fs::read_to_string(env.root.join("Cargo.toml"))?;
    let wanted = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \""))
        .and_then(|rest| rest.split('"').next())
        .context("Cargo.toml names no rust-version")?;
    let told = process::output(env.command("rustc").arg("--version"))
        .context("Rust is missing: install it from https://rustup.rs, then run this again")?;
    let told = String::from_utf8_lossy(&told).trim().to_owned();
    let found = told.split_whitespace().nth(1).unwrap_or_default();
    if version_number(found) < version_number(wanted) {
        bail!(
            "this is {told}, and umbra needs Rust {wanted} or later: run `rustup update stable` \
             (https://rustup.rs), then run this again"
        );
    }
    Ok(())
}

fn version_number(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn is_present(env: &BuildEnv, package: &Package) -> bool {
    match package.probe {
        Probe::Program(program) => env.which(program).is_some(),
        Probe::ProgramUnlessRoot(program) => is_root() || env.which(program).is_some(),
        Probe::Libclang => env::var_os("LIBCLANG_PATH").is_some() || has_libclang(),
    }
}

fn has_libclang() -> bool {
    let versions = fs::read_dir("/usr/lib").into_iter().flatten().flatten().filter_map(|entry| {
        entry.file_name().to_str()?.starts_with("llvm-").then(|| entry.path().join("lib"))
    });
    let fixed =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    versions.chain(fixed.iter().map(|dir| Path::new(dir).to_owned())).any(|dir| {
        fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
            let name = entry.file_name();
            is_libclang(&name.to_string_lossy())
        })
    })
}

/// Tells whether a file of that name is what bindgen loads: `libclang.so`, `libclang.so.N`,
/// `libclang-N.so`, `libclang-N.so.M`. The C++ library `libclang-cpp.so.N` is another one.
///
/// SOURCE: crate clang-sys, `build/common.rs` and `build/dynamic.rs`.
fn is_libclang(name: &str) -> bool {
    name.strip_prefix("libclang").is_some_and(|rest| {
        let versioned = rest.starts_with('-') && rest.contains(".so");
        !rest.starts_with("-cpp") && (rest.starts_with(".so") || versioned)
    })
}

fn announce(env: &BuildEnv, missing: &[&Package]) -> Result<()> {
    println!("cache directory  {}", env.cache_dir.display());
    println!("build results    {}", env.target_dir.display());
    if !missing.is_empty() {
        println!("to be installed with apt-get:");
        for package in missing {
            println!("    {:<14} {}", package.debian_name, package.reason);
        }
    }
    if env.rocksdb_is_cold() {
        println!(
            "RocksDB is compiled once: about 30 CPU-minutes and, with everything else, 4 GB of disk"
        );
        let free = free_bytes(env, &env.target_dir)?;
        if free < BUILD_BYTES {
            bail!(
                "{} has {} MiB free, and a first build needs {} MiB: make room, or point \
                 CARGO_TARGET_DIR elsewhere",
                env.target_dir.display(),
                free >> 20,
                BUILD_BYTES >> 20
            );
        }
    }
    Ok(())
}

/// Bytes that may be written where this path is.
///
/// # Errors
/// When df tells none.
pub(crate) fn free_bytes(env: &BuildEnv, path: &Path) -> Result<u64> {
    let told = process::output(env.command("df").args(["-B1", "--output=avail"]).arg(path))?;
    let told = String::from_utf8_lossy(&told);
    told.lines().nth(1).and_then(|line| line.trim().parse().ok()).context("df told no number")
}

fn install_packages(env: &BuildEnv, missing: &[&Package]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.debian_name).collect();
    let by_hand = format!("apt-get install {}", names.join(" "));
    if env.which("apt-get").is_none() {
        let reasons: Vec<String> = missing
            .iter()
            .map(|package| format!("{} ({})", package.debian_name, package.reason))
            .collect();
        bail!("this machine has no apt-get; install what Debian calls: {}", reasons.join(", "));
    }
    let sudo = match (is_root(), env.which("sudo")) {
        (true, _) => false,
        (false, Some(_)) => true,
        (false, None) => {
            bail!("packages are missing and there is no sudo; as root, run: {by_hand}")
        }
    };
    process::run(&mut apt_get(env, sudo, &["update", "-q"]))
        .with_context(|| format!("the package lists cannot be read; by hand: {by_hand}"))?;
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(names);
    process::run(&mut apt_get(env, sudo, &arguments))
        .with_context(|| format!("the packages cannot be installed; by hand: {by_hand}"))
}

fn apt_get(env: &BuildEnv, sudo: bool, arguments: &[&str]) -> Command {
    let mut command = env.command(if sudo { "sudo" } else { "env" });
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
    command
}

/// The independent programs in docs/formats need Python's modules blake3, which Debian does not package, and zstandard.
fn install_python_modules(env: &BuildEnv) -> Result<()> {
    let has_modules = |python: &Path| {
        Command::new(python)
            .args(["-c", "import blake3, zstandard"])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    let dir = env.cache_dir.join("python");
    if has_modules(&env.python()) {
        return Ok(());
    }
    println!(
        "making a Python environment with the modules blake3 and zstandard in {}",
        dir.display()
    );
    let make_environment =
        || process::run(env.command("python3").args(["-m", "venv", "--clear"]).arg(&dir));
    if make_environment().is_err() {
        // Debian keeps ensurepip, without which an environment cannot be made, in a package of its own.
        let package = Package {
            debian_name: "python3-venv",
            needed_for: For::Tests,
            probe: Probe::Program("python3"),
            reason: "makes Python environments",
        };
        install_packages(env, &[&package])?;
        make_environment()?;
    }
    let install = ["-m", "pip", "install", "--quiet", "blake3", "zstandard"];
    process::run(Command::new(dir.join("bin/python3")).args(install))
}

#[cfg(test)]
mod tests {
    use super::{For, Purpose, is_libclang, version_number};

    #[test]
    fn versions_compare_by_number_not_by_text() {
        assert!(version_number("1.100.0") > version_number("1.88"));
        assert!(version_number("1.88.0") >= version_number("1.88"));
        assert!(version_number("1.87.0-nightly") < version_number("1.88"));
        assert!(version_number("") < version_number("1.88"));
    }

    #[test]
    fn the_cpp_library_is_not_libclang() {
        for name in ["libclang.so", "libclang.so.1", "libclang-14.so", "libclang-14.so.14.0.6"] {
            assert!(is_libclang(name), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclang-cpp.so", "libclangd.a", "libclang.a"] {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn a_purpose_installs_only_what_it_needs() {
        assert!(For::Build.applies(Purpose::Test) && For::TestsAndDemo.applies(Purpose::Test));
        assert!(!For::Demo.applies(Purpose::Test) && !For::Tests.applies(Purpose::Demo));
        assert!(For::Demo.applies(Purpose::Everything));
        assert!(For::Demo.applies(Purpose::Bench) && For::Bench.applies(Purpose::Bench));
        for other in [Purpose::Test, Purpose::Demo, Purpose::Everything] {
            assert!(!For::Bench.applies(other), "the peers are no part of ci");
        }
        assert!(For::Build.applies(Purpose::Dist) && !For::TestsAndDemo.applies(Purpose::Dist));
        assert!(For::DemoAndDist.applies(Purpose::Dist) && For::DemoAndDist.applies(Purpose::Demo));
        assert!(!For::DemoAndDist.applies(Purpose::Test));
    }
}
