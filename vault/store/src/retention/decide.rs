//! Decides what a policy keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::ids::{MachineId, Timestamp};
use crate::retention::policy::{Keep, Period, Policy};
use crate::retention::scope::Scope;

/// A snapshot dated this much after now shows that the clock was wrong, then or now.
const CLOCK_NANOS: i64 = 86_400 * 1_000_000_000;

/// A snapshot that a policy is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Number of its receipt.
    pub sequence: u64,
    /// When the vault received it.
    pub time: Timestamp,
    /// Whose it is. Names may be given anew, ids are not.
    pub machine: MachineId,
    /// Names of machine and disk.
    pub disk: Scope,
    /// Its tags.
    pub tags: Vec<String>,
    /// Somebody protected it.
    pub protected: bool,
    /// The reason of the hold that it is under.
    pub held: Option<String>,
}

/// Why a snapshot is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// No rule is set for its disk.
    NoRule,
    /// It is the newest of its disk.
    Newest,
    /// It is one of the newest.
    Last {
        /// Which, from 1 on.
        number: u32,
        /// Of how many.
        of: u32,
    },
    /// It is the newest of its hour, day, week, month or year.
    Period {
        /// Of what.
        period: Period,
        /// Of the how manieth that has a snapshot, from the newest on, from 1 on.
        number: u32,
        /// Of how many.
        of: u32,
    },
    /// It is the oldest of its disk, while fewer periods have a snapshot than are to be kept.
    Oldest {
        /// Which periods.
        period: Period,
    },
    /// It is at most so much older than the newest.
    Within {
        /// In seconds.
        seconds: u64,
    },
    /// The newest is dated in the future, so that nothing is known of ages.
    ClockWrong,
    /// It has a tag that is kept.
    Tag(String),
    /// It is protected.
    Protected,
    /// It is under a hold.
    Held(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRule => f.write_str("no rule"),
            Self::Newest => f.write_str("newest of its disk"),
            Self::Last { number, of } => write!(f, "last {number}/{of}"),
            Self::Period { period, number, of } => write!(f, "{} {number}/{of}", period.name()),
            Self::Oldest { period } => write!(f, "oldest {}", period.name()),
            Self::Within { seconds } => write!(f, "within {}", duration(*seconds)),
            Self::ClockWrong => f.write_str("the clock is or was wrong"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Protected => f.write_str("protected"),
            Self::Held(reason) if reason.is_empty() => f.write_str("held"),
            Self::Held(reason) => write!(f, "held: {reason}"),
        }
    }
}

/// Prints a time in the largest unit that it is a multiple of.
fn duration(seconds: u64) -> String {
    for (unit, name) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        if seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{seconds}s")
}

/// What is decided of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Number of its receipt.
    pub sequence: u64,
    /// Why it is kept; nothing keeps it where there is none.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    /// Tells whether it is kept.
    pub fn keeps(&self) -> bool {
        !self.reasons.is_empty()
    }
}

impl Policy {
    /// Decides of each snapshot whether it is kept, and why; in the order of their numbers.
    ///
    /// Each disk of each machine is decided by itself. `now` never makes anything expire; it can
    /// only show that a clock was wrong, and then more is kept.
    pub fn decide(&self, snapshots: &[Candidate], now: Timestamp) -> Vec<Verdict> {
        let mut disks: BTreeMap<(MachineId, Option<&str>), Vec<&Candidate>> = BTreeMap::new();
        for snapshot in snapshots {
            disks.entry((snapshot.machine, snapshot.disk.disk())).or_default().push(snapshot);
        }
        let mut verdicts = Vec::with_capacity(snapshots.len());
        for mut disk in disks.into_values() {
            disk.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.sequence));
            // A machine that got another name is ruled by the one that it has now.
            let rule = disk.first().and_then(|newest| self.rule_for(&newest.disk));
            let keep = rule.map(|(_, keep)| keep.clone()).unwrap_or_default();
            verdicts.extend(decide_disk(&keep, &disk, now));
        }
        verdicts.sort_by_key(|verdict| verdict.sequence);
        verdicts
    }
}

/// Decides of the snapshots of one disk, which come newest first.
fn decide_disk(keep: &Keep, snapshots: &[&Candidate], now: Timestamp) -> Vec<Verdict> {
    let mut counts: Vec<Counting> = Period::ALL
        .into_iter()
        .map(|period| Counting { period, of: keep.count(period), seen: BTreeSet::new() })
        .collect();
    let newest = snapshots.first().map(|snapshot| snapshot.time).unwrap_or_default();
    let clock_wrong = newest.0 > now.0.saturating_add(CLOCK_NANOS);
    let mut verdicts = Vec::with_capacity(snapshots.len());
    for (number, snapshot) in (1u32..).zip(snapshots) {
        let mut reasons = Vec::new();
        if keep.is_empty() {
            reasons.push(Reason::NoRule);
        }
        if number <= keep.last {
            reasons.push(Reason::Last { number, of: keep.last });
        }
        let oldest = snapshots.last().is_some_and(|last| last.sequence == snapshot.sequence);
        reasons.extend(counts.iter_mut().filter_map(|count| count.take(snapshot.time, oldest)));
        if keep.within_seconds > 0 {
            if clock_wrong {
                reasons.push(Reason::ClockWrong);
            } else if is_within(snapshot.time, newest, keep.within_seconds) {
                reasons.push(Reason::Within { seconds: keep.within_seconds });
            }
        }
        let tags = snapshot.tags.iter().filter(|tag| keep.tags.contains(*tag));
        reasons.extend(tags.map(|tag| Reason::Tag(tag.clone())));
        if snapshot.protected {
            reasons.push(Reason::Protected);
        }
        reasons.extend(snapshot.held.clone().map(Reason::Held));
        if number == 1 && reasons.is_empty() {
            reasons.push(Reason::Newest);
        }
        verdicts.push(Verdict { sequence: snapshot.sequence, reasons });
    }
    verdicts
}

fn is_within(time: Timestamp, newest: Timestamp, seconds: u64) -> bool {
    let nanos = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    time.0 >= newest.0.saturating_sub(nanos)
}

/// Counts the periods that have a snapshot, from the newest on.
struct Counting {
    period: Period,
    of: u32,
    seen: BTreeSet<i64>,
}

impl Counting {
    /// Tells whether it keeps the next older snapshot.
    ///
    /// The oldest one is kept until there are enough periods: otherwise a history of a few weeks
    /// could never become one of a year, as its end would always go first.
    fn take(&mut self, time: Timestamp, oldest: bool) -> Option<Reason> {
        let so_far = u32::try_from(self.seen.len()).unwrap_or(u32::MAX);
        if so_far >= self.of {
            return None;
        }
        let (period, of) = (self.period, self.of);
        if self.seen.insert(period.number(time)) {
            return Some(Reason::Period { period, number: so_far.saturating_add(1), of });
        }
        oldest.then_some(Reason::Oldest { period })
    }
}
