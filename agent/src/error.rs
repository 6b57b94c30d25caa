//! Why a command of the agent ended without doing all it was asked for.

use std::io;
use std::path::PathBuf;

/// The result of the agent's own operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the agent. Each says what, where, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused an operation on a file or device.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The operation, as a verb phrase.
        what: &'static str,
        /// The file or device.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A source or target was refused.
    #[error("{path} is refused: {reason}; {hint}")]
    Refused {
        /// The source or target.
        path: PathBuf,
        /// Why.
        reason: String,
        /// What to do next.
        hint: String,
    },
    /// What was named does not exist.
    #[error("{what}; {hint}")]
    NotFound {
        /// What was looked for and where.
        what: String,
        /// What to do next.
        hint: String,
    },
    /// A name or option that can mean nothing or several things.
    #[error("{what}; {hint}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do next.
        hint: String,
    },
    /// Bytes from the vault are not what their name says.
    #[error("damage in {what}: {detail}; {hint}")]
    Damage {
        /// The snapshot, file or range.
        what: String,
        /// What was found.
        detail: String,
        /// What to do next.
        hint: String,
    },
    /// The work was done except for what is named.
    #[error("{what}")]
    Partial {
        /// What is missing, counted and named.
        what: String,
    },
    /// No vault answers there.
    #[error("no vault at {url}: {reason}; {hint}")]
    NoVault {
        /// The vault's address.
        url: String,
        /// Why it is none.
        reason: String,
        /// What to do next.
        hint: String,
    },
    /// The local store cannot be used; the vault's own words and exit code.
    #[error("{message}")]
    Store {
        /// What, where, and what to do next.
        message: String,
        /// The exit code that goes with it.
        exit_code: u8,
    },
    /// The vault refused or failed.
    #[error("{0}")]
    Vault(#[from] umbra_net::NetError),
    /// Stored bytes do not decode.
    #[error("{0}")]
    Format(#[from] umbra_common::Error),
    /// A promise of this program does not hold: a bug.
    #[error("internal error: {0}; nothing was committed, please report this")]
    Internal(String),
}

impl Error {
    /// Returns the exit code that CLI.md gives to this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Partial { .. } => 3,
            Self::Damage { .. } | Self::Format(_) => 4,
            Self::Refused { .. } => 5,
            Self::NoVault { .. } => 10,
            Self::Store { exit_code, .. } => *exit_code,
            Self::Vault(error) => error.exit_code(),
            Self::Io { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                14
            }
            Self::Io { .. } | Self::NotFound { .. } | Self::Internal(_) => 1,
        }
    }
}
