//! Object streams.

use super::backend::Taken;
use super::connection::{Conversation, blocking};
use super::control::{Ended, act, backup};
use crate::error::{NetError, Result};
use crate::frames::{self, lost};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use umbra_common::wire::{MAX_OBJECT_FRAME_BYTES, Refusal, SentObject};

/// Most objects that are put at once.
const BUNDLE: usize = 32;
/// How long one object may be on its way while it holds a part of the budget.
const BODY: Duration = Duration::from_secs(120);

/// Accepts object streams; each takes one object at a time. Their number is bounded by QUIC.
pub(super) async fn accept(
    conversation: Arc<Conversation>,
    connection: quinn::Connection,
) -> Result<Ended> {
    let mut lanes = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => {
                lanes.spawn(lane(Arc::clone(&conversation), stream.map_err(lost)?));
            }
            Some(ended) = lanes.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) => {
                    conversation.refuse(refusal);
                    return Ok(Ended::Violation);
                }
                Err(panic) => return Err(lost(panic)),
            },
        }
    }
}

/// Takes the objects of one stream until it ends. A lost connection is not this task's to tell.
async fn lane(
    conversation: Arc<Conversation>,
    mut stream: quinn::RecvStream,
) -> Result<(), Refusal> {
    match take_all(&conversation, &mut stream).await {
        Ok(()) | Err(Failure::Lost) => Ok(()),
        Err(Failure::Refused(refusal)) => Err(refusal),
    }
}

async fn take_all(
    conversation: &Arc<Conversation>,
    stream: &mut quinn::RecvStream,
) -> Result<(), Failure> {
    let (received, arrivals) = mpsc::channel(BUNDLE);
    let taking = tokio::try_join!(
        receive_all(conversation, stream, received),
        put_all(conversation, arrivals)
    );
    taking.map(|_| ())
}

/// Why a lane ends.
enum Failure {
    Lost,
    Refused(Refusal),
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Protocol { .. } => Self::Refused(error.into()),
            _ => Self::Lost,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// An object that has arrived, with its part of the budget.
struct Received {
    sent: SentObject,
    _permits: [OwnedSemaphorePermit; 2],
}

async fn receive_all(
    conversation: &Conversation,
    stream: &mut quinn::RecvStream,
    received: mpsc::Sender<Received>,
) -> Result<(), Failure> {
    while let Some(object) = receive(conversation, stream).await? {
        received.send(object).await.map_err(|_| Failure::Lost)?;
    }
    Ok(())
}

/// Puts what has arrived together at once: a thread is woken for a bundle, not for each object.
async fn put_all(
    conversation: &Arc<Conversation>,
    mut arrivals: mpsc::Receiver<Received>,
) -> Result<(), Failure> {
    while let Some(first) = arrivals.recv().await {
        let mut bundle = vec![first];
        while bundle.len() < BUNDLE
            && let Ok(next) = arrivals.try_recv()
        {
            bundle.push(next);
        }
        put(conversation, bundle).await?;
    }
    Ok(())
}

/// Receives one object; `None` at the end of the stream.
async fn receive(
    conversation: &Conversation,
    stream: &mut quinn::RecvStream,
) -> Result<Option<Received>, Failure> {
    let Some(length) = frames::read_length(stream, MAX_OBJECT_FRAME_BYTES).await? else {
        return Ok(None);
    };
    conversation.listened().await;
    // Part of the budget is taken before memory is; the key's own part first, so that whoever has
    // used that up does not stand in others' way.
    let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
    let own = Arc::clone(&conversation.share.budget);
    let own = own.acquire_many_owned(kib).await.map_err(|_| Failure::Lost)?;
    let budget = Arc::clone(&conversation.shared.budget);
    let permit = budget.acquire_many_owned(kib).await.map_err(|_| Failure::Lost)?;
    let sent: SentObject =
        timeout(BODY, frames::read_body(stream, length)).await.map_err(|_| Failure::Lost)??;
    Ok(Some(Received { sent, _permits: [own, permit] }))
}

/// Gives objects to the store, in the order of their arrival.
async fn put(conversation: &Arc<Conversation>, bundle: Vec<Received>) -> Result<(), Failure> {
    let backup = backup(conversation)?;
    let mut arrivals = Vec::with_capacity(bundle.len());
    {
        let mut session = conversation.session();
        for received in &bundle {
            let sequence = received.sent.sequence;
            arrivals.push(session.arrived(sequence).map_err(|v| Failure::Refused(v.into()))?);
        }
    }
    let taken = blocking(move || {
        let put = |received: Received| {
            let sequence = received.sent.sequence;
            backup.put(sequence, received.sent.object).map(|taken| (sequence, taken))
        };
        bundle.into_iter().map(put).collect::<Result<Vec<_>, Refusal>>()
    })
    .await?;
    let mut actions = Vec::new();
    {
        let mut session = conversation.session();
        for ((sequence, taken), arrival) in taken.into_iter().zip(arrivals) {
            match taken {
                Taken::Accepted => {}
                Taken::Missing(references) => session.missing(sequence, references),
                Taken::Bad(reason) => session.bad(sequence, reason),
            }
            actions.extend(session.taken(arrival));
        }
    }
    conversation.pump.notify_waiters();
    for action in actions {
        act(conversation, action).await?;
    }
    Ok(())
}
