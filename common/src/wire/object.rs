//! Objects as they are sent and stored: references in the clear, the body under a codec.

use super::zip;
use crate::{Error, Kind, ObjectId, Reference, Result};

/// Most bytes of an object's body before compression, and of a node's body and references in all.
pub const MAX_PLAIN_BYTES: u32 = 1 << 20;

/// How an object's body is stored and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    None,
    /// One Zstandard frame (RFC 8878).
    Zstd,
}

impl Codec {
    /// Returns its number in stored and sent formats.
    pub fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd => 1,
        }
    }

    /// Returns the codec with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// An object on its way: what a pack record holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Object {
    /// Kind and id.
    pub reference: Reference,
    /// What it refers to, in the order of its list; empty for a chunk.
    pub refs: Vec<Reference>,
    /// How `body` is encoded.
    pub codec: Codec,
    /// Bytes of the body when decoded, at most [`MAX_PLAIN_BYTES`].
    pub plain_len: u32,
    /// The body under `codec`.
    pub body: Vec<u8>,
}

/// An object whose bytes were proven to hash to its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Kind and id.
    pub reference: Reference,
    /// What it refers to; empty for a chunk.
    pub refs: Vec<Reference>,
    /// The decoded body (a chunk's bytes).
    pub body: Vec<u8>,
}

impl Object {
    /// Names and packs a body: zstd at `level` (1 to 19) where that saves something.
    ///
    /// # Errors
    /// [`Error::Limit`] where the body passes [`MAX_PLAIN_BYTES`].
    pub fn pack(kind: Kind, refs: Vec<Reference>, body: Vec<u8>, level: i32) -> Result<Self> {
        let id = id_of(kind, &refs, &body);
        Self::pack_named(Reference { kind, id }, refs, body, level)
    }

    /// Packs a body whose id the caller has computed already.
    ///
    /// # Errors
    /// [`Error::Limit`] where the body passes [`MAX_PLAIN_BYTES`].
    pub fn pack_named(
        reference: Reference,
        refs: Vec<Reference>,
        body: Vec<u8>,
        level: i32,
    ) -> Result<Self> {
        let plain_len = plain_len(&body)?;
        let (codec, body) = match zip::compress(&body, level) {
            Ok(Some(packed)) => (Codec::Zstd, packed),
            // Incompressible, or the compressor has no memory: as it is.
            _ => (Codec::None, body),
        };
        Ok(Self { reference, refs, codec, plain_len, body })
    }

    /// Returns about how many bytes it takes in memory and on the wire.
    pub fn weight(&self) -> u64 {
        let references = self.refs.len().saturating_mul(33);
        u64::try_from(references.saturating_add(self.body.len()).saturating_add(96))
            .unwrap_or(u64::MAX)
    }

    /// Decodes the body and proves that it and the references hash to the id.
    ///
    /// # Errors
    /// [`Error::Limit`] where it claims more than [`MAX_PLAIN_BYTES`], [`Error::Corrupt`] where the
    /// body does not decode to exactly `plain_len` bytes, [`Error::WrongBytes`] where they hash to
    /// something else.
    pub fn open(self) -> Result<Plain> {
        if self.plain_len > MAX_PLAIN_BYTES {
            return Err(over_limit());
        }
        let length = usize::try_from(self.plain_len).map_err(|_| over_limit())?;
        let body = match self.codec {
            Codec::None => self.body,
            Codec::Zstd => zip::with_plain(&self.body, length, <[u8]>::to_vec)
                .map_err(|_| corrupt("the compressed body does not decode"))?,
        };
        if body.len() != length {
            return Err(corrupt("the body has another length than it says"));
        }
        if !self.reference.kind.is_node() && !self.refs.is_empty() {
            return Err(corrupt("a chunk with references"));
        }
        let found = id_of(self.reference.kind, &self.refs, &body);
        if found != self.reference.id {
            return Err(Error::WrongBytes { reference: self.reference, found });
        }
        Ok(Plain { reference: self.reference, refs: self.refs, body })
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object")
            .field("reference", &self.reference)
            .field("refs", &self.refs.len())
            .field("codec", &self.codec)
            .field("plain_len", &self.plain_len)
            .field("body", &self.body.len())
            .finish()
    }
}

/// Names an object: a chunk by its bytes, a node by `count u32 LE || (kind, id)... || body`.
pub fn id_of(kind: Kind, refs: &[Reference], body: &[u8]) -> ObjectId {
    let mut hasher = kind.hasher();
    if kind.is_node() {
        let count = u32::try_from(refs.len()).unwrap_or(u32::MAX);
        hasher.update(&count.to_le_bytes());
        for reference in refs {
            hasher.update(&[reference.kind.number()]);
            hasher.update(&reference.id.0);
        }
    }
    hasher.update(body);
    ObjectId(*hasher.finalize().as_bytes())
}

fn plain_len(body: &[u8]) -> Result<u32> {
    match u32::try_from(body.len()) {
        Ok(length) if length <= MAX_PLAIN_BYTES => Ok(length),
        _ => Err(over_limit()),
    }
}

fn over_limit() -> Error {
    Error::Limit { what: "object body", limit: u64::from(MAX_PLAIN_BYTES) }
}

fn corrupt(reason: &'static str) -> Error {
    Error::Corrupt { what: "object", at: 0, reason }
}
