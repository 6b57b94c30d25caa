//! The library: agents against a store.

use crate::tree::{begin, commit, read_back, send, tree};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use umbra_common::snapshot::Receipt;
use umbra_common::wire::{BaseState, Begin, List, RefusalCode, Token};
use umbra_net::server::{Backend, Serve, Server};
use umbra_net::{Client, Connect, Identity, NetError};
use umbra_vault::backend::StoreBackend;
use umbra_vault::{Mode, NewToken, OpenStore, Place, make_token};

pub(crate) struct Vault {
    pub(crate) open: OpenStore,
    pub(crate) backend: Arc<StoreBackend>,
    server: Server,
    identity: Identity,
}

impl Vault {
    pub(crate) fn start(dir: &Path, listen: SocketAddr) -> Self {
        let place = Place::new(dir);
        if !dir.join("FORMAT").exists() {
            place.init().unwrap();
        }
        let open = place.open(Mode::ReadWrite).unwrap();
        let identity = place.identity().unwrap();
        let backend = Arc::new(StoreBackend::new(Arc::clone(&open.store)));
        let options = Serve {
            identity: identity.clone(),
            listen,
            store: open.store.id().0,
            software: "test".into(),
            budget_bytes: 64 << 20,
        };
        let server = Server::start(options, Arc::clone(&backend) as Arc<dyn Backend>).unwrap();
        Self { open, backend, server, identity }
    }

    pub(crate) fn stop(self) {
        self.server.stop();
        self.backend.release();
        drop(self.backend);
        self.open.close().unwrap();
    }

    pub(crate) fn token(
        &self,
        role: &str,
        machine: Option<&str>,
        uses: u32,
        ttl_seconds: u64,
    ) -> Token {
        let new = NewToken {
            role: role.into(),
            machine: machine.map(str::to_owned),
            name: None,
            uses,
            ttl_seconds,
            addresses: vec![self.server.address().to_string()],
        };
        let made = make_token(&self.open.store, self.identity.fingerprint(), &new).unwrap();
        Token::from_text(&made.token).unwrap()
    }

    pub(crate) fn options(&self, identity: &Identity) -> Connect {
        let address = self.server.address().to_string();
        Connect::new(vec![address], self.identity.fingerprint(), identity.clone())
    }

    /// A machine that is enrolled in a role.
    pub(crate) fn machine(&self, role: &str, name: &str) -> (Identity, Client) {
        let identity = Identity::generate().unwrap();
        let token = self.token(role, Some(name), 1, 60);
        let enrolled = Client::enroll(&token, &identity, "ignored", "test").unwrap();
        assert_eq!(enrolled.machine, name);
        let client = Client::connect(self.options(&identity)).unwrap();
        assert_eq!(client.welcome().unwrap().machine, name);
        (identity, client)
    }
}

pub(crate) fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, NetError>) -> RefusalCode {
    match result {
        Err(NetError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_backup_over_cut_connections_and_a_restart_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::start(dir.path(), any());
    let address = vault.server.address();
    let (_, client) = vault.machine("agent", "web1");
    let tree = tree(1, 60_000);
    let upload = client.upload(begin(1)).unwrap();
    assert_eq!(upload.begun().base, BaseState::None);
    let (first, rest) = tree.objects.split_at(100);
    let (second, third) = rest.split_at(80);
    assert_eq!(send(&upload, first), 100);
    client.cut_connection();
    assert_eq!(send(&upload, second), 80);
    client.cut_connection();
    upload.flush().unwrap();
    vault.stop();
    let vault = Vault::start(dir.path(), address);
    send(&upload, third);
    let receipt = Receipt::decode(&upload.commit(commit(&tree)).unwrap()).unwrap();
    assert_eq!(receipt.snapshot, tree.manifest.reference.id);
    assert_eq!((receipt.machine_name.as_str(), receipt.disk.as_str()), ("web1", "sda"));
    assert_eq!((receipt.tags.as_slice(), receipt.run.0), (&["nightly".to_owned()][..], [9; 16]));
    assert_eq!(receipt.labels["host"], "here");
    // Each object once: what was cut was resent only where it was not durable.
    let status = vault.open.store.status().unwrap();
    assert_eq!(status.objects, tree.objects.len() as u64);
    let again = Receipt::decode(&upload.commit(commit(&tree)).unwrap()).unwrap();
    assert_eq!(again, receipt);
    drop(upload);
    read_back(&client, &tree);

    let based = Begin { base: Some(receipt.snapshot), ..begin(2) };
    let upload = client.upload(based).unwrap();
    assert_eq!(upload.begun().base, BaseState::Pinned);
    assert_eq!(upload.begun().latest, Some(receipt.snapshot));
    assert_eq!(send(&upload, &tree.objects), 0);
    drop(upload);
    let gone = Begin { base: Some(tree.objects[0].reference.id), ..begin(3) };
    assert_eq!(client.upload(gone).unwrap().begun().base, BaseState::Gone);
    let listed = client.reader().list(&List { manifests: true, ..List::default() }).unwrap();
    assert_eq!(Receipt::decode(&listed[0].receipt).unwrap(), receipt);
    assert_eq!(listed[0].manifest.as_ref().unwrap().reference, tree.manifest.reference);
    drop(client);
    vault.stop();
}

#[test]
fn each_role_does_what_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::start(dir.path(), any());
    let tree = tree(2, 500);
    let back_up = |client: &Client| {
        let upload = client.upload(begin(1))?;
        send(&upload, &tree.objects);
        upload.commit(commit(&tree))
    };
    let snapshots =
        |client: &Client| client.reader().list(&List::default()).map(|listed| listed.len());
    let open = |client: &Client| client.reader().open(tree.manifest.reference.id);

    let (_, imager) = vault.machine("imager", "imaged");
    back_up(&imager).unwrap();
    assert_eq!(snapshots(&imager).unwrap(), 0);
    assert_eq!(code(open(&imager)), RefusalCode::NotFound);

    let (_, agent) = vault.machine("agent", "other");
    assert_eq!(snapshots(&agent).unwrap(), 0);
    assert_eq!(code(open(&agent)), RefusalCode::NotFound);

    let (_, operator) = vault.machine("operator", "desk");
    assert_eq!(code(back_up(&operator)), RefusalCode::NotAuthorised);
    assert_eq!(snapshots(&operator).unwrap(), 1);
    read_back(&operator, &tree);

    // The same machine with a new key and role: its snapshots are still its own.
    let (_, restore) = vault.machine("restore", "imaged");
    assert_eq!(code(back_up(&restore)), RefusalCode::NotAuthorised);
    assert_eq!(snapshots(&restore).unwrap(), 1);
    read_back(&restore, &tree);
    // The old key is nobody's now.
    assert_eq!(code(open(&imager)), RefusalCode::NotAuthorised);
    vault.stop();
}

#[test]
fn tokens_are_good_for_what_they_say_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::start(dir.path(), any());
    let identity = || Identity::generate().unwrap();
    let enroll = |token: &Token, name: &str| {
        Client::enroll(token, &identity(), name, "test").map(|enrolled| enrolled.machine)
    };
    let twice = vault.token("agent", None, 2, 60);
    assert_eq!(enroll(&twice, "a").unwrap(), "a");
    // A name that is taken needs a token that says so; the failed attempt costs nothing.
    assert_eq!(code(enroll(&twice, "a")), RefusalCode::NotAuthorised);
    assert_eq!(code(enroll(&twice, "no/name")), RefusalCode::NotAuthorised);
    assert_eq!(enroll(&twice, "b").unwrap(), "b");
    assert_eq!(code(enroll(&twice, "c")), RefusalCode::NotAuthorised);

    let expired = vault.token("agent", None, 1, 1);
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_eq!(code(enroll(&expired, "d")), RefusalCode::NotAuthorised);
    let mut forged = vault.token("agent", None, 1, 60);
    forged.secret[0] ^= 1;
    assert_eq!(code(enroll(&forged, "d")), RefusalCode::NotAuthorised);
    let bound = vault.token("agent", Some("bound"), 1, 60);
    assert_eq!(enroll(&bound, "other").unwrap(), "bound");
    vault.stop();
}

#[test]
fn what_is_damaged_in_the_store_is_not_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::start(dir.path(), any());
    let (_, client) = vault.machine("agent", "m");
    let tree = tree(3, 30_000);
    let upload = client.upload(begin(1)).unwrap();
    send(&upload, &tree.objects);
    upload.commit(commit(&tree)).unwrap();
    drop(upload);
    drop(client);
    vault.stop();
    // One byte in the middle of each pack.
    for entry in walk(dir.path()) {
        let name = entry.to_string_lossy().into_owned();
        let mut bytes = std::fs::read(&entry).unwrap();
        if (name.contains("/packs/") || name.contains("/open/")) && bytes.len() > 400_000 {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            std::fs::write(&entry, bytes).unwrap();
        }
    }
    let vault = Vault::start(dir.path(), any());
    let (_, client) = vault.machine("operator", "desk");
    let reader = client.reader();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        read_back(&client, &tree);
    }));
    assert!(result.is_err(), "a damaged chunk was read as if it were whole");
    reader.open(tree.manifest.reference.id).unwrap();
    vault.stop();
}

pub(crate) fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path);
        }
    }
    files
}
