//! A snapshot in small: chunks, pages over them, a node over the pages, a manifest.

use std::collections::HashMap;
use umbra_common::node::NodeSource;
use umbra_common::wire::{Begin, Commit, Label, Object};
use umbra_common::{Kind, Reference};
use umbra_net::{Client, NetError, Upload, Wanted};

pub(crate) struct Tree {
    pub(crate) objects: Vec<Object>,
    pub(crate) manifest: Object,
    node: Object,
    chunks: HashMap<Reference, Vec<u8>>,
}

/// xorshift64*.
fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn tree(seed: u64, chunk_bytes: usize) -> Tree {
    let mut objects = Vec::new();
    let mut pages = Vec::new();
    let mut chunks = HashMap::new();
    for page in 0..8 {
        let mut refs = Vec::new();
        for chunk in 0..32 {
            let bytes = random_bytes(seed * 1000 + page * 32 + chunk, chunk_bytes);
            let object = Object::pack(Kind::Chunk, vec![], bytes.clone(), 3).unwrap();
            refs.push(object.reference);
            chunks.insert(object.reference, bytes);
            objects.push(object);
        }
        let page = Object::pack(Kind::MapPage, refs, format!("{seed} {page}").into(), 3).unwrap();
        pages.push(page.reference);
        objects.push(page);
    }
    let node = Object::pack(Kind::MapNode, pages, b"node".to_vec(), 3).unwrap();
    objects.push(node.clone());
    let refs = vec![node.reference];
    let manifest = Object::pack(Kind::Manifest, refs, b"manifest".to_vec(), 3).unwrap();
    objects.push(manifest.clone());
    Tree { objects, manifest, node, chunks }
}

pub(crate) fn begin(nonce: u8) -> Begin {
    Begin { disk: "sda".into(), nonce: [nonce; 16], base: None, resume: false, run: [9; 16] }
}

pub(crate) fn commit(tree: &Tree) -> Commit {
    let label = Label { name: "host".into(), value: "here".into() };
    Commit {
        manifest: tree.manifest.reference.id,
        labels: vec![label],
        tags: vec!["nightly".into()],
    }
}

/// Sends what the vault lacks of `objects`; returns how many it lacked.
pub(crate) fn send(upload: &Upload, objects: &[Object]) -> usize {
    let mut sent = 0;
    for batch in objects.chunks(100) {
        let references: Vec<_> = batch.iter().map(|object| object.reference).collect();
        let known = upload.ask(&references).unwrap().wait().unwrap();
        for (object, _) in batch.iter().zip(known).filter(|(_, known)| !known) {
            upload.send(object.clone()).unwrap();
            sent += 1;
        }
    }
    sent
}

/// Reads everything and compares every byte.
pub(crate) fn read_back(client: &Client, tree: &Tree) {
    let reader = client.reader();
    let manifest = reader.open(tree.manifest.reference.id).unwrap();
    let node = reader.child(&manifest.reference, 0, &tree.node.reference).unwrap();
    let numbers: Vec<u32> = (0..8).collect();
    let pages = reader.children(&tree.node.reference, &numbers, &node.refs).unwrap();
    let items: Vec<Wanted> = pages
        .iter()
        .map(|page| Wanted {
            node: page.reference(),
            objects: (0..).zip(page.refs.iter().copied()).collect(),
        })
        .collect();
    let mut count = 0;
    reader
        .read(&items, &mut |_, _, plain| {
            let plain = plain?;
            assert_eq!(tree.chunks[&plain.reference], plain.body);
            count += 1;
            Ok::<(), NetError>(())
        })
        .unwrap();
    assert_eq!(count, tree.chunks.len());
}
