//! What a pack holds: from its footer, from the table beside it, or by reading it all.

use std::collections::BTreeSet;

use umbra_common::{ByteLen, ByteOffset, ByteRange};

use crate::bytes::{narrow, wide};
use crate::error::{Error, Result};
use crate::ids::PackId;
use crate::index::{Batch, Location};
use crate::object::prove;
use crate::pack::{
    Contents, Entry, Found, PACK_HEADER_BYTES, PackHeader, Record, TRAILER_BYTES, contents_name,
    open_name, scan, sealed_name,
};
use crate::store::inner::Inner;
use crate::store::settle::{keys_of, sealed_row};

/// Returns the pack whose object has this name, or `None` for other objects.
pub(crate) fn pack_of(name: &str) -> Option<PackId> {
    let pack = PackId::from_hex(name.rsplit('/').next()?)?;
    (sealed_name(pack) == name).then_some(pack)
}

/// Tells whether every record of a table lies in the first `len` bytes.
fn ends_within(table: &Contents, len: u64) -> bool {
    table.entries.iter().all(|entry| entry.end() <= len)
}

/// Makes a range; a length that no file has becomes an error of reading.
pub(crate) fn range(start: u64, len: u64) -> Result<ByteRange> {
    let limit = u64::MAX;
    ByteRange::new(ByteOffset(start), ByteLen(len)).ok_or(Error::Limit {
        what: "the end of a file",
        found: limit,
        limit,
    })
}

impl Inner {
    /// Lists the sealed packs.
    pub(crate) fn sealed_packs(&self) -> Result<Vec<PackId>> {
        let names = self.objects.list("packs/")?;
        Ok(names.iter().filter_map(|name| pack_of(name)).collect())
    }

    /// Returns the places of a pack that are known to be damaged: nothing is read from there.
    pub(crate) fn quarantined(&self, pack: PackId) -> BTreeSet<u64> {
        self.log.with_state(|state| state.quarantined.get(&pack).cloned()).unwrap_or_default()
    }

    /// Lists the open packs.
    pub(crate) fn open_packs(&self) -> Result<Vec<PackId>> {
        let names = self.journal.list("open")?;
        Ok(names.iter().filter_map(|name| PackId::from_hex(name)).collect())
    }

    /// Returns what a sealed pack holds. Reads it all where its table is damaged, and notes that.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn contents(&self, pack: PackId) -> Result<Contents> {
        if let Some(table) = self.table(pack)? {
            return Ok(table);
        }
        let name = sealed_name(pack);
        let len = self.objects.head(&name)?.map_or(0, |info| info.len);
        self.report(&name, len, "the pack has no sound table of contents");
        let bytes = self.objects.get_ranges(&name, &[range(0, len)?])?;
        let bytes = bytes.first().map(Vec::as_slice).unwrap_or_default();
        let (found, gaps) = scan(bytes, wide(PACK_HEADER_BYTES), self.store);
        for gap in gaps.iter().filter(|gap| !gap.is_footer(bytes)) {
            self.report(&name, gap.offset, gap.reason);
        }
        let entries: Vec<Entry> = found.iter().filter_map(|f| self.proven(f, &name)).collect();
        let covers = entries.last().map_or(len.min(wide(PACK_HEADER_BYTES)), Entry::end);
        Ok(Contents { store: self.store, pack, covers, entries })
    }

    /// Returns the table of contents of a sealed pack, from its footer or beside it; `None` where
    /// neither is sound. Notes a damaged header.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn table(&self, pack: PackId) -> Result<Option<Contents>> {
        let name = sealed_name(pack);
        let info = self.objects.head(&name)?;
        let len = info.map_or(0, |info| info.len);
        let read = |range| {
            let found = self.objects.get_ranges(&name, &[range]);
            found.map(|mut found| found.pop().unwrap_or_default())
        };
        let header = read(range(0, len.min(wide(PACK_HEADER_BYTES)))?)?;
        let header = PackHeader::decode(&header, &name).and_then(|header| {
            if header.store == self.store && header.pack == pack {
                return Ok(());
            }
            let (path, reason) = (name.clone(), "it is that of another pack");
            Err(Error::Corrupt { what: "the pack header", path, at: 0, reason })
        });
        let table = match self.footer(pack, &name, len, &read)? {
            Some(contents) => Some(contents),
            // It does not stand in the pack, so it also outlives what it tells of.
            None => self.table_beside(pack)?.filter(|table| ends_within(table, len)),
        };
        // With a sound table of our version it is a header that was hit.
        if table.is_none()
            && let Err(error @ Error::Unsupported { .. }) = header
        {
            return Err(error);
        }
        // Of a pack in which nothing was ever synced even the header may be gone.
        if table.as_ref().is_none_or(|table| !table.entries.is_empty())
            && let Err(error) = header
            && !self.quarantined(pack).contains(&0)
        {
            match error {
                Error::Unsupported { .. } => self.report(&name, 0, &error.to_string()),
                _ => self.report_error(&error),
            }
        }
        Ok(table)
    }

    /// Returns the entry of a record that a scan found. One that stands behind damage must have
    /// the content that its id says: its check alone can be forged.
    pub(crate) fn proven(&self, found: &Found<'_>, path: &str) -> Option<Entry> {
        if found.resynced {
            let object = self.open_body(&found.record, path, found.offset).ok()?;
            prove(&object).ok()?;
        }
        Some(Entry::new(found.offset, &found.record.header, found.record.refs.clone()))
    }

    /// Reads the footer of a pack of `len` bytes; `None` where there is no sound one.
    pub(crate) fn footer(
        &self,
        pack: PackId,
        name: &str,
        len: u64,
        read: &dyn Fn(ByteRange) -> Result<Vec<u8>>,
    ) -> Result<Option<Contents>> {
        let Some(at) = len.checked_sub(wide(TRAILER_BYTES)) else { return Ok(None) };
        let trailer = read(range(at, wide(TRAILER_BYTES))?)?;
        let table_len = Contents::len_from_trailer(&trailer).filter(|table| *table <= len);
        let Some(table_len) = table_len else { return Ok(None) };
        let start = len.saturating_sub(table_len);
        let table = read(range(start, table_len)?)?;
        match Contents::decode(&table, name) {
            Ok(contents) if contents.covers == start => Ok(self.ours(pack, contents)),
            Err(error @ Error::Unsupported { .. }) => Err(error),
            _ => Ok(None),
        }
    }

    /// Returns the table of contents of a sealed pack whose bytes are given, from its footer or
    /// beside it; `None` where neither is sound.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn table_in(&self, pack: PackId, bytes: &[u8]) -> Result<Option<Contents>> {
        let name = sealed_name(pack);
        let len = wide(bytes.len());
        let read = |range: ByteRange| {
            let found = bytes.get(narrow(range.start().0)..narrow(range.end().0));
            Ok(found.unwrap_or_default().to_vec())
        };
        match self.footer(pack, &name, len, &read)? {
            Some(contents) => Ok(Some(contents)),
            None => Ok(self.table_beside(pack)?.filter(|table| ends_within(table, len))),
        }
    }

    /// Tells whether the header, the table and every record of a sealed pack are what they should
    /// be, by their checks; what is known to be damaged is left out.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) fn is_sound_pack(&self, pack: PackId, bytes: &[u8]) -> Result<bool> {
        let Some(table) = self.table_in(pack, bytes)? else { return Ok(false) };
        let header = header_of(bytes, &sealed_name(pack));
        let ours = header.is_some_and(|header| header.store == self.store && header.pack == pack);
        let sound = |entry: &Entry| {
            let record = bytes.get(narrow(entry.offset)..narrow(entry.end())).unwrap_or_default();
            let record = Record::verify(record, self.store).ok();
            let found = record.map(|found| Entry::new(entry.offset, &found.header, found.refs));
            found.as_ref() == Some(entry)
        };
        let known_bad = self.quarantined(pack);
        let left = |entry: &&Entry| !known_bad.contains(&entry.offset);
        let header_counts = !table.entries.is_empty() && !known_bad.contains(&0);
        Ok((ours || !header_counts) && table.entries.iter().filter(left).all(sound))
    }

    /// Reads the table beside a pack; `None` where there is no sound one.
    pub(crate) fn table_beside(&self, pack: PackId) -> Result<Option<Contents>> {
        let name = contents_name(pack);
        let Some(info) = self.objects.head(&name)? else { return Ok(None) };
        let bytes = self.objects.get_ranges(&name, &[range(0, info.len)?])?;
        let bytes = bytes.first().map(Vec::as_slice).unwrap_or_default();
        match Contents::decode(bytes, &name) {
            Ok(contents) => Ok(self.ours(pack, contents)),
            Err(error @ Error::Unsupported { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    fn ours(&self, pack: PackId, contents: Contents) -> Option<Contents> {
        (contents.store == self.store && contents.pack == pack).then_some(contents)
    }

    /// Puts into the index what a sealed pack holds and the index lacks; tells whether it holds
    /// nodes.
    ///
    /// # Errors
    /// What the storage or the index says.
    pub(crate) fn take_sealed(&self, pack: PackId) -> Result<bool> {
        let contents = self.contents(pack)?;
        self.take_contents(&contents)?;
        Ok(contents.entries.iter().any(|entry| entry.kind.is_node()))
    }

    /// Puts into the index what it lacks of a sealed pack's contents.
    pub(crate) fn take_contents(&self, contents: &Contents) -> Result<()> {
        self.take_contents_unless(contents, |_| true)
    }

    /// As [`Inner::take_contents`]; rows of which `keep` is false are replaced.
    pub(crate) fn take_contents_unless(
        &self,
        contents: &Contents,
        keep: impl Fn(&Location) -> bool,
    ) -> Result<()> {
        let found = self.index.find_many(&keys_of(&contents.entries, contents.pack))?;
        let known_bad = self.quarantined(contents.pack);
        let rows = contents.entries.iter().zip(found);
        let lacking = rows.filter(|(entry, found)| {
            !found.as_ref().is_some_and(&keep) && !known_bad.contains(&entry.offset)
        });
        self.index.apply(&Batch {
            put: lacking.map(|(entry, _)| entry.row(contents.pack)).collect(),
            packs: vec![(contents.pack, sealed_row(contents))],
            ..Batch::default()
        })
    }

    /// Reads a whole segment.
    pub(crate) fn whole_segment(&self, name: &str) -> Result<Vec<u8>> {
        let len = self.journal.len(name)?.unwrap_or_default();
        let found = self.journal.get_ranges(name, &[range(0, len)?])?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// Finds the sound records of an open pack.
    pub(crate) fn open_entries(&self, pack: PackId) -> Result<Vec<Entry>> {
        let name = open_name(pack);
        let bytes = self.whole_segment(&name)?;
        let (found, _) = scan(&bytes, wide(PACK_HEADER_BYTES), self.store);
        Ok(found.iter().filter_map(|found| self.proven(found, &name)).collect())
    }

    /// Returns the length of an open pack in bytes.
    pub(crate) fn open_len(&self, name: &str) -> Result<u64> {
        Ok(self.journal.len(name)?.unwrap_or_default())
    }
}

/// Returns the header at the start of an open pack, where it is sound.
pub(crate) fn header_of(bytes: &[u8], name: &str) -> Option<PackHeader> {
    PackHeader::decode(bytes.get(..narrow(128))?, name).ok()
}
