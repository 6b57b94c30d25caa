//! Lists of byte ranges: joined, and taken from each other.

use umbra_fsparse::ByteRange;

/// Sorts ranges and joins those that touch or overlap.
pub(crate) fn merged(mut ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start());
    ranges.dedup_by(|next, last| {
        if next.start() > last.end() {
            return false;
        }
        let end = last.end().max(next.end());
        *last = ByteRange::between(last.start(), end).unwrap_or(*last);
        true
    });
    ranges
}

/// Returns the parts of `ranges` that `taken` leaves. Both are sorted; `ranges` are disjoint,
/// those taken may overlap each other.
pub(crate) fn without(ranges: &[ByteRange], taken: &[ByteRange]) -> Vec<ByteRange> {
    let mut rest = Vec::new();
    let mut taken = taken.iter().copied().peekable();
    for range in ranges {
        let mut at = range.start();
        while let Some(next) = taken.peek().copied().filter(|next| next.start() < range.end()) {
            if let Some(part) = ByteRange::between(at, next.start())
                && !part.is_empty()
            {
                rest.push(part);
            }
            at = at.max(next.end());
            if next.end() > range.end() {
                break;
            }
            taken.next();
        }
        if let Some(part) = ByteRange::between(at, range.end())
            && !part.is_empty()
        {
            rest.push(part);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use umbra_fsparse::{ByteLen, ByteOffset};

    fn range(start: u64, len: u64) -> ByteRange {
        ByteRange::new(ByteOffset(start), ByteLen(len)).unwrap()
    }

    fn bytes(ranges: &[ByteRange]) -> std::collections::BTreeSet<u64> {
        ranges.iter().flat_map(|range| range.start().0..range.end().0).collect()
    }

    proptest! {
        #[test]
        fn what_is_taken_is_gone_and_nothing_else(
            ranges in prop::collection::vec((0..200_u64, 0..20_u64), 0..20),
            taken in prop::collection::vec((0..200_u64, 0..40_u64), 0..20),
        ) {
            let list = |pairs: Vec<(u64, u64)>| -> Vec<ByteRange> {
                pairs.into_iter().map(|(start, len)| range(start, len)).collect()
            };
            let (ranges, mut taken) = (merged(list(ranges)), list(taken));
            taken.sort();
            let rest = without(&ranges, &taken);
            let expected: std::collections::BTreeSet<u64> =
                bytes(&ranges).difference(&bytes(&taken)).copied().collect();
            prop_assert_eq!(bytes(&rest), expected);
            prop_assert!(rest.windows(2).all(|pair| pair[0].end() <= pair[1].start()));
            prop_assert!(rest.iter().all(|range| !range.is_empty()));
        }
    }
}
