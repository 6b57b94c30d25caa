//! The options of `backup` that say what is not read again.

use clap::{Args, ValueEnum};

/// What is not read again, and how it is kept honest.
#[derive(Clone, Copy, Debug, Args)]
pub struct SkipArgs {
    /// Whether files whose inode, generation, size, times and place are those of the last snapshot
    /// are taken from it unread.
    #[arg(long, value_enum, default_value_t = SkipArg::Off)]
    pub skip_unchanged: SkipArg,
    /// How many of the unchanged files are read all the same, chosen at random, in percent; where
    /// one of them is not what it was, everything is read.
    #[arg(long, value_name = "PERCENT", default_value = "1", value_parser = percent)]
    pub reread_share: Share,
    /// Read everything for every Nth snapshot.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub full_every: u64,
}

/// What is not read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SkipArg {
    /// Everything is read.
    Off,
    /// Files whose metadata is that of the last snapshot.
    Metadata,
}

/// A share of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Of a million.
    pub per_million: u32,
}

fn percent(text: &str) -> Result<Share, String> {
    let share: f64 = text.parse().map_err(|_| "it is no number")?;
    if !(0.0..=100.0).contains(&share) {
        return Err("it is not from 0 to 100".into());
    }
    Ok(Share { per_million: (share * 10_000.0).round() as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read() {
        let of = |text| percent(text).map(|share| share.per_million).ok();
        assert_eq!(of("0"), Some(0));
        assert_eq!(of("1"), Some(10_000));
        assert_eq!(of("0.25"), Some(2500));
        assert_eq!(of("100"), Some(1_000_000));
        for bad in ["", "-1", "100.1", "NaN", "inf", "1%"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
