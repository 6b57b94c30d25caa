//! Making parity beside sealed packs: one thread, behind everything that somebody waits for.
//!
//! A pack without parity is a good pack. What is not made (a full queue, no room, a crash) is made
//! after the next opening, or by a repair.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::ids::PackId;
use crate::pack::{Parity, contents_name, parity_name, sealed_name};
use crate::store::contents::{pack_of, range};
use crate::store::inner::{Inner, locked};

/// Packs that wait for their parity; those that come while so many wait are left for later.
const MAX_WAITING: usize = 256;

/// Longest rest between two packs of earlier processes.
const MAX_REST: Duration = Duration::from_secs(1);

/// The packs that get parity.
#[derive(Default)]
pub(crate) struct ParityQueue {
    state: Mutex<QueueState>,
    work: Condvar,
    /// Held while the parity of a pack is made or deleted with it.
    making: Mutex<()>,
}

/// How long an end goes on making parity.
const MAX_END: Duration = Duration::from_millis(500);

#[derive(Default)]
struct QueueState {
    /// Somebody makes parity in this store.
    open: bool,
    /// Sealed by this process.
    sealed: VecDeque<PackId>,
    /// Left without parity by earlier ones.
    left: Vec<PackId>,
    busy: bool,
    /// Since when it is to end.
    stopping: Option<Instant>,
}

enum Next {
    Sealed(PackId),
    Left(PackId),
    Stop,
}

impl ParityQueue {
    /// Makes the queue of a store whose packs get parity, or of one whose packs do not.
    pub(crate) fn new(open: bool) -> Self {
        let queue = Self::default();
        queue.state().open = open;
        queue
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether packs get parity.
    pub(crate) fn is_open(&self) -> bool {
        self.state().open
    }

    /// Adds a pack that was sealed, if there is room.
    pub(crate) fn sealed(&self, pack: PackId) {
        let mut state = self.state();
        if state.open && state.sealed.len() < MAX_WAITING {
            state.sealed.push_back(pack);
            self.work.notify_all();
        }
    }

    /// Lets the thread make what was sealed by this process, and end.
    pub(crate) fn stop(&self) {
        self.state().stopping.get_or_insert_with(Instant::now);
        self.work.notify_all();
    }

    /// Waits for work, or for the end of a rest: packs of earlier processes wait for that.
    fn next(&self, rest: Duration) -> Next {
        let rested = Instant::now().checked_add(rest);
        let mut state = self.state();
        state.busy = false;
        self.work.notify_all();
        loop {
            // Nobody waits for it long: what is left is made after the next opening.
            if state.stopping.is_some_and(|since| since.elapsed() > MAX_END) {
                return Next::Stop;
            }
            if let Some(pack) = state.sealed.pop_front() {
                state.busy = true;
                return Next::Sealed(pack);
            }
            if state.stopping.is_some() {
                return Next::Stop;
            }
            let left = rested.map_or(Duration::ZERO, |at| at.duration_since(Instant::now()));
            if left.is_zero()
                && let Some(pack) = state.left.pop()
            {
                state.busy = true;
                return Next::Left(pack);
            }
            let wait = if state.left.is_empty() { Duration::from_secs(3600) } else { left };
            let waited = self.work.wait_timeout(state, wait);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until nothing is left to be made.
    #[cfg(test)]
    pub(crate) fn wait_idle(&self) {
        let mut state = self.state();
        while state.busy || !state.sealed.is_empty() || !state.left.is_empty() {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Inner {
    /// Makes parity until it is told to stop.
    pub(crate) fn run_parity(&self) {
        let mut rest = Duration::ZERO;
        loop {
            let (pack, is_left) = match self.parity.next(rest) {
                Next::Sealed(pack) => (pack, false),
                Next::Left(pack) => (pack, true),
                Next::Stop => return,
            };
            let began = Instant::now();
            if self.make_parity(pack).is_err() {
                // What a failed sync of the directory left in doubt is not only our own name.
                self.doubt();
            }
            // As long a rest as the work was: half of the disk's time at most.
            rest = if is_left { began.elapsed().min(MAX_REST) } else { Duration::ZERO };
        }
    }

    /// Finds the sealed packs that have no parity, for the thread to make it.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn queue_missing_parity(&self) -> Result<()> {
        if self.parity.is_open() {
            let missing = self.without_parity()?;
            self.parity.state().left = missing;
            self.parity.work.notify_all();
        }
        Ok(())
    }

    /// Lists the sealed packs that have no parity object, sound or not.
    pub(crate) fn without_parity(&self) -> Result<Vec<PackId>> {
        let names = self.objects.list("packs/")?;
        let with: BTreeSet<PackId> =
            names.iter().filter_map(|name| pack_of(name.strip_suffix(".parity")?)).collect();
        let packs = names.iter().filter_map(|name| pack_of(name));
        Ok(packs.filter(|pack| !with.contains(pack)).collect())
    }

    /// Makes the parity of a sealed pack that has none; false where it is not made.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn make_parity(&self, pack: PackId) -> Result<bool> {
        // Of a pack that was taken over as it was left, with its table beside it, nobody knows
        // whether all bytes are on the disk: a power cut may change what parity was made of.
        let taken_over = self.objects.head(&contents_name(pack))?.is_some();
        if taken_over || self.objects.head(&parity_name(pack))?.is_some() {
            return Ok(false);
        }
        self.make_parity_anew(pack)
    }

    /// Makes the parity of a sealed pack, in the place of what stands there; false where it is not
    /// made, and then that stays.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn make_parity_anew(&self, pack: PackId) -> Result<bool> {
        let _making = locked(&self.parity.making);
        let (name, beside) = (sealed_name(pack), parity_name(pack));
        let Some(info) = self.objects.head(&name)? else { return Ok(false) };
        if !self.has_room_for_parity()? {
            return Ok(false);
        }
        let bytes = self.objects.get_ranges(&name, &[range(0, info.len)?])?;
        let bytes = bytes.first().map(Vec::as_slice).unwrap_or_default();
        // Of damaged bytes there is none: it would make damage look like what was written.
        if !self.is_sound_pack(pack, bytes)? {
            return Ok(false);
        }
        let Some(object) = Parity::make(self.store, pack, bytes) else { return Ok(false) };
        self.writable()?.check()?;
        if self.objects.head(&beside)?.is_some() {
            self.objects.delete(&beside)?;
        }
        self.objects.put_new(&beside, &object)?;
        Ok(true)
    }

    /// Parity never takes the room that is kept so that a full store can still be worked with.
    fn has_room_for_parity(&self) -> Result<bool> {
        let space = self.vfs.space().map_err(|error| Error::io("measure room on", "", error))?;
        Ok(space.free_bytes >= self.reserve(&space).saturating_add(crate::pack::PACK_BYTES))
    }

    /// Reads the parity of a pack, and the whole object; `None` where there is none that is sound.
    ///
    /// # Errors
    /// What the storage says, but for what the medium gives up.
    pub(crate) fn parity_of(&self, pack: PackId) -> Result<Option<(Parity, Vec<u8>)>> {
        let name = parity_name(pack);
        let Some(info) = self.objects.head(&name)? else { return Ok(None) };
        let read = |range| {
            let found = self.objects.get_ranges(&name, &[range]);
            found.map(|mut found| found.pop().unwrap_or_default())
        };
        let object = crate::store::tolerant::read(&read, info.len)?.bytes;
        let parity = Parity::decode(&object, &name).ok();
        let ours = parity.filter(|parity| parity.store == self.store && parity.pack == pack);
        Ok(ours.map(|parity| (parity, object)))
    }

    /// Deletes a sealed pack, then what stands beside it; returns how many bytes that gave back.
    /// A pack without its table would look damaged; a table without its pack is that of a pack that
    /// a sweep deletes, and goes when that is gone on with.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn delete_pack(&self, pack: PackId) -> Result<u64> {
        let _making = locked(&self.parity.making);
        let mut freed = 0u64;
        for name in [sealed_name(pack), contents_name(pack), parity_name(pack)] {
            if let Some(info) = self.objects.head(&name)? {
                self.objects.delete(&name)?;
                freed = freed.saturating_add(info.len);
            }
        }
        Ok(freed)
    }
}
