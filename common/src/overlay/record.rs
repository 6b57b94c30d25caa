//! The record of one entry: everything that is known of a file.

use umbra_fsparse::{DeviceNumber, FileType, Inode, InodeNumber, Timestamp, Xattr};

use crate::cbor::{Reader, Writer, expect_array, read_timestamp, wide, write_timestamp};
use crate::node::{Node, References};
use crate::{ByteLen, ByteOffset, Error, Kind, Reference, Result};

use super::extent::{Extent, maximal, read_list, write_list};
use super::xattrs;
use super::{
    ContentHash, ENCRYPTED_FLAG, MAX_ENTRY_NAME_BYTES, MAX_INLINE_EXTENTS, MAX_INLINE_XATTR_BYTES,
    MAX_TARGET_BYTES, MAX_XATTR_NODES,
};

const WHAT: &str = "directory record";

/// An entry of a directory. Each name of a hard-linked file carries the full record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Raw bytes; empty only for the root directory of an overlay.
    pub name: Vec<u8>,
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
    /// Inode number, unique within `volume`.
    pub inode: InodeNumber,
    /// Which inode table of the overlay (a btrfs subvolume); 0 where there is only one.
    pub volume: u64,
    /// Generation, 0 where the file system has none.
    pub generation: u32,
    /// Number of a device node.
    pub rdev: Option<DeviceNumber>,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Project id, 0 where there is none.
    pub project: u32,
    /// Inode flags as `FS_IOC_GETFLAGS` numbers them.
    pub flags: u32,
    /// Hash of the content, or why there is none.
    pub content: ContentHash,
    /// Where the content lies.
    pub extents: Extents,
    /// A directory's entries.
    pub directory: Option<Reference>,
}

/// Extended attributes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xattrs {
    /// They stand in the record, sorted by name.
    Inline(Vec<Xattr>),
    /// They stand in nodes of their own, in order.
    Nodes(Vec<Reference>),
}

/// Extents of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extents {
    /// They stand in the record, sorted by logical position.
    Inline(Vec<Extent>),
    /// They stand in a tree of nodes.
    Node(Reference),
}

impl Record {
    /// Makes the record of an inode under a name. Its volume starts at `volume_start` of the
    /// disk; `directory` is the node of its entries where it is a directory.
    ///
    /// # Errors
    /// As [`Record::check`].
    pub fn of_inode(
        name: &[u8],
        inode: &Inode,
        volume_start: ByteOffset,
        content: ContentHash,
        directory: Option<Reference>,
    ) -> Result<Self> {
        let extents = inode.extents.iter().map(|extent| Extent::on_disk(extent, volume_start));
        let extents = maximal(&extents.collect::<Result<Vec<_>>>()?)?;
        let record = Self {
            name: name.to_vec(),
            file_type: inode.file_type,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            mtime: inode.mtime,
            ctime: inode.ctime,
            crtime: inode.crtime,
            nlink: inode.nlink,
            inode: inode.number,
            volume: 0,
            generation: inode.generation,
            rdev: inode.rdev,
            target: inode.target.clone(),
            xattrs: Xattrs::Inline(inode.xattrs.clone()),
            project: inode.project,
            flags: inode.flags,
            content,
            extents: Extents::Inline(extents),
            directory,
        };
        record.check()?;
        Ok(record)
    }

    /// Tells whether its content (of a directory: the names in it) is ciphertext.
    pub fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED_FLAG != 0
    }

    /// Checks what no record may say: what fails here cannot be written.
    ///
    /// # Errors
    /// `Corrupt` or `Limit`, each with the reason.
    pub fn check(&self) -> Result<()> {
        let corrupt = |reason| Err(Error::Corrupt { what: WHAT, at: 0, reason });
        let name = self.name.as_slice();
        if name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return corrupt("a name is . or .. or holds NUL or /");
        }
        limit("the length of a name", name.len(), MAX_ENTRY_NAME_BYTES)?;
        if self.mode > 0o7777 {
            return corrupt("the mode has bits that are none");
        }
        let times = [Some(self.mtime), Some(self.ctime), self.crtime];
        if times.into_iter().flatten().any(|time| time.nanos >= 1_000_000_000) {
            return corrupt("a time has a second or more in its nanoseconds");
        }
        let kind = self.file_type;
        if self.rdev.is_some() && !matches!(kind, FileType::Char | FileType::Block) {
            return corrupt("a device number without a device");
        }
        if self.target.is_some() && kind != FileType::Symlink {
            return corrupt("a target without a symbolic link");
        }
        limit("a link's target", self.target.as_ref().map_or(0, Vec::len), MAX_TARGET_BYTES)?;
        if self.directory.is_some() != (kind == FileType::Dir) {
            return corrupt("a directory without entries, or entries without a directory");
        }
        if (self.content == ContentHash::NotAFile) == (kind == FileType::File) {
            return corrupt("a file without word of its hash, or a hash without a file");
        }
        self.check_parts()
    }

    fn check_parts(&self) -> Result<()> {
        let corrupt = |reason| Err(Error::Corrupt { what: WHAT, at: 0, reason });
        match &self.xattrs {
            Xattrs::Inline(list) => xattrs::check(list)?,
            Xattrs::Nodes(nodes) => {
                limit("the nodes of extended attributes", nodes.len(), MAX_XATTR_NODES)?;
                if nodes.is_empty() || nodes.iter().any(|node| node.kind != Kind::Xattrs) {
                    return corrupt("the nodes of the attributes are none, or of another kind");
                }
            }
        }
        match &self.extents {
            Extents::Inline(list) => {
                maximal(list)?;
            }
            Extents::Node(node) if node.kind != Kind::ExtentList => {
                return corrupt("the node of the extents is of another kind");
            }
            Extents::Node(_) => {}
        }
        match self.directory {
            Some(node) if node.kind != Kind::Directory => {
                corrupt("the node of the entries is of another kind")
            }
            _ => Ok(()),
        }
    }

    /// Writes it; its references get their numbers in `refs`.
    pub(super) fn write(&self, writer: &mut Writer, refs: &mut References) {
        let zero = Timestamp::default();
        writer.record(|record| {
            record.bytes(0, &self.name);
            record.uint(1, type_number(self.file_type));
            record.uint(2, self.mode);
            record.uint(3, self.uid);
            record.uint(4, self.gid);
            record.uint(5, self.size.0);
            for (key, time) in [(6, self.mtime), (7, self.ctime)] {
                if time != zero {
                    write_timestamp(record.field(key), time);
                }
            }
            if let Some(time) = self.crtime {
                write_timestamp(record.field(8), time);
            }
            if self.nlink != 1 {
                record.field(9).uint(self.nlink);
            }
            record.uint(10, self.inode.0);
            record.uint(11, self.volume);
            record.uint(12, self.generation);
            if let Some(rdev) = self.rdev {
                let writer = record.field(13);
                writer.array(2);
                writer.uint(rdev.major);
                writer.uint(rdev.minor);
            }
            if let Some(target) = &self.target {
                record.field(14).bytes(target);
            }
            match &self.xattrs {
                Xattrs::Inline(list) => record.list(15, list, xattrs::write_one),
                Xattrs::Nodes(nodes) => {
                    record.list(16, nodes, |writer, node| writer.uint(refs.number(*node)));
                }
            }
            record.uint(17, self.project);
            record.uint(18, self.flags);
            if self.content != ContentHash::NotAFile {
                self.content.write(record.field(19));
            }
            match &self.extents {
                Extents::Inline(list) if list.is_empty() => {}
                Extents::Inline(list) => {
                    let writer = record.field(20);
                    writer.array(list.len());
                    write_list(writer, list, ByteOffset(0));
                }
                Extents::Node(node) => record.field(21).uint(refs.number(*node)),
            }
            if let Some(node) = self.directory {
                record.field(22).uint(refs.number(node));
            }
        });
    }

    /// Reads a record of `node`.
    pub(super) fn read(reader: &mut Reader<'_>, node: &Node) -> Result<Self> {
        let child = |reader: &mut Reader<'_>| node.child(reader.narrow()?);
        let mut fields = reader.record()?;
        let name = fields.optional(reader, 0, |reader| reader.bytes(MAX_ENTRY_NAME_BYTES))?;
        let file_type = fields.optional(reader, 1, read_type)?.unwrap_or(FileType::File);
        let record = Self {
            name: name.unwrap_or_default().to_vec(),
            file_type,
            mode: fields.uint(reader, 2)?,
            uid: fields.uint(reader, 3)?,
            gid: fields.uint(reader, 4)?,
            size: ByteLen(fields.uint(reader, 5)?),
            mtime: fields.optional(reader, 6, read_timestamp)?.unwrap_or_default(),
            ctime: fields.optional(reader, 7, read_timestamp)?.unwrap_or_default(),
            crtime: fields.optional(reader, 8, read_timestamp)?,
            nlink: fields.optional(reader, 9, Reader::narrow)?.unwrap_or(1),
            inode: InodeNumber(fields.uint(reader, 10)?),
            volume: fields.uint(reader, 11)?,
            generation: fields.uint(reader, 12)?,
            rdev: fields.optional(reader, 13, |reader| {
                expect_array(reader, 2)?;
                Ok(DeviceNumber { major: reader.narrow()?, minor: reader.narrow()? })
            })?,
            target: fields
                .optional(reader, 14, |reader| Ok(reader.bytes(MAX_TARGET_BYTES)?.to_vec()))?,
            xattrs: {
                let list = fields.list(reader, 15, MAX_INLINE_XATTR_BYTES, xattrs::read_one)?;
                let nodes = fields.list(reader, 16, MAX_XATTR_NODES, child)?;
                if nodes.is_empty() { Xattrs::Inline(list) } else { Xattrs::Nodes(nodes) }
            },
            project: fields.uint(reader, 17)?,
            flags: fields.uint(reader, 18)?,
            content: fields.optional(reader, 19, ContentHash::read)?.unwrap_or_default(),
            extents: {
                let list = fields.optional(reader, 20, |reader| {
                    let count = reader.array(MAX_INLINE_EXTENTS)?;
                    read_list(reader, count, ByteOffset(0))
                })?;
                let node = fields.optional(reader, 21, child)?;
                node.map_or(Extents::Inline(list.unwrap_or_default()), Extents::Node)
            },
            directory: fields.optional(reader, 22, child)?,
        };
        fields.finish(reader)?;
        record.check()?;
        if let Xattrs::Inline(list) = &record.xattrs
            && xattrs::weight(list) > MAX_INLINE_XATTR_BYTES
        {
            return Err(reader.corrupt("attributes stand in the record and belong in nodes"));
        }
        Ok(record)
    }
}

fn limit(what: &'static str, len: usize, limit: usize) -> Result<()> {
    if len > limit {
        return Err(Error::Limit { what, limit: wide(limit) });
    }
    Ok(())
}

fn type_number(file_type: FileType) -> u64 {
    match file_type {
        FileType::File => 0,
        FileType::Dir => 1,
        FileType::Symlink => 2,
        FileType::Fifo => 3,
        FileType::Socket => 4,
        FileType::Char => 5,
        FileType::Block => 6,
    }
}

fn read_type(reader: &mut Reader<'_>) -> Result<FileType> {
    match reader.uint()? {
        0 => Ok(FileType::File),
        1 => Ok(FileType::Dir),
        2 => Ok(FileType::Symlink),
        3 => Ok(FileType::Fifo),
        4 => Ok(FileType::Socket),
        5 => Ok(FileType::Char),
        6 => Ok(FileType::Block),
        number => Err(reader.unknown(number)),
    }
}
