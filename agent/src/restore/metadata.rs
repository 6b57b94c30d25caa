//! Owner, mode, times and extended attributes of what was restored.
//!
//! What the caller has no right to set, or what the target's file system cannot hold, is counted
//! and named, never an error: an ordinary user gets his files back too.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat,
    fchmod, fchown, fremovexattr, fsetxattr, futimens, setxattr, utimensat,
};
use rustix::io::Errno;
use umbra_common::overlay::Entry;
use umbra_fsparse::{FileType, Timestamp, Xattr};

/// Attributes that a new file inherits from its directory and that the image may not have.
const INHERITED: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
const SET_USER: u16 = 0o4000;
const SET_GROUP: u16 = 0o2000;

/// What is set.
#[derive(Clone, Debug)]
pub struct Metadata<'a> {
    /// What the object is.
    pub file_type: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes.
    pub xattrs: &'a [Xattr],
}

impl<'a> Metadata<'a> {
    /// Returns what the snapshot says of an entry; its attributes were read by the caller.
    pub fn of(entry: &Entry, xattrs: &'a [Xattr]) -> Self {
        let record = &entry.record;
        Self {
            file_type: record.file_type,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            mtime: record.mtime,
            xattrs,
        }
    }
}

/// What could not be set on one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Owner or group.
    pub owner: bool,
    /// Permission bits, or setuid and setgid left out because the owner is another.
    pub mode: bool,
    /// Times.
    pub times: bool,
    /// Names of extended attributes.
    pub xattrs: Vec<Vec<u8>>,
}

impl Refused {
    /// Tells whether everything was set.
    pub fn is_empty(&self) -> bool {
        !self.owner && !self.mode && !self.times && self.xattrs.is_empty()
    }
}

/// How an object is reached.
#[derive(Clone, Copy, Debug)]
pub enum Handle<'f> {
    /// A file or directory opened for reading or writing.
    Open(BorrowedFd<'f>),
    /// Any object opened with `O_PATH | O_NOFOLLOW`; it is named by `/proc/self/fd/N`, which
    /// leads to that object whatever stands under its name by now.
    Path(BorrowedFd<'f>),
}

impl Handle<'_> {
    fn path(fd: BorrowedFd<'_>) -> String {
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    fn chown(&self, owner: Option<Uid>, group: Option<Gid>) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => fchown(fd, owner, group),
            Self::Path(fd) => chownat(fd, "", owner, group, AtFlags::EMPTY_PATH),
        }
    }

    fn chmod(&self, mode: Mode) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => fchmod(fd, mode),
            Self::Path(fd) => chmodat(CWD, Self::path(*fd), mode, AtFlags::empty()),
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Path(fd) => setxattr(Self::path(*fd), name, value, XattrFlags::empty()),
        }
    }

    fn remove_xattr(&self, name: &str) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => fremovexattr(fd, name),
            Self::Path(fd) => rustix::fs::removexattr(Self::path(*fd), name),
        }
    }

    fn set_times(&self, times: &Timestamps) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => futimens(fd, times),
            Self::Path(fd) => utimensat(CWD, Self::path(*fd), times, AtFlags::empty()),
        }
    }
}

/// Sets everything that `metadata` says, in the order in which one does not undo another: the
/// owner (which clears setuid and capabilities), attributes, mode, times.
///
/// # Errors
/// Faults of the medium and a full file system; a refusal is no error.
pub fn apply(handle: Handle<'_>, metadata: &Metadata<'_>) -> io::Result<Refused> {
    let mut refused = Refused::default();
    let (has_owner, has_group) = set_owner(handle, metadata)?;
    refused.owner = !(has_owner && has_group);
    set_xattrs(handle, metadata, &mut refused)?;
    // A link has no mode of its own.
    if metadata.file_type != FileType::Symlink {
        let mut mode = metadata.mode;
        // A program that runs as its owner must not run as somebody else.
        if !has_owner && metadata.file_type == FileType::File {
            mode &= !SET_USER;
        }
        if !has_group {
            mode &= !SET_GROUP;
        }
        refused.mode = mode != metadata.mode;
        let set = handle.chmod(Mode::from_raw_mode(u32::from(mode)));
        refused.mode |= !accepted(set)?;
    }
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let nanos = i64::from(metadata.mtime.nanos);
    let modified = Timespec { tv_sec: metadata.mtime.seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: omitted, last_modification: modified };
    refused.times = !accepted(handle.set_times(&times))?;
    Ok(refused)
}

/// Tells whether a directory has another mode, or for root another owner, than it should have.
///
/// # Errors
/// What the system says.
pub fn differs(dir: BorrowedFd<'_>, metadata: &Metadata<'_>) -> io::Result<bool> {
    let stat = rustix::fs::fstat(dir)?;
    let owner = (stat.st_uid, stat.st_gid) != (metadata.uid, metadata.gid);
    let mode = stat.st_mode & 0o7777 != u32::from(metadata.mode);
    Ok(mode || owner && rustix::process::geteuid().is_root())
}

/// Returns whether owner and group are now the wanted ones.
fn set_owner(handle: Handle<'_>, metadata: &Metadata<'_>) -> io::Result<(bool, bool)> {
    // 2^32 - 1 means "leave it" to the kernel.
    let owner = (metadata.uid != u32::MAX).then(|| Uid::from_raw(metadata.uid));
    let group = (metadata.gid != u32::MAX).then(|| Gid::from_raw(metadata.gid));
    if accepted(handle.chown(owner, group))? {
        return Ok((owner.is_some(), group.is_some()));
    }
    let has_group = accepted(handle.chown(None, group))? && group.is_some();
    let has_owner = accepted(handle.chown(owner, None))? && owner.is_some();
    Ok((has_owner, has_group))
}

fn set_xattrs(
    handle: Handle<'_>,
    metadata: &Metadata<'_>,
    refused: &mut Refused,
) -> io::Result<()> {
    for name in INHERITED {
        if metadata.file_type != FileType::Symlink
            && !metadata.xattrs.iter().any(|xattr| xattr.name == name.as_bytes())
        {
            // Nothing to remove is the rule.
            let _ = handle.remove_xattr(name);
        }
    }
    for xattr in metadata.xattrs {
        let set = handle.set_xattr(&xattr.name, &xattr.value);
        // ext4 says ENOSPC for an attribute that does not fit beside the others too.
        let no_room = matches!(set, Err(Errno::NOSPC | Errno::DQUOT));
        let refusal = if no_room && !is_full(handle) { Err(Errno::RANGE) } else { set };
        if !accepted(refusal)? {
            refused.xattrs.push(xattr.name.clone());
        }
    }
    Ok(())
}

fn is_full(handle: Handle<'_>) -> bool {
    let (Handle::Open(fd) | Handle::Path(fd)) = handle;
    rustix::fs::fstatvfs(fd).is_ok_and(|stat| stat.f_bavail == 0)
}

/// Tells whether a call succeeded (true) or was refused (false).
fn accepted(result: rustix::io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(
            Errno::PERM
            | Errno::ACCESS
            | Errno::OPNOTSUPP
            | Errno::INVAL
            | Errno::RANGE
            | Errno::TOOBIG
            | Errno::NOSYS
            | Errno::OVERFLOW
            | Errno::NAMETOOLONG
            | Errno::NOENT
            | Errno::LOOP,
        ) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    use super::*;
    use crate::restore::confined::{Dir, Name, Placing};

    fn metadata(xattrs: &[Xattr]) -> Metadata<'_> {
        Metadata {
            file_type: FileType::File,
            mode: 0o640,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime: Timestamp { seconds: -1, nanos: 999_999_999 },
            xattrs,
        }
    }

    #[test]
    fn mode_times_and_attributes_are_set_on_every_kind_of_handle() {
        let target = tempfile::tempdir().unwrap();
        let dir = Arc::new(Dir::open_target(target.path()).unwrap());
        let xattrs = [Xattr { name: b"user.a".to_vec(), value: b"\0\xff".to_vec() }];
        for (name, by_path) in [("open", false), ("path", true)] {
            let name = Name::new(name.as_bytes()).unwrap();
            let (file, temporary) = dir.new_file().unwrap();
            let object = dir.open_object(temporary.name()).unwrap();
            let handle =
                if by_path { Handle::Path(object.as_fd()) } else { Handle::Open(file.as_fd()) };
            let refused = apply(handle, &metadata(&xattrs)).unwrap();
            assert_eq!(refused, Refused::default(), "{name:?}");
            temporary.place(name, Placing::New).unwrap();
            let stat =
                std::fs::metadata(target.path().join(std::str::from_utf8(name.bytes()).unwrap()));
            let stat = stat.unwrap();
            assert_eq!((stat.mtime(), stat.mtime_nsec()), (-1, 999_999_999));
            assert_eq!(stat.mode() & 0o7777, 0o640);
            let mut value = [0_u8; 8];
            assert_eq!(rustix::fs::fgetxattr(&file, "user.a", &mut value), Ok(2));
            assert_eq!(&value[..2], b"\0\xff");
        }
    }

    #[test]
    fn a_link_gets_its_own_times_and_owner() {
        let target = tempfile::tempdir().unwrap();
        let victim = target.path().join("victim");
        std::fs::write(&victim, "x").unwrap();
        let before = std::fs::metadata(&victim).unwrap();
        let dir = Arc::new(Dir::open_target(target.path()).unwrap());
        let temporary = dir.new_symlink(b"victim").unwrap();
        let object = dir.open_object(temporary.name()).unwrap();
        let wanted = Metadata { file_type: FileType::Symlink, mode: 0o777, ..metadata(&[]) };
        assert!(apply(Handle::Path(object.as_fd()), &wanted).unwrap().is_empty());
        temporary.place(Name::new(b"l").unwrap(), Placing::New).unwrap();
        let link = std::fs::symlink_metadata(target.path().join("l")).unwrap();
        assert_eq!((link.mtime(), link.mtime_nsec()), (-1, 999_999_999));
        let after = std::fs::metadata(&victim).unwrap();
        assert_eq!((before.mtime(), before.mode()), (after.mtime(), after.mode()));
    }

    #[test]
    fn what_is_refused_is_told() {
        let target = tempfile::tempdir().unwrap();
        let dir = Arc::new(Dir::open_target(target.path()).unwrap());
        let xattrs = [Xattr { name: b"nonsense.a".to_vec(), value: vec![1] }];
        let (file, _temporary) = dir.new_file().unwrap();
        let refused = apply(Handle::Open(file.as_fd()), &metadata(&xattrs)).unwrap();
        assert_eq!(refused.xattrs, [b"nonsense.a"]);
        assert!(!refused.owner && !refused.times);
    }
}
