//! The agent's end: blocking calls for plain threads over one connection that heals itself.

use crate::error::{NetError, Result};
use crate::identity::Identity;
use std::time::Duration;
use umbra_common::wire::{
    Begin, Begun, Commit, Enrolled, Fingerprint, List, ListEntry, Object, Plain, Token, Welcome,
};
use umbra_common::{ObjectId, Reference};

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
    /// Streams for objects.
    pub lanes: u32,
    /// Most bytes a second sent, where limited.
    pub upload_bytes_per_second: Option<u64>,
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
        }
    }
}

/// What went over the network so far, all connections of a client together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of UDP payload sent.
    pub bytes_sent: u64,
    /// Bytes of UDP payload received.
    pub bytes_received: u64,
    /// Connections beyond the first.
    pub reconnects: u64,
}

/// A session with a vault. Clones share it. All calls block and may come from any thread that is
/// not a tokio one; a lost connection is made again inside them.
#[derive(Clone)]
pub struct Client {}

impl Client {
    /// Connects and says hello.
    ///
    /// # Errors
    /// [`NetError::WrongKey`], [`NetError::Refused`] (unknown key, other machine name, no version
    /// in common), [`NetError::Unavailable`] after `connect_for`.
    pub fn connect(options: Connect) -> Result<Self> {
        let _ = options;
        Err(NetError::Closed)
    }

    /// Makes the key of `options.identity` known to the vault of `token`; addresses and
    /// fingerprint are the token's. `machine` is the wished name.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect); [`NetError::Refused`] with
    /// [`NotAuthorised`](umbra_common::wire::RefusalCode::NotAuthorised) for a token that is wrong, used up or expired.
    pub fn enroll(
        token: &Token,
        identity: &Identity,
        machine: &str,
        software: &str,
    ) -> Result<Enrolled> {
        let _ = (token, identity, machine, software);
        Err(NetError::Closed)
    }

    /// Returns what the vault said at the last hello.
    pub fn welcome(&self) -> Welcome {
        unreachable!("no client was made")
    }

    /// Begins the backup of a disk. One at a time for each client.
    ///
    /// # Errors
    /// [`NetError::Refused`], [`NetError::Unavailable`].
    pub fn upload(&self, begin: Begin) -> Result<Upload> {
        let _ = begin;
        Err(NetError::Closed)
    }

    /// Returns a reader of snapshots on this session.
    pub fn reader(&self) -> Reader {
        Reader {}
    }

    /// Returns what went over the network so far.
    pub fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    /// Cuts the connection as a broken network would, without a word to the vault. For tests.
    pub fn cut_connection(&self) {}
}

/// A question under way. Dropping it leaves the answer unread.
pub struct Ticket {}

impl Ticket {
    /// Waits for the answer: one per reference asked, `true` where the vault has the object.
    ///
    /// # Errors
    /// Those of [`Upload::send`].
    pub fn wait(self) -> Result<Vec<bool>> {
        Err(NetError::Closed)
    }
}

/// A backup of one disk under way. Shared by reference among the agent's threads. Dropped without
/// a commit, it is given up.
pub struct Upload {}

impl Upload {
    /// Returns the vault's answer to the [`Begin`]: is the base pinned, what is the newest snapshot.
    pub fn begun(&self) -> Begun {
        unreachable!("no upload was made")
    }

    /// Asks which of `references` (any number; cut into batches) the vault has. Returns at once,
    /// so that many questions can be under way.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn ask(&self, references: Vec<Reference>) -> Result<Ticket> {
        let _ = references;
        Err(NetError::Closed)
    }

    /// Sends an object, once however often it is given while it is unacknowledged. Blocks while
    /// the window of unacknowledged bytes is full. A node goes out only when all objects in the
    /// window that it refers to are durable: give children first.
    ///
    /// # Errors
    /// The first error of the backup, whatever thread sees it first: [`NetError::Unavailable`],
    /// [`NetError::Missing`], [`NetError::Bad`], [`NetError::BaseGone`], [`NetError::Refused`];
    /// later calls get [`NetError::Earlier`].
    pub fn send(&self, object: Object) -> Result<()> {
        let _ = object;
        Err(NetError::Closed)
    }

    /// Waits until everything sent so far is durable in the vault.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn flush(&self) -> Result<()> {
        Err(NetError::Closed)
    }

    /// Commits a manifest that was sent, and returns the receipt as the vault stores it. Waits for
    /// everything sent before.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn commit(&self, commit: Commit) -> Result<Vec<u8>> {
        let _ = commit;
        Err(NetError::Closed)
    }

    /// Returns the bytes of object frames put on streams so far, repeated ones included.
    pub fn object_bytes_sent(&self) -> u64 {
        0
    }
}

/// Reads snapshots. Clones share the session; every object is proven against its id before it is
/// handed over. Calls from several threads run at the same time.
#[derive(Clone)]
pub struct Reader {}

impl Reader {
    /// Lists snapshots, oldest first, and hands over each as it comes.
    ///
    /// # Errors
    /// [`NetError::Refused`], [`NetError::Unavailable`].
    pub fn list(&self, list: &List) -> Result<Vec<ListEntry>> {
        let _ = list;
        Err(NetError::Closed)
    }

    /// Fetches a manifest, from which everything else is reached.
    ///
    /// # Errors
    /// [`NetError::Refused`] ([`NotFound`](umbra_common::wire::RefusalCode::NotFound) where there is no such
    /// snapshot for this session), [`NetError::Unavailable`], [`NetError::Damaged`].
    pub fn open(&self, snapshot: ObjectId) -> Result<Plain> {
        let _ = snapshot;
        Err(NetError::Closed)
    }

    /// Fetches objects that nodes refer to, in the order of the vault's packs, which is not that of
    /// the items. `want` says for each item what the node's list names, in the order of
    /// `numbers`: each object is proven to be that one.
    ///
    /// `each` gets (index of the item, reference number, object, or why this one cannot be had);
    /// an error it returns ends the read.
    ///
    /// # Errors
    /// [`NetError::Refused`], [`NetError::Unavailable`], and the errors of `each`.
    pub fn read<E: From<NetError>>(
        &self,
        items: &[Wanted],
        each: &mut dyn FnMut(usize, u32, Result<Plain>) -> Result<(), E>,
    ) -> Result<(), E> {
        let _ = (items, each);
        Err(NetError::Closed.into())
    }
}

/// Objects wanted of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// A node that was read through this reader before.
    pub node: Reference,
    /// (position in the node's reference list, what stands there).
    pub objects: Vec<(u32, Reference)>,
}
