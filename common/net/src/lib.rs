//! The wire over QUIC: keys, pinned TLS, framing, the agent's blocking client, the vault's server.
//!
//! This is the one crate that agent and vault share and that knows tokio. Above it plain threads
//! call blocking functions ([`Client`], [`Upload`], [`Reader`]) or answer them ([`server::Backend`]);
//! below it everything that is said is decided by the state machines of `umbra_common::wire`.

pub mod client;
mod error;
mod frames;
mod identity;
pub mod names;
pub mod server;
mod socket;
mod tls;

pub use client::{Client, Connect, Listed, Reader, Ticket, Traffic, Upload, Wanted};
pub use error::{NetError, Result};
pub use identity::Identity;
pub use umbra_common::wire::{Fingerprint, Token};

// The tests inside share a vault in memory with those outside.
#[cfg(test)]
extern crate self as umbra_net;
