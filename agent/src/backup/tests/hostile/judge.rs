//! What must hold of any disk, however broken.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU64;

use umbra_common::node::NodeSource;
use umbra_fsparse::testing::Mender;
use umbra_net::Wanted;

use super::super::sources::hash_of;
use super::*;
use crate::catalog::Snapshot;
use crate::content::ContentReader;
use crate::fetch::{ChunkSource, EachChunk};
use crate::survey::{Options, ParsePolicy};
use crate::verify;

/// What was found, of one disk or of many.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    pub(super) disks: u64,
    pub(super) volumes: u64,
    pub(super) volumes_with_files: u64,
    files: u64,
    files_proven: u64,
    warnings: u64,
    free_bytes: u64,
    /// Volumes whose free space was compared with what dumpe2fs and e2fsck say.
    witnessed: u64,
    /// The largest share of its step budget that a survey took, in thousandths.
    steps_per_mille: u64,
}

impl Verdict {
    pub(super) fn add(&mut self, other: &Self) {
        self.disks += other.disks;
        self.volumes += other.volumes;
        self.volumes_with_files += other.volumes_with_files;
        self.files += other.files;
        self.files_proven += other.files_proven;
        self.warnings += other.warnings;
        self.free_bytes += other.free_bytes;
        self.witnessed += other.witnessed;
        self.steps_per_mille = self.steps_per_mille.max(other.steps_per_mille);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.free_bytes >> 20;
        write!(
            f,
            "{} disks, {} of {} volumes with files, {} files ({} proven), {} warnings, {mib} MiB \
             free, {} witnessed, at most {} thousandths of the steps",
            self.disks,
            self.volumes_with_files,
            self.volumes,
            self.files,
            self.files_proven,
            self.warnings,
            self.witnessed,
            self.steps_per_mille
        )
    }
}

/// Chunks and nodes of the vault in memory, as a restore asks for them.
impl ChunkSource for MemoryVault {
    fn chunks(&self, wanted: &[Wanted], each: &mut EachChunk<'_>) -> Result<()> {
        let chunks = self.chunks.lock().unwrap();
        for (item, wanted) in wanted.iter().enumerate() {
            for (number, reference) in &wanted.objects {
                let bytes = chunks.get(&reference.id).cloned();
                each(item, *number, bytes.ok_or_else(|| "the vault lost it".to_owned()));
            }
        }
        Ok(())
    }
}

impl NodeSource for MemoryVault {
    fn child(
        &self,
        parent: &Reference,
        number: u32,
        want: &Reference,
    ) -> umbra_common::Result<std::sync::Arc<Node>> {
        self.nodes.lock().unwrap().child(parent, number, want)
    }
}

/// A disk that counts reads: each is a step that some budget has to pay for.
struct Counting<'a> {
    bytes: &'a [u8],
    calls: AtomicU64,
    read: AtomicU64,
}

impl ReadAt for Counting<'_> {
    fn len(&self) -> ByteLen {
        ReadAt::len(self.bytes)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.bytes.read_at(offset, buf)
    }
}

/// Backs the disk up with all bytes and without free ones, and says what does not hold.
pub(super) fn judge(bytes: &[u8], vault: &MemoryVault) -> Result<Verdict, String> {
    let mut verdict = Verdict { disks: 1, ..Verdict::default() };
    for free in [FreePolicy::Keep, FreePolicy::Skip] {
        let monitor = Quiet::default();
        let survey = counted_survey(bytes, free, &monitor, &mut verdict)?;
        let labels = labels();
        let job =
            Job { uplink: vault, known: &NoneKnown, policy: SendPolicy::Send, labels: &labels };
        let disk = MemoryDisk::new(bytes.to_vec());
        let outcome = run(&job, Input::Disk { device: &disk, survey: &survey }, &monitor);
        // Exit code 0: whatever is wrong with a disk that can be read is a warning.
        let outcome = outcome.map_err(|error| format!("{free:?}: the backup failed: {error}"))?;
        expect(outcome.unreadable == 0, || format!("{} unreadable ranges", outcome.unreadable))?;
        let back = vault.reassemble(outcome.snapshot);
        came_back(bytes, &back, &survey, outcome.map.free)?;
        expect(outcome.image_hash == hash_of(&back), || "the image hash is another's".into())?;
        files_came_back(bytes, &back, &survey)?;
        if free == FreePolicy::Keep {
            continue;
        }
        let report = verified(vault, outcome)?;
        expect(!report.is_damaged(), || format!("verify: {report:?}"))?;
        verdict.files_proven += report.files_proven;
        verdict.warnings += monitor.warnings().1;
        for volume in &survey.volumes {
            verdict.volumes += 1;
            let names = volume.tree.as_ref().map_or(0, FileTree::entry_count);
            verdict.files += names as u64;
            verdict.volumes_with_files += u64::from(names > 0);
            verdict.free_bytes += volume.free.iter().map(|range| range.len().0).sum::<u64>();
            verdict.witnessed += u64::from(free_is_free(bytes, &back, volume)?);
        }
    }
    Ok(verdict)
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Surveys the disk with its reads counted. A sound walk visits each inode twice and each block
/// of metadata twice; two walks, bitmaps, tables and marks of others are what a survey may do.
fn counted_survey(
    bytes: &[u8],
    free: FreePolicy,
    monitor: &Quiet,
    verdict: &mut Verdict,
) -> Result<Survey, String> {
    let disk = Counting { bytes, calls: AtomicU64::new(0), read: AtomicU64::new(0) };
    let options = Options { parse: ParsePolicy::Parse, free };
    let survey = crate::survey::survey(&disk, options, monitor);
    let (calls, read) = (disk.calls.into_inner(), disk.read.into_inner());
    let len = bytes.len() as u64;
    let steps = 2 * (4 * (len / 1024 + len / 128) + 4096) + len / 1024 + 16384;
    expect(calls <= steps, || format!("{calls} reads of a disk of {len} bytes"))?;
    expect(read <= 64 * len + (64 << 20), || format!("{read} bytes read of a disk of {len}"))?;
    verdict.steps_per_mille = verdict.steps_per_mille.max(calls * 1000 / steps);
    Ok(survey)
}

/// Every byte is what it was, but for free ones, which may be zeros.
fn came_back(bytes: &[u8], back: &[u8], survey: &Survey, free: u64) -> Result<(), String> {
    expect(bytes.len() == back.len(), || "another length".into())?;
    let mut expected = bytes.to_vec();
    let mut left_out = 0;
    for range in survey.volumes.iter().flat_map(|volume| &volume.free) {
        let part = range.start().0 as usize..range.end().0 as usize;
        left_out += part.len() as u64;
        for (place, back) in expected[part.clone()].iter_mut().zip(&back[part]) {
            if *back == 0 {
                *place = 0;
            }
        }
    }
    expect(free <= left_out, || format!("{free} bytes free in the map, {left_out} found"))?;
    let differ = expected.iter().zip(back).position(|(expected, back)| expected != back);
    expect(differ.is_none(), || format!("byte {} came back changed", differ.unwrap_or_default()))
}

/// Every byte that a file of the overlay has is what it was.
fn files_came_back(bytes: &[u8], back: &[u8], survey: &Survey) -> Result<(), String> {
    for volume in &survey.volumes {
        for inode in volume.tree.iter().flat_map(FileTree::inodes) {
            for extent in &inode.extents {
                let start = (volume.range.start().0 + extent.volume.start().0) as usize;
                let part = start..start + extent.volume.len().0 as usize;
                let same = bytes.get(part.clone()) == back.get(part.clone());
                let wanted = extent.kind != ExtentKind::Unwritten;
                expect(same || !wanted, || {
                    format!("inode {} lost bytes of {part:?}", inode.number.0)
                })?;
            }
        }
    }
    Ok(())
}

/// Reads everything through map and overlay, as `umbra verify --deep` does.
fn verified(vault: &MemoryVault, outcome: Outcome) -> Result<verify::Report, String> {
    let reference = Reference { kind: Kind::Manifest, id: outcome.snapshot };
    let manifest = vault.manifest(outcome.snapshot);
    let receipt = outcome.receipt.ok_or("no receipt")?;
    let snapshot = Snapshot { reference, receipt, manifest };
    let content = ContentReader::new(&snapshot, vault, vault).map_err(|e| e.to_string())?;
    let report = verify::verify(&snapshot, content, verify::Depth::Files, &Quiet::default());
    report.map_err(|error| format!("verify failed: {error}"))
}

/// Compares what is given away with the raw bitmaps, with dumpe2fs, and lets e2fsck look at the
/// volume before and after; true where those two could.
fn free_is_free(bytes: &[u8], back: &[u8], volume: &Volume) -> Result<bool, String> {
    if volume.free.is_empty() {
        return Ok(false);
    }
    let part = volume.range.start().0 as usize..volume.range.end().0 as usize;
    let (before, after) = (&bytes[part.clone()], &back[part]);
    let base = volume.range.start().0;
    let free: Vec<(u64, u64)> =
        volume.free.iter().map(|range| (range.start().0 - base, range.end().0 - base)).collect();
    let mender = Mender::of(before).ok_or("free space without a superblock")?;
    raw_bitmaps_agree(before, &mender, &free)?;
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let image = dir.path().join("volume");
    std::fs::write(&image, before).map_err(|error| error.to_string())?;
    let Some(listed) = listed_free(&image, &mender) else { return Ok(false) };
    for &(start, end) in &free {
        let next = listed.partition_point(|&(_, listed_end)| listed_end <= start);
        let inside = listed.get(next).is_some_and(|&(s, e)| s <= start && end <= e);
        expect(inside, || format!("{start}..{end} is given away, and dumpe2fs calls it used"))?;
    }
    let said = e2fsck(&image)?;
    std::fs::write(&image, after).map_err(|error| error.to_string())?;
    let says = e2fsck(&image)?;
    expect(said == says, || format!("e2fsck said\n{said}\nand says\n{says}"))?;
    Ok(true)
}

/// No block that a bitmap on the disk calls used is given away.
fn raw_bitmaps_agree(volume: &[u8], mender: &Mender, free: &[(u64, u64)]) -> Result<(), String> {
    const BLOCK_UNINIT: u16 = 2;
    let ratio = mender.cluster_blocks();
    for &(start, end) in free {
        for block in start / mender.block_size..end.div_ceil(mender.block_size) {
            let (group, within) = mender.group_of(block).ok_or("free before the first block")?;
            let cluster = within / ratio;
            let place = mender.descriptor_at(group).map(|at| at as usize + 0x12);
            let flags = place.and_then(|at| volume.get(at..)?.first_chunk().copied());
            let flags = flags.map(u16::from_le_bytes).ok_or("free without a descriptor")?;
            let bitmap = mender.block_at(volume, group, 0).ok_or("free without a bitmap")?;
            let byte = volume.get((bitmap + cluster / 8) as usize).ok_or("no such bitmap")?;
            let used = byte >> (cluster % 8) & 1 == 1;
            let initialised = flags & BLOCK_UNINIT == 0 || !mender.has_group_flags();
            expect(!used || !initialised, || format!("block {block} is given away, and used"))?;
        }
    }
    Ok(())
}

/// Reads dumpe2fs' list of free blocks as byte ranges, joined; `None` where it makes none.
fn listed_free(image: &Path, mender: &Mender) -> Option<Vec<(u64, u64)>> {
    let output = Command::new("dumpe2fs").arg(image).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("Free blocks: ")).collect();
    // It says the same words of the whole file system, with one number.
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    if !output.status.success() || lines.len() < 2 {
        return None;
    }
    for range in lines.iter().skip(1).flat_map(|line| line.split(", ")) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else { continue };
        let (start, end) = (first, last + mender.cluster_blocks());
        match ranges.last_mut().filter(|(_, end)| *end == start * mender.block_size) {
            Some(before) => before.1 = end * mender.block_size,
            None => ranges.push((start * mender.block_size, end * mender.block_size)),
        }
    }
    Some(ranges)
}

/// What e2fsck finds wrong, changing nothing.
fn e2fsck(image: &Path) -> Result<String, String> {
    let output = Command::new("e2fsck").args(["-f", "-n"]).arg(image).output();
    let output = output.map_err(|error| error.to_string())?;
    Ok(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stdout)))
}
