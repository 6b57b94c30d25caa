//! The bytes of no file, handed out window by window.
//!
//! The residue of one 16 MiB window of the disk is one stream. It is read as soon as every file
//! with a byte in the window was read, so that the hash of the window is complete then: no byte
//! of the disk need be read twice, and a window waits only for files that begin before it.

use std::collections::BTreeMap;

use umbra_common::image_hash::WINDOW_BYTES;
use umbra_common::{ByteOffset, ByteRange};

/// What is left of the residue, in disk order.
#[derive(Debug, Default)]
pub(super) struct Residue<'p> {
    /// Of the plan: sorted, disjoint.
    planned: &'p [ByteRange],
    /// The first of `planned`, where a part of it was handed out.
    begun: Option<ByteRange>,
    /// Slack of files that turned out not to be zeros, by its start.
    slack: BTreeMap<ByteOffset, ByteRange>,
}

impl<'p> Residue<'p> {
    /// Begins with the residue of a plan.
    pub(super) fn new(planned: &'p [ByteRange]) -> Self {
        Self { planned, ..Self::default() }
    }

    /// Adds slack of a file; its window was not handed out yet.
    pub(super) fn add_slack(&mut self, range: ByteRange) {
        self.slack.insert(range.start(), range);
    }

    /// Tells whether a window that ends at or before `limit` has residue in the plan.
    pub(super) fn is_due(&self, limit: ByteOffset) -> bool {
        self.first_planned().is_some_and(|range| window_end(range.start()) <= limit)
    }

    /// Takes the residue of the next window, in disk order, where it ends at or before `limit`.
    pub(super) fn next_window(&mut self, limit: ByteOffset) -> Option<Vec<ByteRange>> {
        let planned = self.first_planned().map(ByteRange::start);
        let slack = self.slack.keys().next().copied();
        let first = [planned, slack].into_iter().flatten().min()?;
        let end = window_end(first);
        if end > limit {
            return None;
        }
        let mut parts = Vec::new();
        while let Some(range) = self.first_planned().filter(|range| range.start() < end) {
            let (head, tail) = cut(range, end);
            parts.push(head);
            if self.begun.is_none() {
                self.planned = self.planned.get(1..).unwrap_or_default();
            }
            self.begun = tail;
        }
        while let Some(entry) = self.slack.first_entry().filter(|entry| *entry.key() < end) {
            let (head, tail) = cut(entry.remove(), end);
            parts.push(head);
            if let Some(tail) = tail {
                self.add_slack(tail);
            }
        }
        parts.sort_unstable_by_key(|range| range.start());
        Some(parts)
    }

    fn first_planned(&self) -> Option<ByteRange> {
        self.begun.or_else(|| self.planned.first().copied())
    }
}

/// Returns where the window ends that a byte lies in.
fn window_end(at: ByteOffset) -> ByteOffset {
    ByteOffset((at.0 / WINDOW_BYTES + 1).saturating_mul(WINDOW_BYTES))
}

/// Cuts a range at `end`, behind which it may go on.
fn cut(range: ByteRange, end: ByteOffset) -> (ByteRange, Option<ByteRange>) {
    let head = ByteRange::between(range.start(), end.min(range.end())).unwrap_or(range);
    let tail = ByteRange::between(end, range.end()).filter(|tail| !tail.is_empty());
    (head, tail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use umbra_common::ByteLen;

    const W: u64 = WINDOW_BYTES;

    fn span(start: u64, len: u64) -> ByteRange {
        ByteRange::new(ByteOffset(start), ByteLen(len)).unwrap()
    }

    #[test]
    fn windows_come_in_order_and_not_before_their_end() {
        let planned = [span(0, 10), span(100, 3 * W), span(4 * W + 300, 5)];
        let mut residue = Residue::new(&planned);
        assert!(!residue.is_due(ByteOffset(W - 1)));
        assert_eq!(residue.next_window(ByteOffset(W - 1)), None);
        assert!(residue.is_due(ByteOffset(W)));
        residue.add_slack(span(50, 3));
        residue.add_slack(span(3 * W + 200, W));
        let limit = ByteOffset(3 * W + 1);
        let first = vec![span(0, 10), span(50, 3), span(100, W - 100)];
        assert_eq!(residue.next_window(limit), Some(first));
        assert_eq!(residue.next_window(limit), Some(vec![span(W, W)]));
        assert_eq!(residue.next_window(limit), Some(vec![span(2 * W, W)]));
        assert_eq!(residue.next_window(limit), None);
        let end = ByteOffset(u64::MAX);
        let fourth = vec![span(3 * W, 100), span(3 * W + 200, W - 200)];
        assert_eq!(residue.next_window(end), Some(fourth));
        let fifth = vec![span(4 * W, 200), span(4 * W + 300, 5)];
        assert_eq!(residue.next_window(end), Some(fifth));
        assert_eq!(residue.next_window(end), None);
        assert!(!residue.is_due(end));
    }
}
