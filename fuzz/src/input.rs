//! Inputs that change real images in a few places, so that most of them still parse.

use std::sync::OnceLock;

/// Real images, compressed; `examples/make_seeds.rs` makes them.
pub const BASES: &[(&str, &[u8])] = &[
    ("ext2", include_bytes!("../images/ext2.zst")),
    ("ext2-rev0", include_bytes!("../images/ext2-rev0.zst")),
    ("ext4", include_bytes!("../images/ext4.zst")),
    ("ext4-inline", include_bytes!("../images/ext4-inline.zst")),
    ("ext4-bigalloc", include_bytes!("../images/ext4-bigalloc.zst")),
    ("ext4-journal", include_bytes!("../images/ext4-journal.zst")),
    ("ext4-meta-bg", include_bytes!("../images/ext4-meta-bg.zst")),
];

/// The pieces that a patch may aim at, in bytes.
const UNIT: usize = 16;

/// An image that patches are laid over.
pub struct Patched {
    /// Its bytes.
    pub image: Vec<u8>,
    /// Offsets of the units that are not all zero: what a parser looks at.
    units: Vec<usize>,
}

fn bases() -> &'static [Patched] {
    static IMAGES: OnceLock<Vec<Patched>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let open = |packed: &[u8]| {
            let image = zstd::stream::decode_all(packed).expect("we packed it");
            let units = image.chunks(UNIT).enumerate();
            let units = units.filter(|(_, unit)| unit.iter().any(|byte| *byte != 0));
            let units = units.map(|(index, _)| index * UNIT).collect();
            Patched { image, units }
        };
        BASES.iter().map(|(_, packed)| open(packed)).collect()
    })
}

/// Returns one of the bases.
pub(crate) fn base_image(index: usize) -> Vec<u8> {
    bases().get(index).map(|base| base.image.clone()).unwrap_or_default()
}

/// Returns the image that an input stands for: a base (low bits of the first byte) with patches (unit u16, offset
/// u8, length u8, bytes), or, for bytes past the last base, the rest of the input as it is.
pub fn patch(input: &[u8]) -> Vec<u8> {
    let Some((base, rest)) = input.split_first() else { return Vec::new() };
    let Some(base) = bases().get(usize::from(base & 0x7f)) else { return rest.to_vec() };
    let mut image = base.image.clone();
    let mut rest = rest;
    while let Some(([low, high, offset, len], behind)) = rest.split_first_chunk() {
        let unit = usize::from(u16::from_le_bytes([*low, *high]));
        let offset = usize::from(*offset);
        // With the offset's highest bit the unit counts blocks of the image, else units in use.
        let at = match offset < 128 {
            true => base.units.get(unit % base.units.len()).map_or(0, |at| at + offset % UNIT),
            false => (unit * 64 + (offset - 128)) % image.len(),
        };
        let (bytes, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        for (place, byte) in image.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
        rest = behind;
    }
    image
}
