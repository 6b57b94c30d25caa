//! The programs as they are built, from the outside: one binary, so that it is linked once.
//!
//! Each module is one promise of the README or of CLI.md. What a test cannot do on a machine (no root, no corpus, no
//! programs) it tells with `umbra_tests::skip`.
#![allow(clippy::print_stdout, reason = "tests print seeds and figures")]

mod bad_input;
mod caches;
mod check;
mod contract;
mod corpus_files;
mod corpus_recover;
mod devices;
mod dirty_ext4;
mod encrypted;
mod free_space;
mod full_disk;
mod hostile;
mod image_hash_script;
mod interrupted;
mod kills;
mod ordinary_user;
mod read_store;
mod resume;
mod retention;
mod skip_unchanged;
mod stored_store;
mod torture;
