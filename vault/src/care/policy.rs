//! The policy: showing, changing, trying and applying it.

use crate::care::changes::undo_until;
use crate::care::holds::{HoldReport, list};
use crate::care::{SnapshotReport, holds};
use crate::clock::now;
use crate::error::{Result, VaultError};
use crate::place::Place;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use umbra_store::{Keep, Policy, Receipt, Scope, Store, Verdict};

/// What is asked of the policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyRequest {
    /// What is it, and what is held, protected or forgotten?
    Show,
    /// Change it; the snapshots stay as they are.
    Set {
        /// How.
        change: PolicyChange,
        /// It is only said what would be done.
        dry_run: bool,
    },
    /// What would it keep, changed like this?
    Simulate {
        /// How.
        change: PolicyChange,
    },
    /// Forget what it does not keep.
    Apply {
        /// It is only said what would be done.
        dry_run: bool,
    },
}

/// A change of the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// The rule that takes the place of the one that its scope has, if any.
    pub rule: Option<RuleReport>,
    /// The scope whose rule goes.
    pub remove: Option<String>,
    /// How long a forgetting can be undone.
    pub undo_seconds: Option<u64>,
}

/// A rule; numbers that are 0 are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of Keep")]
pub struct RuleReport {
    /// `*`, `MACHINE` or `MACHINE/DISK`.
    pub scope: String,
    pub keep_last: u32,
    pub keep_hourly: u32,
    pub keep_daily: u32,
    pub keep_weekly: u32,
    pub keep_monthly: u32,
    pub keep_yearly: u32,
    pub keep_within_seconds: u64,
    pub keep_tags: Vec<String>,
}

/// The policy, and what else decides what goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// The rules; none: everything is kept.
    pub rules: Vec<RuleReport>,
    /// How long a forgetting can be undone.
    pub undo_seconds: u64,
    /// Holds that last.
    pub holds: Vec<HoldReport>,
    /// Snapshots that are protected.
    pub protected: Vec<SnapshotReport>,
    /// Snapshots that are forgotten and can still return.
    pub forgotten: Vec<SnapshotReport>,
}

/// What a policy decides of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotVerdict {
    /// Which.
    #[serde(flatten)]
    pub snapshot: SnapshotReport,
    /// It is kept.
    pub keep: bool,
    /// Why, in words.
    pub reasons: Vec<String>,
}

/// What a policy decides of everything that can be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDone {
    /// The policy that decided.
    pub policy: PolicyReport,
    /// Each snapshot, oldest first; of those that are not kept, they are forgotten by an
    /// [`PolicyRequest::Apply`], and only by that.
    pub verdicts: Vec<SnapshotVerdict>,
    /// Until when that can be undone if the vault is in use every day, RFC 3339.
    pub undo_until: String,
}

/// Answers.
///
/// # Errors
/// [`VaultError::Usage`] for a scope that is none; what the store says.
pub(crate) fn policy(store: &Store, place: &Place, request: &PolicyRequest) -> Result<PolicyDone> {
    let time = now();
    // Before: what it forgets is named too.
    let receipts = store.all_receipts();
    let (policy, verdicts) = match request {
        PolicyRequest::Show => (store.policy(), Vec::new()),
        PolicyRequest::Simulate { change } | PolicyRequest::Set { change, dry_run: true } => {
            let change = Change::read(change)?;
            let mut policy = store.policy();
            change.make(&mut policy);
            (policy, store.simulate(time, |policy| change.make(policy)))
        }
        PolicyRequest::Set { change, dry_run: false } => {
            let change = Change::read(change)?;
            let policy = store.set_policy(time, |policy| change.make(policy));
            (policy.map_err(|error| place.store_error(error))?, store.simulate(time, |_| {}))
        }
        PolicyRequest::Apply { dry_run: true } => (store.policy(), store.simulate(time, |_| {})),
        PolicyRequest::Apply { dry_run: false } => {
            let verdicts = store.apply_policy(time).map_err(|error| place.store_error(error))?;
            (store.policy(), verdicts)
        }
    };
    Ok(PolicyDone {
        policy: report(store, &policy),
        verdicts: verdict_reports(&receipts, &verdicts),
        undo_until: undo_until(store, time),
    })
}

fn verdict_reports(receipts: &[Arc<Receipt>], verdicts: &[Verdict]) -> Vec<SnapshotVerdict> {
    let receipts: BTreeMap<u64, &Arc<Receipt>> =
        receipts.iter().map(|receipt| (receipt.sequence, receipt)).collect();
    let verdicts = verdicts.iter().filter_map(|verdict| {
        Some(SnapshotVerdict {
            snapshot: SnapshotReport::of(receipts.get(&verdict.sequence)?),
            keep: verdict.keeps(),
            reasons: verdict.reasons.iter().map(ToString::to_string).collect(),
        })
    });
    verdicts.collect()
}

fn report(store: &Store, policy: &Policy) -> PolicyReport {
    let (holds, protected): (Vec<holds::HoldReport>, _) =
        store.log().with_state(|state| (list(state), state.protected.clone()));
    let mut receipts = store.all_receipts();
    receipts.retain(|receipt| protected.contains(&receipt.sequence));
    let reports = |list: &[Arc<Receipt>]| list.iter().map(|one| SnapshotReport::of(one)).collect();
    PolicyReport {
        rules: policy.rules.iter().map(|(scope, keep)| rule_report(scope, keep)).collect(),
        undo_seconds: policy.undo_seconds,
        holds,
        protected: reports(&receipts),
        forgotten: reports(&store.forgotten_receipts()),
    }
}

fn rule_report(scope: &Scope, keep: &Keep) -> RuleReport {
    RuleReport {
        scope: scope.to_string(),
        keep_last: keep.last,
        keep_hourly: keep.hourly,
        keep_daily: keep.daily,
        keep_weekly: keep.weekly,
        keep_monthly: keep.monthly,
        keep_yearly: keep.yearly,
        keep_within_seconds: keep.within_seconds,
        keep_tags: keep.tags.iter().cloned().collect(),
    }
}

/// A change whose scopes were read.
struct Change {
    rule: Option<(Scope, Keep)>,
    remove: Option<Scope>,
    undo_seconds: Option<u64>,
}

impl Change {
    fn read(change: &PolicyChange) -> Result<Self> {
        let rule = match &change.rule {
            Some(rule) => Some((scope(&rule.scope)?, keep(rule))),
            None => None,
        };
        let remove = change.remove.as_deref().map(scope).transpose()?;
        Ok(Self { rule, remove, undo_seconds: change.undo_seconds })
    }

    fn make(&self, policy: &mut Policy) {
        if let Some((scope, keep)) = &self.rule {
            policy.rules.insert(scope.clone(), keep.clone());
        }
        if let Some(scope) = &self.remove {
            policy.rules.remove(scope);
        }
        policy.undo_seconds = self.undo_seconds.unwrap_or(policy.undo_seconds);
    }
}

fn keep(rule: &RuleReport) -> Keep {
    Keep {
        last: rule.keep_last,
        hourly: rule.keep_hourly,
        daily: rule.keep_daily,
        weekly: rule.keep_weekly,
        monthly: rule.keep_monthly,
        yearly: rule.keep_yearly,
        within_seconds: rule.keep_within_seconds,
        tags: rule.keep_tags.iter().cloned().collect(),
    }
}

fn scope(text: &str) -> Result<Scope> {
    Scope::parse(text).ok_or_else(|| VaultError::Usage {
        what: format!("{text:?} is neither *, nor MACHINE, nor MACHINE/DISK"),
        hint: "names are 1 to 64 letters, digits, dots, dashes and underscores".to_owned(),
    })
}
