//! umbra, with the vault in a directory or running.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Restored, Source, Tool};
use crate::env::BuildEnv;
use crate::programs::{Machine, User, Vault};

/// The name under which the disk is known.
const DISK: &str = "disk";

/// umbra on one machine.
pub(in crate::bench) struct Umbra<'e> {
    machine: Machine<'e>,
    store: PathBuf,
    vault: Option<Vault<'e>>,
}

impl<'e> Umbra<'e> {
    /// With `file:///DIR`.
    ///
    /// # Errors
    /// When the store cannot be made.
    pub(in crate::bench) fn embedded(env: &'e BuildEnv, place: &Path) -> Result<Self> {
        let machine = Machine::with_store(env, place, "machine")?;
        let store = machine.home.join("store");
        Ok(Self { machine, store, vault: None })
    }

    /// With `umbra-vault serve` on loopback.
    ///
    /// # Errors
    /// When the vault does not serve.
    pub(in crate::bench) fn running(env: &'e BuildEnv, place: &Path) -> Result<Self> {
        let vault = Vault::create(env, place)?;
        let machine = Machine::enroll(env, place, &vault, "machine", User::Same)?;
        let store = vault.store().to_owned();
        Ok(Self { machine, store, vault: Some(vault) })
    }

    /// A backup of standard input.
    pub(in crate::bench) fn stream(&self) -> Command {
        let mut command = self.machine.umbra();
        command.args(["--json", "--no-progress", "--disk", DISK, "backup", "-"]);
        command
    }

    /// umbra with what names disk and machine.
    pub(in crate::bench) fn command(&self, source: Source<'_>) -> Command {
        let mut command = self.machine.umbra();
        command.args(["--json", "--no-progress", "--disk", DISK]);
        // To a running vault a machine is what its key says.
        if self.vault.is_none() {
            command.args(["--machine", source.machine]);
        }
        command
    }
}

impl Tool for Umbra<'_> {
    fn store(&self) -> &Path {
        &self.store
    }

    fn backup(&self, source: Source<'_>) -> Command {
        let mut command = self.command(source);
        // As the others: every byte of the raw file, compared with `cmp` after the way back.
        command.args(["backup", "--free", "keep"]).arg(&source.disk.path);
        command
    }

    fn restore(&self, source: Source<'_>, into: &Path) -> Command {
        let mut command = self.command(source);
        command.args(["recover", "latest", "--to"]).arg(into.join(&source.disk.name));
        command
    }

    fn restored(&self, source: Source<'_>, into: &Path) -> Restored {
        Restored { copy: into.join(&source.disk.name), original: source.disk.path.clone() }
    }

    fn vault(&self) -> Option<u32> {
        self.vault.as_ref().map(Vault::pid)
    }
}
