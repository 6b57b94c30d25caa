//! The bytes of every format of the store, frozen in `testdata/formats/v1/store.txt`.
//!
//! `docs/formats/store_formats.py` checks the same file from the pages alone.

use std::path::PathBuf;

use umbra_common::wire::{Codec, Object, object::id_of};
use umbra_common::{Kind, Reference};

use crate::format::StoreFormat;
use crate::ids::{DomainId, PackId, StoreId, Timestamp};
use crate::log::{golden_quarantine_segment, golden_segment};
use crate::pack::{
    Contents, Entry, PackHeader, PackKind, Parity, Record, RecordDraft, RecordHeader,
};

const STORE: StoreId = StoreId(*b"golden-store-id!");
const PACK: PackId = PackId(*b"golden-pack-id!!");

fn record(object: &Object) -> (RecordHeader, Vec<u8>) {
    RecordDraft {
        store: STORE,
        domain: DomainId(0),
        cipher: 0,
        key_epoch: 0,
        object,
        stored_body: &object.body,
    }
    .encode()
}

fn object(kind: Kind, refs: Vec<Reference>, body: &[u8], zstd: Option<&[u8]>) -> Object {
    Object {
        reference: Reference { kind, id: id_of(kind, &refs, body) },
        refs,
        codec: if zstd.is_some() { Codec::Zstd } else { Codec::None },
        plain_len: u32::try_from(body.len()).unwrap(),
        body: zstd.unwrap_or(body).to_vec(),
    }
}

/// A frame that no library's version changes: one raw block of RFC 8878.
fn raw_frame(body: &[u8]) -> Vec<u8> {
    let len = u8::try_from(body.len()).unwrap();
    let block = (u32::from(len) << 3) | 1;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, len];
    frame.extend_from_slice(&block.to_le_bytes()[..3]);
    frame.extend_from_slice(body);
    frame
}

fn pack() -> Vec<u8> {
    let header = PackHeader {
        kind: PackKind::Nodes,
        store: STORE,
        pack: PACK,
        gc_generation: 3,
        epoch: 4,
        number: 5,
    };
    let text = b"the bytes of a chunk".as_slice();
    let plain = object(Kind::Chunk, Vec::new(), text, None);
    let frame = raw_frame(b"zstd");
    let packed = object(Kind::Chunk, Vec::new(), b"zstd", Some(&frame));
    let refs = vec![plain.reference, packed.reference];
    let node = object(Kind::MapPage, refs, b"\xa1\x00\x01", None);
    let mut bytes = header.encode();
    let mut entries = Vec::new();
    for object in [plain, packed, node] {
        let offset = u64::try_from(bytes.len()).unwrap();
        let (header, encoded) = record(&object);
        Record::verify(&encoded, STORE).unwrap();
        crate::prove(&object).unwrap();
        bytes.extend_from_slice(&encoded);
        entries.push(Entry::new(offset, &header, object.refs));
    }
    let covers = u64::try_from(bytes.len()).unwrap();
    let contents = Contents { store: STORE, pack: PACK, covers, entries };
    bytes.extend_from_slice(&contents.encode());
    bytes
}

/// The bytes that the golden parity is of: a pack's worth of shards that are not all alike.
fn three_shards() -> Vec<u8> {
    let mut bytes = vec![0; 10_000];
    blake3::Hasher::new().update(b"umbra golden parity").finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn golden_parity() {
    let object = Parity::make(STORE, PACK, &three_shards()).unwrap();
    let made = format!(
        "# Golden bytes of a parity object: docs/formats/pack.md.\n\
         # Made by vault/store/src/golden.rs; checked by docs/formats/store_formats.py.\n\
         parity {}\n",
        hex(&object)
    );
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("testdata/formats/v1/parity.txt");
    if !path.exists() && std::env::var_os("UMBRA_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let frozen = std::fs::read_to_string(&path).unwrap();
    assert!(made == frozen, "the parity changed: packs could not be made anew");
    let last = three_shards().split_off(4096);
    let parity = Parity::decode(&object, "golden").unwrap();
    let without_first = [vec![0; 4096], last].concat();
    assert_eq!(parity.reconstruct(&without_first, &object), Some(three_shards()));
}

#[test]
fn golden_quarantine() {
    let made = format!(
        "# Golden bytes of the LOG's entries 24 and 25: docs/formats/log.md.\n\
         # Made by vault/store/src/golden.rs; checked by docs/formats/store_formats.py.\n\
         log {}\n",
        hex(&golden_quarantine_segment(STORE, PACK))
    );
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("testdata/formats/v1/quarantine.txt");
    if !path.exists() && std::env::var_os("UMBRA_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap() == made, "the entries changed");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes() {
    let mut format = StoreFormat::new(STORE, Timestamp(1_700_000_000_123_456_789));
    format.compatible.insert("an-example".to_owned());
    let lock = crate::lock::golden_lock();
    let mut made = "# Golden bytes of the store's formats: docs/formats/{store,pack,log}.md.\n\
                    # Made by vault/store/src/golden.rs; checked by docs/formats/store_formats.py.\n"
        .to_owned();
    for (name, bytes) in [
        ("format", format.encode()),
        ("lock", lock),
        ("pack", pack()),
        ("log", golden_segment(STORE)),
    ] {
        made.push_str(&format!("{name} {}\n", hex(&bytes)));
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("testdata/formats/v1/store.txt");
    if !path.exists() && std::env::var_os("UMBRA_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let frozen = std::fs::read_to_string(&path).unwrap();
    for (made, frozen) in made.lines().zip(frozen.lines()) {
        let name = made.split(' ').next().unwrap();
        assert_eq!(made, frozen, "the format of `{name}` changed: that is a new version");
    }
    assert_eq!(made.lines().count(), frozen.lines().count());
}

#[test]
#[allow(clippy::print_stdout)]
fn golden_bytes_by_the_pages_alone() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let check = root.join("docs/formats/store_formats.py");
    let python = || std::process::Command::new("python3");
    let run = |args: &[&std::ffi::OsStr]| python().args(args).output();
    if !run(&["-c".as_ref(), "import blake3".as_ref()]).is_ok_and(|out| out.status.success()) {
        println!("SKIP: needs python3 with the package blake3");
        return;
    }
    for golden in ["store.txt", "parity.txt", "quarantine.txt"] {
        let golden = root.join("testdata/formats/v1").join(golden);
        let out = run(&[check.as_os_str(), golden.as_os_str()]).unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{text}");
    }
}
