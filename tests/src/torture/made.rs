//! Disks that are made of numbers: whoever knows a chunk's number knows its bytes.

use anyhow::{Context, Result};
use umbra_common::image_hash::ImageHash;
use umbra_common::map::{self, MapRoot};
use umbra_common::snapshot::{
    Consistency, Counts, DiskLabel, FreePolicy, Manifest, Method, Parameters, Parsed, RunId,
    SessionNonce, Volume,
};
use umbra_common::wire::Object;
use umbra_common::{ByteLen, ByteOffset, ByteRange, Kind, Reference};
use umbra_fsparse::Timestamp;

use crate::images::Noise;

/// Chunks that one page of an image map refers to.
const PAGE_CHUNKS: usize = 16;

/// Numbers below this belong to nobody: several writers put the same chunks at the same time.
const SHARED: u64 = 1 << 40;

/// The number of a chunk that only this writer puts.
pub fn own_number(writer: u64, count: u64) -> u64 {
    (writer + 1) * SHARED + count
}

/// The bytes of a chunk: most are small, some take a hundredth of a pack; a third compresses.
pub fn chunk_bytes(number: u64) -> Vec<u8> {
    let mut noise = Noise::new(number);
    let len = match noise.below(20) {
        0..=12 => 1 + noise.below(8 << 10),
        13..=17 => 8 << 10 | noise.below(56 << 10),
        _ => 64 << 10 | noise.below(192 << 10),
    };
    let len = usize::try_from(len).unwrap_or_default();
    if noise.below(3) == 0 {
        let word = noise.next_number().to_le_bytes();
        return word.iter().copied().cycle().take(len).collect();
    }
    noise.bytes(len)
}

/// A chunk, ready to be sent.
///
/// # Errors
/// Never: no chunk is that large.
pub fn chunk(number: u64) -> Result<Object> {
    Ok(Object::pack(Kind::Chunk, Vec::new(), chunk_bytes(number), 1)?)
}

fn node(kind: Kind, refs: Vec<Reference>, body: String) -> Result<Object> {
    Ok(Object::pack(kind, refs, body.into_bytes(), 1)?)
}

/// The nodes above chunks, children first; the last is the manifest. Equal chunks give equal pages, on any disk.
///
/// # Errors
/// Never: no node is that large.
pub fn nodes(name: &str, chunks: &[Reference]) -> Result<Vec<Object>> {
    let mut nodes = Vec::new();
    for refs in chunks.chunks(PAGE_CHUNKS) {
        nodes.push(node(Kind::MapPage, refs.to_vec(), "a page".to_owned())?);
    }
    let mut pages: Vec<Reference> = nodes.iter().map(|page| page.reference).collect();
    pages.sort_unstable_by_key(|page| page.id.0);
    pages.dedup();
    above(nodes, pages, name)
}

/// The nodes of a snapshot that refers to these objects and nothing else, whatever they are. Manifests cannot be referred
/// to and are left out.
///
/// # Errors
/// Never: no node is that large.
pub fn nodes_above(name: &str, objects: &[Reference]) -> Result<Vec<Object>> {
    let of = |kinds: &[Kind]| -> Vec<Reference> {
        objects.iter().filter(|object| kinds.contains(&object.kind)).copied().collect()
    };
    let mut nodes = Vec::new();
    for refs in of(&[Kind::Chunk]).chunks(4096) {
        nodes.push(node(Kind::MapPage, refs.to_vec(), format!("a page of {name}"))?);
    }
    let mut maps = of(&[Kind::MapPage, Kind::MapNode]);
    maps.extend(nodes.iter().map(|page| page.reference));
    nodes.push(node(Kind::Directory, of(&[Kind::Directory]), format!("old of {name}"))?);
    above(nodes, maps, name)
}

fn above(mut nodes: Vec<Object>, maps: Vec<Reference>, name: &str) -> Result<Vec<Object>> {
    let map = node(Kind::MapNode, maps, "a map".to_owned())?;
    let below = nodes.iter().filter(|node| node.reference.kind == Kind::Directory);
    let below: Vec<Reference> = below.map(|node| node.reference).collect();
    let leaf = node(Kind::Directory, below, "a directory".to_owned())?;
    let root = node(Kind::Directory, vec![leaf.reference], format!("the root of {name}"))?;
    let manifest = manifest_of(name, map.reference, root.reference)?.to_node()?;
    nodes.extend([map, leaf, root]);
    nodes.push(Object::pack(Kind::Manifest, manifest.refs, manifest.body, 1)?);
    Ok(nodes)
}

/// A manifest that whoever decodes it takes for one; what it says of the disk is made up.
fn manifest_of(name: &str, map: Reference, root: Reference) -> Result<Manifest> {
    let length = ByteLen(1 << 30);
    let volume = Volume {
        path: "disk".to_owned(),
        kind: "made".to_owned(),
        label: name.to_owned(),
        uuid: String::new(),
        range: ByteRange::new(ByteOffset(0), length).context("a disk of a gibibyte")?,
        parsed: Parsed::Full,
        files: 0,
        dirs: 1,
        bytes: 0,
        overlay: Some(root),
    };
    Ok(Manifest {
        disk: DiskLabel {
            name: "made".to_owned(),
            length,
            sector_bytes: 512,
            source: "numbers".to_owned(),
            guid: None,
            labels: [("name".to_owned(), name.to_owned())].into(),
        },
        machine: "made".to_owned(),
        host: "made".to_owned(),
        agent_time: Timestamp { seconds: 0, nanos: 0 },
        tags: Vec::new(),
        parameters: Parameters::current(),
        partition_table: String::new(),
        volumes: vec![volume],
        map: MapRoot { reference: map, levels: map::levels(length) },
        image_hash: ImageHash([0; 32]),
        counts: Counts { bytes_total: length.0, bytes_data: length.0, ..Counts::default() },
        free: FreePolicy::Keep,
        warnings: Vec::new(),
        warnings_total: 0,
        unreadable_ranges: 0,
        method: Method { consistency: Consistency::Offline, text: "made".to_owned() },
        run: RunId([0; 16]),
        nonce: SessionNonce([0; 16]),
        signature: None,
    })
}

/// The manifest of nodes that were made here.
///
/// # Errors
/// When there are none.
pub fn manifest(nodes: &[Object]) -> Result<Reference> {
    nodes.last().map(|node| node.reference).context("a snapshot has a manifest")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_what_their_ids_say() {
        let chunks: Vec<Object> = (1..40).map(|number| chunk(number).unwrap()).collect();
        let refs: Vec<Reference> = chunks.iter().map(|chunk| chunk.reference).collect();
        for object in chunks.into_iter().chain(nodes("d", &refs).unwrap()) {
            object.open().unwrap();
        }
        assert_eq!(nodes("d", &refs).unwrap(), nodes("d", &refs).unwrap());
        assert_eq!(chunk_bytes(7), chunk_bytes(7));
        assert_ne!(own_number(0, 1), own_number(1, 1));
    }
}
