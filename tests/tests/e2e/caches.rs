//! The table of known chunks saves questions and nothing else: whatever stands in it, no snapshot lacks a byte.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use umbra_tests::images::{Noise, expect_equal, write_noise};
use umbra_tests::json::{Answer, number, text};
use umbra_tests::must;
use umbra_tests::programs::{Home, Programs};

/// Magic, version, store and snapshot; the check follows, then the ids (agent/src/known.rs).
const HEADER_BYTES: usize = 8 + 2 + 16 + 32;
const ID_BYTES: usize = 32;

/// The table of the only disk in a home.
fn table(home: &Home) -> Result<PathBuf> {
    let mut find = std::process::Command::new("find");
    let found = must(find.arg(home.path("cache")).args(["-name", "*.ids"]))?;
    let found = String::from_utf8(found)?;
    Ok(found.lines().next().context("there is no table")?.into())
}

fn backup(home: &Home) -> Result<Answer> {
    let mut command = home.umbra();
    command.args(["--json", "--machine", "m", "--disk", "d", "backup"]);
    Answer::of(command.arg(home.path("disk.img")))
}

#[test]
fn a_table_that_claims_too_much_costs_one_backup() -> Result<()> {
    let test = "caches::a_table_that_claims_too_much_costs_one_backup";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let (home, other) = (Home::new(&programs)?, Home::new(&programs)?);
    let image = home.path("disk.img");
    write_noise(&image, 24 << 20, &mut Noise::new(51))?;
    home.init_store()?;
    home.backup(&image, "d")?;
    // Another store has the next day's disk, and its table knows all of it.
    let file = File::options().write(true).open(&image)?;
    file.write_all_at(&Noise::new(52).bytes(3 << 20), 9 << 20)?;
    other.init_store()?;
    other.backup(&image, "d")?;

    // Its ids under this store's name and base: sorted, and with the right check.
    let own = fs::read(table(&home)?)?;
    let mut ids: Vec<Vec<u8>> = Vec::new();
    for bytes in [&own, &fs::read(table(&other)?)?] {
        let list = bytes.get(HEADER_BYTES + ID_BYTES..).context("a table is short")?;
        ids.extend(list.chunks_exact(ID_BYTES).map(<[u8]>::to_vec));
    }
    ids.sort();
    ids.dedup();
    let mut forged = own.get(..HEADER_BYTES).context("a table is short")?.to_vec();
    let ids = ids.concat();
    let check = blake3::Hasher::new().update(&forged).update(&ids).finalize();
    forged.extend_from_slice(check.as_bytes());
    forged.extend_from_slice(&ids);
    fs::write(table(&home)?, forged)?;

    let refused = backup(&home)?.expect_code(1)?;
    ensure!(refused.stderr.contains("lacks"), "{}", refused.describe());
    let mut list = home.umbra();
    let list = Answer::of(list.args(["--json", "--machine", "m", "snapshots"]))?;
    ensure!(list.of_type("entry")?.len() == 1, "{}", list.describe());

    let summary = backup(&home)?.expect_code(0)?.summary()?;
    ensure!(number(&summary, "bytes_new")? > 3 << 20, "{summary}");
    let back = home.path("back.img");
    home.recover(text(&summary, "snapshot")?, &back)?;
    expect_equal(&image, &back)
}

#[test]
fn a_table_of_another_store_or_damaged_or_empty_is_not_used() -> Result<()> {
    let test = "caches::a_table_of_another_store_or_damaged_or_empty_is_not_used";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let (home, other) = (Home::new(&programs)?, Home::new(&programs)?);
    let image = home.path("disk.img");
    write_noise(&image, 5 << 20, &mut Noise::new(53))?;
    home.init_store()?;
    let first = home.backup(&image, "d")?;
    let chunks = number(&first, "chunks_new")?;
    let own = fs::read(table(&home)?)?;
    // Two stores that share a cache directory.
    other.init_store()?;
    let mut command = other.umbra();
    command.env("UMBRA_CACHE_DIR", home.path("cache"));
    command.args(["--json", "--machine", "m", "--disk", "d", "backup"]).arg(&image);
    let summary = Answer::of(&mut command)?.expect_code(0)?.summary()?;
    ensure!(number(&summary, "chunks_new")? == chunks, "the other store has none: {summary}");
    other.recover(text(&summary, "snapshot")?, &other.path("back.img"))?;

    let path = home.path("cache").join(store_of(&own)?).join("m/d.ids");
    ensure!(fs::read(&path)? == own, "another store's backup wrote this table");
    let mut flipped = own.clone();
    *flipped.last_mut().context("a table is empty")? ^= 1;
    let mut short = own.clone();
    short.truncate(own.len() - ID_BYTES);
    for (what, table) in [("damaged", flipped), ("short", short), ("empty", Vec::new())] {
        fs::write(&path, table)?;
        let summary = backup(&home)?.expect_code(0)?.summary()?;
        ensure!(number(&summary, "chunks_new")? == 0, "{what}: {summary}");
        ensure!(fs::read(&path)?.len() == own.len(), "{what}: no new table");
    }
    Ok(())
}

/// The name of a store's directory in the cache.
fn store_of(table: &[u8]) -> Result<String> {
    let id = table.get(10..26).context("a table is short")?;
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}
