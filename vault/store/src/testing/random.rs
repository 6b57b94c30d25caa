//! Pseudo-random numbers from a seed: the same seed makes the same choices, on every machine.

use crate::bytes::{narrow, wide};

/// A small generator (splitmix64). Never for anything secret.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Starts from a seed; `what` keeps two uses of one seed apart.
    pub(crate) fn new(seed: u64, what: &str) -> Self {
        let mut start = Self(seed);
        let mixed = what.bytes().fold(start.next(), |mixed, byte| {
            mixed.rotate_left(7).wrapping_mul(0x100_0000_01b3) ^ u64::from(byte)
        });
        Self(mixed)
    }

    /// Returns the next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`, 0 where `end` is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next().checked_rem(end).unwrap_or(0)
    }

    /// Returns a position in something of this length.
    pub(crate) fn position(&mut self, len: usize) -> usize {
        narrow(self.below(wide(len)))
    }

    /// Returns true so many times of a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Returns one of these, or `None` where there are none.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let position = self.position(from.len());
        from.get(position)
    }

    /// Puts these into another order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.position(last.saturating_add(1));
            items.swap(last, other);
        }
    }
}
