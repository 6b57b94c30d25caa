//! The overlay: the files of a volume as a view of the disk.
//!
//! A directory is a node, or a small tree of nodes where it is large; an entry is a [`Record`]
//! with everything that is known of the file, its extents as ranges of the DISK. Content is read
//! through the image map; there is no second list of chunks. The root of an overlay is a node
//! with one record without a name: the root directory itself. Layout: docs/formats/overlay.md.

mod builder;
mod content_hash;
mod directory;
mod extent;
mod extent_list;
mod names;
mod reader;
mod record;
mod xattrs;

pub use builder::{DirectoryWriter, write_directory, write_root};
pub use content_hash::ContentHash;
pub use extent::{Extent, maximal};
pub use extent_list::{ExtentIter, LostExtents};
pub use names::{display, text_of};
pub use reader::{Entries, Entry, entries, find, lookup, root};
pub use record::{Extents, Record, Xattrs};

/// The longest name of an entry, in bytes.
pub const MAX_ENTRY_NAME_BYTES: usize = 1024;
/// The inode flag of a file, directory or link that is encrypted (`FS_ENCRYPT_FL` of Linux
/// `include/uapi/linux/fs.h`): of a directory the names, of the others the content.
pub const ENCRYPTED_FLAG: u32 = 0x800;
/// The longest target of a symbolic link, in bytes.
pub const MAX_TARGET_BYTES: usize = 65_535;
/// The longest name of an extended attribute, in bytes (`XATTR_NAME_MAX`).
pub const MAX_XATTR_NAME_BYTES: usize = 255;
/// The longest value of an extended attribute, in bytes (`XATTR_SIZE_MAX`).
pub const MAX_XATTR_VALUE_BYTES: usize = 65_536;
/// Names and values of extended attributes that stand in the record itself, in bytes.
pub const MAX_INLINE_XATTR_BYTES: usize = 4096;
/// Names and values of all extended attributes of one file, in bytes: fits the nodes.
pub const MAX_XATTR_BYTES: usize = 8 << 20;
/// The most nodes of extended attributes of one record.
pub const MAX_XATTR_NODES: usize = 256;
/// Extents that stand in the record itself; more stand in nodes of their own.
pub const MAX_INLINE_EXTENTS: usize = 64;
/// The logical window of one extent list, in bytes.
pub const EXTENT_WINDOW_BYTES: u64 = 1 << 30;
/// The fewest entries of a directory node that is followed by another.
pub const MIN_DIRECTORY_ENTRIES: usize = 16;
/// The most entries of a directory node.
pub const MAX_DIRECTORY_ENTRIES: usize = 256;

/// A node of the overlay is closed before its reference list and body would pass this, in bytes.
const MAX_SPLIT_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests;
