//! Who may become which machine, and what a key may do once another one has its place.

use crate::inside::{Vault, any, code};
use crate::tree::{begin, commit, read_back, send, tree};
use std::sync::Arc;
use umbra_common::wire::{Begin, Fingerprint, RefusalCode};
use umbra_net::server::{Backend, Committing, Peer, Settled, Taken, Visitor};
use umbra_net::{Client, Identity};

#[test]
fn an_enrolment_whose_answer_was_lost_is_answered_again() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::start(dir.path(), any());
    let [mine, others] = [(); 2].map(|()| Identity::generate().unwrap());
    for (machine, name) in [(None, "free"), (Some("bound"), "bound")] {
        let mine = if machine.is_some() { &others } else { &mine };
        let token = vault.token("agent", machine, 1, 60);
        let first = Client::enroll(&token, mine, name, "test").unwrap();
        // The token is used up; its own machine may still ask what became of it.
        assert_eq!(Client::enroll(&token, mine, name, "test").unwrap(), first);
        let thief = Identity::generate().unwrap();
        let refused = Client::enroll(&token, &thief, name, "test");
        assert_eq!(code(refused), RefusalCode::NotAuthorised);
        Client::connect(vault.options(mine)).unwrap();
    }
    // Another machine's token says nothing about this one.
    let token = vault.token("agent", Some("third"), 1, 60);
    Client::enroll(&token, &Identity::generate().unwrap(), "third", "test").unwrap();
    assert_eq!(code(Client::enroll(&token, &mine, "free", "test")), RefusalCode::NotAuthorised);
    vault.stop();
}

#[test]
fn one_key_is_one_machine() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::start(dir.path(), any());
    let key = Identity::generate().unwrap();
    Client::enroll(&vault.token("agent", None, 1, 60), &key, "a", "test").unwrap();
    let second = vault.token("agent", Some("b"), 1, 60);
    assert_eq!(code(Client::enroll(&second, &key, "b", "test")), RefusalCode::NotAuthorised);
    // The token was not used up by that.
    Client::enroll(&second, &Identity::generate().unwrap(), "b", "test").unwrap();
    let again = vault.token("restore", Some("a"), 1, 60);
    assert_eq!(Client::enroll(&again, &key, "a", "test").unwrap().machine, "a");
    assert_eq!(Client::connect(vault.options(&key)).unwrap().welcome().unwrap().machine, "a");
    vault.stop();
}

#[test]
fn a_token_for_anybody_does_not_open_what_a_local_machine_has() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::start(dir.path(), any());
    let owner = Identity::generate().unwrap();
    vault.backend.grant(owner.fingerprint());
    let mut options = vault.options(&owner);
    options.machine = Some("server".into());
    let local = Client::connect(options).unwrap();
    let tree = tree(4, 500);
    let upload = local.upload(begin(1)).unwrap();
    send(&upload, &tree.objects);
    upload.commit(commit(&tree)).unwrap();
    drop(upload);

    let thief = Identity::generate().unwrap();
    let anybody = vault.token("agent", None, 1, 60);
    let refused = Client::enroll(&anybody, &thief, "server", "test");
    assert_eq!(code(refused), RefusalCode::NotAuthorised);
    // The token is good for another name, and one that says so for this.
    Client::enroll(&anybody, &thief, "laptop", "test").unwrap();
    let (_, client) = vault.machine("agent", "server");
    read_back(&client, &tree);
    drop((local, client));
    vault.stop();
}

#[test]
fn a_snapshot_that_another_machine_has_a_receipt_of_too_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::start(dir.path(), any());
    let tree = tree(5, 500);
    let (_, first) = vault.machine("agent", "first");
    let upload = first.upload(begin(1)).unwrap();
    send(&upload, &tree.objects);
    upload.commit(commit(&tree)).unwrap();
    drop(upload);
    let (_, second) = vault.machine("agent", "second");
    let upload = second.upload(begin(2)).unwrap();
    send(&upload, &tree.objects);
    upload.commit(commit(&tree)).unwrap();
    drop(upload);
    read_back(&second, &tree);
    read_back(&first, &tree);
    vault.stop();
}

fn visitor(key: &Identity, name: &str) -> Visitor {
    Visitor {
        key: key.fingerprint(),
        peer: Peer::Machine(name.to_owned()),
        machine: name.to_owned(),
    }
}

#[test]
fn a_replaced_key_neither_commits_nor_reads_on() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::start(dir.path(), any());
    let tree = tree(6, 500);
    let (key, client) = vault.machine("agent", "web1");
    let upload = client.upload(begin(1)).unwrap();
    send(&upload, &tree.objects);
    upload.flush().unwrap();
    let old = visitor(&key, "web1");
    vault.backend.may_read(&old).unwrap();
    vault.machine("agent", "web1");
    assert_eq!(vault.backend.may_read(&old).unwrap_err().code, RefusalCode::NotAuthorised);
    assert_eq!(code(upload.commit(commit(&tree))), RefusalCode::NotAuthorised);
    assert!(vault.open.store.receipts().is_empty());
    drop((upload, client));
    vault.stop();
}

#[test]
fn a_committed_backup_does_not_wait_for_its_agent() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::start(dir.path(), any());
    let tree = tree(7, 500);
    let visitor = Visitor { key: Fingerprint([1; 32]), peer: Peer::Owner, machine: "m".into() };
    let sessions = || vault.open.store.status().unwrap().sessions;
    let attach = |begin: &Begin| {
        let settled = Arc::new(|settled| assert!(matches!(settled, Settled::Durable(_))));
        vault.backend.begin(&visitor, begin, settled).unwrap().0
    };
    let backup = attach(&begin(1));
    for (sequence, object) in (0..).zip(&tree.objects) {
        assert_eq!(backup.put(sequence, object.clone()).unwrap(), Taken::Accepted);
    }
    let wish = commit(&tree);
    let Committing::Committed(receipt) = backup.commit(&wish).unwrap() else { panic!("missing") };
    backup.detach();
    drop(backup);
    assert_eq!(sessions(), 0);
    // Its answer may have been lost: the agent asks again on a new connection.
    let backup = attach(&begin(1));
    assert_eq!(backup.commit(&wish).unwrap(), Committing::Committed(receipt));
    drop(backup);

    // An end that comes late over the lost connection does not end what goes on over a new one.
    let before = attach(&begin(2));
    let after = attach(&begin(2));
    before.end();
    drop(before);
    after.detach();
    drop(after);
    assert_eq!(sessions(), 1, "it waits for its agent");
    vault.stop();
}
