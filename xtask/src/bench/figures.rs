//! Samples, their medians, and the rows of a table.

use std::time::Duration;

use super::measure::Cost;
use super::watch::Peak;

/// One measured run.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// What it cost.
    pub(super) cost: Cost,
    /// Bytes that the store holds or gained; absent where nothing is stored.
    pub(super) stored_bytes: Option<u64>,
}

/// The medians of several runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// What was measured.
    pub(super) name: String,
    /// Wall time: median, shortest, longest.
    pub(super) wall: [Duration; 3],
    /// CPU time.
    pub(super) cpu: Duration,
    /// Peak memory of each program.
    pub(super) peaks: Vec<Peak>,
    /// Bytes that the store holds or gained.
    pub(super) stored_bytes: Option<u64>,
}

impl Row {
    /// The row of these runs; none where there are none.
    pub(super) fn of(name: &str, samples: &[Sample]) -> Option<Self> {
        let walls: Vec<Duration> = samples.iter().map(|sample| sample.cost.wall).collect();
        let wall = [median(&walls)?, *walls.iter().min()?, *walls.iter().max()?];
        let cpus: Vec<Duration> = samples.iter().map(|sample| sample.cost.cpu).collect();
        let stored: Vec<u64> = samples.iter().filter_map(|sample| sample.stored_bytes).collect();
        Some(Self {
            name: name.to_owned(),
            wall,
            cpu: median(&cpus)?,
            peaks: peaks(samples),
            stored_bytes: median(&stored),
        })
    }

    /// The median of the wall times.
    pub(super) fn wall(&self) -> Duration {
        let [median, ..] = self.wall;
        median
    }

    /// The peak memory of a program.
    pub(super) fn peak_bytes(&self, program: &str) -> Option<u64> {
        self.peaks.iter().find(|peak| peak.program == program).map(|peak| peak.bytes)
    }
}

/// The median of each program's peaks, in the order of the first run.
fn peaks(samples: &[Sample]) -> Vec<Peak> {
    let mut programs: Vec<&str> = Vec::new();
    for peak in samples.iter().flat_map(|sample| &sample.cost.peaks) {
        if !programs.contains(&peak.program.as_str()) {
            programs.push(&peak.program);
        }
    }
    let of = |program: &str| {
        let all = samples.iter().flat_map(|sample| &sample.cost.peaks);
        let bytes: Vec<u64> = all.filter(|p| p.program == program).map(|p| p.bytes).collect();
        median(&bytes).map(|bytes| Peak { program: program.to_owned(), bytes })
    };
    programs.into_iter().filter_map(of).collect()
}

/// What medians are made of.
pub(super) trait Middle: Copy + Ord {
    /// Halfway between two values.
    fn between(self, other: Self) -> Self;
}

impl Middle for Duration {
    fn between(self, other: Self) -> Self {
        (self + other) / 2
    }
}

impl Middle for u64 {
    fn between(self, other: Self) -> Self {
        self.midpoint(other)
    }
}

/// The middle one of the values, or what lies between the two middle ones.
pub(super) fn median<T: Middle>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let upper = sorted.get(sorted.len() / 2).copied()?;
    let lower = sorted.get((sorted.len() - 1) / 2).copied()?;
    Some(lower.between(upper))
}

/// One number as a multiple of another.
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    // Both are far below 2^53, and the quotient is rounded to two digits.
    #[allow(clippy::cast_precision_loss)]
    let quotient = part as f64 / whole as f64;
    quotient
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::{Row, Sample, median, ratio};
    use crate::bench::measure::Cost;
    use crate::bench::watch::Peak;

    fn sample(seconds: u64, peaks: &[(&str, u64)], stored_bytes: Option<u64>) -> Sample {
        let peaks = peaks
            .iter()
            .map(|(program, bytes)| Peak { program: (*program).to_owned(), bytes: *bytes });
        let wall = Duration::from_secs(seconds);
        Sample { cost: Cost { wall, cpu: wall * 2, peaks: peaks.collect() }, stored_bytes }
    }

    #[test]
    fn medians_are_the_middle_whatever_the_order() {
        assert_eq!(median::<u64>(&[]), None);
        assert_eq!(median(&[7_u64]), Some(7));
        assert_eq!(median(&[9_u64, 1, 5]), Some(5));
        assert_eq!(median(&[9_u64, 1, 5, 3]), Some(4));
        assert_eq!(median(&[u64::MAX, u64::MAX]), Some(u64::MAX));
        let seconds = [3, 1].map(Duration::from_secs);
        assert_eq!(median(&seconds), Some(Duration::from_secs(2)));
    }

    #[test]
    fn each_column_has_its_own_median() {
        let samples = [
            sample(9, &[("umbra", 10), ("umbra-vault", 5)], Some(100)),
            sample(1, &[("umbra", 30), ("umbra-vault", 6)], Some(120)),
            sample(5, &[("umbra", 20)], Some(110)),
        ];
        let row = Row::of("x", &samples).unwrap();
        assert_eq!(row.wall, [5, 1, 9].map(Duration::from_secs));
        assert_eq!(row.cpu, Duration::from_secs(10));
        assert_eq!(row.peak_bytes("umbra"), Some(20));
        assert_eq!(row.peak_bytes("umbra-vault"), Some(5));
        assert_eq!(row.peak_bytes("borg"), None);
        assert_eq!(row.stored_bytes, Some(110));
        assert_eq!(Row::of("x", &[]), None);
        assert_eq!(Row::of("x", &[sample(1, &[], None)]).unwrap().stored_bytes, None);
    }

    #[test]
    fn ratios_are_quotients() {
        assert!((ratio(1, 4) - 0.25).abs() < 1e-9);
        assert!(ratio(1, 0).is_infinite());
    }
}
