//! The connection task: connects, runs the session on the connection, and does so again.

use super::Connect;
use super::core::{Core, Shared, refused};
use super::pace::Pace;
use crate::error::{NetError, Result};
use crate::frames::{self, lost};
use crate::tls;
use bytes::Bytes;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;
use umbra_common::wire::{
    Enroll, Enrolled, MAX_CONTROL_FRAME_BYTES, MAX_OBJECT_FRAME_BYTES, SentObjectRef, ToAgent,
    ToVault,
};

/// How long an enrolment may take: a vault on a slow disk answers when it is durable.
const ENROLMENT: Duration = Duration::from_secs(30);
/// How long one attempt may take, hello included.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Pause before the second attempt; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of objects that a lane takes at once.
const BUNDLE_BYTES: u64 = 256 << 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// A connection with its endpoint.
struct Dialled {
    connection: quinn::Connection,
    endpoint: quinn::Endpoint,
}

/// Keeps the client connected whenever somebody wants it, until it is closed or refused.
pub(super) async fn keep(core: Shared) {
    let mut pause = FIRST_PAUSE;
    loop {
        match core.wanted() {
            None => return,
            Some(false) => {
                core.demand.notified().await;
                continue;
            }
            Some(true) => {}
        }
        match dial(&core.options).await {
            Ok(dialled) => {
                let generation = core.connected(&dialled.connection, &dialled.endpoint);
                let (welcomed, error) = run(&core, generation, &dialled.connection).await;
                if core.lost(generation, error) && welcomed {
                    pause = FIRST_PAUSE;
                }
            }
            Err(error) => core.failed(error),
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

/// Enrols over a connection of its own.
pub(super) async fn enroll(options: &Connect, enroll: Enroll) -> Result<Enrolled> {
    let dialled = timeout(options.connect_for, async {
        loop {
            match dial(options).await {
                Err(NetError::Lost { .. }) => tokio::time::sleep(FIRST_PAUSE).await,
                other => return other,
            }
        }
    })
    .await
    .map_err(|source| NetError::Unavailable {
        address: options.addresses(),
        tried_for: options.connect_for,
        source: Box::new(source),
    })??;
    let (mut send, mut receive) = dialled.connection.open_bi().await.map_err(lost)?;
    frames::write(&mut send, &ToVault::Enroll(enroll), MAX_CONTROL_FRAME_BYTES).await?;
    let answer = timeout(ENROLMENT, frames::read::<ToAgent>(&mut receive, MAX_CONTROL_FRAME_BYTES));
    let answer = answer.await.map_err(lost)??;
    dialled.connection.close(0_u32.into(), b"");
    match answer {
        Some(ToAgent::Enrolled(enrolled)) => Ok(enrolled),
        Some(ToAgent::Refused(refusal)) => Err(refused(refusal)),
        _ => Err(NetError::Protocol { reason: "no answer to Enroll", source: None }),
    }
}

/// Tries each address once.
async fn dial(options: &Connect) -> Result<Dialled> {
    let mut last = None;
    for address in &options.addresses {
        let found = match crate::names::look_up_async(address).await {
            Ok(found) => found,
            Err(error) => {
                last = Some(lost(error));
                continue;
            }
        };
        for target in found {
            match dial_one(options, address, target).await {
                Ok(dialled) => return Ok(dialled),
                Err(error @ NetError::Lost { .. }) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
    }
    Err(last.unwrap_or(NetError::Misuse { reason: "the vault has no address" }))
}

async fn dial_one(options: &Connect, address: &str, target: SocketAddr) -> Result<Dialled> {
    let (config, pin) = tls::client(&options.identity, options.vault)?;
    let local: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = tls::client_endpoint(local)
        .map_err(|source| NetError::Io { what: "cannot open a UDP socket".to_owned(), source })?;
    let connecting =
        endpoint.connect_with(config, target, crate::identity::CERTIFICATE_NAME).map_err(lost)?;
    match timeout(ATTEMPT, connecting).await {
        Err(silence) => Err(lost(silence)),
        Ok(Ok(connection)) => Ok(Dialled { connection, endpoint }),
        Ok(Err(error)) => match pin.wrong_key() {
            Some(found) => Err(NetError::WrongKey {
                address: address.to_owned(),
                expected: options.vault,
                found,
            }),
            None => Err(lost(error)),
        },
    }
}

/// Runs the session on a connection until that is lost. Tells whether the hello was answered.
async fn run(core: &Shared, generation: u64, connection: &quinn::Connection) -> (bool, NetError) {
    let mut tasks = JoinSet::new();
    let opened = timeout(ATTEMPT, connection.open_bi()).await;
    let (mut send, mut receive) = match opened {
        Ok(Ok(streams)) => streams,
        Ok(Err(error)) => return (false, lost(error)),
        Err(silence) => return (false, lost(silence)),
    };
    let hello = async {
        if let Some(hello) = core.with_session(generation, |s| s.session.poll_control())? {
            frames::write(&mut send, &hello, MAX_CONTROL_FRAME_BYTES).await?;
        }
        match frames::read(&mut receive, MAX_CONTROL_FRAME_BYTES).await? {
            Some(message) => core.handle(generation, message),
            None => Err(lost(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
        }
    };
    match timeout(ATTEMPT, hello).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return (false, error),
        Err(silence) => return (false, lost(silence)),
    }
    if core.lock().is_refused() {
        return (false, NetError::Closed);
    }
    tasks.spawn(write_control(Arc::clone(core), generation, send));
    tasks.spawn(read_control(Arc::clone(core), generation, receive));
    let pace = Arc::new(Pace::new(core.options.upload_bytes_per_second));
    for _ in 0..core.options.lanes.clamp(1, tls::MAX_LANES) {
        let connection = connection.clone();
        tasks.spawn(write_lane(Arc::clone(core), generation, connection, Arc::clone(&pace)));
    }
    let error = match tasks.join_next().await {
        Some(Ok(Err(error))) => error,
        Some(Ok(Ok(()))) | None => NetError::Closed,
        Some(Err(panic)) => lost(panic),
    };
    // What the connection died of says more than which stream noticed first.
    let error = connection.close_reason().map_or(error, lost);
    tasks.shutdown().await;
    (true, error)
}

async fn write_control(core: Shared, generation: u64, mut send: quinn::SendStream) -> Result<()> {
    loop {
        let message = next(&core, generation, &core.pump, |s| s.session.poll_control()).await?;
        frames::write(&mut send, &message, MAX_CONTROL_FRAME_BYTES).await?;
    }
}

async fn read_control(core: Shared, generation: u64, mut receive: quinn::RecvStream) -> Result<()> {
    while let Some(message) = frames::read(&mut receive, MAX_CONTROL_FRAME_BYTES).await? {
        core.handle(generation, message)?;
    }
    Ok(())
}

/// Sends objects over one stream, which is opened when there is one.
async fn write_lane(
    core: Shared,
    generation: u64,
    connection: quinn::Connection,
    pace: Arc<Pace>,
) -> Result<()> {
    let mut lane = None;
    // At a bounded rate one object at a time, so that others are not kept waiting behind it.
    let bundle_bytes = if pace.is_bounded() { 0 } else { BUNDLE_BYTES };
    loop {
        let bundle = next(&core, generation, &core.objects, |state| {
            let mut weight = 0;
            let mut bundle = Vec::new();
            while bundle.is_empty() || weight < bundle_bytes {
                let Some((sequence, object)) = state.session.poll_object() else { break };
                weight = object.weight().saturating_add(weight);
                bundle.push((sequence, object));
            }
            if !bundle.is_empty() && state.session.has_objects() {
                // For another lane.
                core.objects.notify_one();
            } else if !bundle.is_empty() && state.session.is_in_a_hurry() {
                // Nothing more can go out: now the vault is told not to wait for company.
                core.pump.notify_waiters();
            }
            (!bundle.is_empty()).then_some(bundle)
        });
        let bundle = bundle.await?;
        let mut frames: Vec<Bytes> = Vec::with_capacity(bundle.len());
        for (sequence, object) in bundle {
            let message = SentObjectRef { sequence, object: &object };
            frames.push(frames::encode(&message, MAX_OBJECT_FRAME_BYTES)?.into());
        }
        let stream = match &mut lane {
            Some(stream) => stream,
            None => lane.insert(connection.open_uni().await.map_err(lost)?),
        };
        let length = frames.iter().map(Bytes::len).fold(0, usize::saturating_add);
        pace.wait(length).await;
        stream.write_all_chunks(&mut frames).await.map_err(lost)?;
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        core.with_session(generation, |state| {
            state.object_bytes_sent = state.object_bytes_sent.saturating_add(length);
        })?;
    }
}

/// Waits until `poll` gives something; looks again whenever `news` says so.
async fn next<T>(
    core: &Core,
    generation: u64,
    news: &tokio::sync::Notify,
    mut poll: impl FnMut(&mut super::core::State) -> Option<T>,
) -> Result<T> {
    loop {
        let notified = news.notified();
        tokio::pin!(notified);
        // Registered before looking, so that nothing that comes in between is slept through.
        notified.as_mut().enable();
        if let Some(thing) = core.with_session(generation, &mut poll)? {
            return Ok(thing);
        }
        notified.await;
    }
}
