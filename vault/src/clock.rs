//! The vault's clock and randomness: the one place where they are read.

use crate::error::{Result, VaultError};
use std::time::{SystemTime, UNIX_EPOCH};
use umbra_store::Timestamp;

/// Reads the clock. Before 1970 it is 1970.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Takes `N` bytes of the system's randomness.
///
/// # Errors
/// [`VaultError::Io`] where the system gives none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| VaultError::Io {
        what: "cannot get random bytes from the system".to_owned(),
        source: std::io::Error::other(error),
    })?;
    Ok(bytes)
}

/// Prints a time as RFC 3339 with nanoseconds, in UTC.
pub fn rfc3339(time: Timestamp) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(time.0)) {
        Ok(time) => format!("{time:.9}"),
        Err(_) => format!("{} ns", time.0),
    }
}
