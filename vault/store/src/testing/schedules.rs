//! Random schedules of a store's whole life against a simple model of what it has promised.
//!
//! A seed makes disks, and steps: sessions that interleave, reading, ends in order and in
//! disorder, faults of the disk, harm to what it holds. After each step whatever was promised
//! must hold. The same seed makes the same disks and the same steps; how the threads of the store
//! meet is another matter, so a seed that fails may have to be run more than once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

mod backup;
mod collect;
mod harm;
mod model;
mod runner;
mod sessions;
mod step;
mod verify;
mod world;

use runner::Runner;

/// How long a schedule may take before it counts as one that hangs.
const TOO_LONG: Duration = Duration::from_secs(300);

/// What goes wrong in a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Kills, power cuts, faults: nothing promised is lost, and no damage is told of.
    Crashes,
    /// At its end the medium harms the store: no wrong byte is given, and a check finds it all.
    Damage,
}

/// What was done, and how much of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Schedules.
    pub schedules: u64,
    /// Steps, by name.
    pub steps: BTreeMap<&'static str, u64>,
    /// Processes that were killed.
    pub kills: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Times that a store was opened.
    pub openings: u64,
    /// Operations of the disk that met a fault.
    pub faults: u64,
    /// Places that were harmed.
    pub harms: u64,
    /// Objects that were read and compared.
    pub objects_read: u64,
    /// Their stored bytes.
    pub bytes_compared: u64,
    /// Receipts that were given.
    pub receipts: u64,
    /// Checks of a whole store.
    pub checks: u64,
    /// Objects that could not be read after harm was done; each was found by a check.
    pub objects_lost: u64,
}

impl Stats {
    /// Adds what others did.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.steps {
            let total = self.steps.entry(name).or_default();
            *total = total.saturating_add(*count);
        }
        let pairs = [
            (&mut self.schedules, other.schedules),
            (&mut self.kills, other.kills),
            (&mut self.power_cuts, other.power_cuts),
            (&mut self.openings, other.openings),
            (&mut self.faults, other.faults),
            (&mut self.harms, other.harms),
            (&mut self.objects_read, other.objects_read),
            (&mut self.bytes_compared, other.bytes_compared),
            (&mut self.receipts, other.receipts),
            (&mut self.checks, other.checks),
            (&mut self.objects_lost, other.objects_lost),
        ];
        for (total, more) in pairs {
            *total = total.saturating_add(more);
        }
    }
}

/// A promise that was broken, or a schedule that hangs.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What sort of schedule.
    pub kind: Kind,
    /// The steps that were done, and what they did; the last is the one that failed.
    pub steps: Vec<String>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} schedule of UMBRA_TEST_SEED={}:", self.kind, self.seed)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {number}: {step}")?;
        }
        write!(f, "{}", self.reason)
    }
}

impl std::error::Error for Failure {}

/// The steps so far, for whoever asks what a schedule that hangs was doing.
#[derive(Clone, Default)]
struct Trace {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Trace {
    fn step(&self, line: String) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Says more of the last step.
    fn note(&self, more: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.last_mut() {
            line.push_str(" | ");
            line.push_str(more);
        }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs the schedule of a seed on a thread of its own.
///
/// # Errors
/// What was promised and not kept; a panic; that it hangs (its thread is then left behind).
pub fn run(seed: u64, kind: Kind) -> Result<Stats, Box<Failure>> {
    let trace = Trace::default();
    let lines = trace.clone();
    let failure = |reason| Box::new(Failure { seed, kind, steps: trace.lines(), reason });
    let (done, ended) = mpsc::channel();
    let run = move || {
        // Nobody listens any more where it took too long.
        let _ = done.send(Runner::new(seed, lines).and_then(|runner| runner.run(kind)));
    };
    let thread = std::thread::Builder::new().name(format!("schedule-{seed}")).spawn(run);
    let thread = thread.map_err(|error| failure(format!("no thread: {error}")))?;
    match ended.recv_timeout(TOO_LONG) {
        Ok(outcome) => {
            let joined = thread.join();
            outcome.and_then(|stats| joined.map(|()| stats).map_err(said)).map_err(failure)
        }
        Err(RecvTimeoutError::Timeout) => Err(failure("it hangs".to_owned())),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().err().map_or_else(String::new, said);
            Err(failure(format!("it panicked: {panic}")))
        }
    }
}

fn said(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
