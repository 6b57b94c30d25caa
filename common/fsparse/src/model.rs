//! What a file-system parser answers with, the same for every file system.

use alloc::vec::Vec;

use crate::{ByteLen, ByteOffset, ByteRange, Error};

/// An inode number (NTFS: MFT record; FAT: made up by the parser), unique within its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeNumber(pub u64);

/// A time: whole seconds since 1970-01-01 UTC (negative before) and nanoseconds 0..1e9 added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since the epoch, rounded down.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1 000 000 000.
    pub nanos: u32,
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// The number of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// Major number, 12 bits on Linux.
    pub major: u32,
    /// Minor number, 20 bits on Linux.
    pub minor: u32,
}

/// How the bytes of an extent become content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// The bytes are the content.
    #[default]
    None,
    /// A zlib stream (btrfs).
    Zlib,
    /// LZO in the framing of btrfs.
    Lzo,
    /// A zstd frame (btrfs).
    Zstd,
    /// LZNT1 units (NTFS).
    Lznt1,
    /// A journal's copy of a block whose first four bytes (the jbd2 magic, C0 3B 39 98
    /// big-endian) were replaced by zeros.
    Jbd2Escaped,
}

/// Whether the bytes of an extent are content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExtentKind {
    /// The bytes (through the codec) are the content.
    Data,
    /// Allocated and never written: the content is zeros, the bytes are whatever was there.
    Unwritten,
    /// Content inside a metadata block, which other structures share.
    Inline,
}

/// A piece of a file's content and the bytes of the volume that hold it.
///
/// Extents of a file are sorted by `logical`, never overlap there, and lie inside the volume.
/// What no extent covers is a hole. The last extent may reach beyond the file's size (its block
/// is longer); a preallocated extent may lie wholly beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Position in the file's content.
    pub logical: ByteOffset,
    /// The bytes of the volume.
    pub volume: ByteRange,
    /// Data, unwritten or inline.
    pub kind: ExtentKind,
    /// How the bytes become content.
    pub codec: Codec,
}

/// An extended attribute as the Linux VFS shows it.
///
/// The name carries its prefix (`user.`, `security.`, ...); ACLs are `system.posix_acl_access`
/// and `system.posix_acl_default` with the VALUE THAT `getxattr` GIVES (version 2, little-endian),
/// not the shorter form of the disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Full name, raw bytes.
    pub name: Vec<u8>,
    /// Value as `getxattr` gives it.
    pub value: Vec<u8>,
}

/// One inode: metadata and where its content lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub number: InodeNumber,
    /// What it is.
    pub file_type: FileType,
    /// Permission bits with setuid, setgid and sticky: `st_mode & 0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of the content; for a directory what the file system says.
    pub size: ByteLen,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Birth, where the file system keeps it.
    pub crtime: Option<Timestamp>,
    /// Number of names.
    pub nlink: u32,
    /// Generation, 0 where the file system has none.
    pub generation: u32,
    /// Number of a device node.
    pub rdev: Option<DeviceNumber>,
    /// Target of a symbolic link; none where that is encrypted.
    pub target: Option<Vec<u8>>,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// Project id, 0 where there is none.
    pub project: u32,
    /// Inode flags as `FS_IOC_GETFLAGS` numbers them (ext4: `i_flags` of the disk).
    pub flags: u32,
    /// Extents of a regular file; for directories and long symbolic links those of their own
    /// blocks. Empty for everything else.
    pub extents: Vec<Extent>,
}

/// Something wrong that did not stop the walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The inode it concerns, where there is one.
    pub inode: Option<InodeNumber>,
    /// What is wrong and where.
    pub error: Error,
}

/// Receives what a walk finds.
///
/// Each inode that has a name is given exactly once, BEFORE the first entry that names it;
/// a directory's entries come after its own inode. `.` and `..` are left out. The root has no
/// entry. Order is otherwise free.
pub trait Visitor {
    /// Takes an inode.
    fn inode(&mut self, inode: Inode);

    /// Takes one name: `name` in directory `parent` is `inode`.
    ///
    /// The name is non-empty raw bytes, is neither `.` nor `..`, and holds neither NUL nor `/`:
    /// the parser reports such names as warnings and leaves them out. A name that is encrypted
    /// comes as Linux shows it without the key.
    fn entry(&mut self, parent: InodeNumber, name: &[u8], inode: InodeNumber);

    /// Takes blocks of the volume that something walked uses: content of any kind, unwritten
    /// blocks, blocks of maps and trees, attributes. What no name leads to is not among them;
    /// one range may come more than once.
    fn used(&mut self, range: ByteRange) {
        let _ = range;
    }

    /// Takes a warning.
    fn warning(&mut self, warning: Warning);
}

/// What a walk that ended says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkSummary {
    /// The root directory.
    pub root: InodeNumber,
    /// True where everything was read; false where any warning left something out.
    pub complete: bool,
}
