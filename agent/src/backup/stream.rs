//! Standard input as a disk: read once, in order, without files.

use std::io::Read;

use umbra_common::image_hash::{WINDOW_BYTES, WindowHash, image_hash};
use umbra_common::{ByteLen, ByteOffset};

use super::batch::{Batch, Segment, Stream};
use super::prove::{Output, ReadSummary};
use super::read::SPAN_BYTES;
use crate::error::{Error, Result};

/// Reads `input` to its end and hands batches to `out`; returns what it found and the length.
///
/// # Errors
/// [`Error::Io`] where the input fails: an input that breaks off is no disk.
pub fn run(input: &mut dyn Read, out: &Output) -> Result<(ReadSummary, ByteLen)> {
    let gone = || Error::Internal("the stage that cuts has ended".into());
    let failed = |source| Error::Io { what: "read", path: "standard input".into(), source };
    let mut windows: Vec<WindowHash> = Vec::new();
    let mut window = blake3::Hasher::new();
    let mut at = 0_u64;
    loop {
        let mut buffer = out.recycled.try_recv().unwrap_or_default();
        buffer.clear();
        // A span ends where a window does, so that each has one hasher at a time.
        let room = SPAN_BYTES.min(WINDOW_BYTES - at % WINDOW_BYTES);
        let read = (&mut *input).take(room).read_to_end(&mut buffer).map_err(failed)?;
        let mut segments = Vec::new();
        if at == 0 {
            segments.push(Segment::Begin(Stream::Unparsed));
        }
        if read > 0 {
            window.update(&buffer);
            let disk = ByteOffset(at);
            segments.push(Segment::Bytes { at: 0..read, disk, position: at });
            at += read as u64;
            if at.is_multiple_of(WINDOW_BYTES) {
                windows.push(WindowHash(*window.finalize().as_bytes()));
                window.reset();
            }
        } else {
            segments.push(Segment::End);
        }
        out.batches.send(Batch { buffer, segments }).map_err(|_| gone())?;
        if read == 0 {
            break;
        }
    }
    if !at.is_multiple_of(WINDOW_BYTES) {
        windows.push(WindowHash(*window.finalize().as_bytes()));
    }
    let len = ByteLen(at);
    let image_hash = image_hash(len, windows.iter().copied())?;
    let (unreadable, changed) = (Vec::new(), None);
    let summary = ReadSummary { image_hash, windows, bytes_read: at, unreadable, changed };
    Ok((summary, len))
}
