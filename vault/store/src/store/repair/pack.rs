//! One damaged pack: what is left of it, and what its parity gives back.

use std::collections::BTreeSet;

use umbra_common::wire::Object;

use crate::bytes::{narrow, wide};
use crate::error::Result;
use crate::ids::PackId;
use crate::index::{Key, Location};
use crate::pack::{Contents, Entry, PACK_HEADER_BYTES, contents_name, scan, sealed_name};
use crate::store::contents::header_of;
use crate::store::inner::Inner;
use crate::store::tolerant;

/// What is done about a damaged record.
pub(super) enum Fix {
    /// Its pack's parity gave it back.
    Record(Object),
    /// It was written anew, from its pack's parity.
    FromParity,
    /// The index leads elsewhere already.
    Elsewhere,
    /// A sound copy stands here.
    Copy(Location),
    /// Nothing can be done.
    None,
}

/// A damaged record.
pub(super) struct Damaged {
    pub(super) key: Key,
    pub(super) offset: u64,
    /// The pack to which the index leads, where that is another.
    pub(super) leads_elsewhere: Option<PackId>,
    /// The table names it, or there is no table to say otherwise.
    pub(super) is_ours: bool,
    /// It is in quarantine already.
    pub(super) is_known: bool,
    /// The index leads here.
    pub(super) has_row: bool,
    pub(super) fix: Fix,
}

impl Damaged {
    /// Tells whether something is done about it that was not done before.
    pub(super) fn is_news(&self) -> bool {
        !self.is_known || self.has_row || matches!(self.fix, Fix::FromParity | Fix::Record(_))
    }
}

/// What was found in a pack.
pub(super) struct Examined {
    pub(super) pack: PackId,
    pub(super) gone: bool,
    pub(super) damaged: Vec<Damaged>,
    /// Records in quarantine that are sound again.
    pub(super) lifted: Vec<Entry>,
    pub(super) header_bad: bool,
    /// The table that must stand beside it, where it has none that is sound.
    pub(super) table: Option<Contents>,
    pub(super) parity_bad: bool,
}

impl Examined {
    fn new(pack: PackId) -> Self {
        Self {
            pack,
            gone: false,
            damaged: Vec::new(),
            lifted: Vec::new(),
            header_bad: false,
            table: None,
            parity_bad: false,
        }
    }
}

impl Inner {
    /// Looks at a sealed pack; `rows` lead to it. `None` for one that is not sealed.
    ///
    /// # Errors
    /// What the storage or the index says, but for what the medium gives up.
    pub(super) fn examine(
        &self,
        pack: PackId,
        rows: Vec<(Key, Location)>,
    ) -> Result<Option<Examined>> {
        let name = sealed_name(pack);
        let mut found = Examined::new(pack);
        let Some(info) = self.objects.head(&name)? else {
            let open = crate::pack::open_name(pack);
            if self.journal.len(&open)?.is_some() {
                return Ok(None);
            }
            found.gone = true;
            found.damaged = rows.iter().map(|(key, row)| lost_row(*key, row)).collect();
            return Ok(Some(found));
        };
        let read = |range| {
            let found = self.objects.get_ranges(&name, &[range]);
            found.map(|mut found| found.pop().unwrap_or_default())
        };
        let left = tolerant::read(&read, info.len)?.bytes;
        let rebuilt = self.rebuilt(pack, &left, &mut found)?;
        let known_bad = self.quarantined(pack);
        let table = self.table_in(pack, &left)?;
        let has_table = table.is_some();
        let mut is_scanned = false;
        let contents = match (table, rebuilt.as_deref()) {
            (Some(contents), _) => contents,
            (None, Some(rebuilt)) => match self.table_in(pack, rebuilt)? {
                Some(contents) => contents,
                None => self.scanned(pack, rebuilt),
            },
            (None, None) => {
                is_scanned = true;
                self.scanned(pack, &left)
            }
        };
        let header = header_of(&left, &name);
        let ours = header.is_some_and(|header| header.store == self.store && header.pack == pack);
        found.header_bad = !ours && !contents.entries.is_empty() && !known_bad.contains(&0);
        let sources = Sources { name: &name, left: &left, rebuilt: rebuilt.as_deref() };
        for entry in &contents.entries {
            self.look_at(pack, entry, &sources, &known_bad, &mut found)?;
        }
        let named: BTreeSet<(Key, u64)> =
            contents.entries.iter().map(|entry| (entry.row(pack).0, entry.offset)).collect();
        for (key, row) in rows.iter().filter(|(key, row)| !named.contains(&(*key, row.offset))) {
            let is_known = known_bad.contains(&row.offset);
            let damaged = lost_row(*key, row);
            found.damaged.push(Damaged { is_ours: is_scanned, is_known, ..damaged });
        }
        if !has_table {
            let mut contents = contents;
            // A table beside a pack says nothing of what is not there.
            contents.entries.retain(|entry| entry.end() <= info.len);
            contents.covers = contents.covers.min(info.len);
            found.table = Some(contents);
            // With its table beside it the pack is as good as it gets; it gets parity as it is.
            found.parity_bad |= found.damaged.is_empty();
        }
        Ok(Some(found))
    }

    /// Makes the pack as it was, where its parity can.
    fn rebuilt(&self, pack: PackId, left: &[u8], found: &mut Examined) -> Result<Option<Vec<u8>>> {
        let Some((parity, object)) = self.parity_of(pack)? else {
            found.parity_bad = true;
            return Ok(None);
        };
        let rebuilt = parity.reconstruct(left, &object);
        let all = parity.sound_recovery(&object).len() == parity.recovery.len();
        // Of a pack whose every record is sound it is of no use where it says otherwise.
        let differs = rebuilt.as_deref() != Some(left) && self.quarantined(pack).is_empty();
        let is_stale = differs && self.is_sound_pack(pack, left)?;
        found.parity_bad = !all || is_stale;
        Ok(rebuilt)
    }

    /// Makes a table of the records that a scan finds.
    pub(crate) fn scanned(&self, pack: PackId, bytes: &[u8]) -> Contents {
        let name = sealed_name(pack);
        let (records, _) = scan(bytes, wide(PACK_HEADER_BYTES), self.store);
        let entries: Vec<Entry> = records.iter().filter_map(|f| self.proven(f, &name)).collect();
        let covers = wide(bytes.len()).min(wide(PACK_HEADER_BYTES));
        let covers = entries.last().map_or(covers, Entry::end);
        Contents { store: self.store, pack, covers, entries }
    }

    fn look_at(
        &self,
        pack: PackId,
        entry: &Entry,
        sources: &Sources<'_>,
        known_bad: &BTreeSet<u64>,
        found: &mut Examined,
    ) -> Result<()> {
        let is_known = known_bad.contains(&entry.offset);
        if self.sound_object(entry, sources.record(sources.left, entry), sources.name).is_some() {
            if is_known {
                found.lifted.push(entry.clone());
            }
            return Ok(());
        }
        let key = entry.row(pack).0;
        let row = self.index.find(&key)?;
        let is_here = |row: &Location| row.pack == pack && row.offset == entry.offset;
        let elsewhere = row.filter(|row| !is_here(row) && row.kind == entry.kind);
        let rebuilt = sources.rebuilt.map(|bytes| sources.record(bytes, entry));
        let object = rebuilt.and_then(|bytes| self.sound_object(entry, bytes, sources.name));
        found.damaged.push(Damaged {
            key,
            offset: entry.offset,
            leads_elsewhere: elsewhere.map(|row| row.pack),
            is_ours: true,
            is_known,
            has_row: row.as_ref().is_some_and(is_here),
            fix: object.map_or(Fix::None, Fix::Record),
        });
        Ok(())
    }

    /// Writes the table beside a pack that has none that is sound.
    ///
    /// # Errors
    /// What the storage says.
    pub(super) fn write_table(&self, examined: &Examined) -> Result<()> {
        let Some(contents) = &examined.table else { return Ok(()) };
        self.writable()?.check()?;
        let beside = contents_name(examined.pack);
        if self.objects.head(&beside)?.is_some() {
            // It is damaged, or of bytes that are gone: nobody reads it.
            self.objects.delete(&beside)?;
        }
        self.objects.put_new(&beside, &contents.encode())
    }
}

/// The bytes of a pack: as they are, and as parity makes them.
struct Sources<'a> {
    name: &'a str,
    left: &'a [u8],
    rebuilt: Option<&'a [u8]>,
}

impl Sources<'_> {
    fn record<'b>(&self, bytes: &'b [u8], entry: &Entry) -> &'b [u8] {
        bytes.get(narrow(entry.offset)..narrow(entry.end())).unwrap_or_default()
    }
}

fn lost_row(key: Key, row: &Location) -> Damaged {
    Damaged {
        key,
        offset: row.offset,
        leads_elsewhere: None,
        is_ours: false,
        is_known: false,
        has_row: true,
        fix: Fix::None,
    }
}
