//! Retention: which snapshots a policy keeps.
//!
//! Everything here is a pure function of a policy and a list of snapshots. What is decided becomes
//! true elsewhere: a snapshot that is not kept is *forgotten* (hidden, can be undone) by an entry
//! of the LOG, and its space is given back by a later collection.
//!
//! The rules are those that restic and borg made common. Three things are stricter here, because
//! a policy must never be what loses a backup:
//!
//! - The newest snapshot of each machine and disk is kept, whatever the rules say.
//! - Snapshots are in the order of their receipts, not of their times, and `within` counts from
//!   the newest of them, not from now: a clock that is wrong today expires nothing.
//! - Where no rule is set for a disk, all of it is kept.

mod calendar;
mod decide;
mod policy;
mod scope;

pub use decide::{Candidate, Reason, Verdict};
pub use policy::{DEFAULT_UNDO_SECONDS, Keep, MAX_SECONDS, Period, Policy};
pub(crate) use policy::{read_scope, read_set, write_scope, write_sequences};
pub use scope::Scope;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
