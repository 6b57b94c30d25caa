//! Vaults that shake hands and then behave badly.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::{frames, tls};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use umbra_common::ObjectId;
use umbra_common::wire::{
    Begun, Commit, Committed, Known, LimitsOffered, List, ListEntry, MAX_CONTROL_FRAME_BYTES,
    MAX_OBJECT_FRAME_BYTES, Reply, Request, ToAgent, ToVault,
};

/// What a vault does behind its welcome.
type Behaviour = fn(quinn::Connection, quinn::SendStream, quinn::RecvStream) -> Doing;
type Doing = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

struct BadVault {
    _runtime: Runtime,
    options: Connect,
    connections: Arc<AtomicU32>,
}

impl BadVault {
    fn new(behaviour: Behaviour) -> Self {
        let [vault, agent] = [(); 2].map(|()| Identity::generate().unwrap());
        let runtime = runtime().unwrap();
        let _inside = runtime.enter();
        let config = tls::server(&vault).unwrap();
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = endpoint.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&connections);
        runtime.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let connection = incoming.await.ok()?;
                    let (mut send, mut receive) = connection.accept_bi().await.ok()?;
                    frames::read::<ToVault>(&mut receive, MAX_CONTROL_FRAME_BYTES).await.ok()?;
                    let welcome = ToAgent::Welcome(Welcome {
                        version: 1,
                        store: [0; 16],
                        machine: "m".into(),
                        limits: LimitsOffered { ask_references: 1, lanes: 1, requests: 1 },
                        software: "bad".into(),
                    });
                    frames::write(&mut send, &welcome, MAX_CONTROL_FRAME_BYTES).await.ok()?;
                    tls::welcome(&connection);
                    behaviour(connection, send, receive).await;
                    Some(())
                });
            }
        });
        drop(_inside);
        let mut options = Connect::new(vec![address], vault.fingerprint(), agent);
        options.retry_for = Duration::from_secs(3);
        Self { _runtime: runtime, options, connections }
    }

    /// Begins a backup, and ends soon.
    fn upload_fails(&self) -> NetError {
        let start = Instant::now();
        let error = Client::connect(self.options.clone())
            .and_then(|client| {
                let upload = client.upload(begin())?;
                upload.commit(commit(1)).map(drop)
            })
            .unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}: {error:?}", start.elapsed());
        error
    }
}

fn begin() -> Begin {
    Begin { disk: "d".into(), nonce: [0; 16], base: None, resume: false, run: [0; 16] }
}

fn commit(manifest: u8) -> Commit {
    Commit { manifest: ObjectId([manifest; 32]), labels: vec![], tags: vec![] }
}

/// Fails where a call does not come back.
fn within(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (send, receive) = std::sync::mpsc::channel();
    let working = std::thread::spawn(move || {
        work();
        let _ = send.send(());
    });
    match receive.recv_timeout(limit) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it does not end"),
        _ => working.join().unwrap(),
    }
}

const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn a_vault_that_welcomes_and_leaves_is_given_up() {
    within(LIMIT, || {
        let vault = BadVault::new(|connection, _send, mut receive| {
            Box::pin(async move {
                let begin = frames::read::<ToVault>(&mut receive, MAX_CONTROL_FRAME_BYTES).await;
                drop(begin);
                connection.close(0_u32.into(), b"");
            })
        });
        let error = vault.upload_fails();
        assert!(matches!(error, NetError::Unavailable { .. }), "{error:?}");
        // With pauses between the attempts.
        let connections = vault.connections.load(Ordering::SeqCst);
        assert!((2..20).contains(&connections), "{connections}");
    });
}

#[test]
fn a_vault_that_talks_nonsense_is_given_up() {
    let nonsense: [Behaviour; 4] = [
        // A length beyond everything.
        |connection, mut send, receive| {
            Box::pin(async move {
                // Dropped, it would tell the agent to stop.
                let _receive = receive;
                send.write_all(&[0xff; 64]).await.unwrap();
                connection.closed().await;
            })
        },
        // A message that nobody knows.
        |connection, mut send, receive| {
            Box::pin(async move {
                // Dropped, it would tell the agent to stop.
                let _receive = receive;
                send.write_all(&[4, 0, 0, 0, 0x82, 0x18, 99, 0x80]).await.unwrap();
                connection.closed().await;
            })
        },
        // An answer to no question.
        |connection, mut send, mut receive| {
            Box::pin(async move {
                frames::read::<ToVault>(&mut receive, MAX_CONTROL_FRAME_BYTES).await.unwrap();
                let known = ToAgent::Known(Known::new(77, &[true]));
                frames::write(&mut send, &known, MAX_CONTROL_FRAME_BYTES).await.unwrap();
                connection.closed().await;
            })
        },
        // A receipt before there is anything to be had one for.
        |connection, mut send, mut receive| {
            Box::pin(async move {
                frames::read::<ToVault>(&mut receive, MAX_CONTROL_FRAME_BYTES).await.unwrap();
                let receipt = ToAgent::Committed(Committed { receipt: vec![1] });
                frames::write(&mut send, &receipt, MAX_CONTROL_FRAME_BYTES).await.unwrap();
                connection.closed().await;
            })
        },
    ];
    for behaviour in nonsense {
        within(LIMIT, move || {
            let vault = BadVault::new(behaviour);
            let error = vault.upload_fails();
            assert!(matches!(error, NetError::Protocol { .. }), "{error:?}");
            let connections = vault.connections.load(Ordering::SeqCst);
            assert!(connections <= 4, "{connections}");
        });
    }
}

#[test]
fn each_commit_waits_for_its_own_receipt() {
    within(LIMIT, || {
        let vault = BadVault::new(|connection, mut send, mut receive| {
            Box::pin(async move {
                while let Ok(Some(said)) =
                    frames::read::<ToVault>(&mut receive, MAX_CONTROL_FRAME_BYTES).await
                {
                    let answer = match said {
                        ToVault::Begin(_) => ToAgent::Begun(Begun {
                            base: umbra_common::wire::BaseState::None,
                            latest: None,
                        }),
                        ToVault::Commit(commit) => {
                            ToAgent::Committed(Committed { receipt: commit.manifest.0.to_vec() })
                        }
                        _ => continue,
                    };
                    frames::write(&mut send, &answer, MAX_CONTROL_FRAME_BYTES).await.unwrap();
                }
                connection.closed().await;
            })
        });
        let client = Client::connect(vault.options.clone()).unwrap();
        let upload = client.upload(begin()).unwrap();
        assert_eq!(upload.commit(commit(1)).unwrap(), [1; 32]);
        assert_eq!(upload.commit(commit(2)).unwrap(), [2; 32]);
    });
}

/// Answers each request with the same reply for ever.
fn for_ever(
    connection: quinn::Connection,
    control: (quinn::SendStream, quinn::RecvStream),
    reply: fn(ObjectId) -> Reply,
) -> Doing {
    Box::pin(async move {
        // Its end would be that of the session.
        let _control = control;
        while let Ok((mut send, mut receive)) = connection.accept_bi().await {
            let request = frames::read::<Request>(&mut receive, MAX_CONTROL_FRAME_BYTES).await;
            let snapshot = match request {
                Ok(Some(Request::Open { snapshot })) => snapshot,
                _ => ObjectId([0; 32]),
            };
            let one = frames::encode(&reply(snapshot), MAX_OBJECT_FRAME_BYTES).unwrap();
            let many = one.repeat(1_000);
            while send.write_all(&many).await.is_ok() {}
        }
    })
}

fn manifest() -> umbra_common::wire::Object {
    let kind = umbra_common::Kind::Manifest;
    umbra_common::wire::Object::pack(kind, vec![], b"manifest".to_vec(), 1).unwrap()
}

#[test]
fn a_vault_that_goes_on_for_ever_is_stopped() {
    within(Duration::from_secs(120), || {
        let vault = BadVault::new(|connection, send, receive| {
            for_ever(connection, (send, receive), |_| {
                Reply::Snapshot(ListEntry { receipt: vec![], manifest: None })
            })
        });
        let client = Client::connect(vault.options.clone()).unwrap();
        let error = client.reader().list(&List::default()).unwrap_err();
        assert!(matches!(error, NetError::Protocol { .. }), "{error:?}");
    });
    within(LIMIT, || {
        let vault = BadVault::new(|connection, send, receive| {
            for_ever(connection, (send, receive), |_| {
                let (item, number, object) = (0, 0, manifest());
                Reply::Object(umbra_common::wire::ServedObject { item, number, object })
            })
        });
        let client = Client::connect(vault.options.clone()).unwrap();
        let error = client.reader().open(manifest().reference.id).unwrap_err();
        assert!(matches!(error, NetError::Protocol { .. }), "{error:?}");
    });
}

#[test]
fn a_vault_opens_no_streams() {
    within(LIMIT, || {
        let vault = BadVault::new(|connection, mut send, mut receive| {
            Box::pin(async move {
                let uni = tokio::time::timeout(Duration::from_secs(2), connection.open_uni()).await;
                let bi = tokio::time::timeout(Duration::from_secs(2), connection.open_bi()).await;
                let refusal = match uni.is_err() && bi.is_err() {
                    true => umbra_common::wire::RefusalCode::Busy,
                    false => umbra_common::wire::RefusalCode::Damaged,
                };
                frames::read::<ToVault>(&mut receive, MAX_CONTROL_FRAME_BYTES).await.unwrap();
                let text = String::new();
                let refused = ToAgent::Refused(umbra_common::wire::Refusal { code: refusal, text });
                frames::write(&mut send, &refused, MAX_CONTROL_FRAME_BYTES).await.unwrap();
                connection.closed().await;
            })
        });
        assert_eq!(vault.upload_fails().exit_code(), 11);
    });
}
