//! What a person types to name a snapshot, and which one that is.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use jiff::Timestamp;
use umbra_common::ObjectId;
use umbra_common::snapshot::Receipt;

use crate::error::{Error, Result};

/// Fewest hex digits that name a snapshot.
const MIN_DIGITS: usize = 4;

/// Candidates that an error names; the rest is counted.
const SHOWN_CANDIDATES: usize = 10;

/// A snapshot as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotName {
    /// The newest but N of one disk.
    Latest {
        /// How many to go back.
        back: usize,
    },
    /// First digits of the id.
    Id {
        /// Hex digits, lower case.
        digits: String,
    },
    /// The newest of a machine's disk at or before a time.
    At {
        /// The machine.
        machine: String,
        /// The disk; absent where the machine has only one.
        disk: Option<String>,
        /// The time.
        time: Timestamp,
    },
}

/// Whose snapshots are meant where the name does not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope<'a> {
    /// The machine.
    pub machine: Option<&'a str>,
    /// The disk.
    pub disk: Option<&'a str>,
}

/// Splits `SNAP:PATH` at the first `:` that a path follows: `/`, `part/`, `lvm/`, `disk/` or a
/// drive letter. The path is absent where there is none.
pub fn split_target(target: &OsStr) -> (&[u8], Option<&[u8]>) {
    let bytes = target.as_bytes();
    for (index, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b':') {
        let (snapshot, path) = bytes.split_at(index);
        let path = path.get(1..).unwrap_or_default();
        let named = [&b"/"[..], b"part/", b"lvm/", b"disk/"].iter().any(|p| path.starts_with(p));
        let drive = matches!(path, [letter, b':', ..] if letter.is_ascii_alphabetic());
        if named || drive {
            return (snapshot, Some(path));
        }
    }
    (bytes, None)
}

/// Reads the name of a snapshot.
///
/// # Errors
/// [`Error::Usage`] where it is none.
pub fn parse(text: &str) -> Result<SnapshotName> {
    if let Some(rest) = text.strip_prefix("latest") {
        if rest.is_empty() {
            return Ok(SnapshotName::Latest { back: 0 });
        }
        if let Some(back) = rest.strip_prefix('~').and_then(|n| n.parse().ok()) {
            return Ok(SnapshotName::Latest { back });
        }
    }
    if let Some((place, time)) = text.split_once('@') {
        let (machine, disk) = match place.split_once('/') {
            Some((machine, disk)) => (machine, Some(disk.to_owned())),
            None => (place, None),
        };
        let time = parse_time(time, DayEdge::End)?;
        return Ok(SnapshotName::At { machine: machine.to_owned(), disk, time });
    }
    if text.len() >= MIN_DIGITS && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(SnapshotName::Id { digits: text.to_ascii_lowercase() });
    }
    Err(Error::Usage {
        what: format!("{text:?} names no snapshot"),
        hint: "use latest, latest~N, 4 or more hex digits of an id, or MACHINE/DISK@TIME".into(),
    })
}

/// Which moment a date without a time means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DayEdge {
    /// Its first moment.
    Start,
    /// Its last moment.
    End,
}

/// Reads a time: RFC 3339, or a date in the system's time zone.
///
/// # Errors
/// [`Error::Usage`] where it is neither.
pub fn parse_time(text: &str, edge: DayEdge) -> Result<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let wrong = || Error::Usage {
        what: format!("{text:?} is no time"),
        hint: "use RFC 3339 such as 2026-01-31T08:00:00Z, or a date such as 2026-01-31".into(),
    };
    let date = text.parse::<jiff::civil::Date>().map_err(|_| wrong())?;
    let moment = match edge {
        DayEdge::Start => date.at(0, 0, 0, 0),
        DayEdge::End => date.at(23, 59, 59, 999_999_999),
    };
    let zoned = moment.to_zoned(jiff::tz::TimeZone::system()).map_err(|_| wrong())?;
    Ok(zoned.timestamp())
}

/// Returns the receive time of a receipt.
pub fn received(receipt: &Receipt) -> Timestamp {
    let nanos = i32::try_from(receipt.received.nanos).unwrap_or(0);
    Timestamp::new(receipt.received.seconds, nanos).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Finds the snapshot that is meant among all that the vault shows, in any order.
///
/// # Errors
/// [`Error::NotFound`] where there is none, [`Error::Usage`] with the candidates where it can be
/// several.
pub fn resolve<'a>(
    all: &'a [Receipt],
    name: &SnapshotName,
    scope: Scope<'_>,
) -> Result<&'a Receipt> {
    match name {
        SnapshotName::Id { digits } => by_digits(all, digits),
        SnapshotName::Latest { back } => newest(all, scope, Timestamp::MAX, *back),
        SnapshotName::At { machine, disk, time } => {
            let disk = disk.as_deref().or(scope.disk);
            newest(all, Scope { machine: Some(machine), disk }, *time, 0)
        }
    }
}

fn by_digits<'a>(all: &'a [Receipt], digits: &str) -> Result<&'a Receipt> {
    let matches = |receipt: &&Receipt| receipt.snapshot.to_string().starts_with(digits);
    let found: Vec<&Receipt> = all.iter().filter(matches).collect();
    let ids: std::collections::BTreeSet<ObjectId> = found.iter().map(|r| r.snapshot).collect();
    match (found.last(), ids.len()) {
        (Some(receipt), 1) => Ok(receipt),
        (Some(_), _) => Err(ambiguous(format!("{digits} begins several ids"), &found)),
        (None, _) => Err(none(format!("no snapshot's id begins with {digits}"))),
    }
}

fn newest<'a>(
    all: &'a [Receipt],
    scope: Scope<'_>,
    until: Timestamp,
    back: usize,
) -> Result<&'a Receipt> {
    let fits = |wanted: Option<&str>, name: &str| wanted.is_none_or(|wanted| wanted == name);
    let mut found: Vec<&Receipt> = all
        .iter()
        .filter(|r| fits(scope.machine, &r.machine_name) && fits(scope.disk, &r.disk))
        .filter(|r| received(r) <= until)
        .collect();
    found.sort_by_key(|receipt| receipt.sequence);
    let whose = |r: &Receipt| (r.machine_name.clone(), r.disk.clone());
    let Some(last) = found.last() else {
        let machine = scope.machine.unwrap_or("any machine");
        let disk = scope.disk.map(|disk| format!(", disk {disk}")).unwrap_or_default();
        return Err(none(format!("no such snapshot of {machine}{disk}")));
    };
    if found.iter().any(|receipt| whose(receipt) != whose(last)) {
        let mut each: Vec<&Receipt> = Vec::new();
        for receipt in found.iter().rev() {
            if !each.iter().any(|known| whose(known) == whose(receipt)) {
                each.push(receipt);
            }
        }
        return Err(ambiguous("several disks have snapshots".into(), &each));
    }
    let mut newest_first = found.iter().rev().copied();
    newest_first
        .nth(back)
        .ok_or_else(|| none(format!("{} has only {} snapshots", last.disk, found.len())))
}

fn none(what: String) -> Error {
    Error::NotFound { what, hint: "`umbra snapshots --all-machines` lists what there is".into() }
}

fn ambiguous(what: String, found: &[&Receipt]) -> Error {
    let mut list: Vec<String> = found
        .iter()
        .take(SHOWN_CANDIDATES)
        .map(|receipt| {
            let id = receipt.snapshot.to_string();
            let short = id.get(..12).unwrap_or(&id).to_owned();
            format!("{short} {}/{} {}", receipt.machine_name, receipt.disk, received(receipt))
        })
        .collect();
    let more = found.len().saturating_sub(SHOWN_CANDIDATES);
    if more > 0 {
        list.push(format!("and {more} more, see `umbra snapshots --all-machines`"));
    }
    Error::Usage {
        what: format!("{what}: {}", list.join("; ")),
        hint: "name one by its id, or give --machine and --disk".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_target_is_split_where_a_path_begins() {
        let split = |text: &'static str| {
            let (snapshot, path) = split_target(OsStr::new(text));
            (std::str::from_utf8(snapshot).unwrap(), path.map(|p| std::str::from_utf8(p).unwrap()))
        };
        assert_eq!(split("latest"), ("latest", None));
        assert_eq!(split("latest:/etc/a:b"), ("latest", Some("/etc/a:b")));
        assert_eq!(
            split("m/d@2026-01-01T10:00:00Z:part/2/x"),
            ("m/d@2026-01-01T10:00:00Z", Some("part/2/x"))
        );
        assert_eq!(split("abcd:C:/x"), ("abcd", Some("C:/x")));
        assert_eq!(split("m/d@2026-01-01T10:00:00Z"), ("m/d@2026-01-01T10:00:00Z", None));
    }

    #[test]
    fn names_are_read() {
        assert_eq!(parse("latest~3").unwrap(), SnapshotName::Latest { back: 3 });
        assert_eq!(parse("ABCD").unwrap(), SnapshotName::Id { digits: "abcd".into() });
        assert!(matches!(parse("m/d@2026-01-01").unwrap(), SnapshotName::At { .. }));
        for bad in ["abc", "latest~x", "m@noon", "", "zzzz"] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn going_back_further_than_there_are_snapshots_finds_none() {
        let receipt = |sequence: u64| Receipt {
            store: umbra_common::snapshot::StoreId([1; 16]),
            sequence,
            previous: None,
            snapshot: ObjectId::of_chunk(&sequence.to_le_bytes()),
            domain: 0,
            machine: umbra_common::snapshot::MachineId([2; 16]),
            machine_name: "m".into(),
            disk: "d".into(),
            nonce: umbra_common::snapshot::SessionNonce([3; 16]),
            run: umbra_common::snapshot::RunId([4; 16]),
            received: umbra_fsparse::Timestamp { seconds: 0, nanos: 0 },
            gc_generation: 0,
            tags: Vec::new(),
            labels: std::collections::BTreeMap::new(),
            signature: None,
        };
        let all = [receipt(2), receipt(1)];
        let find = |back: usize| resolve(&all, &SnapshotName::Latest { back }, Scope::default());
        assert_eq!([0, 1].map(|back| find(back).unwrap().sequence), [2, 1]);
        for back in [2, usize::MAX - 1, usize::MAX] {
            assert_eq!(find(back).unwrap_err().exit_code(), 1, "{back}");
        }
    }
}
