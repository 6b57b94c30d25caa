//! The windows of the disk that are as the base snapshot has them.

use std::collections::BTreeMap;

use umbra_common::image_hash::{WINDOW_BYTES, WindowHash, window_range};
use umbra_common::{ByteLen, ByteOffset, ByteRange};

use crate::ranges::merged;

/// Windows whose page and hash are taken from the base.
#[derive(Debug, Default)]
pub(in super::super) struct Clean {
    /// Their numbers and hashes.
    pub(in super::super) windows: BTreeMap<u64, WindowHash>,
    /// What lies behind the ends of files there and is not zeros; it was read and is the base's.
    /// Sorted, disjoint.
    pub(super) slack: Vec<ByteRange>,
}

impl Clean {
    /// Tells whether a window is one of them.
    pub(in super::super) fn has_window(&self, window: u64) -> bool {
        self.windows.contains_key(&window)
    }

    /// Tells whether all of a range lies in such windows; an empty one does.
    pub(in super::super) fn has(&self, range: ByteRange) -> bool {
        windows_of(range).all(|window| self.has_window(window))
    }

    /// Tells whether the base has bytes, and not zeros, of slack in such a window.
    pub(in super::super) fn has_slack(&self, range: ByteRange) -> bool {
        let at = self.slack.partition_point(|slack| slack.end() <= range.start());
        let slack = self.slack.get(at);
        slack.is_some_and(|slack| slack.intersection(range) == Some(range))
    }

    /// Returns the bytes of all these windows of a disk of `len` bytes, sorted and merged.
    pub(super) fn ranges(&self, len: ByteLen) -> Vec<ByteRange> {
        merged(self.windows.keys().filter_map(|&window| window_range(len, window)).collect())
    }
}

/// Returns the numbers of the windows that a range touches.
pub(super) fn windows_of(range: ByteRange) -> std::ops::Range<u64> {
    match range.is_empty() {
        true => 0..0,
        false => range.start().0 / WINDOW_BYTES..range.end().0.div_ceil(WINDOW_BYTES),
    }
}

/// Cuts a range at the ends of windows: their numbers, and what of the range lies in each.
pub(super) fn by_window(range: ByteRange) -> impl Iterator<Item = (u64, ByteRange)> {
    windows_of(range).filter_map(move |window| {
        let start = ByteOffset(window.saturating_mul(WINDOW_BYTES));
        let whole = ByteRange::new(start, ByteLen(WINDOW_BYTES)).or_else(|| {
            // The last window below 2^64.
            ByteRange::between(start, ByteOffset(u64::MAX))
        })?;
        Some((window, whole.intersection(range)?))
    })
}
