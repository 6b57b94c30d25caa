//! What stays the same where little changes, or where only the order of reading does.

use super::*;

impl MemoryVault {
    /// Returns how many chunks and how many nodes it has.
    fn sizes(&self) -> (usize, usize) {
        (self.chunks.lock().unwrap().len(), self.nodes.lock().unwrap().len())
    }

    fn contents(&self, snapshot: ObjectId, range: ByteRange) -> Vec<Content> {
        let manifest = self.manifest(snapshot);
        let link = manifest.map_link(Reference { kind: Kind::Manifest, id: snapshot });
        let nodes = self.nodes.lock().unwrap();
        let map = MapReader::new(&*nodes, link, manifest.disk.length);
        map.runs(range).map(|run| run.unwrap().run.content).collect()
    }
}

#[test]
fn one_changed_byte_of_a_large_file_makes_few_chunks_and_nodes() {
    let vault = MemoryVault::default();
    let mut content = noise(21, 40 << 20);
    // 160 extents of 256 KiB: they stand in a node of their own.
    let (first, files) = lay_out(&[content.clone()], 16_000, 64, 8);
    let survey = survey_of(first.len() as u64, files);
    back_up(&MemoryDisk::new(first), &survey, &vault);
    let (chunks, nodes) = vault.sizes();
    assert!(chunks > 500 && nodes > 7);

    content[20_000_000] ^= 1;
    let (second, files) = lay_out(&[content], 16_000, 64, 8);
    let survey = survey_of(second.len() as u64, files);
    let outcome = back_up(&MemoryDisk::new(second.clone()), &survey, &vault);
    assert!(vault.reassemble(outcome.snapshot) == second);
    let (new_chunks, new_nodes) = (vault.sizes().0 - chunks, vault.sizes().1 - nodes);
    assert!((1..=3).contains(&new_chunks), "{new_chunks} new chunks");
    // Its directory, root, map root and manifest, and the pages of the chunks: each lies in two
    // extents at most.
    assert!((5..=4 + 2 * new_chunks).contains(&new_nodes), "{new_nodes} new nodes");
}

#[test]
fn slack_is_judged_as_a_whole_wherever_a_read_ends() {
    // The content ends 4 KiB before the first read of 2 MiB does; the zeros up to there are slack
    // like the noise behind them.
    let (start, size) = (4096_u64, SPAN - 4096);
    let mut bytes = noise(22, 4 << 20);
    let slack = span(start + size, 3 * 4096);
    let zeros = usize::try_from(slack.start().0).unwrap();
    bytes[zeros..zeros + 4096].fill(0);
    let extent = Extent {
        logical: ByteOffset(0),
        volume: span(start, size + slack.len().0),
        kind: ExtentKind::Data,
        codec: Codec::None,
    };
    let file = inode(12, FileType::File, size, vec![extent]);
    let survey = survey_of(bytes.len() as u64, vec![file]);
    let vault = MemoryVault::default();
    let outcome = back_up(&MemoryDisk::new(bytes.clone()), &survey, &vault);
    let contents = vault.contents(outcome.snapshot, slack);
    assert!(contents.iter().all(|content| matches!(content, Content::Data { .. })), "{contents:?}");
    assert!(vault.reassemble(outcome.snapshot) == bytes);
}

const SPAN: u64 = crate::backup::read::SPAN_BYTES;
