//! What agent and vault share: ids, chunking, the image map, the overlay, snapshots, the wire.
//!
//! Everything here is synchronous and without side effects: no sockets, no RocksDB, no clock, no
//! randomness of its own. Stored and sent formats have their pages in `docs/formats`.

pub mod cbor;
pub mod chunker;
pub mod id_table;
pub mod ids;
pub mod image_hash;
pub mod map;
pub mod node;
pub mod overlay;
pub mod snapshot;
pub mod wire;

mod error;

pub use error::{Error, Result};
pub use ids::{Kind, ObjectId, Reference};
pub use umbra_fsparse::{ByteLen, ByteOffset, ByteRange};
