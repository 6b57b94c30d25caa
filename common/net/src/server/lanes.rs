//! Object streams.

use super::backend::Taken;
use super::connection::{Conversation, blocking};
use super::control::{Ended, act, backup};
use crate::error::{NetError, Result};
use crate::frames::{self, lost};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;
use umbra_common::wire::{MAX_OBJECT_FRAME_BYTES, Refusal, SentObject};

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
    loop {
        match take(&conversation, &mut stream).await {
            Ok(true) => {}
            Ok(false) | Err(Failure::Lost) => return Ok(()),
            Err(Failure::Refused(refusal)) => return Err(refusal),
        }
    }
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

async fn take(
    conversation: &Arc<Conversation>,
    stream: &mut quinn::RecvStream,
) -> Result<bool, Failure> {
    let Some(length) = frames::read_length(stream, MAX_OBJECT_FRAME_BYTES).await? else {
        return Ok(false);
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
    let sequence = sent.sequence;
    let arrival =
        conversation.session().arrived(sequence).map_err(|v| Failure::Refused(v.into()))?;
    let backup = backup(conversation)?;
    let taken = blocking(move || {
        let taken = backup.put(sequence, sent.object);
        drop((own, permit));
        taken
    })
    .await?;
    let action = {
        let mut session = conversation.session();
        match taken {
            Taken::Accepted => {}
            Taken::Missing(references) => session.missing(sequence, references),
            Taken::Bad(reason) => session.bad(sequence, reason),
        }
        session.taken(arrival)
    };
    conversation.pump.notify_waiters();
    if let Some(action) = action {
        act(conversation, action).await?;
    }
    Ok(true)
}
