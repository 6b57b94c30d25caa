//! The vault's end.

use super::{Ranges, Violation};
use crate::Reference;
use crate::wire::message::{
    Ask, Begin, Begun, Commit, Committed, Enroll, Enrolled, Hello, Known, LimitsOffered, Refusal,
    RefusalCode, ToAgent, ToVault, Welcome,
};
use crate::wire::{MAX_ASK_REFERENCES, OLDEST_VERSION, VERSION};
use std::collections::VecDeque;

/// Most gaps in the sequence numbers that have arrived: streams may overtake each other, but no
/// honest agent lets them by more than the objects under way.
const MAX_GAPS: usize = 10_000;

/// An object that has arrived, for [`VaultSession::taken`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a flush waits for every object that has arrived"]
pub struct Arrival {
    round: u64,
    sequence: u64,
}

/// Something that the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultAction {
    /// Enrol the peer's key, then call [`VaultSession::enrolled`] or
    /// [`refuse`](VaultSession::refuse).
    Enroll(Enroll),
    /// Begin or resume the backup, then call [`VaultSession::begun`] or `refuse`.
    Begin(Begin),
    /// Look up, then call [`VaultSession::known`] or `refuse`.
    Ask(Ask),
    /// Make durable what was taken.
    Flush,
    /// Commit, then call [`VaultSession::committed`], [`commit_missing`](
    /// VaultSession::commit_missing) or `refuse`.
    Commit(Commit),
    /// Close the backup: the agent is done with it.
    End,
}

/// What the vault says about itself.
#[derive(Clone, Debug)]
pub struct VaultFacts {
    /// Names the store.
    pub store: [u8; 16],
    /// Name and version of the program.
    pub software: String,
    /// What it takes at once.
    pub limits: LimitsOffered,
}

/// Whom the peer's key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A key that nobody knows: it may enrol, nothing else.
    Unknown,
    /// The machine of this name.
    Machine(String),
    /// Whoever started this vault for one command: any machine.
    Owner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Open,
    Beginning,
    Running,
    Over,
}

/// The vault's end of one connection.
#[derive(Debug)]
pub struct VaultSession {
    facts: VaultFacts,
    peer: Peer,
    state: State,
    /// Counts the backups of this connection; each numbers its objects from 0.
    round: u64,
    arrived: Ranges,
    taken: Ranges,
    flush_upto: Option<u64>,
    durable: Ranges,
    control: VecDeque<ToAgent>,
}

impl VaultSession {
    /// Makes the session of a connection whose peer has proven to have a key.
    pub fn new(facts: VaultFacts, peer: Peer) -> Self {
        Self {
            facts,
            peer,
            state: State::Start,
            round: 0,
            arrived: Ranges::default(),
            taken: Ranges::default(),
            flush_upto: None,
            durable: Ranges::default(),
            control: VecDeque::new(),
        }
    }

    /// Tells whether the hello was accepted, so that requests may be answered.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Beginning | State::Running)
    }

    /// Tells whether the connection is to be closed once everything polled has gone out.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes a message of the control stream.
    ///
    /// # Errors
    /// [`Violation`]: refuse with it and close.
    pub fn handle(&mut self, message: ToVault) -> Result<Option<VaultAction>, Violation> {
        match (self.state, message) {
            (State::Start, ToVault::Hello(hello)) => {
                self.hello(hello);
                Ok(None)
            }
            (State::Start, ToVault::Enroll(enroll)) => {
                Ok(self.agree(enroll.oldest, enroll.newest).map(|_| VaultAction::Enroll(enroll)))
            }
            (State::Start, _) => Err(Violation::new("a session begins with Hello or Enroll")),
            (State::Over, _) => Ok(None),
            (State::Open, ToVault::Begin(begin)) => {
                self.state = State::Beginning;
                Ok(Some(VaultAction::Begin(begin)))
            }
            (State::Running, ToVault::Ask(ask)) => match ask.references.len() {
                0..=MAX_ASK_REFERENCES => Ok(Some(VaultAction::Ask(ask))),
                _ => Err(Violation::new("a question with too many references")),
            },
            (State::Running, ToVault::Flush { upto }) => {
                self.flush_upto = Some(upto);
                Ok(self.flush_due())
            }
            (State::Running, ToVault::Commit(commit)) => Ok(Some(VaultAction::Commit(commit))),
            (State::Running, ToVault::End) => {
                self.state = State::Open;
                // An agent goes on with this connection only when all it sent was acknowledged, and
                // then counts anew.
                self.flush_upto = None;
                self.round = self.round.saturating_add(1);
                self.arrived = Ranges::default();
                self.taken = Ranges::default();
                self.durable = Ranges::default();
                Ok(Some(VaultAction::End))
            }
            _ => Err(Violation::new("a message that is not allowed at this point")),
        }
    }

    /// Checks the number of an object that has arrived, before it is put.
    ///
    /// # Errors
    /// [`Violation`] where no backup is under way, the number makes no sense, or was used before.
    pub fn arrived(&mut self, sequence: u64) -> Result<Arrival, Violation> {
        if self.state != State::Running {
            return Err(Violation::new("an object outside a backup"));
        }
        if sequence >= 1 << 40 || self.arrived.pieces() > MAX_GAPS {
            return Err(Violation::new("objects with absurd sequence numbers"));
        }
        if !self.arrived.insert(sequence) {
            return Err(Violation::new("a sequence number used twice"));
        }
        Ok(Arrival { round: self.round, sequence })
    }

    /// The object was handed to the store, which says later, or has said, that it is durable: the
    /// agent may have ended its backup by now, and begun another one.
    pub fn taken(&mut self, arrival: Arrival) -> Option<VaultAction> {
        if arrival.round == self.round {
            self.taken.insert(arrival.sequence);
        }
        self.flush_due()
    }

    /// Names the present backup of this connection among those before and after it.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// These objects of backup `round` are durable. Of another backup than the present one nothing
    /// is said any more: its numbers mean other objects by now.
    pub fn durable(&mut self, round: u64, sequences: std::ops::RangeInclusive<u64>) {
        if round != self.round {
            return;
        }
        sequences.for_each(|sequence| {
            self.durable.insert(sequence);
        });
    }

    /// The node was not taken: these are lacking.
    pub fn missing(&mut self, sequence: u64, references: Vec<Reference>) {
        self.control.push_back(ToAgent::Missing { sequence, references });
    }

    /// The object was not taken: it is wrong.
    pub fn bad(&mut self, sequence: u64, reason: String) {
        self.control.push_back(ToAgent::Bad { sequence, reason });
    }

    /// Answers [`VaultAction::Enroll`]; nothing else follows on this connection.
    pub fn enrolled(&mut self, enrolled: Enrolled) {
        self.control.push_back(ToAgent::Enrolled(enrolled));
        self.state = State::Over;
    }

    /// Answers [`VaultAction::Begin`].
    pub fn begun(&mut self, begun: Begun) {
        self.state = State::Running;
        self.control.push_back(ToAgent::Begun(begun));
    }

    /// Answers [`VaultAction::Ask`].
    pub fn known(&mut self, number: u64, answers: &[bool]) {
        self.control.push_back(ToAgent::Known(Known::new(number, answers)));
    }

    /// Answers [`VaultAction::Commit`].
    pub fn committed(&mut self, receipt: Vec<u8>) {
        self.control.push_back(ToAgent::Committed(Committed { receipt }));
    }

    /// Answers [`VaultAction::Commit`]: something below the manifest is lacking.
    pub fn commit_missing(&mut self, references: Vec<Reference>) {
        self.control.push_back(ToAgent::CommitMissing { references });
    }

    /// Ends the session with a word why.
    pub fn refuse(&mut self, refusal: Refusal) {
        if self.state != State::Over {
            self.control.push_back(ToAgent::Refused(refusal));
            self.state = State::Over;
        }
    }

    /// Counts the messages that wait for the control stream. While there are many, the driver takes
    /// nothing more from the agent, which does not listen.
    pub fn waiting(&self) -> usize {
        self.control.len()
    }

    /// Next message for the control stream.
    pub fn poll_control(&mut self) -> Option<ToAgent> {
        // Acknowledgements go first: the agent holds memory for them, and a commit waits for them.
        if self.state == State::Running && !self.durable.is_empty() {
            return Some(ToAgent::Ack { ranges: self.durable.take_flat() });
        }
        self.control.pop_front()
    }

    fn hello(&mut self, hello: Hello) {
        let refuse = |text: String| Refusal { code: RefusalCode::NotAuthorised, text };
        let machine = match (&self.peer, hello.machine) {
            (Peer::Unknown, _) => {
                return self.refuse(refuse(
                    "the vault does not know this key; enrol with `umbra enroll TOKEN` (a token \
                     comes from `umbra-vault agent token`)"
                        .to_owned(),
                ));
            }
            (Peer::Machine(name), Some(claimed)) if *name != claimed => {
                let text = format!(
                    "this key belongs to machine {name}, not {claimed}; leave --machine out or \
                     enrol under that name"
                );
                return self.refuse(refuse(text));
            }
            (Peer::Machine(name), _) => name.clone(),
            (Peer::Owner, claimed) => claimed.unwrap_or_default(),
        };
        if let Some(version) = self.agree(hello.oldest, hello.newest) {
            self.state = State::Open;
            self.control.push_back(ToAgent::Welcome(Welcome {
                version,
                store: self.facts.store,
                machine,
                limits: self.facts.limits.clone(),
                software: self.facts.software.clone(),
            }));
        }
    }

    /// Finds the newest version in common, or refuses.
    fn agree(&mut self, oldest: u16, newest: u16) -> Option<u16> {
        let version = newest.min(VERSION);
        if oldest <= version && version >= OLDEST_VERSION {
            return Some(version);
        }
        self.refuse(Refusal {
            code: RefusalCode::Version,
            text: format!(
                "the vault speaks protocol versions {OLDEST_VERSION} to {VERSION}, the agent \
                 {oldest} to {newest}; upgrade the older of the two"
            ),
        });
        None
    }

    fn flush_due(&mut self) -> Option<VaultAction> {
        if !self.taken.covers(self.flush_upto?) {
            return None;
        }
        self.flush_upto = None;
        Some(VaultAction::Flush)
    }
}
