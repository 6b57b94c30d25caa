//! `testdata/formats/v1/store/vault` was made by a build of the past; every later one reads it and adds to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umbra_tests::images::expect_equal;
use umbra_tests::json::{Answer, text};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::reader::{Reader, copy_tree};

fn stored() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/formats/v1/store")
}

/// One line of `expected.txt`.
struct Expected {
    hash: String,
    snapshot: String,
    /// The path of a file; none for the whole disk.
    path: Option<String>,
}

fn expected() -> Result<Vec<Expected>> {
    let lines = fs::read_to_string(stored().join("expected.txt"))?;
    let lines: Vec<Expected> = lines
        .lines()
        .map(|line| {
            let mut words = line.splitn(3, ' ').map(str::to_owned);
            let mut word = || words.next().with_context(|| line.to_owned());
            let (hash, snapshot, path) = (word()?, word()?, word()?);
            Ok(Expected { hash, snapshot, path: (path != "-").then_some(path) })
        })
        .collect::<Result<_>>()?;
    ensure!(lines.len() == 24, "{} lines", lines.len());
    Ok(lines)
}

fn expect_hash(expected: &Expected, found: &[u8]) -> Result<()> {
    let found = blake3::hash(found).to_hex();
    let what = expected.path.as_deref().unwrap_or("the disk");
    ensure!(found.as_str() == expected.hash, "{what} of {} is {found}", expected.snapshot);
    Ok(())
}

#[test]
fn the_independent_reader_reads_it() -> Result<()> {
    let test = "stored_store::the_independent_reader_reads_it";
    let Some(reader) = Reader::find(test, &stored().join("vault")) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let listed: Vec<String> = reader.list()?.into_iter().map(|words| words.join(" ")).collect();
    ensure!(listed.len() == 2 && listed.iter().all(|line| line.contains(" golden sda ")));
    for one in expected()? {
        let found = match &one.path {
            Some(path) => reader.cat(&one.snapshot, path)?,
            None => {
                let to = dir.path().join(&one.snapshot);
                reader.recover(&one.snapshot, &to)?;
                fs::read(to)?
            }
        };
        expect_hash(&one, &found)?;
    }
    Ok(())
}

#[test]
fn this_build_reads_it_and_adds_to_it() -> Result<()> {
    let test = "stored_store::this_build_reads_it_and_adds_to_it";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    let store = home.path("store");
    copy_tree(&stored().join("vault"), &store)?;
    let url = format!("file://{}", store.display());
    let run = |arguments: &[&str]| -> Result<Answer> {
        let mut umbra = home.umbra();
        umbra.args(["--json", "--vault", &url, "--machine", "golden", "--disk", "sda"]);
        Answer::of(umbra.args(arguments))?.expect_code(0)
    };
    let ids = || -> Result<BTreeSet<String>> {
        let entries = run(&["snapshots"])?.of_type("entry")?;
        entries.iter().map(|entry| Ok(text(entry, "snapshot")?.to_owned())).collect()
    };
    let expected = expected()?;
    let before: BTreeSet<String> = expected.iter().map(|one| one.snapshot.clone()).collect();
    ensure!(ids()? == before, "{:?}", ids()?);
    let mut newest = None;
    for one in &expected {
        let found = match &one.path {
            Some(path) => run(&["cat", &format!("{}:{path}", one.snapshot)])?.stdout,
            None => {
                let to = home.path(&one.snapshot);
                let path = to.to_str().context("text")?;
                let summary = run(&["--yes", "recover", &one.snapshot, "--to", path])?.summary()?;
                ensure!(summary["verified"] == Value::Bool(true), "{summary}");
                run(&["verify", "--deep", &one.snapshot])?;
                newest = Some(to.clone());
                fs::read(to)?
            }
        };
        expect_hash(one, &found)?;
    }

    // A further backup of the same disk with a changed byte: little is new, and everything is there.
    let image = newest.context("no disk is expected")?;
    let mut bytes = fs::read(&image)?;
    *bytes.last_mut().context("an empty disk")? ^= 1;
    fs::write(&image, &bytes)?;
    let summary = run(&["backup", "--free", "keep", image.to_str().context("text")?])?.summary()?;
    let added = text(&summary, "snapshot")?;
    ensure!(ids()?.len() == 3 && ids()?.contains(added), "{:?}", ids()?);
    let new = umbra_tests::json::number(&summary, "bytes_new")?;
    ensure!(new < 100 << 10, "{summary}");
    let back = home.path("back.img");
    run(&["--yes", "recover", added, "--to", back.to_str().context("text")?])?;
    expect_equal(&image, &back)?;

    if let Some(reader) = Reader::find(test, &store) {
        ensure!(reader.list()?.len() == 3, "{:?}", reader.list()?);
        let again = home.path("again.img");
        reader.recover(added, &again)?;
        expect_equal(&image, &again)?;
    }
    Ok(())
}
