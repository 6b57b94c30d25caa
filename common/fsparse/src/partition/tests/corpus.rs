//! The images of ../shared/corpus, against what sfdisk said when they were made.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::string::{String, ToString as _};
use std::{format, fs, println, vec, vec::Vec};

use serde_json::Value;

use crate::partition::{PartitionTable, PartitionType, TableKind, format_guid, read};
use crate::{ByteLen, ByteOffset, ReadAt, ReadError};

const WITH_TABLE: [&str; 4] =
    ["disk-gpt-512", "disk-gpt-4096", "disk-mbr-extended", "disk-grub-bios"];
const EDGE_BYTES: usize = 1 << 20;

/// The first and the last MiB of an image; reading between them fails the test.
struct Edges {
    len: usize,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl ReadAt for Edges {
    fn len(&self) -> ByteLen {
        ByteLen(self.len.try_into().unwrap())
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let start = usize::try_from(offset.0).unwrap();
        let end = start + buf.len();
        if end <= self.head.len() {
            buf.copy_from_slice(&self.head[start..end]);
        } else {
            let skipped = self.len - self.tail.len();
            assert!(start >= skipped && end <= self.len, "read of {start}..{end}");
            buf.copy_from_slice(&self.tail[start - skipped..end - skipped]);
        }
        Ok(())
    }
}

/// A whole image.
pub(super) struct Whole(pub(super) Vec<u8>);

impl ReadAt for Whole {
    fn len(&self) -> ByteLen {
        ReadAt::len(self.0.as_slice())
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0.as_slice().read_at(offset, buf)
    }
}

/// Finds the corpus, or says why the test is skipped.
fn corpus() -> Option<PathBuf> {
    let start = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = start.ancestors().map(|dir| dir.join("shared/corpus")).find(|dir| dir.is_dir());
    if found.is_none() {
        println!("SKIPPED: no shared/corpus above {}", start.display());
    }
    if Command::new("zstd").arg("--version").output().is_err() {
        println!("SKIPPED: zstd is not installed");
        return None;
    }
    found
}

fn meta(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Decompresses an image piece by piece.
fn decompress(dir: &Path, name: &str, mut take: impl FnMut(&[u8])) {
    let mut child = Command::new("zstd")
        .args(["-q", "-dc", "--long=27"])
        .arg(dir.join(format!("{name}.img.zst")))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut piece = vec![0; EDGE_BYTES];
    loop {
        match out.read(&mut piece).unwrap() {
            0 => break,
            n => take(&piece[..n]),
        }
    }
    assert!(child.wait().unwrap().success());
}

fn edges(dir: &Path, name: &str) -> Edges {
    let mut edges = Edges { len: 0, head: Vec::new(), tail: Vec::new() };
    decompress(dir, name, |piece| {
        edges.len += piece.len();
        let room = EDGE_BYTES - edges.head.len();
        edges.head.extend_from_slice(&piece[..room.min(piece.len())]);
        edges.tail.extend_from_slice(piece);
        if edges.tail.len() > 16 * EDGE_BYTES {
            edges.tail.drain(..edges.tail.len() - EDGE_BYTES);
        }
    });
    let over = edges.tail.len().saturating_sub(EDGE_BYTES);
    edges.tail.drain(..over);
    edges
}

/// Compares a table with the output of `sfdisk --json`; returns the number of partitions.
pub(super) fn compare_with_sfdisk(table: &PartitionTable, sfdisk: &Value) -> usize {
    let sfdisk = &sfdisk["partitiontable"];
    let sector = sfdisk["sectorsize"].as_u64().unwrap();
    let is_gpt = sfdisk["label"] == "gpt";
    if is_gpt {
        assert_eq!(table.kind, TableKind::Gpt { sector: ByteLen(sector) });
        assert_eq!(format_guid(&table.disk_guid.unwrap()), sfdisk["id"]);
    } else {
        assert_eq!(table.kind, TableKind::Mbr);
        assert_eq!(format!("0x{:08x}", table.disk_signature.unwrap()), sfdisk["id"]);
    }
    let device = sfdisk["device"].as_str().unwrap();
    let mut expected = Vec::new();
    for partition in sfdisk["partitions"].as_array().unwrap() {
        let kind = partition["type"].as_str().unwrap();
        if !is_gpt && matches!(kind, "5" | "f" | "85") {
            continue;
        }
        let node = partition["node"].as_str().unwrap().strip_prefix(device).unwrap();
        let number: u32 = node.trim_start_matches('p').parse().unwrap();
        let range = (partition["start"].as_u64().unwrap(), partition["size"].as_u64().unwrap());
        let text = |key: &str| partition[key].as_str().map(String::from);
        let bootable = partition["bootable"] == true
            || text("attrs").is_some_and(|attrs| attrs.contains("LegacyBIOSBootable"));
        expected.push((number, range, kind.to_string(), text("uuid"), text("name"), bootable));
    }
    expected.sort_by_key(|partition| partition.1);
    let of = |p: &crate::partition::Partition| {
        assert_eq!(matches!(p.type_id, PartitionType::Gpt(_)), is_gpt);
        let range = (p.range.start().0 / sector, p.range.len().0 / sector);
        let guid = p.guid.as_ref().map(format_guid);
        (p.number, range, p.type_id.to_string(), guid, p.name.clone(), p.bootable)
    };
    assert_eq!(table.partitions.iter().map(of).collect::<Vec<_>>(), expected);
    expected.len()
}

#[test]
fn tables_agree_with_sfdisk_and_the_recipe() {
    let Some(dir) = corpus() else { return };
    let mut compared = 0;
    for name in WITH_TABLE {
        let meta = meta(&dir.join(format!("{name}.meta.json")));
        let mut disk = Whole(Vec::new());
        decompress(&dir, name, |piece| disk.0.extend_from_slice(piece));
        let table = read(&disk);
        assert_eq!(table.warnings, [], "{name}");
        compared += compare_with_sfdisk(&table, &meta["table_by_sfdisk"]);
        let recipe = meta["partitions"].as_array().unwrap().iter().map(|partition| {
            let number = |key: &str| partition[key].as_u64().unwrap();
            (number("index"), number("offset"), number("size"))
        });
        let found = table.partitions.iter();
        let found = found.map(|p| (u64::from(p.number), p.range.start().0, p.range.len().0));
        assert_eq!(found.collect::<Vec<_>>(), recipe.collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(compared, 12);
}

#[test]
fn whole_disk_volumes_have_no_table() {
    let Some(dir) = corpus() else { return };
    let mut seen = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = file.strip_suffix(".img.zst") else { continue };
        if WITH_TABLE.contains(&name) {
            continue;
        }
        let edges = edges(&dir, name);
        assert_eq!(edges.len as u64, meta(&dir.join(format!("{name}.meta.json")))["image_size"]);
        let table = read(&edges);
        assert_eq!(table.kind, TableKind::None, "{name}");
        assert_eq!((table.partitions, table.warnings), (vec![], vec![]), "{name}");
        seen += 1;
    }
    println!("{seen} images");
    assert!(seen >= 24, "{seen}");
}
