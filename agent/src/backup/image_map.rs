//! From the runs of the naming stage to the nodes of the image map.

use umbra_common::image_hash::{WINDOW_BYTES, WindowHash};
use umbra_common::map::{Content, MapBuilder, MapRoot, Run};
use umbra_common::node::NodeSink;
use umbra_common::{ByteLen, ByteOffset, ByteRange, ObjectId};

use super::chunk::{MapRun, RunContent};
use crate::error::{Error, Result};

/// Bytes of the disk by what the map says about them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapCounts {
    /// In chunks.
    pub data: u64,
    /// Zeros.
    pub zero: u64,
    /// Free space that is not kept.
    pub free: u64,
    /// Not given by the device.
    pub unreadable: u64,
}

/// Builds the map of a disk of `disk_len` bytes from `runs` in any order.
///
/// # Errors
/// [`Error::Internal`] where the runs do not cover every byte exactly once: nothing may be
/// committed then. What the sink answers.
pub fn build(
    mut runs: Vec<MapRun>,
    ids: &[ObjectId],
    windows: &[WindowHash],
    disk_len: ByteLen,
    sink: &mut dyn NodeSink,
) -> Result<(MapRoot, MapCounts)> {
    runs.sort_unstable_by_key(|run| run.disk);
    prove_coverage(&runs, disk_len)?;
    let mut counts = MapCounts::default();
    for run in &runs {
        match run.content {
            RunContent::Chunk { .. } => counts.data += run.len,
            RunContent::Zero => counts.zero += run.len,
            RunContent::Free => counts.free += run.len,
            RunContent::Unreadable => counts.unreadable += run.len,
        }
    }
    let mut builder = MapBuilder::new(disk_len);
    let mut rest = runs.into_iter();
    let mut current = rest.next();
    let mut window_runs = Vec::new();
    for (index, hash) in windows.iter().enumerate() {
        let end = (index as u64 + 1).saturating_mul(WINDOW_BYTES).min(disk_len.0);
        window_runs.clear();
        while let Some(run) = current.filter(|run| run.disk < end) {
            let (head, tail) = split(&run, end - run.disk);
            window_runs.push(map_run(&head, ids)?);
            current = tail.or_else(|| rest.next());
        }
        builder.window(sink, &window_runs, *hash)?;
    }
    Ok((builder.finish(sink)?, counts))
}

/// Cuts a run after `len` bytes.
fn split(run: &MapRun, len: u64) -> (MapRun, Option<MapRun>) {
    if run.len <= len {
        return (*run, None);
    }
    let content = match run.content {
        RunContent::Chunk { index, offset } => {
            let skipped = u32::try_from(len).unwrap_or(u32::MAX);
            RunContent::Chunk { index, offset: offset.saturating_add(skipped) }
        }
        other => other,
    };
    let tail = MapRun { disk: run.disk + len, len: run.len - len, content };
    (MapRun { len, ..*run }, Some(tail))
}

fn map_run(run: &MapRun, ids: &[ObjectId]) -> Result<Run> {
    let content = match run.content {
        RunContent::Zero => Content::Zero,
        RunContent::Free => Content::Free,
        RunContent::Unreadable => Content::Unreadable,
        RunContent::Chunk { index, offset } => {
            let chunk = ids.get(index as usize).copied();
            let chunk = chunk.ok_or_else(|| Error::Internal("a run without a chunk".into()))?;
            Content::Data { chunk, offset }
        }
    };
    let disk = ByteRange::new(ByteOffset(run.disk), ByteLen(run.len));
    let disk = disk.ok_or_else(|| Error::Internal("a run beyond 2^64".into()))?;
    Ok(Run { disk, content })
}

fn prove_coverage(runs: &[MapRun], disk_len: ByteLen) -> Result<()> {
    let mut at = 0_u64;
    for run in runs {
        if run.disk != at {
            return Err(Error::Internal(format!("byte {at} of the disk is mapped 0 or 2 times")));
        }
        at = at.saturating_add(run.len);
    }
    if at != disk_len.0 {
        return Err(Error::Internal(format!("the map ends at byte {at} of {}", disk_len.0)));
    }
    Ok(())
}
