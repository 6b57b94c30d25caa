//! Random schedules, as many as time allows.

use crate::testing::schedules::{Kind, Stats, run};

/// Runs the schedules of these seeds, or of those that `UMBRA_TEST_SEED` names: `7`, `1000..2000`.
fn run_all(kind: Kind, ci: u64, full: u64) {
    let is_full = std::env::var_os("UMBRA_TEST_FULL").is_some();
    let seeds = match std::env::var("UMBRA_TEST_SEED") {
        Ok(named) => {
            let (from, to) = named.split_once("..").unwrap_or((named.as_str(), ""));
            let from: u64 = from.parse().unwrap();
            from..if to.is_empty() { from + 1 } else { to.parse().unwrap() }
        }
        Err(_) => 0..if is_full { full } else { ci },
    };
    let mut stats = Stats::default();
    let mut failures = Vec::new();
    for seed in seeds.clone() {
        match run(seed, kind) {
            Ok(one) => stats.add(&one),
            Err(failure) => failures.push(failure),
        }
    }
    println!("{kind:?}, seeds {seeds:?}: {stats:?}");
    for failure in &failures {
        println!("{failure}\n");
    }
    let failed: Vec<u64> = failures.iter().map(|failure| failure.seed).collect();
    assert!(failed.is_empty(), "seeds {failed:?} failed; UMBRA_TEST_SEED=n runs one again");
}

#[test]
fn nothing_promised_is_lost() {
    run_all(Kind::Crashes, 300, 2_000);
}

#[test]
fn all_harm_is_found_and_no_wrong_byte_is_given() {
    run_all(Kind::Damage, 100, 500);
}
