//! Frames: `u32 LE length || CBOR of one message`.

use crate::{Error, Result};

/// Bytes of a frame's head: the length of what follows, u32 little-endian.
pub const FRAME_HEADER_BYTES: usize = 4;

/// Most bytes of a control, request or reply message.
pub const MAX_CONTROL_FRAME_BYTES: usize = 1 << 20;

/// Most bytes of a message that carries an object.
pub const MAX_OBJECT_FRAME_BYTES: usize = 2 << 20;

/// Encodes `message` with its head, ready to be written.
///
/// # Errors
/// [`Error::Limit`] where the message passes `cap` bytes.
pub fn encode<M: minicbor::Encode<()>>(message: &M, cap: usize) -> Result<Vec<u8>> {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    // Writing to a Vec cannot fail and no message has an encoding error of its own.
    minicbor::encode(message, &mut frame).map_err(|_| too_long(cap))?;
    let length = frame.len().saturating_sub(FRAME_HEADER_BYTES);
    match u32::try_from(length) {
        Ok(head) if length <= cap => {
            for (byte, value) in frame.iter_mut().zip(head.to_le_bytes()) {
                *byte = value;
            }
            Ok(frame)
        }
        _ => Err(too_long(cap)),
    }
}

/// Returns how many bytes follow a head, before anything is allocated for them.
///
/// # Errors
/// [`Error::Limit`] where that passes `cap`.
pub fn length(head: [u8; FRAME_HEADER_BYTES], cap: usize) -> Result<usize> {
    match usize::try_from(u32::from_le_bytes(head)) {
        Ok(length) if length <= cap => Ok(length),
        _ => Err(too_long(cap)),
    }
}

/// Decodes what follows a head. Fields with unknown numbers are skipped.
///
/// # Errors
/// [`Error::Corrupt`] where the bytes are no message of this type, or go on behind it.
pub fn decode<'b, M: minicbor::Decode<'b, ()>>(bytes: &'b [u8]) -> Result<M> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let corrupt = |at: usize, reason| Error::Corrupt {
        what: "wire message",
        at: u64::try_from(at).unwrap_or(u64::MAX),
        reason,
    };
    match decoder.decode() {
        Ok(message) if decoder.position() == bytes.len() => Ok(message),
        Ok(_) => Err(corrupt(decoder.position(), "bytes behind the message")),
        Err(error) => {
            let at = error.position().unwrap_or(decoder.position());
            Err(corrupt(at, "not a message that this program knows"))
        }
    }
}

fn too_long(cap: usize) -> Error {
    Error::Limit { what: "wire message", limit: u64::try_from(cap).unwrap_or(u64::MAX) }
}
