//! Connections whose peer has not said hello yet, by where they come from.

use super::connection::guard;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// Strangers from one network beyond which it must show that its address is its own.
const CALM: usize = 8;
/// Most strangers from one network.
pub(super) const MAX: usize = 64;

/// Counts strangers, so that one network cannot take every connection that there is.
#[derive(Clone, Default)]
pub(super) struct Strangers {
    by_network: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// What is to become of a stranger.
pub(super) enum Entry {
    /// May come in, and counts until this is dropped.
    Enter(Stranger),
    /// Must show first that its address is its own.
    Retry,
    /// There are too many of them.
    Refuse,
}

/// One stranger.
pub(super) struct Stranger {
    network: IpAddr,
    strangers: Strangers,
}

impl Strangers {
    /// Decides about a stranger from `address`, which has been `validated` or may be forged.
    pub(super) fn enter(&self, address: IpAddr, validated: bool) -> Entry {
        let network = network(address);
        let mut by_network = guard(&self.by_network);
        let count = by_network.get(&network).copied().unwrap_or_default();
        if count >= CALM && !validated {
            return Entry::Retry;
        }
        if count >= MAX {
            return Entry::Refuse;
        }
        by_network.insert(network, count.saturating_add(1));
        Entry::Enter(Stranger { network, strangers: self.clone() })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut by_network = guard(&self.strangers.by_network);
        if let Some(count) = by_network.get_mut(&self.network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_network.remove(&self.network);
            }
        }
    }
}

/// Whoever has an IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6((six.to_bits() >> 64 << 64).into()),
        four => four,
    }
}
