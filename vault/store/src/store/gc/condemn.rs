//! One decision for all: which locations are condemned, and from which session on.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use crate::error::Result;
use crate::ids::PackId;
use crate::index::Key;
use crate::pack::Entry;
use crate::store::gc::condemned::{Condemned, narrow32_of};
use crate::store::gc::mark::Marks;
use crate::store::inner::Inner;

/// What is condemned, until it is dropped: hidden by then, or alive again.
pub(super) struct Judged<'a> {
    inner: &'a Inner,
    pub(super) condemned: Arc<Condemned>,
}

impl Drop for Judged<'_> {
    fn drop(&mut self) {
        let mut condemned = self.inner.condemned.write().unwrap_or_else(PoisonError::into_inner);
        *condemned = None;
    }
}

impl<'a> Judged<'a> {
    /// Condemns, between two sessions, every unmarked record of the victims, every unmarked node
    /// wherever it stands, and every node that is newer than the marks and stands on one of these.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub(super) fn judge(
        inner: &'a Inner,
        marks: &Marks<'_>,
        victims: &BTreeSet<PackId>,
    ) -> Result<Self> {
        let mut by_pack: HashMap<PackId, Vec<u32>> = HashMap::new();
        for (pack, used) in &marks.sealed {
            let victim = victims.contains(pack);
            if used.dead == 0 || !(victim || used.has_nodes) {
                continue;
            }
            let mut offsets = Vec::new();
            for (number, entry) in marks.entries(*pack)?.iter().enumerate() {
                if !used.live.has(number) && (victim || entry.kind.is_node()) {
                    offsets.push(narrow32_of(entry.offset));
                }
            }
            if !offsets.is_empty() {
                by_pack.insert(*pack, offsets);
            }
        }
        let mut now = inner.condemned.write().unwrap_or_else(PoisonError::into_inner);
        let condemned = Arc::new(Condemned::new(inner.leases.last_id(), by_pack));
        condemn_newer(inner, marks, &condemned)?;
        *now = Some(Arc::clone(&condemned));
        drop(now);
        Ok(Self { inner, condemned })
    }
}

/// Condemns nodes that came after the marks and stand on something condemned. What is put from
/// now on is looked at when it is settled.
fn condemn_newer(inner: &Inner, marks: &Marks<'_>, condemned: &Condemned) -> Result<()> {
    let tables = newer_tables(inner, marks)?;
    loop {
        let mut changed = false;
        for (pack, entries) in &tables {
            for entry in entries.iter().filter(|entry| !entry.refs.is_empty()) {
                if condemned.has_at(*pack, entry.offset) {
                    continue;
                }
                let domain = entry.domain;
                let children: Vec<Key> =
                    entry.refs.iter().map(|child| Key { domain, id: child.id }).collect();
                let rows = inner.index.find_many(&children)?;
                if rows.iter().flatten().any(|row| condemned.has(row)) {
                    condemned.taint(*pack, entry.offset);
                    changed = true;
                }
            }
        }
        if !changed {
            return Ok(());
        }
    }
}

/// Returns the records of the packs that were not sealed when the marks were made.
///
/// # Errors
/// What the storage says.
pub(super) fn newer_tables(inner: &Inner, marks: &Marks<'_>) -> Result<Vec<(PackId, Vec<Entry>)>> {
    let mut tables = Vec::new();
    // Open ones first: one that is sealed in between is then seen as sealed.
    for pack in inner.open_packs()? {
        match inner.open_entries(pack) {
            Ok(entries) => tables.push((pack, entries)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let sealed = inner.sealed_packs()?;
    for pack in sealed.into_iter().filter(|pack| !marks.sealed.contains_key(pack)) {
        tables.push((pack, inner.contents(pack)?.entries));
    }
    Ok(tables)
}
