//! The agent's end: blocking calls for plain threads over one connection that heals itself.

mod core;
mod link;
mod pace;
mod reader;
mod upload;

pub use reader::{Listed, Reader, Wanted};
pub use upload::{Ticket, Upload};

use self::core::Core;
use crate::error::{NetError, Result};
use crate::identity::Identity;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use umbra_common::wire::{
    Begin, Enroll, Enrolled, Fingerprint, OLDEST_VERSION, Token, VERSION, Welcome,
};

/// How long an orderly end may take.
const CLOSE: Duration = Duration::from_millis(500);

/// How to reach a vault, and as whom.
#[derive(Clone, Debug)]
pub struct Connect {
    /// `HOST:PORT`, tried in turn.
    pub addresses: Vec<String>,
    /// The vault's pinned key.
    pub vault: Fingerprint,
    /// The agent's key.
    pub identity: Identity,
    /// The machine that the agent believes to be; the vault refuses another name than its own
    /// (exit 12). `None` takes what the vault says.
    pub machine: Option<String>,
    /// Name and version of the program.
    pub software: String,
    /// How long the first connection is tried.
    pub connect_for: Duration,
    /// How long a lost connection is tried again before calls fail with
    /// [`NetError::Unavailable`].
    pub retry_for: Duration,
    /// Most bytes sent and not yet acknowledged as durable; they stay in memory.
    pub unacked_bytes: u64,
    /// Streams for objects, 1 to 8.
    pub lanes: u32,
    /// Most bytes of objects a second, where limited.
    pub upload_bytes_per_second: Option<u64>,
    /// Most bytes of objects a second that are received, where limited.
    pub download_bytes_per_second: Option<u64>,
}

impl Connect {
    /// Fills in the usual figures: 10 s for the first connection, 60 s for a lost one, 32 MiB
    /// unacknowledged, 4 streams, no limit.
    pub fn new(addresses: Vec<String>, vault: Fingerprint, identity: Identity) -> Self {
        Self {
            addresses,
            vault,
            identity,
            machine: None,
            software: String::new(),
            connect_for: Duration::from_secs(10),
            retry_for: Duration::from_secs(60),
            unacked_bytes: 32 << 20,
            lanes: 4,
            upload_bytes_per_second: None,
            download_bytes_per_second: None,
        }
    }

    fn addresses(&self) -> String {
        self.addresses.join(", ")
    }
}

/// What went over the network so far, all connections of a client together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of UDP payload sent.
    pub bytes_sent: u64,
    /// Bytes of UDP payload received.
    pub bytes_received: u64,
    /// Connections made, the first included.
    pub connections: u64,
}

/// A session with a vault. Clones share it. All calls block and may come from any thread that is
/// not a tokio one; a lost connection is made again inside them.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
    /// Closes the connection when the last clone, upload and reader is gone.
    _closer: Arc<Closer>,
}

impl Client {
    /// Connects and says hello.
    ///
    /// # Errors
    /// [`NetError::WrongKey`], [`NetError::Refused`] (unknown key, other machine name, no version
    /// in common), [`NetError::Unavailable`] after `connect_for`.
    pub fn connect(options: Connect) -> Result<Self> {
        let runtime = runtime()?;
        let core = Arc::new(Core::new(options, runtime.handle().clone()));
        runtime.spawn(link::keep(Arc::clone(&core)));
        let closer = Arc::new(Closer { core: Arc::clone(&core), runtime: Some(runtime) });
        let client = Self { core, _closer: closer };
        client.core.connection()?;
        Ok(client)
    }

    /// Makes the key of `identity` known to the vault of `token`; addresses and fingerprint are the
    /// token's. `machine` is the wished name; the token's own, where it has one, goes before it.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect); [`NetError::Refused`] with
    /// [`NotAuthorised`](umbra_common::wire::RefusalCode::NotAuthorised) for a token that is wrong,
    /// used up or expired.
    pub fn enroll(
        token: &Token,
        identity: &Identity,
        machine: &str,
        software: &str,
    ) -> Result<Enrolled> {
        let options = Connect::new(token.addresses.clone(), token.vault, identity.clone());
        let enroll = Enroll {
            oldest: OLDEST_VERSION,
            newest: VERSION,
            secret: token.secret,
            machine: machine.to_owned(),
            software: software.to_owned(),
        };
        let runtime = runtime()?;
        let enrolled = runtime.block_on(link::enroll(&options, enroll));
        runtime.shutdown_timeout(CLOSE);
        enrolled
    }

    /// Returns what the vault said at the last hello.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub fn welcome(&self) -> Result<Welcome> {
        self.core.lock().welcome.clone().ok_or(NetError::Closed)
    }

    /// Begins the backup of a disk. One at a time for each client.
    ///
    /// # Errors
    /// [`NetError::Refused`], [`NetError::Unavailable`]; [`NetError::Misuse`] while another is
    /// under way.
    pub fn upload(&self, begin: Begin) -> Result<Upload> {
        Upload::begin(self.clone(), begin)
    }

    /// Returns a reader of snapshots on this session.
    pub fn reader(&self) -> Reader {
        Reader::new(self.clone())
    }

    /// Returns what went over the network so far.
    pub fn traffic(&self) -> Traffic {
        self.core.traffic()
    }

    /// Cuts the connection: what is under way is lost in both directions, and the next call, or an
    /// upload under way, makes a new one. For tests.
    pub fn cut_connection(&self) {
        self.core.cut();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("vault", &self.core.options.vault).finish_non_exhaustive()
    }
}

struct Closer {
    core: Arc<Core>,
    runtime: Option<Runtime>,
}

impl Drop for Closer {
    fn drop(&mut self) {
        let endpoint = self.core.close();
        let Some(runtime) = self.runtime.take() else { return };
        if let Some(endpoint) = endpoint {
            // So that the vault hears of it now and not after the idle time.
            runtime.block_on(async {
                let _ = tokio::time::timeout(CLOSE, endpoint.wait_idle()).await;
            });
        }
        runtime.shutdown_timeout(CLOSE);
    }
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("umbra-net")
        .enable_all()
        .build()
        .map_err(|source| NetError::Io { what: "cannot start network threads".to_owned(), source })
}

#[cfg(test)]
mod tests;
