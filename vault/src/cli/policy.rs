//! `umbra-vault policy`.

use super::output::Output;
use super::{StoreArg, ask, unexpected};
use crate::admin::{Answer, Request};
use crate::care::{PolicyChange, PolicyDone, PolicyReport, PolicyRequest, RuleReport};
use crate::error::{Result, VaultError};
use crate::place::{Mode, Place};
use clap::{Args, Subcommand};
use serde_json::json;
use umbra_store::MAX_SECONDS;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Set the rule of a scope, or how long forgetting can be undone; forgets nothing by itself.
    ///
    /// A snapshot is kept that any part of the rule keeps. Each disk of each machine is counted by
    /// itself, and its newest snapshot always stays. Hours, days, weeks (ISO), months and years are
    /// those of UTC. `umbra-vault forget --policy` forgets what is not kept.
    Set(SetArgs),
    /// Show the policy, and what is protected, held or forgotten.
    Show(StoreArg),
    /// Show what the policy would keep and forget now, and why.
    ///
    /// With options of `policy set`: what it would do if it were changed so.
    Simulate(SimulateArgs),
}

impl PolicyCommand {
    pub(super) fn store(&self) -> &StoreArg {
        match self {
            Self::Set(args) => &args.store,
            Self::Show(store) => store,
            Self::Simulate(args) => &args.store,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    #[command(flatten)]
    store: StoreArg,
    #[command(flatten)]
    change: ChangeArgs,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    #[command(flatten)]
    store: StoreArg,
    #[command(flatten)]
    change: ChangeArgs,
}

/// A change of the policy.
#[derive(Debug, Args)]
struct ChangeArgs {
    /// What the rule is for: * (all), MACHINE or MACHINE/DISK; the narrowest counts.
    #[arg(long, default_value = "*", value_name = "SCOPE")]
    scope: String,
    /// Keep the newest N.
    #[arg(long, value_name = "N", value_parser = count())]
    keep_last: Option<u32>,
    /// Keep the newest of each of the last N hours that have a snapshot.
    #[arg(long, value_name = "N", value_parser = count())]
    keep_hourly: Option<u32>,
    /// The same for days.
    #[arg(long, value_name = "N", value_parser = count())]
    keep_daily: Option<u32>,
    /// The same for weeks.
    #[arg(long, value_name = "N", value_parser = count())]
    keep_weekly: Option<u32>,
    /// The same for months.
    #[arg(long, value_name = "N", value_parser = count())]
    keep_monthly: Option<u32>,
    /// The same for years.
    #[arg(long, value_name = "N", value_parser = count())]
    keep_yearly: Option<u32>,
    /// Keep what is at most so much older than the newest: a number with h, d, w or y.
    #[arg(long, value_name = "DURATION", value_parser = days)]
    keep_within: Option<u64>,
    /// Keep what has this tag; may be given more than once.
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
    /// Keep everything of the scope.
    #[arg(long, conflicts_with_all = ["keep_last", "keep_hourly", "keep_daily", "keep_weekly",
        "keep_monthly", "keep_yearly", "keep_within", "keep_tag"])]
    keep_all: bool,
    /// Remove the rule of the scope.
    #[arg(long, conflicts_with_all = ["keep_last", "keep_hourly", "keep_daily", "keep_weekly",
        "keep_monthly", "keep_yearly", "keep_within", "keep_tag", "keep_all"])]
    remove: bool,
    /// How long a forgetting can be undone: a number with h, d, w or y [default: 7d].
    #[arg(long, value_name = "DURATION", value_parser = days)]
    undo: Option<u64>,
}

fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// Reads a duration of hours and more. No `m`: elsewhere it is minutes, in other programs months.
fn days(text: &str) -> Result<u64, String> {
    let wrong = || "use a number with h, d, w or y, such as 14d".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let unit = match unit {
        "h" => 3_600_u64,
        "d" => 86_400,
        "w" => 7 * 86_400,
        "y" => 366 * 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(unit).filter(|seconds| *seconds <= MAX_SECONDS);
    seconds.ok_or_else(|| "at most 200y".to_owned())
}

impl ChangeArgs {
    fn rule(&self) -> RuleReport {
        RuleReport {
            scope: self.scope.clone(),
            keep_last: self.keep_last.unwrap_or_default(),
            keep_hourly: self.keep_hourly.unwrap_or_default(),
            keep_daily: self.keep_daily.unwrap_or_default(),
            keep_weekly: self.keep_weekly.unwrap_or_default(),
            keep_monthly: self.keep_monthly.unwrap_or_default(),
            keep_yearly: self.keep_yearly.unwrap_or_default(),
            keep_within_seconds: self.keep_within.unwrap_or_default(),
            keep_tags: self.keep_tag.clone(),
        }
    }

    fn change(&self) -> PolicyChange {
        let rule = self.rule();
        let none = RuleReport { scope: self.scope.clone(), ..RuleReport::default() };
        PolicyChange {
            rule: (self.keep_all || rule != none).then_some(rule),
            remove: self.remove.then(|| self.scope.clone()),
            undo_seconds: self.undo,
        }
    }
}

pub(super) fn run(place: &Place, command: &PolicyCommand, output: &Output) -> Result<u8> {
    match command {
        PolicyCommand::Show(_) => {
            let done = done(place, Mode::ReadOnly, PolicyRequest::Show)?;
            show(&done.policy, output)?;
            output.summary(serde_json::to_value(&done.policy).unwrap_or_default())?;
        }
        PolicyCommand::Simulate(args) => {
            let asked = PolicyRequest::Simulate { change: args.change.change() };
            let done = done(place, Mode::ReadOnly, asked)?;
            verdicts(&done, output)?;
            summary(&done, (0, true), output)?;
        }
        PolicyCommand::Set(args) => set(place, args, output)?,
    }
    Ok(0)
}

fn set(place: &Place, args: &SetArgs, output: &Output) -> Result<()> {
    let change = args.change.change();
    if change == PolicyChange::default() {
        return Err(VaultError::Usage {
            what: "nothing is to be set".to_owned(),
            hint: "give --keep-last N, --keep-daily N, --keep-within 14d or the like, --keep-all, \
                   --remove, or --undo 7d"
                .to_owned(),
        });
    }
    let mode = if args.dry_run { Mode::ReadOnly } else { Mode::ReadWrite };
    let done = done(place, mode, PolicyRequest::Set { change, dry_run: args.dry_run })?;
    rules(&done.policy, output)?;
    let (kept, dropped) = counts(&done);
    let all = kept.saturating_add(dropped);
    if dropped > 0 {
        output.text(&format!(
            "{dropped} of {all} snapshots are not kept by it; nothing is forgotten yet: look at \
             them with `umbra-vault policy simulate`, forget them with `umbra-vault forget \
             --policy`"
        ))?;
    } else {
        output.text(&format!("all {all} snapshots are kept by it"))?;
    }
    if args.dry_run {
        output.text("dry run: the policy was not changed")?;
    }
    summary(&done, (0, args.dry_run), output)
}

fn done(place: &Place, mode: Mode, asked: PolicyRequest) -> Result<Box<PolicyDone>> {
    match ask(place, mode, &Request::Policy { asked })? {
        Answer::Policy(done) => Ok(done),
        _ => Err(unexpected()),
    }
}

/// Forgets what the policy does not keep.
pub(super) fn apply(place: &Place, dry_run: bool, output: &Output) -> Result<u8> {
    let mode = if dry_run { Mode::ReadOnly } else { Mode::ReadWrite };
    let done = done(place, mode, PolicyRequest::Apply { dry_run })?;
    verdicts(&done, output)?;
    let (_, dropped) = counts(&done);
    if done.policy.rules.is_empty() {
        output.text("no policy is set (`umbra-vault policy set`), so everything is kept")?;
    } else if dropped > 0 && !dry_run {
        super::forget::say_when(&done.undo_until, output)?;
    }
    if dry_run {
        output.text("dry run: nothing was forgotten")?;
    }
    let forgotten = if dry_run { 0 } else { dropped };
    summary(&done, (forgotten, dry_run), output)?;
    Ok(0)
}

fn verdicts(done: &PolicyDone, output: &Output) -> Result<()> {
    for verdict in &done.verdicts {
        let word = if verdict.keep { "keep  " } else { "forget" };
        let reasons = verdict.reasons.join(", ");
        let line = format!("{word}  {}  {reasons}", verdict.snapshot.line());
        output.text(line.trim_end())?;
        output.object("entry", serde_json::to_value(verdict).unwrap_or_default())?;
    }
    let (kept, dropped) = counts(done);
    output.text(&format!("{kept} kept, {dropped} not kept"))
}

fn counts(done: &PolicyDone) -> (usize, usize) {
    let kept = done.verdicts.iter().filter(|verdict| verdict.keep).count();
    (kept, done.verdicts.len().saturating_sub(kept))
}

/// Prints the summary, with how many snapshots were forgotten by this command.
fn summary(done: &PolicyDone, (forgotten, dry_run): (usize, bool), output: &Output) -> Result<()> {
    let (kept, dropped) = counts(done);
    output.summary(json!({
        "kept": kept,
        "not_kept": dropped,
        "forgotten": forgotten,
        "dry_run": dry_run,
        "rules": done.policy.rules,
        "undo_seconds": done.policy.undo_seconds,
        "undo_until": done.undo_until,
    }))
}

fn rules(policy: &PolicyReport, output: &Output) -> Result<()> {
    for rule in &policy.rules {
        output.text(&format!("{:24} {}", rule.scope, rule_text(rule)))?;
    }
    if policy.rules.is_empty() {
        output.text("no rule is set: every snapshot is kept")?;
    }
    output.text(&format!("forgetting can be undone for {}", duration(policy.undo_seconds)))
}

fn show(policy: &PolicyReport, output: &Output) -> Result<()> {
    rules(policy, output)?;
    for hold in &policy.holds {
        output.text(&format!("held       {}  {}", hold.on, hold.reason))?;
    }
    for snapshot in &policy.protected {
        output.text(&format!("protected  {}", snapshot.line()))?;
    }
    for snapshot in &policy.forgotten {
        output.text(&format!("forgotten  {}", snapshot.line()))?;
    }
    Ok(())
}

fn rule_text(rule: &RuleReport) -> String {
    let mut parts = Vec::new();
    for (name, number) in [
        ("last", rule.keep_last),
        ("hourly", rule.keep_hourly),
        ("daily", rule.keep_daily),
        ("weekly", rule.keep_weekly),
        ("monthly", rule.keep_monthly),
        ("yearly", rule.keep_yearly),
    ] {
        if number > 0 {
            parts.push(format!("{name} {number}"));
        }
    }
    if rule.keep_within_seconds > 0 {
        parts.push(format!("within {}", duration(rule.keep_within_seconds)));
    }
    parts.extend(rule.keep_tags.iter().map(|tag| format!("tag {tag}")));
    match parts.is_empty() {
        true => "keep everything".to_owned(),
        false => format!("keep {}", parts.join(", ")),
    }
}

/// Prints a time in days or hours.
pub(super) fn duration(seconds: u64) -> String {
    match seconds.is_multiple_of(86_400) {
        true => format!("{} days", seconds / 86_400),
        false => format!("{} hours", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_a_policy() {
        assert_eq!(days("36h"), Ok(36 * 3_600));
        assert_eq!(days("14d"), Ok(14 * 86_400));
        assert_eq!(days("2w"), Ok(14 * 86_400));
        assert_eq!(days("200y"), Ok(MAX_SECONDS));
        for bad in ["", "d", "14", "1m", "201y", "-1d", "1.5d", "99999999999999999999d", "1é"] {
            assert!(days(bad).is_err(), "{bad}");
        }
    }
}
