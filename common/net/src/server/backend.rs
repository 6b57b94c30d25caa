//! What a vault has to answer. All calls may block and come from many threads.

use std::any::Any;
use std::ops::RangeInclusive;
use std::sync::Arc;
use umbra_common::wire::session::Peer;
use umbra_common::wire::{
    Begin, Begun, Commit, Enroll, Enrolled, Fingerprint, List, ListEntry, Object, Refusal,
};
use umbra_common::{ObjectId, Reference};

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// The key that it has proven to own.
    pub key: Fingerprint,
    /// What [`Backend::identify`] made of it.
    pub peer: Peer,
    /// The machine that it speaks for, as the vault welcomed it.
    pub machine: String,
}

/// What became of objects that were accepted.
#[derive(Clone, Debug)]
pub enum Settled {
    /// They are durable.
    Durable(RangeInclusive<u64>),
    /// Some could not be made durable: the backup ends.
    Failed(Refusal),
}

/// Told what became of a backup's objects. Does not block.
pub type OnSettled = Arc<dyn Fn(Settled) + Send + Sync>;

/// Keeps a snapshot until it is dropped.
pub type Kept = Box<dyn Any + Send + Sync>;

/// The vault behind the server.
pub trait Backend: Send + Sync + 'static {
    /// Tells whom a key stands for.
    fn identify(&self, key: &Fingerprint) -> Peer;

    /// Makes a key known.
    ///
    /// # Errors
    /// The refusal to answer with.
    fn enroll(&self, key: &Fingerprint, enroll: &Enroll) -> Result<Enrolled, Refusal>;

    /// Begins the backup of a disk, or resumes it: then everything that an earlier connection
    /// brought must be settled before this returns, so that it is not sent twice.
    ///
    /// # Errors
    /// The refusal to answer with.
    fn begin(
        &self,
        visitor: &Visitor,
        begin: &Begin,
        settled: OnSettled,
    ) -> Result<(Arc<dyn Backup>, Begun), Refusal>;

    /// Lists the snapshots that the visitor may see, each with its place, until `each` returns
    /// `false`: oldest first, from those behind place `after` on. Places ascend and stay what they
    /// are while snapshots come and go, so that a list can be gone on with.
    ///
    /// # Errors
    /// The refusal to answer with.
    fn list(
        &self,
        visitor: &Visitor,
        list: &List,
        after: Option<u64>,
        each: &mut dyn FnMut(u64, ListEntry) -> bool,
    ) -> Result<(), Refusal>;

    /// Returns a manifest that the visitor may see, and what keeps its snapshot while the
    /// connection lasts.
    ///
    /// # Errors
    /// The refusal to answer with.
    fn open(&self, visitor: &Visitor, snapshot: &ObjectId) -> Result<(Object, Kept), Refusal>;

    /// Tells whether the visitor may (still) read what was served to it: its key may have been
    /// replaced since.
    ///
    /// # Errors
    /// The refusal to answer with.
    fn may_read(&self, visitor: &Visitor) -> Result<(), Refusal>;

    /// Returns the reference list of a node.
    ///
    /// # Errors
    /// The refusal to answer with.
    fn references(&self, node: &Reference) -> Result<Vec<Reference>, Refusal>;

    /// Reads objects in the order that suits the store, until `each` returns `false`; it gets the
    /// position in `references`.
    fn read(
        &self,
        references: &[Reference],
        each: &mut dyn FnMut(usize, Result<Object, Refusal>) -> bool,
    );
}

/// What became of an object that was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// [`OnSettled`] is told later, or was told already.
    Accepted,
    /// A node; these objects that it refers to are not there.
    Missing(Vec<Reference>),
    /// The object is wrong in itself.
    Bad(String),
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committing {
    /// The receipt as it is stored.
    Committed(Vec<u8>),
    /// These objects are not there.
    Missing(Vec<Reference>),
}

/// A backup under way.
pub trait Backup: Send + Sync + 'static {
    /// Tells which objects are durable and alive for this backup.
    ///
    /// # Errors
    /// The refusal that ends the backup.
    fn known(&self, references: &[Reference]) -> Result<Vec<bool>, Refusal>;

    /// Stores an object. `sequence` is this connection's number for it.
    ///
    /// # Errors
    /// The refusal that ends the backup.
    fn put(&self, sequence: u64, object: Object) -> Result<Taken, Refusal>;

    /// Makes everything put so far durable now.
    ///
    /// # Errors
    /// The refusal that ends the backup.
    fn flush(&self) -> Result<(), Refusal>;

    /// Makes the receipt; again the same one when it is there already.
    ///
    /// # Errors
    /// The refusal that ends the backup.
    fn commit(&self, commit: &Commit) -> Result<Committing, Refusal>;

    /// The agent is done with the backup, committed or not.
    fn end(&self);

    /// The connection is gone; the agent may come back and resume.
    fn detach(&self);
}
