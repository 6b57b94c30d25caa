//! The feature flags of the superblock.
//!
//! SOURCE: Linux `fs/ext4/ext4.h` (`EXT4_FEATURE_*`), e2fsprogs `lib/e2p/feature.c` (names).

use super::fields::Fields;
use crate::Result;

/// The three sets of flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    compatible: u32,
    incompatible: u32,
    read_only_compatible: u32,
}

/// One feature: a bit of one of the sets.
#[derive(Clone, Copy)]
pub(super) enum Feature {
    Compatible(u32),
    Incompatible(u32),
    ReadOnlyCompatible(u32),
}

pub(super) const HAS_JOURNAL: Feature = Feature::Compatible(0x4);
pub(super) const DIR_INDEX: Feature = Feature::Compatible(0x20);
pub(super) const SPARSE_SUPER2: Feature = Feature::Compatible(0x200);

pub(super) const RECOVER: Feature = Feature::Incompatible(0x4);
pub(super) const META_BG: Feature = Feature::Incompatible(0x10);
pub(super) const SIXTY_FOUR_BIT: Feature = Feature::Incompatible(0x80);
pub(super) const CSUM_SEED: Feature = Feature::Incompatible(0x2000);
pub(super) const LARGEDIR: Feature = Feature::Incompatible(0x4000);
pub(super) const INLINE_DATA: Feature = Feature::Incompatible(0x8000);
pub(super) const EA_INODE: Feature = Feature::Incompatible(0x400);

pub(super) const SPARSE_SUPER: Feature = Feature::ReadOnlyCompatible(0x1);
pub(super) const HUGE_FILE: Feature = Feature::ReadOnlyCompatible(0x8);
pub(super) const GDT_CSUM: Feature = Feature::ReadOnlyCompatible(0x10);
pub(super) const BIGALLOC: Feature = Feature::ReadOnlyCompatible(0x200);
pub(super) const METADATA_CSUM: Feature = Feature::ReadOnlyCompatible(0x400);
pub(super) const PROJECT: Feature = Feature::ReadOnlyCompatible(0x2000);
pub(super) const SHARED_BLOCKS: Feature = Feature::ReadOnlyCompatible(0x4000);

/// Incompatible features that this parser reads: filetype, recover, meta_bg, extents, 64bit,
/// mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt, casefold.
const KNOWN: u32 = 0x2
    | 0x4
    | 0x10
    | 0x40
    | 0x80
    | 0x100
    | 0x200
    | 0x400
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;

/// Read-only compatible features under which the block bitmaps mean what they always did:
/// sparse_super, large_file, btree_dir, huge_file, gdt_csum, dir_nlink, extra_isize, quota,
/// bigalloc, metadata_csum, readonly, project, shared_blocks, verity, orphan_present. Not:
/// has_snapshot, replica.
const ALLOCATION_KNOWN: u32 = 0x1
    | 0x2
    | 0x4
    | 0x8
    | 0x10
    | 0x20
    | 0x40
    | 0x100
    | 0x200
    | 0x400
    | 0x1000
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x1_0000;

/// The incompatible features that ext2 and ext3 know: filetype, recover, meta_bg.
const EXT3_INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10;
/// The same of the other set: sparse_super, large_file, btree_dir.
const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;

impl Features {
    /// Reads the flags, and refuses what this parser cannot read.
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self> {
        let features = Self {
            compatible: fields.u32(0x5c)?,
            incompatible: fields.u32(0x60)?,
            read_only_compatible: fields.u32(0x64)?,
        };
        match features.incompatible & !KNOWN {
            0 => Ok(features),
            unknown => Err(fields.unsupported(name(unknown))),
        }
    }

    /// Tells whether the feature is in use.
    pub(super) fn has(self, feature: Feature) -> bool {
        match feature {
            Feature::Compatible(bit) => self.compatible & bit != 0,
            Feature::Incompatible(bit) => self.incompatible & bit != 0,
            Feature::ReadOnlyCompatible(bit) => self.read_only_compatible & bit != 0,
        }
    }

    /// Tells whether nothing unknown can change what the block bitmaps mean.
    pub(super) fn allocation_is_known(self) -> bool {
        self.read_only_compatible & !ALLOCATION_KNOWN == 0
    }

    /// Returns the name that the features earn, by the rule of libblkid.
    pub(super) fn kind(self) -> &'static str {
        if self.incompatible & !EXT3_INCOMPATIBLE != 0
            || self.read_only_compatible & !EXT3_READ_ONLY != 0
        {
            "ext4"
        } else if self.has(HAS_JOURNAL) {
            "ext3"
        } else {
            "ext2"
        }
    }
}

/// Names the lowest of the incompatible features.
fn name(bits: u32) -> &'static str {
    match bits & bits.wrapping_neg() {
        0x1 => "compression",
        0x8 => "journal_dev (an external journal, not a file system)",
        0x1000 => "dirdata",
        _ => "an unknown incompatible feature",
    }
}
