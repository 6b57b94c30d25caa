//! Peers that shake hands and then behave badly. They speak QUIC themselves.

#![allow(clippy::unwrap_used)]

#[path = "../../tests/loopback/vault.rs"]
#[allow(dead_code)]
mod vault;

use crate::{Client, Connect, Identity, NetError, Wanted, frames, tls};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use umbra_common::wire::{
    Ask, Begin, Commit, Hello, MAX_CONTROL_FRAME_BYTES, MAX_OBJECT_FRAME_BYTES, Object, ReadItem,
    RefusalCode, Reply, Request, ToAgent, ToVault,
};
use umbra_common::{Kind, ObjectId, Reference};
use vault::MemoryVault;

/// Long enough to see that nothing happens.
const WHILE: Duration = Duration::from_secs(2);
/// How long an honest peer may take in spite of the others.
const HONEST: Duration = Duration::from_secs(30);

struct Scene {
    vault: Arc<MemoryVault>,
    identity: Identity,
    server: super::Server,
    runtime: tokio::runtime::Runtime,
}

/// A connection of a peer that follows no rules.
struct Raw {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl Scene {
    fn new() -> Self {
        let vault = MemoryVault::new();
        let identity = Identity::generate().unwrap();
        let server = vault.serve(&identity, (Ipv4Addr::LOCALHOST, 0).into());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self { vault, identity, server, runtime }
    }

    fn machine(&self, name: &str) -> Identity {
        let identity = Identity::generate().unwrap();
        self.vault.add(identity.fingerprint(), name);
        identity
    }

    /// Connects; this end takes 64 KiB at most before it reads.
    fn raw(&self, key: &Identity) -> Raw {
        let (mut config, _) = tls::client(key, self.identity.fingerprint()).unwrap();
        let mut transport = quinn::TransportConfig::default();
        transport
            .receive_window((64_u32 << 10).into())
            .stream_receive_window((64_u32 << 10).into())
            .keep_alive_interval(Some(Duration::from_secs(4)));
        config.transport_config(Arc::new(transport));
        let _inside = self.runtime.enter();
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let connecting = endpoint.connect_with(config, self.server.address(), "umbra").unwrap();
        let connection = self.runtime.block_on(connecting).unwrap();
        Raw { connection, _endpoint: endpoint }
    }

    /// Says hello and waits for the answer.
    fn greet(&self, raw: &Raw) -> (quinn::SendStream, quinn::RecvStream, ToAgent) {
        self.runtime.block_on(async {
            let (mut send, mut receive) = raw.connection.open_bi().await.unwrap();
            let hello = Hello { oldest: 1, newest: 1, machine: None, software: "raw".into() };
            let hello = ToVault::Hello(hello);
            frames::write(&mut send, &hello, MAX_CONTROL_FRAME_BYTES).await.unwrap();
            let answer = frames::read(&mut receive, MAX_CONTROL_FRAME_BYTES).await.unwrap();
            (send, receive, answer.unwrap())
        })
    }

    fn honest(&self) -> Client {
        let addresses = vec![self.server.address().to_string()];
        let key = self.machine("honest");
        let mut options = Connect::new(addresses, self.identity.fingerprint(), key);
        options.connect_for = HONEST;
        Client::connect(options).unwrap()
    }

    /// A backup by somebody honest, read back, in time.
    fn backup_and_restore(&self, nonce: u8) -> Tree {
        let client = self.honest();
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || send.send(backup_and_restore(&client, nonce)).ok());
        receive.recv_timeout(HONEST).unwrap()
    }
}

fn backup_and_restore(client: &Client, nonce: u8) -> Tree {
    let upload = client.upload(begin(nonce)).unwrap();
    let tree = Tree::new(nonce);
    tree.objects.iter().for_each(|object| upload.send(object.clone()).unwrap());
    let manifest = tree.manifest.id;
    upload.commit(Commit { manifest, labels: vec![], tags: vec![] }).unwrap();
    let reader = client.reader();
    assert_eq!(reader.open(manifest).unwrap().refs, [tree.page.0]);
    let get = |node, objects: Vec<(u32, Reference)>| {
        let mut got = 0;
        let wanted = [Wanted { node, objects }];
        reader
            .read(&wanted, &mut |_, _, plain| {
                got += plain?.body.len();
                Ok::<(), NetError>(())
            })
            .unwrap();
        got
    };
    get(tree.manifest, vec![(0, tree.page.0)]);
    assert_eq!(get(tree.page.0, (0..).zip(tree.page.1.iter().copied()).collect()), Tree::BYTES);
    tree
}

fn begin(nonce: u8) -> Begin {
    Begin { disk: "d".into(), nonce: [nonce; 16], base: None, resume: false, run: [0; 16] }
}

struct Tree {
    objects: Vec<Object>,
    page: (Reference, Vec<Reference>),
    manifest: Reference,
}

impl Tree {
    const CHUNKS: u32 = 100;
    const CHUNK_BYTES: usize = 60_000;
    const BYTES: usize = Self::CHUNKS as usize * Self::CHUNK_BYTES;

    fn new(seed: u8) -> Self {
        let mut objects = Vec::new();
        for number in 0..Self::CHUNKS {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[seed]).update(&number.to_le_bytes());
            let mut bytes = vec![0; Self::CHUNK_BYTES];
            hasher.finalize_xof().fill(&mut bytes);
            objects.push(Object::pack(Kind::Chunk, vec![], bytes, 1).unwrap());
        }
        let refs: Vec<Reference> = objects.iter().map(|object| object.reference).collect();
        let page = Object::pack(Kind::MapPage, refs.clone(), vec![seed], 1).unwrap();
        let page_reference = page.reference;
        objects.push(page);
        let manifest = Object::pack(Kind::Manifest, vec![page_reference], vec![seed], 1).unwrap();
        let reference = manifest.reference;
        objects.push(manifest);
        Self { objects, page: (page_reference, refs), manifest: reference }
    }
}

/// Sends a request; the caller may read its answer, or not.
async fn request(raw: &Raw, request: &Request) -> (quinn::SendStream, quinn::RecvStream) {
    let opened = timeout(HONEST, raw.connection.open_bi()).await;
    let (mut send, receive) = opened.unwrap().unwrap();
    frames::write(&mut send, request, MAX_CONTROL_FRAME_BYTES).await.unwrap();
    (send, receive)
}

#[test]
fn an_unknown_key_gets_no_room_for_anything_but_enrol() {
    let scene = Scene::new();
    let raw = scene.raw(&Identity::generate().unwrap());
    scene.runtime.block_on(async {
        let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
        assert!(timeout(WHILE, raw.connection.open_uni()).await.is_err());
        // A frame that is as long as any, of which the vault takes no more than it looks at.
        let mut taken = 0;
        send.write_all(&(1_u32 << 20).to_le_bytes()).await.unwrap();
        while let Ok(Ok(count)) = timeout(WHILE, send.write(&[0; 4096])).await {
            taken += count;
        }
        assert!(taken <= 128 << 10, "{taken}");
    });
    let raw = scene.raw(&Identity::generate().unwrap());
    scene.runtime.block_on(async {
        let _control = raw.connection.open_bi().await.unwrap();
        assert!(timeout(WHILE, raw.connection.open_bi()).await.is_err());
    });
}

#[test]
fn strangers_from_one_place_cannot_have_all_connections() {
    let scene = Scene::new();
    let client = scene.honest();
    let mut silent = Vec::new();
    for _ in 0..super::strangers::MAX {
        silent.push(scene.raw(&Identity::generate().unwrap()));
    }
    let (config, _) =
        tls::client(&Identity::generate().unwrap(), scene.identity.fingerprint()).unwrap();
    let outcome = scene.runtime.block_on(async {
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.connect_with(config, scene.server.address(), "umbra").unwrap().await
    });
    assert!(outcome.is_err(), "one more than there may be");
    // Who was welcomed does not count, and silence ends.
    assert_eq!(client.welcome().unwrap().machine, "honest");
    scene.backup_and_restore(1);
}

#[test]
fn whoever_is_welcomed_gets_all_the_streams_that_were_offered() {
    let scene = Scene::new();
    let raw = scene.raw(&scene.machine("m"));
    let (_send, _receive, answer) = scene.greet(&raw);
    let ToAgent::Welcome(welcome) = answer else { panic!("{answer:?}") };
    let all = async {
        let mut lanes = Vec::new();
        for _ in 0..welcome.limits.lanes {
            lanes.push(raw.connection.open_uni().await.unwrap());
        }
        let mut requests = Vec::new();
        for _ in 0..welcome.limits.requests {
            requests.push(raw.connection.open_bi().await.unwrap());
        }
    };
    scene.runtime.block_on(async { timeout(HONEST, all).await.unwrap() });
}

#[test]
fn readers_that_do_not_read_keep_nobody_waiting() {
    let scene = Scene::new();
    let tree = scene.backup_and_restore(1);
    let mut held = Vec::new();
    for machine in 0..10 {
        let raw = scene.raw(&scene.machine(&format!("slow{machine}")));
        let greeting = scene.greet(&raw);
        scene.runtime.block_on(async {
            let open = Request::Open { snapshot: tree.manifest.id };
            let (_send, mut receive) = request(&raw, &open).await;
            while frames::read::<Reply>(&mut receive, MAX_OBJECT_FRAME_BYTES)
                .await
                .unwrap()
                .is_some()
            {}
            let items = vec![ReadItem { node: tree.manifest, numbers: vec![0] }];
            let (_send, mut receive) = request(&raw, &Request::Read { items }).await;
            while frames::read::<Reply>(&mut receive, MAX_OBJECT_FRAME_BYTES)
                .await
                .unwrap()
                .is_some()
            {}
            // With the control stream and the two before, all 33 that there may be.
            for _ in 0..30 {
                let numbers = (0..Tree::CHUNKS).collect();
                let items = vec![ReadItem { node: tree.page.0, numbers }];
                held.push(request(&raw, &Request::Read { items }).await);
            }
        });
        held.push((greeting.0, greeting.1));
        std::mem::forget(raw);
    }
    std::thread::sleep(WHILE);
    scene.backup_and_restore(2);
}

#[test]
fn an_answer_that_is_read_late_is_whole() {
    let scene = Scene::new();
    let tree = scene.backup_and_restore(1);
    let raw = scene.raw(&scene.machine("slow"));
    let _greeting = scene.greet(&raw);
    scene.runtime.block_on(async {
        let one = |node, numbers| Request::Read { items: vec![ReadItem { node, numbers }] };
        for before in [Request::Open { snapshot: tree.manifest.id }, one(tree.manifest, vec![0])] {
            let (_send, mut receive) = request(&raw, &before).await;
            let first = frames::read::<Reply>(&mut receive, MAX_OBJECT_FRAME_BYTES).await;
            assert!(matches!(first, Ok(Some(Reply::Object(_)))), "{first:?}");
        }
        let asked = one(tree.page.0, (0..Tree::CHUNKS).collect());
        let (_send, mut receive) = request(&raw, &asked).await;
        let mut left: std::collections::BTreeSet<u32> = (0..Tree::CHUNKS).collect();
        // Longer than a thread waits, three times.
        for pause in [4, 0, 4, 4] {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            for _ in 0..10 {
                let reply = frames::read::<Reply>(&mut receive, MAX_OBJECT_FRAME_BYTES).await;
                let Ok(Some(Reply::Object(served))) = reply else { panic!("{reply:?}") };
                let position = usize::try_from(served.number).unwrap();
                assert_eq!(served.object.reference, tree.page.1[position]);
                assert!(left.remove(&served.number), "twice");
            }
        }
        loop {
            match frames::read::<Reply>(&mut receive, MAX_OBJECT_FRAME_BYTES).await.unwrap() {
                Some(Reply::Object(served)) => {
                    served.object.clone().open().unwrap();
                    assert!(left.remove(&served.number), "twice");
                }
                Some(Reply::Done) => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn an_agent_that_asks_and_does_not_listen_is_told_no_more() {
    const MUCH: usize = 40 << 20;
    let scene = Scene::new();
    let raw = scene.raw(&scene.machine("m"));
    let (mut send, _receive, _) = scene.greet(&raw);
    let unknown = Reference { kind: Kind::Chunk, id: ObjectId([7; 32]) };
    let sent = scene.runtime.block_on(async {
        let begin = ToVault::Begin(begin(1));
        frames::write(&mut send, &begin, MAX_CONTROL_FRAME_BYTES).await.unwrap();
        let ask = ToVault::Ask(Ask { number: 1, references: vec![unknown; 100] });
        let ask = frames::encode(&ask, MAX_CONTROL_FRAME_BYTES).unwrap();
        let mut sent = 0;
        while sent < MUCH {
            match timeout(WHILE, send.write_all(&ask)).await {
                Ok(written) => written.unwrap(),
                Err(_) => break,
            }
            sent += ask.len();
        }
        sent
    });
    assert!(sent < MUCH, "all of it was taken, and its answers kept");
    scene.backup_and_restore(2);
}

#[test]
fn one_key_cannot_use_the_whole_budget_up() {
    let scene = Scene::new();
    let key = scene.machine("m");
    let mut held = Vec::new();
    for nonce in 0..2 {
        let raw = scene.raw(&key);
        let (mut send, receive, _) = scene.greet(&raw);
        scene.runtime.block_on(async {
            let begin = ToVault::Begin(begin(nonce));
            frames::write(&mut send, &begin, MAX_CONTROL_FRAME_BYTES).await.unwrap();
            for _ in 0..tls::MAX_LANES {
                let mut lane = raw.connection.open_uni().await.unwrap();
                // The head of the longest frame there can be, and nothing behind it.
                lane.write_all(&(2_u32 << 20).to_le_bytes()).await.unwrap();
                held.push(lane);
            }
        });
        held.push(send);
        std::mem::forget((raw, receive));
    }
    std::thread::sleep(WHILE);
    scene.backup_and_restore(3);
}

#[test]
fn one_key_cannot_have_all_connections() {
    let scene = Scene::new();
    let key = scene.machine("m");
    let mut held = Vec::new();
    for number in 0..=super::share::MAX_CONNECTIONS {
        let raw = scene.raw(&key);
        let (send, receive, answer) = scene.greet(&raw);
        match answer {
            ToAgent::Welcome(_) => assert!(number < super::share::MAX_CONNECTIONS),
            ToAgent::Refused(refusal) => {
                assert_eq!(number, super::share::MAX_CONNECTIONS);
                assert_eq!(refusal.code, RefusalCode::Busy);
            }
            other => panic!("{other:?}"),
        }
        held.push((raw, send, receive));
    }
    scene.backup_and_restore(1);
    // When one has gone another may come.
    held.truncate(1);
    let start = Instant::now();
    loop {
        let raw = scene.raw(&key);
        if matches!(scene.greet(&raw).2, ToAgent::Welcome(_)) {
            break;
        }
        assert!(start.elapsed() < HONEST);
    }
}
