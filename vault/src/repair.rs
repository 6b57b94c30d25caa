//! Repairing the store that this process owns, asked for on the command line or the socket.

use crate::clock::now;
use crate::error::Result;
use crate::place::Place;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;
use umbra_store::{FindingKind, PackRepair, ReadData, RepairOptions, RepairReport, Store};

/// What is asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Repair {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Bytes that are read in a second, at most.
    pub limit_bytes: Option<NonZeroU64>,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Repaired {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Places that were found to be damaged.
    pub findings: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// Records that were made anew from parity.
    pub from_parity: u64,
    /// Records of which another copy is read.
    pub from_copies: u64,
    /// Records that nothing could be made of.
    pub lost: u64,
    /// Records that are sound again.
    pub lifted: u64,
    /// Places that went into quarantine.
    pub quarantined: u64,
    /// Nodes that miss something below them.
    pub incomplete: u64,
    /// The index is wrong beside that: it must be made anew.
    pub index_wrong: bool,
    /// What was done in each pack: the first 1 000.
    pub packs: Vec<PackRepaired>,
    /// How many packs there were.
    pub packs_total: u64,
}

/// What was done in one pack.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PackRepaired {
    /// Its name below the store's directory.
    pub path: String,
    /// What was done, in words.
    pub message: String,
}

impl Repair {
    /// Checks the store with all its data, and repairs what is found.
    ///
    /// # Errors
    /// What the store says.
    pub fn run(&self, store: &Store, place: &Place) -> Result<Repaired> {
        let mut options = place.check_options(ReadData::Everything);
        options.limit_bytes = self.limit_bytes;
        let report = place.check(&options)?;
        let of_index = [FindingKind::IndexRow, FindingKind::Index];
        let index_wrong = of_index.iter().any(|kind| report.findings.totals.contains_key(kind));
        // Rows that are wrong are put right by a rebuild, which the caller asks for: half of one
        // ends a vault that serves, and that is the rebuild's to tell.
        let options = RepairOptions {
            packs: report.damaged_packs,
            rebuild_index: false,
            dry_run: self.dry_run,
        };
        let done = store.repair(&options, now()).map_err(|error| place.store_error(error))?;
        let findings = report.findings.damage();
        Ok(Repaired { findings, bytes_read: report.bytes_read, index_wrong, ..done.into() })
    }
}

impl From<RepairReport> for Repaired {
    fn from(report: RepairReport) -> Self {
        Self {
            dry_run: report.dry_run,
            from_parity: report.from_parity,
            from_copies: report.from_copies,
            lost: report.lost,
            lifted: report.lifted,
            quarantined: report.quarantined,
            incomplete: report.incomplete,
            packs: report.packs.iter().map(PackRepaired::from).collect(),
            packs_total: report.packs_total,
            ..Self::default()
        }
    }
}

impl From<&PackRepair> for PackRepaired {
    fn from(done: &PackRepair) -> Self {
        let id = done.pack.to_string();
        let path = format!("packs/{}/{id}", id.get(..2).unwrap_or_default());
        let counts = [
            (done.from_parity, "records from parity"),
            (done.from_copies, "records of which another copy is read"),
            (done.lost, "records lost"),
            (done.lifted, "records sound again"),
        ];
        let flags = [
            (done.gone, "the pack is gone"),
            (done.header, "its header is needed no more"),
            (done.table, "its table of contents made up for"),
            (done.parity, "its parity made anew"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let mut words: Vec<String> =
            counts.map(|(count, what)| format!("{count} {what}")).collect();
        let flags = flags.iter().filter(|(flag, _)| *flag);
        words.extend(flags.map(|(_, what)| (*what).to_owned()));
        Self { path, message: words.join(", ") }
    }
}
