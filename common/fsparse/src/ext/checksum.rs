//! The two checksums of ext4 metadata.
//!
//! SOURCE: Linux `fs/ext4/ext4.h` (`ext4_chksum`) and `fs/ext4/super.c` (`ext4_group_desc_csum`).
//! Both start from all ones and, unlike their usual forms, are not inverted at the end, so that
//! the result over one piece is the seed of the next.

use crc::{Algorithm, Crc, Table};

/// CRC-32C (Castagnoli) without the final inversion.
const CASTAGNOLI: Algorithm<u32> = Algorithm {
    width: 32,
    poly: 0x1edc_6f41,
    init: 0xffff_ffff,
    refin: true,
    refout: true,
    xorout: 0,
    check: 0x1cf9_6d7c,
    residue: 0xb798_b438,
};

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CASTAGNOLI);
static CRC16: Crc<u16> = Crc::<u16>::new(&crc::CRC_16_MODBUS);

/// A running CRC-32C: a seed, or the checksum of what went through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crc32c(pub(crate) u32);

impl Crc32c {
    /// The seed of everything that has no other.
    pub(crate) const START: Self = Self(!0);

    /// Returns the checksum after `bytes` too.
    pub(crate) fn of(self, bytes: &[u8]) -> Self {
        // The crate takes its initial value the other way round than it gives its result.
        let mut digest = CRC32C.digest_with_initial(self.0.reverse_bits());
        digest.update(bytes);
        Self(digest.finalize())
    }
}

/// Returns the CRC-16 of the pieces, one after the other.
pub(crate) fn crc16(pieces: &[&[u8]]) -> u16 {
    let mut digest = CRC16.digest();
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_holds() {
        assert_eq!(!Crc32c::START.of(b"123456789").0, 0xe306_9283);
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        assert_eq!(Crc32c::START.of(b"12345").of(b"6789"), Crc32c::START.of(b"123456789"));
        assert_eq!(crc16(&[b"1234", b"56789"]), 0x4b37);
    }
}
