//! Readings of a device: several under way at once, given back in the order in which they were
//! asked for.

use std::collections::VecDeque;
use std::ops::Range;

use crossbeam_channel::{Receiver, Sender, bounded};
use umbra_common::{ByteLen, ByteOffset, ByteRange};

use super::read::SPAN_BYTES;
use crate::error::{Error, Result};
use crate::source::{DIRECT_ALIGNMENT, Device, read_salvaging};

/// Readings under way at once. DESIGN 2 starts from 8 to 16; one hides the latency of a local disk,
/// these that of one behind a network.
pub(super) const IN_FLIGHT: usize = 8;
/// Length of a buffer: a span, with room to begin and end where a direct reading must.
const BUFFER_BYTES: usize = SPAN_BYTES as usize + 3 * DIRECT_ALIGNMENT;

/// The bytes of one span; without a byte where nothing was to be read.
#[derive(Default)]
pub(super) struct Reading {
    /// Where they are on the disk; perhaps nowhere.
    pub(super) span: ByteRange,
    /// The buffer that has them, among others.
    pub(super) buffer: Vec<u8>,
    /// What the device did not give, zeros in the buffer; sorted, merged.
    pub(super) lost: Vec<ByteRange>,
    /// Where in the buffer the span begins.
    start: usize,
}

impl Reading {
    /// Tells where bytes of the span stand in the buffer.
    ///
    /// # Errors
    /// [`Error::Internal`] where they are not of the span.
    pub(super) fn place(&self, disk: ByteRange) -> Result<Range<usize>> {
        let outside = || Error::Internal(format!("{disk} lie outside the span {}", self.span));
        let before = disk.start().0.checked_sub(self.span.start().0).ok_or_else(outside)?;
        if disk.end() > self.span.end() {
            return Err(outside());
        }
        let start = self.start + usize::try_from(before).unwrap_or(usize::MAX);
        Ok(start..start + usize::try_from(disk.len().0).unwrap_or_default())
    }

    /// Returns bytes of the span.
    ///
    /// # Errors
    /// [`Error::Internal`] where they are not of the span.
    pub(super) fn bytes(&self, disk: ByteRange) -> Result<&[u8]> {
        let place = self.place(disk)?;
        let short = || Error::Internal(format!("the buffer ends before {disk}"));
        self.buffer.get(place).ok_or_else(short)
    }
}

struct Job {
    span: ByteRange,
    done: Sender<Reading>,
}

/// The readings of one device.
pub(super) struct Reads {
    jobs: Sender<Job>,
    pending: VecDeque<Receiver<Reading>>,
}

impl Reads {
    /// Runs `body`, which asks for readings, beside the threads that make them. Buffers come from
    /// `recycled` where it has some.
    ///
    /// # Errors
    /// Those of `body`; [`Error::Io`] where there can be no threads.
    pub(super) fn run<T>(
        device: &dyn Device,
        recycled: &Receiver<Vec<u8>>,
        body: impl FnOnce(Self) -> Result<T>,
    ) -> Result<T> {
        let (jobs, todo) = bounded::<Job>(IN_FLIGHT);
        std::thread::scope(|scope| {
            for _ in 0..IN_FLIGHT {
                let todo = todo.clone();
                super::spawn(scope, "umbra-disk", move || {
                    for Job { span, done } in todo {
                        let buffer = recycled.try_recv().unwrap_or_default();
                        // A stage that ended does not want it.
                        let _ = done.send(read(device, span, buffer));
                    }
                    Ok(())
                })?;
            }
            drop(todo);
            body(Self { jobs, pending: VecDeque::new() })
        })
    }

    /// Asks for a span, [`SPAN_BYTES`] at most.
    ///
    /// # Errors
    /// [`Error::Internal`] where the threads have ended.
    pub(super) fn ask(&mut self, span: ByteRange) -> Result<()> {
        let (done, reading) = bounded(1);
        let gone = |_| Error::Internal("the threads that read have ended".into());
        self.jobs.send(Job { span, done }).map_err(gone)?;
        self.pending.push_back(reading);
        Ok(())
    }

    /// Waits for the oldest reading that was not taken; `None` where all were.
    ///
    /// # Errors
    /// [`Error::Internal`] where its thread has ended without it.
    pub(super) fn take(&mut self) -> Result<Option<Reading>> {
        let Some(oldest) = self.pending.pop_front() else { return Ok(None) };
        let reading = oldest.recv();
        reading.map(Some).map_err(|_| Error::Internal("a thread that reads panicked".into()))
    }
}

fn read(device: &dyn Device, span: ByteRange, mut buffer: Vec<u8>) -> Reading {
    if buffer.is_empty() && !span.is_empty() {
        buffer = vec![0; BUFFER_BYTES];
    }
    if let Some(start) = read_direct(device, span, &mut buffer) {
        return Reading { span, buffer, lost: Vec::new(), start };
    }
    let len = usize::try_from(span.len().0).unwrap_or_default();
    let lost = buffer.get_mut(..len).filter(|room| !room.is_empty());
    let lost = lost.map(|room| read_salvaging(device, span.start(), room)).unwrap_or_default();
    Reading { span, buffer, lost, start: 0 }
}

/// Reads a span past the system's cache where the device can; returns where in the buffer it
/// begins.
fn read_direct(device: &dyn Device, span: ByteRange, buffer: &mut [u8]) -> Option<usize> {
    if span.is_empty() {
        return None;
    }
    let alignment = DIRECT_ALIGNMENT as u64;
    let from = span.start().0 / alignment * alignment;
    let len = usize::try_from(span.end().0.next_multiple_of(alignment) - from).ok()?;
    let pad = buffer.as_ptr().align_offset(DIRECT_ALIGNMENT);
    let room = buffer.get_mut(pad..pad.checked_add(len)?)?;
    let before = usize::try_from(span.start().0 - from).ok()?;
    device.read_direct(ByteOffset(from), room).then_some(pad + before)
}

/// Cuts a range of the disk at the bounds of what was lost of it: (part, whether it was lost).
/// `lost` is sorted and disjoint.
pub(super) fn by_loss(
    disk: ByteRange,
    lost: &[ByteRange],
) -> impl Iterator<Item = (ByteRange, bool)> {
    let first = lost.partition_point(|range| range.end() <= disk.start());
    let mut holes = lost.iter().skip(first).map_while(move |range| range.intersection(disk));
    let mut hole = holes.next();
    let mut at = disk.start();
    std::iter::from_fn(move || {
        let (end, is_lost) = match hole {
            Some(range) if range.start() == at => {
                hole = holes.next();
                (range.end(), true)
            }
            Some(range) => (range.start(), false),
            None => (disk.end(), false),
        };
        let part = ByteRange::between(at, end).filter(|part| part.len() > ByteLen(0))?;
        at = end;
        Some((part, is_lost))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(ByteOffset(start), ByteOffset(end)).unwrap_or_default()
    }

    #[test]
    fn a_range_is_cut_at_the_bounds_of_its_losses() {
        let cut = |disk, lost: &[ByteRange]| by_loss(disk, lost).collect::<Vec<_>>();
        assert_eq!(cut(range(10, 20), &[]), [(range(10, 20), false)]);
        assert_eq!(cut(range(10, 20), &[range(0, 10), range(20, 30)]), [(range(10, 20), false)]);
        assert_eq!(cut(range(10, 20), &[range(0, 30)]), [(range(10, 20), true)]);
        assert_eq!(cut(range(10, 10), &[range(0, 30)]), []);
        let lost = [range(1, 2), range(5, 12), range(14, 15), range(18, 25), range(30, 31)];
        let expected = [
            (range(10, 12), true),
            (range(12, 14), false),
            (range(14, 15), true),
            (range(15, 18), false),
            (range(18, 20), true),
        ];
        assert_eq!(cut(range(10, 20), &lost), expected);
    }
}
