use super::*;

const DAY: i64 = MAX_STEP_NANOS;
const YEAR: i64 = 365 * DAY;

/// The state after entries at these times, the last of which forgets receipt 1.
fn forgotten_at(times: &[i64]) -> LogState {
    let mut state = LogState::default();
    let (last, before) = times.split_last().unwrap();
    for time in before {
        state.apply(Timestamp(*time), &Entry::IndexRebuilt { objects: 1 });
    }
    let disk = Scope::parse("web-1/sda").unwrap();
    state.apply(Timestamp(*last), &Entry::Forgotten { disk, sequences: [1].into() });
    state
}

fn tick(state: &mut LogState, time: i64) {
    state.apply(Timestamp(time), &Entry::IndexRebuilt { objects: 1 });
}

#[test]
fn due_after_seven_days_of_use() {
    let mut state = forgotten_at(&[0, 5 * DAY]);
    assert_eq!(state.vault_time, DAY as u64, "a gap counts as a day at most");
    for day in 1..7 {
        let now = Timestamp((5 + day) * DAY);
        assert!(state.due(now, false).is_empty(), "day {day}");
        assert_eq!(state.due(now, true), [1]);
        assert_eq!(state.undo_left(1, now), Some(((7 - day) * DAY) as u64));
        tick(&mut state, now.0);
    }
    assert!(state.due(Timestamp(12 * DAY - 1), false).is_empty());
    assert_eq!(state.due(Timestamp(12 * DAY), false), [1]);
    assert_eq!(state.undo_left(1, Timestamp(12 * DAY)), Some(0));
    assert_eq!(state.undo_left(2, Timestamp(12 * DAY)), None);
}

#[test]
fn a_clock_ten_years_ahead_costs_one_day() {
    let mut state = forgotten_at(&[0]);
    let ahead = 10 * YEAR;
    assert!(state.due(Timestamp(ahead), false).is_empty());
    assert_eq!(state.vault_now(Timestamp(ahead)), DAY as u64);
    tick(&mut state, ahead);
    assert_eq!(state.vault_time, DAY as u64);
    // It stays ahead: six more days, hour by hour.
    for hour in 1..=6 * 24 {
        assert!(state.due(Timestamp(ahead + (hour - 1) * DAY / 24), false).is_empty());
        tick(&mut state, ahead + hour * DAY / 24);
    }
    assert_eq!(state.due(Timestamp(ahead + 6 * DAY), false), [1]);
}

#[test]
fn a_clock_set_back_costs_nothing_and_stops_nothing() {
    let mut state = forgotten_at(&[10 * YEAR]);
    let back = 9 * YEAR;
    assert_eq!(state.vault_now(Timestamp(back)), 0);
    tick(&mut state, back);
    assert_eq!(state.vault_time, 0);
    // It runs on from there, and the grace with it.
    for day in 1..7 {
        tick(&mut state, back + day * DAY);
        assert!(state.due(Timestamp(back + day * DAY), false).is_empty());
    }
    assert_eq!(state.due(Timestamp(back + 7 * DAY), false), [1]);
    assert!(state.due(Timestamp(i64::MIN), false).is_empty());
    // The ends of what a clock can show.
    let mut state = forgotten_at(&[i64::MIN]);
    tick(&mut state, i64::MAX);
    tick(&mut state, i64::MIN);
    assert_eq!(state.vault_time, DAY as u64);
}

#[test]
fn undone_protected_and_held_are_not_due() {
    let late = Timestamp(0);
    let due = |entry: Entry| {
        let mut state = forgotten_at(&[0]);
        state.apply(Timestamp(0), &entry);
        let before = state.due(late, true);
        let undo = match entry {
            Entry::Protected { sequences, .. } => Entry::Protected { sequences, on: false },
            Entry::Held { on, reason, .. } => Entry::Held { on, reason, released: true },
            other => other,
        };
        state.apply(Timestamp(0), &undo);
        (before, state.due(late, true))
    };
    let held = |on| Entry::Held { on, reason: "audit".to_owned(), released: false };
    let scope = |text| held(HoldOn::Scope(Scope::parse(text).unwrap()));
    assert_eq!(due(Entry::ForgetUndone { sequences: [1].into() }), (vec![], vec![]));
    assert_eq!(due(Entry::Protected { sequences: [1].into(), on: true }), (vec![], vec![1]));
    for holds in [scope("*"), scope("web-1"), scope("web-1/sda"), held(HoldOn::Snapshot(1))] {
        assert_eq!(due(holds.clone()), (vec![], vec![1]), "{holds:?}");
    }
    for misses in [scope("web-2"), scope("web-1/sdb"), held(HoldOn::Snapshot(2))] {
        assert_eq!(due(misses.clone()), (vec![1], vec![1]), "{misses:?}");
    }
}

#[test]
fn forgotten_anew_the_time_begins_anew() {
    let mut state = forgotten_at(&[0]);
    let disk = Scope::parse("web-1/sda").unwrap();
    let again = Entry::Forgotten { disk, sequences: [1].into() };
    state.apply(Timestamp(DAY / 2), &again);
    assert_eq!(state.forgotten[&1].at, 0, "it was hidden all the time");
    state.apply(Timestamp(DAY / 2), &Entry::ForgetUndone { sequences: [1].into() });
    assert!(!state.is_forgotten(1));
    state.apply(Timestamp(DAY), &again);
    assert_eq!(state.forgotten[&1].at, DAY as u64);
}
