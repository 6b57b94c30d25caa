//! A writer: backs its made disk up, again and again, and notes what it is told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use umbra_common::wire::{BaseState, Begin, Commit, Object, RefusalCode};
use umbra_common::{Kind, Reference};
use umbra_net::{Client, Connect, NetError, Upload};

use super::ledger::{Expected, Ledger, Objects, nodes_of};
use super::made;
use crate::images::Noise;

/// Most chunks of one backup.
const BACKUP_CHUNKS: u64 = 96;

/// Connections of all writers, which the one who kills the vault cuts: by itself an agent would notice when the idle time
/// is over.
#[derive(Debug, Default)]
pub struct Lines {
    clients: Mutex<Vec<Client>>,
    over: AtomicBool,
}

impl Lines {
    fn add(&self, client: &Client) {
        self.clients.lock().unwrap_or_else(|poison| poison.into_inner()).push(client.clone());
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        let clients = self.clients.lock().unwrap_or_else(|poison| poison.into_inner());
        clients.iter().for_each(Client::cut_connection);
    }

    /// Lets no writer begin another backup.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// What the chunks of a backup are chosen from.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// Number of the writer.
    pub writer: u64,
    /// Shared numbers that are new in this round begin here.
    pub shared_from: u64,
}

/// How a round ended for a writer.
#[derive(Debug, Default)]
pub struct Round {
    /// What the vault refused for want of room.
    pub no_space: u64,
    /// What it refused for other reasons of the storage.
    pub refused: u64,
    /// The words of the last refusal.
    pub words: String,
}

/// Backs up until the vault is gone, refuses, or the round is over.
///
/// # Errors
/// Only where something was lost: the vault lacks what it acknowledged.
pub fn run(
    connect: &Connect,
    lines: &Lines,
    pool: Pool,
    ledger: &mut Ledger,
    noise: &mut Noise,
) -> Result<Round> {
    let mut round = Round::default();
    let Ok(client) = Client::connect(connect.clone()) else { return Ok(round) };
    lines.add(&client);
    while !lines.is_over() {
        match back_up(&client, pool, ledger, noise) {
            Ok(()) => {}
            Err(NetError::Refused { code, text }) => {
                round.words = text;
                if code == RefusalCode::NoSpace {
                    round.no_space += 1;
                } else if code == RefusalCode::Damaged {
                    bail!("LOST: writer {}: {}", pool.writer, round.words);
                } else {
                    round.refused += 1;
                }
                // A disk that is full, or broken, is not made better by haste.
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Err(NetError::Missing { referrer, references }) => {
                let lost = references.iter().find(|one| ledger.held.contains_key(one));
                let word = if lost.is_some() { "LOST" } else { "DISORDER" };
                bail!("{word}: writer {}: the vault lacks {lost:?} of {referrer:?}", pool.writer);
            }
            Err(error @ (NetError::BaseGone { .. } | NetError::Bad { .. })) => {
                bail!("LOST: writer {}: {error}", pool.writer)
            }
            Err(NetError::Unavailable { .. } | NetError::Closed) => return Ok(round),
            Err(error) => bail!("DISORDER: writer {}: {error:?}", pool.writer),
        }
    }
    Ok(round)
}

/// One backup, from begin to receipt.
fn back_up(
    client: &Client,
    pool: Pool,
    ledger: &mut Ledger,
    noise: &mut Noise,
) -> Result<(), NetError> {
    let name = format!("w{}-{}", pool.writer, noise.next_number());
    let base = ledger.snapshots.last().filter(|_| noise.below(3) == 0).cloned();
    let begin = Begin {
        disk: format!("disk{}", pool.writer),
        nonce: random16(noise),
        base: base.as_ref().map(|base| base.manifest.id),
        resume: false,
        run: random16(noise),
    };
    let upload = client.upload(begin)?;
    let mut objects = Objects::new();
    let mut chunks = Vec::new();
    if let Some(base) = base {
        if upload.begun().base == BaseState::Gone {
            return Err(NetError::BaseGone { base: base.manifest.id });
        }
        // What a pinned base has goes unasked.
        for chunk in base.objects.iter().filter(|one| one.kind == Kind::Chunk).take(32) {
            objects.extend(ledger.held.get_key_value(chunk).map(|(one, is)| (*one, *is)));
            chunks.push(*chunk);
        }
    }
    let mut left = 4 + noise.below(BACKUP_CHUNKS);
    while left > 0 {
        let count = left.min(1 + noise.below(24));
        left -= count;
        let numbers: Vec<u64> = (0..count).map(|_| choose(pool, ledger, noise)).collect();
        let sent = send_chunks(&upload, &numbers, ledger)?;
        chunks.extend(sent.keys().filter(|chunk| !objects.contains_key(chunk)).copied());
        if noise.below(2) == 0 {
            upload.flush()?;
            ledger.acknowledge(sent.clone());
        }
        objects.extend(sent);
    }
    commit(&upload, &name, chunks, objects, ledger, noise)
}

/// The number of the next chunk: a new one, one that others put too, or one of before.
fn choose(pool: Pool, ledger: &mut Ledger, noise: &mut Noise) -> u64 {
    match noise.below(8) {
        0 | 1 => pool.shared_from + noise.below(48),
        2 => noise.below(pool.shared_from + 48),
        3 => made::own_number(pool.writer, noise.below(ledger.made + 1)),
        _ => {
            ledger.made += 1;
            made::own_number(pool.writer, ledger.made)
        }
    }
}

/// Asks for chunks and sends what the vault lacks.
fn send_chunks(upload: &Upload, numbers: &[u64], ledger: &mut Ledger) -> Result<Objects, NetError> {
    let mut objects: Vec<(Object, u64)> = Vec::new();
    let mut all = Objects::new();
    for number in numbers {
        // No chunk of ours is too large for an object.
        let Ok(chunk) = made::chunk(*number) else { continue };
        if all.insert(chunk.reference, Expected::Chunk(*number)).is_none() {
            objects.push((chunk, *number));
        }
    }
    let references: Vec<Reference> = objects.iter().map(|(chunk, _)| chunk.reference).collect();
    let known = upload.ask(&references)?.wait()?;
    let mut missing = Vec::new();
    for ((chunk, number), known) in objects.into_iter().zip(known) {
        if known {
            // The vault's word that it is durable.
            ledger.acknowledge([(chunk.reference, Expected::Chunk(number))]);
        } else if ledger.held.contains_key(&chunk.reference) {
            return Err(NetError::Missing { referrer: None, references: vec![chunk.reference] });
        } else {
            missing.push(chunk);
        }
    }
    upload.send_all(missing)?;
    Ok(all)
}

/// Sends the nodes above chunks and commits.
fn commit(
    upload: &Upload,
    name: &str,
    chunks: Vec<Reference>,
    mut objects: Objects,
    ledger: &mut Ledger,
    noise: &mut Noise,
) -> Result<(), NetError> {
    let Ok(nodes) = made::nodes(name, &chunks) else { return Ok(()) };
    let Ok(manifest) = made::manifest(&nodes) else { return Ok(()) };
    objects.extend(nodes_of(&nodes));
    upload.send_all(nodes)?;
    if noise.below(3) == 0 {
        upload.flush()?;
        ledger.acknowledge(objects.clone());
        if noise.below(4) == 0 {
            // A backup that is given up before its commit.
            return Ok(());
        }
    }
    ledger.unanswered.insert(manifest);
    let receipt =
        upload.commit(Commit { manifest: manifest.id, labels: Vec::new(), tags: Vec::new() })?;
    ledger.commit(manifest, receipt, objects);
    Ok(())
}

pub(super) fn random16(noise: &mut Noise) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(noise.bytes(16)).for_each(|(to, from)| *to = from);
    bytes
}
