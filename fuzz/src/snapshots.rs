//! Manifests and receipts; the agent's table of ids.

use umbra_common::id_table::{HEADER_BYTES, IdTable};
use umbra_common::node::{Link, Node};
use umbra_common::snapshot::{Manifest, Receipt};
use umbra_common::{Kind, ObjectId};

/// The canonical bytes of a node.
pub(crate) fn manifest(input: &[u8]) {
    let Ok(node) = Node::decode(Kind::Manifest, input) else { return };
    let Ok(manifest) = Manifest::from_node(&node) else { return };
    let again = manifest.to_node().expect("what was read can be written");
    assert_eq!(again.to_bytes(), input, "one encoding only");
    assert_eq!(manifest.references(), node.refs);
    let own = node.reference();
    for (number, target) in node.refs.iter().enumerate() {
        let link = manifest.link(own, *target).expect("it names its children");
        let number = u32::try_from(number).expect("few children");
        assert_eq!(link, Link::new(own, &node, number).expect("it is in the list"));
    }
    assert_eq!(manifest.map_link(own).target, manifest.map.reference);
}

/// Flags (lowest bit: the checksum stays as it is), then a receipt.
pub(crate) fn receipt(input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & 1 == 0
        && let Some(body) = bytes.len().checked_sub(46)
    {
        let len = u32::try_from(body).unwrap_or(u32::MAX);
        bytes[10..14].copy_from_slice(&len.to_le_bytes());
        let end = bytes.len() - 32;
        let sum = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(sum.as_bytes());
    }
    let Ok(receipt) = Receipt::decode(&bytes) else { return };
    assert_eq!(receipt.to_bytes().expect("what was read can be written"), bytes);
    receipt.hash().expect("what was read can be hashed");
}

/// Flags (lowest bit: the checksum stays as it is), then a table of ids.
pub(crate) fn known_ids(input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & 1 == 0
        && let Some((header, ids)) = bytes.split_at_mut_checked(HEADER_BYTES)
    {
        let (facts, check) = header.split_at_mut(HEADER_BYTES - 32);
        let mut hasher = blake3::Hasher::new();
        check.copy_from_slice(hasher.update(facts).update(ids).finalize().as_bytes());
    }
    let Some(table) = IdTable::decode(&bytes) else { return };
    let ids: Vec<ObjectId> = table.ids.iter().collect();
    assert_eq!(ids.len(), table.ids.len());
    let mut again = IdTable::header(&table.store, table.snapshot, &ids).to_vec();
    ids.iter().for_each(|id| again.extend_from_slice(&id.0));
    assert_eq!(again, bytes, "one encoding only");
    // Whoever wrote it may not have sorted it: then it may miss ids, and never has one too many.
    for id in ids.iter().take(64) {
        assert!(table.ids.contains(id) || !ids.is_sorted(), "an id of a sorted table is found");
        let mut other = *id;
        other.0[31] ^= 1;
        assert!(!table.ids.contains(&other) || ids.contains(&other), "an id that is not there");
    }
}
