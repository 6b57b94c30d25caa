//! The disks that are damaged: the corpus beside the checkout, the images that fuzz inputs start
//! from, and e2fsprogs' own broken ones.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the source of e2fsprogs is had, and what it must be.
const E2FSPROGS: &str =
    "http://deb.debian.org/debian/pool/main/e/e2fsprogs/e2fsprogs_1.47.0.orig.tar.gz";
const E2FSPROGS_SHA256: &str = "6667afde56eef0c6af26684974400e4d2288ea49e9441bf5e6229195d51a3578";
/// Larger ones of its images are nothing but long.
const MAX_IMAGE_BYTES: u64 = 36 << 20;
/// Window of the corpus' frames.
const WINDOW_LOG: u32 = 27;

/// A sound disk.
pub(super) struct Base {
    pub(super) name: String,
    /// Stays the same when others come or go.
    pub(super) number: u64,
    path: PathBuf,
}

impl Base {
    /// Unpacks it.
    pub(super) fn read(&self) -> Vec<u8> {
        let file = std::fs::File::open(&self.path).unwrap();
        let mut decoder = zstd::Decoder::new(file).unwrap();
        decoder.window_log_max(WINDOW_LOG).unwrap();
        let mut bytes = Vec::new();
        decoder.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

/// Finds every ext and every partitioned disk; `skip` is told what is not there.
pub(super) fn bases(skip: impl Fn(&str)) -> Vec<Base> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = here.ancestors().map(|dir| dir.join("shared/corpus")).find(|dir| dir.is_dir());
    if corpus.is_none() {
        skip("no shared/corpus stands beside the checkout; only small images are damaged");
    }
    let mut found = Vec::new();
    for dir in corpus.into_iter().chain([here.join("../fuzz/images")]) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let name = name.trim_end_matches(".zst").trim_end_matches(".img").to_owned();
            let wanted = ["ext", "h-ext", "disk-"].iter().any(|start| name.starts_with(start));
            if wanted && path.extension().is_some_and(|end| end == "zst") && !name.contains("json")
            {
                let number = u64::from_le_bytes(
                    *blake3::hash(name.as_bytes()).as_bytes().first_chunk().unwrap(),
                );
                found.push(Base { name, number, path });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Finds the images that e2fsprogs tests e2fsck with, or fetches them once; name and bytes.
pub(super) fn of_e2fsprogs(skip: impl Fn(&str)) -> Option<Vec<(String, Vec<u8>)>> {
    let cache = std::env::var_os("UMBRA_TEST_CACHE_DIR")
        .map_or_else(|| std::env::temp_dir().join("umbra-test-cache"), PathBuf::from);
    let archive = cache.join("e2fsprogs_1.47.0.orig.tar.gz");
    if !archive.exists() {
        std::fs::create_dir_all(&cache).unwrap();
        let part = tempfile::NamedTempFile::new_in(&cache).unwrap();
        let fetched = run("curl", &["-sSfL", "-m", "120", "-o"], &[part.path()], &[E2FSPROGS]);
        if let Err(reason) = fetched {
            skip(&format!("{E2FSPROGS} cannot be had: {reason}"));
            return None;
        }
        part.persist(&archive).unwrap();
    }
    let sum = run("sha256sum", &[], &[&archive], &[]).unwrap();
    assert!(
        sum.starts_with(E2FSPROGS_SHA256.as_bytes()),
        "{} is not what it should be: remove it",
        archive.display()
    );
    let dir = tempfile::tempdir().unwrap();
    let pick = ["--wildcards", "--strip-components=1", "*/tests/*/image.gz"];
    run("tar", &["-xzf"], &[&archive, Path::new("-C"), dir.path()], &pick).unwrap();
    let mut images = Vec::new();
    for entry in std::fs::read_dir(dir.path().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = run("gzip", &["-dc"], &[&path.join("image.gz")], &[]).unwrap();
        if bytes.len() as u64 <= MAX_IMAGE_BYTES {
            images.push((name, bytes));
        }
    }
    images.sort();
    Some(images)
}

/// Runs a program and returns what it prints.
fn run(program: &str, before: &[&str], paths: &[&Path], after: &[&str]) -> Result<Vec<u8>, String> {
    let output = Command::new(program).args(before).args(paths).args(after).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
