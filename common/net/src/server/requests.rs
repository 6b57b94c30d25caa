//! Requests: lists, manifests, objects.
//!
//! What answers a request reads on a blocking thread, in passes: a peer that does not take its
//! answers costs no thread while it does not, and few threads read at a time, so that backups and
//! other readers always find one.

use super::answers::{Answers, Closing, Pushed};
use super::connection::{Conversation, blocking, guard};
use super::control::{Ended, visitor};
use crate::error::Result;
use crate::frames::{self, lost};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;
use umbra_common::wire::{
    List, MAX_CONTROL_FRAME_BYTES, MAX_OBJECT_FRAME_BYTES, ReadItem, Refusal, RefusalCode, Reply,
    Request, ServedObject,
};
use umbra_common::{ObjectId, Reference};

/// How long a request may be on its way.
const REQUEST: Duration = Duration::from_secs(30);
/// How long the peer may leave one answer unread.
const ANSWER: Duration = Duration::from_secs(300);
/// Objects that one pass asks of the store.
const PASS_OBJECTS: usize = 4096;

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
    let answers = Arc::new(Answers::default());
    let _closing = Closing(&answers);
    let mut work = Work::from(request);
    let last = loop {
        let passed = pass(&conversation, work, &answers, &mut send).await?;
        match passed {
            Ok(Some(rest)) => work = rest,
            Ok(None) => break Reply::Done,
            Err(refusal) => break Reply::Refused(refusal),
        }
    };
    write(&mut send, &last).await?;
    send.finish().map_err(lost)
}

/// One pass of a thread over the work, while its answers go out; returns what is left to do once
/// all of them have.
async fn pass(
    conversation: &Arc<Conversation>,
    work: Work,
    answers: &Arc<Answers>,
    send: &mut quinn::SendStream,
) -> Result<Result<Option<Work>, Refusal>> {
    // The permits go with the thread; the connection's own come first, so that one of many
    // requests does not keep others' places.
    let own = Arc::clone(&conversation.readers).acquire_owned().await.map_err(lost)?;
    let shared = Arc::clone(&conversation.shared.readers).acquire_owned().await.map_err(lost)?;
    answers.begin_pass();
    let (reading, into) = (Arc::clone(conversation), Arc::clone(answers));
    let mut passing = tokio::spawn(blocking(move || {
        let rest = work.pass(&reading, &into);
        drop((own, shared));
        rest
    }));
    let rest = loop {
        tokio::select! {
            reply = answers.next() => write(send, &reply).await?,
            rest = &mut passing => break rest.map_err(lost)?,
        }
    };
    while let Some(reply) = answers.pop() {
        write(send, &reply).await?;
    }
    Ok(rest)
}

async fn write(send: &mut quinn::SendStream, reply: &Reply) -> Result<()> {
    let written = timeout(ANSWER, frames::write(send, reply, MAX_OBJECT_FRAME_BYTES));
    written.await.map_err(lost)??;
    Ok(())
}

/// What is left to do for a request.
enum Work {
    List {
        list: List,
        /// Place of the last snapshot that has gone out.
        told: Option<u64>,
    },
    Open {
        snapshot: ObjectId,
    },
    Asked {
        items: Vec<ReadItem>,
    },
    Read {
        /// What has not gone out yet.
        left: Vec<Place>,
    },
}

/// An object that was asked for.
struct Place {
    item: u32,
    number: u32,
    reference: Reference,
}

impl From<Request> for Work {
    fn from(request: Request) -> Self {
        match request {
            Request::List(list) => Self::List { list, told: None },
            Request::Open { snapshot } => Self::Open { snapshot },
            Request::Read { items } => Self::Asked { items },
        }
    }
}

impl Work {
    /// Does what the peer takes without much waiting; returns the rest. Blocks.
    fn pass(self, conversation: &Conversation, answers: &Answers) -> Result<Option<Self>, Refusal> {
        let visitor = visitor(conversation)?;
        let backend = &conversation.shared.backend;
        match self {
            Self::List { list, mut told } => {
                let mut last = Pushed::Taken;
                backend.list(&visitor, &list, told, &mut |place, entry| {
                    if let Some(manifest) = &entry.manifest {
                        guard(&conversation.served).insert(manifest.reference);
                    }
                    last = answers.push(Reply::Snapshot(entry));
                    if last == Pushed::Taken {
                        told = Some(place);
                    }
                    last == Pushed::Taken
                })?;
                Ok((last == Pushed::Full).then_some(Self::List { list, told }))
            }
            Self::Open { snapshot } => {
                let (object, kept) = backend.open(&visitor, &snapshot)?;
                guard(&conversation.opened).insert(snapshot, kept);
                guard(&conversation.served).insert(object.reference);
                // The first answer always has room.
                answers.push(Reply::Object(ServedObject { item: 0, number: 0, object }));
                Ok(None)
            }
            Self::Asked { items } => {
                backend.may_read(&visitor)?;
                Ok(read(conversation, places(conversation, &items)?, answers))
            }
            Self::Read { left } => {
                backend.may_read(&visitor)?;
                Ok(read(conversation, left, answers))
            }
        }
    }
}

/// Finds out what a read asks for.
fn places(conversation: &Conversation, items: &[ReadItem]) -> Result<Vec<Place>, Refusal> {
    guard(&conversation.served).check(items)?;
    let mut places = Vec::new();
    for (item, asked) in (0_u32..).zip(items) {
        let list = conversation.references(&asked.node)?;
        for &number in &asked.numbers {
            let position = usize::try_from(number).unwrap_or(usize::MAX);
            let reference = *list.get(position).ok_or_else(|| Refusal {
                code: RefusalCode::Usage,
                text: format!("node {} has no reference {number}", asked.node.id),
            })?;
            places.push(Place { item, number, reference });
        }
    }
    Ok(places)
}

fn read(conversation: &Conversation, mut left: Vec<Place>, answers: &Answers) -> Option<Work> {
    while !left.is_empty() {
        let later = left.split_off(left.len().min(PASS_OBJECTS));
        let references: Vec<Reference> = left.iter().map(|place| place.reference).collect();
        let mut said = vec![false; left.len()];
        let mut last = Pushed::Taken;
        conversation.shared.backend.read(&references, &mut |position, result| {
            let Some(&Place { item, number, .. }) = left.get(position) else { return true };
            let reply = match result {
                Ok(object) => {
                    guard(&conversation.served).insert(object.reference);
                    Reply::Object(ServedObject { item, number, object })
                }
                Err(refusal) => Reply::Failed { item, number, refusal },
            };
            last = answers.push(reply);
            if let (Pushed::Taken, Some(said)) = (last, said.get_mut(position)) {
                *said = true;
            }
            last == Pushed::Taken
        });
        match last {
            Pushed::Taken => left = later,
            Pushed::Gone => return None,
            Pushed::Full => {
                let mut said = said.into_iter();
                left.retain(|_| !said.next().unwrap_or_default());
                left.extend(later);
                return Some(Work::Read { left });
            }
        }
    }
    None
}
