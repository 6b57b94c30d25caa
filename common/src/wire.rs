//! What agent and vault say to each other (`docs/formats/wire.md`).
//!
//! Messages are CBOR maps with numbered fields ([`message`]), carried in frames with a length that
//! is compared with its cap before anything is allocated ([`frame`]). Unknown fields are ignored,
//! so that a newer peer can add some; unknown messages are refused. The [`session`] is a pair of
//! state machines without sockets, clock or threads: umbra-net drives them over QUIC, the tests
//! over a link that delays, reorders and cuts.

mod codec;
pub mod frame;
pub mod message;
pub mod object;
pub mod session;
pub mod token;
pub mod zip;

pub use frame::{FRAME_HEADER_BYTES, MAX_CONTROL_FRAME_BYTES, MAX_OBJECT_FRAME_BYTES};
pub use message::{
    Ask, BaseState, Begin, Begun, Commit, Committed, Enroll, Enrolled, Hello, Known, Label,
    LimitsOffered, List, ListEntry, ReadItem, Refusal, RefusalCode, Reply, Request, SentObject,
    SentObjectRef, ServedObject, ToAgent, ToVault, Welcome,
};
pub use object::{Codec, MAX_PLAIN_BYTES, Object, Plain};
pub use token::Token;

use std::fmt;

/// The protocol version that this program speaks best.
pub const VERSION: u16 = 1;

/// The oldest protocol version that this program speaks.
pub const OLDEST_VERSION: u16 = 1;

/// The ALPN name that both ends offer.
pub const ALPN: &[u8] = b"umbra/1";

/// The port of a vault that names none (UDP).
pub const DEFAULT_PORT: u16 = 8407;

/// Most references in one [`Ask`].
pub const MAX_ASK_REFERENCES: usize = 4096;

/// Most items (node and numbers) in one read request.
pub const MAX_READ_ITEMS: usize = 4096;

/// Most reference numbers in all items of one read request.
pub const MAX_READ_OBJECTS: usize = 65_536;

/// Names a public key: BLAKE3-256 of its SubjectPublicKeyInfo (DER, RFC 5280 4.1.2.7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Names the key whose DER encoded SubjectPublicKeyInfo is `spki`.
    pub fn of_spki(spki: &[u8]) -> Self {
        Self(*blake3::hash(spki).as_bytes())
    }

    /// Reads 64 hex digits, as [`Display`](fmt::Display) prints them.
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
