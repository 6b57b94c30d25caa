//! The numbers that decide where a chunk ends; part of the format.

use fastcdc::v2020::{self, Normalization};

use crate::{Error, Result};

/// The sizes and masks of the cutter: FastCDC 2020 at normalization level 1.
///
/// A value is always usable: made by [`ChunkParams::PARSED`], [`ChunkParams::UNPARSED`] or
/// [`ChunkParams::from_sizes`], which checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkParams {
    min: u32,
    avg: u32,
    max: u32,
}

/// What the cutter is called with, made from [`ChunkParams`] once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cutter {
    min: usize,
    avg: usize,
    /// Longest chunk in bytes.
    pub(super) max: usize,
    mask_s: u64,
    mask_l: u64,
}

impl ChunkParams {
    /// The number of cutter, its normalization and the zero rule together, as it stands in
    /// snapshots. Any change of where cuts fall for the same sizes is a new number.
    pub const ALGORITHM: u32 = 1;

    /// Content of files and residue of parsed volumes: 16, 64 and 256 KiB.
    pub const PARSED: Self = Self { min: 16 << 10, avg: 64 << 10, max: 256 << 10 };

    /// Volumes without a parse, in disk order: 4, 16 and 64 KiB.
    pub const UNPARSED: Self = Self { min: 4 << 10, avg: 16 << 10, max: 64 << 10 };

    /// Takes sizes in bytes, `[min, avg, max]`, as they stand in a snapshot.
    ///
    /// # Errors
    /// `Corrupt` where they are odd, out of order or beyond what the cutter can take.
    pub fn from_sizes([min, avg, max]: [u32; 3]) -> Result<Self> {
        let refuse = |reason| Err(Error::Corrupt { what: "chunk parameters", at: 0, reason });
        let within = |size: u32, low: usize, high: usize| {
            usize::try_from(size).is_ok_and(|size| size >= low && size <= high)
        };
        if min > avg || avg > max {
            return refuse("the sizes are out of order");
        }
        if min % 2 != 0 || max % 2 != 0 {
            return refuse("a size is odd");
        }
        if !avg.is_power_of_two() {
            return refuse("the average is no power of two");
        }
        if !within(min, v2020::MINIMUM_MIN, v2020::MINIMUM_MAX)
            || !within(avg, v2020::AVERAGE_MIN, v2020::AVERAGE_MAX)
            || !within(max, v2020::MAXIMUM_MIN, v2020::MAXIMUM_MAX)
        {
            return refuse("a size is out of bounds");
        }
        Ok(Self { min, avg, max })
    }

    /// Returns `[min, avg, max]` in bytes, as they stand in a snapshot.
    pub fn sizes(self) -> [u32; 3] {
        [self.min, self.avg, self.max]
    }
}

impl Cutter {
    pub(super) fn new(params: ChunkParams) -> Self {
        let [min, avg, max] = params
            .sizes()
            .map(|size| usize::try_from(size).expect("from_sizes has compared it with a usize"));
        let (mask_s, mask_l) = v2020::select_masks(avg, Normalization::Level1);
        Self { min, avg, max, mask_s, mask_l }
    }

    /// Returns the length of the first chunk of `content`, which must hold at least `max` bytes
    /// or be all that is left of its segment.
    pub(super) fn cut(&self, content: &[u8]) -> usize {
        let (_, len) = v2020::cut(
            content,
            self.min,
            self.avg,
            self.max,
            self.mask_s,
            self.mask_l,
            self.mask_s << 1,
            self.mask_l << 1,
        );
        len
    }
}
