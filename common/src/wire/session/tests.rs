//! Two ends in memory over a link that delays, reorders between streams and is cut.

#![allow(clippy::unwrap_used)]

mod hostile;

use super::*;
use crate::wire::message::*;
use crate::wire::object::Object;
use crate::wire::{FRAME_HEADER_BYTES, MAX_OBJECT_FRAME_BYTES, frame};
use crate::{Kind, ObjectId, Reference};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

const LANES: usize = 3;
const WINDOW_BYTES: u64 = 6_000;

/// xorshift64*: one seed makes one run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What survives the loss of a connection at the vault's side.
#[derive(Default)]
struct FakeStore {
    durable: HashMap<Reference, Object>,
    pending: VecDeque<(u64, Object)>,
    stored: u64,
    puts: u64,
    receipts: HashMap<ObjectId, Vec<u8>>,
}

impl FakeStore {
    fn put(&mut self, sequence: u64, object: Object) -> Vec<Reference> {
        object.clone().open().unwrap();
        let missing: Vec<_> =
            object.refs.iter().filter(|r| !self.durable.contains_key(r)).copied().collect();
        if missing.is_empty() {
            self.puts += 1;
            self.pending.push_back((sequence, object));
        }
        missing
    }

    fn sync(&mut self) -> Vec<u64> {
        let pending = std::mem::take(&mut self.pending);
        let settle = |(sequence, object): (u64, Object)| {
            self.stored += u64::from(self.durable.insert(object.reference, object).is_none());
            sequence
        };
        pending.into_iter().map(settle).collect()
    }
}

/// The vault's driver and the streams between the ends.
struct World {
    random: Random,
    agent: AgentSession,
    vault: VaultSession,
    store: FakeStore,
    up: VecDeque<ToVault>,
    down: VecDeque<ToAgent>,
    lanes: [VecDeque<Vec<u8>>; LANES],
    sent_bytes: u64,
    cuts: u64,
    receipt: Option<Vec<u8>>,
    answers: HashMap<u64, Vec<bool>>,
}

fn facts() -> VaultFacts {
    VaultFacts {
        store: [7; 16],
        software: "test".into(),
        limits: LimitsOffered { ask_references: 4096, lanes: 4, requests: 8 },
    }
}

fn machine() -> Peer {
    Peer::Machine("m".into())
}

impl World {
    fn new(seed: u64) -> Self {
        let mut agent = AgentSession::new(Some("m".into()), "test".into(), WINDOW_BYTES);
        agent.connected();
        agent
            .begin(Begin {
                disk: "d".into(),
                nonce: [1; 16],
                base: None,
                resume: false,
                run: [0; 16],
            })
            .unwrap();
        Self {
            random: Random(seed | 1),
            agent,
            vault: VaultSession::new(facts(), machine()),
            store: FakeStore::default(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            lanes: Default::default(),
            sent_bytes: 0,
            cuts: 0,
            receipt: None,
            answers: HashMap::new(),
        }
    }

    /// Loses everything under way; a vault that is killed loses what it had not synced.
    fn cut(&mut self) {
        self.cuts += 1;
        self.up.clear();
        self.down.clear();
        self.lanes.iter_mut().for_each(VecDeque::clear);
        if self.random.below(2) == 0 {
            self.store.pending.clear();
        }
        self.vault = VaultSession::new(facts(), machine());
        self.agent.disconnected();
        assert!(self.agent.poll_control().is_none() && self.agent.poll_object().is_none());
        self.agent.connected();
    }

    /// Moves one thing, chosen by chance.
    fn step(&mut self) {
        match self.random.below(8) {
            0 => self.up.extend(self.agent.poll_control()),
            1 => self.down.extend(self.vault.poll_control()),
            2 => {
                if let Some((sequence, object)) = self.agent.poll_object() {
                    let message = SentObjectRef { sequence, object: &object };
                    let frame = frame::encode(&message, MAX_OBJECT_FRAME_BYTES).unwrap();
                    self.sent_bytes += frame.len() as u64;
                    let lane = self.random.below(LANES as u64) as usize;
                    self.lanes[lane].push_back(frame);
                }
            }
            3 => {
                if let Some(message) = self.up.pop_front() {
                    let action = self.vault.handle(message).unwrap();
                    self.act(action);
                }
            }
            4 => {
                if let Some(message) = self.down.pop_front() {
                    self.agent.handle(message).unwrap();
                }
            }
            5 => {
                let lane = self.random.below(LANES as u64) as usize;
                if let Some(frame) = self.lanes[lane].pop_front() {
                    self.arrive(&frame);
                }
            }
            6 if self.random.below(6) == 0 => self.sync(),
            _ => {}
        }
        while let Some(event) = self.agent.poll_event() {
            match event {
                AgentEvent::Known { number, answers } => {
                    assert!(self.answers.insert(number, answers).is_none(), "answered twice");
                }
                AgentEvent::Committed { receipt } => self.receipt = Some(receipt),
                AgentEvent::Welcome(_) | AgentEvent::Begun(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn arrive(&mut self, frame: &[u8]) {
        let sent: SentObject = frame::decode(&frame[FRAME_HEADER_BYTES..]).unwrap();
        let arrival = self.vault.arrived(sent.sequence).unwrap();
        let missing = self.store.put(sent.sequence, sent.object);
        assert!(missing.is_empty(), "a node went out before its children were durable");
        let action = self.vault.taken(arrival);
        self.act(action);
    }

    fn sync(&mut self) {
        for sequence in self.store.sync() {
            self.vault.durable(self.vault.round(), sequence..=sequence);
        }
    }

    fn act(&mut self, action: Option<VaultAction>) {
        match action {
            None | Some(VaultAction::End) => {}
            Some(VaultAction::Begin(_)) => {
                // What an earlier connection brought is settled first.
                self.store.sync();
                self.vault.begun(Begun { base: BaseState::None, latest: None });
            }
            Some(VaultAction::Ask(ask)) => {
                let known = |r: &Reference| self.store.durable.contains_key(r);
                let answers: Vec<bool> = ask.references.iter().map(known).collect();
                self.vault.known(ask.number, &answers);
            }
            Some(VaultAction::Flush) => self.sync(),
            Some(VaultAction::Commit(commit)) => {
                let reference = Reference { kind: Kind::Manifest, id: commit.manifest };
                assert!(self.store.durable.contains_key(&reference), "committed too early");
                let count = self.store.receipts.len();
                let new = || format!("receipt {count}").into_bytes();
                let receipt = self.store.receipts.entry(commit.manifest).or_insert_with(new);
                self.vault.committed(receipt.clone());
            }
            Some(other) => panic!("{other:?}"),
        }
    }
}

/// Chunks, nodes over some of the things before them, and a manifest over the last nodes.
fn objects(random: &mut Random) -> Vec<Arc<Object>> {
    let mut made: Vec<Object> = Vec::new();
    let count = 20 + random.below(100);
    for number in 0..count {
        let mut body = vec![0; 16 + random.below(700) as usize];
        body.iter_mut().for_each(|byte| *byte = random.next() as u8);
        let node = number > 3 && random.below(4) == 0;
        let (kind, refs) = if node {
            let mut refs: Vec<Reference> = (0..1 + random.below(4))
                .map(|_| made[random.below(made.len() as u64) as usize].reference)
                .collect();
            refs.dedup();
            (Kind::MapPage, refs)
        } else {
            (Kind::Chunk, Vec::new())
        };
        made.push(Object::pack(kind, refs, body, 1).unwrap());
    }
    let refs = made.iter().rev().take(5).map(|object| object.reference).collect();
    made.push(Object::pack(Kind::Manifest, refs, b"manifest".to_vec(), 1).unwrap());
    made.into_iter().map(Arc::new).collect()
}

/// Two backups, one behind the other, on the same connection where that holds.
fn run(seed: u64, cut_every: Option<u64>) {
    let mut world = World::new(seed);
    let mut all = Vec::new();
    for nonce in [1, 2] {
        let objects = objects(&mut world.random);
        back_up(&mut world, seed, cut_every, &objects);
        all.extend(objects);
        assert_eq!(world.store.receipts.len(), nonce, "seed {seed}: receipts");
        if !world.agent.end() {
            world.cut();
        }
        let nonce = [nonce as u8 + 1; 16];
        let begin = Begin { disk: "d".into(), nonce, base: None, resume: false, run: [0; 16] };
        world.agent.begin(begin).unwrap();
    }
    let total: HashSet<Reference> = all.iter().map(|object| object.reference).collect();
    assert_eq!(world.store.durable.len(), total.len(), "seed {seed}: objects are lacking");
    assert_eq!(world.store.stored, total.len() as u64, "seed {seed}: stored twice");
    let once: u64 = all
        .iter()
        .map(|object| {
            let message = SentObjectRef { sequence: 0, object };
            frame::encode(&message, MAX_OBJECT_FRAME_BYTES).unwrap().len() as u64 + 8
        })
        .sum();
    // Each cut can lose what was not acknowledged, and no more.
    let bound = once + world.cuts * (WINDOW_BYTES + 2_000);
    assert!(world.sent_bytes <= bound, "seed {seed}: {} sent, {bound} allowed", world.sent_bytes);
    if cut_every.is_none() {
        assert_eq!(world.store.puts, total.len() as u64, "seed {seed}: sent twice uncut");
        assert_eq!(world.cuts, 0, "seed {seed}: a second connection");
    }
}

fn back_up(world: &mut World, seed: u64, cut_every: Option<u64>, objects: &[Arc<Object>]) {
    world.receipt = None;
    world.answers.clear();
    let mut to_give: VecDeque<_> = objects.iter().cloned().collect();
    let mut asked: HashMap<u64, usize> = HashMap::new();
    let mut committed = false;
    for step in 0.. {
        assert!(step < 3_000_000, "seed {seed}: does not end");
        if let Some(every) = cut_every
            && world.random.below(every) == 0
            && world.cuts < 12
        {
            world.cut();
        }
        if world.random.below(4) == 0 && world.agent.has_room() {
            if let Some(object) = to_give.pop_front() {
                if world.random.below(3) == 0 {
                    world.agent.send(Arc::clone(&object)).unwrap();
                }
                if world.random.below(3) == 0 {
                    let question = vec![object.reference; 1 + world.random.below(9) as usize];
                    let count = question.len();
                    asked.insert(world.agent.ask(question).unwrap(), count);
                }
                world.agent.send(object).unwrap();
            } else if !committed {
                let manifest = objects.last().unwrap().reference.id;
                let commit = Commit { manifest, labels: Vec::new(), tags: Vec::new() };
                world.agent.commit(commit).unwrap();
                committed = true;
            }
        }
        world.step();
        if world.receipt.is_some() && world.answers.len() == asked.len() {
            break;
        }
    }
    assert!(world.agent.is_settled(), "seed {seed}");
    for (number, count) in asked {
        assert_eq!(world.answers[&number].len(), count, "seed {seed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..Default::default() })]

    #[test]
    fn everything_arrives_over_an_uncut_link(seed in any::<u64>()) {
        run(seed, None);
    }

    #[test]
    fn everything_arrives_over_a_link_that_is_cut(seed in any::<u64>(), every in 40_u64..2_000) {
        run(seed, Some(every));
    }

    #[test]
    fn ranges_are_a_set(numbers in proptest::collection::vec(0_u64..60, 0..80)) {
        let mut ranges = Ranges::default();
        let mut set = std::collections::BTreeSet::new();
        for &number in &numbers {
            prop_assert_eq!(ranges.insert(number), set.insert(number));
        }
        for end in 0..70 {
            prop_assert_eq!(ranges.covers(end), (0..end).all(|number| set.contains(&number)));
        }
        let flat = ranges.take_flat();
        let read: Vec<u64> = Ranges::read_flat(&flat).unwrap().into_iter().flatten().collect();
        prop_assert_eq!(read, set.into_iter().collect::<Vec<_>>());
        prop_assert!(ranges.is_empty());
    }
}

fn answer(vault: &mut VaultSession, message: ToVault) -> Option<ToAgent> {
    assert_eq!(vault.handle(message).unwrap(), None);
    vault.poll_control()
}

fn refused(answer: Option<ToAgent>) -> RefusalCode {
    match answer {
        Some(ToAgent::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

fn hello(oldest: u16, newest: u16, machine: Option<&str>) -> ToVault {
    ToVault::Hello(Hello {
        oldest,
        newest,
        machine: machine.map(str::to_owned),
        software: "t".into(),
    })
}

#[test]
fn hello_is_refused_to_strangers_to_other_names_and_other_versions() {
    let cases = [
        (Peer::Unknown, hello(1, 1, None), RefusalCode::NotAuthorised),
        (machine(), hello(1, 1, Some("other")), RefusalCode::NotAuthorised),
        (machine(), hello(2, 9, Some("m")), RefusalCode::Version),
        (machine(), hello(0, 0, Some("m")), RefusalCode::Version),
    ];
    for (peer, message, code) in cases {
        let mut vault = VaultSession::new(facts(), peer);
        assert_eq!(refused(answer(&mut vault, message)), code);
        assert!(vault.is_over() && !vault.is_open());
    }
}

#[test]
fn a_stranger_may_enrol_and_nothing_else() {
    let enroll =
        Enroll { oldest: 1, newest: 1, secret: [3; 16], machine: "m".into(), software: "t".into() };
    let mut vault = VaultSession::new(facts(), Peer::Unknown);
    let action = vault.handle(ToVault::Enroll(enroll.clone())).unwrap();
    assert_eq!(action, Some(VaultAction::Enroll(enroll)));
    vault.enrolled(Enrolled { machine_id: [1; 16], machine: "m".into(), store: [7; 16] });
    assert!(vault.is_over());
    let begin = Begin { disk: "d".into(), nonce: [0; 16], base: None, resume: false, run: [0; 16] };
    let mut vault = VaultSession::new(facts(), Peer::Unknown);
    assert!(vault.handle(ToVault::Begin(begin)).is_err());
    assert!(vault.arrived(0).is_err());
}

#[test]
fn an_owner_is_whom_he_says() {
    let mut vault = VaultSession::new(facts(), Peer::Owner);
    match answer(&mut vault, hello(1, 4, Some("anybody"))) {
        Some(ToAgent::Welcome(welcome)) => {
            assert_eq!((welcome.version, welcome.machine.as_str()), (1, "anybody"));
        }
        other => panic!("{other:?}"),
    }
}

fn running_agent(base: Option<ObjectId>) -> AgentSession {
    let mut agent = AgentSession::new(None, "t".into(), 1_000);
    agent
        .begin(Begin { disk: "d".into(), nonce: [0; 16], base, resume: false, run: [0; 16] })
        .unwrap();
    greet(&mut agent, base.map_or(BaseState::None, |_| BaseState::Pinned));
    agent
}

fn greet(agent: &mut AgentSession, base: BaseState) {
    agent.connected();
    let welcome = Welcome {
        version: 1,
        store: [0; 16],
        machine: "m".into(),
        limits: facts().limits,
        software: "t".into(),
    };
    agent.handle(ToAgent::Welcome(welcome)).unwrap();
    agent.handle(ToAgent::Begun(Begun { base, latest: None })).unwrap();
    while agent.poll_control().is_some() {}
}

#[test]
fn a_base_that_goes_away_between_connections_ends_the_backup() {
    let base = ObjectId([9; 32]);
    let mut agent = running_agent(Some(base));
    greet(&mut agent, BaseState::Gone);
    let events: Vec<_> = std::iter::from_fn(|| agent.poll_event()).collect();
    assert!(events.contains(&AgentEvent::BaseGone(base)), "{events:?}");
}

#[test]
fn answers_that_nobody_asked_for_are_violations() {
    let mut agent = running_agent(None);
    assert!(agent.handle(ToAgent::Known(Known::new(5, &[true]))).is_err());
    let number = agent.ask(vec![Reference { kind: Kind::Chunk, id: ObjectId([0; 32]) }]).unwrap();
    assert!(agent.handle(ToAgent::Known(Known::new(number, &[true; 9]))).is_err());
    assert!(agent.handle(ToAgent::Ack { ranges: vec![3] }).is_err());
    assert!(agent.handle(ToAgent::Ack { ranges: vec![3, 1] }).is_err());
    assert!(agent.handle(ToAgent::Bad { sequence: 0, reason: String::new() }).is_err());
    // A range over everything costs no more than what was sent.
    agent.handle(ToAgent::Ack { ranges: vec![0, u64::MAX] }).unwrap();
}

#[test]
fn a_read_names_served_nodes_only() {
    let node = Reference { kind: Kind::MapPage, id: ObjectId([1; 32]) };
    let chunk = Reference { kind: Kind::Chunk, id: ObjectId([2; 32]) };
    let item = |node| vec![ReadItem { node, numbers: vec![0] }];
    let mut served = Served::default();
    assert_eq!(served.check(&item(node)).unwrap_err().code, RefusalCode::NotServed);
    served.insert(node);
    served.insert(chunk);
    served.check(&item(node)).unwrap();
    assert_eq!(served.check(&item(chunk)).unwrap_err().code, RefusalCode::NotServed);
    let many = vec![ReadItem { node, numbers: vec![0; 70_000] }];
    assert_eq!(served.check(&many).unwrap_err().code, RefusalCode::Usage);
}
