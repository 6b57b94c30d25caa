//! The control stream.

use super::backend::{Committing, OnSettled, Settled, Visitor};
use super::connection::{Conversation, blocking, guard};
use crate::error::{NetError, Result};
use crate::frames::{self, lost};
use std::sync::Arc;
use std::time::Duration;
use umbra_common::wire::session::VaultAction;
use umbra_common::wire::{Begin, MAX_CONTROL_FRAME_BYTES, Refusal, ToAgent, ToVault};

/// How long the peer may leave one message unread.
const MESSAGE: Duration = Duration::from_secs(300);
/// How long the peer may take to hear our last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a task of a connection ended.
pub(super) enum Ended {
    /// Everything has been said; the connection can be closed.
    Said,
    /// The peer broke the protocol; it is being told.
    Violation,
}

/// Writes what the session has to say, until it is over.
pub(super) async fn write(
    conversation: Arc<Conversation>,
    mut send: quinn::SendStream,
) -> Result<Ended> {
    loop {
        let notified = conversation.pump.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let (message, over) = {
            let mut session = conversation.session();
            (session.poll_control(), session.is_over())
        };
        match message {
            Some(message) => {
                remember(&conversation, &message);
                let written = frames::write(&mut send, &message, MAX_CONTROL_FRAME_BYTES);
                tokio::time::timeout(MESSAGE, written).await.map_err(lost)??;
                conversation.room.notify_waiters();
            }
            None if over => {
                send.finish().map_err(lost)?;
                let _ = tokio::time::timeout(LAST_WORDS, send.stopped()).await;
                return Ok(Ended::Said);
            }
            None => notified.await,
        }
    }
}

/// Reads and does what the agent says, until the stream ends.
pub(super) async fn read(
    conversation: Arc<Conversation>,
    mut receive: quinn::RecvStream,
) -> Result<Ended> {
    while read_one(&conversation, &mut receive, MAX_CONTROL_FRAME_BYTES).await? {
        conversation.listened().await;
    }
    Ok(Ended::Violation)
}

/// Reads and does one message of at most `cap` bytes. Tells whether more may follow.
pub(super) async fn read_one(
    conversation: &Arc<Conversation>,
    receive: &mut quinn::RecvStream,
    cap: usize,
) -> Result<bool> {
    let message = match frames::read::<ToVault>(receive, cap).await {
        Ok(Some(message)) => message,
        Ok(None) => return Err(NetError::Closed),
        Err(error @ NetError::Protocol { .. }) => {
            conversation.refuse(error.into());
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let handled = conversation.session().handle(message);
    match handled {
        Ok(Some(action)) => {
            if let Err(refusal) = act(conversation, action).await {
                conversation.refuse(refusal);
            }
        }
        Ok(None) => {}
        Err(violation) => conversation.refuse(violation.into()),
    }
    conversation.pump.notify_waiters();
    Ok(!conversation.session().is_over())
}

/// Does what the session asks for.
pub(super) async fn act(
    conversation: &Arc<Conversation>,
    action: VaultAction,
) -> Result<(), Refusal> {
    match action {
        VaultAction::Enroll(enroll) => {
            let backend = Arc::clone(&conversation.shared.backend);
            let key = conversation.key;
            let enrolled = blocking(move || backend.enroll(&key, &enroll)).await?;
            conversation.session().enrolled(enrolled);
        }
        VaultAction::Begin(begin) => begin_backup(conversation, begin).await?,
        VaultAction::Ask(ask) => {
            let backup = backup(conversation)?;
            let number = ask.number;
            let answers = blocking(move || backup.known(&ask.references)).await?;
            conversation.session().known(number, &answers);
        }
        VaultAction::Flush => {
            let backup = backup(conversation)?;
            blocking(move || backup.flush()).await?;
        }
        VaultAction::Commit(commit) => {
            let backup = backup(conversation)?;
            match blocking(move || backup.commit(&commit)).await? {
                Committing::Committed(receipt) => conversation.session().committed(receipt),
                Committing::Missing(ids) => conversation.session().commit_missing(ids),
            }
        }
        VaultAction::End => {
            let backup = guard(&conversation.backup).take();
            if let Some(backup) = backup {
                blocking(move || {
                    backup.end();
                    Ok(())
                })
                .await?;
            }
        }
    }
    conversation.pump.notify_waiters();
    Ok(())
}

async fn begin_backup(conversation: &Arc<Conversation>, begin: Begin) -> Result<(), Refusal> {
    let visitor = visitor(conversation)?;
    let backend = Arc::clone(&conversation.shared.backend);
    let settled: OnSettled = {
        // Weak: the store may keep the callback longer than the connection lives.
        let round = conversation.session().round();
        let conversation = Arc::downgrade(conversation);
        Arc::new(move |settled| {
            let Some(conversation) = conversation.upgrade() else { return };
            match settled {
                Settled::Durable(range) => conversation.session().durable(round, range),
                Settled::Failed(refusal) if conversation.session().round() == round => {
                    conversation.session().refuse(refusal);
                }
                Settled::Failed(_) => {}
            }
            conversation.pump.notify_waiters();
        })
    };
    let (backup, begun) = blocking(move || backend.begin(&visitor, &begin, settled)).await?;
    *guard(&conversation.backup) = Some(backup);
    conversation.session().begun(begun);
    Ok(())
}

pub(super) fn backup(
    conversation: &Conversation,
) -> Result<Arc<dyn super::backend::Backup>, Refusal> {
    guard(&conversation.backup)
        .clone()
        .ok_or_else(|| NetError::Protocol { reason: "no backup is under way", source: None }.into())
}

pub(super) fn visitor(conversation: &Conversation) -> Result<Visitor, Refusal> {
    guard(&conversation.visitor)
        .clone()
        .ok_or_else(|| NetError::Protocol { reason: "no hello was said", source: None }.into())
}

/// Notes as whom the peer is welcomed.
fn remember(conversation: &Conversation, message: &ToAgent) {
    if let ToAgent::Welcome(welcome) = message {
        *guard(&conversation.visitor) = Some(Visitor {
            key: conversation.key,
            peer: conversation.peer.clone(),
            machine: welcome.machine.clone(),
        });
    }
}
