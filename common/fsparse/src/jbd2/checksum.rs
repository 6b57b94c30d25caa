//! The two checksums of the journal.
//!
//! SOURCE: Linux `include/linux/jbd2.h` (`jbd2_chksum`: CRC-32C seeded and not inverted) and
//! `fs/jbd2/recovery.c` (`calc_chksums`: `crc32_be`).

use crc::{Algorithm, CRC_32_ISCSI, CRC_32_MPEG_2, Crc, Table};

/// `crc32_be` that starts from all ones and is not inverted at the end.
pub(super) static CRC32_BE: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_MPEG_2);

static ALGORITHM: Algorithm<u32> = Algorithm { xorout: 0, ..CRC_32_ISCSI };
static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&ALGORITHM);

/// A running CRC-32C as the kernel keeps it: no inversion, any value may be the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crc32c(u32);

impl Crc32c {
    /// Starts with `value`.
    pub(super) fn seeded(value: u32) -> Self {
        Self(value)
    }

    /// Returns the sum with `bytes` added.
    pub(super) fn update(self, bytes: &[u8]) -> Self {
        // The crate mirrors the initial value of a mirrored polynomial; the kernel does not.
        let mut digest = CRC32C.digest_with_initial(self.0.reverse_bits());
        digest.update(bytes);
        Self(digest.finalize())
    }

    /// Returns the sum with `len` zero bytes added.
    pub(super) fn update_zeros(self, len: usize) -> Self {
        const ZEROS: [u8; 1024] = [0; 1024];
        let mut sum = self;
        let mut left = len;
        while let Some(piece) = ZEROS.get(..left.min(ZEROS.len())).filter(|p| !p.is_empty()) {
            sum = sum.update(piece);
            left = left.saturating_sub(piece.len());
        }
        sum
    }

    /// Returns the sum so far.
    pub(super) fn value(self) -> u32 {
        self.0
    }
}
