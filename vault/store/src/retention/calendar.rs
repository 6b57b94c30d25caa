//! Hours, days, ISO weeks, months and years of UTC, as numbers that are equal within one of them.

use crate::ids::Timestamp;
use crate::retention::policy::Period;

const HOUR_NANOS: i64 = 3_600 * 1_000_000_000;
const DAY_NANOS: i64 = 24 * HOUR_NANOS;

/// Days of 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;

impl Period {
    /// Returns the number of the period that `time` lies in; later ones have larger numbers.
    pub(super) fn number(self, time: Timestamp) -> i64 {
        let day = time.0.div_euclid(DAY_NANOS);
        let (year, month) = year_and_month(day);
        match self {
            Self::Hour => time.0.div_euclid(HOUR_NANOS),
            Self::Day => day,
            // ISO 8601: a week begins on Monday; 1970-01-01 was a Thursday.
            Self::Week => day.saturating_add(3).div_euclid(7),
            Self::Month => year.saturating_mul(12).saturating_add(month),
            Self::Year => year,
        }
    }
}

/// Returns year and month (from 0) of a day, counted from 1970-01-01 in the Gregorian calendar.
///
/// The arithmetic of "chrono-Compatible Low-Level Date Algorithms" (H. Hinnant), `civil_from_days`:
/// years there begin in March, so that the day that some years lack is the last one. Nothing
/// overflows: 64 bits of nanoseconds are 107 000 days either way.
fn year_and_month(day: i64) -> (i64, i64) {
    let since_march_0000 = day + 719_468;
    let era = since_march_0000.div_euclid(ERA_DAYS);
    let day_of_era = since_march_0000.rem_euclid(ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let next_year = i64::from(month_from_march >= 10);
    (era * 400 + year_of_era + next_year, (month_from_march + 2) % 12)
}
