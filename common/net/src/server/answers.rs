//! Answers on their way from a reading thread to the stream of their request.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use umbra_common::wire::{Object, Reply};

/// Bytes of answers that wait for their stream; one answer more may be among them.
const WAITING_BYTES: u64 = 256 << 10;
/// What an answer counts beside its object.
const ENTRY_BYTES: u64 = 1024;
/// How long one pass of a thread waits for its peer, all its waits together.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers that wait for their stream. A thread puts them in, a task takes them out; a thread
/// whose peer does not read is let go, and comes again when everything has been read.
#[derive(Default)]
pub(super) struct Answers {
    inside: Mutex<Inside>,
    /// There is room, or nobody wants answers any more.
    room: Condvar,
    /// There is an answer.
    filled: Notify,
}

#[derive(Default)]
struct Inside {
    waiting: VecDeque<Reply>,
    bytes: u64,
    /// How long the present pass has waited.
    waited: Duration,
    closed: bool,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It goes out.
    Taken,
    /// It was thrown away: the peer does not read fast enough.
    Full,
    /// It was thrown away: nobody waits for it.
    Gone,
}

impl Answers {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread begins to read: it may wait anew.
    pub(super) fn begin_pass(&self) {
        self.inside().waited = Duration::ZERO;
    }

    /// Puts an answer in. Blocks while too much waits, but not for long.
    pub(super) fn push(&self, reply: Reply) -> Pushed {
        let mut inside = self.inside();
        while inside.bytes >= WAITING_BYTES && !inside.closed {
            let left = PATIENCE.saturating_sub(inside.waited);
            if left.is_zero() {
                return Pushed::Full;
            }
            let start = Instant::now();
            let woken = self.room.wait_timeout(inside, left);
            inside = woken.unwrap_or_else(PoisonError::into_inner).0;
            inside.waited = inside.waited.saturating_add(start.elapsed());
        }
        if inside.closed {
            return Pushed::Gone;
        }
        inside.bytes = inside.bytes.saturating_add(weight(&reply));
        inside.waiting.push_back(reply);
        drop(inside);
        self.filled.notify_one();
        Pushed::Taken
    }

    /// Takes the next answer out, if there is one.
    pub(super) fn pop(&self) -> Option<Reply> {
        let mut inside = self.inside();
        let reply = inside.waiting.pop_front()?;
        inside.bytes = inside.bytes.saturating_sub(weight(&reply));
        drop(inside);
        self.room.notify_one();
        Some(reply)
    }

    /// Waits for an answer and takes it out.
    pub(super) async fn next(&self) -> Reply {
        loop {
            if let Some(reply) = self.pop() {
                return reply;
            }
            // One waits at most, and a notice that comes before it waits is kept.
            self.filled.notified().await;
        }
    }

    /// Nobody wants answers any more.
    fn close(&self) {
        self.inside().closed = true;
        self.room.notify_all();
    }
}

fn weight(reply: &Reply) -> u64 {
    let object = match reply {
        Reply::Object(served) => served.object.weight(),
        Reply::Snapshot(entry) => {
            let receipt = u64::try_from(entry.receipt.len()).unwrap_or(u64::MAX);
            receipt.saturating_add(entry.manifest.as_ref().map_or(0, Object::weight))
        }
        Reply::Done | Reply::Refused(_) | Reply::Failed { .. } => 0,
    };
    object.saturating_add(ENTRY_BYTES)
}

/// Closes the answers when their request ends, however it ends.
pub(super) struct Closing<'a>(pub(super) &'a Answers);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
