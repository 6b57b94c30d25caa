//! The proof: tarball, packages and container in systems that hold nothing else.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::chroot::{Root, Script};
use super::dns::{self, NameServer};
use super::{Layout, container, files_below, timed};
use crate::env::{BuildEnv, make_world_readable_dir};
use crate::process;

/// Code name and name of the systems.
const SYSTEMS: [(&str, &str); 2] = [("bullseye", "Debian 11"), ("bookworm", "Debian 12")];

/// What is run in each, in this order, in one system: the packages last, for dpkg must not find the tarball's files.
const SCRIPTS: [(&str, &str); 4] = [
    ("tarball.sh", include_str!("checks/tarball.sh")),
    ("vault.sh", include_str!("checks/vault.sh")),
    ("names.sh", include_str!("checks/names.sh")),
    ("packages.sh", include_str!("checks/packages.sh")),
];

/// Exposure that `systemd-analyze security` may give the unit, in tenths: 0 is none, 100 is all.
const EXPOSURE: &str = "--threshold=20";

/// Installs and runs everything in both systems.
///
/// # Errors
/// When a system cannot be made, or something does not hold.
pub(super) fn run(env: &BuildEnv, layout: &Layout) -> Result<()> {
    let place = env.cache_dir.join(format!("dist/run-{}", std::process::id()));
    make_world_readable_dir(&place)?;
    let checked = all(env, layout, &place);
    if let Err(error) = fs::remove_dir_all(&place) {
        println!("warning: {} stays behind: {error}", place.display());
    }
    checked?;
    println!("dist: tarball, packages and container do what they should");
    Ok(())
}

fn all(env: &BuildEnv, layout: &Layout, place: &Path) -> Result<()> {
    for (codename, name) in SYSTEMS {
        println!("\n{name}, essential packages and apt only");
        let root = timed("unpacked", || Root::debian(env, codename, place))?;
        timed(&format!("{name}: all checks"), || in_debian(env, layout, &root))
            .with_context(|| name.to_owned())?;
    }
    println!("\nContainer");
    let tree = layout.staged.join(layout.name());
    timed("container", || container::check(env, &tree, place))?;
    println!("\nUnit");
    unit(env, &place.join(SYSTEMS[1].0), place)
}

fn in_debian(env: &BuildEnv, layout: &Layout, root: &Root) -> Result<()> {
    let packages = root.dir.join("packages");
    make_world_readable_dir(&packages)?;
    for file in files_below(&layout.packages)? {
        fs::copy(layout.packages.join(&file), packages.join(&file))?;
    }
    let _names = NameServer::start()?;
    let variables = [
        format!("VERSION={}", layout.version),
        format!("NAME={}", layout.name()),
        format!("NAMESERVER={}", dns::ADDRESS),
    ];
    for (name, text) in SCRIPTS {
        root.script(env, &Script { name, text, variables: &variables })?;
    }
    Ok(())
}

/// Lets systemd judge the unit in the system where the package was installed last. The tools of this machine do it: a bare
/// system has no systemd, and running the unit would need one that runs.
fn unit(env: &BuildEnv, root: &Path, place: &Path) -> Result<()> {
    if env.which("systemd-analyze").is_none() {
        println!("    there is no systemd-analyze here: the unit was not judged");
        return Ok(());
    }
    let name = "umbra-vault.service";
    let packaged = fs::read_to_string(root.join("lib/systemd/system").join(name))
        .context("the unit is not where the package should have put it")?;
    // systemd looks for the program too: that of the package, seen from outside.
    let start = format!("ExecStart={}/usr/bin/", root.display());
    let copy = place.join(name);
    fs::write(&copy, packaged.replace("ExecStart=/usr/bin/", &start))?;
    let mut verify = env.command("systemd-analyze");
    let verified = verify.args(["verify", "--man=no"]).arg(&copy).output()?;
    // What it does not know it only warns of.
    ensure!(
        verified.status.success() && verified.stderr.is_empty(),
        "systemd-analyze verify: {}",
        String::from_utf8_lossy(&verified.stderr)
    );
    let mut security = env.command("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", EXPOSURE]).arg(&copy);
    let said = process::output(&mut security)?;
    let said = String::from_utf8_lossy(&said);
    println!("    {}", said.lines().last().unwrap_or_default().trim());
    Ok(())
}
