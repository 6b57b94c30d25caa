//! The vault: a store behind the wire, its machines and tokens, and its administration.
//!
//! [`backend`] answers agents from the store; [`admin`] answers the administrator, over a socket of
//! a running vault or directly on a stopped store; [`cli`] is the program `umbra-vault`.

pub mod admin;
pub mod backend;
pub mod care;
pub mod cli;
mod clock;
mod collect;
mod config;
mod enrol;
mod error;
mod place;
mod repair;
mod report;
mod signals;

pub use clock::{now, random, rfc3339};
pub use enrol::{NewToken, TokenMade, enroll, make_token};
pub use error::{Result, VaultError};
pub use place::{Mode, OpenStore, Place};
pub use report::{MachineReport, Status};
