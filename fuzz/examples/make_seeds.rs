//! Makes the first inputs of `corpus`, from `images` and from `testdata/formats/v1`. What the
//! fuzzer found later stands beside them; nothing is deleted.
#![allow(missing_docs)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use umbra_common::id_table::IdTable;
use umbra_common::node::Node;
use umbra_common::wire::{
    Ask, BaseState, Begin, Begun, Commit, Known, Label, List, ListEntry, Object, Reply, Request,
    SentObject, ServedObject, ToAgent, ToVault, frame,
};
use umbra_common::{Kind, ObjectId, Reference};
use umbra_fsparse::testing::Mender;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn seed(target: &str, name: &str, parts: &[&[u8]]) -> Result<()> {
    let dir = here().join("corpus").join(target);
    fs::create_dir_all(&dir)?;
    Ok(fs::write(dir.join(format!("seed-{name}")), parts.concat())?)
}

fn golden(file: &str) -> Result<String> {
    let path: PathBuf = here().join("../testdata/formats/v1").join(file);
    Ok(fs::read_to_string(path)?)
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    text.as_bytes().chunks(2).map_while(digits).collect()
}

fn disks() -> Result<()> {
    let image = |name: &str| {
        let packed = fs::read(here().join("images").join(format!("{name}.zst")))?;
        zstd::stream::decode_all(packed.as_slice())
    };
    let (head, tail) = (image("gpt-head")?, image("gpt-tail")?);
    let sectors = 2048_u16.to_le_bytes();
    // The tables as far as they are in use: the rest of the entries' sectors is zeros.
    let tail_len = u16::try_from(tail.len())?.to_le_bytes();
    seed("partition", "gpt-primary", &[&[0], &sectors, &[0, 0], &head])?;
    seed("partition", "gpt-backup", &[&[0], &sectors, &tail_len, &head[..512], &tail])?;
    seed("partition", "gpt-checksums-kept", &[&[1], &sectors, &[0, 0], &head])?;
    let mut mbr = [0; 512];
    let entry = |kind: u8, start: u32, count: u32| {
        let mut entry = [0; 16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&count.to_le_bytes());
        entry
    };
    mbr[446..462].copy_from_slice(&entry(0x83, 1, 100));
    mbr[462..478].copy_from_slice(&entry(5, 101, 200));
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    seed("partition", "mbr", &[&[1], &sectors, &[0, 0], &mbr])?;
    let mut logical = [0; 512];
    logical[446..462].copy_from_slice(&entry(0x83, 1, 50));
    logical[462..478].copy_from_slice(&entry(5, 1, 100));
    logical[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut chain = vec![0; 103 * 512];
    chain[..512].copy_from_slice(&mbr);
    chain[101 * 512..102 * 512].copy_from_slice(&logical);
    chain[102 * 512..].copy_from_slice(&logical);
    seed("partition", "mbr-logical", &[&[1], &sectors, &[0, 0], &chain])?;

    for (base, (name, _)) in (0_u8..).zip(umbra_fuzz::BASES) {
        seed("ext", name, &[&[base]])?;
        seed("ext", &format!("{name}-checksums-kept"), &[&[base | 0x80]])?;
        // One unit changed, one block changed.
        seed("ext", &format!("{name}-patched"), &[&[base, 9, 0, 3, 2, 0xff, 1, 8, 0, 200, 1, 4]])?;
    }
    let journal = image("journal")?;
    // As long as it is here: s_maxlen.
    let mut journal = journal;
    let blocks = 10_u32; // seven in use and three more
    journal[0x10..0x14].copy_from_slice(&blocks.to_be_bytes());
    // A second transaction: a revoke block, and its commit.
    let header = |kind: u8| [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, kind, 0, 0, 0, 2];
    let revoke = [&header(5)[..], &[0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 5, 0xdc]].concat();
    journal[5 * 1024..5 * 1024 + 24].copy_from_slice(&revoke);
    journal[6 * 1024..6 * 1024 + 12].copy_from_slice(&header(2));
    let used = journal.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let used = used.next_multiple_of(1024);
    for flags in [0_u8, 1, 2] {
        let rest = [0; 3072];
        let head = [flags, 0x40, 6];
        seed("jbd2", &format!("journal-{flags}"), &[&head, &journal[..used], &rest])?;
    }
    Ok(())
}

/// Structures of ext as they stand in the images: each target's first input is what is there.
fn structures() -> Result<()> {
    for (base, (name, packed)) in (0_u8..).zip(umbra_fuzz::BASES) {
        let image = zstd::stream::decode_all(*packed)?;
        let mender = Mender::of(&image).ok_or("a base")?;
        let bytes = |at: u64, len: u64| -> Result<&[u8]> {
            let at = usize::try_from(at)?;
            Ok(image.get(at..at + usize::try_from(len)?).ok_or("inside the image")?)
        };
        let inode = |number: u64| mender.inode_at(&image, number).ok_or("an inode");
        let word = |at: u64| -> Result<u64> {
            Ok(u64::from(u32::from_le_bytes(bytes(at, 4)?.try_into()?)))
        };
        // Fields as they are: features, geometry; a descriptor.
        let patch = |at: u16, from: u64, len: u8| -> Result<Vec<u8>> {
            Ok([&at.to_le_bytes()[..], &[len], bytes(from, u64::from(len))?].concat())
        };
        let superblock = [patch(0, 1024, 128)?, patch(1024, 2048, 64)?].concat();
        seed("ext_superblock", name, &[&[base], &superblock])?;
        for number in [1_u8, 11, 13, 15, 19] {
            let all = patch(0, inode(u64::from(number) + 1)?, 128)?;
            seed("ext_inode", &format!("{name}-{number}"), &[&[base, number], &all])?;
        }
        let root = inode(2)? + 0x28;
        let has_extents = word(inode(2)? + 0x20)? & 0x8_0000 != 0;
        let block = word(root + if has_extents { 20 } else { 0 })? * mender.block_size;
        seed("ext_directory", name, &[&[base], bytes(block, 900)?])?;
        seed("ext_directory", &format!("{name}-whole"), &[&[base], bytes(block, 1024)?])?;
        let attributes = bytes(inode(12)? + 164, mender.inode_size.saturating_sub(164))?;
        if !attributes.is_empty() {
            seed("ext_xattrs", name, &[&[base, 255], attributes])?;
        }
    }
    // A block of attributes: names at its beginning, values at its end.
    let mut block = vec![0; 1024 - 32];
    let entry = |prefix: u8, name: &[u8], at: u16, len: u8| {
        let mut entry = vec![u8::try_from(name.len()).unwrap_or(0), prefix];
        entry.extend_from_slice(&at.to_le_bytes());
        entry.extend_from_slice(&[0, 0, 0, 0, len, 0, 0, 0, 0, 0, 0, 0]);
        entry.extend_from_slice(name);
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry
    };
    let entries = [entry(1, b"one", 1020, 4), entry(6, b"capability", 1000, 20)].concat();
    block[..entries.len()].copy_from_slice(&entries);
    block[1000 - 32..].fill(7);
    for base in [0, 2, 3] {
        seed("ext_xattrs", &format!("block-{base}"), &[&[base, 0], &block])?;
    }
    // A tree of two levels: the root leads to a leaf at the end of the image.
    for (base, last) in [(2_u8, 223_u32), (4, 511), (6, 639)] {
        let [index, leaf] = [0_u32, last].map(u32::to_le_bytes);
        let extent = |logical: u32, len: u16, block: u32| {
            [&logical.to_le_bytes()[..], &len.to_le_bytes(), &[0, 0], &block.to_le_bytes()].concat()
        };
        let root = [&[1, 1][..], &index, &leaf, &[0; 4]].concat();
        let node = [&[2, 0][..], &extent(0, 3, last - 20), &extent(7, 2, last - 30)].concat();
        seed("ext_extents", &format!("two-levels-{base}"), &[&[base, 0, 40, 0, 0], &root, &node])?;
        let flat = [&[1, 0][..], &extent(0, 4, last - 9)].concat();
        seed("ext_extents", &format!("flat-{base}"), &[&[base, 0, 16, 0, 0], &flat])?;
    }
    Ok(())
}

/// The two small files that no golden line has.
fn small_files() -> Result<()> {
    let mut lock = b"UMBRALCK\x01\0\x01\0".to_vec();
    lock.extend_from_slice(&4711_u32.to_le_bytes());
    lock.extend_from_slice(&8_u64.to_le_bytes());
    lock.extend_from_slice(&1_700_000_000_000_000_000_i64.to_le_bytes());
    let check = *blake3::hash(&lock).as_bytes();
    seed("lock", "ended", &[&[0], &lock, &check])?;
    seed("lock", "check-kept", &[&[1], &lock, &check])?;
    let mut list = b"UMBRAGCL".to_vec();
    list.extend_from_slice(&1_u16.to_le_bytes());
    list.extend_from_slice(&[0; 6]);
    list.extend_from_slice(&[5; 16]);
    list.extend_from_slice(&3_u64.to_le_bytes());
    list.extend_from_slice(&1_u64.to_le_bytes());
    list.extend_from_slice(&[[1; 16].as_slice(), &19_u32.to_le_bytes(), &[0x81, 1, 4]].concat());
    seed("sweep_list", "one-pack", &[&[0], &list])?;
    let ids: Vec<ObjectId> = (0..5).map(|byte| ObjectId([byte; 32])).collect();
    let header = IdTable::header(&[7; 16], ObjectId([9; 32]), &ids);
    let body: Vec<u8> = ids.iter().flat_map(|id| id.0).collect();
    seed("known_ids", "five", &[&[0], &header, &body])?;
    seed("known_ids", "check-kept", &[&[1], &header, &body])
}

/// Numbers the nodes of a list, and names each child by its number in the first byte of its id.
fn numbered(nodes: &[(ObjectId, Node)], extra: &[u8]) -> Vec<u8> {
    let places = nodes.iter().enumerate().map(|(index, (id, _))| (*id, index));
    let places: HashMap<ObjectId, usize> = places.collect();
    let mut bytes = extra.to_vec();
    for (_, node) in nodes {
        let mut node = node.clone();
        for child in &mut node.refs {
            if let Some(index) = places.get(&child.id) {
                child.id.0[0] = u8::try_from(*index).unwrap_or(255);
            }
        }
        let body = node.to_bytes();
        bytes.push(node.kind.number());
        bytes.extend_from_slice(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend_from_slice(&body);
    }
    bytes
}

fn nodes() -> Result<()> {
    let mut all: Vec<(ObjectId, Node)> = Vec::new();
    for line in golden("nodes.txt")?.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["receipt", _, bytes] = words[..] {
            seed("receipt", "golden", &[&[0], &unhex(bytes)])?;
            seed("receipt", "golden-checksum-kept", &[&[1], &unhex(bytes)])?;
        }
        let ["node", kind, id, bytes] = words[..] else { continue };
        let kind = Kind::ALL.into_iter().find(|known| known.name().replace(' ', "-") == kind);
        let node = Node::decode(kind.ok_or("a kind")?, &unhex(bytes))?;
        all.push((ObjectId(unhex(id).try_into().map_err(|_| "an id")?), node));
    }
    let of = |kinds: &[Kind]| -> Vec<(ObjectId, Node)> {
        // Parents first, as the root is number 0.
        all.iter().rev().filter(|(_, node)| kinds.contains(&node.kind)).cloned().collect()
    };
    let overlay = [Kind::Directory, Kind::ExtentList, Kind::Xattrs];
    seed("directory", "golden", &[&numbered(&of(&overlay), &[])])?;
    for (index, node) in of(&[Kind::Directory]).into_iter().enumerate() {
        seed("directory", &format!("node-{index}"), &[&numbered(&[node], &[])])?;
    }
    let lists = of(&[Kind::ExtentList]);
    for from in 0..lists.len() {
        let input = numbered(&lists[from..], &70_000_u64.to_le_bytes());
        seed("extent_list", &format!("golden-{from}"), &[&input])?;
    }
    seed("xattrs", "golden", &[&numbered(&of(&[Kind::Xattrs]), &[])])?;
    let map = of(&[Kind::MapNode, Kind::MapPage]);
    let disk: u64 = 300 * (16 << 20) + 5000;
    for from in 0..map.len() {
        if map[from].1.kind != Kind::MapNode {
            continue;
        }
        for (number, len) in
            [disk, 256 * (16 << 20), 44 * (16 << 20) + 5000, 5000].iter().enumerate()
        {
            let head = [len.to_le_bytes(), 4096_u64.to_le_bytes(), (20_u64 << 20).to_le_bytes()];
            let input = numbered(&map[from..], &head.concat());
            seed("map", &format!("golden-{from}-{number}"), &[&input])?;
        }
    }
    for (_, node) in of(&[Kind::Manifest]) {
        seed("manifest", "golden", &[&node.to_bytes()])?;
    }
    Ok(())
}

fn store() -> Result<()> {
    let lines = [golden("store.txt")?, golden("parity.txt")?].concat();
    for line in lines.lines() {
        let Some((name, bytes)) = line.split_once(' ') else { continue };
        let bytes = unhex(bytes);
        match name {
            "format" => {
                let check = bytes.windows(6).position(|window| window == b"check ");
                seed("format", "golden", &[&[0], &bytes[..check.ok_or("a check")?]])?;
                seed("format", "golden-check-kept", &[&[1], &bytes])?;
            }
            "pack" => {
                seed("pack", "golden", &[&[0], &bytes])?;
                seed("pack", "golden-checks-kept", &[&[1], &bytes])?;
                let mut damaged = bytes.clone();
                damaged[128] = 0;
                seed("pack", "first-record-damaged", &[&[0], &damaged])?;
                let at = bytes.windows(8).position(|window| window == b"UMBRAFTR");
                seed("footer", "golden", &[&[0], &bytes[at.ok_or("a footer")?..]])?;
            }
            "parity" => {
                seed("parity", "golden", &[&[0], &bytes])?;
                seed("parity", "golden-check-kept", &[&[1], &bytes])?;
            }
            "log" => {
                seed("log", "golden", &[&[0], &bytes])?;
                seed("log", "golden-checks-kept", &[&[1], &bytes])?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn wire() -> Result<()> {
    let chunk = Object::pack(Kind::Chunk, Vec::new(), b"some bytes ".repeat(20), 3)?;
    let refs: Vec<Reference> = vec![chunk.reference];
    let page = Object::pack(Kind::MapPage, refs.clone(), vec![0x83, 1, 4, 0x41, 0x22], 3)?;
    let mut frames: HashMap<&str, Vec<u8>> = HashMap::new();
    let handshake = golden("wire-handshake.txt")?;
    for line in handshake.lines() {
        let Some((name, bytes)) = line.split_once(' ') else { continue };
        let bytes = unhex(bytes);
        let (target, flags) = match name {
            "welcome" | "enrolled" | "refused" => ("wire_to_agent", 0),
            _ => ("wire_to_vault", 3),
        };
        seed(target, name, &[&[flags], &bytes])?;
        frames.insert(if name == "hello" { "hello" } else { name }, bytes);
    }
    let cap = 1 << 20;
    let hello = frames.get("hello").ok_or("a hello")?;
    let begin = Begin {
        disk: "sda".into(),
        nonce: [2; 16],
        base: Some(ObjectId([4; 32])),
        resume: true,
        run: [3; 16],
    };
    let label = Label { name: "host".into(), value: "web1".into() };
    let commit =
        Commit { manifest: ObjectId([9; 32]), labels: vec![label], tags: vec!["nightly".into()] };
    let run = [
        hello.clone(),
        frame::encode(&ToVault::Begin(begin), cap)?,
        frame::encode(&ToVault::Ask(Ask { number: 1, references: refs.clone() }), cap)?,
        frame::encode(&ToVault::Flush { upto: 1 }, cap)?,
        frame::encode(&ToVault::Commit(commit), cap)?,
        frame::encode(&ToVault::End, cap)?,
    ]
    .concat();
    seed("wire_to_vault", "backup", &[&[3], &run])?;
    seed("wire_to_vault", "backup-owner", &[&[6], &run])?;
    let mut objects = Vec::new();
    for (sequence, object) in (0..).zip([chunk.clone(), page.clone()]) {
        objects.extend(frame::encode(&SentObject { sequence, object }, cap)?);
    }
    seed("wire_to_vault", "objects", &[&[1], &objects])?;
    let list = List { machine: Some("web1".into()), disk: None, manifests: true };
    let requests = [
        frame::encode(&Request::List(list), cap)?,
        frame::encode(&Request::Open { snapshot: ObjectId([1; 32]) }, cap)?,
    ];
    seed("wire_to_vault", "requests", &[&[2], &requests.concat()])?;
    let begun = Begun { base: BaseState::Gone, latest: Some(ObjectId([3; 32])) };
    let agent = [
        frames.get("welcome").cloned().unwrap_or_default(),
        frame::encode(&ToAgent::Begun(begun), cap)?,
        frame::encode(&ToAgent::Known(Known::new(1, &[true, false])), cap)?,
        frame::encode(&ToAgent::Ack { ranges: vec![0, 5, 7, 7] }, cap)?,
        frame::encode(&ToAgent::Missing { sequence: 6, references: refs.clone() }, cap)?,
        frame::encode(&ToAgent::Bad { sequence: 8, reason: "bad".into() }, cap)?,
        frame::encode(&ToAgent::CommitMissing { references: refs }, cap)?,
    ];
    seed("wire_to_agent", "backup", &[&[0], &agent.concat()])?;
    let served = ServedObject { item: 0, number: 0, object: page.clone() };
    let entry = ListEntry { receipt: vec![1; 50], manifest: Some(chunk) };
    let replies = [
        frame::encode(&Reply::Object(served), cap)?,
        frame::encode(&Reply::Snapshot(entry), cap)?,
        frame::encode(&Reply::Done, cap)?,
    ];
    seed("wire_to_agent", "replies", &[&[1], &replies.concat()])
}

fn text() -> Result<()> {
    let token = umbra_common::wire::Token {
        addresses: vec!["vault.lan:8407".into()],
        vault: umbra_common::wire::Fingerprint([5; 32]),
        secret: [6; 16],
    };
    seed("token", "text", &[token.to_text()?.as_bytes()])?;
    let fields =
        [&[0xa3, 0, 0x81, 0x63][..], b"a:1", &[1, 0x58, 32], &[5; 32], &[2, 0x50], &[6; 16]];
    seed("token", "inside", &fields)?;
    let items: &[u8] =
        &[0xa3, 0, 0x18, 0x20, 2, 0x82, 0x20, 0xf5, 5, 0xa1, 1, 0x63, b'a', b'b', b'c'];
    seed("cbor", "nested", &[items])?;
    seed("cbor", "numbers", &[&[0x83, 0x1b, 1, 2, 3, 4, 5, 6, 7, 8, 0x39, 1, 0, 0x42, 1, 2]])
}

fn main() -> Result<()> {
    disks()?;
    structures()?;
    small_files()?;
    nodes()?;
    store()?;
    wire()?;
    text()
}
