//! What tests of the store, and of the crates above it, stand on: storage that loses what was
//! not synced, objects in memory, a toy cipher, the conformance test of an index.

mod cipher;
mod conformance;
pub mod fuzz;
mod index;
mod objects;
mod vfs;

pub use cipher::ToyCipher;
pub use conformance::index_conformance;
pub use index::KeptIndex;
pub use objects::MemoryObjects;
pub use vfs::{Fault, SimVfs};
