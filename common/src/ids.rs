//! Names of stored objects: kind and content hash.

use std::fmt;

/// What an object is. A reference carries it, so that no file content can pass for a node.
///
/// The numbers are part of every stored and sent format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of the disk.
    Chunk = 0,
    /// Runs of one window (or part of it) of the image map.
    MapPage = 1,
    /// Inner node of the image map.
    MapNode = 2,
    /// A directory of the overlay, or a part of a large one.
    Directory = 3,
    /// Extents of one file, one logical window each.
    ExtentList = 4,
    /// Extended attributes too large for their record.
    Xattrs = 5,
    /// The manifest of a snapshot; its id is the snapshot's id.
    Manifest = 6,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Chunk,
        Self::MapPage,
        Self::MapNode,
        Self::Directory,
        Self::ExtentList,
        Self::Xattrs,
        Self::Manifest,
    ];

    /// Returns the kind with this number, or `None` where no released version knows it.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Returns its number in stored and sent formats.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Returns its name, as it stands in the context of its id (`umbra 1 <name>`).
    pub fn name(self) -> &'static str {
        match self {
            Self::Chunk => "chunk",
            Self::MapPage => "map page",
            Self::MapNode => "map node",
            Self::Directory => "directory node",
            Self::ExtentList => "extent list",
            Self::Xattrs => "xattrs",
            Self::Manifest => "manifest",
        }
    }

    /// Tells whether objects of this kind may refer to others.
    pub fn is_node(self) -> bool {
        self != Self::Chunk
    }

    /// Starts the hash that names objects of this kind.
    ///
    /// A chunk's is plain BLAKE3 (equal to `b3sum`), a node's BLAKE3 in key derivation mode with
    /// the context `umbra 1 <name>`.
    pub fn hasher(self) -> blake3::Hasher {
        match self {
            Self::Chunk => blake3::Hasher::new(),
            Self::MapPage => blake3::Hasher::new_derive_key("umbra 1 map page"),
            Self::MapNode => blake3::Hasher::new_derive_key("umbra 1 map node"),
            Self::Directory => blake3::Hasher::new_derive_key("umbra 1 directory node"),
            Self::ExtentList => blake3::Hasher::new_derive_key("umbra 1 extent list"),
            Self::Xattrs => blake3::Hasher::new_derive_key("umbra 1 xattrs"),
            Self::Manifest => blake3::Hasher::new_derive_key("umbra 1 manifest"),
        }
    }
}

/// The content hash that names an object: 32 bytes of BLAKE3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u8; 32]);

impl ObjectId {
    /// Names `bytes` as a chunk.
    pub fn of_chunk(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The name of an object together with its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// What the object is.
    pub kind: Kind,
    /// Its content hash.
    pub id: ObjectId,
}
