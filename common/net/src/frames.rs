//! Frames on QUIC streams.

use crate::error::{NetError, Result};
use umbra_common::wire::frame;

/// Reads one message of at most `cap` bytes; `None` at the orderly end of the stream.
///
/// # Errors
/// [`NetError::Protocol`] for what is no message, [`NetError::Lost`] when the connection is lost.
pub(crate) async fn read<M>(stream: &mut quinn::RecvStream, cap: usize) -> Result<Option<M>>
where
    M: for<'b> minicbor::Decode<'b, ()>,
{
    let Some(length) = read_length(stream, cap).await? else { return Ok(None) };
    Ok(Some(read_body(stream, length).await?))
}

/// Reads a frame's head: how many bytes follow. Nothing is allocated for them yet.
pub(crate) async fn read_length(
    stream: &mut quinn::RecvStream,
    cap: usize,
) -> Result<Option<usize>> {
    let mut head = [0; frame::FRAME_HEADER_BYTES];
    match stream.read_exact(&mut head).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(lost(error)),
    }
    let length = frame::length(head, cap).map_err(|source| NetError::Protocol {
        reason: "a message that is too long",
        source: Some(source),
    })?;
    Ok(Some(length))
}

/// Reads the message behind a head.
pub(crate) async fn read_body<M>(stream: &mut quinn::RecvStream, length: usize) -> Result<M>
where
    M: for<'b> minicbor::Decode<'b, ()>,
{
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(lost)?;
    frame::decode(&bytes).map_err(|source| NetError::Protocol {
        reason: "a message that this program does not understand",
        source: Some(source),
    })
}

/// Writes one message of at most `cap` bytes and returns its length on the stream.
///
/// # Errors
/// [`NetError::Protocol`] where it is longer, [`NetError::Lost`] when the connection is lost.
pub(crate) async fn write<M: minicbor::Encode<()>>(
    stream: &mut quinn::SendStream,
    message: &M,
    cap: usize,
) -> Result<usize> {
    let bytes = encode(message, cap)?;
    stream.write_all(&bytes).await.map_err(lost)?;
    Ok(bytes.len())
}

/// Encodes one message with its head.
pub(crate) fn encode<M: minicbor::Encode<()>>(message: &M, cap: usize) -> Result<Vec<u8>> {
    frame::encode(message, cap).map_err(|source| NetError::Protocol {
        reason: "this program made a message that is too long",
        source: Some(source),
    })
}

/// The connection is lost, for a reason that the network layer gives.
pub(crate) fn lost(error: impl std::error::Error + Send + Sync + 'static) -> NetError {
    NetError::Lost { source: Box::new(error) }
}
