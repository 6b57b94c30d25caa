//! Map nodes: 256 windows (level 1) or 256 nodes of the level below.
//!
//! The body is the CBOR array `[1, level, entries...]`. A level 1 entry is the kind of a folded
//! window, or the array `[window hash, halvings, number, halvings, number, ...]` of its pages.
//! An entry above is `number << 3` of a child node or the kind of a folded one.

use crate::cbor::{Reader, Writer};
use crate::image_hash::{WINDOW_BYTES, WindowHash};
use crate::node::{Node, References};
use crate::{ByteLen, Error, Kind, Reference, Result};

use super::{Content, FAN_OUT, page, windows_below};

const VERSION: u64 = 1;
const WHAT: &str = "map node";
/// A window of 16 MiB halved this often is 4 KiB, whose page is always small enough.
pub(super) const MAX_HALVINGS: u8 = 12;

/// What a whole window or subtree is, where it needs no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    Zero,
    Free,
    Excluded,
}

/// A page of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageEntry {
    /// The page maps `16 MiB >> halvings`, or less at the end of the disk.
    pub(super) halvings: u8,
    pub(super) page: Reference,
}

/// A window in a level 1 node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WindowEntry {
    Folded(Fold),
    Pages { hash: WindowHash, pages: Vec<PageEntry> },
}

/// A child in a node above level 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChildEntry {
    Folded(Fold),
    Node(Reference),
}

/// The entries of a map node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entries {
    Windows(Vec<WindowEntry>),
    Nodes(Vec<ChildEntry>),
}

impl Fold {
    pub(super) fn of(content: Content) -> Option<Self> {
        match content {
            Content::Zero => Some(Self::Zero),
            Content::Free => Some(Self::Free),
            Content::Excluded => Some(Self::Excluded),
            Content::Data { .. } | Content::Unreadable => None,
        }
    }

    pub(super) fn content(self) -> Content {
        match self {
            Self::Zero => Content::Zero,
            Self::Free => Content::Free,
            Self::Excluded => Content::Excluded,
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::Zero => page::ZERO,
            Self::Free => page::FREE,
            Self::Excluded => page::EXCLUDED,
        }
    }

    fn read(reader: &Reader<'_>, number: u64) -> Result<Self> {
        match number {
            page::ZERO => Ok(Self::Zero),
            page::FREE => Ok(Self::Free),
            page::EXCLUDED => Ok(Self::Excluded),
            number => Err(reader.unknown(number)),
        }
    }
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Windows(entries) => entries.len(),
            Self::Nodes(entries) => entries.len(),
        }
    }

    /// Returns what all entries are, where they are all folded and all the same.
    pub(super) fn fold(&self) -> Option<Fold> {
        let folds: Vec<Option<Fold>> = match self {
            Self::Windows(entries) => entries.iter().map(WindowEntry::fold).collect(),
            Self::Nodes(entries) => entries.iter().map(|entry| entry.fold()).collect(),
        };
        let first = folds.first().copied().flatten()?;
        folds.iter().all(|fold| *fold == Some(first)).then_some(first)
    }

    /// Encodes a node of this level.
    pub(super) fn encode(&self, level: u8) -> Node {
        let mut refs = References::new();
        let mut writer = Writer::new();
        writer.array(self.len() + 2);
        writer.uint(VERSION);
        writer.uint(level);
        match self {
            Self::Windows(entries) => {
                entries.iter().for_each(|entry| entry.write(&mut writer, &mut refs));
            }
            Self::Nodes(entries) => {
                for entry in entries {
                    writer.uint(match entry {
                        ChildEntry::Folded(fold) => fold.number(),
                        ChildEntry::Node(node) => u64::from(refs.number(*node)) << 3,
                    });
                }
            }
        }
        Node { kind: Kind::MapNode, refs: refs.into_list(), body: writer.into_bytes() }
    }

    /// Decodes a node of this level, from 1, that covers `covered` bytes of the disk: so many
    /// entries it has, and exactly these bytes the pages of its windows cover.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` or `UnknownNumber`.
    pub(super) fn decode(node: &Node, level: u8, covered: ByteLen) -> Result<Self> {
        if node.kind != Kind::MapNode {
            return Err(Error::Corrupt { what: WHAT, at: 0, reason: "a node of another kind" });
        }
        let mut reader = Reader::new(WHAT, &node.body);
        let len = reader.array(usize::MAX)?;
        let version = reader.uint()?;
        if version != VERSION {
            return Err(Error::Unsupported { what: WHAT, found: version, known: VERSION });
        }
        if reader.uint()? != u64::from(level) {
            return Err(reader.corrupt("it is of another level than its place"));
        }
        let windows = covered.0.div_ceil(WINDOW_BYTES);
        let count = windows.div_ceil(windows_below(level.saturating_sub(1)));
        if crate::cbor::wide(len) != count.saturating_add(2) || count > FAN_OUT {
            return Err(reader.corrupt("it has another number of entries than its place"));
        }
        let entries = if level == 1 {
            let entries = (0..count).map(|index| {
                let left = covered.0.saturating_sub(index.saturating_mul(WINDOW_BYTES));
                WindowEntry::read(&mut reader, node, left.min(WINDOW_BYTES))
            });
            Self::Windows(entries.collect::<Result<_>>()?)
        } else {
            let entries = (0..count).map(|_| ChildEntry::read(&mut reader, node));
            Self::Nodes(entries.collect::<Result<_>>()?)
        };
        reader.finish()?;
        node.same(&entries.encode(level))?;
        Ok(entries)
    }
}

impl WindowEntry {
    fn fold(&self) -> Option<Fold> {
        match self {
            Self::Folded(fold) => Some(*fold),
            Self::Pages { .. } => None,
        }
    }

    fn write(&self, writer: &mut Writer, refs: &mut References) {
        match self {
            Self::Folded(fold) => writer.uint(fold.number()),
            Self::Pages { hash, pages } => {
                writer.array(1 + 2 * pages.len());
                writer.bytes(&hash.0);
                for entry in pages {
                    writer.uint(entry.halvings);
                    writer.uint(refs.number(entry.page));
                }
            }
        }
    }

    /// Reads the entry of a window of `window_len` bytes.
    fn read(reader: &mut Reader<'_>, node: &Node, window_len: u64) -> Result<Self> {
        if !reader.at_array() {
            let number = reader.uint()?;
            return Ok(Self::Folded(Fold::read(reader, number)?));
        }
        let len = reader.array(usize::MAX)?;
        let hash = WindowHash(reader.exactly()?);
        if len < 3 || len.is_multiple_of(2) {
            return Err(reader.corrupt("a window has no pages, or half a page"));
        }
        let mut pages = Vec::new();
        // Pages lie on the grid of their own size, so that their places follow from the sizes.
        let mut at = 0_u64;
        for _ in 0..len / 2 {
            let halvings = reader.narrow()?;
            if halvings > MAX_HALVINGS {
                return Err(reader.corrupt("a page was halved too often"));
            }
            let size = WINDOW_BYTES >> halvings;
            if !at.is_multiple_of(size) || at >= window_len {
                let reason = "the pages of a window leave their grid or the disk";
                return Err(reader.corrupt(reason));
            }
            at = at.saturating_add(size);
            let page = node.child(reader.narrow()?)?;
            if page.kind != Kind::MapPage {
                return Err(reader.corrupt("a window's page is no page"));
            }
            pages.push(PageEntry { halvings, page });
        }
        if at < window_len {
            return Err(reader.corrupt("the pages of a window end before it"));
        }
        Ok(Self::Pages { hash, pages })
    }
}

impl ChildEntry {
    fn fold(self) -> Option<Fold> {
        match self {
            Self::Folded(fold) => Some(fold),
            Self::Node(_) => None,
        }
    }

    fn read(reader: &mut Reader<'_>, node: &Node) -> Result<Self> {
        let code = reader.uint()?;
        if code & 7 != 0 {
            return Ok(Self::Folded(Fold::read(reader, code)?));
        }
        let number = u32::try_from(code >> 3).ok();
        let number = number.ok_or_else(|| reader.corrupt("a child's number is too large"))?;
        let child = node.child(number)?;
        if child.kind != Kind::MapNode {
            return Err(reader.corrupt("a child is no map node"));
        }
        Ok(Self::Node(child))
    }
}
