use proptest::prelude::*;

use super::*;
use crate::ids::{MachineId, Timestamp};

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;
/// Later than every snapshot of these tests.
const NOW: Timestamp = Timestamp(i64::MAX);

mod reference;

/// The time of a day and hour, counted from 1970-01-01 month by month.
fn at(year: i64, month: i64, day: i64, hour: i64) -> Timestamp {
    let mut days = 0;
    let mut date = (1970, 1);
    while date != (year, month) {
        days += reference::days_of_month(date.0, date.1);
        date = if date.1 == 12 { (date.0 + 1, 1) } else { (date.0, date.1 + 1) };
    }
    Timestamp((days + day - 1) * DAY + hour * HOUR)
}

fn snapshot(sequence: u64, time: Timestamp) -> Candidate {
    Candidate {
        sequence,
        time,
        machine: MachineId([1; 16]),
        disk: Scope::parse("web-1/sda").unwrap(),
        tags: Vec::new(),
        protected: false,
        held: None,
    }
}

fn snapshots(times: &[Timestamp]) -> Vec<Candidate> {
    (1..).zip(times).map(|(sequence, time)| snapshot(sequence, *time)).collect()
}

fn policy(scope: &str, keep: Keep) -> Policy {
    Policy { rules: [(Scope::parse(scope).unwrap(), keep)].into(), ..Policy::default() }
}

/// The numbers of what is kept, and why.
fn kept(policy: &Policy, snapshots: &[Candidate]) -> Vec<(u64, String)> {
    let verdicts = policy.decide(snapshots, NOW);
    assert_eq!(verdicts.len(), snapshots.len());
    let kept = verdicts.iter().filter(|verdict| verdict.keeps());
    kept.map(|verdict| {
        let reasons: Vec<String> = verdict.reasons.iter().map(Reason::to_string).collect();
        (verdict.sequence, reasons.join(", "))
    })
    .collect()
}

fn numbers(policy: &Policy, snapshots: &[Candidate]) -> Vec<u64> {
    kept(policy, snapshots).into_iter().map(|(sequence, _)| sequence).collect()
}

#[test]
fn without_a_rule_everything_is_kept() {
    let all = snapshots(&[at(2020, 1, 1, 0), at(2026, 1, 1, 0)]);
    assert_eq!(numbers(&Policy::default(), &all), [1, 2]);
    assert_eq!(numbers(&policy("*", Keep::default()), &all), [1, 2]);
    assert_eq!(numbers(&policy("web-2", Keep { last: 1, ..Keep::default() }), &all), [1, 2]);
}

#[test]
fn the_newest_is_kept_whatever_the_rules_say() {
    let all = snapshots(&[at(2026, 1, 1, 0), at(2026, 1, 2, 0)]);
    let tags = Keep { tags: ["gold".to_owned()].into(), ..Keep::default() };
    assert_eq!(kept(&policy("*", tags), &all), [(2, "newest of its disk".to_owned())]);
}

#[test]
fn days_weeks_and_months() {
    // Two a day over the turn of a year: Monday 2025-12-29 to Sunday 2026-01-04 is one ISO week.
    let days = [(2025, 12, 28), (2025, 12, 29), (2025, 12, 31), (2026, 1, 1), (2026, 1, 4)];
    let days = days.into_iter().chain([(2026, 1, 5)]);
    let times: Vec<Timestamp> =
        days.flat_map(|(y, m, d)| [at(y, m, d, 6), at(y, m, d, 23)]).collect();
    let all = snapshots(&times);
    let keep = Keep { daily: 2, ..Keep::default() };
    let daily = [(10, "daily 2/2".to_owned()), (12, "daily 1/2".to_owned())];
    assert_eq!(kept(&policy("*", keep), &all), daily);
    let keep = Keep { weekly: 3, ..Keep::default() };
    assert_eq!(numbers(&policy("*", keep), &all), [2, 10, 12]);
    let keep = Keep { monthly: 2, ..Keep::default() };
    assert_eq!(numbers(&policy("*", keep), &all), [6, 12]);
    let keep = Keep { yearly: 2, ..Keep::default() };
    assert_eq!(numbers(&policy("*", keep), &all), [6, 12]);
    let keep = Keep { hourly: 3, last: 1, ..Keep::default() };
    assert_eq!(numbers(&policy("*", keep), &all), [10, 11, 12]);
    let keep = Keep { last: 2, daily: 1, ..Keep::default() };
    let both = [(11, "last 2/2".to_owned()), (12, "last 1/2, daily 1/1".to_owned())];
    assert_eq!(kept(&policy("*", keep), &all), both);
}

#[test]
fn the_oldest_stays_until_there_are_enough() {
    let times: Vec<Timestamp> = (1..=10).map(|day| at(2026, 3, day, 2)).collect();
    let keep = Keep { daily: 2, monthly: 3, ..Keep::default() };
    let found = kept(&policy("*", keep), &snapshots(&times));
    let expected = [(1, "oldest monthly"), (9, "daily 2/2"), (10, "daily 1/2, monthly 1/3")];
    assert_eq!(found, expected.map(|(number, why)| (number, why.to_owned())));
}

#[test]
fn within_counts_from_the_newest() {
    // The newest is years old: nothing has happened since, so nothing expires.
    let all = snapshots(&[at(2010, 5, 1, 0), at(2010, 5, 2, 0), at(2010, 5, 15, 0)]);
    let keep = Keep { within_seconds: 13 * 86_400, ..Keep::default() };
    let found = kept(&policy("*", keep), &all);
    assert_eq!(found, [(2, "within 13d".to_owned()), (3, "within 13d".to_owned())]);
}

#[test]
fn a_wrong_clock_expires_nothing_but_what_it_dated() {
    let now = at(2026, 3, 11, 0);
    let good: Vec<Timestamp> = (1..=10).map(|day| at(2026, 3, day, 2)).collect();
    let keep = Keep { within_seconds: 5 * 86_400, ..Keep::default() };
    let rule = policy("*", keep);
    let kept = |times: &[Timestamp], now| {
        let verdicts = rule.decide(&snapshots(times), now);
        verdicts.iter().filter(|verdict| verdict.keeps()).count()
    };
    assert_eq!(kept(&good, now), 6);
    // Today's clock, wrong by years, changes nothing, or keeps more.
    assert_eq!(kept(&good, at(2036, 3, 11, 0)), 6);
    assert_eq!(kept(&good, at(2025, 3, 11, 0)), 10);
    // The last backup was dated ten years ahead: ages are not known, everything stays.
    let mut ahead = good.clone();
    ahead[9] = at(2036, 3, 10, 2);
    assert_eq!(kept(&ahead, now), 10);
    // One in the middle, ahead or behind: the others are as they were.
    let mut middle = good.clone();
    middle[7] = at(2036, 3, 8, 2);
    assert_eq!(kept(&middle, now), 6);
    middle[7] = at(1970, 1, 1, 0);
    assert_eq!(kept(&middle, now), 5);
    // The newest is dated 1970: everything is younger than five days before that.
    let mut behind = good;
    behind[9] = at(1970, 1, 1, 0);
    assert_eq!(kept(&behind, now), 10);
    // A clock that jumps to and fro: each day counts once.
    let flapping: Vec<Timestamp> =
        (0..10).map(|n| if n % 2 == 0 { at(2026, 3, 1, n) } else { at(2030, 3, 1, n) }).collect();
    let daily = policy("*", Keep { daily: 3, ..Keep::default() });
    assert_eq!(numbers(&daily, &snapshots(&flapping)), [1, 9, 10]);
}

#[test]
fn tags_protection_and_holds_keep() {
    let mut all = snapshots(&[at(2026, 1, 1, 0); 5]);
    all[0].tags = vec!["nightly".to_owned(), "gold".to_owned()];
    all[1].protected = true;
    all[2].held = Some("court".to_owned());
    let tags = ["gold".to_owned()].into();
    let rule = policy("*", Keep { last: 1, tags, ..Keep::default() });
    let expected = [(1, "tag gold"), (2, "protected"), (3, "held: court"), (5, "last 1/1")];
    assert_eq!(kept(&rule, &all), expected.map(|(number, why)| (number, why.to_owned())));
}

#[test]
fn each_disk_by_itself_and_the_narrowest_rule_counts() {
    let mut all = Vec::new();
    for (number, disk) in (1..).zip(["a/sda", "a/sdb", "b/sda", "c/sda"].repeat(4)) {
        let disk = Scope::parse(disk).unwrap();
        let id = disk.machine().unwrap().as_bytes()[0];
        let machine = MachineId([id; 16]);
        all.push(Candidate { machine, disk, ..snapshot(number, at(2026, 1, 1, 0)) });
    }
    let rules = [("*", 1), ("a", 2), ("a/sdb", 3), ("c", 0)];
    let rules =
        rules.map(|(scope, last)| (Scope::parse(scope).unwrap(), Keep { last, ..Keep::default() }));
    let rule = Policy { rules: rules.into(), ..Policy::default() };
    // c has a rule that keeps everything.
    assert_eq!(numbers(&rule, &all), [4, 6, 8, 9, 10, 12, 13, 14, 15, 16]);
    // A machine of another id with the same names is another machine.
    let mut other = all.clone();
    other[13].machine = MachineId([9; 16]);
    assert!(numbers(&rule, &other).contains(&2));
}

#[test]
fn scopes() {
    for good in ["*", "web-1", "web-1/sda", "A.b_c/9"] {
        assert_eq!(Scope::parse(good).unwrap().to_string(), good);
    }
    for bad in ["", "/", "/sda", "web-1/", "a/b/c", "*/sda", "a b", &"n".repeat(65)] {
        assert_eq!(Scope::parse(bad), None, "{bad}");
    }
    let scope = |text| Scope::parse(text).unwrap();
    assert!(Scope::ALL.covers(&scope("a/x")) && scope("a").covers(&scope("a/x")));
    assert!(scope("a/x").covers(&scope("a/x")) && !scope("a/x").covers(&scope("a")));
    assert!(!scope("a").covers(&scope("b/x")) && !scope("a").covers(&Scope::ALL));
}

fn keeps() -> impl Strategy<Value = Keep> {
    let count = || prop_oneof![2 => Just(0u32), 3 => 1u32..5, 1 => Just(u32::MAX)];
    let within = prop_oneof![Just(0u64), 1u64..40 * 86_400, Just(MAX_SECONDS)];
    let tags = prop::collection::btree_set("[ab]", 0..2);
    (count(), count(), count(), count(), count(), count(), within, tags).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly, within_seconds, tags)| Keep {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within_seconds,
            tags,
        },
    )
}

/// Histories: mostly forward, in steps from minutes to months, at times a clock that jumps.
fn histories() -> impl Strategy<Value = Vec<Candidate>> {
    let step = prop_oneof![
        4 => 0i64..3 * HOUR,
        4 => 0i64..3 * DAY,
        2 => 0i64..60 * DAY,
        1 => -400 * DAY..4_000 * DAY,
    ];
    let one = (step, "[ab]?", prop::bool::weighted(0.05), prop::bool::weighted(0.05), 0u8..2);
    (-1_000i64..30_000, prop::collection::vec(one, 0..40)).prop_map(|(start, list)| {
        let mut time = start * DAY;
        let mut sequence = 0;
        let mut found = Vec::new();
        for (step, tag, protected, held, disk) in list {
            time += step;
            sequence += 1 + u64::from(step % 3 == 0);
            found.push(Candidate {
                disk: Scope::parse(["m/x", "m/y"][usize::from(disk)]).unwrap(),
                tags: Some(tag).into_iter().filter(|tag| !tag.is_empty()).collect(),
                protected,
                held: held.then(String::new),
                ..snapshot(sequence, Timestamp(time))
            });
        }
        found
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn as_the_reference_decides(keep in keeps(), history in histories(), ahead in -5i64..5) {
        let newest = history.iter().map(|one| one.time.0).max().unwrap_or_default();
        let now = Timestamp(newest + ahead * DAY / 2);
        let rule = policy("*", keep.clone());
        let kept = |rule: &Policy, list: &[Candidate]| -> Vec<u64> {
            let verdicts = rule.decide(list, now).into_iter();
            verdicts.filter(Verdict::keeps).map(|verdict| verdict.sequence).collect()
        };
        let found = kept(&rule, &history);
        prop_assert_eq!(&found, &reference::kept(&keep, &history, now));
        // In whatever order they come.
        let backwards: Vec<Candidate> = history.iter().rev().cloned().collect();
        prop_assert_eq!(&found, &kept(&rule, &backwards));
        // What is left is kept by the same policy: it can be applied again and again.
        let left = |one: &&Candidate| found.contains(&one.sequence);
        let left: Vec<Candidate> = history.iter().filter(left).cloned().collect();
        prop_assert_eq!(&found, &kept(&rule, &left));
        // No disk is ever emptied.
        for name in ["m/x", "m/y"] {
            let of_disk = |one: &&Candidate| one.disk.to_string() == name;
            let newest = history.iter().rfind(of_disk);
            prop_assert!(newest.is_none_or(|newest| found.contains(&newest.sequence)));
        }
        // A later clock does not make anything expire.
        let later = rule.decide(&history, NOW);
        let earlier = rule.decide(&history, Timestamp(i64::MIN));
        for (later, earlier) in later.iter().zip(&earlier) {
            prop_assert!(!later.keeps() || earlier.keeps());
        }
    }

    #[test]
    fn periods_are_those_of_the_reference(time in any::<i64>()) {
        let number = |period: Period, time| period.number(Timestamp(time));
        for step in [0, 1, SECOND, HOUR, DAY, 6 * DAY, 27 * DAY, 300 * DAY] {
            let other = time.saturating_add(step);
            for period in Period::ALL {
                let same = number(period, time) == number(period, other);
                let expected = reference::name(period, time) == reference::name(period, other);
                prop_assert_eq!(same, expected, "{:?} {} {}", period, time, other);
                prop_assert!(number(period, time) <= number(period, other));
            }
        }
    }
}
