//! Which files have the metadata that the base snapshot has of them.

use std::collections::{HashMap, HashSet};

use umbra_common::ByteOffset;
use umbra_common::node::NodeSource;
use umbra_common::overlay::{ContentHash, Entry, Extents, Record};
use umbra_fsparse::{FileType, Inode, Timestamp};

use super::parent::{SameVolume, root};
use super::written_below::by_boot_loader;
use crate::backup::plan::{FileItem, FilePiece, pieces};
use crate::browse::{Place, Visit, Walk};
use crate::fetch::chain;
use crate::survey::Survey;

/// Directories above each other that a name is made of at most.
const MAX_DEPTH: usize = 4096;

/// Returns the files whose metadata is the base's in everything that a change of content changes,
/// with the hash of their content. An error, in words, is damage of the base.
pub(super) fn unchanged(
    survey: &Survey,
    nodes: &dyn NodeSource,
    volumes: &[SameVolume],
) -> Result<HashMap<FileItem, ContentHash>, String> {
    let mut all = HashMap::new();
    for same in volumes {
        let Some(volume) = survey.volumes.get(same.index as usize) else { continue };
        let Some(tree) = &volume.tree else { continue };
        let mut found: HashMap<u32, ContentHash> = HashMap::new();
        // A file whose names do not agree about it.
        let mut barred: HashSet<u32> = HashSet::new();
        let entry = root(nodes, same)?;
        let place = Place { volume: same.index as usize, path: Vec::new(), entry, explicit: true };
        let mut walk = Walk::new(nodes, &place);
        while let Some(visit) = walk.next().map_err(|error| chain(&error))? {
            let entry = match visit {
                Visit::Entry { entry, .. } => entry,
                Visit::Lost { path, reason } => {
                    return Err(format!("/{}: {reason}", String::from_utf8_lossy(&path)));
                }
            };
            if entry.record.file_type != FileType::File {
                continue;
            }
            let Some(position) = tree.position(entry.record.inode) else { continue };
            let Some(inode) = tree.inodes().get(position as usize) else { continue };
            let start = volume.range.start();
            if is_same(&entry, inode, (start, same.trusted_before), nodes)? {
                let content = entry.record.content;
                if found.insert(position, content).is_some_and(|other| other != content) {
                    barred.insert(position);
                }
            } else {
                barred.insert(position);
            }
        }
        found.retain(|position, _| !barred.contains(position));
        let item = |position| FileItem { volume: same.index, inode: position };
        all.extend(found.into_iter().map(|(position, content)| (item(position), content)));
    }
    Ok(all)
}

/// Tells whether a file's content must be what the base has, going by its metadata. Its names,
/// their number, owner and mode may differ.
fn is_same(
    entry: &Entry,
    inode: &Inode,
    (volume_start, trusted_before): (ByteOffset, Timestamp),
    nodes: &dyn NodeSource,
) -> Result<bool, String> {
    let past = &entry.record;
    // Without a hash something about its content was not as it should be.
    if inode.file_type != FileType::File || past.content.blake3().is_none() {
        return Ok(false);
    }
    if by_boot_loader(&past.name) || past.volume != 0 || past.ctime >= trusted_before {
        return Ok(false);
    }
    let Ok(now) = Record::of_inode(b"x", inode, volume_start, past.content, None) else {
        return Ok(false);
    };
    let same = past.inode == now.inode
        && past.generation == now.generation
        && past.size == now.size
        && past.ctime == now.ctime
        && past.mtime == now.mtime
        && past.crtime == now.crtime
        && past.flags == now.flags;
    let Extents::Inline(extents) = &now.extents else { return Ok(false) };
    if !same {
        return Ok(false);
    }
    let mut left = extents.iter();
    let past = entry.extents(nodes, ByteOffset(0)).map_err(|error| chain(&error))?;
    for extent in past {
        let extent = extent.map_err(|error| chain(&error))?;
        if left.next() != Some(&extent) {
            return Ok(false);
        }
    }
    Ok(left.next().is_none())
}

/// Counts the bytes of the disk that a file's content has; leaves its pieces in `parts`.
pub(super) fn disk_bytes(survey: &Survey, item: FileItem, parts: &mut Vec<FilePiece>) -> u64 {
    parts.clear();
    if let Some((inode, base)) = item.find(survey) {
        pieces(inode, base, parts);
    }
    let of = |part: &FilePiece| match part {
        FilePiece::Data { disk, .. } => disk.len().0,
        FilePiece::Zeros { .. } | FilePiece::Slack { .. } => 0,
    };
    parts.iter().map(of).sum()
}

/// Returns one of the paths of a file, each name behind a `/`; what it can find of it.
pub(super) fn name(survey: &Survey, item: FileItem) -> Vec<u8> {
    let volume = survey.volumes.get(item.volume as usize);
    let Some(tree) = volume.and_then(|volume| volume.tree.as_ref()) else { return Vec::new() };
    let mut names: Vec<&[u8]> = Vec::new();
    let mut position = item.inode;
    while names.len() < MAX_DEPTH && Some(position) != tree.root() {
        let Some(entry) = tree.name_of(position) else { break };
        names.push(tree.name(entry));
        position = entry.parent;
    }
    names.iter().rev().flat_map(|name| [b"/", *name].concat()).collect()
}
