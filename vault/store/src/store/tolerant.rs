//! Reading what is left of a file on a failing disk.

use std::ops::Range;

use umbra_common::ByteRange;

use crate::bytes::{narrow, wide};
use crate::error::{Error, Result};
use crate::store::contents::range;

/// Bytes that are read at once where nothing is wrong.
const PIECE_BYTES: u64 = 1 << 20;

/// Around what cannot be read, pieces get smaller down to this: a sector of most disks.
const SMALLEST_BYTES: u64 = 4 << 10;

/// A file as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Its bytes; zeros where they cannot be read.
    pub(crate) bytes: Vec<u8>,
    /// The ranges that cannot be read, by offset.
    pub(crate) unreadable: Vec<Range<u64>>,
}

/// Reads the first `len` bytes of a file through `each`, in smaller pieces where the medium gives
/// bytes up.
///
/// # Errors
/// What `each` says, but for what the medium gives up.
pub(crate) fn read(each: &dyn Fn(ByteRange) -> Result<Vec<u8>>, len: u64) -> Result<Left> {
    let mut left = Left::default();
    let mut at = 0u64;
    let mut piece = PIECE_BYTES;
    while at < len {
        let size = piece.min(len.saturating_sub(at));
        match each(range(at, size)?) {
            Ok(bytes) => {
                left.bytes.extend_from_slice(&bytes);
                at = at.saturating_add(size);
                // Back to large pieces, but at their own bounds.
                let aligned = at.checked_rem(piece.saturating_mul(2)) == Some(0);
                piece = if aligned { piece.saturating_mul(2).min(PIECE_BYTES) } else { piece };
            }
            Err(error) if error.is_unreadable() || is_short(&error) => {
                if size > SMALLEST_BYTES {
                    piece = (piece / 2).max(SMALLEST_BYTES);
                    continue;
                }
                let end = at.saturating_add(size);
                match left.unreadable.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => left.unreadable.push(at..end),
                }
                left.bytes.resize(narrow(end), 0);
                at = end;
            }
            Err(error) => return Err(error),
        }
    }
    debug_assert_eq!(wide(left.bytes.len()), len);
    Ok(left)
}

/// Tells whether a file ended before its length: it is being damaged while we read.
fn is_short(error: &Error) -> bool {
    let Error::Io { source, .. } = error.root() else { return false };
    source.kind() == std::io::ErrorKind::UnexpectedEof
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn what_can_be_read_is_read() {
        let file: Vec<u8> = (0..3_000_001u32).map(|n| (n % 251) as u8).collect();
        let bad: [u64; 5] = [0, 4096 * 7, 4096 * 8, 1 << 20, 3_000_000];
        let readings = Cell::new(0);
        let each = |range: ByteRange| {
            readings.set(readings.get() + 1);
            if bad.iter().any(|at| range.start().0 <= *at && *at < range.end().0) {
                let errno = rustix::io::Errno::IO;
                return Err(Error::io("read", "f", std::io::Error::from(errno)));
            }
            Ok(file[range.start().0 as usize..range.end().0 as usize].to_vec())
        };
        let left = read(&each, file.len() as u64).unwrap();
        let sectors = [0..4096, 28_672..36_864, 1_048_576..1_052_672, 2_998_272..3_000_001];
        assert_eq!(left.unreadable, sectors);
        assert_eq!(left.bytes.len(), file.len());
        for (at, byte) in file.iter().enumerate() {
            let lost = sectors.iter().any(|range| range.contains(&(at as u64)));
            assert_eq!(left.bytes[at], if lost { 0 } else { *byte }, "{at}");
        }
        assert!(readings.get() < 200, "{} readings", readings.get());
    }
}
