//! The image map: every byte of the disk exactly once, in chunks or recorded as not kept.

use crate::{ByteLen, Reference};

/// Length of a window in bytes: what one page maps unless it is halved.
pub const WINDOW_BYTES: u64 = 16 << 20;

/// Children of an inner node.
pub const FAN_OUT: u64 = 256;

/// The root of an image map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRoot {
    /// The root node, always a map node.
    pub reference: Reference,
    /// Number of levels of map nodes, at least 1.
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
