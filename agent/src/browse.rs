//! The files of a snapshot: volumes, paths, directories.
//!
//! A path begins with a volume (`part/2/etc/fstab`, `disk/etc/fstab`), or with `/`, and then it is
//! looked for in every volume whose files are known; exactly one has to have it.

use std::collections::VecDeque;

use umbra_common::node::NodeSource;
use umbra_common::overlay::{self, Entry};
use umbra_common::snapshot::{Parsed, Volume};
use umbra_fsparse::FileType;

use crate::catalog::Snapshot;
use crate::error::{Error, Result};
use crate::fetch;

mod walk;

pub use umbra_common::overlay::display;
pub use walk::{Visit, Walk};

/// Symbolic links that are followed on one way, as the kernel bounds it (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Kinds of volumes that hold no files of their own.
const NO_FILE_SYSTEM: [&str; 5] = ["", "unknown", "swap", "luks", "lvm2"];

/// What becomes of symbolic links in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// They are what they are: nothing lies behind them.
    Keep,
    /// They lead on, inside their volume; an absolute target starts at the volume's root.
    Follow,
}

/// Something in a volume.
#[derive(Clone, Debug)]
pub struct Place {
    /// Position of the volume in [`umbra_common::snapshot::Manifest::volumes`].
    pub volume: usize,
    /// Path in the volume: names joined by `/`, none at the ends; empty for the root.
    pub path: Vec<u8>,
    /// What stands there.
    pub entry: Entry,
    /// True where the path that was looked for named the volume.
    pub explicit: bool,
}

/// Looks into the volumes of a snapshot.
#[derive(Clone, Copy)]
pub struct Browser<'s> {
    snapshot: &'s Snapshot,
    nodes: &'s dyn NodeSource,
}

/// What a path in one volume leads to.
enum Lookup {
    Found {
        path: Vec<u8>,
        entry: Box<Entry>,
    },
    Nothing,
    /// A link on the way that was not followed.
    Link {
        path: Vec<u8>,
        target: Vec<u8>,
    },
    TooManyLinks,
}

impl<'s> Browser<'s> {
    /// Looks into `snapshot`, whose nodes come from `nodes`.
    pub fn new(snapshot: &'s Snapshot, nodes: &'s dyn NodeSource) -> Self {
        Self { snapshot, nodes }
    }

    /// Returns the volumes whose files are known, with their positions in the manifest.
    pub fn volumes(&self) -> impl Iterator<Item = (usize, &'s Volume)> {
        let volumes = self.snapshot.manifest.volumes.iter().enumerate();
        volumes.filter(|(_, volume)| volume.overlay.is_some())
    }

    /// Returns the volumes that hold a file system, whether its files are known or not.
    pub fn file_systems(&self) -> impl Iterator<Item = &'s Volume> {
        let volumes = self.snapshot.manifest.volumes.iter();
        volumes.filter(|v| v.overlay.is_some() || !NO_FILE_SYSTEM.contains(&v.kind.as_str()))
    }

    /// Returns a volume's path.
    pub fn volume_path(&self, volume: usize) -> &'s str {
        self.snapshot.manifest.volumes.get(volume).map_or("", |volume| volume.path.as_str())
    }

    /// Returns the roots of all volumes whose files are known.
    ///
    /// # Errors
    /// [`Error::Damage`] where one cannot be read, [`Error::Vault`].
    pub fn roots(&self) -> Result<Vec<Place>> {
        self.volumes().map(|(volume, _)| self.root(volume)).collect()
    }

    /// Returns the root directory of a volume.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a volume without files, [`Error::Damage`], [`Error::Vault`].
    pub fn root(&self, volume: usize) -> Result<Place> {
        let described = self.snapshot.manifest.volumes.get(volume);
        let described = described.ok_or_else(|| Error::Internal("no such volume".into()))?;
        let link = self.snapshot.overlay_link(described)?;
        let link = link.ok_or_else(|| self.unparsed(described))?;
        let entry = overlay::root(self.nodes, link);
        let entry = entry.map_err(|error| self.damaged(&described.path, error))?;
        Ok(Place { volume, path: Vec::new(), entry, explicit: true })
    }

    /// Finds what a path leads to.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Usage`] with the candidates where several volumes have it,
    /// [`Error::Damage`], [`Error::Vault`].
    pub fn find(&self, path: &[u8], links: Links) -> Result<Place> {
        if path.first() == Some(&b'/') {
            return self.find_anywhere(path, links);
        }
        let Some((volume, rest)) = self.split_volume(path) else {
            return Err(self.no_volume(path));
        };
        let name = |path: &[u8]| display(&[self.volume_path(volume).as_bytes(), path].concat());
        match self.look(volume, rest, links)? {
            Lookup::Found { path, entry } => {
                Ok(Place { volume, path, entry: *entry, explicit: true })
            }
            Lookup::Nothing => Err(self.nothing(&display(path))),
            Lookup::TooManyLinks => Err(too_many_links(&display(path))),
            Lookup::Link { path, target } => {
                let at = [b"/", path.as_slice()].concat();
                Err(link_on_the_way(&display(rest), &name(&at), &target))
            }
        }
    }

    fn find_anywhere(&self, path: &[u8], links: Links) -> Result<Place> {
        let mut found: Vec<Place> = Vec::new();
        let mut other = None;
        if self.volumes().next().is_none() {
            return Err(self.no_files());
        }
        for (volume, _) in self.volumes() {
            match self.look(volume, path, links)? {
                Lookup::Found { path, entry } => {
                    found.push(Place { volume, path, entry: *entry, explicit: false });
                }
                Lookup::Nothing => {}
                Lookup::TooManyLinks => other = Some(too_many_links(&display(path))),
                Lookup::Link { path: at, target } => {
                    let at = display(&[b"/", at.as_slice()].concat());
                    other = Some(link_on_the_way(&display(path), &at, &target));
                }
            }
        }
        if let [first, _, ..] = found.as_slice() {
            let place = |place: &Place| {
                let volume = self.volume_path(place.volume);
                display(&[volume.as_bytes(), b"/", place.path.as_slice()].concat())
            };
            let list: Vec<String> = found.iter().map(place).collect();
            return Err(Error::Usage {
                what: format!("{} is on several volumes: {}", display(path), list.join(", ")),
                hint: format!("name the volume, such as {}", place(first)),
            });
        }
        match found.pop() {
            Some(place) => Ok(place),
            None => Err(other.unwrap_or_else(|| self.nothing(&display(path)))),
        }
    }

    /// Splits a path that begins with a volume; the longest such volume wins.
    fn split_volume<'p>(&self, path: &'p [u8]) -> Option<(usize, &'p [u8])> {
        let volumes = self.snapshot.manifest.volumes.iter().enumerate();
        let rest = |volume: &Volume| {
            let rest = path.strip_prefix(volume.path.as_bytes())?;
            (rest.is_empty() || rest.first() == Some(&b'/')).then_some(rest)
        };
        let fitting = volumes.filter_map(|(index, volume)| Some((index, rest(volume)?)));
        fitting.min_by_key(|(_, rest)| rest.len())
    }

    /// Tells whether a path names a volume.
    pub fn names_volume(&self, path: &[u8]) -> bool {
        self.split_volume(path).is_some()
    }

    /// Returns the directories above a place, the volume's root first.
    ///
    /// # Errors
    /// As [`Browser::find`].
    pub fn ancestors(&self, place: &Place) -> Result<Vec<Entry>> {
        let mut names: Vec<Vec<u8>> = split(&place.path).collect();
        if names.pop().is_none() {
            return Ok(Vec::new());
        }
        let mut way = vec![self.root(place.volume)?.entry];
        for name in names {
            let next = self.child(place.volume, &way, &name)?;
            way.push(next.ok_or_else(|| self.nothing(&display(&place.path)))?);
        }
        Ok(way)
    }

    /// Follows a path in one volume.
    fn look(&self, volume: usize, path: &[u8], links: Links) -> Result<Lookup> {
        let root = self.root(volume)?.entry;
        let mut way: Vec<Entry> = vec![root];
        let mut names: VecDeque<Vec<u8>> = split(path).collect();
        let mut followed = 0;
        while let Some(name) = names.pop_front() {
            if name == b".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let Some(next) = self.child(volume, &way, &name)? else { return Ok(Lookup::Nothing) };
            let target = match (next.record.file_type, &next.record.target) {
                (FileType::Symlink, Some(target)) => target.clone(),
                _ => {
                    way.push(next);
                    continue;
                }
            };
            match links {
                Links::Keep if names.is_empty() => way.push(next),
                Links::Keep => {
                    way.push(next);
                    return Ok(Lookup::Link { path: joined(&way), target });
                }
                Links::Follow => {
                    followed += 1;
                    if followed > MAX_LINKS {
                        return Ok(Lookup::TooManyLinks);
                    }
                    if target.first() == Some(&b'/') {
                        way.truncate(1);
                    }
                    let rest = std::mem::take(&mut names);
                    names = split(&target).chain(rest).collect();
                }
            }
        }
        let path = joined(&way);
        let entry = way.pop().ok_or_else(|| Error::Internal("a path without a root".into()))?;
        Ok(Lookup::Found { path, entry: Box::new(entry) })
    }

    /// Finds a name in the directory that the way ends at.
    fn child(&self, volume: usize, way: &[Entry], name: &[u8]) -> Result<Option<Entry>> {
        let damaged = |error| {
            let path = [self.volume_path(volume).as_bytes(), b"/", &joined(way)].concat();
            self.damaged(&display(&path), error)
        };
        let Some(last) = way.last() else { return Ok(None) };
        let Some(directory) = last.directory().map_err(damaged)? else { return Ok(None) };
        overlay::find(self.nodes, directory, name).map_err(damaged)
    }

    /// Goes over everything below a place.
    pub fn walk(&self, place: &Place) -> Walk<'s> {
        Walk::new(self.nodes, place)
    }

    fn nothing(&self, path: &str) -> Error {
        let id = self.snapshot.reference.id.to_string();
        Error::NotFound {
            what: format!("snapshot {} has no {path}", short(&id)),
            hint: format!("`umbra ls {}` lists what there is", short(&id)),
        }
    }

    fn no_volume(&self, path: &[u8]) -> Error {
        let volumes = &self.snapshot.manifest.volumes;
        let list: Vec<String> =
            volumes.iter().map(|volume| format!("{} ({})", volume.path, volume.kind)).collect();
        Error::NotFound {
            what: format!("{} is on no volume of this disk", display(path)),
            hint: format!("it has {}", list.join(", ")),
        }
    }

    fn unparsed(&self, volume: &Volume) -> Error {
        let reason = match &volume.parsed {
            Parsed::None { reason } | Parsed::Partial { reason } => reason.as_str(),
            Parsed::Full => "it holds none",
        };
        Error::NotFound {
            what: format!("the files of {} ({}) are not known: {reason}", volume.path, volume.kind),
            hint: "`umbra recover` writes the whole disk, from which it can be mounted".into(),
        }
    }

    /// Makes the error for a disk without a volume whose files are known.
    pub fn no_files(&self) -> Error {
        match self.snapshot.manifest.volumes.first() {
            Some(volume) => self.unparsed(volume),
            None => Error::NotFound {
                what: "no file system was found on this disk".into(),
                hint: "`umbra recover` writes the whole disk".into(),
            },
        }
    }

    fn damaged(&self, place: &str, error: umbra_common::Error) -> Error {
        match fetch::damage(error) {
            Ok(detail) => damage_in(self.snapshot, place, detail),
            Err(error) => error,
        }
    }
}

/// Makes the error for damage at a place of a snapshot.
pub fn damage_in(snapshot: &Snapshot, place: &str, detail: String) -> Error {
    let id = snapshot.reference.id.to_string();
    Error::Damage {
        what: format!("snapshot {}, {place}", short(&id)),
        detail,
        hint: format!(
            "`umbra verify {}` lists all that is hit; what is whole can still be restored",
            short(&id)
        ),
    }
}

/// Returns the first digits of an id.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn split(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let names = path.split(|byte| *byte == b'/');
    names.filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec)
}

/// Joins the names on the way from a root, which itself has none.
fn joined(way: &[Entry]) -> Vec<u8> {
    let names: Vec<&[u8]> = way.iter().skip(1).map(|entry| entry.record.name.as_slice()).collect();
    names.join(&b'/')
}

fn too_many_links(path: &str) -> Error {
    Error::NotFound {
        what: format!("{path} leads through more than {MAX_LINKS} symbolic links"),
        hint: "they may lead in a circle; name the file itself".into(),
    }
}

fn link_on_the_way(path: &str, link: &str, target: &[u8]) -> Error {
    Error::NotFound {
        what: format!("{path} leads through the symbolic link {link}"),
        hint: format!("it leads to {}; name what is meant there", display(target)),
    }
}

#[cfg(test)]
mod tests;
