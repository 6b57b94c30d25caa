//! Reads back, over the wire, what a vault acknowledged, and compares it with what was sent.

use std::collections::HashSet;

use anyhow::{Context, Result, bail, ensure};
use umbra_common::snapshot::Receipt;
use umbra_common::wire::{Begin, Commit, List, Plain};
use umbra_common::{Kind, Reference};
use umbra_net::{Client, Connect, NetError, Reader, Wanted};

use super::ledger::{Expected, Ledger, Objects, Snapshot, nodes_of};
use super::writer::random16;
use super::{Figures, made};
use crate::images::Noise;

/// Which snapshots are read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The new ones, and one of before.
    New,
    /// Each.
    All,
}

/// Proves everything that the ledger of one writer says.
///
/// # Errors
/// What was lost or is wrong, or when the vault cannot be asked.
pub fn prove(
    connect: &Connect,
    writer: u64,
    ledger: &mut Ledger,
    depth: Depth,
    noise: &mut Noise,
) -> Result<Figures> {
    let client = Client::connect(connect.clone()).context("no proof")?;
    let mut figures = Figures::default();
    check_receipts(&client, ledger)?;
    save_loose(&client, writer, ledger, noise, &mut figures)?;
    let first = match depth {
        Depth::New => ledger.proven,
        Depth::All => 0,
    };
    let reader = client.reader();
    for snapshot in ledger.snapshots.iter().skip(first) {
        read(&reader, &ledger.held, snapshot, &mut figures)?;
    }
    if first > 0 {
        let old = usize::try_from(noise.below(u64::try_from(first)?))?;
        if let Some(snapshot) = ledger.snapshots.get(old) {
            read(&reader, &ledger.held, snapshot, &mut figures)?;
        }
    }
    ledger.proven = ledger.snapshots.len();
    Ok(figures)
}

/// Each receipt that came is there, byte for byte, and what is there beside them was asked for.
fn check_receipts(client: &Client, ledger: &mut Ledger) -> Result<()> {
    let listed = client.reader().list(&List::default()).context("LOST: no list of snapshots")?;
    let listed: HashSet<Vec<u8>> = listed.into_iter().map(|entry| entry.receipt).collect();
    for snapshot in &ledger.snapshots {
        let id = snapshot.manifest.id;
        ensure!(listed.contains(&snapshot.receipt), "LOST: the receipt of snapshot {id}");
    }
    let ours: HashSet<&Vec<u8>> = ledger.snapshots.iter().map(|one| &one.receipt).collect();
    for receipt in listed.iter().filter(|receipt| !ours.contains(receipt)) {
        let receipt = Receipt::decode(receipt).context("WRONG BYTES: a receipt")?;
        let manifest = Reference { kind: Kind::Manifest, id: receipt.snapshot };
        let asked = ledger.unanswered.contains(&manifest);
        ensure!(asked, "WRONG: a receipt of what nobody committed: {receipt:?}");
    }
    Ok(())
}

/// Has the vault say that it knows what is in no snapshot, makes a snapshot of it without sending it again, and reads it.
fn save_loose(
    client: &Client,
    writer: u64,
    ledger: &mut Ledger,
    noise: &mut Noise,
    figures: &mut Figures,
) -> Result<()> {
    if ledger.loose.is_empty() {
        return Ok(());
    }
    let begin = Begin {
        disk: format!("disk{writer}"),
        nonce: random16(noise),
        base: None,
        resume: false,
        run: random16(noise),
    };
    let upload = client.upload(begin)?;
    let references: Vec<Reference> = ledger.loose.iter().copied().collect();
    let known = upload.ask(&references)?.wait()?;
    let lost: Vec<&Reference> =
        references.iter().zip(known).filter(|(_, known)| !known).map(|(one, _)| one).collect();
    ensure!(lost.is_empty(), "LOST: {} objects that were durable: {lost:?}", lost.len());
    let name = format!("saved-{writer}-{}", noise.next_number());
    let nodes = made::nodes_above(&name, &references)?;
    let manifest = made::manifest(&nodes)?;
    ledger.held.extend(nodes_of(&nodes));
    let wanted: Vec<Reference> = references
        .into_iter()
        .chain(nodes.iter().map(|node| node.reference))
        .filter(|one| one.kind != Kind::Manifest || *one == manifest)
        .collect();
    upload.send_all(nodes).context("LOST: a durable object cannot be referred to")?;
    let receipt = upload
        .commit(Commit { manifest: manifest.id, labels: Vec::new(), tags: Vec::new() })
        .context("LOST: a durable object cannot be committed")?;
    let reached = reach(&client.reader(), &ledger.held, manifest, figures)?;
    let short = wanted.iter().find(|one| !reached.contains(one));
    ensure!(short.is_none(), "LOST: {short:?} is not reached from the snapshot made of it");
    ledger.loose.clear();
    ledger.snapshots.push(Snapshot { manifest, receipt, objects: reached });
    Ok(())
}

/// Reads a snapshot whole: exactly what it is made of, byte for byte.
fn read(reader: &Reader, held: &Objects, snapshot: &Snapshot, figures: &mut Figures) -> Result<()> {
    let reached = reach(reader, held, snapshot.manifest, figures)?;
    let id = snapshot.manifest.id;
    ensure!(reached == snapshot.objects, "LOST: snapshot {id} does not hold what it held");
    figures.snapshots += 1;
    Ok(())
}

/// Reads everything below a manifest once.
fn reach(
    reader: &Reader,
    held: &Objects,
    manifest: Reference,
    figures: &mut Figures,
) -> Result<HashSet<Reference>> {
    let mut seen = HashSet::from([manifest]);
    let id = manifest.id;
    let manifest = reader.open(id).with_context(|| format!("LOST: snapshot {id}"))?;
    check(held, &manifest, figures)?;
    let mut level = vec![manifest];
    while !level.is_empty() {
        let mut items = Vec::new();
        for parent in &level {
            let numbered = (0u32..).zip(parent.refs.iter().copied());
            let objects: Vec<_> = numbered.filter(|(_, child)| seen.insert(*child)).collect();
            if !objects.is_empty() {
                items.push(Wanted { node: parent.reference, objects });
            }
        }
        let mut next = Vec::new();
        reader.read(&items, &mut |_, _, plain: Result<Plain, NetError>| {
            let plain = plain.with_context(|| format!("LOST: an object of snapshot {id}"))?;
            check(held, &plain, figures)?;
            if plain.reference.kind.is_node() {
                next.push(plain);
            }
            anyhow::Ok(())
        })?;
        level = next;
    }
    Ok(seen)
}

/// The reader has proven the id already; this compares with what was sent, whatever its id is.
fn check(held: &Objects, plain: &Plain, figures: &mut Figures) -> Result<()> {
    match held.get(&plain.reference) {
        None => bail!("WRONG: the vault holds {:?}, which was not put", plain.reference),
        Some(Expected::Chunk(number)) => {
            let wrong = made::chunk_bytes(*number) != plain.body;
            ensure!(!wrong, "WRONG BYTES: {:?}", plain.reference);
        }
        Some(Expected::Node) => {}
    }
    figures.objects += 1;
    figures.bytes += u64::try_from(plain.body.len())?;
    Ok(())
}
