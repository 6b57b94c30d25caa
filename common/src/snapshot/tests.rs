//! Tests of manifest and receipt.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use umbra_fsparse::Timestamp;

use super::*;
use crate::image_hash::ImageHash;
use crate::map::{self, MapRoot};
use crate::node::Node;
use crate::{ByteLen, ByteOffset, ByteRange, Kind, ObjectId, Reference};

fn reference(kind: Kind, seed: u8) -> Reference {
    Reference { kind, id: ObjectId([seed; 32]) }
}

fn volume(path: &str, overlay: Option<u8>) -> Volume {
    Volume {
        path: path.into(),
        kind: "ext4".into(),
        label: "root".into(),
        uuid: "0ee4d0ab-9ef0-4e01-9e01-4f3a36d0c101".into(),
        range: ByteRange::new(ByteOffset(1 << 20), ByteLen(1 << 30)).unwrap(),
        parsed: Parsed::Full,
        files: 3,
        dirs: 2,
        bytes: 70_000,
        overlay: overlay.map(|seed| reference(Kind::Directory, seed)),
    }
}

pub(crate) fn manifest() -> Manifest {
    let length = ByteLen(3 << 30);
    Manifest {
        disk: DiskLabel {
            name: "sda".into(),
            length,
            sector_bytes: 512,
            source: "/dev/sda".into(),
            guid: Some([9; 16]),
            labels: BTreeMap::from([("serial".into(), "X1".into()), ("a".into(), "".into())]),
        },
        machine: "host-1.lan".into(),
        host: "host-1".into(),
        agent_time: Timestamp { seconds: -5, nanos: 999_999_999 },
        tags: vec!["nightly".into()],
        parameters: Parameters::current(),
        partition_table: "gpt".into(),
        volumes: vec![volume("part/1", None), volume("part/2", Some(8)), volume("part/3", Some(8))],
        map: MapRoot { reference: reference(Kind::MapNode, 7), levels: map::levels(length) },
        image_hash: ImageHash([3; 32]),
        counts: Counts {
            bytes_total: length.0,
            bytes_data: length.0 - 4096,
            bytes_zero: 4096,
            chunks: 9,
            ..Counts::default()
        },
        free: FreePolicy::Skip,
        warnings: vec![ManifestWarning {
            offset: Some(ByteOffset(4096)),
            inode: Some(12),
            ..ManifestWarning::new("part/2", "inode", "bad checksum")
        }],
        warnings_total: 1,
        unreadable_ranges: 0,
        method: Method { consistency: Consistency::Fuzzy, text: "read while mounted".into() },
        run: RunId([1; 16]),
        nonce: SessionNonce([2; 16]),
        signature: None,
    }
}

pub(crate) fn receipt() -> Receipt {
    Receipt {
        store: StoreId([1; 16]),
        sequence: 2,
        previous: Some([4; 32]),
        snapshot: ObjectId([5; 32]),
        domain: 0,
        machine: MachineId([6; 16]),
        machine_name: "host-1".into(),
        disk: "sda".into(),
        nonce: SessionNonce([2; 16]),
        run: RunId([1; 16]),
        received: Timestamp { seconds: 1_790_000_000, nanos: 5 },
        gc_generation: 0,
        tags: vec!["nightly".into()],
        labels: BTreeMap::from([("host".into(), "host-1".into())]),
        signature: None,
    }
}

#[test]
fn manifest_comes_back() {
    let mut manifest = manifest();
    let node = manifest.to_node().unwrap();
    let roots = [reference(Kind::MapNode, 7), reference(Kind::Directory, 8)];
    assert_eq!(node.refs, roots, "the map's root first, a shared overlay once");
    assert_eq!(manifest.references(), roots);
    assert_eq!(Manifest::from_node(&node).unwrap(), manifest);
    let link = manifest.link(node.reference(), roots[1]).unwrap();
    assert_eq!((link.parent, link.number), (node.reference(), 1));
    manifest.signature = Some(Signature { algorithm: 1, key: [1; 32], bytes: vec![2; 64] });
    manifest.volumes[0].parsed = Parsed::None { reason: "no superblock".into() };
    manifest.free = FreePolicy::Keep;
    let node = manifest.to_node().unwrap();
    assert_eq!(Manifest::from_node(&node).unwrap(), manifest);
}

/// What a backup that skips nothing has no use for costs no byte.
#[test]
fn counts_of_what_was_skipped_come_back() {
    let mut manifest = manifest();
    let before = manifest.to_node().unwrap();
    manifest.counts.files_read = 1;
    manifest.counts.files_inherited = 2;
    manifest.counts.windows_inherited = 3;
    manifest.counts.bytes_inherited = 4;
    manifest.counts.files_reread = 5;
    manifest.counts.bytes_reread = 6;
    manifest.counts.files_differing = 7;
    manifest.counts.runs_since_full = 8;
    let node = manifest.to_node().unwrap();
    // Keys 8 to 15, each with its number.
    assert_eq!(node.body.len(), before.body.len() + 16);
    let pairs = [8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, 8];
    assert!(node.body.windows(16).any(|bytes| bytes == pairs));
    assert_eq!(Manifest::from_node(&node).unwrap(), manifest);
}

#[test]
fn manifest_refuses_contradictions() {
    let refused = |change: fn(&mut Manifest)| {
        let mut manifest = manifest();
        change(&mut manifest);
        manifest.to_node().unwrap_err()
    };
    refused(|manifest| manifest.counts.bytes_free = 1);
    refused(|manifest| manifest.counts.bytes_total = 1);
    refused(|manifest| manifest.map.levels += 1);
    refused(|manifest| manifest.map.reference.kind = Kind::Directory);
    refused(|manifest| manifest.volumes[1].overlay = Some(reference(Kind::MapNode, 1)));
    refused(|manifest| manifest.warnings_total = 0);
    refused(|manifest| manifest.machine = "a b".into());
    refused(|manifest| manifest.disk.name = String::new());
    refused(|manifest| manifest.tags = vec![String::new(); MAX_LABELS + 1]);
    refused(|manifest| manifest.host = "x".repeat(MAX_TEXT_BYTES + 1));
    refused(|manifest| manifest.warnings[0].message = "x".repeat(MAX_WARNING_BYTES + 1));
    refused(|manifest| manifest.volumes = vec![volume("x", None); MAX_VOLUMES + 1]);
}

#[test]
fn thousand_long_warnings_fit() {
    let mut manifest = manifest();
    let text = "ü".repeat(1000);
    let warning = ManifestWarning::new("part/2", &shortened(&text, 64), &text);
    manifest.warnings = vec![warning; MAX_WARNINGS];
    manifest.warnings_total = 1 << 40;
    assert!(Manifest::from_node(&manifest.to_node().unwrap()).unwrap() == manifest);
}

#[test]
fn manifest_has_one_encoding() {
    let node = manifest().to_node().unwrap();
    let with = |body: Vec<u8>| Manifest::from_node(&Node { body, ..node.clone() });
    let mut trailing = node.body.clone();
    trailing.push(0);
    assert!(with(trailing).is_err());
    let mut unknown = node.body.clone();
    unknown[0] += 1; // one field more: number 21, value 0
    unknown.extend_from_slice(&[21, 0]);
    assert!(matches!(with(unknown), Err(Error::UnknownNumber { number: 21, .. })));
    let mut version = node.body.clone();
    version[2] = 2;
    let refused = with(version);
    assert!(matches!(refused, Err(Error::Unsupported { found: 2, known: 1, .. })));
    let mut unused = node.clone();
    unused.refs.push(reference(Kind::Directory, 99));
    assert!(Manifest::from_node(&unused).is_err(), "a reference that the body does not use");
    let mut zero = node.body.clone();
    zero[0] += 1; // a field at its default (15: no unreadable ranges) must be left out
    let at = zero.windows(3).position(|bytes| bytes == [14, 1, 16]).unwrap();
    zero.splice(at + 2..at + 2, [15, 0]);
    assert!(matches!(with(zero), Err(Error::Corrupt { .. })));
}

#[test]
fn receipt_comes_back_and_is_framed() {
    let receipt = receipt();
    let bytes = receipt.to_bytes().unwrap();
    assert_eq!(&bytes[..10], b"umbraRCP\x01\x00");
    assert_eq!(Receipt::decode(&bytes).unwrap(), receipt);
    let hash = blake3::derive_key("umbra 1 receipt", &bytes);
    assert_eq!(receipt.hash().unwrap(), hash);
    let first = Receipt { previous: None, ..receipt };
    assert_eq!(Receipt::decode(&first.to_bytes().unwrap()).unwrap(), first);
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert!(matches!(Receipt::decode(&newer), Err(Error::Unsupported { found: 2, .. })));
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        assert!(Receipt::decode(&bad).is_err(), "bit flip at {at}");
        assert!(Receipt::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn names() {
    assert!(is_name("a") && is_name("A-z_0.9") && is_name(&"x".repeat(64)));
    assert!(!is_name("") && !is_name("a/b") && !is_name("ü") && !is_name(&"x".repeat(65)));
}

proptest! {
    #[test]
    fn mutated_manifest_never_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut node = manifest().to_node().unwrap();
        for (at, byte) in changes {
            let at = at.index(node.body.len());
            node.body[at] = byte;
        }
        if let Ok(decoded) = Manifest::from_node(&node) {
            prop_assert_eq!(decoded.to_node().unwrap(), node);
        }
    }

    #[test]
    fn receipts_come_back(sequence: u64, seconds: i64, nanos in 0..1_000_000_000_u32,
        tags in proptest::collection::vec(".{0,20}", 0..5),
        labels in proptest::collection::btree_map(".{0,9}", ".{0,9}", 0..5)) {
        let received = Timestamp { seconds, nanos };
        let receipt = Receipt { sequence, received, tags, labels, ..receipt() };
        prop_assert_eq!(Receipt::decode(&receipt.to_bytes().unwrap()).unwrap(), receipt);
    }
}
