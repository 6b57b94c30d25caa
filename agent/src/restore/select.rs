//! What a restore is asked for, and where it lands.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use umbra_common::overlay::Entry;

use super::filter::{Filter, Verdict};
use crate::browse::{Browser, Links, Place, Visit, display};
use crate::error::{Error, Result};

/// Longest list of paths that is read, in bytes.
const MAX_LIST_BYTES: u64 = 256 << 20;

/// Whether the directories above a path are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strip {
    /// A path lands at the target + its whole path.
    Keep,
    /// It lands at the target + its last name.
    LastName,
}

/// Something that was asked for.
#[derive(Clone, Debug)]
pub struct Selection {
    /// What.
    pub place: Place,
    /// Directories between the target and it, and what the snapshot knows of them.
    pub above: Vec<(Vec<u8>, Option<Entry>)>,
    /// Its name there; empty where its content lands right in the last directory.
    pub name: Vec<u8>,
}

/// Selects everything: the one file system's tree, or each below its volume's path where the disk
/// holds several. Also returns the volumes that look like file systems and whose files are not
/// known.
///
/// # Errors
/// [`Error::NotFound`] where no files are known, [`Error::Damage`], [`Error::Vault`].
pub fn select_all(browser: &Browser<'_>) -> Result<(Vec<Selection>, Vec<String>)> {
    let several = browser.file_systems().count() > 1;
    let mut selections = Vec::new();
    for place in browser.roots()? {
        let above = if several { volume_names(browser, &place) } else { Vec::new() };
        selections.push(Selection { place, above, name: Vec::new() });
    }
    if selections.is_empty() {
        return Err(browser.no_files());
    }
    let unknown = browser.file_systems().filter(|volume| volume.overlay.is_none());
    let unknown = unknown.map(|volume| format!("{} ({})", volume.path, volume.kind)).collect();
    Ok((selections, unknown))
}

/// Selects one path.
///
/// # Errors
/// As [`Browser::find`].
pub fn select(browser: &Browser<'_>, path: &[u8], strip: Strip) -> Result<Selection> {
    let place = browser.find(path, Links::Keep)?;
    let name = place.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    if strip == Strip::LastName {
        return Ok(Selection { place, above: Vec::new(), name });
    }
    let mut above = if place.explicit { volume_names(browser, &place) } else { Vec::new() };
    let ancestors = browser.ancestors(&place)?;
    // The first is the volume's root, which has no name.
    if let Some((_, entry)) = above.last_mut() {
        *entry = ancestors.first().cloned();
    }
    for ancestor in ancestors.into_iter().skip(1) {
        above.push((ancestor.record.name.clone(), Some(ancestor)));
    }
    Ok(Selection { place, above, name })
}

fn volume_names(browser: &Browser<'_>, place: &Place) -> Vec<(Vec<u8>, Option<Entry>)> {
    let path = browser.volume_path(place.volume);
    path.split('/').map(|name| (name.as_bytes().to_vec(), None)).collect()
}

/// Refuses selections that would land in one place (`--strip` with equal last names).
///
/// # Errors
/// [`Error::Usage`].
pub fn check_distinct(browser: &Browser<'_>, selections: &[Selection]) -> Result<()> {
    let mut seen = HashSet::new();
    for selection in selections {
        let mut path: Vec<&[u8]> = selection.above.iter().map(|(name, _)| &name[..]).collect();
        path.push(&selection.name);
        let place = (selection.place.volume, selection.place.path.as_slice());
        if seen.contains(&(path.clone(), place)) {
            continue;
        }
        let taken = seen.iter().any(|(other, _): &(Vec<&[u8]>, _)| *other == path);
        if taken && !selection.name.is_empty() {
            let volume = browser.volume_path(place.0);
            return Err(Error::Usage {
                what: format!("several paths end in {} ({volume})", display(&selection.name)),
                hint: "restore them without --strip, or one after the other".into(),
            });
        }
        seen.insert((path, place));
    }
    Ok(())
}

/// Reads a list of paths, one a line; `-` is standard input. Empty lines are left out; a path
/// without a volume starts at the root.
///
/// # Errors
/// [`Error::Io`] with the file.
pub fn paths_in(file: &Path) -> Result<Vec<Vec<u8>>> {
    let context = |source| Error::Io { what: "read the list", path: file.into(), source };
    let mut bytes = Vec::new();
    let input: Box<dyn std::io::Read> = if file.as_os_str().as_bytes() == b"-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(context)?)
    };
    std::io::Read::read_to_end(&mut std::io::Read::take(input, MAX_LIST_BYTES), &mut bytes)
        .map_err(context)?;
    if bytes.len() as u64 == MAX_LIST_BYTES {
        return Err(context(std::io::ErrorKind::FileTooLarge.into()));
    }
    let lines = bytes.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    Ok(lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

/// What a visit comes to.
pub(super) enum Visited {
    Found(Box<Found>),
    /// A directory that cannot be read.
    Lost {
        path: Vec<u8>,
        reason: String,
    },
}

/// Something that a walk found.
pub(super) struct Found {
    pub(super) entry: Box<Entry>,
    pub(super) verdict: Verdict,
}

/// Goes over a selection, directories before what is in them. `each` gets what it returned for the
/// directory above, the name there and what was found; where it returns nothing for a directory,
/// what is below is left out. What the filter excludes does not come.
pub(super) fn visit<T>(
    browser: &Browser<'_>,
    selection: &Selection,
    filter: &Filter,
    base: T,
    mut each: impl FnMut(&T, &[u8], Visited) -> Result<Option<T>>,
) -> Result<()> {
    let top = &selection.place.path;
    let mut walk = browser.walk(&selection.place);
    let mut open: Vec<(Vec<u8>, T, Verdict)> = Vec::new();
    while let Some(visit) = walk.next()? {
        let (path, entry) = match visit {
            Visit::Lost { path, reason } => {
                while open.last().is_some_and(|(above, _, _)| *above != path) {
                    open.pop();
                }
                let parent = open.last().map_or(&base, |(_, own, _)| own);
                each(parent, b"", Visited::Lost { path, reason })?;
                continue;
            }
            Visit::Entry { path, entry } => (path, entry),
        };
        let is_top = path == *top;
        let above = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let above = path.get(..above).unwrap_or_default();
        while open.last().is_some_and(|(path, _, _)| is_top || path != above) {
            open.pop();
        }
        let (parent, over) = match open.last() {
            Some((_, own, verdict)) => (own, *verdict),
            None => (&base, verdict_above(filter, top)),
        };
        // A volume's root has no name that a pattern could match.
        let verdict = if path.is_empty() { filter.root() } else { filter.verdict(&path, over) };
        let is_dir = entry.record.directory.is_some();
        let name = if is_top { selection.name.clone() } else { entry.record.name.clone() };
        let own = match verdict {
            Verdict::Exclude => None,
            _ => {
                let found = Found { entry, verdict };
                each(parent, &name, Visited::Found(Box::new(found)))?
            }
        };
        match own {
            Some(own) if is_dir => open.push((path, own, verdict)),
            _ => walk.skip(),
        }
    }
    Ok(())
}

/// Decides about the directories above a path.
fn verdict_above(filter: &Filter, path: &[u8]) -> Verdict {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    ends.fold(filter.root(), |above, end| {
        filter.verdict(path.get(..end).unwrap_or_default(), above)
    })
}
