//! The hash that proves a disk: window hashes, made from bytes in the order of their arrival.
//!
//! The rule is `docs/formats/image-hash.md`; `docs/formats/image_hash.py` computes the same from a
//! raw image. The disk is cut into windows of 16 MiB, a window's hash is plain BLAKE3-256 of its
//! bytes, and the image hash binds them with the disk's length.
//!
//! [`ImageHasher`] never waits for order: what arrives is hashed at once as BLAKE3 subtrees, which
//! are merged when their neighbours come. It holds 64 bytes for each subtree that waits and the
//! bytes of chunks (1 KiB) that came in part; windows of zeros are ranges of numbers.

use std::collections::BTreeMap;
use std::fmt;

use crate::{ByteLen, ByteOffset, ByteRange, Error, Result};

use ranges::Ranges;
use window::{Content, Window};

mod ranges;
mod sequential;
mod window;
mod zeros;

#[cfg(test)]
mod tests;

pub use sequential::SequentialImageHasher;

/// Length of a window in bytes; only a disk's last one may be shorter.
pub const WINDOW_BYTES: u64 = 16 << 20;

const WINDOW_USIZE: usize = 16 << 20;

/// How many window hashes stand together in memory.
const PAGE_WINDOWS: u64 = 256;

/// Plain BLAKE3-256 of one window's bytes; what is not kept counts as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WindowHash(pub [u8; 32]);

/// BLAKE3-256 in key derivation mode, context `umbra 1 image hash`, of the disk's length (u64,
/// little-endian) and its window hashes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageHash(pub [u8; 32]);

impl WindowHash {
    /// Returns the hash of a window of `len` zeros, at most [`WINDOW_BYTES`]. That of a whole
    /// window is made once.
    pub fn of_zeros(len: ByteLen) -> Self {
        zeros::zero_hash(len.0)
    }
}

/// Returns how many windows a disk of this length has.
pub fn window_count(disk_len: ByteLen) -> u64 {
    disk_len.0.div_ceil(WINDOW_BYTES)
}

/// Returns the bytes of window number `window`, or `None` past the end of the disk.
pub fn window_range(disk_len: ByteLen, window: u64) -> Option<ByteRange> {
    let start = window.checked_mul(WINDOW_BYTES).filter(|start| *start < disk_len.0)?;
    let end = start.saturating_add(WINDOW_BYTES).min(disk_len.0);
    ByteRange::between(ByteOffset(start), ByteOffset(end))
}

/// Binds the hashes of all windows, in order, with the disk's length.
///
/// # Errors
/// `ImageHash` where there are more or fewer hashes than the disk has windows.
pub fn image_hash(
    disk_len: ByteLen,
    windows: impl IntoIterator<Item = WindowHash>,
) -> Result<ImageHash> {
    let mut hasher = blake3::Hasher::new_derive_key("umbra 1 image hash");
    hasher.update(&disk_len.0.to_le_bytes());
    let mut count = 0;
    for WindowHash(hash) in windows {
        hasher.update(&hash);
        count += 1;
    }
    if count != window_count(disk_len) {
        let range = ByteRange::new(ByteOffset(0), disk_len).unwrap_or_default();
        return Err(Error::ImageHash { range, reason: "wrong number of window hashes" });
    }
    Ok(ImageHash(*hasher.finalize().as_bytes()))
}

/// Makes the hash of a disk from its bytes in any order, each byte exactly once.
///
/// After an error it is as it was before the call.
#[derive(Debug)]
pub struct ImageHasher {
    disk_len: ByteLen,
    /// Windows that have some bytes, but not all.
    open: BTreeMap<u64, Open>,
    /// Age -> window number, for those in `open`.
    ages: BTreeMap<u64, u64>,
    next_age: u64,
    /// Numbers of the windows of 16 MiB that were added as zeros in one call.
    zeros: Ranges,
    /// The hashes of the other complete windows, in pages of `PAGE_WINDOWS`.
    done: BTreeMap<u64, Vec<Option<WindowHash>>>,
    pending: usize,
}

#[derive(Debug)]
struct Open {
    window: Window,
    age: u64,
}

impl ImageHasher {
    /// Starts the hash of a disk of this length; no byte is known yet.
    pub fn new(disk_len: ByteLen) -> Self {
        Self {
            disk_len,
            open: BTreeMap::new(),
            ages: BTreeMap::new(),
            next_age: 0,
            zeros: Ranges::default(),
            done: BTreeMap::new(),
            pending: 0,
        }
    }

    /// Takes the bytes of the disk at `at`. Aligned and large is fastest, anything works.
    ///
    /// # Errors
    /// `ImageHash` where a byte lies past the end of the disk or was known already.
    pub fn add(&mut self, at: ByteOffset, bytes: &[u8]) -> Result<()> {
        let len = u64::try_from(bytes.len()).map_or(ByteLen(u64::MAX), ByteLen);
        let range = self.checked(ByteRange::new(at, len), at)?;
        let mut rest = bytes;
        for (window, part) in parts(range) {
            let (head, tail) = rest.split_at(usize::try_from(part.len().0).unwrap_or(rest.len()));
            rest = tail;
            self.add_to_window(window, part, Content::Bytes(head));
        }
        Ok(())
    }

    /// Takes zeros: holes, and what is not kept (free, unreadable, excluded ranges). Whole windows
    /// cost nothing, however many; parts of windows next to nothing.
    ///
    /// # Errors
    /// `ImageHash` where a byte lies past the end of the disk or was known already.
    pub fn add_zeros(&mut self, range: ByteRange) -> Result<()> {
        let range = self.checked(Some(range), range.start())?;
        let (start, end) = (range.start().0, range.end().0);
        let whole = start.div_ceil(WINDOW_BYTES)..end / WINDOW_BYTES;
        if whole.start >= whole.end {
            self.add_zero_parts(start, end);
            return Ok(());
        }
        self.add_zero_parts(start, whole.start * WINDOW_BYTES);
        self.add_zero_parts(whole.end * WINDOW_BYTES, end);
        self.zeros.insert(whole);
        Ok(())
    }

    /// Takes a window's hash from elsewhere: the parent snapshot's, where nothing changed.
    ///
    /// # Errors
    /// `ImageHash` where the disk has no such window or a byte of it was known already.
    pub fn inherit(&mut self, window: u64, hash: WindowHash) -> Result<()> {
        let at = ByteOffset(window.saturating_mul(WINDOW_BYTES));
        self.checked(window_range(self.disk_len, window), at)?;
        self.complete(window, hash);
        Ok(())
    }

    /// Returns the hash of a window, or `None` while bytes of it are missing.
    pub fn window(&self, window: u64) -> Option<WindowHash> {
        if self.zeros.end_of(window).is_some() {
            return Some(WindowHash::of_zeros(ByteLen(WINDOW_BYTES)));
        }
        let slot = usize::try_from(window % PAGE_WINDOWS).ok()?;
        self.done.get(&(window / PAGE_WINDOWS))?.get(slot).copied().flatten()
    }

    /// Returns the number of the incomplete window whose first bytes came longest ago.
    pub fn oldest_incomplete(&self) -> Option<u64> {
        self.ages.first_key_value().map(|(_, window)| *window)
    }

    /// Returns what is missing of one window, in order.
    pub fn missing(&self, window: u64) -> Vec<ByteRange> {
        window_range(self.disk_len, window).map_or(Vec::new(), |range| self.missing_in(range))
    }

    /// Returns what is missing of a range of the disk, in order, in ranges as long as may be. What
    /// lies past the end of the disk is not missing.
    pub fn missing_in(&self, range: ByteRange) -> Vec<ByteRange> {
        let disk = ByteRange::new(ByteOffset(0), self.disk_len);
        let Some(range) = disk.and_then(|disk| disk.intersection(range)) else {
            return Vec::new();
        };
        let mut missing: Vec<ByteRange> = Vec::new();
        for (window, part) in parts(range) {
            for gap in self.missing_of_part(window, part) {
                match missing.last_mut() {
                    Some(last) if last.end() == gap.start() => {
                        *last = ByteRange::between(last.start(), gap.end()).unwrap_or(gap);
                    }
                    _ => missing.push(gap),
                }
            }
        }
        missing
    }

    /// Estimates the memory held for incomplete windows, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending
    }

    /// Returns the hash of the disk.
    ///
    /// # Errors
    /// `ImageHash` naming the first window of which bytes are missing.
    pub fn finish(&self) -> Result<ImageHash> {
        let mut hashes = Vec::new();
        for window in 0..window_count(self.disk_len) {
            match self.window(window) {
                Some(hash) => hashes.push(hash),
                None => {
                    let range = self.missing(window).first().copied().unwrap_or_default();
                    return Err(Error::ImageHash { range, reason: "bytes are missing" });
                }
            }
        }
        image_hash(self.disk_len, hashes)
    }

    /// Checks that `range` lies on the disk and nothing of it is known; `at` is for the error.
    fn checked(&self, range: Option<ByteRange>, at: ByteOffset) -> Result<ByteRange> {
        let Some(range) = range.filter(|range| range.end().0 <= self.disk_len.0) else {
            let range = range.or(ByteRange::new(at, ByteLen(0))).unwrap_or_default();
            return Err(Error::ImageHash { range, reason: "past the end of the disk" });
        };
        if !range.is_empty() && self.touches(range) {
            return Err(Error::ImageHash { range, reason: "some bytes were given before" });
        }
        Ok(range)
    }

    /// Tells whether a byte of the range, which is not empty, is known.
    fn touches(&self, range: ByteRange) -> bool {
        let windows = range.start().0 / WINDOW_BYTES..range.end().0.div_ceil(WINDOW_BYTES);
        let pages = windows.start / PAGE_WINDOWS..windows.end.div_ceil(PAGE_WINDOWS);
        self.zeros.touches(&windows)
            || self.open.range(windows.clone()).any(|(&window, open)| {
                window_range(self.disk_len, window)
                    .and_then(|whole| Some((whole, whole.intersection(range)?)))
                    .is_some_and(|(whole, part)| {
                        open.window.touches(&inside(whole.start(), part.start(), part.end()))
                    })
            })
            || self.done.range(pages).any(|(page, hashes)| {
                (page * PAGE_WINDOWS..)
                    .zip(hashes)
                    .any(|(window, hash)| windows.contains(&window) && hash.is_some())
            })
    }

    fn add_zero_parts(&mut self, start: u64, end: u64) {
        let range = ByteRange::between(ByteOffset(start), ByteOffset(end)).unwrap_or_default();
        for (window, part) in parts(range) {
            if Some(part) == window_range(self.disk_len, window) {
                self.complete(window, WindowHash::of_zeros(part.len()));
                continue;
            }
            let len = u32::try_from(part.len().0).expect("less than a window");
            self.add_to_window(window, part, Content::Zeros(len));
        }
    }

    /// Takes checked bytes that lie in one window.
    fn add_to_window(&mut self, window: u64, part: ByteRange, content: Content<'_>) {
        let Some(whole) = window_range(self.disk_len, window) else { return };
        let open = self.open.entry(window).or_insert_with(|| {
            let age = self.next_age;
            self.next_age += 1;
            self.ages.insert(age, window);
            let window = Window::new(u32::try_from(whole.len().0).expect("at most a window"));
            self.pending += window.memory();
            Open { window, age }
        });
        self.pending -= open.window.memory();
        open.window.add(inside(whole.start(), part.start(), part.end()).start, content);
        if let Some(hash) = open.window.hash() {
            self.ages.remove(&open.age);
            self.open.remove(&window);
            self.complete(window, hash);
        } else {
            self.pending += open.window.memory();
        }
    }

    fn complete(&mut self, window: u64, hash: WindowHash) {
        let slot = usize::try_from(window % PAGE_WINDOWS).expect("less than a page");
        let page = self.done.entry(window / PAGE_WINDOWS).or_default();
        if page.len() <= slot {
            page.resize(slot + 1, None);
        }
        page[slot] = Some(hash);
    }

    fn missing_of_part(&self, window: u64, part: ByteRange) -> Vec<ByteRange> {
        if self.window(window).is_some() {
            return Vec::new();
        }
        let Some(open) = self.open.get(&window) else { return vec![part] };
        let base = ByteOffset(window.saturating_mul(WINDOW_BYTES));
        let absolute = |at: u32| base.checked_add(ByteLen(u64::from(at)));
        let gaps = open.window.missing(&inside(base, part.start(), part.end()));
        gaps.into_iter()
            .filter_map(|gap| ByteRange::between(absolute(gap.start)?, absolute(gap.end)?))
            .collect()
    }
}

/// Cuts a range at the bounds of windows: (window number, its part of the range).
fn parts(range: ByteRange) -> impl Iterator<Item = (u64, ByteRange)> {
    let mut at = range.start();
    std::iter::from_fn(move || {
        let window = at.0 / WINDOW_BYTES;
        let end = (window + 1).saturating_mul(WINDOW_BYTES).min(range.end().0);
        let part = ByteRange::between(at, ByteOffset(end)).filter(|part| !part.is_empty())?;
        at = part.end();
        Some((window, part))
    })
}

/// Returns `start..end` relative to the window that begins at `base`.
fn inside(base: ByteOffset, start: ByteOffset, end: ByteOffset) -> std::ops::Range<u32> {
    let relative = |at: ByteOffset| u32::try_from(at.0 - base.0).expect("within the window");
    relative(start)..relative(end)
}

fn hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for WindowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for WindowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for ImageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for ImageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}
