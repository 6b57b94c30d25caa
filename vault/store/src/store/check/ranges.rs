//! Ranges of a disk that cannot be given back.

use umbra_common::{ByteOffset, ByteRange};

/// Ranges that are kept for one snapshot, 16 bytes each; beyond that they are joined over gaps.
const KEPT_RANGES: usize = 1 << 20;

/// Damaged ranges in the order of the disk, apart from each other.
#[derive(Clone, Debug, Default)]
pub(super) struct DamagedRanges {
    list: Vec<ByteRange>,
    bytes: u64,
}

impl DamagedRanges {
    /// Adds a range, which lies behind those before it.
    pub(super) fn add(&mut self, range: ByteRange) {
        self.bytes = self.bytes.saturating_add(range.len().0);
        let full = self.list.len() >= KEPT_RANGES;
        match self.list.last_mut() {
            Some(last) if full || last.end() >= range.start() => {
                let end = ByteOffset(last.end().0.max(range.end().0));
                *last = ByteRange::between(last.start(), end).unwrap_or(*last);
            }
            _ => self.list.push(range),
        }
    }

    /// Returns the ranges.
    pub(super) fn list(&self) -> &[ByteRange] {
        &self.list
    }

    /// Returns how many bytes they have in all.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Tells whether a range of the disk has damage in it.
    pub(super) fn hit(&self, range: ByteRange) -> bool {
        let first = self.list.partition_point(|damaged| damaged.end() <= range.start());
        self.list.get(first).is_some_and(|damaged| damaged.start() < range.end())
    }

    /// Returns a hash that equal lists share.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for range in &self.list {
            hasher.update(&range.start().0.to_le_bytes());
            hasher.update(&range.end().0.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use umbra_common::ByteLen;

    fn range(start: u64, len: u64) -> ByteRange {
        ByteRange::new(ByteOffset(start), ByteLen(len)).unwrap()
    }

    #[test]
    fn neighbours_join_and_only_what_overlaps_is_hit() {
        let mut ranges = DamagedRanges::default();
        for (start, len) in [(10, 5), (15, 5), (40, 10)] {
            ranges.add(range(start, len));
        }
        assert_eq!(ranges.list(), [range(10, 10), range(40, 10)]);
        assert_eq!(ranges.bytes(), 20);
        for (start, len, hit) in [
            (0, 10, false),
            (0, 11, true),
            (12, 1, true),
            (19, 1, true),
            (20, 20, false),
            (20, 21, true),
            (49, 100, true),
            (50, 1, false),
        ] {
            assert_eq!(ranges.hit(range(start, len)), hit, "{start} {len}");
        }
        assert_ne!(ranges.fingerprint(), DamagedRanges::default().fingerprint());
    }
}
