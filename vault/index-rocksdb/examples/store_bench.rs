//! Measures what a store does with itself: a collection of a million chunks, taking open packs over,
//! a rebuild from many packs, a check beside reading and hashing. `cargo xtask bench --store` runs it.
//!
//! `store_bench gc|rebuild|recover|check DIR [COUNT]`; each prints one line a figure.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use umbra_common::wire::{Codec, Object, object::id_of};
use umbra_common::{Kind, Reference};
use umbra_index_rocksdb::RocksIndexOpener;
use umbra_store::{
    CheckOptions, Commit, CommitRequest, DomainId, GcOptions, InitOptions, Intent, MachineId,
    OpenOptions, Put, ReadData, RealVfs, RunId, SessionInfo, SessionNonce, Store, StoreId,
    Timestamp, Vfs, check,
};

/// Length of a chunk that fills a pack of 256 bytes.
const TINY: usize = 200;

/// Chunks of a map page.
const PAGE: u64 = 250;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(what), Some(dir)) = (arguments.first(), arguments.get(1)) else {
        eprintln!("store_bench gc|rebuild|recover|check DIR [COUNT]");
        std::process::exit(2);
    };
    let count = arguments.get(2).and_then(|count| count.parse().ok());
    let dir = PathBuf::from(dir);
    match what.as_str() {
        "gc" => gc(&dir, count.unwrap_or(1_000_000)),
        "rebuild" => rebuild(&dir, count.unwrap_or(100_000)),
        "recover" => recover(&dir),
        _ => check_speed(&dir, count.unwrap_or(20_000)),
    }
}

fn now() -> Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    Timestamp(i64::try_from(since.as_nanos()).unwrap())
}

fn vfs(dir: &Path) -> Arc<dyn Vfs> {
    Arc::new(RealVfs::new(dir))
}

fn open(dir: &Path, pack_bytes: Option<u64>) -> Store {
    let index = Box::new(RocksIndexOpener::new(dir.join("index")));
    let seed = *blake3::hash(&now().0.to_le_bytes()).as_bytes();
    let mut options = OpenOptions::owner(index, seed, std::process::id(), now());
    options.pack_bytes = pack_bytes.unwrap_or(options.pack_bytes);
    Store::open(vfs(dir), options).unwrap()
}

fn make(dir: &Path) {
    Store::init(&vfs(dir), &InitOptions { store: StoreId([7; 16]), now: now() }).unwrap();
}

fn object(kind: Kind, refs: &[Reference], body: Vec<u8>) -> Object {
    let reference = Reference { kind, id: id_of(kind, refs, &body) };
    let plain_len = u32::try_from(body.len()).unwrap();
    Object { reference, refs: refs.to_vec(), codec: Codec::None, plain_len, body }
}

/// A chunk of its number's own bytes.
fn chunk(number: u64, len: usize) -> Object {
    let mut body = vec![0; len];
    let mut stream = blake3::Hasher::new();
    stream.update(&number.to_le_bytes());
    stream.finalize_xof().fill(&mut body);
    object(Kind::Chunk, &[], body)
}

/// Backs up the chunks of a range of numbers; returns the bytes of their bodies.
fn back_up(store: &Store, name: &str, numbers: std::ops::Range<u64>, len: usize) -> u64 {
    let info = SessionInfo {
        machine: MachineId([1; 16]),
        machine_name: "m".to_owned(),
        disk: name.to_owned(),
        domain: DomainId(0),
        nonce: SessionNonce([2; 16]),
        run: RunId([3; 16]),
        base: None,
        on_settled: Box::new(|_| {}),
    };
    let session = store.begin(info, now()).unwrap();
    let mut number = 0;
    let mut put = |object: &Object| {
        number += 1;
        assert_eq!(store.put(&session, number, object).unwrap(), Put::Accepted);
        object.reference
    };
    let mut bytes = 0;
    let mut pages = Vec::new();
    let mut start = numbers.start;
    while start < numbers.end {
        let end = (start + PAGE).min(numbers.end);
        let mut refs = Vec::new();
        for number in start..end {
            bytes += u64::try_from(len).unwrap();
            refs.push(put(&chunk(number, len)));
        }
        pages.push(put(&object(Kind::MapPage, &refs, start.to_le_bytes().to_vec())));
        start = end;
        // Tiny packs are made faster than they are sealed, and each is an open file.
        if len == TINY {
            store.flush().unwrap();
        }
    }
    let map = put(&object(Kind::MapNode, &pages, name.as_bytes().to_vec()));
    let manifest = put(&object(Kind::Manifest, &[map], name.as_bytes().to_vec()));
    let request =
        CommitRequest { manifest: manifest.id, tags: Vec::new(), labels: BTreeMap::new() };
    let committed = store.commit(&session, &request, now()).unwrap();
    assert!(matches!(committed, Commit::Committed(_)));
    bytes
}

/// A line of `/proc/self/NAME`, as a number.
fn of_proc(name: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{name}")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// Forgets what the kernel knows of the most memory that this process took.
fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn peak_mib() -> u64 {
    of_proc("status", "VmHWM") / 1024
}

fn gc(dir: &Path, chunks: u64) {
    make(dir);
    let store = open(dir, None);
    let each = chunks / 100;
    let started = Instant::now();
    // Neighbours share half of their chunks.
    let mut bytes = 0;
    for snapshot in 0..100 {
        let first = snapshot * each;
        bytes += back_up(&store, &format!("d{snapshot}"), first..first + each + each / 2, 1024);
    }
    println!("made 100 snapshots of {chunks} chunks in {:.1} s", started.elapsed().as_secs_f64());
    store.close().unwrap();
    let store = open(dir, None);
    // Runs of ten go and stay, as of machines that are retired.
    let gone = (0..100).filter(|n| n / 10 % 2 == 1).map(|n| n + 1).collect();
    store.forget(&gone, now(), Intent::Do).unwrap();
    let objects = store.status().unwrap().objects;
    reset_peak();
    let (before, started) = (of_proc("io", "rchar"), Instant::now());
    let options = GcOptions {
        at_once: true,
        dry_run: false,
        limit: None,
        wait: None,
        clock: &now,
        stop: &|| false,
    };
    let report = store.gc(&options).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let read = of_proc("io", "rchar") - before;
    println!("gc of {objects} objects: {seconds:.1} s, {} MiB at most", peak_mib());
    println!(
        "gc read {:.1} MiB, {:.3} of each byte that was backed up; deleted {} of {} packs, {:.1} of \
         {:.1} MiB, copied {:.1} MiB",
        mib(read),
        ratio(read, bytes),
        report.packs_deleted,
        report.packs,
        mib(report.bytes_freed),
        mib(report.bytes),
        mib(report.bytes_copied),
    );
    let kept = (0..100).find(|n| n / 10 % 2 == 0).unwrap();
    let again = Instant::now();
    back_up(&store, "again", kept * each..(kept + 1) * each, 1024);
    println!("a backup of what stayed: {:.1} s", again.elapsed().as_secs_f64());
    store.close().unwrap();
}

fn rebuild(dir: &Path, packs: u64) {
    make(dir);
    // Packs that are full with each chunk.
    let store = open(dir, Some(256));
    let started = Instant::now();
    back_up(&store, "many", 0..packs, TINY);
    store.close().unwrap();
    println!("made {packs} packs in {:.1} s", started.elapsed().as_secs_f64());
    std::fs::remove_dir_all(dir.join("index")).unwrap();
    reset_peak();
    let started = Instant::now();
    let store = open(dir, None);
    let seconds = started.elapsed().as_secs_f64();
    let status = store.status().unwrap();
    println!(
        "rebuild from {} packs, {} objects: {seconds:.1} s, {} MiB at most",
        status.packs_sealed,
        status.objects,
        peak_mib()
    );
}

fn recover(dir: &Path) {
    let (first, copy) = (dir.join("first"), dir.join("copy"));
    std::fs::create_dir_all(dir).unwrap();
    make(&first);
    let store = open(&first, None);
    // All lanes have a pack that is nearly full.
    back_up(&store, "open", 0..60_000, 1024);
    let copied = std::process::Command::new("cp").arg("-a").arg(&first).arg(&copy).status();
    assert!(copied.unwrap().success());
    let open_bytes: u64 = std::fs::read_dir(copy.join("open"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    let packs = std::fs::read_dir(copy.join("open")).unwrap().count();
    let started = Instant::now();
    let store = open(&copy, None);
    let seconds = started.elapsed().as_secs_f64();
    println!("taking {packs} open packs over, {:.1} MiB: {seconds:.2} s", mib(open_bytes));
    drop(store);
}

fn check_speed(dir: &Path, chunks: u64) {
    make(dir);
    let store = open(dir, None);
    back_up(&store, "d", 0..chunks, 64 << 10);
    store.close().unwrap();
    let started = Instant::now();
    let mut bytes = 0;
    for pack in packs_of(dir) {
        let read = std::fs::read(pack).unwrap();
        bytes += u64::try_from(read.len()).unwrap();
        std::hint::black_box(blake3::hash(&read));
    }
    let hashing = started.elapsed().as_secs_f64();
    let options =
        CheckOptions::new(Box::new(RocksIndexOpener::new(dir.join("index"))), ReadData::Everything);
    let started = Instant::now();
    let report = check(&vfs(dir), &options).unwrap();
    let checking = started.elapsed().as_secs_f64();
    assert_eq!(report.packs_read, report.packs);
    println!(
        "check --read-data of {:.1} MiB: {checking:.2} s; reading and hashing with one thread: \
         {hashing:.2} s; ratio {:.2}",
        mib(bytes),
        checking / hashing
    );
}

fn packs_of(dir: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| {
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    list(&dir.join("packs")).iter().flat_map(|inner| list(inner)).collect()
}

#[allow(clippy::cast_precision_loss)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[allow(clippy::cast_precision_loss)]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}
