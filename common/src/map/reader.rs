//! Reads the image map: the runs of a range, the windows and their hashes.
//!
//! Only the nodes that a range needs are read. A node that cannot be had costs exactly what it
//! maps: the iterators say so in one item and go on behind it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cbor::wide;
use crate::image_hash::{WINDOW_BYTES, WindowHash, window_count, window_range};
use crate::node::{Link, Node, NodeSource};
use crate::{ByteLen, ByteRange, Error, Kind, Reference, Result};

use super::inner::{ChildEntry, Entries, PageEntry, WindowEntry};
use super::page::{self, ReadRun};
use super::{Content, Run, between, corrupt, levels, windows_below};

/// How many pages are asked for at once, ahead of need.
const PAGES_AHEAD: usize = 16;

/// How many places are looked at to find those; a page that stands at many is asked for once.
const PLACES_AHEAD: usize = 64;

/// Reads an image map.
#[derive(Clone, Copy)]
pub struct MapReader<'s> {
    source: &'s dyn NodeSource,
    root: Link,
    disk_len: ByteLen,
}

/// A run of the map, and how to ask for its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocatedRun {
    /// The run, cut to the range that was asked for.
    pub run: Run,
    /// Page and number under which the vault serves the chunk; `None` where there is no data.
    pub chunk: Option<Link>,
}

/// A range of the disk whose map could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the map of {range} cannot be read")]
pub struct Lost {
    /// The bytes, cut to the range that was asked for.
    pub range: ByteRange,
    /// Why.
    #[source]
    pub error: Error,
}

/// A window of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its number, from 0.
    pub index: u64,
    /// Its bytes of the disk.
    pub range: ByteRange,
    /// The hash of its bytes, as the read stage made it.
    pub hash: WindowHash,
    /// What it holds.
    pub content: WindowContent,
}

/// What a window holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowContent {
    /// All zero, free or excluded; no page.
    Folded(Content),
    /// Pages, in the order of the disk.
    Pages(Vec<(ByteRange, Reference)>),
}

impl<'s> MapReader<'s> {
    /// Makes a reader; nothing is read yet. `root` is [`crate::snapshot::Manifest::map_link`].
    pub fn new(source: &'s dyn NodeSource, root: Link, disk_len: ByteLen) -> Self {
        Self { source, root, disk_len }
    }

    /// Returns the runs of `range` in the order of the disk, cut to the range and to the disk.
    pub fn runs(&self, range: ByteRange) -> Runs<'s> {
        let end = range.end().0.min(self.disk_len.0);
        let (at, page, window, ahead) = (range.start().0, None, None, HashMap::new());
        Runs { cursor: Cursor::new(*self), at, end, page, window, ahead }
    }

    /// Returns all windows in the order of the disk.
    pub fn windows(&self) -> Windows<'s> {
        Windows { cursor: Cursor::new(*self), next: 0 }
    }
}

/// A map node on the way to the window last looked for.
struct Open {
    /// Number of the first window below it.
    first: u64,
    own: Reference,
    node: Arc<Node>,
    entries: Arc<Entries>,
}

/// Walks down to windows and remembers the way.
struct Cursor<'s> {
    map: MapReader<'s>,
    /// The open node of each level, lowest first.
    path: Vec<Option<Open>>,
}

/// What the way down to a window ended at.
enum Found {
    /// A folded range of the disk, the window in it.
    Folded { content: Content, range: ByteRange },
    /// An entry of a level 1 node.
    Entry { first: u64, index: usize },
}

impl<'s> Cursor<'s> {
    fn new(map: MapReader<'s>) -> Self {
        let path = (0..levels(map.disk_len)).map(|_| None).collect();
        Self { map, path }
    }

    /// The bytes of the disk below a node or entry that covers `windows` windows from `first` on.
    fn coverage(&self, first: u64, windows: u64) -> ByteRange {
        let start = first.saturating_mul(WINDOW_BYTES);
        let end = first.saturating_add(windows).saturating_mul(WINDOW_BYTES);
        between(start, end.min(self.map.disk_len.0))
    }

    /// Finds a window that the disk has.
    fn find(&mut self, window: u64) -> Result<Found, Lost> {
        let mut link = self.map.root;
        for level in (1..=levels(self.map.disk_len)).rev() {
            let first = window - window % windows_below(level);
            let open = self.open(level, first, link)?;
            let below = windows_below(level - 1);
            // Less than 256: `first` is the start of this node's windows.
            let index = usize::try_from((window - first) / below).unwrap_or(usize::MAX);
            let (own, entries) = (open.own, Arc::clone(&open.entries));
            let node = Arc::clone(&open.node);
            let range = self.coverage(first + wide(index) * below, below);
            let lost = |error| Lost { range, error };
            match entries.as_ref() {
                Entries::Windows(entries) => {
                    let entry = entries.get(index);
                    let entry = entry.ok_or_else(|| lost(corrupt(0, "an entry is missing")))?;
                    return Ok(match entry {
                        WindowEntry::Folded(fold) => {
                            Found::Folded { content: fold.content(), range }
                        }
                        WindowEntry::Pages { .. } => Found::Entry { first, index },
                    });
                }
                Entries::Nodes(entries) => match entries.get(index) {
                    Some(ChildEntry::Folded(fold)) => {
                        return Ok(Found::Folded { content: fold.content(), range });
                    }
                    Some(ChildEntry::Node(child)) => {
                        link = link_to(own, &node, *child).map_err(lost)?;
                    }
                    None => return Err(lost(corrupt(0, "an entry is missing"))),
                },
            }
        }
        let range = self.coverage(window, 1);
        Err(Lost { range, error: corrupt(range.start().0, "the map has no windows") })
    }

    /// Opens the node of `level` whose first window is `first`, unless it is open.
    fn open(&mut self, level: u8, first: u64, link: Link) -> Result<&Open, Lost> {
        let range = self.coverage(first, windows_below(level));
        let lost = |error| Lost { range, error };
        let source = self.map.source;
        let slot = self.path.get_mut(usize::from(level - 1));
        let slot = slot.ok_or_else(|| lost(corrupt(0, "a level too many")))?;
        let open = match slot.take() {
            Some(open) if open.first == first => open,
            _ => {
                let node = link.follow(source).map_err(lost)?;
                let entries = Entries::decode(&node, level, range.len()).map_err(lost)?;
                Open { first, own: link.target, node, entries: Arc::new(entries) }
            }
        };
        Ok(slot.insert(open))
    }

    /// The open level 1 node that `find` has just ended at.
    fn leaf(&self) -> Option<&Open> {
        self.path.first().and_then(Option::as_ref)
    }

    /// The pages of entry `index` of the open level 1 node: the bytes of the disk, the page.
    fn pages(&self, index: usize) -> Option<(WindowHash, Vec<(ByteRange, PageEntry)>)> {
        let open = self.leaf()?;
        let window = open.first + wide(index);
        let Entries::Windows(entries) = open.entries.as_ref() else { return None };
        let WindowEntry::Pages { hash, pages } = entries.get(index)? else { return None };
        let whole = self.coverage(window, 1);
        let mut at = whole.start().0;
        let place = |entry: &PageEntry| {
            let end = (at + (WINDOW_BYTES >> entry.halvings)).min(whole.end().0);
            let range = between(at, end);
            at = end;
            (range, *entry)
        };
        Some((*hash, pages.iter().map(place).collect()))
    }
}

fn link_to(own: Reference, node: &Node, target: Reference) -> Result<Link> {
    let number = node.refs.iter().position(|reference| *reference == target);
    let number = number.and_then(|number| u32::try_from(number).ok());
    let number = number.ok_or_else(|| corrupt(0, "a child is not in the reference list"))?;
    Ok(Link { parent: own, number, target })
}

/// The page that the runs come from at the moment.
struct OpenPage {
    own: Reference,
    runs: Vec<ReadRun>,
    next: usize,
    /// Byte of the disk where run `next` starts.
    at: u64,
}

/// The runs of a range; see [`MapReader::runs`].
pub struct Runs<'s> {
    cursor: Cursor<'s>,
    at: u64,
    end: u64,
    page: Option<OpenPage>,
    /// The window that was entered last, and its pages.
    window: Option<(u64, Vec<(ByteRange, PageEntry)>)>,
    /// Pages that were read together, at most [`PAGES_AHEAD`].
    ahead: HashMap<Reference, Arc<Node>>,
}

impl Iterator for Runs<'_> {
    type Item = Result<LocatedRun, Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.end {
            if let Some(run) = self.next_of_page() {
                self.at = run.run.disk.end().0;
                return Some(Ok(run));
            }
            match self.enter() {
                Ok(None) => {}
                Ok(Some(run)) => {
                    self.at = run.run.disk.end().0;
                    return Some(Ok(run));
                }
                Err(Lost { range, error }) => {
                    let range = between(self.at, range.end().0.min(self.end));
                    // Never stands still, whatever the range says.
                    self.at = range.end().0.max(self.at + 1);
                    return Some(Err(Lost { range, error }));
                }
            }
        }
        None
    }
}

impl Runs<'_> {
    /// Returns the next run of the open page that reaches into what is left of the range.
    fn next_of_page(&mut self) -> Option<LocatedRun> {
        let page = self.page.as_mut()?;
        while let Some(ReadRun { run, number }) = page.runs.get(page.next) {
            let whole = between(page.at, page.at + run.len);
            page.at = whole.end().0;
            page.next += 1;
            let Some(disk) = whole.intersection(between(self.at, self.end)) else { continue };
            // Inside the run, whose end was checked when the page was decoded.
            let skipped = disk.start().0 - whole.start().0;
            let content = run.content.after(skipped).unwrap_or(run.content);
            let chunk = number.zip(chunk_of(content)).map(|(number, target)| Link {
                parent: page.own,
                number,
                target,
            });
            return Some(LocatedRun { run: Run { disk, content }, chunk });
        }
        self.page = None;
        None
    }

    /// Goes to what stands at the current position: opens its page, or returns a folded run.
    fn enter(&mut self) -> Result<Option<LocatedRun>, Lost> {
        let window = self.at / WINDOW_BYTES;
        let (first, index) = match self.cursor.find(window)? {
            Found::Folded { content, range } => {
                let disk = between(self.at, range.end().0.min(self.end));
                return Ok(Some(LocatedRun { run: Run { disk, content }, chunk: None }));
            }
            Found::Entry { first, index } => (first, index),
        };
        let range = self.cursor.coverage(first + wide(index), 1);
        let missing = || Lost { range, error: corrupt(self.at, "no page maps this") };
        let pages = match self.window.take() {
            Some((number, pages)) if number == window => pages,
            _ => self.cursor.pages(index).ok_or_else(missing)?.1,
        };
        // They cover the window, as was checked when the node was decoded.
        let place = pages.partition_point(|(range, _)| range.end().0 <= self.at);
        let rest = pages.get(place..).unwrap_or_default();
        let (range, entry) = rest.first().copied().ok_or_else(missing)?;
        let lost = |error| Lost { range, error };
        let node = self.page_node(index, rest).map_err(lost)?;
        self.window = Some((window, pages));
        let runs = page::decode(&node, range.len().0).map_err(lost)?;
        self.page = Some(OpenPage { own: entry.page, runs, next: 0, at: range.start().0 });
        Ok(None)
    }

    /// Reads the first page of `rest`, which are pages of entry `index` of the open level 1 node,
    /// and with it the next ones.
    fn page_node(&mut self, index: usize, rest: &[(ByteRange, PageEntry)]) -> Result<Arc<Node>> {
        let first = rest.first().map(|(_, entry)| entry.page);
        let page = first.ok_or_else(|| corrupt(self.at, "no page maps this"))?;
        if let Some(node) = self.ahead.get(&page) {
            return Ok(Arc::clone(node));
        }
        let open = self.cursor.leaf().ok_or_else(|| corrupt(self.at, "no map node is open"))?;
        let (own, node) = (open.own, Arc::clone(&open.node));
        let wanted = self.next_pages(index, rest);
        let links = wanted.iter().map(|page| link_to(own, &node, *page));
        let numbers: Vec<u32> = links.map(|link| Ok(link?.number)).collect::<Result<_>>()?;
        let link = link_to(own, &node, page)?;
        // A failure of the batch says nothing of this page: it is asked for alone then.
        let Ok(nodes) = self.cursor.map.source.children(&own, &numbers, &wanted) else {
            return link.follow(self.cursor.map.source);
        };
        self.ahead = wanted.into_iter().zip(nodes).collect();
        match self.ahead.get(&page) {
            Some(node) => Ok(Arc::clone(node)),
            None => link.follow(self.cursor.map.source),
        }
    }

    /// The first page of `rest`, which are pages of entry `index`, and those that the range needs
    /// next, each once.
    fn next_pages(&self, index: usize, rest: &[(ByteRange, PageEntry)]) -> Vec<Reference> {
        let behind = (index.saturating_add(1)..).map_while(|index| self.cursor.entry_pages(index));
        let places = rest.iter().copied().chain(behind.flatten());
        let mut wanted: Vec<Reference> = Vec::new();
        for (range, entry) in places.take(PLACES_AHEAD) {
            if range.start().0 >= self.end || wanted.len() >= PAGES_AHEAD {
                break;
            }
            if !wanted.contains(&entry.page) {
                wanted.push(entry.page);
            }
        }
        wanted
    }
}

impl Cursor<'_> {
    /// As [`Cursor::pages`]; a folded window has none, and behind the last window is `None`.
    fn entry_pages(&self, index: usize) -> Option<Vec<(ByteRange, PageEntry)>> {
        let known = index < self.leaf()?.entries.len();
        known.then(|| self.pages(index).map(|(_, pages)| pages).unwrap_or_default())
    }
}

fn chunk_of(content: Content) -> Option<Reference> {
    match content {
        Content::Data { chunk, .. } => Some(Reference { kind: Kind::Chunk, id: chunk }),
        _ => None,
    }
}

/// The windows of a map; see [`MapReader::windows`].
pub struct Windows<'s> {
    cursor: Cursor<'s>,
    next: u64,
}

impl Iterator for Windows<'_> {
    type Item = Result<Window, Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        let disk_len = self.cursor.map.disk_len;
        if self.next >= window_count(disk_len) {
            return None;
        }
        let index = self.next;
        let range = window_range(disk_len, index)?;
        self.next += 1;
        let (hash, content) = match self.cursor.find(index) {
            Ok(Found::Folded { content, .. }) => {
                (WindowHash::of_zeros(range.len()), WindowContent::Folded(content))
            }
            Ok(Found::Entry { index: entry, .. }) => match self.cursor.pages(entry) {
                Some((hash, pages)) => {
                    let pages = pages.into_iter().map(|(range, entry)| (range, entry.page));
                    (hash, WindowContent::Pages(pages.collect()))
                }
                None => {
                    let error = corrupt(range.start().0, "no page maps this");
                    return Some(Err(Lost { range, error }));
                }
            },
            Err(Lost { range: lost, error }) => {
                let end = lost.end().0.max(range.end().0);
                self.next = end.div_ceil(WINDOW_BYTES);
                return Some(Err(Lost { range: between(range.start().0, end), error }));
            }
        };
        Some(Ok(Window { index, range, hash, content }))
    }
}
