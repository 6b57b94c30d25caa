//! The content of a file, put together from the volume through its extents.

use sha2::{Digest, Sha256};
use umbra_fsparse::{ByteOffset, Codec, Extent, ExtentKind, Inode, ReadAt, ReadError};

/// What a journal's copy has as zeros.
const ESCAPED: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];
const PIECE: u64 = 1 << 20;

/// Returns the SHA-256 of a file's content in hexadecimal digits.
///
/// # Errors
/// Where the volume does not give the bytes.
pub fn sha256(volume: &dyn ReadAt, inode: &Inode) -> Result<String, ReadError> {
    let mut hash = Sha256::new();
    pieces(volume, inode, |bytes| hash.update(bytes))?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Gives a file's content in order. Holes may be longer than memory: it comes in pieces.
///
/// # Errors
/// Where the volume does not give the bytes.
pub fn pieces(
    volume: &dyn ReadAt,
    inode: &Inode,
    mut each: impl FnMut(&[u8]),
) -> Result<(), ReadError> {
    let mut buffer = vec![0; PIECE as usize];
    let mut at = 0;
    while at < inode.size.0 {
        let len = PIECE.min(inode.size.0 - at);
        let piece = buffer.get_mut(..len as usize).unwrap_or_default();
        piece.fill(0);
        for extent in inode.extents.iter().filter(|extent| extent.kind != ExtentKind::Unwritten) {
            fill(volume, extent, at, piece)?;
        }
        each(piece);
        at += len;
    }
    Ok(())
}

/// Fills in what an extent has of the piece that begins at `at` of the content.
fn fill(volume: &dyn ReadAt, extent: &Extent, at: u64, piece: &mut [u8]) -> Result<(), ReadError> {
    let logical = extent.logical.0;
    let from = logical.max(at);
    let to = (logical + extent.volume.len().0).min(at + piece.len() as u64);
    if from >= to {
        return Ok(());
    }
    let place = ByteOffset(extent.volume.start().0 + (from - logical));
    let Some(target) = piece.get_mut((from - at) as usize..(to - at) as usize) else {
        return Ok(());
    };
    volume.read_at(place, target)?;
    if extent.codec == Codec::Jbd2Escaped
        && from == logical
        && let Some(magic) = target.first_chunk_mut()
    {
        *magic = ESCAPED;
    }
    Ok(())
}
