//! The image hash of a backup, made of the bytes as they are read.
//!
//! Bytes come in any order; a window of which some are missing costs memory. Where that grows too
//! large the oldest window is completed by reading what is missing, which is read once more when
//! its turn comes: what could not be read the first time is lost then, so that the proof is always
//! of what the snapshot keeps.

use std::collections::{BTreeMap, BTreeSet};

use umbra_common::image_hash::{ImageHash, ImageHasher, WINDOW_BYTES, WindowHash, window_count};
use umbra_common::{ByteLen, ByteOffset, ByteRange};

use crate::error::{Error, Result};
use crate::ranges::{merged, without};
use crate::source::{Device, read_salvaging};

/// State of unfinished windows of the image hash above which the oldest one is completed.
const HASH_PENDING_BYTES: usize = 64 << 20;
/// The same for a disk that changes while it is read: reading a place twice gives a hash of bytes
/// that the snapshot does not have, so that memory must do.
const LIVE_HASH_PENDING_BYTES: usize = 256 << 20;

/// The image hash while bytes arrive.
pub(super) struct Proof<'a> {
    device: &'a dyn Device,
    hasher: ImageHasher,
    /// State of unfinished windows that is borne, in bytes.
    pub(super) pending_limit: usize,
    /// Windows that were completed before all their bytes had been added.
    completed: BTreeSet<u64>,
    /// Windows whose hash is the base snapshot's.
    inherited: BTreeSet<u64>,
    /// What the device did not give for those; zeros in their hashes. Disjoint.
    lost: Vec<ByteRange>,
    /// What is not kept, and so zeros whatever the device holds; sorted, disjoint.
    left_out: &'a [ByteRange],
}

impl<'a> Proof<'a> {
    /// Begins the proof of a device.
    pub(super) fn new(device: &'a dyn Device) -> Self {
        let pending_limit =
            if device.may_change() { LIVE_HASH_PENDING_BYTES } else { HASH_PENDING_BYTES };
        let hasher = ImageHasher::new(device.len());
        Self {
            device,
            hasher,
            pending_limit,
            completed: BTreeSet::new(),
            inherited: BTreeSet::new(),
            lost: Vec::new(),
            left_out: &[],
        }
    }

    /// Takes the hashes of windows from the base snapshot, before the first byte.
    ///
    /// # Errors
    /// [`Error::Internal`] where the disk has no such window.
    pub(super) fn inherit(&mut self, windows: &BTreeMap<u64, WindowHash>) -> Result<()> {
        for (&window, &hash) in windows {
            self.hasher.inherit(window, hash).map_err(hash_error)?;
            self.inherited.insert(window);
        }
        Ok(())
    }

    /// Tells whether the hash of a window needs no more bytes, however many may come.
    fn is_done(&self, window: u64) -> bool {
        self.completed.contains(&window) || self.inherited.contains(&window)
    }

    fn none_is_done(&self) -> bool {
        self.completed.is_empty() && self.inherited.is_empty()
    }

    /// Says what is not kept: sorted and disjoint. A window that is completed before its turn
    /// has zeros there.
    pub(super) fn leave_out(&mut self, ranges: &'a [ByteRange]) {
        self.left_out = ranges;
    }

    /// Adds bytes that were read.
    ///
    /// # Errors
    /// [`Error::Internal`] where they were added before.
    pub(super) fn add(&mut self, start: ByteOffset, bytes: &[u8]) -> Result<()> {
        if self.none_is_done() {
            return self.hasher.add(start, bytes).map_err(hash_error);
        }
        let range = ByteRange::new(start, ByteLen(bytes.len() as u64)).unwrap_or_default();
        for part in parts(range, |window| !self.is_done(window)) {
            let from = usize::try_from(part.start().0 - start.0).unwrap_or(usize::MAX);
            let to = from.saturating_add(usize::try_from(part.len().0).unwrap_or_default());
            let bytes = bytes.get(from..to).unwrap_or_default();
            self.hasher.add(part.start(), bytes).map_err(hash_error)?;
        }
        Ok(())
    }

    /// Adds zeros that were not read.
    ///
    /// # Errors
    /// As [`Proof::add`].
    pub(super) fn add_zeros(&mut self, range: ByteRange) -> Result<()> {
        if self.none_is_done() {
            return self.hasher.add_zeros(range).map_err(hash_error);
        }
        for part in parts(range, |window| !self.is_done(window)) {
            self.hasher.add_zeros(part).map_err(hash_error)?;
        }
        Ok(())
    }

    /// Adds what the device did not give, as zeros.
    ///
    /// # Errors
    /// [`Error::Refused`] where the device gave it when its window was completed: the hash is of
    /// bytes that nobody has any more.
    pub(super) fn add_lost(&mut self, range: ByteRange) -> Result<()> {
        for part in parts(range, |window| self.completed.contains(&window)) {
            let known = self.lost.iter().filter_map(|range| range.intersection(part));
            if known.map(|range| range.len().0).sum::<u64>() < part.len().0 {
                return Err(Error::Refused {
                    path: "the source".into(),
                    reason: format!("{part} could be read once and not again"),
                    hint: "its medium is failing: run this again, at once".into(),
                });
            }
        }
        self.add_zeros(range)
    }

    /// Returns `lost` and what of `span` was lost when its window was completed, whatever the
    /// device says now.
    pub(super) fn with_lost_before(
        &self,
        mut lost: Vec<ByteRange>,
        span: ByteRange,
    ) -> Vec<ByteRange> {
        if self.lost.is_empty() {
            return lost;
        }
        lost.extend(self.lost.iter().filter_map(|range| range.intersection(span)));
        merged(lost)
    }

    /// Tells whether the proof stands although the source changed: the bytes of a window that was
    /// completed early were read twice, and may be others than those that are kept.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is such a window.
    pub(super) fn stand(&self, change: &str) -> Result<()> {
        if self.completed.is_empty() {
            return Ok(());
        }
        Err(Error::Refused {
            path: "the source".into(),
            reason: format!("{change}, and its files are too scattered to prove what was read"),
            hint: "stop what writes it and run this again, or keep it in disk order with \
                   --no-parse"
                .into(),
        })
    }

    /// Completes the oldest windows by reading while too much is pending; returns how much was
    /// read.
    ///
    /// # Errors
    /// [`Error::Refused`] for a device that changes: its windows cannot be completed so.
    pub(super) fn bound(&mut self) -> Result<u64> {
        let mut read = 0;
        while self.hasher.pending_bytes() > self.pending_limit {
            if self.device.may_change() {
                return Err(Error::Refused {
                    path: "the source".into(),
                    reason: "it changes while it is read, and its files are too scattered to \
                             prove it"
                        .into(),
                    hint: "unmount it, or keep it in disk order with --no-parse".into(),
                });
            }
            let Some(window) = self.hasher.oldest_incomplete() else { break };
            let mut buf = Vec::new();
            let missing = self.hasher.missing(window);
            let wanted = without(&missing, self.left_out_in(&missing));
            for range in without(&missing, &wanted) {
                self.hasher.add_zeros(range).map_err(hash_error)?;
            }
            for range in wanted {
                buf.resize(usize::try_from(range.len().0).unwrap_or_default(), 0);
                self.lost.extend(read_salvaging(self.device, range.start(), &mut buf));
                read += range.len().0;
                self.hasher.add(range.start(), &buf).map_err(hash_error)?;
            }
            self.completed.insert(window);
        }
        Ok(read)
    }

    /// Returns the part of the list of what is not kept that may touch sorted ranges.
    fn left_out_in(&self, ranges: &[ByteRange]) -> &'a [ByteRange] {
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return &[] };
        let from = self.left_out.partition_point(|range| range.end() <= first.start());
        let to = self.left_out.partition_point(|range| range.start() < last.end());
        self.left_out.get(from..to).unwrap_or_default()
    }

    /// Returns the hash of the disk and those of its windows.
    ///
    /// # Errors
    /// [`Error::Internal`] where bytes are missing.
    pub(super) fn finish(&self) -> Result<(ImageHash, Vec<WindowHash>)> {
        let image_hash = self.hasher.finish().map_err(hash_error)?;
        let count = window_count(self.device.len());
        let windows: Option<Vec<WindowHash>> = (0..count).map(|w| self.hasher.window(w)).collect();
        Ok((image_hash, windows.ok_or_else(|| hash_error("a window without a hash"))?))
    }
}

/// Cuts `range` at the ends of windows and keeps the parts in those that are wanted.
fn parts(range: ByteRange, is_wanted: impl Fn(u64) -> bool) -> Vec<ByteRange> {
    let mut parts = Vec::new();
    let mut at = range.start();
    while at < range.end() {
        let index = at.0 / WINDOW_BYTES;
        let bound = ByteOffset((index + 1).saturating_mul(WINDOW_BYTES)).min(range.end());
        if is_wanted(index) {
            parts.extend(ByteRange::between(at, bound));
        }
        at = bound;
    }
    parts
}

fn hash_error(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("the image hash: {error}"))
}
