//! The first pass: which transactions are whole, and where their blocks stand.
//!
//! SOURCE: Linux `fs/jbd2/recovery.c`, `do_one_pass` with `PASS_SCAN`. The later passes of the
//! kernel walk the log again; here they go through the records that this one leaves.

use alloc::vec::Vec;

use super::{
    layout::{
        COMMIT, Checksums, DESCRIPTOR, Format, Header, REVOKE, TRANSACTION_SUM_START, Tid,
        add_to_transaction_sum, commit_seconds,
    },
    log::{Log, LogBlock, Ring},
    superblock::{Superblock, Tail},
};
use crate::{Error, Result};

/// The most descriptor and revoke blocks of a log; one describes 60 copies and more.
const MAX_RECORDS: usize = 1 << 21;

/// A block of a committed transaction that says something about other blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// Where it stands.
    pub(super) block: LogBlock,
    /// Its transaction.
    pub(super) tid: Tid,
    /// What it is.
    pub(super) kind: RecordKind,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// A descriptor block: tags, and after it the copies.
    Descriptor,
    /// A revoke block.
    Revoke,
}

/// What the first pass found.
pub(super) struct Scan {
    /// The records of all committed transactions, in the log's order.
    pub(super) records: Vec<Record>,
    /// The number that the transaction after the last committed one has or would have.
    pub(super) end: Tid,
    /// Why the log ends, where it ends by damage.
    pub(super) damage: Option<Error>,
}

/// Finds the end of the log.
///
/// # Errors
/// [`Error::Io`] and [`Error::Corrupt`] where the kernel gives up too: a block of the log cannot
/// be read, or a descriptor or revoke block of a transaction that was committed fails its
/// checksum. [`Error::Limit`] for a log of absurdly many records.
pub(super) fn scan(log: &Log<'_>, superblock: &Superblock, tail: Tail) -> Result<Scan> {
    let mut scanner = Scanner {
        log,
        format: superblock.format,
        ring: superblock.ring,
        next: tail.block,
        left: superblock.ring.len(),
        tid: tail.tid,
        scan: Scan { records: Vec::new(), end: tail.tid, damage: None },
        committed: 0,
        transaction_sum: TRANSACTION_SUM_START,
        last_commit_seconds: 0,
        suspect: false,
        failed: None,
    };
    let mut block = log.buffer();
    while scanner.step(&mut block)? == Flow::Continue {}
    let mut scan = scanner.scan;
    // What follows the last commit block is an interrupted transaction.
    scan.records.truncate(scanner.committed);
    Ok(scan)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    End,
}

struct Scanner<'a> {
    log: &'a Log<'a>,
    format: Format,
    ring: Ring,
    /// The block to look at next.
    next: LogBlock,
    /// Blocks of the ring not yet passed: a log never overtakes itself.
    left: u32,
    /// The transaction that is being read.
    tid: Tid,
    scan: Scan,
    /// How many records belong to committed transactions.
    committed: usize,
    /// The version 1 checksum of the transaction so far.
    transaction_sum: u32,
    last_commit_seconds: u64,
    /// A block of the current transaction failed its checksum: stale, or damaged; the commit
    /// block's time tells (`need_check_commit_time`).
    suspect: bool,
    /// The commit block that failed its checksum while commits are asynchronous.
    failed: Option<LogBlock>,
}

impl Scanner<'_> {
    /// Reads one block of the log and what it describes.
    fn step(&mut self, block: &mut [u8]) -> Result<Flow> {
        let here = self.next;
        if !self.pass(1) {
            return Ok(Flow::End);
        }
        self.log.read(here, block)?;
        let Some(header) = Header::parse(block).filter(|header| header.tid == self.tid) else {
            return Ok(Flow::End);
        };
        match header.kind {
            DESCRIPTOR => self.descriptor(here, block),
            REVOKE => {
                self.suspect |= !self.format.tail_holds(block);
                self.record(here, RecordKind::Revoke)?;
                Ok(Flow::Continue)
            }
            COMMIT => self.commit(here, block),
            _ => Ok(Flow::End),
        }
    }

    /// Goes `count` blocks on, or answers false where that would come round to the start: the
    /// kernel would find an older transaction there and end.
    fn pass(&mut self, count: u32) -> bool {
        let Some(left) = self.left.checked_sub(count) else { return false };
        self.left = left;
        self.next = self.ring.forward(self.next, count);
        true
    }

    fn record(&mut self, block: LogBlock, kind: RecordKind) -> Result<()> {
        if self.scan.records.len() >= MAX_RECORDS {
            return Err(Error::Limit {
                structure: "journal",
                at: self.log.position(block),
                limit: u64::try_from(MAX_RECORDS).unwrap_or(u64::MAX),
                unit: "descriptor and revoke blocks",
            });
        }
        self.scan.records.push(Record { block, tid: self.tid, kind });
        Ok(())
    }

    fn descriptor(&mut self, here: LogBlock, block: &mut [u8]) -> Result<Flow> {
        self.suspect |= !self.format.tail_holds(block);
        self.record(here, RecordKind::Descriptor)?;
        let tags = u32::try_from(self.format.tags(block).count()).unwrap_or(u32::MAX);
        let mut copy = self.next;
        if !self.pass(tags) {
            return Ok(Flow::End);
        }
        if matches!(self.format.checksums, Checksums::V1) && self.failed.is_none() {
            self.transaction_sum = add_to_transaction_sum(self.transaction_sum, block);
            for _ in 0..tags {
                self.log.read(copy, block)?;
                self.transaction_sum = add_to_transaction_sum(self.transaction_sum, block);
                copy = self.ring.forward(copy, 1);
            }
        }
        Ok(Flow::Continue)
    }

    fn commit(&mut self, here: LogBlock, block: &[u8]) -> Result<Flow> {
        let seconds = commit_seconds(block);
        // A checksum that fails in a transaction older than the one before it says that these
        // are the remains of an earlier log, which the current one never overwrote.
        let stale = seconds < self.last_commit_seconds;
        if self.suspect {
            if stale {
                return Ok(Flow::End);
            }
            let reason = "a descriptor or revoke block of a committed transaction is damaged";
            return Err(self.log.corrupt("journal transaction", here, reason));
        }
        if let Some(failed) = self.failed {
            // Something was committed after it: no interrupted commit, but damage.
            self.scan.damage = Some(self.bad_commit(failed));
            return Ok(Flow::End);
        }
        if self.format.commit_holds(block, self.transaction_sum) {
            self.tid = self.tid.next();
            self.scan.end = self.tid;
            self.committed = self.scan.records.len();
            self.transaction_sum = TRANSACTION_SUM_START;
            self.last_commit_seconds = seconds;
            return Ok(Flow::Continue);
        }
        if stale {
            return Ok(Flow::End);
        }
        // Nothing from here on is applied. An asynchronous commit block may have come before its
        // transaction's blocks, so that alone is a plain interruption. (The kernel, having seen
        // two bad ones with checksums of version 2 or 3, would apply the first; this does not.)
        if self.format.async_commit {
            self.failed = Some(here);
            self.tid = self.tid.next();
            self.last_commit_seconds = seconds;
            return Ok(Flow::Continue);
        }
        self.scan.damage = Some(self.bad_commit(here));
        Ok(Flow::End)
    }

    fn bad_commit(&self, block: LogBlock) -> Error {
        let reason = "its checksum does not hold; it and what follows is left out";
        self.log.corrupt("journal commit block", block, reason)
    }
}
