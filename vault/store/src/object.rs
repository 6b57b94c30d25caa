//! An object as it comes from the wire and goes back to it.

use umbra_common::{Kind, ObjectId, Reference};

use crate::error::{Error, Result};

/// Longest plain body of an object, and longest reference list plus body of a node: 1 MiB.
pub const MAX_PLAIN_BYTES: u32 = 1 << 20;

/// Longest stored body: room for incompressible content, a frame header and a cipher's tag.
pub const MAX_STORED_BYTES: u32 = MAX_PLAIN_BYTES + (1 << 16);

/// Most references of one node: what fits into 1 MiB at 33 bytes each.
pub const MAX_REFERENCES: u32 = MAX_PLAIN_BYTES / 33;

/// How a stored body is compressed. The numbers stand in records and on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StoredCodec {
    /// Not at all.
    None = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl StoredCodec {
    /// Returns the codec with this number, or `None` where no released version knows it.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Returns its number in stored and sent formats.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// An object: its name, what it refers to, and its body as compressed by the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Kind and id.
    pub reference: Reference,
    /// What a node refers to, in the order of its list; empty for a chunk.
    pub refs: Vec<Reference>,
    /// How `body` is compressed.
    pub codec: StoredCodec,
    /// Length of the plain body in bytes.
    pub plain_len: u32,
    /// The body, compressed. For a node the reference list is not in it.
    pub body: Vec<u8>,
}

impl Object {
    /// Returns the plain body, not yet compared with the id.
    ///
    /// # Errors
    /// [`Error::WrongBytes`] where it does not decompress to `plain_len` bytes,
    /// [`Error::Limit`] where a length passes its bound.
    pub fn plain(&self) -> Result<Vec<u8>> {
        self.check_limits()?;
        let wrong = |reason| Error::WrongBytes { reference: self.reference, reason };
        let expected = usize::try_from(self.plain_len).map_err(|_| wrong("too long"))?;
        let plain = match self.codec {
            StoredCodec::None => self.body.clone(),
            StoredCodec::Zstd => zstd::bulk::decompress(&self.body, expected)
                .map_err(|_| wrong("it does not decompress"))?,
        };
        if plain.len() != expected {
            return Err(wrong("its plain length is another"));
        }
        Ok(plain)
    }

    /// Proves that the id is that of the bytes, and returns the plain body.
    ///
    /// # Errors
    /// As [`Object::plain`]; [`Error::WrongBytes`] where the hash is another.
    pub fn verify(&self) -> Result<Vec<u8>> {
        let plain = self.plain()?;
        if id_of(self.reference.kind, &self.refs, &plain) != self.reference.id {
            return Err(Error::WrongBytes {
                reference: self.reference,
                reason: "its hash is another",
            });
        }
        Ok(plain)
    }

    /// Compares every length with its bound.
    fn check_limits(&self) -> Result<()> {
        let limit = |what, found: usize, limit: u32| {
            let found = u64::try_from(found).unwrap_or(u64::MAX);
            let limit = u64::from(limit);
            if found > limit { Err(Error::Limit { what, found, limit }) } else { Ok(()) }
        };
        limit("a stored body", self.body.len(), MAX_STORED_BYTES)?;
        limit("a reference list", self.refs.len(), MAX_REFERENCES)?;
        let plain = u64::from(self.plain_len);
        let listed = u64::try_from(self.refs.len()).unwrap_or(u64::MAX).saturating_mul(33);
        let found = plain.saturating_add(listed);
        if found > u64::from(MAX_PLAIN_BYTES) {
            return Err(Error::Limit {
                what: "an object",
                found,
                limit: u64::from(MAX_PLAIN_BYTES),
            });
        }
        if self.reference.kind == Kind::Chunk && !self.refs.is_empty() {
            return Err(Error::WrongBytes {
                reference: self.reference,
                reason: "a chunk has no references",
            });
        }
        Ok(())
    }
}

/// Names the canonical bytes: a chunk's are its bytes, a node's `reference list || body`.
///
/// The list is a u32 count, then kind (u8) and id (32 bytes) of each; little-endian.
pub fn id_of(kind: Kind, refs: &[Reference], plain: &[u8]) -> ObjectId {
    let mut hasher = kind.hasher();
    if kind.is_node() {
        let count = u32::try_from(refs.len()).unwrap_or(u32::MAX);
        hasher.update(&count.to_le_bytes());
        for reference in refs {
            hasher.update(&[reference.kind.number()]);
            hasher.update(&reference.id.0);
        }
    }
    hasher.update(plain);
    ObjectId(*hasher.finalize().as_bytes())
}
