//! Recovery from a snapshot in memory to a file.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use umbra_common::ObjectId;

use super::*;
use crate::fetch::EachChunk;
use crate::fixture::{Fixture, Random, file};
use crate::monitor::Quiet;
use crate::mounts::System;
use crate::own_store::OwnStore;
use crate::target::inspect;

fn recover_to(path: &Path, fixture: &Fixture, chunks: &dyn ChunkSource) -> Result<Recovered> {
    let len = fixture.snapshot.manifest.disk.length;
    let mut found = inspect(path, len, &OwnStore::default(), &System::read()?)?;
    let target = Target::open(&mut found)?;
    let (snapshot, nodes) = (&fixture.snapshot, &fixture.nodes);
    let recovered = recover(snapshot, chunks, nodes, &target, ReadBack::Verify, &Quiet::default());
    match &recovered {
        Ok(_) => drop(target.finish()?),
        Err(_) => target.abandon(),
    }
    recovered
}

/// Gives chunks, and one request after another only when one of them had to say that a chunk is
/// lost.
struct WaitsForTheLost<'f> {
    fixture: &'f Fixture,
    lost: ObjectId,
    requests: Mutex<usize>,
}

impl ChunkSource for WaitsForTheLost<'_> {
    fn chunks(&self, wanted: &[Wanted], each: &mut EachChunk<'_>) -> Result<()> {
        *self.requests.lock().unwrap() += 1;
        let is_lost = |wanted: &Wanted| wanted.objects.iter().any(|(_, r)| r.id == self.lost);
        if !wanted.iter().any(is_lost) {
            std::thread::sleep(Duration::from_millis(500));
        }
        self.fixture.chunks.chunks(wanted, each)
    }
}

#[test]
fn a_chunk_that_is_lost_ends_it_at_once_and_leaves_no_target() {
    let mut random = Random::new(80);
    let files: Vec<_> = (0..8).map(|n| file(format!("f{n}"), &random.bytes(16 << 20))).collect();
    let mut fixture = Fixture::new(80, &files);
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.img");
    let recovered = recover_to(&whole, &fixture, &fixture.chunks).unwrap();
    assert!(recovered.verified);
    assert!(std::fs::read(&whole).unwrap() == fixture.disk);

    // The first data of the disk is in the first request.
    let map = fixture.snapshot.map_link().unwrap();
    let len = fixture.snapshot.manifest.disk.length;
    let all = ByteRange::new(ByteOffset(0), len).unwrap();
    let first = MapReader::new(&fixture.nodes, map, len)
        .runs(all)
        .find_map(|run| run.unwrap().chunk)
        .unwrap();
    fixture.chunks.table.remove(&first.target.id).unwrap();
    let source =
        WaitsForTheLost { fixture: &fixture, lost: first.target.id, requests: Mutex::new(0) };
    let partial = dir.path().join("partial.img");
    let error = recover_to(&partial, &fixture, &source).unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    assert!(error.to_string().contains("the vault lost it"), "{error}");
    let requests = source.requests.into_inner().unwrap();
    assert!((1..=REQUESTS).contains(&requests), "{requests} requests");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [whole]);
}
