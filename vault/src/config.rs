//! `vault.toml`: what the command line leaves out.

use crate::error::{Result, VaultError};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The file where none is named.
const SYSTEM: &str = "/etc/umbra/vault.toml";

/// What the file may say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The store's directory.
    pub(crate) store: Option<PathBuf>,
    /// Where to listen, `ADDR:PORT`.
    pub(crate) listen: Option<String>,
}

impl Config {
    /// Reads the named file, else the system's; a file that is not there says nothing.
    pub(crate) fn find(named: Option<&Path>) -> Result<Self> {
        let path = named.unwrap_or(Path::new(SYSTEM));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => {
                return Err(VaultError::Io {
                    what: format!("cannot read {}", path.display()),
                    source,
                });
            }
        };
        toml::from_str(&text).map_err(|error| VaultError::Usage {
            what: format!("{}: {}", path.display(), error.message()),
            hint: "it may hold `store` and `listen`".to_owned(),
        })
    }
}
