//! Does the steps of a schedule, and keeps a store open meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use umbra_common::snapshot::SessionNonce;

use super::model::Model;
use super::sessions::{Sent, Slot};
use super::step::{End, Order, SLOTS, Step, steps};
use super::world::World;
use super::{Kind, Stats, Trace};
use crate::error::{Error, Result, chain};
use crate::ids::{StoreId, Timestamp};
use crate::store::{InitOptions, OpenMode, OpenOptions, Store};
use crate::testing::{JournaledIndex, SimVfs};
use crate::vfs::Vfs;

/// What a step says: a promise that was broken.
pub(super) type Kept<T = ()> = Result<T, String>;

/// A schedule that is under way.
pub(super) struct Runner {
    pub(super) seed: u64,
    pub(super) world: World,
    pub(super) model: Model,
    pub(super) vfs: SimVfs,
    pub(super) index: JournaledIndex,
    pub(super) store: Option<Store>,
    pub(super) reader: Option<Store>,
    pub(super) slots: Vec<Option<Slot>>,
    /// What sessions put that ended; the store may still tell of it.
    pub(super) given_up: Vec<Sent>,
    /// The last nonce of each version's backups.
    pub(super) nonces: BTreeMap<usize, SessionNonce>,
    /// A fault was set since the store was opened, or before: calls may fail.
    pub(super) trouble: bool,
    /// Something failed, or was to fail, while the store was opened: what it could not copy out of
    /// packs of an earlier process can be read, and is not known until the next opening.
    pub(super) cramped: bool,
    /// A rebuild failed: nothing works until the store is opened anew.
    pub(super) half_made: bool,
    /// The index lost no batches at the end before the harm.
    pub(super) index_is_whole: bool,
    /// So far no process was killed, no power went and nothing failed.
    pub(super) orderly: bool,
    /// What a crash that was set is to be.
    pub(super) set_end: Option<End>,
    pub(super) slow: Option<u64>,
    pub(super) now: i64,
    pub(super) stats: Stats,
    pub(super) trace: Trace,
}

impl Runner {
    /// Makes disks and a store.
    pub(super) fn new(seed: u64, trace: Trace) -> Kept<Self> {
        let world = World::new(seed).map_err(|error| chain(&error))?;
        let runner = Self {
            seed,
            world,
            model: Model::default(),
            vfs: SimVfs::default(),
            index: JournaledIndex::default(),
            store: None,
            reader: None,
            slots: (0..SLOTS).map(|_| None).collect(),
            given_up: Vec::new(),
            nonces: BTreeMap::new(),
            trouble: false,
            cramped: false,
            half_made: false,
            index_is_whole: true,
            orderly: true,
            set_end: None,
            slow: None,
            now: 1,
            stats: Stats { schedules: 1, ..Stats::default() },
            trace,
        };
        let options = InitOptions { store: StoreId([0x5a; 16]), now: Timestamp(1) };
        Store::init(&runner.vfs(), &options).map_err(|error| chain(&error))?;
        Ok(runner)
    }

    /// Does all steps, and then what every schedule ends with.
    pub(super) fn run(mut self, kind: Kind) -> Kept<Stats> {
        let versions = self.world.versions.len();
        let objects = self.world.objects.len();
        self.trace.step(format!("{versions} backups of {objects} objects; the store is opened"));
        self.open()?;
        for step in steps(self.seed, kind) {
            self.trace.step(format!("{step:?}"));
            let name = step.name();
            let count = self.stats.steps.entry(name).or_default();
            *count = count.saturating_add(1);
            self.run_step(step)?;
            self.settle()?;
            self.come_back()?;
        }
        if kind == Kind::Crashes {
            self.trace.step("the end".to_owned());
            self.finish()?;
        }
        self.stats.receipts = crate::bytes::wide(self.model.receipts().count());
        Ok(self.stats)
    }

    /// The storage, as a store takes it.
    pub(super) fn vfs(&self) -> Arc<dyn Vfs> {
        Arc::new(self.vfs.clone())
    }

    pub(super) fn now(&mut self) -> Timestamp {
        self.now = self.now.saturating_add(1_000_000_000);
        Timestamp(self.now)
    }

    /// Returns the open store.
    pub(super) fn store(&self) -> Kept<&Store> {
        self.store.as_ref().ok_or_else(|| "no store is open".to_owned())
    }

    /// Lets an error pass where something was made to fail.
    pub(super) fn unless_trouble<T>(&mut self, what: &str, done: Result<T>) -> Kept<Option<T>> {
        match done {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let text = chain(&error);
                self.half_made |= matches!(error.root(), Error::IndexHalfMade);
                if !self.trouble {
                    return Err(format!("{what}, and nothing was to fail: {text}"));
                }
                self.trace.note(&format!("{what}: {text}"));
                Ok(None)
            }
        }
    }

    fn has_faults(&self) -> bool {
        self.vfs.has_faults() || self.index.has_faults() || self.vfs.free_bytes() < 10 << 30
    }

    pub(super) fn end_faults(&mut self) {
        self.vfs.clear_faults();
        self.vfs.fail_partly(None);
        self.index.clear_faults();
        self.vfs.set_free_bytes(100 << 30);
        self.set_end = None;
    }

    /// How a store of this schedule is opened.
    pub(super) fn options(&self, mode: OpenMode) -> OpenOptions {
        let index = Box::new(self.index.clone());
        let mut seed = blake3::Hasher::new();
        seed.update(&self.seed.to_le_bytes());
        seed.update(&self.stats.openings.to_le_bytes());
        let seed = *seed.finalize().as_bytes();
        let mut options = OpenOptions::owner(index, seed, 1234, Timestamp(self.now));
        options.mode = mode;
        options.group_commit = Duration::from_millis(1);
        // Most stores have many packs, as most real ones.
        options.pack_bytes = match self.seed % 4 {
            0 => options.pack_bytes,
            1 => 64 << 10,
            2 => 20 << 10,
            _ => 4 << 10,
        };
        options
    }

    /// Opens the store; where that was made to fail, again and without faults.
    pub(super) fn open(&mut self) -> Kept {
        for _ in 0..8 {
            self.stats.openings = self.stats.openings.saturating_add(1);
            let faults = self.has_faults();
            match Store::open(self.vfs(), self.options(OpenMode::ReadWrite)) {
                Ok(store) => {
                    self.store = Some(store);
                    self.trouble = faults;
                    self.cramped = faults;
                    self.half_made = false;
                    let damage = self.store()?.damage();
                    if !damage.is_empty() {
                        return Err(format!("an opening tells of damage: {damage:?}"));
                    }
                    return Ok(());
                }
                Err(error) if faults => {
                    self.trace.note(&format!("opening failed: {}", chain(&error)));
                    if self.vfs.is_halted() {
                        let end = self.set_end.take().unwrap_or(End::Kill);
                        self.fall(end)?;
                    } else {
                        self.end_faults();
                    }
                }
                Err(error) => return Err(format!("it cannot be opened: {}", chain(&error))),
            }
        }
        Err("it cannot be opened, whatever is done".to_owned())
    }

    /// Takes what sessions were told, and lets them bring again what failed.
    pub(super) fn settle(&mut self) -> Kept {
        let mut failed = Vec::new();
        for slot in self.slots.iter_mut().flatten() {
            for (reference, why) in slot.sent.settle(&mut self.model) {
                slot.again(reference, false);
                failed.push(why);
            }
        }
        for sent in &mut self.given_up {
            failed.extend(sent.settle(&mut self.model).into_iter().map(|(_, why)| why));
        }
        match failed.first() {
            Some(why) if !self.trouble => {
                Err(format!("{} objects failed, and nothing was to fail: {why}", failed.len()))
            }
            Some(why) => {
                self.trace.note(&format!("{} objects failed: {why}", failed.len()));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Opens the store again where the last step was the end of it.
    fn come_back(&mut self) -> Kept {
        if self.vfs.is_halted() {
            let end = self.set_end.take().unwrap_or(End::Kill);
            self.trace.note(&format!("that was the end: {end:?}"));
            self.fall(end)?;
            self.open()?;
            self.verify()?;
        } else if self.half_made {
            self.trace.note("opened anew");
            self.end(End::Drop)?;
            self.open()?;
            self.verify()?;
        }
        Ok(())
    }

    /// Ends the store in order, or not.
    pub(super) fn end(&mut self, end: End) -> Kept {
        match end {
            End::Close | End::Drop => {
                self.give_up_sessions();
                self.reader = None;
                let closed = match (self.store.take(), end) {
                    (Some(store), End::Close) => store.close(),
                    (store, _) => {
                        drop(store);
                        Ok(())
                    }
                };
                let half_made = self.half_made;
                self.unless_trouble("it could not be closed", closed)?;
                self.half_made = half_made;
                self.settle()?;
                self.given_up.clear();
                if self.vfs.is_halted() {
                    let end = self.set_end.take().unwrap_or(End::Kill);
                    self.fall(end)?;
                }
                Ok(())
            }
            _ => self.fall(end),
        }
    }

    /// Kills the process, or takes the power away.
    pub(super) fn fall(&mut self, end: End) -> Kept {
        self.vfs.halt();
        self.orderly = false;
        // From here on nothing becomes durable; what was told before that may still be looked at.
        self.trouble = true;
        self.give_up_sessions();
        self.reader = None;
        self.store = None;
        self.settle()?;
        self.given_up.clear();
        self.set_end = None;
        self.stats.faults = self.stats.faults.saturating_add(self.vfs.faults_met());
        let index = |index: Result<JournaledIndex>| index.map_err(|error| chain(&error));
        let power_cut = match end {
            End::PowerCut(seed) | End::KillThenPowerCut(seed) => Some(seed),
            End::Close | End::Drop | End::Kill => None,
        };
        match power_cut {
            Some(seed) => {
                self.stats.power_cuts = self.stats.power_cuts.saturating_add(1);
                self.vfs = self.vfs.after_power_cut(seed);
                self.index = index(self.index.after_power_cut(seed))?;
            }
            None => {
                self.stats.kills = self.stats.kills.saturating_add(1);
                self.vfs = self.vfs.after_kill();
                self.index = index(self.index.after_kill())?;
            }
        }
        self.vfs.slow_down(self.slow);
        Ok(())
    }

    pub(super) fn give_up_sessions(&mut self) {
        let slots = self.slots.iter_mut();
        self.given_up.extend(slots.filter_map(Option::take).map(|slot| slot.sent));
    }

    fn run_step(&mut self, step: Step) -> Kept {
        match step {
            Step::Begin { slot, version, with_base, same_nonce, order } => {
                self.begin(slot, version, with_base, same_nonce)?;
                if let (Order::Any(seed), Some(Some(slot))) = (order, self.slots.get_mut(slot)) {
                    slot.shuffle(seed);
                }
                Ok(())
            }
            Step::Ask { slot } => self.ask(slot),
            Step::Put { slot, count } => self.put(slot, count).map(drop),
            Step::PutAll { slot } => self.put_all(slot),
            Step::Commit { slot } => self.commit(slot),
            Step::GiveUp { slot } => {
                let ended = self.slots.get_mut(slot).and_then(Option::take);
                self.given_up.extend(ended.map(|slot| slot.sent));
                Ok(())
            }
            Step::CommitAgain { which } => self.commit_again(which),
            Step::Flush => {
                let flushed = self.store()?.flush();
                self.unless_trouble("flushing failed", flushed).map(drop)
            }
            Step::Read { which, many } => self.read(which, many),
            Step::ReadBeside { fresh } => self.read_beside(fresh),
            Step::Forget { which } => self.forget(which),
            Step::Collect { with_sessions } => self.collect(with_sessions),
            Step::Rebuild => self.rebuild(),
            Step::Reopen(end) => {
                self.end(end)?;
                self.open()?;
                self.verify()
            }
            Step::LoseIndex(end) => {
                self.end(end)?;
                self.index = JournaledIndex::default();
                self.open()?;
                self.verify()
            }
            Step::Check => self.check(),
            Step::Verify => self.verify(),
            Step::Slow { seed } => {
                self.slow = seed;
                self.vfs.slow_down(seed);
                Ok(())
            }
            Step::Damage { end, seed, harms, harm } => self.damage(end, seed, harms, harm),
            trouble => {
                self.make_trouble(trouble);
                Ok(())
            }
        }
    }

    /// Sets a fault.
    fn make_trouble(&mut self, step: Step) {
        self.trouble = true;
        self.orderly = false;
        match step {
            Step::EndWithin { operations, end } => {
                let at = self.vfs.operations().saturating_add(operations);
                self.vfs.fault_at(at, crate::testing::Fault::Crash);
                self.set_end = Some(end);
            }
            Step::FaultWithin { operations, fault } => {
                self.vfs.fault_at(self.vfs.operations().saturating_add(operations), fault);
            }
            Step::SyncFaultWithin { syncs, fault, partly } => {
                self.vfs.fail_partly(partly);
                self.vfs.fault_at_sync(self.vfs.syncs().saturating_add(syncs), fault);
            }
            Step::IndexFaultWithin { batches } => self.index.fail_after(batches),
            Step::Room { free_bytes } => {
                self.vfs.set_free_bytes(free_bytes.unwrap_or(100 << 30));
            }
            _ => {}
        }
    }

    fn rebuild(&mut self) -> Kept {
        let now = self.now();
        let rebuilt = self.store()?.rebuild_index(now);
        let failed = rebuilt.is_err();
        self.unless_trouble("the index could not be made anew", rebuilt)?;
        // Where the LOG alone failed the index is whole, and opening anew does no harm.
        self.half_made |= failed;
        Ok(())
    }
}
