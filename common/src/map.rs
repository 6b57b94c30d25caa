//! The image map: every byte of the disk exactly once, in chunks or recorded as not kept.
//!
//! A radix tree over windows of 16 MiB: a page maps a window, or a half, quarter, ... of it where
//! the page would grow too large; a map node has 256 children; what is all zero, free or excluded
//! is folded into its parent. Pages know no position, so that cloned disks share them. Each
//! window's hash stands beside its pages. Layout: docs/formats/image-map.md.

use crate::image_hash::WINDOW_BYTES;
use crate::{ByteLen, ByteOffset, ByteRange, Error, ObjectId, Reference};

mod builder;
mod inner;
mod page;
mod reader;

pub use builder::MapBuilder;
pub use reader::{LocatedRun, Lost, MapReader, Runs, Window, WindowContent, Windows};

/// Children of a map node.
pub const FAN_OUT: u64 = 256;

/// A page whose reference list and body are longer than this is halved.
pub const MAX_PAGE_BYTES: usize = 256 << 10;

/// What stands in a range of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The bytes of a chunk from an offset on.
    Data {
        /// The chunk.
        chunk: ObjectId,
        /// Where in the chunk, in bytes.
        offset: u32,
    },
    /// Zeros.
    Zero,
    /// Free space that was not kept; reads as zeros.
    Free,
    /// The device did not give it; reads as zeros.
    Unreadable,
    /// Left out on request; reads as zeros.
    Excluded,
}

impl Content {
    /// Returns what stands `skipped` bytes further on, or `None` past what an offset can be.
    pub fn after(self, skipped: u64) -> Option<Self> {
        match self {
            Self::Data { chunk, offset } => {
                let offset = u64::from(offset).checked_add(skipped)?;
                Some(Self::Data { chunk, offset: u32::try_from(offset).ok()? })
            }
            other => Some(other),
        }
    }
}

/// A range of the disk and what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The bytes of the disk; never empty.
    pub disk: ByteRange,
    /// What stands there.
    pub content: Content,
}

/// The root of an image map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRoot {
    /// The root node, always a map node.
    pub reference: Reference,
    /// Number of levels of map nodes, at least 1: [`levels`] of the disk's length.
    pub levels: u8,
}

/// Returns the number of levels of map nodes for a disk of this length, at least 1.
pub fn levels(disk_len: ByteLen) -> u8 {
    let mut windows = disk_len.0.div_ceil(WINDOW_BYTES);
    let mut levels = 1;
    while windows > FAN_OUT {
        windows = windows.div_ceil(FAN_OUT);
        levels += 1;
    }
    levels
}

/// Returns how many windows a node of this level covers when it is full.
fn windows_below(level: u8) -> u64 {
    FAN_OUT.saturating_pow(u32::from(level))
}

/// Makes the error for what contradicts the map, at this byte of the disk or of a node.
fn corrupt(at: u64, reason: &'static str) -> Error {
    Error::Corrupt { what: "image map", at, reason }
}

/// Returns the range between two positions of a disk, empty where they are out of order.
fn between(start: u64, end: u64) -> ByteRange {
    ByteRange::between(ByteOffset(start), ByteOffset(end)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
