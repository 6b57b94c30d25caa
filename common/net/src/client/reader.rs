//! Reading snapshots.

use super::Client;
use super::core::refused;
use super::pace::Pace;
use crate::error::{NetError, Result};
use crate::frames::{self, lost};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use tokio::sync::mpsc;
use umbra_common::node::{Node, NodeSource};
use umbra_common::wire::{
    List, MAX_CONTROL_FRAME_BYTES, MAX_OBJECT_FRAME_BYTES, MAX_READ_ITEMS, MAX_READ_OBJECTS,
    Object, Plain, ReadItem, RefusalCode, Reply, Request,
};
use umbra_common::{Kind, ObjectId, Reference};

/// Answers of one request that wait for their reader.
const QUEUE: usize = 16;
/// Most steps from a manifest down to a node.
const MAX_DEPTH: usize = 4096;
/// Attempts without any progress after which a read is given up.
const MAX_FAILURES: u32 = 20;
/// Most snapshots of a list, and bytes of all of them: a vault that goes on and on is stopped.
const MAX_LISTED: usize = 1_000_000;
const MAX_LISTED_BYTES: usize = 1 << 30;
/// Most numbers asked of one node in one item, so that an item stays far below a frame.
const MAX_NUMBERS: usize = MAX_READ_OBJECTS / 2;

/// Reads snapshots. Clones share the session; every object is proven against its id before it is
/// handed over. Calls from several threads run at the same time.
#[derive(Clone, Debug)]
pub struct Reader {
    client: Client,
}

/// One snapshot of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The receipt as it is stored.
    pub receipt: Vec<u8>,
    /// The manifest, where it was asked for and could be read; its id is proven, but whether it is
    /// the one that the receipt names is for the caller to compare.
    pub manifest: Option<Plain>,
}

/// Objects wanted of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// A node that was read through this reader, or a clone, before.
    pub node: Reference,
    /// (position in the node's reference list, what stands there).
    pub objects: Vec<(u32, Reference)>,
}

/// What is still to come: index of the caller's item, number -> what it must be.
type Open = HashMap<(usize, u32), Reference>;

impl Reader {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Lists the snapshots that this session may see, oldest first.
    ///
    /// # Errors
    /// [`NetError::Refused`], [`NetError::Unavailable`], [`NetError::Damaged`].
    pub fn list(&self, list: &List) -> Result<Vec<Listed>> {
        self.until_done(|| {
            let mut listed = Vec::new();
            let mut bytes = 0_usize;
            self.exchange(&Request::List(list.clone()), &mut |reply| match reply {
                Reply::Snapshot(entry) => {
                    let manifest = entry.manifest.map(proven).transpose()?;
                    let body = manifest.as_ref().map_or(0, |plain| plain.body.len());
                    bytes = bytes.saturating_add(entry.receipt.len()).saturating_add(body);
                    if listed.len() >= MAX_LISTED || bytes > MAX_LISTED_BYTES {
                        let reason = "a list of snapshots that does not end";
                        return Err(NetError::Protocol { reason, source: None });
                    }
                    listed.push(Listed { receipt: entry.receipt, manifest });
                    Ok(())
                }
                _ => Err(unasked()),
            })?;
            Ok(listed)
        })
    }

    /// Fetches a manifest, from which everything else is reached.
    ///
    /// # Errors
    /// [`NetError::Refused`] ([`NotFound`](RefusalCode::NotFound) where there is no such snapshot
    /// for this session), [`NetError::Unavailable`], [`NetError::Damaged`].
    pub fn open(&self, snapshot: ObjectId) -> Result<Plain> {
        self.until_done(|| {
            let mut manifest = None;
            self.exchange(&Request::Open { snapshot }, &mut |reply| match reply {
                Reply::Object(served) if manifest.is_none() => {
                    let plain = proven(served.object)?;
                    if plain.reference != (Reference { kind: Kind::Manifest, id: snapshot }) {
                        return Err(unasked());
                    }
                    manifest = Some(plain);
                    Ok(())
                }
                _ => Err(unasked()),
            })?;
            manifest.ok_or_else(unasked)
        })
    }

    /// Fetches objects that nodes refer to, in the order of the vault's packs, which is not that of
    /// the items. Each object is proven to be the one that `items` says; one that stands twice
    /// under the same item and number comes once.
    ///
    /// `each` gets (index of the item, reference number, the object or why this one cannot be
    /// had); an error that it returns ends the read.
    ///
    /// # Errors
    /// [`NetError::Refused`], [`NetError::Unavailable`], and the errors of `each`.
    pub fn read<E: From<NetError>>(
        &self,
        items: &[Wanted],
        each: &mut dyn FnMut(usize, u32, Result<Plain>) -> Result<(), E>,
    ) -> Result<(), E> {
        for batch in batches(items) {
            self.read_batch(items, batch, each)?;
        }
        Ok(())
    }

    fn read_batch<E: From<NetError>>(
        &self,
        items: &[Wanted],
        mut open: Open,
        each: &mut dyn FnMut(usize, u32, Result<Plain>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut failures = 0_u32;
        let mut left = open.len();
        while !open.is_empty() {
            let mut stopped = None;
            let (request, origin) = request(items, &open);
            let asked = self.exchange(&Request::Read { items: request.clone() }, &mut |reply| {
                let (place, result) = answer(reply, &origin, &mut open)?;
                if let (Ok(plain), Some(item)) = (&result, items.get(place.0)) {
                    self.remember(plain.reference, item.node, place.1);
                }
                each(place.0, place.1, result).map_err(|error| {
                    stopped = Some(error);
                    NetError::Closed
                })
            });
            if let Some(error) = stopped {
                return Err(error);
            }
            failures = if open.len() < left { 0 } else { failures.saturating_add(1) };
            left = open.len();
            match asked {
                Ok(()) if !open.is_empty() => return Err(unasked().into()),
                Ok(()) => {}
                Err(error) if failures > MAX_FAILURES => return Err(error.into()),
                Err(NetError::Lost { .. }) => {}
                // Another connection than the one on which these nodes were served.
                Err(NetError::Refused { code: RefusalCode::NotServed, .. }) => {
                    self.walk_to(&request)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Has the vault serve the way from the manifests down to the nodes of `items` once more, as
    /// it served them on a connection that was lost.
    fn walk_to(&self, items: &[ReadItem]) -> Result<()> {
        let mut walked = HashSet::new();
        for item in items {
            let mut way = Vec::new();
            let mut at = item.node;
            while at.kind != Kind::Manifest && !walked.contains(&at) {
                let parents = &self.client.core.parents;
                let parents = parents.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(&(parent, number)) = parents.get(&at).filter(|_| way.len() < MAX_DEPTH)
                else {
                    return Err(NetError::Misuse { reason: "a node that was not read before" });
                };
                way.push((parent, number, at));
                at = parent;
            }
            if walked.insert(at) {
                self.open(at.id)?;
            }
            for (parent, number, node) in way.into_iter().rev() {
                let items = vec![ReadItem { node: parent, numbers: vec![number] }];
                match self.exchange(&Request::Read { items }, &mut |_| Ok(())) {
                    // Lost once more: whoever asked tries all of it again.
                    Err(NetError::Lost { .. }) => return Ok(()),
                    other => other?,
                }
                walked.insert(node);
            }
        }
        Ok(())
    }

    fn remember(&self, node: Reference, parent: Reference, number: u32) {
        if node.kind.is_node() {
            let parents = &self.client.core.parents;
            let mut parents = parents.lock().unwrap_or_else(PoisonError::into_inner);
            parents.entry(node).or_insert((parent, number));
        }
    }

    /// Asks again while the connection is lost over it.
    fn until_done<T>(&self, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
        let mut failures = 0_u32;
        loop {
            match ask() {
                Err(NetError::Lost { .. }) if failures < MAX_FAILURES => {
                    failures = failures.saturating_add(1);
                }
                other => return other,
            }
        }
    }

    /// Sends one request on a stream of its own and hands over what comes before the end.
    fn exchange(&self, request: &Request, each: &mut dyn FnMut(Reply) -> Result<()>) -> Result<()> {
        let bytes = frames::encode(request, MAX_CONTROL_FRAME_BYTES)?;
        let connection = self.client.core.connection()?;
        let (replies, mut queue) = mpsc::channel(QUEUE);
        let pace = Arc::clone(&self.client.core.download);
        self.client.core.handle.spawn(async move {
            if let Err(error) = fetch(&connection, &bytes, &replies, &pace).await {
                // The reader may be gone already, which is why this was cut short.
                let _ = replies.send(Err(error)).await;
            }
        });
        while let Some(reply) = queue.blocking_recv() {
            match reply? {
                Reply::Done => return Ok(()),
                Reply::Refused(refusal) => return Err(refused(refusal)),
                reply => {
                    each(reply)?;
                    self.client.core.lock().brought_on();
                }
            }
        }
        Err(lost(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)))
    }
}

impl NodeSource for Reader {
    fn child(
        &self,
        parent: &Reference,
        number: u32,
        want: &Reference,
    ) -> umbra_common::Result<Arc<Node>> {
        let children = self.children(parent, &[number], std::slice::from_ref(want))?;
        children.into_iter().next().ok_or_else(|| unavailable(want, unasked()))
    }

    fn children(
        &self,
        parent: &Reference,
        numbers: &[u32],
        want: &[Reference],
    ) -> umbra_common::Result<Vec<Arc<Node>>> {
        let objects: Vec<_> = numbers.iter().copied().zip(want.iter().copied()).collect();
        let items = [Wanted { node: *parent, objects: objects.clone() }];
        let mut nodes: HashMap<u32, Arc<Node>> = HashMap::new();
        let mut failed = None;
        let outcome = self.read(&items, &mut |_, number, plain| {
            let plain = plain?;
            let node = Node { kind: plain.reference.kind, refs: plain.refs, body: plain.body };
            if let Err(error) = node.check() {
                failed.get_or_insert(error);
            }
            nodes.insert(number, Arc::new(node));
            Ok::<(), NetError>(())
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let first = want.first();
        outcome.map_err(|error| match first {
            Some(want) => unavailable(want, error),
            None => umbra_common::Error::Limit { what: "children asked", limit: 0 },
        })?;
        let found = objects.iter().map(|(number, want)| {
            nodes.get(number).map(Arc::clone).ok_or_else(|| unavailable(want, unasked()))
        });
        found.collect()
    }
}

/// Cuts what is wanted into requests that the vault takes.
fn batches(items: &[Wanted]) -> Vec<Open> {
    let mut batches = Vec::new();
    let mut open = Open::new();
    let mut nodes = 0_usize;
    for (index, item) in items.iter().enumerate() {
        for numbers in item.objects.chunks(MAX_NUMBERS) {
            let full = open.len().saturating_add(numbers.len()) > MAX_READ_OBJECTS;
            if full || nodes >= MAX_READ_ITEMS {
                batches.push(std::mem::take(&mut open));
                nodes = 0;
            }
            nodes = nodes.saturating_add(1);
            open.extend(numbers.iter().map(|(number, want)| ((index, *number), *want)));
        }
    }
    batches.push(open);
    batches
}

/// Makes the items of a request for what is open, and for each the index of the caller's item.
fn request(items: &[Wanted], open: &Open) -> (Vec<ReadItem>, Vec<usize>) {
    let mut numbers: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (index, number) in open.keys() {
        numbers.entry(*index).or_default().push(*number);
    }
    let mut asked = Vec::new();
    let mut origin = Vec::new();
    for (index, mut numbers) in numbers {
        let Some(item) = items.get(index) else { continue };
        numbers.sort_unstable();
        asked.push(ReadItem { node: item.node, numbers });
        origin.push(index);
    }
    (asked, origin)
}

/// Finds out what a reply answers, and proves it.
fn answer(
    reply: Reply,
    origin: &[usize],
    open: &mut Open,
) -> Result<((usize, u32), Result<Plain>)> {
    let (item, number, result) = match reply {
        Reply::Object(served) => (served.item, served.number, Ok(served.object)),
        Reply::Failed { item, number, refusal } => (item, number, Err(refused(refusal))),
        _ => return Err(unasked()),
    };
    let index = usize::try_from(item).ok().and_then(|item| origin.get(item).copied());
    let place = (index.ok_or_else(unasked)?, number);
    let want = open.remove(&place).ok_or_else(unasked)?;
    let plain = result.and_then(|object| match object.reference == want {
        true => proven(object),
        false => Err(unasked()),
    });
    Ok((place, plain))
}

async fn fetch(
    connection: &quinn::Connection,
    request: &[u8],
    replies: &mpsc::Sender<Result<Reply>>,
    pace: &Pace,
) -> Result<()> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(lost)?;
    send.write_all(request).await.map_err(lost)?;
    send.finish().map_err(lost)?;
    while let Some(length) = frames::read_length(&mut receive, MAX_OBJECT_FRAME_BYTES).await? {
        // While this waits, what the vault may send fills its window and stops there.
        pace.wait(length).await;
        let reply = frames::read_body(&mut receive, length).await?;
        if replies.send(Ok(reply)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn proven(object: Object) -> Result<Plain> {
    object.open().map_err(NetError::Damaged)
}

fn unasked() -> NetError {
    NetError::Protocol { reason: "the vault answers something else than was asked", source: None }
}

fn unavailable(reference: &Reference, error: NetError) -> umbra_common::Error {
    umbra_common::Error::Unavailable { reference: *reference, source: Box::new(error) }
}
