//! The rules again, slowly and in other words: each snapshot by itself, the calendar by counting.

use super::*;

pub(super) fn days_of_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_of_year(year: i64) -> i64 {
    (1..=12).map(|month| days_of_month(year, month)).sum()
}

/// Year, month and day of the month, found by walking there from 1970.
fn date(days: i64) -> (i64, i64, i64) {
    let (mut year, mut left) = (1970, days);
    while left < 0 {
        year -= 1;
        left += days_of_year(year);
    }
    while left >= days_of_year(year) {
        left -= days_of_year(year);
        year += 1;
    }
    let mut month = 1;
    while left >= days_of_month(year, month) {
        left -= days_of_month(year, month);
        month += 1;
    }
    (year, month, left + 1)
}

/// The name of the period that a time lies in, as a person would write it.
pub(super) fn name(period: Period, nanos: i64) -> String {
    let days = nanos.div_euclid(DAY);
    let (year, month, day) = date(days);
    match period {
        Period::Hour => format!("{year}-{month}-{day}T{}", nanos.rem_euclid(DAY) / HOUR),
        Period::Day => format!("{year}-{month}-{day}"),
        Period::Month => format!("{year}-{month}"),
        Period::Year => format!("{year}"),
        Period::Week => {
            // ISO 8601: the week belongs to the year that has its Thursday.
            let weekday = (days + 3).rem_euclid(7);
            let thursday = days - weekday + 3;
            let (year, ..) = date(thursday);
            let mut first = thursday;
            let mut week = 1;
            while date(first - 7).0 == year {
                first -= 7;
                week += 1;
            }
            format!("{year}-W{week}")
        }
    }
}

/// Which snapshots a rule for everything keeps, in the order of their numbers.
pub(super) fn kept(keep: &Keep, all: &[Candidate], now: Timestamp) -> Vec<u64> {
    let mut kept: Vec<u64> = all
        .iter()
        .filter(|one| {
            let of_disk = |other: &&Candidate| other.disk == one.disk;
            let newer: Vec<&Candidate> =
                all.iter().filter(of_disk).filter(|other| other.sequence > one.sequence).collect();
            let older = all.iter().filter(of_disk).any(|other| other.sequence < one.sequence);
            is_kept(keep, one, &newer, older, now)
        })
        .map(|one| one.sequence)
        .collect();
    kept.sort_unstable();
    kept
}

fn is_kept(
    keep: &Keep,
    one: &Candidate,
    newer: &[&Candidate],
    older: bool,
    now: Timestamp,
) -> bool {
    if newer.is_empty() || *keep == Keep::default() || one.protected || one.held.is_some() {
        return true;
    }
    if newer.len() < keep.last as usize || one.tags.iter().any(|tag| keep.tags.contains(tag)) {
        return true;
    }
    let newest = newer.iter().max_by_key(|other| other.sequence).unwrap().time.0;
    if keep.within_seconds > 0 {
        let (age, future) = (i128::from(newest) - i128::from(one.time.0), newest - DAY > now.0);
        if future || age <= i128::from(keep.within_seconds) * 1_000_000_000 {
            return true;
        }
    }
    let counts = [keep.hourly, keep.daily, keep.weekly, keep.monthly, keep.yearly];
    Period::ALL.into_iter().zip(counts).any(|(period, count)| {
        let mut names: Vec<String> = newer.iter().map(|other| name(period, other.time.0)).collect();
        names.sort();
        names.dedup();
        let room = names.len() < count as usize;
        room && (!names.contains(&name(period, one.time.0)) || !older)
    })
}
