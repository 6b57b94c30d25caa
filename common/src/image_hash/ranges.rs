//! A set of numbers, kept as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// Numbers as disjoint, non-touching, half-open ranges.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds the numbers of `range`, none of which may be in the set yet.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if let Some((&before, &until)) = self.0.range(..start).next_back()
            && until == start
        {
            start = before;
        }
        if let Some(until) = self.0.remove(&end) {
            end = until;
        }
        self.0.insert(start, end);
    }

    /// Tells whether the set holds a number of `range`.
    pub(super) fn touches(&self, range: &Range<u64>) -> bool {
        self.0.range(..range.end).next_back().is_some_and(|(_, &end)| end > range.start)
    }

    /// Returns the end of the range that holds `number`, or `None` where none does.
    pub(super) fn end_of(&self, number: u64) -> Option<u64> {
        self.0.range(..=number).next_back().map(|(_, &end)| end).filter(|&end| end > number)
    }

    /// Returns the ranges, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(&start, &end)| start..end)
    }

    /// Returns what the set lacks of `range`, in order.
    pub(super) fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        while at < range.end {
            if let Some(end) = self.end_of(at) {
                at = end;
                continue;
            }
            let next = self.0.range(at..range.end).next().map_or(range.end, |(&start, _)| start);
            gaps.push(at..next);
            at = next;
        }
        gaps
    }
}
