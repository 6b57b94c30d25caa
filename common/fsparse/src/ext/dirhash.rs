//! The hashes by which directories sort their names.
//!
//! Nothing is looked up by them here: the names that Linux shows of an encrypted directory without
//! its key begin with the hash.
//!
//! SOURCE: Linux `fs/ext4/hash.c` (`__ext4fs_dirhash` and above).

use super::fields::Fields;
use crate::Result;

/// `EXT2_FLAGS_UNSIGNED_HASH` of `s_flags`.
const UNSIGNED_FLAG: u32 = 2;
/// The hash that stands for the end of a directory, which no name may have.
const END: u32 = 0xffff_fffe;
/// The seed where the superblock has none.
const DEFAULT_SEED: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// What the superblock says of hashes.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashRules {
    seed: [u32; 4],
    /// The version of directories that do not say their own.
    pub(super) default_version: u8,
    /// Bytes of names count as unsigned, as where the file system was made.
    unsigned: bool,
}

/// A hash and its second half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NameHash {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl HashRules {
    /// Reads them from the superblock.
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self> {
        let seed = [fields.u32(0xec)?, fields.u32(0xf0)?, fields.u32(0xf4)?, fields.u32(0xf8)?];
        Ok(Self {
            seed: if seed == [0; 4] { DEFAULT_SEED } else { seed },
            default_version: fields.u8(0xfc)?,
            unsigned: fields.u32(0x160)? & UNSIGNED_FLAG != 0,
        })
    }

    /// Hashes a name; `None` for a version that needs the directory's key, or that nobody knows.
    pub(super) fn hash(&self, version: u8, name: &[u8]) -> Option<NameHash> {
        let unsigned = self.unsigned || version > 2;
        let hash = match version {
            0 | 3 => NameHash { major: legacy(name, unsigned), minor: 0 },
            1 | 4 => self.half_md4(name, unsigned),
            2 | 5 => self.tea(name, unsigned),
            _ => return None,
        };
        let major = hash.major & !1;
        let major = if major == END { END.wrapping_sub(2) } else { major };
        Some(NameHash { major, ..hash })
    }

    fn half_md4(&self, name: &[u8], unsigned: bool) -> NameHash {
        let mut state = self.seed;
        let mut rest = name;
        while !rest.is_empty() {
            half_md4_step(&mut state, &words(rest, unsigned));
            rest = rest.get(32..).unwrap_or_default();
        }
        let [_, major, minor, _] = state;
        NameHash { major, minor }
    }

    fn tea(&self, name: &[u8], unsigned: bool) -> NameHash {
        let mut state = self.seed;
        let mut rest = name;
        while !rest.is_empty() {
            tea_step(&mut state, &words(rest, unsigned));
            rest = rest.get(16..).unwrap_or_default();
        }
        let [major, minor, _, _] = state;
        NameHash { major, minor }
    }
}

/// A byte as C's `char` of that kind becomes an `int`.
fn widen(byte: u8, unsigned: bool) -> u32 {
    match unsigned {
        true => u32::from(byte),
        false => i32::from(i8::from_le_bytes([byte])).cast_unsigned(),
    }
}

fn legacy(name: &[u8], unsigned: bool) -> u32 {
    let (mut last, mut before) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
    for &byte in name {
        let mixed = last ^ widen(byte, unsigned).wrapping_mul(7_152_373);
        let mut hash = before.wrapping_add(mixed);
        if hash & 0x8000_0000 != 0 {
            hash = hash.wrapping_sub(0x7fff_ffff);
        }
        (before, last) = (last, hash);
    }
    last << 1
}

/// Packs the first bytes of what is left of a name into words, padded with its length.
fn words<const N: usize>(rest: &[u8], unsigned: bool) -> [u32; N] {
    let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    let pad = len | len.wrapping_shl(8);
    let pad = pad | pad.wrapping_shl(16);
    let mut words = [pad; N];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        for &byte in bytes {
            *word = widen(byte, unsigned).wrapping_add(*word << 8);
        }
    }
    words
}

fn tea_step(state: &mut [u32; 4], words: &[u32; 4]) {
    const DELTA: u32 = 0x9e37_79b9;
    let [a, b, c, d] = *words;
    let [first, second, _, _] = state;
    let (mut x, mut y, mut sum) = (*first, *second, 0_u32);
    for _ in 0..16 {
        sum = sum.wrapping_add(DELTA);
        let mix = (y << 4).wrapping_add(a) ^ y.wrapping_add(sum) ^ (y >> 5).wrapping_add(b);
        x = x.wrapping_add(mix);
        let mix = (x << 4).wrapping_add(c) ^ x.wrapping_add(sum) ^ (x >> 5).wrapping_add(d);
        y = y.wrapping_add(mix);
    }
    *first = first.wrapping_add(x);
    *second = second.wrapping_add(y);
}

/// One round: which words in which order, by how much each turns, the constant, the function.
type Round = ([usize; 8], [u32; 4], u32, fn(u32, u32, u32) -> u32);

const ROUNDS: [Round; 3] = [
    ([0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19], 0, |x, y, z| z ^ (x & (y ^ z))),
    ([1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13], 0x5a82_7999, |x, y, z| {
        (x & y).wrapping_add((x ^ y) & z)
    }),
    ([3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15], 0x6ed9_eba1, |x, y, z| x ^ y ^ z),
];

fn half_md4_step(state: &mut [u32; 4], words: &[u32; 8]) {
    let [mut a, mut b, mut c, mut d] = *state;
    for (order, turns, constant, mix) in ROUNDS {
        for (place, turn) in order.iter().zip(turns.iter().cycle()) {
            let word = words.get(*place).copied().unwrap_or_default();
            let sum = a.wrapping_add(mix(b, c, d)).wrapping_add(word).wrapping_add(constant);
            // The next step changes what is now the last.
            (a, b, c, d) = (d, sum.rotate_left(*turn), b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Values of `debugfs -R "dx_hash -h VERSION NAME"` (e2fsprogs 1.47.0), which counts bytes as
    /// signed in the first three versions and hashes with the default seed.
    const OF_DEBUGFS: &[(u8, &[u8], u32, u32)] = &[
        (0, b"name", 0x12db_5a78, 0),
        (0, LONG, 0xc025_2812, 0),
        (0, ODD, 0x6c1b_5240, 0),
        (1, b"name", 0x0812_4552, 0xfad4_1e19),
        (1, LONG, 0xf81f_8702, 0xb1fc_23d1),
        (1, ODD, 0x407e_a3be, 0xc205_bfd8),
        (2, b"name", 0xd909_e39e, 0xd1b5_ba33),
        (2, LONG, 0x2f53_e1ae, 0xcd42_2825),
        (2, ODD, 0xab4a_39da, 0x2d45_3880),
    ];
    const LONG: &[u8] = b"file with a longer name, past thirty-two bytes";
    const ODD: &[u8] = b"\xff\x80\xfe-\xc3\xa4name";

    #[test]
    fn hashes_are_those_of_debugfs() {
        let rules = HashRules { seed: DEFAULT_SEED, default_version: 1, unsigned: false };
        for &(version, name, major, minor) in OF_DEBUGFS {
            let hash = rules.hash(version, name).unwrap();
            assert_eq!((hash.major, hash.minor), (major, minor), "version {version} {name:?}");
        }
        assert_eq!(rules.hash(6, b"name"), None);
    }
}
