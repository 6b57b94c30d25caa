//! Zstandard frames of objects, with one context a thread.
//!
//! A new context for each chunk allocates, clears and faults in more memory than the chunk has.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

use super::object::MAX_PLAIN_BYTES;

/// What a thread keeps.
struct Compressing {
    context: Compressor<'static>,
    level: i32,
    /// Where a frame is written before its length is known.
    frame: Vec<u8>,
}

thread_local! {
    static COMPRESSING: RefCell<Option<Compressing>> = const { RefCell::new(None) };
    static DECOMPRESSING: RefCell<Option<(Decompressor<'static>, Vec<u8>)>> =
        const { RefCell::new(None) };
}

/// Returns `plain` as one frame at `level`; nothing where that would save nothing.
///
/// # Errors
/// What zstd says: no memory.
pub(crate) fn compress(plain: &[u8], level: i32) -> io::Result<Option<Vec<u8>>> {
    COMPRESSING.with_borrow_mut(|kept| {
        let kept = match kept {
            Some(kept) if kept.level == level => kept,
            kept => {
                kept.insert(Compressing { context: Compressor::new(level)?, level, frame: vec![] })
            }
        };
        let bound = zstd::zstd_safe::compress_bound(plain.len());
        if kept.frame.len() < bound {
            kept.frame.resize(bound, 0);
        }
        let len = kept.context.compress_to_buffer(plain, kept.frame.as_mut_slice())?;
        Ok(kept.frame.get(..len).filter(|frame| frame.len() < plain.len()).map(<[u8]>::to_vec))
    })
}

/// Gives `look` what a frame decodes to.
///
/// # Errors
/// Where it does not decode, or to more than `len` bytes, or `len` passes [`MAX_PLAIN_BYTES`].
pub fn with_plain<T>(frame: &[u8], len: usize, look: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
    if len > MAX_PLAIN_BYTES as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    DECOMPRESSING.with_borrow_mut(|kept| {
        let (context, plain) = match kept {
            Some(kept) => kept,
            kept => kept.insert((Decompressor::new()?, Vec::new())),
        };
        if plain.len() < len {
            plain.resize(len, 0);
        }
        let room = plain.get_mut(..len).unwrap_or_default();
        let len = context.decompress_to_buffer(frame, room)?;
        Ok(look(plain.get(..len).unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_kept_context_gives_what_a_new_one_gives() {
        let mut state = 1_u64;
        for round in 0..300_usize {
            let mut plain: Vec<u8> = Vec::new();
            while plain.len() < round * 331 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let run = (state >> 40) as usize % 40;
                plain.extend(std::iter::repeat_n((state >> 33) as u8 & 15, run + 1));
            }
            let level = if round % 7 == 0 { 9 } else { 3 };
            let new = zstd::bulk::compress(&plain, level).unwrap();
            let new = Some(new).filter(|frame| frame.len() < plain.len());
            assert_eq!(compress(&plain, level).unwrap(), new);
            let Some(frame) = new else { continue };
            assert!(with_plain(&frame, plain.len(), |found| found == plain).unwrap());
            assert!(with_plain(&frame, plain.len() - 1, |_| ()).is_err());
            assert!(with_plain(&frame[..frame.len() / 2], plain.len(), |_| ()).is_err());
            // After a failure, and with more room than there is content.
            assert!(with_plain(&frame, plain.len() + 9, |found| found == plain).unwrap());
        }
        assert!(with_plain(&[], MAX_PLAIN_BYTES as usize + 1, |_| ()).is_err());
    }
}
