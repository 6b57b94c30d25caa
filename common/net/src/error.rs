//! The error of this crate.

use std::time::Duration;
use umbra_common::wire::{Fingerprint, RefusalCode};
use umbra_common::{ObjectId, Reference};

/// The result of what goes over the network.
pub type Result<T, E = NetError> = std::result::Result<T, E>;

/// Why something could not be had from, or brought to, a vault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The vault said no.
    #[error("{text}")]
    Refused {
        /// The cause.
        code: RefusalCode,
        /// The vault's words: what, where, what to do next.
        text: String,
    },
    /// The peer has another key than the pinned one.
    #[error(
        "the vault at {address} has the key {found}, not {expected}: it was replaced, or somebody \
         is between; enrol anew only when you know why"
    )]
    WrongKey {
        /// Where.
        address: String,
        /// The pinned key.
        expected: Fingerprint,
        /// The key it showed.
        found: Fingerprint,
    },
    /// No connection, for longer than the caller wants to wait.
    #[error("no vault answers at {address} (tried for {} s)", .tried_for.as_secs())]
    Unavailable {
        /// Where.
        address: String,
        /// How long.
        tried_for: Duration,
        /// What the last attempt died of.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The base of the backup went away while the connection was lost; what was left unasked may
    /// not be there. The backup must be run again.
    #[error("snapshot {base} was deleted while the backup built on it; run it again")]
    BaseGone {
        /// The base.
        base: ObjectId,
    },
    /// The vault lacks objects that it was thought to have.
    #[error(
        "the vault lacks {} objects below {}; run the backup again",
        .references.len(),
        .referrer.map_or_else(|| "the snapshot".to_owned(), |node| node.id.to_string())
    )]
    Missing {
        /// The node that refers to them; `None` for the snapshot as a whole.
        referrer: Option<Reference>,
        /// What is lacking.
        references: Vec<Reference>,
    },
    /// The vault did not take an object.
    #[error("the vault refused {} {}: {reason}", .reference.kind.name(), .reference.id)]
    Bad {
        /// The object.
        reference: Reference,
        /// Why.
        reason: String,
    },
    /// What the vault sent is not what was asked for.
    #[error("the vault sent something damaged")]
    Damaged(#[source] umbra_common::Error),
    /// The peer says something that the protocol does not allow at this point.
    #[error("the peer breaks the protocol: {reason}")]
    Protocol {
        /// What.
        reason: &'static str,
        /// The decoder's word on it.
        #[source]
        source: Option<umbra_common::Error>,
    },
    /// The connection was lost. Calls of the client make it anew and never end with this.
    #[error("the connection was lost")]
    Lost {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A socket, a key file or a thread could not be had.
    #[error("{what}")]
    Io {
        /// What was tried, with its path or address.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A key or certificate cannot be used.
    #[error("{what}")]
    Key {
        /// Which, and what to do.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A call that makes no sense at this point: a bug of the caller.
    #[error("the client was used wrongly: {reason}")]
    Misuse {
        /// What.
        reason: &'static str,
    },
    /// The client was closed while this waited.
    #[error("the connection was closed by this program")]
    Closed,
}

impl NetError {
    /// Returns the exit code of a command that ends with this (CLI contract).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { code, .. } => code.exit_code(),
            Self::WrongKey { .. } => 12,
            Self::Unavailable { .. } => 10,
            Self::Damaged(_) => 4,
            _ => 1,
        }
    }
}
