//! Names of the store's own things: packs, domains, hashes, and points in time.

use std::fmt;

pub use umbra_common::snapshot::{MachineId, RunId, SessionNonce, StoreId};

/// Writes `bytes` in lower-case hexadecimal digits.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl $name {
            /// Reads the 32 lower-case hexadecimal digits that `Display` writes, or `None`.
            pub fn from_hex(text: &str) -> Option<Self> {
                hex16(text).map(Self)
            }
        }
    };
}

/// Reads 32 lower-case hexadecimal digits, or returns `None`.
pub(crate) fn hex16(text: &str) -> Option<[u8; 16]> {
    let digits = text.as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0u8; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)?;
    }
    Some(bytes)
}

/// Value of one lower-case hexadecimal digit.
fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => c.checked_sub(b'0'),
        b'a'..=b'f' => c.checked_sub(b'a')?.checked_add(10),
        _ => None,
    }
}

id16! {
    /// Names a pack; derived from the seed of the process that wrote it, never used twice.
    PackId
}

/// The set of machines that share chunks. 0 is the only one so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u32);

/// A time of the vault's clock, in nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Returns it as seconds (rounded down) and nanoseconds.
    pub fn parts(self) -> umbra_fsparse::Timestamp {
        let nanos = u32::try_from(self.0.rem_euclid(1_000_000_000)).unwrap_or(0);
        umbra_fsparse::Timestamp { seconds: self.0.div_euclid(1_000_000_000), nanos }
    }

    /// Makes it of seconds and nanoseconds, as near as it can be.
    pub fn from_parts(time: umbra_fsparse::Timestamp) -> Self {
        let seconds = time.seconds.saturating_mul(1_000_000_000);
        Self(seconds.saturating_add(time.nanos.into()))
    }
}

/// A BLAKE3 hash of 32 bytes that is no object's id: of a receipt, a log entry, a key.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip() {
        let id = PackId([0xa5; 16]);
        assert_eq!(PackId::from_hex(&id.to_string()), Some(id));
        assert_eq!(PackId::from_hex("a5"), None);
        assert_eq!(PackId::from_hex(&"A5".repeat(16)), None);
        assert_eq!(PackId::from_hex(&"zz".repeat(16)), None);
    }
}
