//! What a fuzzer does with the store's own formats: mends the checksums of its bytes, so that it
//! gets past them, decodes them, and panics where something does not hold.
//!
//! What must hold: no panic, decode(encode(x)) == x, everything found lies inside the bytes.

use umbra_common::ObjectId;
use umbra_common::wire::Object;

use crate::bytes::{find_magic, narrow, wide};
use crate::error::Error;
use crate::format::StoreFormat;
use crate::ids::{Digest, PackId, StoreId};
use crate::lock::encoded_again;
use crate::log::segment::{
    ChainEnd, LogRecord, SEGMENT_HEADER_BYTES, SegmentEntries, SegmentHeader,
};
use crate::log::{Entry, LogState};
use crate::pack::{
    Contents, Entry as PackEntry, Found, PACK_HEADER_BYTES, PackHeader, Parity, RecordDraft,
    RecordHeader, TRAILER_BYTES, scan,
};
use crate::store::gc::list_encoded_again;

const RECORD_MAGIC: &[u8; 8] = b"UMBRAREC";
/// Where the check of a record stands.
const RECORD_CHECK: std::ops::Range<usize> = 72..104;
const ENTRY_MAGIC: &[u8; 8] = b"UMBRAENT";
const ENTRY_HEADER_BYTES: usize = 96;
/// Where the hash of the entry before stands in an entry of the LOG, and the check.
const ENTRY_PREVIOUS: std::ops::Range<usize> = 32..64;
const ENTRY_CHECK: std::ops::Range<usize> = 64..96;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let end = at.saturating_add(value.len());
    if let Some(place) = bytes.get_mut(at..end) {
        place.copy_from_slice(value);
    }
}

fn hash_of(parts: &[Option<&[u8]>]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts.iter().flatten() {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Scans a pack as recovery does, header and records.
///
/// The first byte says whether checks are mended (they are unless its lowest bit is set); the
/// store is the one that the first record names.
///
/// # Panics
/// Where something that must hold does not.
pub fn pack(input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    let mend = flags & 1 == 0;
    if mend {
        let hash = hash_of(&[bytes.get(..96)]);
        put(&mut bytes, 96, &hash);
        mend_records(&mut bytes);
    }
    if let Ok(header) = PackHeader::decode(&bytes, "fuzz") {
        assert_eq!(PackHeader::decode(&header.encode(), "fuzz").ok(), Some(header));
    }
    let first = find_magic(&bytes, RECORD_MAGIC, 0).and_then(|at| bytes.get(at..));
    let header = first.and_then(|rest| RecordHeader::decode(rest).ok());
    let store = header.map_or(StoreId([0; 16]), |header| header.store);
    let from = PACK_HEADER_BYTES.min(bytes.len());
    let (found, gaps) = scan(&bytes, wide(from), store);
    let mut parts: Vec<(u64, u64)> = gaps.iter().map(|gap| (gap.offset, gap.len)).collect();
    parts.extend(found.iter().map(|f| (f.offset, f.record.header.record_len().into())));
    parts.sort_unstable();
    let mut at = wide(from);
    for (offset, len) in parts {
        assert_eq!(offset, at, "records and gaps cover the pack, each byte once");
        assert!(len > 0, "a record or a gap is empty");
        at += len;
    }
    assert_eq!(at, wide(bytes.len()), "records and gaps end where the pack does");
    found.iter().for_each(|found| check_record(found, &bytes, store));
    check_contents(&found, store, wide(bytes.len()));
}

/// Mends the check of every record, the later ones first: one may stand inside another.
fn mend_records(bytes: &mut [u8]) {
    let mut places = Vec::new();
    while let Some(at) = find_magic(bytes, RECORD_MAGIC, places.last().map_or(0, |at| at + 1)) {
        places.push(at);
    }
    for at in places.into_iter().rev().take(256) {
        let Some(rest) = bytes.get(at..) else { continue };
        let Ok(header) = RecordHeader::decode(rest) else { continue };
        let Some(record) = rest.get(..narrow(header.record_len().into())) else { continue };
        let (before, after) = (record.get(..RECORD_CHECK.start), record.get(RECORD_CHECK.end..));
        let hash = hash_of(&[before, after]);
        put(bytes, at + RECORD_CHECK.start, &hash);
    }
}

/// A record encodes to the bytes that it came from; its object is proven or refused.
fn check_record(found: &Found<'_>, bytes: &[u8], store: StoreId) {
    let header = &found.record.header;
    let object = Object {
        reference: header.reference(),
        refs: found.record.refs.clone(),
        codec: header.codec,
        plain_len: header.plain_len,
        body: found.record.body.to_vec(),
    };
    let draft = RecordDraft {
        store,
        domain: header.domain,
        cipher: header.cipher,
        key_epoch: header.key_epoch,
        object: &object,
        stored_body: found.record.body,
    };
    let (again, encoded) = draft.encode();
    let start = narrow(found.offset);
    assert_eq!(again, *header, "a record's header comes back");
    assert!(
        bytes.get(start..).is_some_and(|rest| rest.starts_with(&encoded)),
        "a record encodes to the bytes that it came from"
    );
    if crate::prove(&object).is_ok() {
        let plain = object.open().expect("what was proven opens");
        assert_eq!(wide(plain.body.len()), u64::from(header.plain_len));
    }
}

/// The contents made from a scan come back from their encoding.
fn check_contents(found: &[Found<'_>], store: StoreId, covers: u64) {
    let entry = |f: &Found<'_>| PackEntry::new(f.offset, &f.record.header, f.record.refs.clone());
    let entries: Vec<PackEntry> = found.iter().map(entry).collect();
    let contents = Contents { store, pack: PackId([7; 16]), covers, entries };
    assert_eq!(Contents::decode(&contents.encode(), "fuzz").ok(), Some(contents));
}

/// Decodes a table of contents; its checksum and length are mended as in [`pack`].
///
/// # Panics
/// Where something that must hold does not.
pub fn footer(input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    let end = bytes.len().saturating_sub(TRAILER_BYTES);
    if flags & 1 == 0 {
        let len = wide(bytes.len());
        put(&mut bytes, end, &len.to_le_bytes());
        let hash = hash_of(&[bytes.get(..end.saturating_add(8))]);
        put(&mut bytes, end.saturating_add(8), &hash);
        put(&mut bytes, end.saturating_add(40), b"UMBRAEND");
    }
    let len = Contents::len_from_trailer(bytes.get(end..).unwrap_or_default());
    if let Ok(contents) = Contents::decode(&bytes, "fuzz") {
        assert_eq!(len, Some(wide(bytes.len())), "the trailer tells the length");
        assert_eq!(contents.encode(), bytes, "one encoding only");
        let mut end = 0;
        for entry in &contents.entries {
            assert!(end <= entry.offset && entry.end() <= contents.covers, "inside, apart");
            end = entry.end();
            let (key, location) = entry.row(contents.pack);
            assert_eq!((key.id, location.offset), (entry.id, entry.offset));
        }
    }
}

/// Decodes a parity object and makes a small pack anew with it; its checksum is mended as in
/// [`pack`].
///
/// # Panics
/// Where something that must hold does not.
pub fn parity(input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & 1 == 0
        && let Some(len) = bytes.get(12..16).and_then(|len| len.first_chunk())
    {
        let end = narrow(u32::from_le_bytes(*len).into()).saturating_sub(32);
        let hash = hash_of(&[bytes.get(..end)]);
        put(&mut bytes, end, &hash);
    }
    let Ok(parity) = Parity::decode(&bytes, "fuzz") else { return };
    let header = parity.encode();
    assert!(bytes.starts_with(&header), "one encoding only");
    assert_eq!(header.len(), parity.header_bytes());
    if parity.pack_len > 64 << 10 {
        return;
    }
    for pack in [Vec::new(), vec![*flags; narrow(parity.pack_len)]] {
        assert!(parity.damaged_shards(&pack).len() <= parity.data.len());
        if let Some(whole) = parity.reconstruct(&pack, &bytes) {
            assert_eq!(wide(whole.len()), parity.pack_len, "as long as the pack");
            assert!(parity.damaged_shards(&whole).is_empty(), "each shard has its hash");
        }
    }
}

/// Reads a segment of the LOG; checks and chain are mended as in [`pack`].
///
/// # Panics
/// Where something that must hold does not.
pub fn log(input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & 1 == 0 {
        let hash = hash_of(&[bytes.get(..96)]);
        put(&mut bytes, 96, &hash);
    }
    let header = SegmentHeader::decode(&bytes, "fuzz");
    let after = header.as_ref().map_or(ChainEnd::default(), |header| header.after);
    if flags & 1 == 0 {
        mend_entries(&mut bytes, after.hash);
    }
    if let Ok(header) = header {
        assert_eq!(SegmentHeader::decode(&header.encode(), "fuzz").ok(), Some(header));
    }
    let entries = SegmentEntries::read(&bytes, after);
    let read: usize = entries.records.iter().map(|record| record.len).sum();
    let end = wide(SEGMENT_HEADER_BYTES + read);
    assert!(entries.ends_at.is_none_or(|at| at == end), "the entries end where it says");
    assert!(entries.ends_at.is_some() || end >= wide(bytes.len()), "nothing is passed over");
    let (mut chain, mut state) = (after, LogState::default());
    for record in &entries.records {
        let Ok(entry) = Entry::decode(&record.payload) else { continue };
        // Fields at their default may stand there: the check binds the bytes, not their form.
        assert_eq!(Entry::decode(&entry.encode()).ok().as_ref(), Some(&entry));
        state.apply(record.time, &entry);
        chain.sequence = record.sequence - 1;
        chain.hash = record.previous;
        let (encoded, end) = LogRecord::encode(&entry, record.time, chain);
        let again = LogRecord::verify(&encoded);
        assert_eq!(again.map(|again| again.payload), Some(entry.encode()));
        assert_eq!(end.sequence, record.sequence);
    }
}

fn mend_entries(bytes: &mut [u8], after: Digest) {
    let mut previous = after.0;
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.starts_with(ENTRY_MAGIC)) {
        let Some(len) = rest.get(12..16).and_then(|len| len.first_chunk()) else { return };
        let payload = narrow(u32::from_le_bytes(*len).into());
        let Some(end) = at.checked_add(ENTRY_HEADER_BYTES).and_then(|at| at.checked_add(payload))
        else {
            return;
        };
        put(bytes, at + ENTRY_PREVIOUS.start, &previous);
        let head = bytes.get(at..at + ENTRY_CHECK.start);
        let hash = hash_of(&[head, bytes.get(at + ENTRY_HEADER_BYTES..end)]);
        put(bytes, at + ENTRY_CHECK.start, &hash);
        previous = hash;
        at = end;
    }
}

/// Decodes a store's FORMAT file; its check is mended as in [`pack`].
///
/// # Panics
/// Where something that must hold does not.
pub fn format(input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & 1 == 0 {
        let check = format!("check {}\n", ObjectId(hash_of(&[Some(&bytes)])));
        bytes.extend_from_slice(check.as_bytes());
    }
    match StoreFormat::decode(&bytes) {
        Ok(format) => {
            assert_eq!(StoreFormat::decode(&format.encode()).ok().as_ref(), Some(&format));
            let writing = format.check_features(true).is_ok();
            assert!(!writing || format.check_features(false).is_ok(), "who may write may read");
        }
        Err(Error::Unsupported { found, .. }) => assert!(found.len() <= 3 * bytes.len()),
        Err(_) => {}
    }
}

/// Decodes a LOCK file; its check is mended as in [`pack`].
///
/// # Panics
/// Where something that must hold does not.
pub fn lock(input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & 1 == 0 {
        let hash = hash_of(&[bytes.get(..32)]);
        put(&mut bytes, 32, &hash);
    }
    let Some(again) = encoded_again(&bytes) else { return };
    assert_eq!(encoded_again(&again).as_ref(), Some(&again), "an owner comes back");
}

/// Decodes the list of a sweep; its checksum is mended as in [`pack`].
///
/// # Panics
/// Where something that must hold does not.
pub fn sweep_list(input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & 1 == 0 {
        let hash = hash_of(&[Some(&bytes)]);
        bytes.extend_from_slice(&hash);
    }
    let store = bytes.get(16..32).and_then(|id| id.try_into().ok()).map(StoreId);
    let store = store.unwrap_or_default();
    let Some(again) = list_encoded_again(&bytes, store) else { return };
    assert_eq!(list_encoded_again(&again, store).as_ref(), Some(&again), "a list comes back");
}
