//! What the blocking calls and the connection task share.

use super::pace::Pace;
use super::{Connect, Traffic};
use crate::error::{NetError, Result};
use crate::frames::lost;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use umbra_common::Reference;
use umbra_common::wire::session::{AgentEvent, AgentSession};
use umbra_common::wire::{Begun, Refusal, ToAgent, Welcome};

/// How often a waiting call looks at the clock.
const TICK: Duration = Duration::from_millis(200);
/// A connection that lives this long, or brings work on, was worth making.
const WORTHWHILE: Duration = Duration::from_secs(5);
/// Connections in a row that end soon with a breach of the protocol.
const MAX_BREACHES: u32 = 3;

pub(super) struct Core {
    pub(super) options: Connect,
    pub(super) handle: Handle,
    state: Mutex<State>,
    /// Something changed that a blocking call may wait for.
    changed: Condvar,
    /// The session may have something to say on the control stream.
    pub(super) pump: Notify,
    /// The session may have objects to send: one lane is woken and wakes the next where it leaves
    /// some.
    pub(super) objects: Notify,
    /// A connection is wanted.
    pub(super) demand: Notify,
    /// Bounds what is received.
    pub(super) download: Arc<Pace>,
    /// Path from a node to the manifest above it, for reads after a lost connection.
    pub(super) parents: Mutex<HashMap<Reference, (Reference, u32)>>,
}

pub(super) struct State {
    pub(super) session: AgentSession,
    pub(super) welcome: Option<Welcome>,
    link: Option<Link>,
    /// Counts connections; what belongs to an earlier one may touch nothing.
    generation: u64,
    /// Since when there is no connection that anything came of.
    down_since: Instant,
    /// See [`MAX_BREACHES`].
    breaches: u32,
    last_error: Option<NetError>,
    /// The vault does not want us: no use in trying again.
    refused: Option<Final>,
    /// Blocking calls that need a connection.
    waiting: usize,
    pub(super) upload: Option<UploadState>,
    pub(super) object_bytes_sent: u64,
    traffic: Traffic,
    closed: bool,
}

struct Link {
    connection: quinn::Connection,
    endpoint: quinn::Endpoint,
    /// The hello was answered.
    open: bool,
    since: Instant,
    /// Something came that brings a backup or a reading on.
    fruitful: bool,
}

impl Link {
    fn was_worthwhile(&self) -> bool {
        self.open && (self.fruitful || self.lasted())
    }

    fn lasted(&self) -> bool {
        self.since.elapsed() >= WORTHWHILE
    }
}

/// Why a vault will not have us.
#[derive(Clone)]
enum Final {
    Refused(Refusal),
    WrongKey { address: String, expected: super::Fingerprint, found: super::Fingerprint },
    Breach { reason: &'static str },
}

/// What the threads of a backup wait for.
#[derive(Default)]
pub(super) struct UploadState {
    pub(super) begun: Option<Begun>,
    pub(super) known: HashMap<u64, Vec<bool>>,
    pub(super) receipt: Option<Vec<u8>>,
    failure: Option<AgentEvent>,
}

impl UploadState {
    /// Returns the first failure, the same each time.
    pub(super) fn check(&self) -> Result<()> {
        self.failure.clone().map_or(Ok(()), |event| Err(failure(event)))
    }
}

impl Core {
    pub(super) fn new(options: Connect, handle: Handle) -> Self {
        let session = AgentSession::new(
            options.machine.clone(),
            options.software.clone(),
            options.unacked_bytes,
        );
        let download = Arc::new(Pace::new(options.download_bytes_per_second));
        Self {
            options,
            handle,
            download,
            state: Mutex::new(State {
                session,
                welcome: None,
                link: None,
                generation: 0,
                down_since: Instant::now(),
                breaches: 0,
                last_error: None,
                refused: None,
                waiting: 0,
                upload: None,
                object_bytes_sent: 0,
                traffic: Traffic::default(),
                closed: false,
            }),
            changed: Condvar::new(),
            pump: Notify::new(),
            objects: Notify::new(),
            demand: Notify::new(),
            parents: Mutex::new(HashMap::new()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held is a bug; the state is still whole enough to close.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` has an answer. A connection is wanted meanwhile.
    pub(super) fn wait<T>(
        &self,
        mut ready: impl FnMut(&mut State) -> Option<Result<T>>,
    ) -> Result<T> {
        let mut state = self.lock();
        state.begin_to_want();
        state.waiting = state.waiting.saturating_add(1);
        self.demand.notify_one();
        let result = loop {
            if let Some(result) = ready(&mut state) {
                break result;
            }
            if let Some(error) = state.hopeless(&self.options) {
                break Err(error);
            }
            state =
                self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting = state.waiting.saturating_sub(1);
        result
    }

    /// Waits for a connection on which the hello was answered.
    pub(super) fn connection(&self) -> Result<quinn::Connection> {
        self.wait(|state| {
            let link = state.link.as_ref().filter(|link| link.open)?;
            link.connection.close_reason().is_none().then(|| Ok(link.connection.clone()))
        })
    }

    /// Tells whether somebody wants a connection; `None` once the client is closed or refused.
    pub(super) fn wanted(&self) -> Option<bool> {
        let state = self.lock();
        (!state.closed && state.refused.is_none()).then(|| state.wants_connection())
    }

    /// A QUIC connection is there: starts the session on it. Returns its generation.
    pub(super) fn connected(
        &self,
        connection: &quinn::Connection,
        endpoint: &quinn::Endpoint,
    ) -> u64 {
        let mut state = self.lock();
        state.generation = state.generation.saturating_add(1);
        state.traffic.connections = state.traffic.connections.saturating_add(1);
        state.link = Some(Link {
            connection: connection.clone(),
            endpoint: endpoint.clone(),
            open: false,
            since: Instant::now(),
            fruitful: false,
        });
        state.session.connected();
        state.generation
    }

    /// The connection of `generation` is lost. Tells whether anything came of it.
    pub(super) fn lost(&self, generation: u64, error: NetError) -> bool {
        let mut state = self.lock();
        // One that was cut from this end is none of the vault's fault.
        let mut worthwhile = true;
        if state.generation == generation
            && let Some(link) = &state.link
        {
            worthwhile = link.was_worthwhile();
            state.breaches = match &error {
                NetError::Protocol { .. } if link.lasted() => 1,
                NetError::Protocol { .. } => state.breaches.saturating_add(1),
                _ => 0,
            };
            if let (NetError::Protocol { reason, .. }, true) =
                (&error, state.breaches >= MAX_BREACHES)
            {
                state.refused = Some(Final::Breach { reason });
            }
            state.drop_link();
            state.last_error = Some(error);
        }
        self.changed.notify_all();
        worthwhile
    }

    /// An attempt to connect failed.
    pub(super) fn failed(&self, error: NetError) {
        let mut state = self.lock();
        match error {
            NetError::Refused { code, text } => {
                state.refused = Some(Final::Refused(Refusal { code, text }));
            }
            NetError::WrongKey { address, expected, found } => {
                state.refused = Some(Final::WrongKey { address, expected, found });
            }
            other => state.last_error = Some(other),
        }
        self.changed.notify_all();
    }

    /// Runs `act` on the session unless its connection is not of `generation` any more.
    pub(super) fn with_session<T>(
        &self,
        generation: u64,
        act: impl FnOnce(&mut State) -> T,
    ) -> Result<T> {
        let mut state = self.lock();
        if state.closed || state.generation != generation || state.link.is_none() {
            return Err(NetError::Closed);
        }
        Ok(act(&mut state))
    }

    /// Takes a message of the connection of `generation`.
    pub(super) fn handle(&self, generation: u64, message: ToAgent) -> Result<()> {
        self.with_session(generation, |state| {
            let before = state.session.unacked_bytes();
            let handled = state.session.handle(message);
            let mut fruitful = state.session.unacked_bytes() < before;
            while let Some(event) = state.session.poll_event() {
                fruitful |=
                    matches!(event, AgentEvent::Known { .. } | AgentEvent::Committed { .. });
                state.note(event);
            }
            if fruitful {
                state.brought_on();
            }
            handled
                .map_err(|violation| NetError::Protocol { reason: violation.reason, source: None })
        })??;
        self.changed();
        Ok(())
    }

    /// The session was given something: wakes whoever sends and whoever waits.
    pub(super) fn changed(&self) {
        self.pump.notify_waiters();
        if self.lock().session.has_objects() {
            self.objects.notify_one();
        }
        self.demand.notify_one();
        self.changed.notify_all();
    }

    pub(super) fn traffic(&self) -> Traffic {
        let state = self.lock();
        let mut traffic = state.traffic;
        if let Some(link) = &state.link {
            add(&mut traffic, &link.connection);
        }
        traffic
    }

    /// Drops the connection; the session goes on with the next.
    pub(super) fn cut(&self) {
        let mut state = self.lock();
        state.drop_link();
        // None of the vault's fault.
        state.down_since = Instant::now();
        drop(state);
        self.changed();
    }

    /// Ends everything. Returns the endpoint, whose last words are on their way.
    pub(super) fn close(&self) -> Option<quinn::Endpoint> {
        let mut state = self.lock();
        state.closed = true;
        let endpoint = state.link.as_ref().map(|link| link.endpoint.clone());
        state.drop_link();
        drop(state);
        self.changed();
        endpoint
    }
}

impl State {
    /// Tells whether the hello of the present connection was refused.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Somebody is about to want a connection.
    pub(super) fn begin_to_want(&mut self) {
        if self.link.is_none() && !self.wants_connection() {
            // Lost while nobody minded: it has all its time to come back.
            self.down_since = Instant::now();
        }
    }

    /// Something came over the present connection that brings a backup or a reading on.
    pub(super) fn brought_on(&mut self) {
        if let Some(link) = &mut self.link {
            link.fruitful = true;
        }
    }

    fn wants_connection(&self) -> bool {
        self.waiting > 0 || self.upload.as_ref().is_some_and(|upload| upload.failure.is_none())
    }

    fn drop_link(&mut self) {
        let Some(link) = self.link.take() else { return };
        add(&mut self.traffic, &link.connection);
        link.connection.close(0_u32.into(), b"");
        self.session.disconnected();
        // A vault that welcomes and then drops us, again and again, is no better than none.
        if link.was_worthwhile() {
            self.down_since = Instant::now();
        }
    }

    fn note(&mut self, event: AgentEvent) {
        match event {
            AgentEvent::Welcome(welcome) => {
                self.welcome = Some(welcome);
                self.last_error = None;
                if let Some(link) = &mut self.link {
                    link.open = true;
                }
            }
            AgentEvent::Refused(refusal) if self.link.as_ref().is_none_or(|link| !link.open) => {
                self.refused = Some(Final::Refused(refusal));
            }
            event => {
                let Some(upload) = &mut self.upload else { return };
                match event {
                    AgentEvent::Begun(begun) => {
                        upload.begun.get_or_insert(begun);
                    }
                    AgentEvent::Known { number, answers } => {
                        upload.known.insert(number, answers);
                    }
                    AgentEvent::Committed { receipt } => upload.receipt = Some(receipt),
                    failure => {
                        upload.failure.get_or_insert(failure);
                    }
                }
            }
        }
    }

    /// Tells why waiting has no sense any more.
    fn hopeless(&mut self, options: &Connect) -> Option<NetError> {
        if self.closed {
            return Some(NetError::Closed);
        }
        match &self.refused {
            Some(Final::Refused(refusal)) => return Some(refused(refusal.clone())),
            Some(Final::WrongKey { address, expected, found }) => {
                let address = address.clone();
                return Some(NetError::WrongKey { address, expected: *expected, found: *found });
            }
            Some(Final::Breach { reason }) => {
                return Some(NetError::Protocol { reason, source: None });
            }
            None => {}
        }
        if self.link.as_ref().is_some_and(|link| link.open) {
            return None;
        }
        let limit = match self.welcome {
            Some(_) => options.retry_for,
            None => options.connect_for,
        };
        if self.down_since.elapsed() < limit {
            return None;
        }
        let source: Box<dyn std::error::Error + Send + Sync> = match self.last_error.take() {
            Some(error) => Box::new(error),
            None => "no answer".into(),
        };
        Some(NetError::Unavailable { address: options.addresses(), tried_for: limit, source })
    }
}

fn add(traffic: &mut Traffic, connection: &quinn::Connection) {
    let stats = connection.stats();
    traffic.bytes_sent = traffic.bytes_sent.saturating_add(stats.udp_tx.bytes);
    traffic.bytes_received = traffic.bytes_received.saturating_add(stats.udp_rx.bytes);
}

pub(super) fn refused(refusal: Refusal) -> NetError {
    NetError::Refused { code: refusal.code, text: refusal.text }
}

fn failure(event: AgentEvent) -> NetError {
    match event {
        AgentEvent::Refused(refusal) => refused(refusal),
        AgentEvent::BaseGone(base) => NetError::BaseGone { base },
        AgentEvent::Missing { node, references } => {
            NetError::Missing { referrer: Some(node), references }
        }
        AgentEvent::CommitMissing { references } => {
            NetError::Missing { referrer: None, references }
        }
        AgentEvent::Bad { reference, reason } => NetError::Bad { reference, reason },
        AgentEvent::Welcome(_)
        | AgentEvent::Begun(_)
        | AgentEvent::Known { .. }
        | AgentEvent::Committed { .. } => {
            lost(std::io::Error::other("an event that is no failure ended a backup"))
        }
    }
}

/// Shared between the calls and the connection task.
pub(super) type Shared = Arc<Core>;
