//! Reading objects: from sealed packs and open ones, one or many in pack order.

use umbra_common::wire::Object;
use umbra_common::{ByteLen, ByteOffset, ByteRange, Kind, Reference};

use crate::bytes::narrow;
use crate::cipher::CipherContext;
use crate::error::{Error, Result};
use crate::ids::{DomainId, PackId};
use crate::index::{Key, Location};
use crate::pack::{Record, open_name, sealed_name};
use crate::store::OpenMode;
use crate::store::inner::Inner;

/// Bytes between two wanted records that are read along.
const MAX_GAP_BYTES: u64 = 128 << 10;

/// Most bytes of one reading of several records.
const MAX_SPAN_BYTES: u64 = 4 << 20;

/// A record that is wanted, and its place in the caller's list.
#[derive(Clone, Copy)]
struct Wanted {
    number: usize,
    reference: Reference,
    location: Location,
}

impl Wanted {
    fn end(&self) -> u64 {
        self.location.offset.saturating_add(self.location.record_len.into())
    }
}

impl Inner {
    /// Reads ranges of a pack, wherever it is: it may be sealed (and so move) meanwhile.
    pub(crate) fn pack_ranges(&self, pack: PackId, ranges: &[ByteRange]) -> Result<Vec<Vec<u8>>> {
        let sealed = sealed_name(pack);
        for _ in 0..2 {
            match self.objects.get_ranges(&sealed, ranges) {
                Err(error) if error.is_not_found() => {}
                other => return other,
            }
            match self.journal.get_ranges(&open_name(pack), ranges) {
                Err(error) if error.is_not_found() => {}
                other => return other,
            }
        }
        self.objects.get_ranges(&sealed, ranges)
    }

    /// Reads one object.
    pub(crate) fn get(&self, domain: DomainId, reference: &Reference) -> Result<Object> {
        let mut location = self.locate_or_refresh(domain, reference)?;
        loop {
            let error = match self.read_one(domain, reference, &location) {
                Err(error) if is_absent(&error) => error,
                other => return other,
            };
            // A collection may have copied it since the row was looked up, and deleted its pack.
            if self.mode == OpenMode::ReadOnly {
                self.refresh()?;
            }
            let now = self.locate(domain, reference)?;
            if now.is_same_place(&location) {
                return Err(error);
            }
            location = now;
        }
    }

    fn locate_or_refresh(&self, domain: DomainId, reference: &Reference) -> Result<Location> {
        match self.locate(domain, reference) {
            Err(error) if self.mode == OpenMode::ReadOnly && is_absent(&error) => {
                self.refresh()?;
                self.locate(domain, reference)
            }
            other => other,
        }
    }

    fn locate(&self, domain: DomainId, reference: &Reference) -> Result<Location> {
        let found = self.index.find(&Key { domain, id: reference.id })?;
        let found = found.filter(|location| location.kind == reference.kind);
        found.ok_or(Error::NotFound { reference: *reference })
    }

    pub(crate) fn read_one(
        &self,
        domain: DomainId,
        reference: &Reference,
        location: &Location,
    ) -> Result<Object> {
        let range = span(location.offset, location.record_len.into())?;
        let bytes = self.pack_ranges(location.pack, &[range])?.pop().unwrap_or_default();
        self.open_wanted(domain, reference, location, &bytes)
    }

    /// Opens the record at a location, and notes damage.
    fn open_wanted(
        &self,
        domain: DomainId,
        reference: &Reference,
        location: &Location,
        bytes: &[u8],
    ) -> Result<Object> {
        let path = sealed_name(location.pack);
        let opened = self.open_record(bytes, &path, location.offset).and_then(|(found, object)| {
            if found == domain && object.reference == *reference {
                return Ok(object);
            }
            let reason = "another object stands there";
            Err(Error::Corrupt { what: "a record", path, at: location.offset, reason })
        });
        opened.inspect_err(|error| self.report_error(error))
    }

    /// Verifies the record at the start of `bytes` and takes its cipher off.
    pub(crate) fn open_record(
        &self,
        bytes: &[u8],
        path: &str,
        at: u64,
    ) -> Result<(DomainId, Object)> {
        let corrupt =
            |reason| Error::Corrupt { what: "a record", path: path.to_owned(), at, reason };
        let record = Record::verify(bytes, self.store).map_err(|fault| corrupt(fault.reason()))?;
        Ok((record.header.domain, self.open_body(&record, path, at)?))
    }

    /// Takes the cipher off a verified record.
    pub(crate) fn open_body(&self, record: &Record<'_>, path: &str, at: u64) -> Result<Object> {
        let header = &record.header;
        let body = record.body.to_vec();
        let body = match (&self.cipher, header.cipher) {
            (_, 0) => body,
            (Some(cipher), number) if cipher.number() == number => {
                let context = CipherContext {
                    domain: header.domain,
                    key_epoch: header.key_epoch,
                    id: header.id,
                };
                cipher.open(&context, body).ok_or_else(|| Error::Corrupt {
                    what: "a record",
                    path: path.to_owned(),
                    at,
                    reason: "its cipher does not open it",
                })?
            }
            (_, number) => {
                return Err(Error::Unsupported {
                    what: "cipher",
                    path: path.to_owned(),
                    found: number.to_string(),
                    known: self.cipher.as_ref().map_or(0, |cipher| cipher.number()).to_string(),
                });
            }
        };
        Ok(Object {
            reference: header.reference(),
            refs: record.refs.clone(),
            codec: header.codec,
            plain_len: header.plain_len,
            body,
        })
    }

    /// Reads many objects in pack order.
    pub(crate) fn get_many(
        &self,
        domain: DomainId,
        references: &[Reference],
        each: &mut dyn FnMut(usize, Result<Object>) -> bool,
    ) {
        let keys: Vec<Key> = references.iter().map(|r| Key { domain, id: r.id }).collect();
        let found = self.index.find_many(&keys).unwrap_or_else(|_| vec![None; keys.len()]);
        let mut wanted = Vec::new();
        for (number, (reference, location)) in references.iter().zip(found).enumerate() {
            match location.filter(|location| location.kind == reference.kind) {
                Some(location) => {
                    wanted.push(Wanted { number, reference: *reference, location });
                }
                // Not found, or the index failed: one by one the errors are exact.
                None if !each(number, self.get(domain, reference)) => return,
                None => {}
            }
        }
        wanted.sort_unstable_by_key(|w| (w.location.pack, w.location.offset));
        let mut rest = wanted.as_slice();
        while let Some((run, after)) = first_run(rest) {
            rest = after;
            if !self.read_run(domain, run, each) {
                return;
            }
        }
    }

    /// Reads neighbouring records at once; false where `each` wants no more.
    fn read_run(
        &self,
        domain: DomainId,
        run: &[Wanted],
        each: &mut dyn FnMut(usize, Result<Object>) -> bool,
    ) -> bool {
        let Some(first) = run.first() else { return true };
        let start = first.location.offset;
        let end = run.iter().map(Wanted::end).max().unwrap_or(start);
        let bytes = span(start, end.saturating_sub(start))
            .and_then(|range| self.pack_ranges(first.location.pack, &[range]))
            .map(|mut found| found.pop().unwrap_or_default());
        for wanted in run {
            let object = match &bytes {
                Ok(bytes) => {
                    let from = narrow(wanted.location.offset.saturating_sub(start));
                    let to = narrow(wanted.end().saturating_sub(start));
                    let record = bytes.get(from..to).unwrap_or_default();
                    self.open_wanted(domain, &wanted.reference, &wanted.location, record)
                }
                // One unreadable sector must not take its neighbours along.
                Err(_) => self.get(domain, &wanted.reference),
            };
            if !each(wanted.number, object) {
                return false;
            }
        }
        true
    }

    /// Tells whether a session can rely on an object.
    pub(crate) fn is_known(
        &self,
        session: u64,
        domain: DomainId,
        reference: &Reference,
    ) -> Result<bool> {
        let view = self.view_of(session);
        let found = self.index.find(&Key { domain, id: reference.id })?;
        Ok(view.is_alive(found.as_ref(), reference.kind))
    }

    /// Tells whether a session can rely on a snapshot's manifest.
    pub(crate) fn is_whole_snapshot(
        &self,
        session: u64,
        domain: DomainId,
        snapshot: umbra_common::ObjectId,
    ) -> Result<bool> {
        self.is_known(session, domain, &Reference { kind: Kind::Manifest, id: snapshot })
    }
}

/// Tells whether an error may mean that we know too little of what another process wrote.
fn is_absent(error: &Error) -> bool {
    matches!(error.root(), Error::NotFound { .. }) || error.is_not_found()
}

fn span(start: u64, len: u64) -> Result<ByteRange> {
    ByteRange::new(ByteOffset(start), ByteLen(len)).ok_or(Error::Limit {
        what: "the end of a record",
        found: u64::MAX,
        limit: u64::MAX,
    })
}

/// Splits off the records that are read at once with the first.
fn first_run(wanted: &[Wanted]) -> Option<(&[Wanted], &[Wanted])> {
    let first = wanted.first()?;
    let mut end = first.end();
    let mut count = 0usize;
    for next in wanted {
        let fits = next.location.pack == first.location.pack
            && next.location.offset <= end.saturating_add(MAX_GAP_BYTES)
            && next.end().saturating_sub(first.location.offset) <= MAX_SPAN_BYTES;
        if count > 0 && !fits {
            break;
        }
        end = end.max(next.end());
        count = count.saturating_add(1);
    }
    wanted.split_at_checked(count)
}
