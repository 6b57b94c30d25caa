//! Names in the store that are none of the store's.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::ids::PackId;
use crate::objects::list_or_none;
use crate::pack::{contents_name, parity_name, sealed_name};
use crate::receipt::sequence_of;
use crate::store::check::packs::Packs;
use crate::store::check::report::{Finding, FindingKind, Findings};
use crate::store::contents::pack_of;
use crate::store::inner::Inner;
use crate::store::reserve::RESERVE_NAME;

/// What stands in a store's directory.
const KNOWN: [&str; 11] = [
    "FORMAT",
    "LOCK",
    "log",
    "keys",
    "receipts",
    "packs",
    "open",
    "index",
    "gc",
    "tmp",
    RESERVE_NAME,
];

/// Notes names that are foreign, and tables whose pack is gone.
///
/// # Errors
/// What the storage says.
pub(super) fn check(inner: &Inner, packs: &Packs<'_>, findings: &mut Findings) -> Result<()> {
    let mut foreign = |name: &str| {
        let reason = "this name is none of the store's";
        findings.add(Finding::at(FindingKind::Foreign, name, 0, reason));
    };
    let list = |dir: &str| list_or_none(&*inner.vfs, dir);
    for name in list("")?.iter().filter(|name| !KNOWN.contains(&name.as_str())) {
        if name != "lost+found" {
            foreign(name);
        }
    }
    for name in list("open")?.iter().filter(|name| PackId::from_hex(name).is_none()) {
        foreign(&format!("open/{name}"));
    }
    for name in list("log")? {
        if name.len() != 16 || name.parse::<u64>().is_err() {
            foreign(&format!("log/{name}"));
        }
    }
    for name in inner.objects.list("receipts/")? {
        if sequence_of(&name).is_none() {
            foreign(&name);
        }
    }
    let known: BTreeSet<PackId> = packs.list.iter().map(|pack| pack.id).collect();
    let (mut orphans, mut alone) = (Vec::new(), Vec::new());
    for name in inner.objects.list("packs/")? {
        if pack_of(&name).is_some() {
            continue;
        }
        let parity = name.strip_suffix(".parity").and_then(pack_of);
        match parity.filter(|pack| parity_name(*pack) == name) {
            Some(pack) if known.contains(&pack) => continue,
            Some(pack) => {
                if !inner.is_doomed(pack) {
                    alone.push(name);
                }
                continue;
            }
            None => {}
        }
        let beside = name.strip_suffix(".contents").and_then(pack_of);
        match beside.filter(|pack| contents_name(*pack) == name) {
            Some(pack) if known.contains(&pack) => {}
            Some(pack) => orphans.push(pack),
            None => foreign(&name),
        }
    }
    // Where the pack should be there, something refers to what it held.
    for name in alone {
        let reason = "the pack of this parity is gone";
        findings.add(Finding::at(FindingKind::Foreign, &name, 0, reason));
    }
    // Those of a sweep go with it.
    for pack in orphans.into_iter().filter(|pack| !inner.is_doomed(*pack)) {
        let reason = "the pack is gone, and its table of contents stands here alone";
        findings.add(Finding::at(FindingKind::PackGone, &sealed_name(pack), 0, reason));
    }
    Ok(())
}
