//! Which blocks hold nothing.
//!
//! A block is free where the allocation bitmap says so BEFORE and AFTER the journal's replay,
//! where nothing that was walked uses it, and where no structure has a fixed place. A group whose
//! bitmap is not beyond doubt keeps all its blocks; a file system that is not keeps everything.
//! What is given away here is never stored, so every doubt is decided for the data.
//!
//! SOURCE: Linux `fs/ext4/balloc.c` (`ext4_init_block_bitmap`, `ext4_num_base_meta_blocks`,
//! `ext4_validate_block_bitmap`), `fs/ext4/bitmap.c` (`ext4_block_bitmap_csum_verify`).

use alloc::vec::Vec;

use super::{
    Ext,
    blocks::{Block, Cache},
    features, group,
    superblock::Superblock,
    zones::Zones,
};
use crate::{ByteLen, ByteRange, Error, Result};

const STRUCTURE: &str = "block bitmap";
/// No more than this many ranges are given: on larger file systems the shortest ones are kept,
/// so that a bitmap of every other block cannot cost more memory than it is worth.
const MAX_RANGES: u64 = 1 << 23;

/// The free space of a file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreeSpace {
    /// Ranges of the volume that hold nothing; sorted, disjoint, not adjoining.
    pub ranges: Vec<ByteRange>,
    /// Groups that keep all their blocks because their bitmap is in doubt.
    pub groups_kept: u32,
    /// The first such doubt.
    pub doubt: Option<Error>,
}

impl Ext<'_> {
    /// Finds the blocks that hold nothing.
    ///
    /// `before` is the same volume opened with [`super::Journal::Ignore`], needed exactly where
    /// this one was replayed. `used` are the ranges that [`crate::Visitor::used`] was given by
    /// COMPLETE walks of this one and by a walk of `before`; sorted and disjoint.
    ///
    /// # Errors
    /// Where the whole file system must be kept: [`Error::Corrupt`] for one that is damaged, was
    /// not unmounted and has no journal, or in which the kernel found errors;
    /// [`Error::Unsupported`] for a feature that may change what the bitmaps mean.
    pub fn free_space(&self, before: Option<&Ext<'_>>, used: &[ByteRange]) -> Result<FreeSpace> {
        self.check_trust(before)?;
        let fixed = fixed_places(&self.superblock);
        let kept: Vec<ByteRange> = self.byte_ranges(&fixed);
        let shortest = self.len().0.checked_div(MAX_RANGES.saturating_mul(2)).unwrap_or(0);
        let mut free = FreeSpace::default();
        let mut caches = [(); 2].map(|()| Cache::nodes(self.superblock.block_size));
        for number in 0..self.superblock.groups {
            match self.free_of_group(before, number, &fixed, &mut caches) {
                Ok(runs) => {
                    for run in runs {
                        subtract(run, &kept, &mut |part| {
                            subtract(part, used, &mut |part| free.push(part, shortest));
                        });
                    }
                }
                Err(error) => {
                    free.groups_kept = free.groups_kept.saturating_add(1);
                    free.doubt.get_or_insert(error);
                }
            }
        }
        Ok(free)
    }

    /// Refuses a file system whose bitmaps prove nothing.
    fn check_trust(&self, before: Option<&Ext<'_>>) -> Result<()> {
        let structure = "ext superblock";
        let at = super::superblock::AT;
        let corrupt = |reason| Err(Error::Corrupt { structure, at, reason });
        let unsupported = |feature| Err(Error::Unsupported { structure, at, feature });
        let sb = &self.superblock;
        if self.needs_recovery != before.is_some() {
            return corrupt("its state before the journal's replay is not known");
        }
        if let Some(warning) = self.warnings.first() {
            return Err(warning.error.clone());
        }
        let states = [Some(sb.state), before.map(|ext| ext.superblock.state)];
        if states.iter().flatten().any(|state| state.errors) {
            return corrupt("the kernel found errors in it");
        }
        if !sb.features.has(features::HAS_JOURNAL) && !sb.state.valid {
            return corrupt("it has no journal and was not unmounted");
        }
        if !sb.features.allocation_is_known() {
            return unsupported("a feature that may change what free means");
        }
        let ratio = ratio(sb);
        let per_group = u64::from(sb.blocks_per_group);
        let bits = u64::from(sb.block_size).saturating_mul(8);
        if per_group.checked_rem(ratio) != Some(0)
            || per_group.checked_div(ratio).is_none_or(|clusters| clusters > bits)
        {
            return corrupt("its groups are not whole clusters that one bitmap can tell");
        }
        match before {
            Some(before) if !same_geometry(sb, &before.superblock) => {
                unsupported("a journal that changes the size of the file system")
            }
            _ => Ok(()),
        }
    }

    /// Returns the free runs of blocks of one group as byte ranges, by both bitmaps.
    fn free_of_group(
        &self,
        before: Option<&Ext<'_>>,
        number: u32,
        fixed: &Zones,
        caches: &mut [Cache; 2],
    ) -> Result<Vec<ByteRange>> {
        let [cache, cache_before] = caches;
        let mut bitmap = Bitmap::of(self, number);
        self.read_bitmap(&mut bitmap, fixed, cache)?;
        if let Some(before) = before {
            let mut older = Bitmap::of(before, number);
            before.read_bitmap_before(&mut older, cache_before)?;
            bitmap.add(&older);
        }
        Ok(bitmap.free_runs(self))
    }

    /// Reads a group's bitmap and proves it against the group's descriptor and the structures.
    fn read_bitmap(&self, bitmap: &mut Bitmap, fixed: &Zones, cache: &mut Cache) -> Result<()> {
        let group = self.groups.get(&bitmap.number).copied();
        let group = group.ok_or_else(|| bitmap.corrupt("its group's descriptor is damaged"))?;
        // Also of one that is not read: who forged its place may have forged that it needs none.
        for place in [group.block_bitmap, group.inode_bitmap] {
            let sb = &self.superblock;
            if place.0 <= u64::from(sb.first_data_block) || place.0 >= sb.blocks {
                return Err(bitmap.corrupt("its group's bitmaps lie outside the file system"));
            }
        }
        if group.blocks_uninit {
            bitmap.mark(&self.zones);
            bitmap.mark(fixed);
        } else {
            let bytes = cache.block(&self.blocks, group.block_bitmap);
            let bytes = bytes.map_err(|source| Error::Io { structure: STRUCTURE, source })?;
            bitmap.take(bytes);
            let (expected, mask) = group.bitmap_checksum;
            let checked = self.superblock.features.has(features::METADATA_CSUM);
            let whole = bytes.get(..bitmap.checksummed).unwrap_or_default();
            if checked && self.superblock.seed.of(whole).0 & mask != expected & mask {
                return Err(bitmap.corrupt("wrong checksum"));
            }
            if !bitmap.has_all(&self.zones) {
                return Err(bitmap.corrupt("it says that a structure's block is free"));
            }
        }
        match bitmap.free_clusters() == u64::from(group.free_clusters) {
            true => Ok(()),
            false => Err(bitmap.corrupt("its group counts another number of free blocks")),
        }
    }

    /// Reads the bitmap as it stands on a disk whose journal is not empty. It can only keep
    /// blocks, so that nothing need be proven of it.
    fn read_bitmap_before(&self, bitmap: &mut Bitmap, cache: &mut Cache) -> Result<()> {
        let group = self.groups.get(&bitmap.number).copied();
        let group = group.ok_or_else(|| bitmap.corrupt("its group's descriptor is damaged"))?;
        if !group.blocks_uninit {
            let bytes = cache.block(&self.blocks, group.block_bitmap);
            let bytes = bytes.map_err(|source| Error::Io { structure: STRUCTURE, source })?;
            bitmap.take(bytes);
        }
        Ok(())
    }

    fn byte_ranges(&self, zones: &Zones) -> Vec<ByteRange> {
        let both = zones.ranges().iter().chain(self.zones.ranges());
        let mut ranges: Vec<ByteRange> = both
            .map(|&(from, to)| self.blocks.range(Block(from), to.saturating_sub(from)))
            .collect();
        ranges.sort_unstable_by_key(|range| (range.start(), range.end()));
        merge(&mut ranges);
        ranges
    }
}

impl FreeSpace {
    /// Adds a range behind the others.
    fn push(&mut self, range: ByteRange, shortest: u64) {
        if let Some(last) = self.ranges.last_mut()
            && last.end() == range.start()
            && let Some(both) = ByteRange::between(last.start(), range.end())
        {
            *last = both;
        } else if range.len().0 > shortest {
            self.ranges.push(range);
        }
    }
}

/// The bitmap of one group: a bit is set where the cluster is used.
struct Bitmap {
    number: u32,
    at: crate::ByteOffset,
    /// The group's first block and the block behind its last.
    blocks: (u64, u64),
    ratio: u64,
    clusters: u64,
    /// Bytes of the bitmap that its checksum covers.
    checksummed: usize,
    bits: Vec<u8>,
}

impl Bitmap {
    /// Makes the bitmap of a group of which nothing is used.
    fn of(ext: &Ext<'_>, number: u32) -> Self {
        let sb = &ext.superblock;
        let ratio = ratio(sb);
        let first = group::first_block(sb, number);
        let end = first.saturating_add(u64::from(sb.blocks_per_group)).min(sb.blocks);
        let clusters = end.saturating_sub(first).div_ceil(ratio.max(1));
        let per_group = u64::from(sb.blocks_per_group).checked_div(ratio).unwrap_or(0);
        let bytes = |clusters: u64| usize::try_from(clusters.div_ceil(8)).unwrap_or(0);
        Self {
            number,
            at: ext.blocks.offset(Block(first)),
            blocks: (first, end),
            ratio,
            clusters,
            checksummed: usize::try_from(per_group / 8).unwrap_or(0),
            bits: alloc::vec![0; bytes(clusters)],
        }
    }

    fn corrupt(&self, reason: &'static str) -> Error {
        Error::Corrupt { structure: STRUCTURE, at: self.at, reason }
    }

    /// Takes the bits of a block of the file system.
    fn take(&mut self, bytes: &[u8]) {
        let len = self.bits.len();
        self.bits.fill(0xff);
        for (bits, byte) in self.bits.iter_mut().zip(bytes.iter().take(len)) {
            *bits = *byte;
        }
    }

    /// Adds what another bitmap of the same group says is used.
    fn add(&mut self, other: &Self) {
        for (bits, more) in self.bits.iter_mut().zip(&other.bits) {
            *bits |= more;
        }
    }

    fn is_used(&self, cluster: u64) -> bool {
        let byte = usize::try_from(cluster / 8).ok().and_then(|byte| self.bits.get(byte));
        byte.is_none_or(|byte| byte >> (cluster % 8) & 1 == 1)
    }

    fn set(&mut self, cluster: u64) {
        let byte = usize::try_from(cluster / 8).ok().and_then(|byte| self.bits.get_mut(byte));
        if let Some(byte) = byte {
            *byte |= 1 << (cluster % 8);
        }
    }

    /// Returns the clusters of this group that zones touch.
    fn clusters_of(&self, zones: &Zones) -> impl Iterator<Item = u64> + use<> {
        let (first, end) = self.blocks;
        let ratio = self.ratio.max(1);
        let inside = |&(from, to): &(u64, u64)| {
            let (from, to) = (from.max(first), to.min(end));
            (from < to).then(|| {
                let cluster = |block: u64| block.saturating_sub(first) / ratio;
                cluster(from)..=cluster(to.saturating_sub(1))
            })
        };
        let ranges: Vec<_> = zones.ranges().iter().filter_map(inside).collect();
        ranges.into_iter().flatten()
    }

    fn mark(&mut self, zones: &Zones) {
        for cluster in self.clusters_of(zones) {
            self.set(cluster);
        }
    }

    fn has_all(&self, zones: &Zones) -> bool {
        self.clusters_of(zones).all(|cluster| self.is_used(cluster))
    }

    fn free_clusters(&self) -> u64 {
        let all = self.clusters;
        let used: u64 = self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
        // Bits of the last byte behind the last cluster count for nothing.
        let padding = (all..all.div_ceil(8).saturating_mul(8)).filter(|&bit| self.is_used(bit));
        let padding = super::fields::byte_len(padding.count()).0;
        all.saturating_sub(used.saturating_sub(padding))
    }

    /// Returns the free runs as bytes of the volume.
    fn free_runs(&self, ext: &Ext<'_>) -> Vec<ByteRange> {
        let mut runs = Vec::new();
        let mut cluster = 0;
        while cluster < self.clusters {
            let begin = cluster;
            while cluster < self.clusters && !self.is_used(cluster) {
                cluster = cluster.saturating_add(1);
            }
            if cluster > begin {
                let (first, end) = self.blocks;
                let block = |cluster: u64| {
                    first.saturating_add(cluster.saturating_mul(self.ratio)).min(end)
                };
                let count = block(cluster).saturating_sub(block(begin));
                runs.push(ext.blocks.range(Block(block(begin)), count));
            }
            cluster = cluster.saturating_add(1);
        }
        runs
    }
}

/// Returns the blocks of a cluster.
fn ratio(superblock: &Superblock) -> u64 {
    superblock.cluster_size.checked_div(u64::from(superblock.block_size)).unwrap_or(1).max(1)
}

fn same_geometry(one: &Superblock, other: &Superblock) -> bool {
    let of = |sb: &Superblock| {
        let sizes = (sb.block_size, sb.cluster_size, sb.blocks, sb.inode_size);
        let groups = (sb.first_data_block, sb.blocks_per_group, sb.inodes_per_group, sb.groups);
        (sizes, groups, sb.descriptor_size, sb.first_meta_group)
    };
    of(one) == of(other)
}

/// Returns where superblock copies, descriptors and the blocks reserved for more of them stand,
/// and the block of multiple-mount protection.
fn fixed_places(sb: &Superblock) -> Zones {
    let per_block = sb.block_size.checked_div(sb.descriptor_size).unwrap_or(1).max(1);
    let tables = sb.groups.div_ceil(per_block);
    let meta_bg = sb.features.has(features::META_BG);
    let mut places = Vec::new();
    for number in 0..sb.groups {
        let has_super = group::has_superblock(sb, number);
        let copy = u64::from(has_super);
        let in_table = number.checked_div(per_block).unwrap_or(0);
        let more = if !meta_bg || in_table < sb.first_meta_group {
            let tables = if meta_bg { sb.first_meta_group } else { tables };
            let reserved = sb.reserved_descriptor_blocks;
            copy.saturating_mul(u64::from(tables.saturating_add(reserved)))
        } else {
            let within = number.checked_rem(per_block).unwrap_or(0);
            u64::from(within <= 1 || within == per_block.saturating_sub(1))
        };
        places.push((Block(group::first_block(sb, number)), copy.saturating_add(more)));
    }
    if sb.mmp_block != 0 {
        places.push((Block(sb.mmp_block), 1));
    }
    Zones::default().with(places.into_iter())
}

/// Gives the parts of `range` that no range of `kept`, sorted and disjoint, has.
fn subtract(range: ByteRange, kept: &[ByteRange], give: &mut dyn FnMut(ByteRange)) {
    let mut at = range.start();
    let next = kept.partition_point(|kept| kept.end() <= range.start());
    for kept in kept.get(next..).unwrap_or_default() {
        if kept.start() >= range.end() {
            break;
        }
        if let Some(part) = ByteRange::between(at, kept.start().min(range.end()))
            && !part.is_empty()
        {
            give(part);
        }
        at = at.max(kept.end());
    }
    if let Some(part) = ByteRange::between(at, range.end())
        && part.len() > ByteLen(0)
    {
        give(part);
    }
}

/// Joins sorted ranges that touch or overlap.
pub(super) fn merge(ranges: &mut Vec<ByteRange>) {
    ranges.dedup_by(|next, last| {
        if next.start() > last.end() {
            return false;
        }
        if let Some(both) = ByteRange::between(last.start(), last.end().max(next.end())) {
            *last = both;
        }
        true
    });
}
