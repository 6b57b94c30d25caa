//! Partition tables and file systems, parsed from untrusted bytes.
//!
//! Everything here reads through [`ReadAt`], allocates only what a checked length allows, and
//! answers with byte ranges of the volume. Nothing here decodes file content, and nothing here
//! decides what a backup leaves unread: the parser chooses cut points and names.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod error;
mod model;
mod read;
mod units;

pub mod ext;
pub mod jbd2;
pub mod partition;
pub mod testing;

pub use error::{Error, Result};
pub use model::{
    Codec, DeviceNumber, Extent, ExtentKind, FileType, Inode, InodeNumber, Timestamp, Visitor,
    WalkSummary, Warning, Xattr,
};
pub use read::{ReadAt, ReadError, Slice};
pub use units::{ByteLen, ByteOffset, ByteRange};
