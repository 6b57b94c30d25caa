//! Backups that wait for agents which do not come back.

use crate::inside::{Vault, any};
use crate::tree::begin;
use std::sync::Arc;
use umbra_common::wire::{Begin, Fingerprint};
use umbra_net::server::{Backend, Backup, Peer, Visitor};

const OF_MACHINE: u64 = 64;
const OF_ALL: u64 = 1024;

fn visitor(machine: u64) -> Visitor {
    let machine = format!("m{machine}");
    Visitor { key: Fingerprint([1; 32]), peer: Peer::Owner, machine }
}

impl Vault {
    fn attach(&self, machine: u64, nonce: u64) -> Arc<dyn Backup> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&nonce.to_le_bytes());
        let begin = Begin { nonce: bytes, ..begin(0) };
        let (backup, _) = self.backend.begin(&visitor(machine), &begin, Arc::new(|_| {})).unwrap();
        backup
    }

    /// What the store keeps a lease for.
    fn sessions(&self) -> u64 {
        self.open.store.status().unwrap().sessions
    }
}

#[test]
fn agents_that_do_not_come_back_cost_no_more_than_so_much() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::start(dir.path(), any());
    let at_work = vault.attach(0, 1_000);
    // Half are detached, as after a lost connection; half were lost while they began.
    for nonce in 0..OF_MACHINE * 3 {
        let backup = vault.attach(0, nonce);
        if nonce % 2 == 0 {
            backup.detach();
        }
    }
    assert_eq!(vault.sessions(), OF_MACHINE + 1);
    at_work.known(&[]).unwrap();

    // The newest are the ones that still wait.
    let newest = vault.attach(0, OF_MACHINE * 3 - 1);
    let last = vault.attach(0, OF_MACHINE * 2);
    assert_eq!(vault.sessions(), OF_MACHINE + 1);
    let oldest = vault.attach(0, 0);
    assert_eq!(vault.sessions(), OF_MACHINE + 2);
    drop((newest, last, oldest));
    assert_eq!(vault.sessions(), OF_MACHINE + 1);

    // Another machine's flood costs this one nothing, until there are very many machines.
    for machine in 1..=OF_ALL / OF_MACHINE {
        (0..OF_MACHINE + 5).for_each(|nonce| drop(vault.attach(machine, nonce)));
        let expected = ((machine + 1) * OF_MACHINE).min(OF_ALL) + 1;
        assert_eq!(vault.sessions(), expected, "{machine}");
    }
    at_work.known(&[]).unwrap();
    at_work.end();
    assert_eq!(vault.sessions(), OF_ALL + 1, "at_work is still in our hands");
    drop(at_work);
    assert_eq!(vault.sessions(), OF_ALL);
    vault.stop();
}
