//! What an administrator types to name snapshots, and which ones those are.

use crate::care::SnapshotReport;
use crate::error::{Result, VaultError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use umbra_common::snapshot::is_name;
use umbra_store::{Receipt, Store, Timestamp};

/// Fewest hex digits that name a snapshot.
const MIN_DIGITS: usize = 4;

/// Candidates that an error names; the rest is counted.
const SHOWN_CANDIDATES: usize = 10;

/// A snapshot, or all of a disk, as a person names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotName {
    /// The newest but N of one disk.
    Latest(usize),
    /// First digits of the id, lower case.
    Digits(String),
    /// The newest of a disk at or before a time.
    At {
        /// The machine.
        machine: String,
        /// The disk; absent where the machine has only one.
        disk: Option<String>,
        /// Nanoseconds since 1970.
        until: i64,
    },
    /// All of a disk.
    Disk {
        /// The machine.
        machine: String,
        /// The disk.
        disk: String,
    },
}

/// Names, and whose snapshots are meant where they do not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picked {
    /// The names.
    pub names: Vec<SnapshotName>,
    /// The machine.
    pub machine: Option<String>,
    /// The disk.
    pub disk: Option<String>,
}

impl SnapshotName {
    /// Reads a name. A date alone is the end of that day, in the time zone of this process.
    ///
    /// # Errors
    /// [`VaultError::Usage`] where it is none.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("latest") {
            match (rest, rest.strip_prefix('~').and_then(|n| n.parse().ok())) {
                ("", _) => return Ok(Self::Latest(0)),
                (_, Some(back)) => return Ok(Self::Latest(back)),
                _ => {}
            }
        }
        let place = |place: &str| match place.split_once('/') {
            Some((machine, disk)) if is_name(machine) && is_name(disk) => {
                Some((machine.to_owned(), Some(disk.to_owned())))
            }
            None if is_name(place) => Some((place.to_owned(), None)),
            _ => None,
        };
        if let Some((named, time)) = text.split_once('@')
            && let Some((machine, disk)) = place(named)
        {
            return Ok(Self::At { machine, disk, until: until(time)? });
        }
        if let Some((machine, Some(disk))) = place(text) {
            return Ok(Self::Disk { machine, disk });
        }
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hex && (MIN_DIGITS..=64).contains(&text.len()) {
            return Ok(Self::Digits(text.to_ascii_lowercase()));
        }
        Err(VaultError::Usage {
            what: format!("{text:?} names no snapshot"),
            hint: "use 4 or more hex digits of an id, MACHINE/DISK@TIME, MACHINE/DISK with --all, \
                   or latest with --machine and --disk"
                .to_owned(),
        })
    }
}

/// Reads the last moment that a text means.
fn until(text: &str) -> Result<i64> {
    let wrong = || VaultError::Usage {
        what: format!("{text:?} is no time"),
        hint: "use RFC 3339 such as 2026-01-31T08:00:00Z, or a date such as 2026-01-31".to_owned(),
    };
    let nanos = |time: jiff::Timestamp| i64::try_from(time.as_nanosecond()).map_err(|_| wrong());
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return nanos(time);
    }
    let date = text.parse::<jiff::civil::Date>().map_err(|_| wrong())?;
    let end = date.at(23, 59, 59, 999_999_999).to_zoned(jiff::tz::TimeZone::system());
    nanos(end.map_err(|_| wrong())?.timestamp())
}

/// Which snapshots names are looked for among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Among {
    /// Those that can be seen; digits name forgotten ones too.
    Seen,
    /// Those that are forgotten; digits name those that can be seen too.
    Forgotten,
}

/// Finds the receipts that are meant, each once, oldest first.
///
/// # Errors
/// [`VaultError::Usage`] with the candidates where a name can mean several,
/// [`VaultError::NotFound`].
pub(super) fn pick(store: &Store, picked: &Picked, among: Among) -> Result<Vec<Arc<Receipt>>> {
    let (seen, forgotten) = (store.receipts(), store.forgotten_receipts());
    let (first, second) = match among {
        Among::Seen => (seen, forgotten),
        Among::Forgotten => (forgotten, seen),
    };
    let mut sequences = BTreeSet::new();
    let mut found = Vec::new();
    for name in &picked.names {
        for receipt in find(&first, &second, picked, (name, among))? {
            if sequences.insert(receipt.sequence) {
                found.push(receipt);
            }
        }
    }
    found.sort_by_key(|receipt| receipt.sequence);
    Ok(found)
}

fn find(
    first: &[Arc<Receipt>],
    second: &[Arc<Receipt>],
    picked: &Picked,
    (name, among): (&SnapshotName, Among),
) -> Result<Vec<Arc<Receipt>>> {
    let (machine, disk) = (picked.machine.as_deref(), picked.disk.as_deref());
    match name {
        SnapshotName::Digits(digits) => {
            let matching = |list: &[Arc<Receipt>]| -> Vec<Arc<Receipt>> {
                let of = of_place(list, machine, disk);
                of.filter(|one| one.snapshot.to_string().starts_with(digits)).cloned().collect()
            };
            // What already is as it shall be is named as well, so that it can be said.
            let found = Some(matching(first)).filter(|found| !found.is_empty());
            let found = found.unwrap_or_else(|| matching(second));
            match found.len() {
                0 => Err(none(format!("no snapshot's id begins with {digits}"), among)),
                1 => Ok(found),
                _ => Err(ambiguous(format!("{digits} can be several snapshots"), &found)),
            }
        }
        SnapshotName::Latest(back) => newest(first, (machine, disk), i64::MAX, (*back, among)),
        SnapshotName::At { machine, disk: named, until } => {
            newest(first, (Some(machine), named.as_deref().or(disk)), *until, (0, among))
        }
        SnapshotName::Disk { machine, disk } => {
            let all: Vec<Arc<Receipt>> =
                of_place(first, Some(machine), Some(disk)).cloned().collect();
            match all.is_empty() {
                true => Err(none(format!("no snapshot of {machine}/{disk}"), among)),
                false => Ok(all),
            }
        }
    }
}

fn of_place<'a>(
    list: &'a [Arc<Receipt>],
    machine: Option<&'a str>,
    disk: Option<&'a str>,
) -> impl Iterator<Item = &'a Arc<Receipt>> {
    list.iter().filter(move |one| {
        machine.is_none_or(|machine| machine == one.machine_name)
            && disk.is_none_or(|disk| disk == one.disk)
    })
}

/// Finds the newest but `back` of one disk at or before a time.
fn newest(
    list: &[Arc<Receipt>],
    (machine, disk): (Option<&str>, Option<&str>),
    until: i64,
    (back, among): (usize, Among),
) -> Result<Vec<Arc<Receipt>>> {
    let of = of_place(list, machine, disk);
    let found: Vec<Arc<Receipt>> =
        of.filter(|one| Timestamp::from_parts(one.received).0 <= until).cloned().collect();
    let whose = |one: &Receipt| (one.machine_name.clone(), one.disk.clone());
    let mut disks = BTreeSet::new();
    let newest_first = found.iter().rev();
    let each: Vec<Arc<Receipt>> =
        newest_first.filter(|one| disks.insert(whose(one))).cloned().collect();
    if each.len() > 1 {
        return Err(ambiguous("several disks have snapshots".to_owned(), &each));
    }
    match found.iter().rev().nth(back) {
        Some(receipt) => Ok(vec![Arc::clone(receipt)]),
        None => {
            let machine = machine.unwrap_or("any machine");
            let disk = disk.map(|disk| format!(", disk {disk}")).unwrap_or_default();
            Err(none(format!("no such snapshot of {machine}{disk}"), among))
        }
    }
}

fn none(what: String, among: Among) -> VaultError {
    let (what, hint) = match among {
        Among::Seen => (what, "`umbra snapshots --all-machines` lists what there is"),
        Among::Forgotten => (
            format!("{what} among those that are forgotten"),
            "what a collection has given the space of back cannot return; `umbra-vault policy \
             show` lists what can",
        ),
    };
    VaultError::NotFound { what, hint: hint.to_owned() }
}

fn ambiguous(what: String, found: &[Arc<Receipt>]) -> VaultError {
    let shown = found.iter().take(SHOWN_CANDIDATES);
    let mut list: Vec<String> = shown.map(|one| SnapshotReport::of(one).line()).collect();
    let more = found.len().saturating_sub(SHOWN_CANDIDATES);
    if more > 0 {
        list.push(format!("and {more} more"));
    }
    VaultError::Usage {
        what: format!("{what}: {}", list.join("; ")),
        hint: "give more digits of the id, MACHINE/DISK@TIME, or --machine and --disk".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let parse = |text| SnapshotName::parse(text).unwrap();
        assert_eq!(parse("latest"), SnapshotName::Latest(0));
        assert_eq!(parse("latest~3"), SnapshotName::Latest(3));
        assert_eq!(parse("ABCD"), SnapshotName::Digits("abcd".to_owned()));
        let disk = SnapshotName::Disk { machine: "abcd".to_owned(), disk: "sda".to_owned() };
        assert_eq!(parse("abcd/sda"), disk);
        let SnapshotName::At { machine, disk, until } = parse("m/d@1970-01-01T00:00:01Z") else {
            panic!("a time");
        };
        assert_eq!((machine.as_str(), disk.as_deref(), until), ("m", Some("d"), 1_000_000_000));
        assert!(matches!(parse("m@2026-01-31"), SnapshotName::At { disk: None, .. }));
        for bad in ["abc", "latest~x", "m@noon", "", "zzzz", "web-1", "a/b/c", "a/", "/a", "a b/c"]
        {
            assert_eq!(SnapshotName::parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
        let text = serde_json::to_string(&parse("m/d@2026-01-31T00:00:00Z")).unwrap();
        assert_eq!(
            serde_json::from_str::<SnapshotName>(&text).unwrap(),
            parse("m/d@2026-01-31T00:00:00Z")
        );
    }
}
