//! The vault with its real store: over the wire, and as a program.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

mod enrolment;
mod inside;
mod parked;
mod program;
mod tree;
