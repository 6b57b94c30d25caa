//! Administration: what `umbra-vault` commands ask of a store, directly or over the socket of the
//! vault that serves it.
//!
//! The socket is `/run/umbra/<store id>.sock` for root, `$XDG_RUNTIME_DIR/umbra/<store id>.sock`
//! for others, in a directory that only its owner may enter. Each side says one JSON object a line;
//! each request gets one answer. A grant lasts as long as the connection that asked for it.

mod client;
mod server;

pub use client::Remote;
pub use server::{AdminServer, OnBroken};

use crate::care::{self, CareDone, CareRequest, HoldDone, HoldRequest, PolicyDone, PolicyRequest};
use crate::clock::now;
use crate::collect::{GcAsked, GcDone};
use crate::enrol::{self, NewToken, TokenMade};
use crate::error::{Result, VaultError, chain};
use crate::place::Place;
use crate::repair::{Repair, Repaired};
use crate::report::{self, MachineReport, Status};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use umbra_common::wire::Fingerprint;
use umbra_store::{RebuildReport, Store, StoreId};

/// Longest request, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Longest answer, in bytes: one that names a hundred thousand snapshots fits.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// What an administrator asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Which directory is served? Device and inode of its `FORMAT` file are the caller's.
    Hello {
        /// Of the file system.
        device: u64,
        /// Of the file.
        inode: u64,
    },
    /// How is the vault?
    Status,
    /// Who is enrolled?
    Agents,
    /// Make a token.
    Token(NewToken),
    /// Make the index anew.
    RebuildIndex,
    /// Give back the space of what no snapshot needs.
    Gc(GcAsked),
    /// Show, change, try or apply the policy.
    Policy {
        /// What.
        asked: PolicyRequest,
    },
    /// Forget snapshots, undo it, protect them, end that.
    Care(CareRequest),
    /// Hold snapshots, or let them go.
    Hold(HoldRequest),
    /// Read everything, and make damage good.
    Repair(Repair),
    /// Let a key in as the owner, while this connection lasts.
    Grant {
        /// The key's name, hexadecimal.
        fingerprint: String,
    },
}

/// What the vault answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello {
        /// It is the same directory.
        same: bool,
        /// The directory that is served.
        path: String,
    },
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Agents`].
    Agents {
        /// The machines.
        machines: Vec<MachineReport>,
    },
    /// To [`Request::Token`].
    Token(TokenMade),
    /// To [`Request::RebuildIndex`].
    Rebuilt {
        /// Packs read.
        packs: u64,
        /// Objects found.
        objects: u64,
        /// Nodes that miss a descendant.
        incomplete: u64,
    },
    /// To [`Request::Gc`].
    Collected(GcDone),
    /// To [`Request::Policy`].
    Policy(Box<PolicyDone>),
    /// To [`Request::Care`].
    Care(CareDone),
    /// To [`Request::Hold`].
    Hold(HoldDone),
    /// To [`Request::Repair`].
    Repaired(Box<Repaired>),
    /// To [`Request::Grant`].
    Granted {
        /// Where to connect from this machine.
        address: String,
        /// The vault's key.
        fingerprint: String,
    },
    /// To anything that went wrong.
    Error {
        /// What.
        message: String,
        /// What to do next.
        hint: Option<String>,
        /// Exit code of the command that asked.
        exit_code: u8,
    },
}

impl From<RebuildReport> for Answer {
    fn from(report: RebuildReport) -> Self {
        let RebuildReport { packs, objects, incomplete, .. } = report;
        Self::Rebuilt { packs, objects, incomplete }
    }
}

impl Answer {
    /// Makes the answer of an error.
    pub fn error(error: &VaultError) -> Self {
        Self::Error { message: chain(error), hint: error.hint(), exit_code: error.exit_code() }
    }
}

/// The vault that serves a store, as far as its answers go.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its key.
    pub fingerprint: Fingerprint,
}

/// Answers from an open store.
///
/// # Errors
/// What the store says; [`VaultError::Usage`] for a bad token.
pub fn answer(
    store: &Store,
    place: &Place,
    serving: Option<Serving>,
    stop: &dyn Fn() -> bool,
    request: &Request,
) -> Result<Answer> {
    if !matches!(request, Request::Hello { .. } | Request::Status | Request::Agents) {
        store.make_room();
    }
    match request {
        Request::Hello { device, inode } => Ok(Answer::Hello {
            same: place.signature() == Some((*device, *inode)),
            path: place.dir().display().to_string(),
        }),
        Request::Status => {
            let path = place.dir().display().to_string();
            let mut status =
                report::status(store, path, now()).map_err(|error| place.store_error(error))?;
            status.listen = serving.map(|serving| serving.listen.to_string());
            status.fingerprint = serving.map(|serving| serving.fingerprint.to_string());
            Ok(Answer::Status(Box::new(status)))
        }
        Request::Agents => Ok(Answer::Agents { machines: report::machines(store, now()) }),
        Request::Token(new) => {
            let fingerprint = match serving {
                Some(serving) => serving.fingerprint,
                None => place.identity()?.fingerprint(),
            };
            let mut new = new.clone();
            if new.addresses.is_empty() {
                new.addresses = crate::cli::addresses(serving.map(|serving| serving.listen));
            }
            Ok(Answer::Token(enrol::make_token(store, fingerprint, &new)?))
        }
        Request::RebuildIndex => {
            let report = store.rebuild_index(now()).map_err(|error| place.store_error(error))?;
            Ok(report.into())
        }
        Request::Gc(asked) => {
            let done = asked.run(store, stop).map_err(|error| place.store_error(error))?;
            Ok(Answer::Collected(done))
        }
        Request::Policy { asked } => {
            Ok(Answer::Policy(Box::new(care::policy(store, place, asked)?)))
        }
        Request::Care(asked) => Ok(Answer::Care(care::change(store, place, asked)?)),
        Request::Hold(asked) => Ok(Answer::Hold(care::hold(store, place, asked)?)),
        Request::Repair(repair) => Ok(Answer::Repaired(Box::new(repair.run(store, place)?))),
        Request::Grant { .. } => Err(VaultError::Internal("nothing is served here")),
    }
}

/// Where the socket of a store can be: the first is where this process would make it.
fn socket_paths(store: StoreId) -> Vec<PathBuf> {
    let name = format!("{store}.sock");
    let system = PathBuf::from("/run/umbra").join(&name);
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return vec![system];
    }
    let run = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/umbra-run-{}", uid.as_raw())));
    vec![run.join("umbra").join(name), system]
}
