//! The policy: rules of scopes, and how long a forgetting can be undone.

use std::collections::{BTreeMap, BTreeSet};

use umbra_common::cbor::{Fields, Reader, Record, Writer};

use crate::error::{Error, Result};
use crate::retention::scope::Scope;

/// How long a forgetting can be undone where nothing else is set: 7 days.
pub const DEFAULT_UNDO_SECONDS: u64 = 7 * 86_400;

/// Longest time that a policy can name, in seconds: 200 years, so that it counts in nanoseconds.
pub const MAX_SECONDS: u64 = 200 * 366 * 86_400;

/// Most items of a list and bytes of a text. What bounds them is the length of a LOG entry: what
/// was short enough to be written is read again.
const MAX_ITEMS: usize = 64 << 10;

/// A span of the calendar (UTC) of which one snapshot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// A full hour.
    Hour,
    /// A day.
    Day,
    /// An ISO week, from Monday on.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    /// All of them, from the shortest.
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// Names the rule, as the command line does.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

/// What is kept of a disk; a number that is 0 is no rule. What any rule keeps is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub last: u32,
    /// Of each of the last so many hours that have a snapshot, the newest.
    pub hourly: u32,
    /// The same for days.
    pub daily: u32,
    /// The same for ISO weeks.
    pub weekly: u32,
    /// The same for months.
    pub monthly: u32,
    /// The same for years.
    pub yearly: u32,
    /// What is at most so many seconds older than the newest.
    pub within_seconds: u64,
    /// What has one of these tags.
    pub tags: BTreeSet<String>,
}

impl Keep {
    /// Tells whether it holds no rule at all; then everything is kept.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns of how many periods one snapshot is kept.
    pub fn count(&self, period: Period) -> u32 {
        match period {
            Period::Hour => self.hourly,
            Period::Day => self.daily,
            Period::Week => self.weekly,
            Period::Month => self.monthly,
            Period::Year => self.yearly,
        }
    }
}

/// Which snapshots are kept, and how long a forgetting can be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// For how long, in seconds of the vault's clock, what was forgotten is there all the same.
    pub undo_seconds: u64,
    /// What is kept; the narrowest scope that covers a disk is the one that counts for it.
    pub rules: BTreeMap<Scope, Keep>,
}

impl Default for Policy {
    /// No rule: everything is kept.
    fn default() -> Self {
        Self { undo_seconds: DEFAULT_UNDO_SECONDS, rules: BTreeMap::new() }
    }
}

impl Policy {
    /// Checks that its times are not too long to count with.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn check(&self) -> Result<()> {
        let times = self.rules.values().map(|keep| keep.within_seconds);
        let longest = times.chain([self.undo_seconds]).max().unwrap_or_default();
        match longest <= MAX_SECONDS {
            true => Ok(()),
            false => Err(Error::Limit {
                what: "a time of the policy, in seconds,",
                found: longest,
                limit: MAX_SECONDS,
            }),
        }
    }

    /// Returns the rule that counts for a disk, and whose it is; `None` where none does.
    pub fn rule_for(&self, disk: &Scope) -> Option<(&Scope, &Keep)> {
        let mut scopes = disk.widening().into_iter();
        scopes.find_map(|scope| self.rules.get_key_value(&scope))
    }

    /// Writes it as fields 1 and 2 of a record.
    pub(crate) fn write(&self, record: &mut Record) {
        record.uint(1, self.undo_seconds);
        let rules: Vec<(&Scope, &Keep)> = self.rules.iter().collect();
        record.list(2, &rules, |writer, (scope, keep)| {
            writer.record(|record| write_rule(record, scope, keep));
        });
    }

    /// Reads what [`Policy::write`] writes.
    ///
    /// # Errors
    /// `Corrupt` where a name is none or scopes do not ascend, `Limit`.
    pub(crate) fn read(fields: &mut Fields, reader: &mut Reader<'_>) -> umbra_common::Result<Self> {
        let undo_seconds = bounded(fields.uint(reader, 1)?, reader)?;
        let mut rules = BTreeMap::new();
        let list = fields.list(reader, 2, MAX_ITEMS, read_rule)?;
        for (scope, keep) in list {
            if rules.last_key_value().is_some_and(|(last, _)| *last >= scope) {
                return Err(reader.corrupt("the scopes of a policy do not ascend"));
            }
            rules.insert(scope, keep);
        }
        Ok(Self { undo_seconds, rules })
    }
}

fn write_rule(record: &mut Record, scope: &Scope, keep: &Keep) {
    write_scope(record, 0, scope);
    record.uint(2, keep.last);
    for (key, period) in (3..).zip(Period::ALL) {
        record.uint(key, keep.count(period));
    }
    record.uint(8, keep.within_seconds);
    let tags: Vec<&String> = keep.tags.iter().collect();
    record.list(9, &tags, |writer, tag| writer.text(tag));
}

fn read_rule(reader: &mut Reader<'_>) -> umbra_common::Result<(Scope, Keep)> {
    let mut fields = reader.record()?;
    let scope = read_scope(&mut fields, reader, 0)?;
    let keep = Keep {
        last: fields.uint(reader, 2)?,
        hourly: fields.uint(reader, 3)?,
        daily: fields.uint(reader, 4)?,
        weekly: fields.uint(reader, 5)?,
        monthly: fields.uint(reader, 6)?,
        yearly: fields.uint(reader, 7)?,
        within_seconds: bounded(fields.uint(reader, 8)?, reader)?,
        tags: read_set(&mut fields, reader, 9, |reader| Ok(reader.text(MAX_ITEMS)?.to_owned()))?,
    };
    fields.finish(reader)?;
    Ok((scope, keep))
}

fn bounded(seconds: u64, reader: &Reader<'_>) -> umbra_common::Result<u64> {
    match seconds <= MAX_SECONDS {
        true => Ok(seconds),
        false => Err(reader.corrupt("a time of a policy is too long")),
    }
}

/// Writes a scope as fields `key` (machine) and the one after it (disk).
pub(crate) fn write_scope(record: &mut Record, key: u64, scope: &Scope) {
    record.text(key, scope.machine().unwrap_or_default());
    record.text(key.saturating_add(1), scope.disk().unwrap_or_default());
}

/// Reads what [`write_scope`] writes.
///
/// # Errors
/// `Corrupt` where a name is none, or a disk has no machine.
pub(crate) fn read_scope(
    fields: &mut Fields,
    reader: &mut Reader<'_>,
    key: u64,
) -> umbra_common::Result<Scope> {
    let machine = fields.optional(reader, key, |reader| reader.text(MAX_ITEMS))?;
    let disk = fields.optional(reader, key.saturating_add(1), |reader| reader.text(MAX_ITEMS))?;
    Scope::new(machine, disk).ok_or_else(|| reader.corrupt("a machine or disk has no good name"))
}

/// Writes a set as an array in ascending order, unless it is empty.
pub(crate) fn write_sequences(record: &mut Record, key: u64, sequences: &BTreeSet<u64>) {
    let list: Vec<u64> = sequences.iter().copied().collect();
    record.list(key, &list, |writer: &mut Writer, sequence| writer.uint(*sequence));
}

/// Reads an array whose items ascend.
///
/// # Errors
/// `Corrupt` where they do not.
pub(crate) fn read_set<'a, T: Ord>(
    fields: &mut Fields,
    reader: &mut Reader<'a>,
    key: u64,
    read: impl FnMut(&mut Reader<'a>) -> umbra_common::Result<T>,
) -> umbra_common::Result<BTreeSet<T>> {
    let list = fields.list(reader, key, MAX_ITEMS, read)?;
    if !list.is_sorted_by(|a, b| a < b) {
        return Err(reader.corrupt("the items of a set do not ascend"));
    }
    Ok(list.into_iter().collect())
}
