//! The vault's end: accepts connections and answers them from a [`Backend`].
//!
//! Sockets are tokio's; everything that may block (looking up, storing, reading) runs on blocking
//! threads. Each object stream takes one object at a time and each answer waits for its stream, so
//! what a connection can hold in memory is bounded; object bodies under way upwards also count
//! against one budget for the whole server, of which no key has more than a part. A peer that does
//! not read what it is told is told no more, and keeps no thread waiting.

mod answers;
mod backend;
mod connection;
mod control;
mod lanes;
mod requests;
mod share;
mod strangers;

pub use backend::{Backend, Backup, Committing, Kept, OnSettled, Settled, Taken, Visitor};
pub use umbra_common::wire::session::Peer;

use self::strangers::{Entry, Strangers};
use crate::error::{NetError, Result};
use crate::identity::Identity;
use crate::{socket, tls};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use umbra_common::wire::session::VaultFacts;
use umbra_common::wire::{Fingerprint, LimitsOffered, MAX_ASK_REFERENCES};

/// How long an orderly end may take.
const CLOSE: Duration = Duration::from_secs(1);
/// How long blocking work may take after that.
const FINISH: Duration = Duration::from_secs(30);
/// Connections beyond which a new peer must show first that its address is its own.
const CALM_CONNECTIONS: usize = 64;
/// Most connections at a time.
const MAX_CONNECTIONS: usize = 1024;
/// Threads that read for requests at a time; the others are for backups and greetings.
const READERS: usize = 64;
/// Most threads for blocking work.
const BLOCKING_THREADS: usize = 256;

/// What a server is made of.
#[derive(Clone, Debug)]
pub struct Serve {
    /// The vault's key.
    pub identity: Identity,
    /// Where to listen (UDP); port 0 takes a free one.
    pub listen: SocketAddr,
    /// Names the store.
    pub store: [u8; 16],
    /// Name and version of the program.
    pub software: String,
    /// Most bytes of objects that have arrived and are not yet stored, all connections together.
    pub budget_bytes: u64,
}

/// A server that runs until it is stopped or dropped.
pub struct Server {
    runtime: Option<Runtime>,
    endpoint: quinn::Endpoint,
    fingerprint: Fingerprint,
    address: SocketAddr,
}

/// What all connections share.
struct Shared {
    backend: Arc<dyn Backend>,
    facts: VaultFacts,
    /// In KiB.
    budget: Arc<Semaphore>,
    /// Threads that may read for requests.
    readers: Arc<Semaphore>,
    shares: share::Shares,
}

impl Server {
    /// Binds the socket and begins to answer.
    ///
    /// # Errors
    /// [`NetError::Io`] where the address cannot be had, [`NetError::Key`].
    pub fn start(options: Serve, backend: Arc<dyn Backend>) -> Result<Self> {
        let config = tls::server(&options.identity)?;
        let io = |what: &str, source| NetError::Io { what: what.to_owned(), source };
        let socket = socket::bind(options.listen)
            .map_err(|error| io(&format!("cannot listen on UDP {}", options.listen), error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("umbra-net")
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()
            .map_err(|error| io("cannot start network threads", error))?;
        let endpoint = {
            let _inside = runtime.enter();
            quinn::Endpoint::new(
                tls::endpoint(&options.identity),
                Some(config),
                socket,
                Arc::new(quinn::TokioRuntime),
            )
            .map_err(|error| io("cannot set the UDP socket up", error))?
        };
        let address = endpoint.local_addr().map_err(|error| io("cannot learn the port", error))?;
        let limits = LimitsOffered {
            ask_references: u32::try_from(MAX_ASK_REFERENCES).unwrap_or(u32::MAX),
            lanes: tls::MAX_LANES,
            requests: tls::MAX_REQUESTS,
        };
        let budget = usize::try_from(options.budget_bytes >> 10).unwrap_or(Semaphore::MAX_PERMITS);
        let budget = budget.clamp(4096, Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            backend,
            facts: VaultFacts { store: options.store, software: options.software, limits },
            budget: Arc::new(Semaphore::new(budget)),
            readers: Arc::new(Semaphore::new(READERS)),
            shares: share::Shares::new(budget),
        });
        runtime.spawn(accept(endpoint.clone(), shared));
        let fingerprint = options.identity.fingerprint();
        Ok(Self { runtime: Some(runtime), endpoint, fingerprint, address })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Names its key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Closes all connections, waits for blocking work that is under way, and ends.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        self.endpoint.close(1_u32.into(), b"the vault is stopping");
        let endpoint = self.endpoint.clone();
        runtime.block_on(async {
            let _ = tokio::time::timeout(CLOSE, endpoint.wait_idle()).await;
        });
        runtime.shutdown_timeout(FINISH);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn accept(endpoint: quinn::Endpoint, shared: Arc<Shared>) {
    let strangers = Strangers::default();
    while let Some(incoming) = endpoint.accept().await {
        let open = endpoint.open_connections();
        let validated = incoming.remote_address_validated();
        let entry = match open {
            _ if open > MAX_CONNECTIONS => Entry::Refuse,
            _ if open > CALM_CONNECTIONS && !validated => Entry::Retry,
            _ => strangers.enter(incoming.remote_address().ip(), validated),
        };
        match entry {
            Entry::Enter(stranger) => {
                tokio::spawn(connection::serve(incoming, stranger, Arc::clone(&shared)));
            }
            // Whoever gives a false address never hears of the Retry and costs nothing more. It
            // fails only where the address is validated, which was asked just now.
            Entry::Retry => drop(incoming.retry()),
            Entry::Refuse => incoming.refuse(),
        }
    }
}

#[cfg(test)]
mod tests;
