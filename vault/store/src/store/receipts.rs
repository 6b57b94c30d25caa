//! Receipts: committing (the receipt aside, synced, renamed; the LOG; then the answer), reading them
//! again, and telling which there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use umbra_common::snapshot::Receipt;
use umbra_common::{ByteLen, ByteOffset, ByteRange, Kind, ObjectId, Reference};

use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::ids::{Digest, Timestamp};
use crate::log::Entry;
use crate::receipt::{MAX_RECEIPT_FILE_BYTES, decode, encode, receipt_name, sequence_of};
use crate::session::{Commit, CommitRequest, SessionState};
use crate::store::Store;
use crate::store::inner::{Inner, locked};

/// A receipt that is durable.
#[derive(Clone)]
pub(crate) struct StoredReceipt {
    pub(crate) receipt: Arc<Receipt>,
    pub(crate) hash: Digest,
    /// The LOG names it.
    pub(crate) logged: bool,
}

/// All receipts by sequence number.
#[derive(Default)]
pub(crate) struct Receipts {
    pub(crate) stored: BTreeMap<u64, StoredReceipt>,
    /// The highest number that a file has, readable or not.
    highest: u64,
    /// A receipt that may or may not be durable; nothing is committed after it.
    in_doubt: Option<String>,
}

impl Store {
    /// Returns the receipts of snapshots that are not forgotten, oldest first.
    pub fn receipts(&self) -> Vec<Arc<Receipt>> {
        self.receipts_where(|forgotten| !forgotten)
    }

    /// Returns the receipts of snapshots that are forgotten and can still be there again, oldest
    /// first.
    pub fn forgotten_receipts(&self) -> Vec<Arc<Receipt>> {
        self.receipts_where(|forgotten| forgotten)
    }

    /// Returns all receipts, also those of snapshots that are forgotten: what must not be lost,
    /// and what names of machines and disks are known. Oldest first.
    pub fn all_receipts(&self) -> Vec<Arc<Receipt>> {
        self.receipts_where(|_| true)
    }

    fn receipts_where(&self, wanted: impl Fn(bool) -> bool) -> Vec<Arc<Receipt>> {
        let receipts = locked(&self.inner.receipts);
        self.inner.log.with_state(|state| {
            let stored = receipts.stored.iter();
            let wanted = stored.filter(|(sequence, _)| wanted(state.is_forgotten(**sequence)));
            wanted.map(|(_, stored)| Arc::clone(&stored.receipt)).collect()
        })
    }

    /// Returns the newest receipt of a snapshot, or `None` where there is none or each of them is
    /// forgotten.
    pub fn receipt_of(&self, snapshot: &ObjectId) -> Option<Arc<Receipt>> {
        self.receipts().into_iter().rev().find(|receipt| receipt.snapshot == *snapshot)
    }

    /// Returns the receipts, not forgotten, whose snapshot ids begin with these hexadecimal
    /// digits.
    pub fn receipts_by_prefix(&self, digits: &str) -> Vec<Arc<Receipt>> {
        let mut found = self.receipts();
        found.retain(|receipt| receipt.snapshot.to_string().starts_with(digits));
        found
    }
}

impl Inner {
    /// Commits a snapshot.
    pub(crate) fn commit(
        &self,
        session: &SessionState,
        request: &CommitRequest,
        now: Timestamp,
    ) -> Result<Commit> {
        self.writable()?;
        self.leases.check(session.id())?;
        self.flush()?;
        let info = session.info();
        let manifest = Reference { kind: Kind::Manifest, id: request.manifest };
        // Closure: what is alive has all its descendants, so the manifest stands for all.
        if !self.is_known(session.id(), info.domain, &manifest)? {
            return Ok(Commit::Missing(vec![manifest]));
        }
        let mut receipts = locked(&self.receipts);
        let repeated = receipts.stored.values().find(|stored| {
            let receipt = &stored.receipt;
            receipt.machine == info.machine
                && receipt.disk == info.disk
                && receipt.nonce == info.nonce
                && receipt.snapshot == request.manifest
        });
        let sequence = match repeated {
            Some(stored) => stored.receipt.sequence,
            None => self.write_receipt(&mut receipts, session, request, now)?,
        };
        let stored = receipts.stored.get_mut(&sequence).ok_or(Error::Closed)?;
        if !stored.logged {
            pass(Point::ReceiptDurable);
            self.log_receipt(stored, now)?;
            stored.logged = true;
            pass(Point::ReceiptLogged);
        }
        Ok(Commit::Committed(Arc::clone(&stored.receipt)))
    }

    /// Makes the next receipt durable and returns its number.
    fn write_receipt(
        &self,
        receipts: &mut Receipts,
        session: &SessionState,
        request: &CommitRequest,
        now: Timestamp,
    ) -> Result<u64> {
        self.writable()?.check()?;
        if let Some(path) = &receipts.in_doubt {
            return Err(Error::InDoubt { path: path.clone() });
        }
        let receipt = self.next_receipt(receipts, session, request, now);
        let sequence = receipt.sequence;
        let name = receipt_name(sequence);
        let (bytes, hash) = encode(&receipt)?;
        if let Err(error) = self.objects.put_new(&name, &bytes) {
            // Where the name is there now, it may be gone after a power cut, or not.
            self.doubt();
            if !matches!(self.objects.head(&name), Ok(None)) {
                receipts.in_doubt = Some(name);
            }
            return Err(error);
        }
        let stored = StoredReceipt { receipt: Arc::new(receipt), hash, logged: false };
        receipts.stored.insert(sequence, stored);
        Ok(sequence)
    }

    fn next_receipt(
        &self,
        receipts: &Receipts,
        session: &SessionState,
        request: &CommitRequest,
        now: Timestamp,
    ) -> Receipt {
        let info = session.info();
        let here = receipts.stored.last_key_value().map(|(sequence, s)| (*sequence, s.hash));
        let logged = self.log.with_state(|state| state.last_receipt);
        let last = here.max(logged);
        let number = last.map_or(0, |(sequence, _)| sequence).max(receipts.highest);
        Receipt {
            store: self.store,
            sequence: number.saturating_add(1),
            previous: last.map(|(_, hash)| hash.0),
            snapshot: request.manifest,
            domain: info.domain.0,
            machine: info.machine,
            machine_name: info.machine_name.clone(),
            disk: info.disk.clone(),
            nonce: info.nonce,
            run: info.run,
            received: now.parts(),
            gc_generation: self.gc_generation(),
            tags: request.tags.clone(),
            labels: request.labels.clone(),
            signature: None,
        }
    }

    fn log_receipt(&self, stored: &StoredReceipt, now: Timestamp) -> Result<()> {
        let entry = Entry::ReceiptCommitted {
            sequence: stored.receipt.sequence,
            hash: stored.hash,
            snapshot: stored.receipt.snapshot,
        };
        self.log.append(entry, now)
    }

    /// Reads the receipts that are not read yet; damage is noted, not an error.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn load_receipts(&self) -> Result<()> {
        let names = self.objects.list("receipts/")?;
        let mut receipts = locked(&self.receipts);
        for name in names {
            let Some(sequence) = sequence_of(&name) else { continue };
            receipts.highest = receipts.highest.max(sequence);
            let expunged = self.log.with_state(|state| state.expunged.contains_key(&sequence));
            if expunged || receipts.stored.contains_key(&sequence) {
                continue;
            }
            match self.read_receipt(&name, sequence) {
                Ok(stored) => {
                    receipts.stored.insert(sequence, stored);
                }
                Err(error @ (Error::Corrupt { .. } | Error::Decode { .. })) => {
                    self.report_error(&error);
                }
                Err(error) => self.unless_unreadable(Err(error))?,
            }
        }
        self.check_chain(&receipts);
        Ok(())
    }

    fn read_receipt(&self, name: &str, sequence: u64) -> Result<StoredReceipt> {
        let corrupt =
            |reason| Error::Corrupt { what: "the receipt", path: name.to_owned(), at: 0, reason };
        let len = self.objects.head(name)?.map_or(0, |info| info.len);
        let range = ByteRange::new(ByteOffset(0), ByteLen(len));
        let range = range.filter(|_| len <= MAX_RECEIPT_FILE_BYTES);
        let range = range.ok_or_else(|| corrupt("it is too long"))?;
        let bytes = self.objects.get_ranges(name, &[range])?.pop().unwrap_or_default();
        let (receipt, hash) = decode(&bytes, name)?;
        if receipt.store != self.store || receipt.sequence != sequence {
            return Err(corrupt("it is that of another store or place"));
        }
        let logged = self.log.with_state(|state| state.receipts.get(&sequence).copied());
        if logged.is_some_and(|logged| logged != (hash, receipt.snapshot)) {
            return Err(corrupt("the LOG names another one in its place"));
        }
        Ok(StoredReceipt { receipt: Arc::new(receipt), hash, logged: logged.is_some() })
    }

    /// Notes receipts that the LOG names and that are gone, and breaks of the chain.
    fn check_chain(&self, receipts: &Receipts) {
        let logged: Vec<u64> =
            self.log.with_state(|state| state.receipts.keys().copied().collect());
        for sequence in logged {
            if !receipts.stored.contains_key(&sequence) {
                self.report(&receipt_name(sequence), 0, "the LOG names a receipt that is gone");
            }
        }
        let pairs = receipts.stored.values().zip(receipts.stored.values().skip(1));
        for (before, after) in pairs {
            let adjacent = before.receipt.sequence.checked_add(1) == Some(after.receipt.sequence);
            if adjacent && after.receipt.previous != Some(before.hash.0) {
                let name = receipt_name(after.receipt.sequence);
                self.report(&name, 0, "it does not continue the receipt before it");
            }
        }
    }

    /// Lets the LOG name the receipts that became durable just before a crash.
    pub(crate) fn log_receipts(&self, now: Timestamp) -> Result<()> {
        let mut receipts = locked(&self.receipts);
        for stored in receipts.stored.values_mut().filter(|stored| !stored.logged) {
            self.log_receipt(stored, now)?;
            stored.logged = true;
        }
        Ok(())
    }
}
