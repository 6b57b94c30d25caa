//! CLI.md, as far as programs and scripts rely on it: fields, exit codes, names of snapshots and of odd files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umbra_tests::images::make_ext4;
use umbra_tests::json::{Answer, text};
use umbra_tests::programs::{Home, Programs};

/// Names that a careless program breaks on.
const ODD_NAMES: [&[u8]; 8] = [
    b"-rf",
    b"a b  c",
    b"new\nline",
    b"\xff\xfe-latin\xe9",
    b"per%41cent",
    b"col:on",
    b"esc\x1b[31m",
    b"[glob]*?",
];

#[test]
fn summaries_have_every_field() -> Result<()> {
    let test = "contract::summaries_have_every_field";
    let Some(home) = store_with_odd_names(test)? else { return Ok(()) };
    let backup = home.backup(&home.path("disk.img"), "d")?;
    has(
        &backup,
        "snapshot machine disk run bytes_total bytes_read bytes_zero bytes_free bytes_files bytes_new bytes_new_files \
         bytes_new_residue bytes_new_meta bytes_stored bytes_sent chunks_total chunks_new files warnings consistency \
         duration_ms image_hash",
    )?;
    let snapshot = text(&backup, "snapshot")?;
    let shown = run(&home, &["--json", "show", snapshot], 0)?.summary()?;
    has(&shown, "volumes bytes_total bytes_new bytes_stored image_hash consistency warnings")?;
    ensure!(shown["bytes_new"] == backup["bytes_new"], "new: {shown} and {backup}");
    ensure!(shown["bytes_stored"] == backup["bytes_stored"], "stored: {shown} and {backup}");
    has(&shown["volumes"][0], "path kind label uuid offset bytes files parsed reason")?;
    let recovered = home.recover(snapshot, &home.path("recovered.img"))?;
    has(
        &recovered,
        "bytes_written bytes_skipped_equal bytes_zeroed bytes_fetched image_hash verified duration_ms",
    )?;
    let manual = run(&home, &["--json", "man", "manual"], 0)?.summary()?;
    has(&manual, "dir")
}

#[test]
fn odd_names_are_listed_and_printed() -> Result<()> {
    let test = "contract::odd_names_are_listed_and_printed";
    let Some(home) = store_with_odd_names(test)? else { return Ok(()) };
    let backup = home.backup(&home.path("disk.img"), "d")?;
    let snapshot = text(&backup, "snapshot")?;
    let entries = run(&home, &["--json", "ls", snapshot], 0)?.of_type("entry")?;
    for name in ODD_NAMES {
        let path = [snapshot.as_bytes(), b":/", name].concat();
        let mut command = home.umbra();
        let printed =
            Answer::of(command.arg("cat").arg(OsStr::from_bytes(&path)))?.expect_code(0)?;
        ensure!(printed.stdout == name, "{name:?}: {:?}", printed.stdout);
        let wanted = match std::str::from_utf8(name) {
            Ok(name) => format!("/{name}"),
            Err(_) => "/%FF%FE-latin%E9".into(),
        };
        let entry = entries.iter().find(|entry| entry["path"] == wanted.as_str());
        let entry = entry.with_context(|| format!("{wanted:?} is not listed"))?;
        let encoded = entry["path_encoded"] == true;
        ensure!(encoded == std::str::from_utf8(name).is_err(), "{entry}");
        has(
            entry,
            "snapshot volume file_type size mode uid gid mtime ctime nlink inode blake3 generation",
        )?;
        let time = text(entry, "mtime")?;
        ensure!(time.len() == "2026-01-01T00:00:00.000000000Z".len(), "no nanoseconds: {time}");
    }
    Ok(())
}

#[test]
fn names_of_snapshots_and_exit_codes() -> Result<()> {
    let test = "contract::names_of_snapshots_and_exit_codes";
    let Some(home) = store_with_odd_names(test)? else { return Ok(()) };
    let image = home.path("disk.img");
    let first = home.backup(&image, "d")?;
    let second = home.backup(&image, "d")?;
    let of = |arguments: &[&str]| -> Result<Value> {
        let mut all = vec!["--json", "--machine", "m"];
        all.extend(arguments);
        Ok(run(&home, &all, 0)?.summary()?["snapshot"].clone())
    };
    ensure!(of(&["show", "latest"])? == second["snapshot"]);
    ensure!(of(&["show", "latest~1"])? == first["snapshot"]);
    ensure!(of(&["show", "m/d@2999-01-01"])? == second["snapshot"]);
    let digits = text(&first, "snapshot")?.get(..16).context("an id is short")?;
    ensure!(of(&["show", digits])? == first["snapshot"]);

    let other = home.backup(&image, "other")?;
    let asked = run(&home, &["--json", "--machine", "m", "show", "latest"], 2)?;
    for one in [&second, &other] {
        let short = text(one, "snapshot")?.get(..12).context("an id is short")?;
        ensure!(asked.stderr.contains(short), "{short} is no candidate: {}", asked.describe());
    }
    for (arguments, code) in [
        (&["show", "ffffffffffffffff"][..], 1),
        (&["show", "latest~x"], 2),
        (&["show", "m/d@1970-01-02"], 1),
        (&["cat", "m/d@2999-01-01:/nothing"], 1),
        (&["show"], 2),
        (&["snapshots", "--nothing"], 2),
        (&["--vault", "file:///nowhere", "snapshots"], 10),
        (&["recover", digits, "--to", "disk.img"], 5),
    ] {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let answer = run(&home, &all, code)?;
        let errors = answer.of_type("error")?;
        ensure!(errors.len() == 1, "one error, not {errors:?}: {}", answer.describe());
        ensure!(errors.iter().all(|error| error["exit_code"] == code), "{errors:?}");
    }
    Ok(())
}

#[test]
fn a_dry_run_changes_nothing() -> Result<()> {
    let test = "contract::a_dry_run_changes_nothing";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    run(&home, &["--dry-run", "init", "store"], 0)?;
    run(&home, &["--dry-run", "man", "manual"], 0)?;
    let left: Vec<_> = std::fs::read_dir(home.dir())?.collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    run(&home, &["init", "store"], 0)?;
    run(&home, &["--dry-run", "init", "store"], 1)?;
    Ok(())
}

#[test]
fn the_environment_switches_options() -> Result<()> {
    let test = "contract::the_environment_switches_options";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    for (value, json) in [("1", true), ("true", true), ("0", false), ("", false)] {
        let answer =
            Answer::of(home.umbra().env("UMBRA_JSON", value).arg("snapshots"))?.expect_code(0)?;
        ensure!(answer.summary().is_ok() == json, "UMBRA_JSON={value}: {}", answer.describe());
    }
    // The command line is stronger than the environment, and that than the file.
    let nowhere = "file:///nowhere";
    Answer::of(home.umbra().env("UMBRA_VAULT", nowhere).arg("snapshots"))?.expect_code(10)?;
    let store = format!("file://{}", home.path("store").display());
    let mut command = home.umbra();
    command.env("UMBRA_VAULT", nowhere).args(["--vault", &store, "snapshots"]);
    Answer::of(&mut command)?.expect_code(0)?;
    Ok(())
}

/// A home with an embedded store and `disk.img`, on which every odd name holds itself.
fn store_with_odd_names(test: &str) -> Result<Option<Home>> {
    let Some(programs) = Programs::find(test) else { return Ok(None) };
    let home = Home::new(&programs)?;
    let tree = home.path("tree");
    std::fs::create_dir(&tree)?;
    for name in ODD_NAMES {
        std::fs::write(tree.join(OsStr::from_bytes(name)), name)?;
    }
    make_ext4(&home.path("disk.img"), 16 << 20, &tree, &[])?;
    home.init_store()?;
    Ok(Some(home))
}

fn run(home: &Home, arguments: &[&str], code: i32) -> Result<Answer> {
    Answer::of(home.umbra().args(arguments))?.expect_code(code)
}

fn has(object: &Value, fields: &str) -> Result<()> {
    for field in fields.split_whitespace() {
        ensure!(object.get(field).is_some(), "no field {field} in {object}");
    }
    Ok(())
}
