//! Requests: lists, manifests, objects.

use super::connection::{Conversation, blocking, guard};
use super::control::{Ended, visitor};
use crate::error::Result;
use crate::frames::{self, lost};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use umbra_common::Reference;
use umbra_common::wire::{
    MAX_CONTROL_FRAME_BYTES, MAX_OBJECT_FRAME_BYTES, ReadItem, Refusal, RefusalCode, Reply,
    Request, ServedObject,
};

/// How long a request may be on its way.
const REQUEST: Duration = Duration::from_secs(30);
/// How long the peer may leave one answer unread.
const ANSWER: Duration = Duration::from_secs(300);
/// Answers read ahead of the stream, for each request.
const QUEUE: usize = 2;

/// Accepts requests, each on a stream of its own. Their number is bounded by QUIC.
pub(super) async fn accept(
    conversation: Arc<Conversation>,
    connection: quinn::Connection,
) -> Result<Ended> {
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            streams = connection.accept_bi() => {
                let (send, receive) = streams.map_err(lost)?;
                requests.spawn(serve(Arc::clone(&conversation), send, receive));
            }
            // A request that fails has told its peer, or lost it.
            Some(_) = requests.join_next() => {}
        }
    }
}

async fn serve(
    conversation: Arc<Conversation>,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) -> Result<()> {
    let read = timeout(REQUEST, frames::read::<Request>(&mut receive, MAX_CONTROL_FRAME_BYTES));
    let request = match read.await.map_err(lost)? {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        Err(error) => {
            let refused = Reply::Refused(error.into());
            frames::write(&mut send, &refused, MAX_OBJECT_FRAME_BYTES).await?;
            return send.finish().map_err(lost);
        }
    };
    let (replies, mut queue) = mpsc::channel(QUEUE);
    let answering = tokio::spawn(blocking(move || {
        let say = |reply| replies.blocking_send(reply).is_ok();
        answer(&conversation, request, &say)
    }));
    while let Some(reply) = queue.recv().await {
        write(&mut send, &reply).await?;
    }
    let last = match answering.await.map_err(lost)? {
        Ok(()) => Reply::Done,
        Err(refusal) => Reply::Refused(refusal),
    };
    write(&mut send, &last).await?;
    send.finish().map_err(lost)
}

async fn write(send: &mut quinn::SendStream, reply: &Reply) -> Result<()> {
    let written = timeout(ANSWER, frames::write(send, reply, MAX_OBJECT_FRAME_BYTES));
    written.await.map_err(lost)??;
    Ok(())
}

/// Answers a request, on a blocking thread. `say` tells whether anybody still listens.
fn answer(
    conversation: &Conversation,
    request: Request,
    say: &dyn Fn(Reply) -> bool,
) -> Result<(), Refusal> {
    let visitor = visitor(conversation)?;
    let backend = &conversation.shared.backend;
    match request {
        Request::List(list) => backend.list(&visitor, &list, &mut |entry| {
            if let Some(manifest) = &entry.manifest {
                guard(&conversation.served).insert(manifest.reference);
            }
            say(Reply::Snapshot(entry))
        }),
        Request::Open { snapshot } => {
            let object = backend.open(&visitor, &snapshot)?;
            guard(&conversation.served).insert(object.reference);
            say(Reply::Object(ServedObject { item: 0, number: 0, object }));
            Ok(())
        }
        Request::Read { items } => read(conversation, &items, say),
    }
}

fn read(
    conversation: &Conversation,
    items: &[ReadItem],
    say: &dyn Fn(Reply) -> bool,
) -> Result<(), Refusal> {
    guard(&conversation.served).check(items)?;
    let mut places: Vec<(u32, u32)> = Vec::new();
    let mut references: Vec<Reference> = Vec::new();
    for (item, asked) in (0_u32..).zip(items) {
        let list = conversation.references(&asked.node)?;
        for &number in &asked.numbers {
            let position = usize::try_from(number).unwrap_or(usize::MAX);
            let reference = list.get(position).ok_or_else(|| Refusal {
                code: RefusalCode::Usage,
                text: format!("node {} has no reference {number}", asked.node.id),
            })?;
            places.push((item, number));
            references.push(*reference);
        }
    }
    conversation.shared.backend.read(&references, &mut |position, result| {
        let Some(&(item, number)) = places.get(position) else { return true };
        say(match result {
            Ok(object) => {
                guard(&conversation.served).insert(object.reference);
                Reply::Object(ServedObject { item, number, object })
            }
            Err(refusal) => Reply::Failed { item, number, refusal },
        })
    });
    Ok(())
}
