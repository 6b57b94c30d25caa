//! A bound on the bytes sent, or received, a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Lets bytes through at a rate, for all lanes or requests together.
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// When the next byte may go.
    free_at: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Tells whether there is a rate.
    pub(super) fn is_bounded(&self) -> bool {
        self.bytes_per_second.is_some_and(|rate| rate > 0)
    }

    /// Waits until `bytes` more may go.
    pub(super) async fn wait(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else { return };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let micros = bytes.saturating_mul(1_000_000).checked_div(rate).unwrap_or(0);
        let start = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let start = (*free_at).max(Instant::now());
            *free_at = start.checked_add(Duration::from_micros(micros)).unwrap_or(start);
            start
        };
        tokio::time::sleep_until(start).await;
    }
}
