//! The packs of a store, and what each says that it holds.
//!
//! Tables of contents are read anew in each pass over the packs: they are a hundredth of the
//! data, and so nothing of them stays in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use umbra_common::Kind;
use umbra_common::wire::Codec;

use crate::bytes::wide;
use crate::error::{Error, Result, chain};
use crate::ids::PackId;
use crate::index::{PackRow, PackState};
use crate::object::check_references;
use crate::pack::{
    Contents, Entry, PACK_HEADER_BYTES, PackHeader, PackKind, open_name, scan, sealed_name,
};
use crate::store::check::report::{Finding, FindingKind, Findings};
use crate::store::contents::{header_of, range};
use crate::store::inner::Inner;

/// A pack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pack {
    pub(crate) id: PackId,
    /// A segment of the journal, not an object yet.
    pub(crate) open: bool,
    /// Length in bytes when it was looked at.
    pub(crate) len: u64,
    /// Packs of one lane in the order in which they were written; unknown ones are the last.
    order: (u64, u64),
    /// What its header says that it holds.
    holds: Option<PackKind>,
    /// It holds a node.
    pub(crate) has_nodes: bool,
}

impl Pack {
    /// Returns its name below the store's directory.
    pub(crate) fn name(&self) -> String {
        if self.open { open_name(self.id) } else { sealed_name(self.id) }
    }
}

/// What a pack holds, and what is wrong with how it says so.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
    /// Bytes that no entry names, header and table left out.
    pub(crate) void: u64,
    /// Entries that were left out: their records are known to be damaged.
    pub(crate) known: u64,
    faults: Vec<(FindingKind, u64, String)>,
}

impl Table {
    fn fault(&mut self, kind: FindingKind, at: u64, reason: impl Into<String>) {
        self.faults.push((kind, at, reason.into()));
    }
}

/// All packs, in the order in which they were written: children stand before parents, but for
/// those that were sent again.
pub(crate) struct Packs<'a> {
    inner: &'a Inner,
    pub(crate) list: Vec<Pack>,
    by_id: HashMap<PackId, usize>,
    /// How far open packs were known to be durable.
    rows: BTreeMap<PackId, PackRow>,
    /// What is known to be damaged and read no more.
    quarantined: BTreeMap<PackId, BTreeSet<u64>>,
}

impl<'a> Packs<'a> {
    /// Lists the packs.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn list(inner: &'a Inner) -> Result<Self> {
        // Open ones first: one that is sealed in between is then seen as sealed.
        let open = inner.open_packs()?;
        let mut list = Vec::new();
        for id in inner.sealed_packs()? {
            let len = inner.objects.head(&sealed_name(id))?.map_or(0, |info| info.len);
            list.push(Self::look(inner, id, false, len)?);
        }
        list.sort_unstable_by_key(|pack| pack.id);
        for id in open {
            let sealed = list.binary_search_by_key(&id, |pack| pack.id).is_ok();
            let len = inner.journal.len(&open_name(id))?;
            match len.filter(|_| !sealed) {
                Some(len) => list.push(Self::look(inner, id, true, len)?),
                None if sealed => {}
                // Sealed since the objects were listed.
                None => {
                    let len = inner.objects.head(&sealed_name(id))?.map_or(0, |info| info.len);
                    list.push(Self::look(inner, id, false, len)?);
                }
            }
        }
        list.sort_unstable_by_key(|pack| (pack.order, pack.id));
        list.dedup_by_key(|pack| pack.id);
        let by_id = list.iter().enumerate().map(|(number, pack)| (pack.id, number)).collect();
        let (rows, quarantined) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { inner, list, by_id, rows, quarantined })
    }

    fn look(inner: &Inner, id: PackId, open: bool, len: u64) -> Result<Pack> {
        let mut pack = Pack { id, open, len, order: (u64::MAX, 0), holds: None, has_nodes: false };
        let wanted = range(0, len.min(wide(PACK_HEADER_BYTES)))?;
        let head = match inner.pack_ranges(id, &[wanted]) {
            Ok(mut found) => found.pop().unwrap_or_default(),
            // Reading its table says so.
            Err(error) if error.is_unreadable() || error.is_not_found() => Vec::new(),
            Err(error) => return Err(error),
        };
        if let Some(header) = header_of(&head, &pack.name()) {
            pack.order = (header.epoch, header.number);
            pack.holds = Some(header.kind);
        }
        Ok(pack)
    }

    /// Takes the rows that the index has of the packs.
    pub(crate) fn with_rows(self, rows: BTreeMap<PackId, PackRow>) -> Self {
        Self { rows, ..self }
    }

    /// Takes what the LOG says of places that are known to be damaged.
    pub(crate) fn with_quarantine(self, quarantined: BTreeMap<PackId, BTreeSet<u64>>) -> Self {
        Self { quarantined, ..self }
    }

    /// Tells whether a place of a pack is known to be damaged.
    fn is_known_bad(&self, pack: PackId, offset: u64) -> bool {
        self.quarantined.get(&pack).is_some_and(|offsets| offsets.contains(&offset))
    }

    /// Tells whether something in a pack is known to be damaged.
    pub(super) fn has_quarantine(&self, pack: PackId) -> bool {
        self.quarantined.contains_key(&pack)
    }

    /// Returns the pack with this id.
    pub(crate) fn find(&self, id: PackId) -> Option<&Pack> {
        self.by_id.get(&id).and_then(|number| self.list.get(*number))
    }

    /// Returns the watermark of an open pack: what lies below it must be sound.
    pub(crate) fn synced(&self, id: PackId) -> u64 {
        self.rows.get(&id).map_or(0, |row| row.watermark)
    }

    /// Reads what a pack holds and notes what is wrong with its header and its table.
    ///
    /// # Errors
    /// What the storage says, but for what the medium gives up: that is a finding.
    pub(crate) fn examine(&mut self, number: usize, findings: &mut Findings) -> Result<Table> {
        let Some(pack) = self.list.get(number).copied() else { return Ok(Table::default()) };
        let table = self.table(&pack)?;
        let name = pack.name();
        for (kind, at, reason) in &table.faults {
            findings.add(Finding::at(*kind, &name, *at, reason.clone()));
        }
        if let Some(places) = self.quarantined.get(&pack.id) {
            let first = places.first().copied().unwrap_or_default();
            let reason =
                format!("{} places are known to be damaged and read no more", places.len());
            findings.add(Finding::at(FindingKind::Quarantined, &name, first, reason));
        }
        if let Some(pack) = self.list.get_mut(number) {
            pack.has_nodes = table.entries.iter().any(|entry| entry.kind.is_node());
        }
        for entry in &table.entries {
            if let Some(reason) = impossible(entry, pack.holds) {
                let key = entry.row(pack.id).0;
                let finding = Finding::at(FindingKind::Table, &name, entry.offset, reason);
                findings.add(finding.of(key, entry.kind));
            }
        }
        Ok(table)
    }

    /// Returns what a pack holds; what was wrong with that was noted when it was examined.
    ///
    /// # Errors
    /// As [`Packs::examine`].
    pub(crate) fn entries(&self, pack: &Pack) -> Result<Vec<Entry>> {
        Ok(self.table(pack)?.entries)
    }

    fn table(&self, pack: &Pack) -> Result<Table> {
        let mut table = self.whole_table(pack)?;
        let before = table.entries.len();
        table.entries.retain(|entry| !self.is_known_bad(pack.id, entry.offset));
        table.known = wide(before.saturating_sub(table.entries.len()));
        Ok(table)
    }

    /// Reads the table of a pack, with what is known to be damaged.
    fn whole_table(&self, pack: &Pack) -> Result<Table> {
        let read = if pack.open { self.open_table(pack) } else { self.sealed_table(pack) };
        match read {
            Err(error) if error.is_unreadable() => {
                let mut table = Table::default();
                table.fault(FindingKind::Table, 0, chain(&error));
                Ok(table)
            }
            // Sealed meanwhile.
            Err(error) if error.is_not_found() && pack.open => self.sealed_table(pack),
            other => other,
        }
    }

    fn sealed_table(&self, pack: &Pack) -> Result<Table> {
        let inner = self.inner;
        let name = sealed_name(pack.id);
        let len = inner.objects.head(&name)?.map_or(0, |info| info.len);
        let mut table = Table::default();
        let read = |range| {
            let found = inner.objects.get_ranges(&name, &[range]);
            found.map(|mut found| found.pop().unwrap_or_default())
        };
        let footer = unless_unsupported(inner.footer(pack.id, &name, len, &read))?;
        let contents = match footer {
            Some(contents) => Some(contents),
            None => unless_unsupported(inner.table_beside(pack.id))?,
        };
        match contents {
            Some(contents) => self.take_contents(pack, contents, len, &mut table),
            None => {
                let reason = "the pack has no sound table of contents";
                table.fault(FindingKind::Table, len, reason);
                // The index knows where the records end; without it what follows may be one.
                let row = self.rows.get(&pack.id);
                let row = row.filter(|row| row.state == PackState::Sealed);
                let synced = row.map_or(u64::MAX, |row| row.watermark);
                self.take_scan(pack, &read(range(0, len)?)?, synced, &mut table);
            }
        }
        let head = read(range(0, len.min(wide(PACK_HEADER_BYTES)))?)?;
        // Of a pack in which nothing was ever synced even the header may be gone.
        if let Err(reason) = self.header_fault(pack, &name, &head)
            && !(table.entries.is_empty() && table.faults.is_empty())
            && !self.is_known_bad(pack.id, 0)
        {
            table.fault(FindingKind::PackHeader, 0, reason);
        }
        Ok(table)
    }

    fn take_contents(&self, pack: &Pack, contents: Contents, len: u64, table: &mut Table) {
        let mut named = wide(PACK_HEADER_BYTES);
        for entry in &contents.entries {
            named = named.saturating_add(entry.record_len().into());
        }
        // A footer ends the pack; a table beside it says nothing of what stands behind.
        table.void = contents.covers.min(len).saturating_sub(named);
        let row = self.rows.get(&pack.id);
        let synced = row.map_or(0, |row| row.watermark).max(contents.covers);
        // One that was taken over with nothing in it may be shorter than its header: nothing of
        // it was ever synced.
        let holds = !contents.entries.is_empty() || row.is_some_and(|row| row.records > 0);
        if len < synced && holds {
            table.fault(FindingKind::PackShort, len, "the pack is shorter than what was synced");
        }
        // What a short pack lost is missing, unless another one has it.
        table.entries = contents.entries;
        table.entries.retain(|entry| entry.end() <= len);
    }

    fn open_table(&self, pack: &Pack) -> Result<Table> {
        let name = open_name(pack.id);
        let bytes = self.inner.whole_segment(&name)?;
        let synced = self.synced(pack.id);
        let mut table = Table::default();
        if wide(bytes.len()) < synced {
            let reason = "the pack is shorter than what was synced";
            table.fault(FindingKind::PackShort, wide(bytes.len()), reason);
        }
        if synced > 0
            && let Err(reason) = self.header_fault(pack, &name, &bytes)
        {
            table.fault(FindingKind::PackHeader, 0, reason);
        }
        self.take_scan(pack, &bytes, synced, &mut table);
        Ok(table)
    }

    /// Takes the sound records of a pack; a gap below `synced` is damage.
    fn take_scan(&self, pack: &Pack, bytes: &[u8], synced: u64, table: &mut Table) {
        let name = pack.name();
        let (found, gaps) = scan(bytes, wide(PACK_HEADER_BYTES), self.inner.store);
        table.entries = found.iter().filter_map(|f| self.inner.proven(f, &name)).collect();
        for gap in gaps.iter().filter(|gap| !gap.is_footer(bytes)) {
            table.void = table.void.saturating_add(gap.len);
            if gap.offset < synced {
                table.fault(FindingKind::Record, gap.offset, gap.reason);
            }
        }
    }

    fn header_fault(&self, pack: &Pack, name: &str, bytes: &[u8]) -> Result<(), String> {
        match PackHeader::decode(bytes, name) {
            Ok(header) if header.store != self.inner.store || header.pack != pack.id => {
                Err("the pack header is that of another pack".to_owned())
            }
            Ok(_) => Ok(()),
            Err(Error::Corrupt { reason, .. }) => Err(format!("the pack header: {reason}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A version that is not known is damage in a store whose `FORMAT` is.
fn unless_unsupported(found: Result<Option<Contents>>) -> Result<Option<Contents>> {
    match found {
        Err(Error::Unsupported { .. }) => Ok(None),
        other => other,
    }
}

/// Says why no pack of this kind can have such an entry.
fn impossible(entry: &Entry, holds: Option<PackKind>) -> Option<&'static str> {
    if Codec::from_number(entry.codec).is_none() {
        return Some("the table names a codec that is unknown");
    }
    let belongs = match holds {
        Some(PackKind::Data) => entry.kind == Kind::Chunk,
        Some(PackKind::Nodes) => entry.kind.is_node(),
        None => true,
    };
    if !belongs {
        return Some("the table names a kind that its pack does not hold");
    }
    let reference = umbra_common::Reference { kind: entry.kind, id: entry.id };
    match check_references(reference, &entry.refs) {
        Err(Error::WrongBytes { reason, .. }) => Some(reason),
        _ => None,
    }
}
