//! The messages. Field numbers are for ever; a field may be added, never given another meaning.

use super::codec;
use super::object::{Codec, Object};
use crate::{Kind, ObjectId, Reference};
use minicbor::{Decode, Encode};

/// What the agent says on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ToVault {
    /// Opens a session. Its bytes and those of the answer are frozen by a golden test.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Makes the key of this connection known to the vault.
    #[n(1)]
    Enroll(#[n(0)] Enroll),
    /// Begins or resumes the backup of one disk.
    #[n(2)]
    Begin(#[n(0)] Begin),
    /// Asks which objects the vault has.
    #[n(3)]
    Ask(#[n(0)] Ask),
    /// Asks that the first `upto` objects of this connection be made durable without waiting for
    /// company.
    #[n(4)]
    Flush {
        /// How many objects had been sent when the agent began to wait.
        #[n(0)]
        upto: u64,
    },
    /// Asks for a receipt.
    #[n(5)]
    Commit(#[n(0)] Commit),
    /// Ends the backup: after [`ToAgent::Committed`], or to give it up.
    #[n(6)]
    End,
}

/// What the vault says on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ToAgent {
    /// The session is open.
    #[n(0)]
    Welcome(#[n(0)] Welcome),
    /// The session, or the backup, ends here.
    #[n(1)]
    Refused(#[n(0)] Refusal),
    /// The key is known from now on.
    #[n(2)]
    Enrolled(#[n(0)] Enrolled),
    /// The backup has begun.
    #[n(3)]
    Begun(#[n(0)] Begun),
    /// Answers an [`Ask`].
    #[n(4)]
    Known(#[n(0)] Known),
    /// These objects of this connection are durable: inclusive ranges of sequence numbers, flat
    /// (first, last, first, last...).
    #[n(5)]
    Ack {
        /// An even number of sequence numbers.
        #[n(0)]
        ranges: Vec<u64>,
    },
    /// A node was not taken because objects that it refers to are not there.
    #[n(6)]
    Missing {
        /// The node's sequence number.
        #[n(0)]
        sequence: u64,
        /// What is not there.
        #[cbor(n(1), with = "codec::references")]
        references: Vec<Reference>,
    },
    /// An object was not taken because it is wrong in itself.
    #[n(7)]
    Bad {
        /// Its sequence number.
        #[n(0)]
        sequence: u64,
        /// What is wrong.
        #[n(1)]
        reason: String,
    },
    /// Answers a [`Commit`].
    #[n(8)]
    Committed(#[n(0)] Committed),
    /// The manifest cannot be committed because objects below it are not there.
    #[n(9)]
    CommitMissing {
        /// What is not there.
        #[cbor(n(0), with = "codec::references")]
        references: Vec<Reference>,
    },
}

/// Opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// Oldest protocol version that the agent speaks.
    #[n(0)]
    pub oldest: u16,
    /// Newest protocol version that the agent speaks.
    #[n(1)]
    pub newest: u16,
    /// The machine that the agent believes to be; `None` takes what the vault says.
    #[n(2)]
    pub machine: Option<String>,
    /// Name and version of the program, for the vault's log.
    #[n(3)]
    pub software: String,
}

/// The vault's answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// The protocol version of this session.
    #[n(0)]
    pub version: u16,
    /// Names the store.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub store: [u8; 16],
    /// The machine's name as the vault knows it.
    #[n(2)]
    pub machine: String,
    /// What the vault takes at once.
    #[n(3)]
    pub limits: LimitsOffered,
    /// Name and version of the program.
    #[n(4)]
    pub software: String,
}

/// What a vault takes at once. An agent stays below it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LimitsOffered {
    /// Most references in one [`Ask`].
    #[n(0)]
    pub ask_references: u32,
    /// Most object streams.
    #[n(1)]
    pub lanes: u32,
    /// Most requests at a time.
    #[n(2)]
    pub requests: u32,
}

/// Why a session, a backup or a request ends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Refusal {
    /// The cause, for programs.
    #[n(0)]
    pub code: RefusalCode,
    /// The cause, for people: what, where, what to do next.
    #[n(1)]
    pub text: String,
}

/// The cause of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalCode {
    /// Anything that has no code of its own, and any code that this program does not know.
    Failed,
    /// The request makes no sense, or passes a limit.
    Usage,
    /// The vault's copy is damaged.
    Damaged,
    /// There is no such snapshot or object.
    NotFound,
    /// Somebody else has it.
    Busy,
    /// The key may not do this.
    NotAuthorised,
    /// No protocol version in common.
    Version,
    /// The store is full, or the quota is used up.
    NoSpace,
    /// The node that a read names was not served on this connection.
    NotServed,
}

impl RefusalCode {
    const NUMBERS: [(Self, u16); 9] = [
        (Self::Failed, 1),
        (Self::Usage, 2),
        (Self::Damaged, 4),
        (Self::NotFound, 10),
        (Self::Busy, 11),
        (Self::NotAuthorised, 12),
        (Self::Version, 13),
        (Self::NoSpace, 14),
        (Self::NotServed, 100),
    ];

    /// Returns its number on the wire.
    pub fn number(self) -> u16 {
        Self::NUMBERS.iter().find(|(code, _)| *code == self).map_or(1, |(_, number)| *number)
    }

    /// Returns the code with this number, [`Failed`](Self::Failed) where it is unknown.
    pub fn from_number(number: u16) -> Self {
        let known = Self::NUMBERS.iter().find(|(_, other)| *other == number);
        known.map_or(Self::Failed, |(code, _)| *code)
    }

    /// Returns the exit code of a command that ends with this (CLI contract). A snapshot or path
    /// that does not exist is a plain error, 1; 10 is for a vault that does not.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed | Self::NotFound | Self::NotServed => 1,
            Self::Usage => 2,
            Self::Damaged => 4,
            Self::Busy => 11,
            Self::NotAuthorised => 12,
            Self::Version => 13,
            Self::NoSpace => 14,
        }
    }
}

impl<C> Encode<C> for RefusalCode {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u16(self.number())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for RefusalCode {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(Self::from_number(d.u16()?))
    }
}

/// Makes the key of this connection known.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Enroll {
    /// Oldest protocol version that the agent speaks.
    #[n(0)]
    pub oldest: u16,
    /// Newest protocol version that the agent speaks.
    #[n(1)]
    pub newest: u16,
    /// The token's secret.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub secret: [u8; 16],
    /// The name that the machine would like to have; the token's own goes before it.
    #[n(3)]
    pub machine: String,
    /// Name and version of the program, for the vault's log.
    #[n(4)]
    pub software: String,
}

impl std::fmt::Debug for Enroll {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enroll").field("machine", &self.machine).finish_non_exhaustive()
    }
}

/// The vault's answer to [`Enroll`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Enrolled {
    /// The id that the vault gave.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub machine_id: [u8; 16],
    /// The name that the machine has from now on.
    #[n(1)]
    pub machine: String,
    /// Names the store.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub store: [u8; 16],
}

/// Begins or resumes the backup of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Begin {
    /// The disk's name.
    #[n(0)]
    pub disk: String,
    /// Random name of this backup; the same when it is resumed.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
    /// The snapshot that the agent's cache stands for.
    #[cbor(n(2), with = "codec::object_id_option", has_nil)]
    pub base: Option<ObjectId>,
    /// The vault may know the nonce: an earlier connection, or an earlier process, began this.
    #[n(3)]
    pub resume: bool,
    /// Random name of all disks of one backup, for the receipt.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub run: [u8; 16],
}

/// The vault's answer to [`Begin`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Begun {
    /// What has become of the base.
    #[n(0)]
    pub base: BaseState,
    /// The newest snapshot of this machine and disk.
    #[cbor(n(1), with = "codec::object_id_option", has_nil)]
    pub latest: Option<ObjectId>,
}

/// What has become of the base that [`Begin`] named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum BaseState {
    /// None was named.
    #[n(0)]
    None,
    /// It stays until the backup ends; what it refers to need not be asked.
    #[n(1)]
    Pinned,
    /// It is not there (any more); everything must be asked.
    #[n(2)]
    Gone,
}

/// Asks which objects the vault has, durable and alive for this backup.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ask {
    /// Names the question.
    #[n(0)]
    pub number: u64,
    /// At most [`MAX_ASK_REFERENCES`](super::MAX_ASK_REFERENCES).
    #[cbor(n(1), with = "codec::references")]
    pub references: Vec<Reference>,
}

/// Answers an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Known {
    /// The question.
    #[n(0)]
    pub number: u64,
    /// One bit each, the first in the lowest bit of the first byte.
    #[cbor(n(1), with = "minicbor::bytes")]
    bitmap: Vec<u8>,
}

impl Known {
    /// Answers question `number`.
    pub fn new(number: u64, answers: &[bool]) -> Self {
        Self { number, bitmap: codec::bitmap(answers) }
    }

    /// Unpacks the answers to `count` questions; `None` where there are more or fewer.
    pub fn answers(&self, count: usize) -> Option<Vec<bool>> {
        codec::answers(&self.bitmap, count)
    }
}

/// Asks for a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Commit {
    /// The manifest, which the vault has.
    #[cbor(n(0), with = "codec::object_id")]
    pub manifest: ObjectId,
    /// What the agent says about itself: host, time, paths.
    #[n(1)]
    pub labels: Vec<Label>,
    /// Words of the user.
    #[n(2)]
    pub tags: Vec<String>,
}

/// One label: the agent's word, never the vault's.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Label {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its value.
    #[n(1)]
    pub value: String,
}

/// Answers a [`Commit`]; the same one to the same question, however often.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Committed {
    /// The receipt as it is stored.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub receipt: Vec<u8>,
}

/// What the agent says on an object stream: one object a frame.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SentObject {
    /// Counts the objects of this connection over all its streams, from 0, without gaps.
    #[n(0)]
    pub sequence: u64,
    /// The object.
    #[n(1)]
    pub object: Object,
}

/// What the agent says first, and only, on each further stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Asks for the snapshots that the session may see, oldest first.
    #[n(0)]
    List(#[n(0)] List),
    /// Asks for a manifest.
    #[n(1)]
    Open {
        /// Its id.
        #[cbor(n(0), with = "codec::object_id")]
        snapshot: ObjectId,
    },
    /// Asks for objects that nodes refer to.
    #[n(2)]
    Read {
        /// At most [`MAX_READ_ITEMS`](super::MAX_READ_ITEMS).
        #[n(0)]
        items: Vec<ReadItem>,
    },
}

/// Which snapshots a list shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct List {
    /// Those of this machine.
    #[n(0)]
    pub machine: Option<String>,
    /// Those of this disk.
    #[n(1)]
    pub disk: Option<String>,
    /// Sends each manifest too, and so serves it.
    #[n(2)]
    pub manifests: bool,
}

/// Objects that one node refers to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReadItem {
    /// A node that the vault served on this connection.
    #[cbor(n(0), with = "codec::reference")]
    pub node: Reference,
    /// Positions in its reference list.
    #[n(1)]
    pub numbers: Vec<u32>,
}

/// What the vault answers to a [`Request`]: any number of frames, the last of them
/// [`Done`](Self::Done) or [`Refused`](Self::Refused).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// One snapshot of a list.
    #[n(0)]
    Snapshot(#[n(0)] ListEntry),
    /// One object.
    #[n(1)]
    Object(#[n(0)] ServedObject),
    /// Everything has been sent.
    #[n(2)]
    Done,
    /// The rest will not be sent.
    #[n(3)]
    Refused(#[n(0)] Refusal),
    /// One object cannot be served; others follow.
    #[n(4)]
    Failed {
        /// Which item of the request.
        #[n(0)]
        item: u32,
        /// Which position in the node's reference list.
        #[n(1)]
        number: u32,
        /// Why.
        #[n(2)]
        refusal: Refusal,
    },
}

/// One snapshot of a list.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ListEntry {
    /// The receipt as it is stored.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub receipt: Vec<u8>,
    /// The manifest, where it was asked for and can be read.
    #[n(1)]
    pub manifest: Option<Object>,
}

/// One object of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ServedObject {
    /// Which item of the request; 0 for a manifest.
    #[n(0)]
    pub item: u32,
    /// Which position in the node's reference list; 0 for a manifest.
    #[n(1)]
    pub number: u32,
    /// The object.
    #[n(2)]
    pub object: Object,
}

/// A [`SentObject`] that is encoded without copying the object.
#[derive(Debug, Encode)]
#[cbor(map)]
pub struct SentObjectRef<'a> {
    /// As in [`SentObject`].
    #[n(0)]
    pub sequence: u64,
    /// As in [`SentObject`].
    #[n(1)]
    pub object: &'a Object,
}

/// The wire form of an [`Object`], for decoding.
#[derive(Decode)]
#[cbor(map)]
struct ObjectFields<'a> {
    #[cbor(n(0), with = "codec::reference")]
    reference: Reference,
    #[cbor(n(1), with = "codec::references")]
    refs: Vec<Reference>,
    #[n(2)]
    codec: u8,
    #[n(3)]
    plain_len: u32,
    #[cbor(b(4), with = "minicbor::bytes")]
    body: &'a [u8],
}

impl<C> Encode<C> for Object {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.map(5)?.u8(0)?;
        codec::reference::encode(&self.reference, e, ctx)?;
        e.u8(1)?;
        codec::references::encode(&self.refs, e, ctx)?;
        e.u8(2)?.u8(self.codec.number())?;
        e.u8(3)?.u32(self.plain_len)?;
        e.u8(4)?.bytes(&self.body)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Object {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        let fields = ObjectFields::decode(d, ctx)?;
        let codec = Codec::from_number(fields.codec)
            .ok_or_else(|| minicbor::decode::Error::message("unknown codec"))?;
        if fields.reference.kind == Kind::Chunk && !fields.refs.is_empty() {
            return Err(minicbor::decode::Error::message("a chunk with references"));
        }
        Ok(Self {
            reference: fields.reference,
            refs: fields.refs,
            codec,
            plain_len: fields.plain_len,
            body: fields.body.to_vec(),
        })
    }
}
