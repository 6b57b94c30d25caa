//! Finds the records of a pack without its table of contents.

use super::footer::FOOTER_MAGIC;
use super::record::{RECORD_MAGIC, Record, RecordFault, RecordHeader};
use crate::bytes::{find_magic, narrow, wide};
use crate::ids::StoreId;

/// Bytes that may be hashed in vain while resynchronising, as a multiple of what is scanned: a
/// backed-up vault disk may hold a header every 120 bytes, each claiming a megabyte.
const HASH_BUDGET: u64 = 64;

/// A record that was found and verified.
#[derive(Clone, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) offset: u64,
    pub(crate) record: Record<'a>,
    /// It stands behind bytes that are no record: it, or one before it, was found by looking for
    /// its magic. It may then lie in the body of a record that is damaged, whoever wrote that.
    pub(crate) resynced: bool,
}

/// Bytes that are no verified record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) reason: &'static str,
}

impl Gap {
    /// Tells whether it begins as a table of contents does.
    pub(crate) fn is_footer(&self, pack: &[u8]) -> bool {
        pack.get(narrow(self.offset)..).is_some_and(|rest| rest.starts_with(&FOOTER_MAGIC))
    }
}

/// Walks the records of a pack from offset `from` (a record's start, or the header's end).
///
/// A record that does not verify is skipped by resynchronising: the next header counts only when
/// its store id matches and its check verifies; as the walk goes on behind it, every record that
/// is found lies outside those before it. Whether a record behind a gap has the content that its
/// id says is for the caller to prove: a check can be forged, by whoever can have a chunk stored.
pub(crate) fn scan(pack: &[u8], from: u64, store: StoreId) -> (Vec<Found<'_>>, Vec<Gap>) {
    let (mut found, mut gaps) = (Vec::new(), Vec::new());
    let mut budget = wide(pack.len()).saturating_mul(HASH_BUDGET);
    let mut at = narrow(from);
    while let Some(rest) = pack.get(at..).filter(|rest| !rest.is_empty()) {
        let fault = match Record::verify(rest, store) {
            Ok(record) => {
                let len = narrow(record.header.record_len().into());
                // Behind a gap nothing shows that the store itself put a record there.
                let resynced = !gaps.is_empty();
                found.push(Found { offset: wide(at), record, resynced });
                at = at.saturating_add(len);
                continue;
            }
            Err(fault) => fault,
        };
        let next = resync(pack, at.saturating_add(1), store, &mut budget);
        let end = next.as_ref().map_or(pack.len(), |(offset, _)| *offset);
        let len = wide(end.saturating_sub(at));
        gaps.push(Gap { offset: wide(at), len, reason: fault.reason() });
        let Some((offset, record)) = next else { break };
        at = offset.saturating_add(narrow(record.header.record_len().into()));
        found.push(Found { offset: wide(offset), record, resynced: true });
    }
    (found, gaps)
}

/// Finds the next record at or after `from`.
fn resync<'a>(
    pack: &'a [u8],
    from: usize,
    store: StoreId,
    budget: &mut u64,
) -> Option<(usize, Record<'a>)> {
    let mut at = from;
    loop {
        at = find_magic(pack, &RECORD_MAGIC, at)?;
        let rest = pack.get(at..)?;
        if let Ok(header) = RecordHeader::decode(rest)
            && header.store == store
        {
            *budget = budget.checked_sub(header.record_len().into())?;
            match Record::verify(rest, store) {
                Ok(record) => return Some((at, record)),
                Err(RecordFault::Short | RecordFault::Check) => {}
                Err(_) => {}
            }
        }
        at = at.checked_add(1)?;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::record::tests::{STORE, encode, object};
    use super::*;
    use umbra_common::Kind;

    fn offsets(found: &[Found<'_>]) -> Vec<u64> {
        found.iter().map(|found| found.offset).collect()
    }

    #[test]
    fn a_bad_record_is_skipped() {
        let records: Vec<Vec<u8>> =
            (0..4u8).map(|n| encode(&object(Kind::Chunk, &[], &[n; 300]), STORE)).collect();
        let mut pack = records.concat();
        let (found, gaps) = scan(&pack, 0, STORE);
        assert_eq!(offsets(&found), [0, 420, 840, 1260]);
        assert!(gaps.is_empty());
        pack[500] ^= 1;
        let (found, gaps) = scan(&pack, 0, STORE);
        assert_eq!(offsets(&found), [0, 840, 1260]);
        assert!(!found[0].resynced && found[1].resynced && found[2].resynced);
        assert_eq!((gaps[0].offset, gaps[0].len), (420, 420));
        // A length that was hit.
        let mut pack = records.concat();
        pack[420 + 109] = 9;
        assert_eq!(offsets(&scan(&pack, 0, STORE).0), [0, 840, 1260]);
        // A torn tail.
        let pack = records.concat();
        let (found, gaps) = scan(&pack[..1300], 0, STORE);
        assert_eq!(offsets(&found), [0, 420, 840]);
        assert_eq!((gaps[0].offset, gaps[0].len), (1260, 40));
    }

    #[test]
    fn records_inside_bodies_are_not_found() {
        let foreign = encode(&object(Kind::Chunk, &[], b"theirs"), StoreId([9; 16]));
        let ours = encode(&object(Kind::Chunk, &[], b"ours, backed up"), STORE);
        let carrier = encode(&object(Kind::Chunk, &[], &[foreign.clone(), ours].concat()), STORE);
        let last = encode(&object(Kind::Chunk, &[], b"last"), STORE);
        let pack = [carrier.clone(), last.clone()].concat();
        let (found, gaps) = scan(&pack, 0, STORE);
        assert_eq!(offsets(&found), [0, carrier.len() as u64]);
        assert!(gaps.is_empty());
        // The carrier is damaged: the foreign record is never taken; ours verifies (its id is
        // proven by the caller), and the walk goes on to the last.
        let mut pack = pack;
        pack[121] ^= 1;
        let (found, _) = scan(&pack, 0, STORE);
        assert!(found.iter().all(|found| found.record.header.store == STORE));
        assert_eq!(*offsets(&found).last().unwrap(), carrier.len() as u64);
    }

    #[test]
    fn headers_that_claim_much_cost_little() {
        let mut fake = encode(&object(Kind::Chunk, &[], b""), STORE);
        fake[108..112].copy_from_slice(&(1u32 << 20).to_le_bytes());
        let pack = fake.repeat(20_000);
        let (found, gaps) = scan(&pack, 0, STORE);
        assert!(found.is_empty());
        assert_eq!(gaps.len(), 1);
    }
}
