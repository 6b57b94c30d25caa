//! Forgetting and collecting in a schedule.

use std::collections::BTreeSet;

use super::runner::{Kept, Runner};
use crate::bytes::{narrow, wide};
use crate::error::{Error, chain};
use crate::ids::Timestamp;
use crate::store::Intent;
use crate::store::gc::GcOptions;

impl Runner {
    /// Forgets a snapshot for good.
    pub(super) fn forget(&mut self, which: u64) -> Kept {
        let roots: Vec<u64> = self.model.roots().map(|receipt| receipt.sequence).collect();
        let which = narrow(which.checked_rem(wide(roots.len())).unwrap_or(0));
        let Some(sequence) = roots.get(which).copied() else { return Ok(()) };
        let now = self.now();
        let forgotten = self.store()?.forget(&BTreeSet::from([sequence]), now, Intent::Do);
        self.unless_trouble("forgetting failed", forgotten)?;
        // Where the answer was lost it may have happened all the same.
        self.model.forget(sequence);
        Ok(())
    }

    /// Collects; what no root reaches is promised no more, whether it went or not.
    pub(super) fn collect(&mut self, with_sessions: bool) -> Kept {
        if !with_sessions {
            self.give_up_sessions();
            self.settle()?;
        }
        let now = self.now();
        let (clock, stop) = (|| Timestamp(now.0), || with_sessions);
        let options = GcOptions {
            at_once: true,
            dry_run: false,
            limit: None,
            wait: None,
            clock: &clock,
            stop: &stop,
        };
        let collected = self.store()?.gc(&options);
        let stopped = matches!(collected, Err(Error::Stopped));
        if stopped && !with_sessions {
            return Err("a collection was stopped, and nobody had asked for it".to_owned());
        }
        if stopped && self.slots.iter().any(Option::is_some) {
            // While it waited for them: nothing has changed.
            return Ok(());
        }
        let whole = collected.is_ok();
        let done = match collected {
            // In the midst of its sweep.
            Err(Error::Stopped) => None,
            other => self.unless_trouble("collecting failed", other)?,
        };
        if let Some(report) = done.filter(|report| !report.kept.is_empty()) {
            if !self.trouble {
                return Err(format!("packs could not be deleted: {:?}", report.kept));
            }
            self.trace.note(&format!("kept: {:?}", report.kept));
        }
        self.settle()?;
        self.model.collected(&self.world, &BTreeSet::new());
        if whole && !self.trouble {
            self.check().map_err(|error| format!("after a collection: {error}"))?;
        }
        self.half_made |= self.store()?.status().is_err_and(|error| {
            let text = chain(&error);
            matches!(error.root(), Error::IndexHalfMade) && !text.is_empty()
        });
        Ok(())
    }
}
