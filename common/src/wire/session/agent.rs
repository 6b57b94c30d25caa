//! The agent's end.

use super::window::Window;
use super::{Ranges, Violation};
use crate::wire::message::{
    Ask, BaseState, Begin, Begun, Commit, Hello, Known, Refusal, ToAgent, ToVault, Welcome,
};
use crate::wire::object::Object;
use crate::wire::{MAX_ASK_REFERENCES, OLDEST_VERSION, VERSION};
use crate::{ObjectId, Reference};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Something that the agent's threads wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// The session is open (again).
    Welcome(Welcome),
    /// The vault ends the session or the backup.
    Refused(Refusal),
    /// The backup has begun, or goes on after a lost connection.
    Begun(Begun),
    /// The base that was pinned is gone: the backup must be given up.
    BaseGone(ObjectId),
    /// The answer to a question.
    Known {
        /// What [`AgentSession::ask`] returned.
        number: u64,
        /// One per reference.
        answers: Vec<bool>,
    },
    /// A node refers to objects that the vault lacks.
    Missing {
        /// The node.
        node: Reference,
        /// What is lacking.
        references: Vec<Reference>,
    },
    /// The vault did not take an object.
    Bad {
        /// The object.
        reference: Reference,
        /// Why.
        reason: String,
    },
    /// The backup has its receipt.
    Committed {
        /// The receipt as it is stored.
        receipt: Vec<u8>,
    },
    /// The manifest cannot be committed.
    CommitMissing {
        /// What is lacking.
        references: Vec<Reference>,
    },
}

/// How far the present connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    /// Hello is out.
    Greeting,
    /// Welcome came; no backup.
    Open,
    /// Begin is out.
    Beginning,
    /// Begun came.
    Running,
}

/// Whose question it is.
#[derive(Clone, Debug)]
enum Purpose {
    Caller,
    Resend,
}

#[derive(Debug)]
struct Question {
    references: Vec<Reference>,
    purpose: Purpose,
}

#[derive(Debug)]
struct Backup {
    begin: Begin,
    /// The base was found at the first Begin.
    pinned: bool,
    window: Window,
    questions: BTreeMap<u64, Question>,
    commit: Option<Commit>,
    commit_sent: bool,
    hurry: bool,
    /// The count of objects that the last Flush named.
    flushed: u64,
}

impl Backup {
    fn commit_sent_unanswered(&self) -> bool {
        self.commit_sent && self.commit.is_some()
    }
}

/// The agent's end of a session, over any number of connections.
#[derive(Debug)]
pub struct AgentSession {
    hello: Hello,
    window_bytes: u64,
    link: Link,
    next_question: u64,
    backup: Option<Backup>,
    control: VecDeque<ToVault>,
    events: VecDeque<AgentEvent>,
}

impl AgentSession {
    /// Makes a session that is not connected. `window_bytes` bounds the weight of the objects that
    /// are not acknowledged; one object more may be in it.
    pub fn new(machine: Option<String>, software: String, window_bytes: u64) -> Self {
        let hello = Hello { oldest: OLDEST_VERSION, newest: VERSION, machine, software };
        Self {
            hello,
            window_bytes,
            link: Link::Down,
            next_question: 0,
            backup: None,
            control: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A new connection is there. Nothing of an earlier one may be handed in from now on.
    pub fn connected(&mut self) {
        self.disconnected();
        self.link = Link::Greeting;
        self.control.push_back(ToVault::Hello(self.hello.clone()));
    }

    /// The connection is lost: what it had not delivered is asked for or sent again on the next.
    pub fn disconnected(&mut self) {
        self.link = Link::Down;
        self.control.clear();
    }

    /// Begins a backup.
    ///
    /// # Errors
    /// [`Violation`] while another is under way.
    pub fn begin(&mut self, begin: Begin) -> Result<(), Violation> {
        if self.backup.is_some() {
            return Err(Violation::new("a backup is under way already"));
        }
        self.backup = Some(Backup {
            begin,
            pinned: false,
            window: Window::default(),
            questions: BTreeMap::new(),
            commit: None,
            commit_sent: false,
            hurry: false,
            flushed: 0,
        });
        if self.link == Link::Open {
            self.send_begin();
        }
        Ok(())
    }

    /// Ends the backup, committed or given up. Returns `false` where objects may still be on
    /// their way, so that the connection cannot carry another backup.
    pub fn end(&mut self) -> bool {
        let Some(backup) = self.backup.take() else { return true };
        match self.link {
            // The answer to Begin would be taken for that to the next one.
            Link::Beginning => false,
            Link::Running => {
                self.control.push_back(ToVault::End);
                self.link = Link::Open;
                backup.window.is_empty() && !backup.commit_sent_unanswered()
            }
            Link::Down | Link::Greeting | Link::Open => true,
        }
    }

    /// Asks for at most [`MAX_ASK_REFERENCES`] objects; the answer is an [`AgentEvent::Known`].
    ///
    /// # Errors
    /// [`Violation`] where there are more, or no backup.
    pub fn ask(&mut self, references: Vec<Reference>) -> Result<u64, Violation> {
        if references.len() > MAX_ASK_REFERENCES {
            return Err(Violation::new("a question with too many references"));
        }
        self.question(references, Purpose::Caller)
    }

    /// Tells whether the window takes another object.
    pub fn has_room(&self) -> bool {
        self.unacked_bytes() < self.window_bytes
    }

    /// Weight of the objects that are not acknowledged.
    pub fn unacked_bytes(&self) -> u64 {
        self.backup.as_ref().map_or(0, |backup| backup.window.bytes())
    }

    /// Gives an object for sending. One that is in the window already is not taken twice.
    ///
    /// # Errors
    /// [`Violation`] where there is no backup.
    pub fn send(&mut self, object: Arc<Object>) -> Result<(), Violation> {
        self.running()?.window.insert(object);
        Ok(())
    }

    /// Tells whether everything given was acknowledged.
    pub fn is_settled(&self) -> bool {
        self.backup.as_ref().is_none_or(|backup| backup.window.is_empty())
    }

    /// The caller waits: the vault shall not wait for company while nothing else can go out.
    pub fn hurry(&mut self, hurry: bool) {
        if let Some(backup) = &mut self.backup {
            backup.hurry = hurry;
        }
    }

    /// The caller waits for what was sent to be durable.
    pub fn is_in_a_hurry(&self) -> bool {
        self.backup.as_ref().is_some_and(|backup| backup.hurry)
    }

    /// Asks for the receipt once everything given was acknowledged.
    ///
    /// # Errors
    /// [`Violation`] where there is no backup.
    pub fn commit(&mut self, commit: Commit) -> Result<(), Violation> {
        let backup = self.running()?;
        backup.commit = Some(commit);
        backup.commit_sent = false;
        backup.hurry = true;
        Ok(())
    }

    /// Next message for the control stream.
    pub fn poll_control(&mut self) -> Option<ToVault> {
        if let Some(message) = self.control.pop_front() {
            return Some(message);
        }
        let backup = self.backup.as_mut().filter(|_| self.link == Link::Running)?;
        if backup.window.is_empty() && !backup.commit_sent {
            let commit = backup.commit.clone()?;
            backup.commit_sent = true;
            return Some(ToVault::Commit(commit));
        }
        let upto = backup.window.sequence();
        if backup.hurry && backup.window.is_stalled() && backup.flushed < upto {
            backup.flushed = upto;
            return Some(ToVault::Flush { upto });
        }
        None
    }

    /// Next object, for any of the object streams of the present connection.
    pub fn poll_object(&mut self) -> Option<(u64, Arc<Object>)> {
        self.backup.as_mut().filter(|_| self.link == Link::Running)?.window.next()
    }

    /// Tells whether [`poll_object`](Self::poll_object) may have one.
    pub fn has_objects(&self) -> bool {
        let running = self.backup.as_ref().filter(|_| self.link == Link::Running);
        running.is_some_and(|backup| backup.window.is_ready())
    }

    /// Next thing that happened.
    pub fn poll_event(&mut self) -> Option<AgentEvent> {
        self.events.pop_front()
    }

    /// Takes a message of the present connection's control stream.
    ///
    /// # Errors
    /// [`Violation`]: the connection must be closed.
    pub fn handle(&mut self, message: ToAgent) -> Result<(), Violation> {
        match message {
            ToAgent::Welcome(welcome) => self.welcome(welcome),
            ToAgent::Refused(refusal) => {
                self.events.push_back(AgentEvent::Refused(refusal));
                Ok(())
            }
            ToAgent::Enrolled(_) => Err(Violation::new("enrolled without having asked")),
            ToAgent::Begun(begun) => self.begun(begun),
            // What follows may come late, for a backup that has been given up.
            _ if self.backup.is_none() => Ok(()),
            ToAgent::Known(known) => self.known(&known),
            ToAgent::Ack { ranges } => {
                let ranges = Ranges::read_flat(&ranges)?;
                let window = &mut self.running()?.window;
                ranges.into_iter().for_each(|range| window.acknowledge(range));
                Ok(())
            }
            ToAgent::Missing { sequence, references } => {
                let node = self.sent(sequence)?;
                self.events.push_back(AgentEvent::Missing { node, references });
                Ok(())
            }
            ToAgent::Bad { sequence, reason } => {
                let reference = self.sent(sequence)?;
                self.events.push_back(AgentEvent::Bad { reference, reason });
                Ok(())
            }
            ToAgent::Committed(committed) => {
                let receipt = committed.receipt;
                let backup = self.running()?;
                if !backup.commit_sent_unanswered() {
                    return Err(Violation::new("a receipt without having asked"));
                }
                backup.commit = None;
                self.events.push_back(AgentEvent::Committed { receipt });
                Ok(())
            }
            ToAgent::CommitMissing { references } => {
                self.events.push_back(AgentEvent::CommitMissing { references });
                Ok(())
            }
        }
    }

    fn welcome(&mut self, welcome: Welcome) -> Result<(), Violation> {
        if self.link != Link::Greeting {
            return Err(Violation::new("a second welcome"));
        }
        if !(OLDEST_VERSION..=VERSION).contains(&welcome.version) {
            return Err(Violation::new("a protocol version that was not offered"));
        }
        self.link = Link::Open;
        self.events.push_back(AgentEvent::Welcome(welcome));
        if self.backup.is_some() {
            self.send_begin();
        }
        Ok(())
    }

    fn send_begin(&mut self) {
        let Some(backup) = &mut self.backup else { return };
        self.link = Link::Beginning;
        self.control.push_back(ToVault::Begin(backup.begin.clone()));
        // From now on the vault knows the nonce, if this arrives.
        backup.begin.resume = true;
    }

    fn begun(&mut self, begun: Begun) -> Result<(), Violation> {
        let Some(backup) = &mut self.backup else { return Ok(()) };
        if self.link != Link::Beginning {
            return Err(Violation::new("a backup begun without having asked"));
        }
        match (backup.begin.base, begun.base) {
            (None, BaseState::None) | (Some(_), BaseState::Pinned | BaseState::Gone) => {}
            _ => return Err(Violation::new("an answer about another base")),
        }
        self.link = Link::Running;
        if begun.base == BaseState::Gone
            && backup.pinned
            && let Some(base) = backup.begin.base
        {
            self.events.push_back(AgentEvent::BaseGone(base));
            return Ok(());
        }
        backup.pinned |= begun.base == BaseState::Pinned;
        backup.commit_sent = false;
        backup.flushed = 0;
        // The caller's questions first, then what this end has to know itself.
        backup.questions.retain(|_, question| matches!(question.purpose, Purpose::Caller));
        for (&number, question) in &backup.questions {
            let references = question.references.clone();
            self.control.push_back(ToVault::Ask(Ask { number, references }));
        }
        let unsettled = backup.window.unsettle();
        self.events.push_back(AgentEvent::Begun(begun));
        for batch in unsettled.chunks(MAX_ASK_REFERENCES) {
            self.question(batch.to_vec(), Purpose::Resend)?;
        }
        Ok(())
    }

    fn question(&mut self, references: Vec<Reference>, purpose: Purpose) -> Result<u64, Violation> {
        let number = self.next_question;
        self.next_question = number.saturating_add(1);
        let running = self.link == Link::Running;
        let backup = self.running()?;
        let question = Question { references: references.clone(), purpose };
        backup.questions.insert(number, question);
        if running {
            self.control.push_back(ToVault::Ask(Ask { number, references }));
        }
        Ok(number)
    }

    fn known(&mut self, known: &Known) -> Result<(), Violation> {
        let stale = known.number < self.next_question;
        let backup = self.running()?;
        let Some(question) = backup.questions.remove(&known.number) else {
            // Late, of a backup given up on this connection; or never asked.
            return if stale { Ok(()) } else { Err(Violation::new("an unasked answer")) };
        };
        let Some(answers) = known.answers(question.references.len()) else {
            return Err(Violation::new("an answer of another length than the question"));
        };
        match question.purpose {
            Purpose::Caller => {
                self.events.push_back(AgentEvent::Known { number: known.number, answers });
            }
            Purpose::Resend => {
                for (reference, durable) in question.references.iter().zip(answers) {
                    backup.window.settle(reference, durable);
                }
            }
        }
        Ok(())
    }

    fn sent(&mut self, sequence: u64) -> Result<Reference, Violation> {
        self.running()?
            .window
            .sent(sequence)
            .ok_or(Violation::new("word of an object that was not sent"))
    }

    fn running(&mut self) -> Result<&mut Backup, Violation> {
        self.backup.as_mut().ok_or(Violation::new("there is no backup under way"))
    }
}
