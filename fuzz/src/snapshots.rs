//! Manifests and receipts.

use umbra_common::Kind;
use umbra_common::node::{Link, Node};
use umbra_common::snapshot::{Manifest, Receipt};

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
