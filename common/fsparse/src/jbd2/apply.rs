//! The second and third pass: which copies count.
//!
//! SOURCE: Linux `fs/jbd2/recovery.c` (`scan_revoke_records`, `jbd2_do_replay`) and
//! `fs/jbd2/revoke.c` (`jbd2_journal_set_revoke`, `jbd2_journal_test_revoke`).

use alloc::{collections::BTreeMap, vec::Vec};

use super::{
    Replay, ReplayedBlock,
    layout::{Format, Tag, Tid},
    log::{Log, LogBlock, Ring},
    scan::{Record, RecordKind},
    superblock::Superblock,
};
use crate::{Error, Result, Warning};

/// The most different blocks that a log may replace: 8 GiB of 4 KiB blocks, eight times the
/// largest journal that mke2fs makes by itself. Bounds the memory.
const MAX_REPLAYED_BLOCKS: usize = 1 << 21;
/// The most warnings that are kept.
const MAX_WARNINGS: usize = 1000;

/// Applies the committed transactions in memory.
///
/// # Errors
/// [`Error::Io`] and [`Error::Corrupt`] where a descriptor or revoke block cannot be read again
/// or contradicts itself, [`Error::Limit`] where too many blocks are replaced.
pub(super) fn apply(
    log: &Log<'_>,
    superblock: &Superblock,
    fs_blocks: u64,
    records: &[Record],
) -> Result<(Replay, Vec<Warning>)> {
    let mut pass = Pass {
        log,
        format: superblock.format,
        ring: superblock.ring,
        targets: BTreeMap::new(),
        warnings: Vec::new(),
    };
    let of_kind = |kind| records.iter().filter(move |record| record.kind == kind);
    for record in of_kind(RecordKind::Descriptor) {
        pass.note_targets(record, fs_blocks)?;
    }
    for record in of_kind(RecordKind::Revoke) {
        pass.note_revokes(record)?;
    }
    for record in of_kind(RecordKind::Descriptor) {
        pass.note_copies(record)?;
    }
    let lost = pass.targets.iter().filter(|(_, target)| target.lost).map(|(&block, _)| block);
    let lost = lost.collect();
    let copies = pass.targets.into_iter();
    let blocks = copies.filter_map(|(block, target)| Some((block, target.copy?))).collect();
    Ok((Replay { blocks, lost }, pass.warnings))
}

/// What the log says about one block of the file system.
#[derive(Clone, Copy, Default)]
struct Target {
    /// The youngest transaction that revoked it.
    revoked: Option<Tid>,
    /// The youngest copy that counts; `None` where that one is damaged.
    copy: Option<ReplayedBlock>,
    /// The youngest copy that counts is damaged.
    lost: bool,
}

struct Pass<'a> {
    log: &'a Log<'a>,
    format: Format,
    ring: Ring,
    /// Every block that some descriptor names. Revokes of other blocks are not kept, so that the
    /// memory is bounded by the number of copies.
    targets: BTreeMap<u64, Target>,
    warnings: Vec<Warning>,
}

impl Pass<'_> {
    fn note_targets(&mut self, record: &Record, fs_blocks: u64) -> Result<()> {
        for (copy, tag) in self.tags(record)? {
            if tag.fs_block >= fs_blocks {
                let reason = "it replaces a block beyond the end of the file system";
                self.warn(self.log.corrupt("journal", copy, reason));
                continue;
            }
            self.targets.entry(tag.fs_block).or_default();
            if self.targets.len() > MAX_REPLAYED_BLOCKS {
                return Err(Error::Limit {
                    structure: "journal",
                    at: self.log.position(record.block),
                    limit: u64::try_from(MAX_REPLAYED_BLOCKS).unwrap_or(u64::MAX),
                    unit: "replaced blocks",
                });
            }
        }
        Ok(())
    }

    fn note_revokes(&mut self, record: &Record) -> Result<()> {
        let mut block = self.log.buffer();
        self.log.read(record.block, &mut block)?;
        let Some(revokes) = self.format.revokes(&block) else {
            let reason = "it claims more records than fit";
            return Err(self.log.corrupt("journal revoke block", record.block, reason));
        };
        for fs_block in revokes {
            let Some(target) = self.targets.get_mut(&fs_block) else { continue };
            if target.revoked.is_none_or(|known| record.tid.is_after(known)) {
                target.revoked = Some(record.tid);
            }
        }
        Ok(())
    }

    fn note_copies(&mut self, record: &Record) -> Result<()> {
        let mut bytes = self.log.buffer();
        for (block, tag) in self.tags(record)? {
            let Some(target) = self.targets.get_mut(&tag.fs_block) else { continue };
            // A revoke speaks of its own transaction's copies too, wherever they stand in it.
            if target.revoked.is_some_and(|revoked| !record.tid.is_after(revoked)) {
                continue;
            }
            let copy = self.log.place(block).and_then(|volume| {
                if self.format.checks_copies() {
                    self.log.read(block, &mut bytes)?;
                    if !self.format.copy_holds(&tag, record.tid, &bytes) {
                        let reason = "its checksum does not hold; the block is lost";
                        return Err(self.log.corrupt("journal copy of a block", block, reason));
                    }
                }
                Ok(ReplayedBlock { volume, escaped: tag.escaped })
            });
            match copy {
                Ok(copy) => (target.copy, target.lost) = (Some(copy), false),
                Err(error) => {
                    (target.copy, target.lost) = (None, true);
                    self.warn(error);
                }
            }
        }
        Ok(())
    }

    /// Reads a descriptor block: each copy's place in the log, and its tag.
    fn tags(&self, record: &Record) -> Result<Vec<(LogBlock, Tag)>> {
        let mut block = self.log.buffer();
        self.log.read(record.block, &mut block)?;
        let places =
            core::iter::successors(Some(record.block), |&block| Some(self.ring.forward(block, 1)));
        Ok(places.skip(1).zip(self.format.tags(&block)).collect())
    }

    fn warn(&mut self, error: Error) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(Warning { inode: None, error });
        }
    }
}
