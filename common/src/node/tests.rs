//! Tests of the node's frame.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::memory::MemoryNodes;
use super::*;

fn chunk(seed: u8) -> Reference {
    Reference { kind: Kind::Chunk, id: ObjectId([seed; 32]) }
}

#[test]
fn id_is_derived_from_list_and_body() {
    let node = Node { kind: Kind::MapPage, refs: vec![chunk(7)], body: vec![1, 2] };
    // Written out by hand: count, kind, id, body.
    let mut bytes = vec![1, 0, 0, 0, 0];
    bytes.extend_from_slice(&[7; 32]);
    bytes.extend_from_slice(&[1, 2]);
    assert_eq!(node.to_bytes(), bytes);
    assert_eq!(node.id().0, blake3::derive_key("umbra 1 map page", &bytes));
    assert_eq!(Node::decode(Kind::MapPage, &bytes).unwrap(), node);
    assert_eq!(node.encoded_len(), bytes.len());
}

#[test]
fn decode_refuses() {
    let encode = |refs: &[Reference]| encode_references(refs);
    let corrupt =
        |kind, bytes: &[u8]| matches!(Node::decode(kind, bytes), Err(Error::Corrupt { .. }));
    assert!(corrupt(Kind::MapPage, &[1, 0, 0]));
    assert!(corrupt(Kind::MapPage, &[0xff, 0xff, 0xff, 0xff, 0]));
    assert!(corrupt(Kind::MapPage, &encode(&[chunk(1), chunk(1)])), "twice");
    assert!(corrupt(Kind::MapNode, &encode(&[chunk(1)])), "map node to chunk");
    assert!(corrupt(Kind::Chunk, &encode(&[])), "chunk");
    let mut unknown = encode(&[chunk(1)]);
    unknown[4] = 200;
    let result = Node::decode(Kind::MapPage, &unknown);
    assert!(matches!(result, Err(Error::UnknownNumber { number: 200, at: 4, .. })));
    let large = vec![0; MAX_NODE_BYTES + 1];
    assert!(matches!(Node::decode(Kind::Xattrs, &large), Err(Error::Limit { .. })));
}

#[test]
fn references_stand_once_in_order_of_first_use() {
    let mut refs = References::new();
    let numbers = [3, 1, 3, 2, 1].map(|seed| refs.number(chunk(seed)));
    assert_eq!(numbers, [0, 1, 0, 2, 1]);
    assert_eq!(refs.into_list(), [chunk(3), chunk(1), chunk(2)]);
}

#[test]
fn memory_checks_ids_lists_and_order() {
    let mut nodes = MemoryNodes::new();
    let page = Node { kind: Kind::MapPage, refs: vec![chunk(1)], body: vec![0] };
    let parent = Node { kind: Kind::MapNode, refs: vec![page.reference()], body: vec![0] };
    assert!(nodes.put(parent.clone()).is_err(), "parent first");
    let child = nodes.put(page).unwrap();
    let parent = nodes.put(parent).unwrap();
    let link = Link { parent, number: 0, target: child };
    assert_eq!(link.follow(&nodes).unwrap().reference(), child);
    assert!(nodes.child(&parent, 1, &child).is_err(), "wrong number");
    let mut other = nodes.find(&child).unwrap().as_ref().clone();
    other.body[0] ^= 1;
    nodes.damage(child, other);
    assert!(matches!(link.follow(&nodes), Err(Error::WrongBytes { .. })));
    nodes.remove(&child);
    assert!(matches!(link.follow(&nodes), Err(Error::Unavailable { .. })));
}

proptest! {
    #[test]
    fn decode_never_panics(kind in 0_u8..7, bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let kind = Kind::from_number(kind).unwrap();
        if let Ok(node) = Node::decode(kind, &bytes) {
            prop_assert_eq!(node.to_bytes(), bytes);
        }
    }
}
