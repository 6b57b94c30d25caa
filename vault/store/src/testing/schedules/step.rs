//! What happens in a schedule, one after the other. A new operation of the store is a variant
//! here, a line in [`some`], and an arm in `Runner::run_step`.

use crate::testing::random::Random;
use crate::testing::schedules::Kind;
use crate::testing::{Fault, Harm};

/// Sessions at a time.
pub(super) const SLOTS: usize = 3;

/// How a store comes to its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Closed in order.
    Close,
    /// Dropped: as closed, but the index is not synced.
    Drop,
    /// Killed: what was written is there.
    Kill,
    /// The power goes: what was not synced is there or not.
    PowerCut(u64),
    /// Killed, and the power goes before anybody has opened it.
    KillThenPowerCut(u64),
}

/// In which order a session brings its objects.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// As an agent does.
    ChildrenFirst,
    /// Nodes before their children too: the store says what it misses.
    Any(u64),
}

/// One step. Numbers are choices: what there is to choose from is known when the step is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A session begins a backup; the one that had its place is given up.
    Begin { slot: usize, version: u64, with_base: bool, same_nonce: bool, order: Order },
    /// It asks what is known of what it has left, and leaves that out.
    Ask { slot: usize },
    /// It puts some objects.
    Put { slot: usize, count: u64 },
    /// It puts all that is left.
    PutAll { slot: usize },
    /// It commits, whether everything is there or not.
    Commit { slot: usize },
    /// It ends.
    GiveUp { slot: usize },
    /// A commit that was answered is asked for again.
    CommitAgain { which: u64 },
    /// Everything on its way is settled.
    Flush,
    /// The owner reads what was promised, one by one or many.
    Read { which: u64, many: bool },
    /// A reader beside the owner reads what was promised.
    ReadBeside { fresh: bool },
    /// A snapshot is forgotten; that is not undone.
    Forget { which: u64 },
    /// A collection; with sessions it is stopped where it waits for them.
    Collect { with_sessions: bool },
    /// The index is made anew.
    Rebuild,
    /// The store ends and is opened again.
    Reopen(End),
    /// The process or the power ends within so many operations of the disk.
    EndWithin { operations: u64, end: End },
    /// An operation of the disk fails.
    FaultWithin { operations: u64, fault: Fault },
    /// A sync fails, and has done some of its work or nothing.
    SyncFaultWithin { syncs: u64, fault: Fault, partly: Option<u64> },
    /// A batch of the index fails.
    IndexFaultWithin { batches: u64 },
    /// Others leave only so much room, or all of it.
    Room { free_bytes: Option<u64> },
    /// The disk becomes slow, or fast again.
    Slow { seed: Option<u64> },
    /// A check beside the owner, of everything.
    Check,
    /// All that the model knows is compared.
    Verify,
    /// The index is gone the next time.
    LoseIndex(End),
    /// The store ends, and its medium harms it in so many places.
    Damage { end: End, seed: u64, harms: u64, harm: Option<Harm> },
}

/// Makes the steps of a schedule.
pub(super) fn steps(seed: u64, kind: Kind) -> Vec<Step> {
    let mut random = Random::new(seed, "steps");
    let count = random.below(50).saturating_add(10);
    // Some schedules are about sessions, some about what goes wrong.
    let trouble = match kind {
        Kind::Crashes => random.below(3),
        Kind::Damage => random.below(2),
    };
    let mut steps = Vec::new();
    // Most stores have some snapshots before anything else happens to them.
    for _ in 0..random.below(3) {
        let slot = random.position(SLOTS);
        steps.push(begin(slot, &mut random));
        steps.push(Step::PutAll { slot });
        steps.push(Step::Commit { slot });
    }
    steps.extend((0..count).map(|_| some(&mut random, trouble)));
    if matches!(kind, Kind::Damage) {
        let harms = random.below(4).saturating_add(1);
        let harm = if random.chance(30) { random.pick(&Harm::ALL).copied() } else { None };
        let end = end(&mut random);
        steps.push(Step::Damage { end, seed: random.next(), harms, harm });
    }
    steps
}

fn some(random: &mut Random, trouble: u64) -> Step {
    if random.chance(trouble.saturating_mul(12)) {
        return some_trouble(random);
    }
    let slot = random.position(SLOTS);
    match random.below(100) {
        0..=12 => begin(slot, random),
        13..=20 => Step::Ask { slot },
        21..=42 => Step::Put { slot, count: random.below(30).saturating_add(1) },
        43..=56 => Step::PutAll { slot },
        57..=64 => Step::Commit { slot },
        65..=66 => Step::Forget { which: random.next() },
        67..=68 => Step::Collect { with_sessions: random.chance(20) },
        69..=70 => Step::GiveUp { slot },
        71..=72 => Step::CommitAgain { which: random.next() },
        73..=76 => Step::Flush,
        77..=80 => Step::Read { which: random.next(), many: random.chance(50) },
        81..=83 => Step::ReadBeside { fresh: random.chance(50) },
        84 => Step::Rebuild,
        85 => Step::Check,
        86..=88 => Step::Verify,
        89 => Step::Slow { seed: random.chance(70).then(|| random.next()) },
        90..=92 => Step::Reopen(End::Close),
        93 => Step::Reopen(End::Drop),
        94 => Step::LoseIndex(end(random)),
        _ => Step::Reopen(end(random)),
    }
}

fn begin(slot: usize, random: &mut Random) -> Step {
    let (version, with_base) = (random.next(), random.chance(60));
    let same_nonce = random.chance(50);
    let order = if random.chance(60) { Order::ChildrenFirst } else { Order::Any(random.next()) };
    Step::Begin { slot, version, with_base, same_nonce, order }
}

fn end(random: &mut Random) -> End {
    match random.below(10) {
        0 => End::Close,
        1 => End::Drop,
        2..=4 => End::Kill,
        // Seed 0 is the cut that takes everything.
        5 => End::PowerCut(0),
        6..=8 => End::PowerCut(random.next()),
        _ => End::KillThenPowerCut(random.next()),
    }
}

fn some_trouble(random: &mut Random) -> Step {
    let operations = random.below(60);
    let fault = match random.below(3) {
        0 => Fault::NoSpace,
        1 => Fault::Io,
        _ => Fault::Short,
    };
    match random.below(10) {
        0..=3 => {
            let end = match end(random) {
                End::Close | End::Drop => End::Kill,
                other => other,
            };
            Step::EndWithin { operations, end }
        }
        4..=5 => Step::FaultWithin { operations, fault },
        6..=7 => Step::SyncFaultWithin {
            syncs: random.below(12),
            fault: if fault == Fault::Short { Fault::Io } else { fault },
            partly: random.chance(50).then(|| random.next()),
        },
        8 => Step::IndexFaultWithin { batches: random.below(10) },
        _ => Step::Room { free_bytes: random.chance(70).then(|| random.below(120_000)) },
    }
}

impl Step {
    /// Returns its name, for statistics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "begin",
            Self::Ask { .. } => "ask",
            Self::Put { .. } | Self::PutAll { .. } => "put",
            Self::Commit { .. } => "commit",
            Self::GiveUp { .. } => "give-up",
            Self::CommitAgain { .. } => "commit-again",
            Self::Flush => "flush",
            Self::Read { .. } => "read",
            Self::ReadBeside { .. } => "read-beside",
            Self::Forget { .. } => "forget",
            Self::Collect { .. } => "collect",
            Self::Rebuild => "rebuild",
            Self::Reopen(_) => "reopen",
            Self::EndWithin { .. } => "end-within",
            Self::FaultWithin { .. } => "fault",
            Self::SyncFaultWithin { .. } => "sync-fault",
            Self::IndexFaultWithin { .. } => "index-fault",
            Self::Room { .. } => "room",
            Self::Slow { .. } => "slow",
            Self::Check => "check",
            Self::Verify => "verify",
            Self::LoseIndex(_) => "lose-index",
            Self::Damage { .. } => "damage",
        }
    }
}
