//! A record whose check is right and whose bytes are not what its id says: only reading tells.

use super::damage::closed;
use super::*;
use crate::{CheckOptions, FindingKind, LossCause, ReadData, check};

/// Changes a byte of a chunk's body and makes the record's check anew (docs/formats/pack.md).
fn forge(bytes: &mut [u8]) -> u64 {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut at = 128;
    // A body that is not compressed, so that it decodes whatever stands in it.
    while (bytes[at + 10], bytes[at + 11]) != (0, 0) {
        at += 120 + 33 * word(at + 112) as usize + word(at + 108) as usize;
        assert_eq!(&bytes[at..at + 8], b"UMBRAREC", "no such record in this pack");
    }
    let end = at + 120 + word(at + 108) as usize;
    bytes[end - 1] ^= 1;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[at..at + 72]).update(&bytes[at + 104..end]);
    bytes[at + 72..at + 104].copy_from_slice(hasher.finalize().as_bytes());
    at as u64
}

#[test]
fn a_forged_record_is_found_by_its_id() {
    let (vfs, rig, objects) = closed(false);
    let has_plain = |bytes: &[u8]| bytes[10] == 0;
    let mut name = String::new();
    for file in vfs.files().into_iter().filter(|file| is_pack(file)) {
        vfs.damage(&file, |bytes| {
            if has_plain(bytes) {
                name.clone_from(&file);
            }
        });
    }
    let mut at = 0;
    assert!(vfs.damage(&name, |bytes| at = forge(bytes)));
    // The manifests of these stores are none, which is found too.
    let run = |read| {
        let options = CheckOptions::new(rig.opener(), read);
        let mut report = check(&rig.vfs, &options).unwrap();
        report.lost.retain(|lost| lost.reference.kind == Kind::Chunk);
        report
    };
    assert_eq!(run(ReadData::Nothing).lost, []);
    let report = run(ReadData::Everything);
    let [lost] = report.lost.as_slice() else { panic!("{:?}", report.findings.list) };
    assert_eq!(lost.cause, LossCause::Damaged);
    assert!(objects.iter().any(|object| object.reference == lost.reference));
    let found = report.findings.list.iter().find(|f| f.kind == FindingKind::Record && f.at == at);
    assert!(found.is_some_and(|found| found.reason.contains("hash")), "{found:?}");
}
