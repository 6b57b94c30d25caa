//! The agent: reads disks, sends what a vault lacks, and brings disks and files back.

pub mod backup;
pub mod browse;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod connect;
pub mod content;
pub mod fetch;
pub mod known;
pub mod listing;
pub mod monitor;
pub mod mounts;
pub mod own_store;
pub mod recover;
pub mod restore;
pub mod select;
pub mod signature;
pub mod source;
pub mod survey;
pub mod target;
pub mod tree;
pub mod uplink;
pub mod vault_nodes;
pub mod verify;

mod device;
mod error;
#[cfg(test)]
mod fixture;
mod ranges;
mod rivals;

pub use error::{Error, Result};
