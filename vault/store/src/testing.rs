//! What tests of the store, and of the crates above it, stand on: storage that loses what was
//! not synced, objects in memory, a toy cipher, the conformance test of an index.

mod cipher;
mod conformance;
pub mod fuzz;
mod index;
mod objects;
mod random;
pub mod schedules;
mod vfs;

pub use cipher::ToyCipher;
pub use conformance::index_conformance;
pub use index::{JournaledIndex, KeptIndex};
pub use objects::MemoryObjects;
pub use vfs::{Fault, Harm, Hit, SimVfs};
