//! One connection.

use super::backend::{Backup, Kept, Visitor};
use super::share::{MAX_CONNECTIONS, Share};
use super::strangers::Stranger;
use super::{Shared, control, lanes, requests};
use crate::error::{NetError, Result};
use crate::frames::lost;
use crate::tls;
use rustls::pki_types::CertificateDer;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use umbra_common::wire::session::{Peer, Served, VaultSession};
use umbra_common::wire::{Fingerprint, Refusal, RefusalCode};
use umbra_common::{ObjectId, Reference};

/// How long the TLS handshake may take, and then the first message.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most bytes of the first message.
const MAX_GREETING_BYTES: usize = 16 << 10;
/// Reference lists kept for the next request.
const CACHED_LISTS: usize = 16;
/// Requests of one connection that read at a time.
const READERS: usize = 8;
/// Messages to the agent that may wait until it reads; then nothing more is taken from it.
const MAX_WAITING: usize = 256;

/// What the tasks of one connection share.
pub(super) struct Conversation {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Fingerprint,
    pub(super) peer: Peer,
    session: Mutex<VaultSession>,
    /// The session may have something to say.
    pub(super) pump: Notify,
    /// The agent has read something.
    pub(super) room: Notify,
    pub(super) share: Arc<Share>,
    /// Threads that may read for this connection.
    pub(super) readers: Arc<Semaphore>,
    pub(super) served: Mutex<Served>,
    /// What keeps the snapshots that were opened.
    pub(super) opened: Mutex<HashMap<ObjectId, Kept>>,
    pub(super) backup: Mutex<Option<Arc<dyn Backup>>>,
    pub(super) visitor: Mutex<Option<Visitor>>,
    lists: Mutex<VecDeque<(Reference, Arc<Vec<Reference>>)>>,
}

impl Conversation {
    pub(super) fn session(&self) -> MutexGuard<'_, VaultSession> {
        guard(&self.session)
    }

    /// Refuses what is under way and ends the session.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.session().refuse(refusal);
        self.pump.notify_waiters();
    }

    /// Waits until the agent has read most of what it was told. Nothing is taken from an agent that
    /// asks and does not listen: its answers would pile up here.
    pub(super) async fn listened(&self) {
        loop {
            let notified = self.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.session().waiting() <= MAX_WAITING {
                return;
            }
            notified.await;
        }
    }

    /// Returns the reference list of a node, from the last few or from the store. Blocks.
    pub(super) fn references(&self, node: &Reference) -> Result<Arc<Vec<Reference>>, Refusal> {
        let cached = guard(&self.lists).iter().find(|(of, _)| of == node).map(|(_, l)| l.clone());
        if let Some(list) = cached {
            return Ok(list);
        }
        let list = Arc::new(self.shared.backend.references(node)?);
        let mut lists = guard(&self.lists);
        if lists.len() >= CACHED_LISTS {
            lists.pop_front();
        }
        lists.push_back((*node, Arc::clone(&list)));
        Ok(list)
    }
}

/// Locks; a panic of another task while it held the lock leaves nothing half done that matters.
pub(super) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs blocking work off the network threads. A panic in it ends the backup, not the vault.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(Refusal {
            code: RefusalCode::Failed,
            text: "the vault failed inside; its log says more".to_owned(),
        })
    })
}

/// Serves a connection until it ends. How it ends is the peer's business: it knows why.
pub(super) async fn serve(incoming: quinn::Incoming, stranger: Stranger, shared: Arc<Shared>) {
    let Ok(Ok(connection)) = timeout(HANDSHAKE, incoming).await else { return };
    let Some(key) = peer_key(&connection) else { return };
    let backend = Arc::clone(&shared.backend);
    let Ok(peer) = blocking(move || Ok(backend.identify(&key))).await else { return };
    let share = shared.shares.of(key);
    let place = Arc::clone(&share.connections).try_acquire_owned();
    let mut session = VaultSession::new(shared.facts.clone(), peer.clone());
    if place.is_err() {
        let text = format!(
            "this key has {MAX_CONNECTIONS} connections already; wait for its other commands to end"
        );
        session.refuse(Refusal { code: RefusalCode::Busy, text });
    }
    let conversation = Arc::new(Conversation {
        session: Mutex::new(session),
        shared,
        key,
        peer,
        pump: Notify::new(),
        room: Notify::new(),
        share,
        readers: Arc::new(Semaphore::new(READERS)),
        served: Mutex::default(),
        opened: Mutex::default(),
        backup: Mutex::default(),
        visitor: Mutex::default(),
        lists: Mutex::default(),
    });
    let _ = converse(&conversation, &connection, stranger).await;
    connection.close(0_u32.into(), b"");
    let backup = guard(&conversation.backup).take();
    if let Some(backup) = backup {
        let _ = blocking(move || {
            backup.detach();
            Ok(())
        })
        .await;
    }
}

async fn converse(
    conversation: &Arc<Conversation>,
    connection: &quinn::Connection,
    stranger: Stranger,
) -> Result<()> {
    let opened = timeout(HANDSHAKE, connection.accept_bi()).await.map_err(lost)?;
    let (send, mut receive) = opened.map_err(lost)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(control::write(Arc::clone(conversation), send));
    let first = control::read_one(conversation, &mut receive, MAX_GREETING_BYTES);
    let goes_on = timeout(HANDSHAKE, first).await.map_err(lost)??;
    if goes_on && conversation.session().is_open() {
        tls::welcome(connection);
        drop(stranger);
        let receive = control::read(Arc::clone(conversation), receive);
        tasks.spawn(receive);
        tasks.spawn(lanes::accept(Arc::clone(conversation), connection.clone()));
        tasks.spawn(requests::accept(Arc::clone(conversation), connection.clone()));
    }
    // The first task to end ends the connection: the writer when the session is over, any other
    // when the connection is lost.
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(control::Ended::Said)) => break,
            Ok(Ok(control::Ended::Violation)) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    tasks.shutdown().await;
    Ok(())
}

fn peer_key(connection: &quinn::Connection) -> Option<Fingerprint> {
    let identity = connection.peer_identity()?;
    let certificates = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::fingerprint(certificates.first()?).ok()
}

impl From<NetError> for Refusal {
    fn from(error: NetError) -> Self {
        Self { code: RefusalCode::Usage, text: error.to_string() }
    }
}
