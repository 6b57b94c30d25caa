//! Client and server over 127.0.0.1.

#![allow(clippy::unwrap_used, missing_docs)]

mod vault;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use umbra_common::node::NodeSource;
use umbra_common::wire::{Begin, Commit, List, Object, RefusalCode, Token};
use umbra_common::{Kind, ObjectId, Reference};
use umbra_net::server::Server;
use umbra_net::{Client, Connect, Identity, NetError, Upload, Wanted};
use vault::MemoryVault;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Scene {
    vault: Arc<MemoryVault>,
    vault_identity: Identity,
    server: Server,
    identity: Identity,
}

impl Scene {
    fn new() -> Self {
        Self::with(MemoryVault::new())
    }

    fn with(vault: Arc<MemoryVault>) -> Self {
        let vault_identity = Identity::generate().unwrap();
        let server = vault.serve(&vault_identity, ANY);
        let identity = Identity::generate().unwrap();
        vault.add(identity.fingerprint(), "m");
        Self { vault, vault_identity, server, identity }
    }

    fn options(&self) -> Connect {
        let addresses = vec![self.server.address().to_string()];
        let mut options =
            Connect::new(addresses, self.vault_identity.fingerprint(), self.identity.clone());
        options.machine = Some("m".into());
        options.retry_for = Duration::from_secs(30);
        options
    }

    fn client(&self) -> Client {
        Client::connect(self.options()).unwrap()
    }
}

fn begin(nonce: u8) -> Begin {
    Begin { disk: "d".into(), nonce: [nonce; 16], base: None, resume: false, run: [0; 16] }
}

fn commit(manifest: ObjectId) -> Commit {
    Commit { manifest, labels: Vec::new(), tags: Vec::new() }
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

/// A snapshot in small: chunks, pages over them, a node over the pages, a manifest.
struct Tree {
    objects: Vec<Object>,
    manifest: Object,
    node: Object,
    pages: Vec<Object>,
    chunks: HashMap<Reference, Vec<u8>>,
}

fn tree(seed: u64, chunk_bytes: usize) -> Tree {
    let mut objects = Vec::new();
    let mut pages = Vec::new();
    let mut chunks = HashMap::new();
    for page in 0..8 {
        let mut refs = Vec::new();
        for chunk in 0..32 {
            let bytes = random_bytes(seed * 1000 + page * 32 + chunk, chunk_bytes);
            let object = Object::pack(Kind::Chunk, vec![], bytes.clone(), 1).unwrap();
            refs.push(object.reference);
            chunks.insert(object.reference, bytes);
            objects.push(object);
        }
        let body = format!("page {page}").into_bytes();
        let page = Object::pack(Kind::MapPage, refs, body, 1).unwrap();
        pages.push(page.clone());
        objects.push(page);
    }
    let refs = pages.iter().map(|page| page.reference).collect();
    let node = Object::pack(Kind::MapNode, refs, b"node".to_vec(), 1).unwrap();
    objects.push(node.clone());
    let refs = vec![node.reference];
    let manifest = Object::pack(Kind::Manifest, refs, b"manifest".to_vec(), 1).unwrap();
    objects.push(manifest.clone());
    Tree { objects, manifest, node, pages, chunks }
}

fn send_missing(upload: &Upload, tree: &Tree) {
    for batch in tree.objects.chunks(50) {
        let references: Vec<_> = batch.iter().map(|object| object.reference).collect();
        let known = upload.ask(&references).unwrap().wait().unwrap();
        for (object, known) in batch.iter().zip(known) {
            if !known {
                upload.send(object.clone()).unwrap();
            }
        }
    }
}

/// Reads the whole tree back and compares every chunk.
fn read_back(client: &Client, tree: &Tree) {
    let reader = client.reader();
    let manifest = reader.open(tree.manifest.reference.id).unwrap();
    assert_eq!(manifest.body, b"manifest");
    let node = reader.child(&manifest.reference, 0, &tree.node.reference).unwrap();
    assert_eq!(node.body, b"node");
    let numbers: Vec<u32> = (0..8).collect();
    let pages = reader.children(&tree.node.reference, &numbers, &node.refs).unwrap();
    client.cut_connection();
    let items: Vec<Wanted> = pages
        .iter()
        .map(|page| Wanted {
            node: page.reference(),
            objects: (0..).zip(page.refs.iter().copied()).collect(),
        })
        .collect();
    let mut count = 0;
    reader
        .read(&items, &mut |item, number, plain| {
            let plain = plain?;
            assert_eq!(pages[item].refs[number as usize], plain.reference);
            assert_eq!(tree.chunks[&plain.reference], plain.body);
            count += 1;
            if count == 100 {
                client.cut_connection();
            }
            Ok::<(), NetError>(())
        })
        .unwrap();
    assert_eq!(count, tree.chunks.len());
}

#[test]
fn a_backup_goes_up_and_comes_back() {
    let scene = Scene::new();
    let client = scene.client();
    assert_eq!(client.welcome().unwrap().machine, "m");
    let tree = tree(1, 20_000);
    let upload = client.upload(begin(1)).unwrap();
    assert!(matches!(client.upload(begin(2)), Err(NetError::Misuse { .. })));
    send_missing(&upload, &tree);
    upload.flush().unwrap();
    assert_eq!(scene.vault.inside.lock().unwrap().durable.len(), tree.objects.len());
    let receipt = upload.commit(commit(tree.manifest.reference.id)).unwrap();
    assert_eq!(receipt, [1; 16]);
    drop(upload);

    // The second backup on the same connection has nothing to send.
    let upload = client.upload(begin(2)).unwrap();
    assert_eq!(upload.begun().latest, Some(tree.manifest.reference.id));
    let before = upload.object_bytes_sent();
    send_missing(&upload, &tree);
    assert_eq!(upload.object_bytes_sent(), before);
    upload.commit(commit(tree.manifest.reference.id)).unwrap();
    drop(upload);
    assert_eq!(client.traffic().connections, 1);

    read_back(&client, &tree);
    let listed = client.reader().list(&List { manifests: true, ..List::default() }).unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1].manifest.as_ref().unwrap().reference, tree.manifest.reference);
    assert_eq!(scene.vault.inside.lock().unwrap().ended, 2);
}

/// Each level of a tree waits for the one below to be durable. A vault that collects for long is told
/// at each level that nothing more comes; otherwise every level would cost its pause.
#[test]
fn a_vault_that_waits_for_company_is_told_when_none_comes() {
    let scene = Scene::with(MemoryVault::patient());
    let client = scene.client();
    let (done, ended) = std::sync::mpsc::channel();
    let work = std::thread::spawn(move || {
        for nonce in 1..=20 {
            let mut below: Vec<Reference> = Vec::new();
            let upload = client.upload(begin(nonce)).unwrap();
            for level in 0..12 {
                let body = format!("level {level} of {nonce}").into_bytes();
                let kind = if level == 11 { Kind::Manifest } else { Kind::MapNode };
                let node = Object::pack(kind, below, body, 1).unwrap();
                below = vec![node.reference];
                upload.send(node).unwrap();
            }
            upload.commit(commit(below[0].id)).unwrap();
        }
        done.send(()).unwrap();
    });
    let ended = ended.recv_timeout(Duration::from_secs(60));
    assert!(ended.is_ok(), "a vault that nobody told still waits");
    work.join().unwrap();
}

#[test]
fn a_connection_cut_again_and_again_loses_and_repeats_nothing() {
    let scene = Scene::new();
    let mut options = scene.options();
    options.unacked_bytes = 400_000;
    let client = Client::connect(options).unwrap();
    let tree = tree(2, 20_000);
    let upload = client.upload(begin(1)).unwrap();
    for (number, object) in tree.objects.iter().enumerate() {
        upload.send(object.clone()).unwrap();
        if number % 40 == 20 {
            client.cut_connection();
        }
    }
    let receipt = upload.commit(commit(tree.manifest.reference.id)).unwrap();
    assert_eq!(receipt, [1; 16]);
    let traffic = client.traffic();
    assert!(traffic.connections >= 3, "{traffic:?}");
    let once: u64 = tree.objects.iter().map(Object::weight).sum();
    let bound = once + traffic.connections * 450_000;
    let sent = upload.object_bytes_sent();
    assert!(sent >= once * 9 / 10 && sent <= bound, "{sent} sent, {once} once, {bound} allowed");
    drop(upload);
    read_back(&client, &tree);
}

#[test]
fn a_vault_that_restarts_is_found_again_at_once() {
    let Scene { vault, vault_identity, server, identity } = Scene::new();
    let address = server.address();
    let options = Connect::new(vec![address.to_string()], vault_identity.fingerprint(), identity);
    let client = Client::connect(options).unwrap();
    let tree = tree(3, 5_000);
    let upload = client.upload(begin(1)).unwrap();
    let (first, second) = tree.objects.split_at(tree.objects.len() / 2);
    first.iter().for_each(|object| upload.send(object.clone()).unwrap());
    server.stop();
    let restart = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        vault.serve(&vault_identity, address)
    });
    let start = Instant::now();
    second.iter().for_each(|object| upload.send(object.clone()).unwrap());
    upload.commit(commit(tree.manifest.reference.id)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drop(upload);
    read_back(&client, &tree);
    restart.join().unwrap().stop();
}

#[test]
fn strangers_other_names_and_other_vaults_are_refused() {
    let scene = Scene::new();
    let code = |result: Result<Client, NetError>| match result {
        Err(NetError::Refused { code, text }) => {
            assert!(!text.is_empty());
            code
        }
        other => panic!("{other:?}"),
    };
    let mut options = scene.options();
    options.identity = Identity::generate().unwrap();
    assert_eq!(code(Client::connect(options.clone())), RefusalCode::NotAuthorised);

    // With a token the same key is let in.
    let mut token =
        Token { addresses: options.addresses.clone(), vault: options.vault, secret: [0; 16] };
    let enroll = |token: &Token| Client::enroll(token, &options.identity, "n", "test");
    match enroll(&token) {
        Err(error @ NetError::Refused { .. }) => assert_eq!(error.exit_code(), 12),
        other => panic!("{other:?}"),
    }
    token.secret = vault::SECRET;
    assert_eq!(enroll(&token).unwrap().machine, "n");
    assert_eq!(code(Client::connect(options.clone())), RefusalCode::NotAuthorised);
    options.machine = Some("n".into());
    Client::connect(options).unwrap();

    let mut options = scene.options();
    options.vault = scene.identity.fingerprint();
    match Client::connect(options) {
        Err(error @ NetError::WrongKey { .. }) => {
            assert_eq!(error.exit_code(), 12);
            assert!(error.to_string().contains(&scene.server.fingerprint().to_string()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_vault_is_an_error_after_the_time_given() {
    let free = std::net::UdpSocket::bind(ANY).unwrap().local_addr().unwrap();
    let identity = Identity::generate().unwrap();
    let mut options =
        Connect::new(vec![free.to_string()], identity.fingerprint(), identity.clone());
    options.connect_for = Duration::from_secs(2);
    let start = Instant::now();
    match Client::connect(options) {
        Err(error @ NetError::Unavailable { .. }) => assert_eq!(error.exit_code(), 10),
        other => panic!("{other:?}"),
    }
    let taken = start.elapsed();
    assert!(taken >= Duration::from_secs(2) && taken < Duration::from_secs(5), "{taken:?}");
}

#[test]
fn what_a_vault_refuses_ends_the_backup_for_every_thread() {
    let scene = Scene::new();
    let client = scene.client();
    let tree = tree(4, 1_000);
    let upload = client.upload(begin(1)).unwrap();
    let mut wrong = tree.objects[0].clone();
    wrong.reference.id.0[0] ^= 1;
    upload.send(wrong).unwrap();
    assert!(matches!(upload.flush(), Err(NetError::Bad { .. })));
    assert!(matches!(upload.send(tree.objects[1].clone()), Err(NetError::Bad { .. })));
    drop(upload);

    let upload = client.upload(begin(2)).unwrap();
    upload.send(tree.pages[0].clone()).unwrap();
    match upload.flush() {
        Err(NetError::Missing { referrer, references }) => {
            assert_eq!(referrer, Some(tree.pages[0].reference));
            assert_eq!(references, tree.pages[0].refs);
        }
        other => panic!("{other:?}"),
    }
    drop(upload);

    scene.vault.inside.lock().unwrap().full = true;
    let upload = client.upload(begin(3)).unwrap();
    upload.send(tree.objects[0].clone()).unwrap();
    match upload.flush() {
        Err(error @ NetError::Refused { .. }) => assert_eq!(error.exit_code(), 14),
        other => panic!("{other:?}"),
    }
    drop(upload);
    scene.vault.inside.lock().unwrap().full = false;
    let upload = client.upload(begin(4)).unwrap();
    send_missing(&upload, &tree);
    upload.commit(commit(tree.manifest.reference.id)).unwrap();
}

#[test]
fn a_reader_gets_nothing_by_its_bare_hash_and_nothing_damaged() {
    let scene = Scene::new();
    let client = scene.client();
    let tree = tree(5, 1_000);
    let upload = client.upload(begin(1)).unwrap();
    send_missing(&upload, &tree);
    upload.commit(commit(tree.manifest.reference.id)).unwrap();
    drop(upload);
    let reader = client.reader();
    let page = &tree.pages[0];
    let error = reader.child(&page.reference, 0, &page.refs[0]).unwrap_err();
    assert!(matches!(error, umbra_common::Error::Unavailable { .. }), "{error:?}");
    let nobody = ObjectId([1; 32]);
    match reader.open(nobody) {
        Err(NetError::Refused { code, .. }) => assert_eq!(code, RefusalCode::NotFound),
        other => panic!("{other:?}"),
    }

    {
        let mut inside = scene.vault.inside.lock().unwrap();
        let object = inside.durable.get_mut(&page.refs[0]).unwrap();
        let last = object.body.len() - 1;
        object.body[last] ^= 1;
        let other = inside.durable[&page.refs[2]].clone();
        inside.durable.insert(page.refs[1], other);
        inside.durable.remove(&page.refs[3]);
    }
    let manifest = reader.open(tree.manifest.reference.id).unwrap();
    reader.child(&manifest.reference, 0, &tree.node.reference).unwrap();
    reader.child(&tree.node.reference, 0, &page.reference).unwrap();
    let objects = (0..).zip(page.refs.iter().copied()).take(6).collect();
    let items = [Wanted { node: page.reference, objects }];
    let mut outcome = HashMap::new();
    reader
        .read(&items, &mut |_, number, plain| {
            outcome.insert(number, plain.map(|plain| plain.body));
            Ok::<(), NetError>(())
        })
        .unwrap();
    assert!(matches!(outcome[&0], Err(NetError::Damaged(_))), "{outcome:?}");
    assert!(matches!(outcome[&1], Err(NetError::Protocol { .. })), "{outcome:?}");
    assert!(matches!(outcome[&3], Err(NetError::Refused { code: RefusalCode::Damaged, .. })));
    for number in [2, 4, 5] {
        assert_eq!(outcome[&number].as_ref().unwrap(), &tree.chunks[&page.refs[number as usize]]);
    }
}

#[test]
fn a_limit_on_the_upload_holds() {
    let scene = Scene::new();
    let mut options = scene.options();
    options.upload_bytes_per_second = Some(1_000_000);
    let client = Client::connect(options).unwrap();
    let upload = client.upload(begin(1)).unwrap();
    let start = Instant::now();
    for number in 0..20 {
        let bytes = random_bytes(900 + number, 100_000);
        upload.send(Object::pack(Kind::Chunk, vec![], bytes, 1).unwrap()).unwrap();
    }
    upload.flush().unwrap();
    assert!(start.elapsed() > Duration::from_millis(1_700), "{:?}", start.elapsed());
}

#[test]
fn a_limit_on_the_download_holds_for_all_readers_together() {
    let scene = Scene::new();
    let tree = tree(7, 8_000);
    let client = scene.client();
    let upload = client.upload(begin(1)).unwrap();
    send_missing(&upload, &tree);
    upload.commit(commit(tree.manifest.reference.id)).unwrap();
    drop((upload, client));
    let mut options = scene.options();
    options.download_bytes_per_second = Some(1_000_000);
    let client = Client::connect(options).unwrap();
    let reader = client.reader();
    let manifest = reader.open(tree.manifest.reference.id).unwrap();
    reader.child(&manifest.reference, 0, &tree.node.reference).unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for (number, page) in (0..).zip(&tree.pages) {
            let reader = client.reader();
            let node = tree.node.reference;
            scope.spawn(move || {
                reader.child(&node, number, &page.reference).unwrap();
                let objects = (0..).zip(page.refs.iter().copied()).collect();
                let items = [Wanted { node: page.reference, objects }];
                let read = reader.read(&items, &mut |_, _, plain| plain.map(drop));
                read.unwrap();
            });
        }
    });
    // 256 chunks that do not compress: 2 MB.
    assert!(start.elapsed() > Duration::from_millis(1_700), "{:?}", start.elapsed());
}

#[test]
fn a_key_file_is_private_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let identity = Identity::generate().unwrap();
    identity.write_new(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Identity::read(&path).unwrap().fingerprint(), identity.fingerprint());
    assert!(Identity::generate().unwrap().write_new(&path).is_err());
    std::fs::write(dir.path().join("junk"), "junk").unwrap();
    assert!(matches!(Identity::read(&dir.path().join("junk")), Err(NetError::Key { .. })));
}
