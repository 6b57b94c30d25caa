//! The error of this crate.

use std::io::ErrorKind;
use std::path::PathBuf;
use umbra_common::wire::{Refusal, RefusalCode};
use umbra_store::Error as StoreError;

/// The result of what a vault does.
pub type Result<T, E = VaultError> = std::result::Result<T, E>;

/// What went wrong: what, where, and in [`hint`](Self::hint) what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The store.
    #[error("{}: {source}{}", .dir.display(), since(.source))]
    Store {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong.
        #[source]
        source: StoreError,
    },
    /// The network.
    #[error(transparent)]
    Net(#[from] umbra_net::NetError),
    /// A file, a socket, a signal.
    #[error("{what}")]
    Io {
        /// What was tried, with its path.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The command makes no sense as it stands.
    #[error("{what}")]
    Usage {
        /// What is wrong with it.
        what: String,
        /// What to write instead.
        hint: String,
    },
    /// The vault has nothing of that name.
    #[error("{what}")]
    NotFound {
        /// What was looked for.
        what: String,
        /// Where names are to be had.
        hint: String,
    },
    /// The vault of this store runs, and refused.
    #[error("{message}")]
    Running {
        /// Its words.
        message: String,
        /// What it suggests.
        hint: Option<String>,
        /// The exit code that it names.
        exit_code: u8,
    },
    /// A rebuild failed in a vault that serves: there is but half an index.
    #[error("the index could not be made anew, and the vault that served the store ends")]
    RebuildFailed(#[source] Box<VaultError>),
    /// Another vault with the same store id runs.
    #[error("a vault of store {store} runs already, on {other}")]
    Twin {
        /// The store's id.
        store: String,
        /// The directory of the other.
        other: String,
    },
    /// Something that was checked cannot be: a bug.
    #[error("a fault inside umbra-vault: {0}")]
    Internal(&'static str),
}

impl VaultError {
    /// Returns the exit code of a command that ends with this (CLI contract).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Store { source, .. } => store_code(source),
            Self::Net(error) => error.exit_code(),
            Self::Io { .. } | Self::NotFound { .. } | Self::Internal(_) => 1,
            Self::Usage { .. } => 2,
            Self::Running { exit_code, .. } => *exit_code,
            Self::RebuildFailed(source) => source.exit_code(),
            Self::Twin { .. } => 11,
        }
    }

    /// Says what to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store { dir, source } => store_hint(source, &dir.display().to_string()),
            Self::Usage { hint, .. } | Self::NotFound { hint, .. } => Some(hint.clone()),
            Self::Running { hint, .. } => hint.clone(),
            Self::RebuildFailed(_) => Some(
                "put right what is named there, then start `umbra-vault serve` again: it makes \
                 the index anew"
                    .to_owned(),
            ),
            Self::Twin { other, .. } => {
                Some(format!("is this a copy of {other}? stop that vault first"))
            }
            _ => None,
        }
    }
}

/// Adds since when to the error of a lock, in words.
fn since(error: &StoreError) -> String {
    match error.root() {
        StoreError::Locked { since, .. } => format!(" since {}", crate::rfc3339(*since)),
        _ => String::new(),
    }
}

fn store_code(error: &StoreError) -> u8 {
    match error.root() {
        StoreError::NotAStore { .. } => 10,
        StoreError::Locked { .. }
        | StoreError::LockLost { .. }
        | StoreError::Busy { .. }
        | StoreError::StillUnderWay => 11,
        StoreError::Unsupported { .. } => 13,
        StoreError::NoSpace { .. } => 14,
        StoreError::Corrupt { .. }
        | StoreError::Decode { .. }
        | StoreError::WrongBytes { .. }
        | StoreError::NotCollected { .. } => 4,
        _ => 1,
    }
}

fn store_hint(error: &StoreError, dir: &str) -> Option<String> {
    match error.root() {
        StoreError::NotAStore { .. } => {
            Some(format!("make a store with `umbra-vault init {dir}`, or name another directory"))
        }
        StoreError::Locked { .. } => {
            Some("wait for that command to end; `umbra --wait SECONDS` waits longer".to_owned())
        }
        StoreError::StillUnderWay => Some(
            "run it again when they are done, or let it wait longer (`gc --wait 12h`); a backup \
             that lost its connection is waited for a day, and not by `gc --now`"
                .to_owned(),
        ),
        StoreError::Busy { .. } => Some("try again when that is done".to_owned()),
        StoreError::NotCollected { .. } => Some(format!(
            "see what is wrong with `umbra-vault check --store {dir}`; nothing is collected while \
             something is missing"
        )),
        StoreError::Unsupported { .. } => Some("install a newer umbra-vault".to_owned()),
        StoreError::NoSpace { .. } => Some("make room on that file system".to_owned()),
        StoreError::NotEmpty { .. } => Some("name a new or an empty directory".to_owned()),
        StoreError::Corrupt { .. } => Some(format!(
            "keep a copy of it before anything else, then try `umbra-vault rebuild-index --store \
             {dir}`"
        )),
        StoreError::Kept { .. } => Some(
            "nothing was forgotten; leave them out, or end it with `umbra-vault unprotect`, \
             `umbra-vault hold --release`"
                .to_owned(),
        ),
        StoreError::Io { source, .. } => match source.kind() {
            ErrorKind::PermissionDenied => Some(
                "this user may not do that there: run it as the owner of the store, or root gives \
                 the store away with chown -R"
                    .to_owned(),
            ),
            ErrorKind::ReadOnlyFilesystem => Some(
                "the medium is read-only: list and restore from it, or mount it read-write"
                    .to_owned(),
            ),
            _ => None,
        },
        _ => None,
    }
}

/// Prints an error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent wrappers repeat their source.
        if !text.ends_with(&cause_text) && !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Says to an agent why the store would not.
pub(crate) fn refusal(error: &StoreError) -> Refusal {
    let code = match error.root() {
        StoreError::NoSpace { .. } => RefusalCode::NoSpace,
        StoreError::NotFound { .. } => RefusalCode::NotFound,
        StoreError::Corrupt { .. } | StoreError::Decode { .. } | StoreError::WrongBytes { .. } => {
            RefusalCode::Damaged
        }
        StoreError::Locked { .. } | StoreError::LockLost { .. } | StoreError::Busy { .. } => {
            RefusalCode::Busy
        }
        StoreError::Unsupported { .. } => RefusalCode::Version,
        StoreError::Limit { .. } => RefusalCode::Usage,
        _ => RefusalCode::Failed,
    };
    let mut text = format!("the vault: {}", chain(error));
    match error.root() {
        StoreError::NoSpace { .. } => text.push_str("; make room there, then run this again"),
        StoreError::ReadOnly => text.push_str("; it was opened for a command that only reads"),
        _ => {}
    }
    Refusal { code, text }
}
