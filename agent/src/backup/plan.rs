//! What is read in which order, so that every byte of the disk is read for exactly one purpose.
//!
//! Files come first, sorted by the first byte of the disk that they have; each is read in the
//! order of its content. What no file and no unparsed volume has is residue.

use umbra_common::{ByteLen, ByteOffset, ByteRange};
use umbra_fsparse::{Codec, ExtentKind, FileType, Inode};

use crate::monitor::{Monitor, Notice};
use crate::ranges::without;
use crate::survey::{Survey, Volume};

/// Bytes behind a file's end in its last block that are read with it.
const SLACK_LIMIT: u64 = 64 << 10;

/// A file: positions of its volume in the survey and of its inode in that volume's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileItem {
    /// Position in [`Survey::volumes`].
    pub volume: u32,
    /// Position in the volume's inode table.
    pub inode: u32,
}

impl FileItem {
    /// Finds its inode, and where its volume starts on the disk.
    pub fn find(self, survey: &Survey) -> Option<(&Inode, ByteOffset)> {
        let volume = survey.volumes.get(self.volume as usize)?;
        let inode = volume.tree.as_ref()?.inodes().get(self.inode as usize)?;
        Some((inode, volume.range.start()))
    }
}

/// Why the disk ranges of a file are not chunked as this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOwned {
    /// Its content stands inside metadata blocks or needs decoding; hashed by a reading of its own.
    Indirect,
    /// It claims blocks that another file claims too, which its file system forbids.
    ClaimedTwice,
}

/// A piece of a file's content in logical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilePiece {
    /// Content that stands in these bytes of the disk.
    Data {
        /// Position in the content.
        logical: ByteOffset,
        /// Bytes of the disk.
        disk: ByteRange,
    },
    /// Zeros that stand nowhere: a hole, or blocks that were never written.
    Zeros {
        /// Position in the content.
        logical: ByteOffset,
        /// How many.
        len: ByteLen,
    },
    /// Bytes of the last block behind the end of the content.
    Slack {
        /// Bytes of the disk.
        disk: ByteRange,
    },
}

/// The order of reading.
#[derive(Debug, Default)]
pub struct Plan {
    /// Files whose bytes are chunked as theirs, in reading order; files without bytes come last.
    pub files: Vec<FileItem>,
    /// Files whose bytes are residue.
    pub not_owned: Vec<(FileItem, NotOwned)>,
    /// Bytes of no file and no unparsed volume; sorted, disjoint.
    pub residue: Vec<ByteRange>,
    /// Volumes kept in disk order; sorted, disjoint.
    pub unparsed: Vec<ByteRange>,
    /// What holds nothing and is not kept; sorted, disjoint.
    pub free: Vec<ByteRange>,
}

#[derive(Clone, Copy)]
struct Claim {
    range: ByteRange,
    item: FileItem,
}

/// Makes the plan for a disk of `disk_len` bytes.
pub fn make(survey: &Survey, disk_len: ByteLen, monitor: &dyn Monitor) -> Plan {
    let mut plan = Plan::default();
    let mut taken: Vec<ByteRange> = Vec::new();
    let mut keyed: Vec<(u64, FileItem)> = Vec::new();
    for (index, volume) in survey.volumes.iter().enumerate() {
        let Ok(index) = u32::try_from(index) else { break };
        if volume.tree.is_none() {
            plan.unparsed.push(volume.range);
            taken.push(volume.range);
            continue;
        }
        let mut claims = claims_of(index, volume, &mut plan.not_owned, &mut keyed);
        let refused = claimed_twice(&mut claims);
        report_refused(volume, &refused, monitor);
        keyed.retain(|(_, item)| refused.binary_search(item).is_err());
        plan.not_owned.extend(refused.iter().map(|&item| (item, NotOwned::ClaimedTwice)));
        claims.retain(|claim| refused.binary_search(&claim.item).is_err());
        taken.extend(claims.into_iter().map(|claim| claim.range));
    }
    keyed.sort_unstable();
    plan.files = keyed.into_iter().map(|(_, item)| item).collect();
    taken.sort_unstable();
    // Volumes never overlap, and each one's free ranges are sorted.
    let free: Vec<ByteRange> =
        survey.volumes.iter().flat_map(|volume| volume.free.iter().copied()).collect();
    // No parser gives a file's bytes away. Should one do so, they are kept.
    plan.free = without(&free, &taken);
    taken.extend_from_slice(&plan.free);
    plan.residue = complement(&mut taken, disk_len);
    plan
}

/// Lists what a file's content is made of, in logical order; `base` is where its volume starts.
pub fn pieces(inode: &Inode, base: ByteOffset, out: &mut Vec<FilePiece>) {
    out.clear();
    let size = inode.size.0;
    let mut at = 0_u64;
    for extent in &inode.extents {
        let logical = extent.logical.0;
        if logical >= size {
            break;
        }
        if logical > at {
            out.push(FilePiece::Zeros { logical: ByteOffset(at), len: ByteLen(logical - at) });
        }
        let content = extent.volume.len().0.min(size - logical);
        if extent.kind == ExtentKind::Unwritten {
            out.push(FilePiece::Zeros { logical: extent.logical, len: ByteLen(content) });
        } else {
            let start = base.0.saturating_add(extent.volume.start().0);
            out.push(FilePiece::Data { logical: extent.logical, disk: range(start, content) });
            let slack = (extent.volume.len().0 - content).min(SLACK_LIMIT);
            if slack > 0 {
                out.push(FilePiece::Slack { disk: range(start + content, slack) });
            }
        }
        at = logical + content;
    }
    if at < size {
        out.push(FilePiece::Zeros { logical: ByteOffset(at), len: ByteLen(size - at) });
    }
}

fn range(start: u64, len: u64) -> ByteRange {
    ByteRange::new(ByteOffset(start), ByteLen(len)).unwrap_or_default()
}

fn claims_of(
    index: u32,
    volume: &Volume,
    not_owned: &mut Vec<(FileItem, NotOwned)>,
    keyed: &mut Vec<(u64, FileItem)>,
) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut parts = Vec::new();
    let inodes = volume.tree.as_ref().map(|tree| tree.inodes()).unwrap_or_default();
    for (position, inode) in inodes.iter().enumerate() {
        let Ok(position) = u32::try_from(position) else { break };
        if inode.file_type != FileType::File || inode.size.0 == 0 {
            continue;
        }
        let item = FileItem { volume: index, inode: position };
        let indirect = inode
            .extents
            .iter()
            .any(|extent| extent.kind == ExtentKind::Inline || extent.codec != Codec::None);
        if indirect {
            not_owned.push((item, NotOwned::Indirect));
            continue;
        }
        pieces(inode, volume.range.start(), &mut parts);
        let mut first = u64::MAX;
        for part in &parts {
            match *part {
                FilePiece::Data { disk, .. } => {
                    first = first.min(disk.start().0);
                    claims.push(Claim { range: disk, item });
                }
                FilePiece::Slack { disk } => claims.push(Claim { range: disk, item }),
                FilePiece::Zeros { .. } => {}
            }
        }
        keyed.push((first, item));
    }
    claims
}

/// Finds the files that claim bytes which another claim has too (or which lie outside the
/// volume, which no parser should give); sorts the claims by disk address. The answer is sorted.
fn claimed_twice(claims: &mut [Claim]) -> Vec<FileItem> {
    claims.sort_unstable_by_key(|claim| (claim.range.start(), claim.range.end(), claim.item));
    let mut refused = Vec::new();
    let mut widest: Option<Claim> = None;
    for claim in claims.iter() {
        if let Some(before) = widest
            && claim.range.start() < before.range.end()
        {
            refused.push(before.item);
            refused.push(claim.item);
        }
        if widest.is_none_or(|before| claim.range.end() > before.range.end()) {
            widest = Some(*claim);
        }
    }
    refused.sort_unstable();
    refused.dedup();
    refused
}

fn report_refused(volume: &Volume, refused: &[FileItem], monitor: &dyn Monitor) {
    let Some(tree) = &volume.tree else { return };
    for item in refused.iter().take(crate::tree::KEPT_WARNINGS) {
        let number = tree.inodes().get(item.inode as usize).map_or(0, |inode| inode.number.0);
        monitor.warning(Notice {
            subject: format!("{} inode {number}", volume.path),
            at: Some(volume.range.start()),
            message: "it claims blocks that another file claims too; its blocks are kept in disk \
                      order"
                .into(),
        });
    }
}

/// Returns what `taken` leaves of the disk; sorts it. Overlaps in `taken` do no harm here.
fn complement(taken: &mut [ByteRange], disk_len: ByteLen) -> Vec<ByteRange> {
    taken.sort_unstable();
    let mut rest = Vec::new();
    let mut at = ByteOffset(0);
    for range in taken.iter() {
        if let Some(gap) = ByteRange::between(at, range.start())
            && !gap.is_empty()
        {
            rest.push(gap);
        }
        at = at.max(range.end());
    }
    if let Some(gap) = ByteRange::between(at, ByteOffset(disk_len.0))
        && !gap.is_empty()
    {
        rest.push(gap);
    }
    rest
}
