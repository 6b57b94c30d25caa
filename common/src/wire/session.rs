//! The session as two state machines without sockets, clock or threads.
//!
//! [`AgentSession`] keeps what the vault has not yet acknowledged, and after a lost connection
//! asks for it again and resends what is really missing. [`VaultSession`] checks that each message
//! is allowed where it stands, gathers acknowledgements and remembers which nodes it has served.
//! The driver moves messages: everything polled goes out in order on its stream, everything that
//! comes in is handed to `handle`. Nothing here relies on the order between two streams.

mod agent;
mod ranges;
mod served;
mod vault;
mod window;

#[cfg(test)]
mod tests;

pub use agent::{AgentEvent, AgentSession};
pub use ranges::Ranges;
pub use served::Served;
pub use vault::{Arrival, Peer, VaultAction, VaultFacts, VaultSession};

use super::message::{Refusal, RefusalCode};

/// A message that the protocol does not allow where it stands; the connection ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Violation {
    /// What is not allowed.
    pub reason: &'static str,
}

impl Violation {
    pub(super) fn new(reason: &'static str) -> Self {
        Self { reason }
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Self { code: RefusalCode::Usage, text: violation.reason.to_owned() }
    }
}
