//! `completions` and `man`.

use super::output::Output;
use crate::error::{Result, VaultError};
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// Prints a completion script.
pub(super) fn completions(shell: clap_complete::Shell, mut command: clap::Command) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "umbra-vault", &mut script);
    std::io::stdout().write_all(&script).map_err(|source| VaultError::Io {
        what: "cannot write to standard output".to_owned(),
        source,
    })?;
    Ok(0)
}

/// Writes one manual page a command.
pub(super) fn man(dir: &Path, command: clap::Command, output: &Output) -> Result<u8> {
    std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir)).map_err(
        |source| VaultError::Io {
            what: format!("cannot write manual pages into {}", dir.display()),
            source,
        },
    )?;
    let shown = dir.display();
    output
        .text(&format!("wrote the manual pages; read one with `man -l {shown}/umbra-vault.1`"))?;
    output.summary(json!({ "dir": dir }))?;
    Ok(0)
}
