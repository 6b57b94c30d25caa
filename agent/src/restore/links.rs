//! What is no file and no directory: further names of files, device nodes, symbolic links.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{FileType as Kind, Stat, makedev};
use umbra_common::overlay::Entry;
use umbra_fsparse::{FileType, InodeNumber, Xattr};

use super::Overwrite;
use super::confined::{Dir, Name, Placing, Temporary};
use super::dirs::DirId;
use super::files::{FileJob, replace_other, same_mtime};
use super::metadata::{self, Handle, Metadata, Refused};

/// Bytes of two files that are compared at a time.
const COMPARE_BYTES: usize = 256 << 10;

/// All names of one inode: volume of the disk, inode table, inode, type.
pub type GroupKey = (usize, u64, InodeNumber, FileType);

/// Returns the group of an entry, where it has several names.
pub fn group_of(volume: usize, entry: &Entry) -> Option<GroupKey> {
    let record = &entry.record;
    (record.nlink > 1 && record.file_type != FileType::Dir).then_some((
        volume,
        record.volume,
        record.inode,
        record.file_type,
    ))
}

/// What is known of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    /// Its first name is on its way.
    Pending,
    /// This name of it stands there.
    Present {
        /// The directory.
        dir: DirId,
        /// The name.
        name: Vec<u8>,
    },
    /// No name of it could be written so far.
    Absent,
    /// Its content is damaged.
    Damaged,
}

/// Groups of names.
pub type Groups = HashMap<GroupKey, Leader>;

/// How the making of a link, node or further name ended.
#[derive(Debug)]
pub enum Made {
    /// It was made.
    New(Refused),
    /// It stood there.
    Equal,
    /// Something different stands there and stays.
    Kept(&'static str),
    /// The target's file system gives the file no further name: it has to be a file of its own.
    NoLinks,
    /// Only root may make device nodes.
    NoDevice,
}

const DIFFERENT: &str = "something different stands there";

/// Gives the object `leader` of `from` the name of `job` too.
///
/// # Errors
/// What the system says.
pub fn make_link(
    dir: &Arc<Dir>,
    job: &FileJob,
    (from, leader): (&Dir, Name<'_>),
    overwrite: Overwrite,
) -> io::Result<Made> {
    let name = Name::new(&job.name).ok_or(io::ErrorKind::InvalidInput)?;
    let mut placing = Placing::New;
    if let Some(stat) = dir.find(name)? {
        let own = from.find(leader)?.ok_or(io::ErrorKind::NotFound)?;
        if (stat.st_dev, stat.st_ino) == (own.st_dev, own.st_ino) {
            return Ok(Made::Equal);
        }
        let same_type = Kind::from_raw_mode(stat.st_mode) == Kind::from_raw_mode(own.st_mode);
        if same_type && stands_there(dir, name, &stat, (from, leader, &own), job, overwrite)? {
            return Ok(Made::Equal);
        }
        match replace_other(dir, name, &stat, overwrite)? {
            Some(replacing) => placing = replacing,
            None => return Ok(Made::Kept(DIFFERENT)),
        }
    }
    let temporary = match dir.new_link(from, leader) {
        Ok(temporary) => temporary,
        Err(error) if gives_no_links(&error) => return Ok(Made::NoLinks),
        Err(error) => return Err(error),
    };
    place(temporary, name, placing, Refused::default())
}

/// Tells whether an error of `linkat` means that another way has to be taken. SOURCE: linkat(2).
fn gives_no_links(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

/// Tells whether what stands under a name is as good as a further name of the leader.
fn stands_there(
    dir: &Dir,
    name: Name<'_>,
    stat: &Stat,
    (from, leader, own): (&Dir, Name<'_>, &Stat),
    job: &FileJob,
    overwrite: Overwrite,
) -> io::Result<bool> {
    let is_file = Kind::from_raw_mode(stat.st_mode) == Kind::RegularFile;
    match overwrite {
        Overwrite::Always => Ok(false),
        Overwrite::IfChanged if is_file => {
            Ok(stat.st_size == own.st_size && same_mtime(stat, &job.entry))
        }
        _ if is_file => {
            let same_size = stat.st_size == own.st_size;
            Ok(same_size && same_content(&dir.open_file(name)?, &from.open_file(leader)?)?)
        }
        _ => is_equal(dir, name, stat, &job.entry),
    }
}

fn same_content(one: &File, other: &File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0_u8; COMPARE_BYTES], vec![0_u8; COMPARE_BYTES]);
    let mut at = 0;
    loop {
        let count = one.read_at(&mut left, at)?;
        let (found, wanted) = (left.get(..count), right.get_mut(..count));
        let (Some(found), Some(wanted)) = (found, wanted) else { return Ok(false) };
        match other.read_exact_at(wanted, at) {
            Ok(()) if found == wanted => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        if count == 0 {
            return Ok(true);
        }
        at += count as u64;
    }
}

/// Makes a symbolic link, a device node, a fifo or a socket.
///
/// # Errors
/// What the system says.
pub fn make_object(
    dir: &Arc<Dir>,
    job: &FileJob,
    xattrs: &[Xattr],
    overwrite: Overwrite,
) -> io::Result<Made> {
    let name = Name::new(&job.name).ok_or(io::ErrorKind::InvalidInput)?;
    let mut placing = Placing::New;
    if let Some(stat) = dir.find(name)? {
        if overwrite != Overwrite::Always && is_equal(dir, name, &stat, &job.entry)? {
            return Ok(Made::Equal);
        }
        match replace_other(dir, name, &stat, overwrite)? {
            Some(replacing) => placing = replacing,
            None => return Ok(Made::Kept(DIFFERENT)),
        }
    }
    let record = &job.entry.record;
    let temporary = match (record.file_type, &record.target) {
        (FileType::Symlink, Some(target)) => dir.new_symlink(target)?,
        (FileType::Symlink, None) => return Err(io::ErrorKind::InvalidInput.into()),
        _ => {
            let rdev = record.rdev.map_or(0, |rdev| makedev(rdev.major, rdev.minor));
            match dir.new_node(kind_of(record.file_type), rdev) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Ok(Made::NoDevice);
                }
                other => other?,
            }
        }
    };
    let object = dir.open_object(temporary.name())?;
    let metadata = Metadata::of(&job.entry, xattrs);
    let refused = metadata::apply(Handle::Path(object.as_fd()), &metadata)?;
    place(temporary, name, placing, refused)
}

fn place(
    temporary: Temporary,
    name: Name<'_>,
    placing: Placing,
    refused: Refused,
) -> io::Result<Made> {
    match temporary.place(name, placing) {
        Ok(()) => Ok(Made::New(refused)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(Made::Kept("something came to stand there meanwhile"))
        }
        Err(error) => Err(error),
    }
}

/// Tells whether a link or node stands there that is as in the snapshot.
fn is_equal(dir: &Dir, name: Name<'_>, stat: &Stat, entry: &Entry) -> io::Result<bool> {
    let record = &entry.record;
    let kind = Kind::from_raw_mode(stat.st_mode);
    if kind != kind_of(record.file_type) {
        return Ok(false);
    }
    match kind {
        Kind::Symlink => Ok(Some(dir.read_link(name)?) == record.target),
        Kind::CharacterDevice | Kind::BlockDevice => {
            let wanted = record.rdev.map(|rdev| makedev(rdev.major, rdev.minor));
            Ok(wanted == Some(stat.st_rdev))
        }
        _ => Ok(true),
    }
}

fn kind_of(file_type: FileType) -> Kind {
    match file_type {
        FileType::File => Kind::RegularFile,
        FileType::Dir => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::Char => Kind::CharacterDevice,
        FileType::Block => Kind::BlockDevice,
    }
}
