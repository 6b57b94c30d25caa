//! A set of sequence numbers as ranges.

use super::Violation;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Most ranges in one acknowledgement; the rest goes into the next.
const MAX_RANGES: usize = 4096;

/// A set of numbers, kept as maximal ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// First number -> last number; no two touch.
    ranges: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds a number; tells whether it is new.
    pub fn insert(&mut self, number: u64) -> bool {
        let before = self.ranges.range(..=number).next_back().map(|(&first, &last)| (first, last));
        if before.is_some_and(|(_, last)| last >= number) {
            return false;
        }
        let mut first = number;
        let mut last = number;
        if let Some((earlier, end)) = before
            && end.checked_add(1) == Some(number)
        {
            first = earlier;
        }
        if let Some(next) = number.checked_add(1)
            && let Some(end) = self.ranges.remove(&next)
        {
            last = end;
        }
        self.ranges.insert(first, last);
        true
    }

    /// Tells whether it holds every number below `end`.
    pub fn covers(&self, end: u64) -> bool {
        let Some(last_wanted) = end.checked_sub(1) else { return true };
        self.ranges.get(&0).is_some_and(|&last| last >= last_wanted)
    }

    /// Tells whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Counts its maximal ranges.
    pub fn pieces(&self) -> usize {
        self.ranges.len()
    }

    /// Takes ranges out, in the form of the wire: first, last, first, last...
    pub fn take_flat(&mut self) -> Vec<u64> {
        let mut flat = Vec::new();
        for _ in 0..MAX_RANGES {
            let Some((first, last)) = self.ranges.pop_first() else { break };
            flat.extend([first, last]);
        }
        flat
    }

    /// Reads the form of the wire.
    ///
    /// # Errors
    /// [`Violation`] where numbers are odd in count or a range ends before it begins.
    pub fn read_flat(flat: &[u64]) -> Result<Vec<RangeInclusive<u64>>, Violation> {
        let (pairs, rest) = flat.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(Violation::new("an acknowledgement with half a range"));
        }
        let ranges: Option<Vec<_>> =
            pairs.iter().map(|&[first, last]| (first <= last).then_some(first..=last)).collect();
        ranges.ok_or(Violation::new("an acknowledgement of a range that ends before it begins"))
    }
}
