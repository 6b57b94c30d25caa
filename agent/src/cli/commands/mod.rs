//! One module a command.

pub(super) mod backup;
pub(super) mod cat;
pub(super) mod demo;
pub(super) mod disks;
pub(super) mod enroll;
pub(super) mod housekeeping;
pub(super) mod init;
pub(super) mod ls;
mod open;
pub(super) mod recover;
pub(super) mod restore;
pub(super) mod show;
pub(super) mod snapshots;
pub(super) mod verify;
