//! `ls`: the files of a snapshot.

use serde_json::json;
use umbra_common::overlay::Entry;
use umbra_fsparse::FileType;

use crate::browse::{Browser, Links, Place, Visit, damage_in};
use crate::cli::{Global, LsArgs, Output};
use crate::error::Result;
use crate::listing::{self, Columns, Listed};
use crate::restore::Named;
use crate::select;

use super::open::Opened;

/// Lists a directory, a file, or with `-R` a directory itself and everything below it. Without a
/// path it lists the root of every volume whose files are known.
///
/// # Errors
/// [`crate::Error::NotFound`], [`crate::Error::Usage`] for a path that several volumes have; [`crate::Error::Damage`]
/// after everything that could be read.
pub fn run(global: &Global, args: &LsArgs, output: &Output) -> Result<()> {
    let (name, path) = select::split_target(&args.target);
    let opened = Opened::new(global, name)?;
    let browser = Browser::new(&opened.snapshot, &opened.nodes);
    let places = match path {
        Some(path) => vec![browser.find(path, Links::Keep)?],
        None => browser.roots()?,
    };
    if places.is_empty() {
        return Err(browser.no_files());
    }
    let mut list = List {
        opened: &opened,
        browser: &browser,
        columns: Columns { long: args.long, extents: args.extents },
        output,
        id: opened.id(),
        entries: 0,
        lost: Named::default(),
    };
    for place in &places {
        if places.len() > 1 {
            list.heading(place)?;
        }
        list.place(place, args.recursive)?;
    }
    list.finish()
}

struct List<'a> {
    opened: &'a Opened,
    browser: &'a Browser<'a>,
    columns: Columns,
    output: &'a Output,
    id: String,
    entries: u64,
    lost: Named,
}

impl List<'_> {
    fn heading(&self, place: &Place) -> Result<()> {
        let manifest = &self.opened.snapshot.manifest;
        let kind = manifest.volumes.get(place.volume).map_or("", |volume| volume.kind.as_str());
        self.output.text(&format!("{} ({kind}):", self.browser.volume_path(place.volume)))
    }

    fn place(&mut self, place: &Place, recursive: bool) -> Result<()> {
        let is_dir = place.entry.record.file_type == FileType::Dir;
        if !is_dir {
            return self.entry(place.volume, &place.path, &place.entry, &place.path);
        }
        let mut walk = self.browser.walk(place);
        let mut first = true;
        while let Some(visit) = walk.next()? {
            match visit {
                Visit::Lost { path, reason } => {
                    let volume = self.browser.volume_path(place.volume);
                    let path = [volume.as_bytes(), b"/", &path].concat();
                    self.lost.add(&path, &reason);
                }
                Visit::Entry { path, entry } => {
                    let is_top = std::mem::take(&mut first);
                    if recursive {
                        let shown = [b"/", path.as_slice()].concat();
                        self.entry(place.volume, &path, &entry, &shown)?;
                    } else if !is_top {
                        self.entry(place.volume, &path, &entry, &entry.record.name)?;
                    }
                    if !recursive && !is_top {
                        walk.skip();
                    }
                }
            }
        }
        Ok(())
    }

    /// Shows one entry; people see it as `shown`.
    fn entry(&mut self, volume: usize, path: &[u8], entry: &Entry, shown: &[u8]) -> Result<()> {
        self.entries += 1;
        let volume = self.browser.volume_path(volume);
        let listed = Listed { snapshot: &self.id, volume, path, entry };
        let nodes = &self.opened.nodes;
        if self.output.json {
            let fields = listing::to_json(&listed, self.columns, nodes)?;
            return self.output.object("entry", fields);
        }
        for line in listing::to_lines(&listed, shown, self.columns, nodes)? {
            self.output.text(&line)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        for lost in &self.lost.list {
            let fields = json!({"subject": lost, "message": "a directory is damaged"});
            self.output.object("warning", fields)?;
            self.output.text(&format!("damaged: {lost}"))?;
        }
        let fields = json!({
            "snapshot": self.id,
            "entries": self.entries,
            "damaged": self.lost.total,
        });
        let verdict = match self.lost.list.first() {
            None => Ok(()),
            Some(first) => {
                let text = format!("{} directories cannot be read: {first}", self.lost.total);
                Err(damage_in(&self.opened.snapshot, "its files", text))
            }
        };
        self.output.finish(fields, verdict)
    }
}
