//! Builds the image map from the runs of one window after the other.

use crate::image_hash::{WINDOW_BYTES, WindowHash, window_count, window_range};
use crate::node::{Node, NodeSink};
use crate::{ByteLen, ByteRange, Reference, Result};

use super::inner::{ChildEntry, Entries, Fold, MAX_HALVINGS, PageEntry, WindowEntry};
use super::page::{self, PageRun};
use super::{Content, FAN_OUT, MAX_PAGE_BYTES, MapRoot, Run, corrupt, levels};

/// Builds an image map in the order of the disk.
///
/// Memory: the runs of one window and up to 256 entries a level.
#[derive(Debug)]
pub struct MapBuilder {
    disk_len: ByteLen,
    next_window: u64,
    levels: u8,
    windows: Vec<WindowEntry>,
    /// Entries of the open node of level 2 and up.
    above: Vec<Vec<ChildEntry>>,
}

impl MapBuilder {
    /// Starts the map of a disk.
    pub fn new(disk_len: ByteLen) -> Self {
        let levels = levels(disk_len);
        let above = (1..levels).map(|_| Vec::new()).collect();
        Self { disk_len, next_window: 0, levels, windows: Vec::new(), above }
    }

    /// Takes the next window: its runs, sorted and covering it exactly, and its hash. Runs that
    /// continue each other are merged here.
    ///
    /// # Errors
    /// `Corrupt` where the runs do not cover the window exactly, a run reaches past 2^32 in its
    /// chunk, or the map says that the window holds only zeros and its hash says otherwise. What
    /// the sink says. The builder is of no use after an error.
    pub fn window(
        &mut self,
        sink: &mut dyn NodeSink,
        runs: &[Run],
        hash: WindowHash,
    ) -> Result<()> {
        let range = window_range(self.disk_len, self.next_window)
            .ok_or_else(|| corrupt(self.disk_len.0, "a window past the end of the disk"))?;
        let merged = merged(range, runs)?;
        let kept = merged.iter().any(|run| matches!(run.content, Content::Data { .. }));
        if !kept && hash != WindowHash::of_zeros(range.len()) {
            let reason = "the runs say zeros, and the hash of what was read says otherwise";
            return Err(corrupt(range.start().0, reason));
        }
        let entry = match folded(&merged) {
            Some(fold) => WindowEntry::Folded(fold),
            None => WindowEntry::Pages { hash, pages: write_pages(sink, &merged)? },
        };
        self.windows.push(entry);
        self.next_window += 1;
        if self.windows.len() >= FAN_OUT_USIZE && self.levels > 1 {
            self.close_windows(sink)?;
        }
        Ok(())
    }

    /// Ends the map and returns its root.
    ///
    /// # Errors
    /// `Corrupt` where windows are missing; what the sink says.
    pub fn finish(mut self, sink: &mut dyn NodeSink) -> Result<MapRoot> {
        if self.next_window != window_count(self.disk_len) {
            let at = self.next_window.saturating_mul(WINDOW_BYTES);
            return Err(corrupt(at, "the map ends before the disk"));
        }
        if self.levels > 1 && !self.windows.is_empty() {
            self.close_windows(sink)?;
        }
        let below_root = self.above.len().saturating_sub(1);
        for index in 0..below_root {
            if self.above.get(index).is_some_and(|entries| !entries.is_empty()) {
                self.close_nodes(sink, index)?;
            }
        }
        // A root is never folded: every disk has at least one map node.
        let root = match self.above.pop() {
            Some(entries) => Entries::Nodes(entries),
            None => Entries::Windows(self.windows),
        };
        let reference = put(sink, root.encode(self.levels))?;
        Ok(MapRoot { reference, levels: self.levels })
    }

    /// Closes the open node of level 1, which is not the root.
    fn close_windows(&mut self, sink: &mut dyn NodeSink) -> Result<()> {
        let entries = Entries::Windows(std::mem::take(&mut self.windows));
        self.close(sink, &entries, 0)
    }

    /// Closes the open node of level `index` + 2, which is not the root.
    fn close_nodes(&mut self, sink: &mut dyn NodeSink, index: usize) -> Result<()> {
        let Some(entries) = self.above.get_mut(index) else { return Ok(()) };
        let entries = Entries::Nodes(std::mem::take(entries));
        self.close(sink, &entries, index + 1)
    }

    /// Puts a node, or folds it, and enters it in `above[index]`; closes that one when full.
    fn close(&mut self, sink: &mut dyn NodeSink, entries: &Entries, index: usize) -> Result<()> {
        let entry = match entries.fold() {
            Some(fold) => ChildEntry::Folded(fold),
            // There are at most 8 levels, as a disk has at most 2^40 windows.
            None => {
                let level = u8::try_from(index + 1).unwrap_or(u8::MAX);
                ChildEntry::Node(put(sink, entries.encode(level))?)
            }
        };
        let root = index + 1 == self.above.len();
        let Some(parent) = self.above.get_mut(index) else { return Ok(()) };
        parent.push(entry);
        if parent.len() >= FAN_OUT_USIZE && !root {
            self.close_nodes(sink, index)?;
        }
        Ok(())
    }
}

const FAN_OUT_USIZE: usize = 256;
const _: () = assert!(FAN_OUT == 256);

/// Checks that `runs` cover `range` exactly and merges those that continue each other.
fn merged(range: ByteRange, runs: &[Run]) -> Result<Vec<PageRun>> {
    let mut merged: Vec<PageRun> = Vec::with_capacity(runs.len());
    let mut at = range.start();
    for run in runs {
        if run.disk.start() != at || run.disk.is_empty() || run.disk.end() > range.end() {
            return Err(corrupt(at.0, "the runs do not cover the window exactly"));
        }
        at = run.disk.end();
        let next = PageRun { len: run.disk.len().0, content: run.content };
        if next.content.after(next.len).is_none() {
            return Err(corrupt(run.disk.start().0, "a run reaches past what a chunk can be"));
        }
        if !merged.last_mut().is_some_and(|last| last.merge(next)) {
            merged.push(next);
        }
    }
    if at != range.end() {
        return Err(corrupt(at.0, "the runs end before the window"));
    }
    Ok(merged)
}

fn folded(runs: &[PageRun]) -> Option<Fold> {
    match runs {
        [run] => Fold::of(run.content),
        _ => None,
    }
}

fn put(sink: &mut dyn NodeSink, node: Node) -> Result<Reference> {
    node.check()?;
    sink.put(node)
}

/// Writes the pages of a window, each halved while it is too large.
fn write_pages(sink: &mut dyn NodeSink, runs: &[PageRun]) -> Result<Vec<PageEntry>> {
    let mut pages = Vec::new();
    let mut waiting = vec![(0_u8, runs.to_vec())];
    while let Some((halvings, runs)) = waiting.pop() {
        let node = page::encode(&runs);
        if node.encoded_len() > MAX_PAGE_BYTES && halvings < MAX_HALVINGS {
            let halvings = halvings + 1;
            let (left, right) = split(runs, WINDOW_BYTES >> halvings);
            // The left one is taken first: pages stand in the order of the disk.
            if !right.is_empty() {
                waiting.push((halvings, right));
            }
            waiting.push((halvings, left));
        } else {
            pages.push(PageEntry { halvings, page: put(sink, node)? });
        }
    }
    Ok(pages)
}

/// Splits runs after `len` bytes.
fn split(runs: Vec<PageRun>, len: u64) -> (Vec<PageRun>, Vec<PageRun>) {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut room = len;
    for run in runs {
        let here = run.len.min(room);
        if here > 0 {
            left.push(PageRun { len: here, ..run });
            room -= here;
        }
        if here < run.len {
            // `merged` has checked that the whole run stays below 2^32 in its chunk.
            let content = run.content.after(here).unwrap_or(run.content);
            right.push(PageRun { len: run.len - here, content });
        }
    }
    (left, right)
}
