//! The tarball: a tree that can be copied below /usr/local.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Layout, PROGRAMS, Program, sums};
use crate::env::{BuildEnv, make_world_readable_dir};
use crate::process;

/// From where in the checkout to where in the tarball.
const FILES: &[(&str, &str)] = &[
    ("README.md", "share/doc/umbra/README.md"),
    ("CHANGELOG.md", "share/doc/umbra/CHANGELOG.md"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("vault/packaging/vault.toml", "share/doc/umbra/vault.toml"),
    ("vault/packaging/umbra-vault.sysusers", "lib/sysusers.d/umbra-vault.conf"),
    ("vault/packaging/Containerfile", "Containerfile"),
];

/// The unit, which must name the program by its whole path.
const UNIT: (&str, &str) =
    ("vault/packaging/umbra-vault.service", "lib/systemd/system/umbra-vault.service");

/// Directories that the container needs, owned by its user.
const CONTAINER_DIRS: [&str; 2] = ["container/store", "container/run"];

/// Writes the tree and packs it. Twice from the same programs it is the same file.
///
/// # Errors
/// When a file is missing or tar fails.
pub(super) fn make(env: &BuildEnv, layout: &Layout) -> Result<()> {
    let name = layout.name();
    let tree = layout.staged.join(&name);
    for (from, to) in FILES {
        copy(&env.root.join(from), &tree.join(to))?;
    }
    for Program { name, .. } in PROGRAMS {
        copy(&layout.staged.join("bin").join(name), &tree.join("bin").join(name))?;
        copy_description(&layout.staged.join(name), &tree.join("share"), name)?;
    }
    copy(&layout.staged.join("THIRD-PARTY.md"), &tree.join("THIRD-PARTY.md"))?;
    let unit = fs::read_to_string(env.root.join(UNIT.0)).context(UNIT.0)?;
    make_world_readable_dir(tree.join(UNIT.1).parent().unwrap_or(&tree))?;
    fs::write(tree.join(UNIT.1), unit_below_usr_local(&unit)?)?;
    for dir in CONTAINER_DIRS {
        make_world_readable_dir(&tree.join(dir))?;
    }
    sums(env, &tree)?;
    let packed = layout.packages.join(format!("{name}.tar.gz"));
    let mut tar = env.command("tar");
    tar.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mode=u+rwX,go+rX,go-w", &format!("--mtime=@{}", layout.time)])
        // Not xz or zstd: a bare Debian 11 unpacks only this.
        .args(["--use-compress-program", "gzip -9n", "--file"])
        .arg(&packed)
        .arg("--directory")
        .arg(&layout.staged)
        .arg(&name);
    process::output(&mut tar)?;
    Ok(())
}

fn copy_description(from: &Path, share: &Path, name: &str) -> Result<()> {
    let completions = [
        ("bash", format!("bash-completion/completions/{name}")),
        ("zsh", format!("zsh/site-functions/_{name}")),
        ("fish", format!("fish/vendor_completions.d/{name}.fish")),
    ];
    for (shell, to) in completions {
        copy(&from.join(shell), &share.join(to))?;
    }
    for page in fs::read_dir(from.join("man"))? {
        let page = page?;
        copy(&page.path(), &share.join("man/man1").join(page.file_name()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        make_world_readable_dir(dir)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

/// The unit of the Debian package with the path at which the tarball's programs lie.
fn unit_below_usr_local(unit: &str) -> Result<String> {
    let (packaged, local) = ("ExecStart=/usr/bin/", "ExecStart=/usr/local/bin/");
    if unit.matches(packaged).count() != 1 {
        anyhow::bail!("{} does not start one program in /usr/bin", UNIT.0);
    }
    Ok(unit.replace(packaged, local))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::unit_below_usr_local;

    #[test]
    fn the_unit_starts_the_program_where_the_tarball_goes() {
        let unit = "[Service]\nExecStart=/usr/bin/umbra-vault serve\nUser=umbra-vault\n";
        let local = unit_below_usr_local(unit).unwrap();
        assert!(local.contains("\nExecStart=/usr/local/bin/umbra-vault serve\n"));
        assert!(unit_below_usr_local("[Service]\nExecStart=/opt/umbra-vault\n").is_err());
        let shipped = include_str!("../../../vault/packaging/umbra-vault.service");
        assert!(unit_below_usr_local(shipped).is_ok());
    }
}
