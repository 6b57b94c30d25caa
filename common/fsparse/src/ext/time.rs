//! Times of inodes.
//!
//! SOURCE: Linux `fs/ext4/ext4.h` (`ext4_decode_extra_time`).

use crate::Timestamp;

/// The largest number of nanoseconds within a second.
const MAX_NANOS: u32 = 999_999_999;

/// Decodes a time from its 32 bits of seconds and, where the inode has them, its 32 extra bits:
/// nanoseconds above two bits that count times 2^32 seconds.
///
/// Without the extra bits the seconds run from 1901 to 2038; with them to 2446. The kernel adds
/// the two bits to the SIGNED seconds, so that a negative number with bits is after 2038.
pub(super) fn decode(seconds: u32, extra: Option<u32>) -> Timestamp {
    let base = i64::from(seconds.cast_signed());
    let Some(extra) = extra else {
        return Timestamp { seconds: base, nanos: 0 };
    };
    let epochs = i64::from(extra & 3) << 32;
    // No kernel writes more than 999 999 999; damage must not pass for a later second.
    Timestamp { seconds: base.saturating_add(epochs), nanos: (extra >> 2).min(MAX_NANOS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_kernel_documentation_holds() {
        // fs/ext4/ext4.h, the comment above ext4_encode_extra_time.
        let cases = [
            (0, 0x8000_0000, -0x8000_0000),
            (0, 0xffff_ffff, -1),
            (0, 0, 0),
            (0, 0x7fff_ffff, 0x7fff_ffff),
            (1, 0x8000_0000, 0x8000_0000),
            (1, 0xffff_ffff, 0xffff_ffff),
            (1, 0, 0x1_0000_0000),
            (1, 0x7fff_ffff, 0x1_7fff_ffff),
            (2, 0x8000_0000, 0x1_8000_0000),
            (2, 0x7fff_ffff, 0x2_7fff_ffff),
            (3, 0x8000_0000, 0x2_8000_0000),
            (3, 0x7fff_ffff, 0x3_7fff_ffff),
        ];
        for (bits, seconds, expected) in cases {
            assert_eq!(decode(seconds, Some(bits)).seconds, expected, "{bits} {seconds:x}");
        }
        assert_eq!(decode(0xffff_ffff, None), Timestamp { seconds: -1, nanos: 0 });
        assert_eq!(decode(0, Some(5 << 2)).nanos, 5);
        assert_eq!(decode(0, Some(u32::MAX)).nanos, MAX_NANOS);
    }
}
