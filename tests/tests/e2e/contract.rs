//! CLI.md, as far as programs and scripts rely on it: fields, exit codes, names of snapshots and of odd files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umbra_tests::images::{Noise, make_ext4, write_noise};
use umbra_tests::json::{Answer, text};
use umbra_tests::must;
use umbra_tests::programs::{Home, Programs};
use umbra_tests::vault::Vault;

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
        ensure!(answer.summary()?["exit_code"] == code, "{}", answer.describe());
    }
    let back = format!("latest~{}", u64::MAX);
    run(&home, &["--json", "--machine", "m", "--disk", "d", "show", &back], 1)?.summary()?;
    Ok(())
}

#[test]
fn every_source_has_its_summary_and_the_failure_is_said() -> Result<()> {
    let test = "contract::every_source_has_its_summary_and_the_failure_is_said";
    let Some(home) = store_with_odd_names(test)? else { return Ok(()) };
    let changing = home.path("changing.img");
    std::fs::write(&changing, "another disk")?;
    // Written in place: a file that is emptied first would be refused for another reason.
    let writer = std::fs::File::options().write(true).open(&changing)?;
    let ends = AtomicBool::new(false);
    let mut command = home.umbra();
    command.args(["--json", "--machine", "m", "backup", "disk.img", "changing.img"]);
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                let _ = writer.write_all_at(b"another disk", 0);
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let answer = Answer::of(&mut command);
        ends.store(true, Ordering::Relaxed);
        answer
    })?
    .expect_code(5)?;
    let summaries = answer.of_type("summary")?;
    ensure!(summaries.len() == 2, "{}", answer.describe());
    ensure!(summaries[0]["snapshot"].is_string(), "{}", answer.describe());
    ensure!(summaries[1]["snapshot"].is_null(), "{}", answer.describe());
    ensure!(summaries[1]["disk"] == "changing.img", "{}", answer.describe());
    let errors = answer.of_type("error")?;
    ensure!(errors.len() == 1 && errors[0]["exit_code"] == 5, "{}", answer.describe());
    answer.summary()?;
    Ok(())
}

#[test]
fn the_content_of_a_file_is_all_that_cat_prints() -> Result<()> {
    let test = "contract::the_content_of_a_file_is_all_that_cat_prints";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    let tree = home.path("tree");
    std::fs::create_dir(&tree)?;
    write_noise(&tree.join("large"), 24 << 20, &mut Noise::new(61))?;
    make_ext4(&home.path("disk.img"), 48 << 20, &tree, &[])?;
    home.init_store()?;
    let backup = home.backup(&home.path("disk.img"), "d")?;
    let snapshot = text(&backup, "snapshot")?;
    // Bytes in the middle of what holds the noise.
    let files = must(Command::new("find").arg(home.path("store")).args(["-size", "+1M"]))?;
    for path in String::from_utf8(files)?.lines() {
        let file = std::fs::File::options().write(true).open(path)?;
        file.write_all_at(&[0xA5; 64], file.metadata()?.len() / 2)?;
    }
    let path = format!("{snapshot}:/large");
    let answer = run(&home, &["--json", "cat", &path], 4)?;
    let whole = std::fs::read(tree.join("large"))?;
    ensure!(answer.stdout.len() < whole.len(), "{} bytes", answer.stdout.len());
    ensure!(whole.starts_with(&answer.stdout), "something else than its content was printed");
    Ok(())
}

#[test]
fn a_limit_on_the_download_holds() -> Result<()> {
    let test = "contract::a_limit_on_the_download_holds";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    write_noise(&home.path("disk.img"), 12 << 20, &mut Noise::new(62))?;
    home.init_store()?;
    let backup = home.backup(&home.path("disk.img"), "d")?;
    let begin = std::time::Instant::now();
    run(&home, &["--limit-download", "4M", "verify", text(&backup, "snapshot")?], 0)?;
    ensure!(begin.elapsed().as_millis() > 2500, "too fast: {:?}", begin.elapsed());
    Ok(())
}

#[test]
fn a_token_may_come_from_the_environment() -> Result<()> {
    let test = "contract::a_token_may_come_from_the_environment";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let (administrator, agent) = (Home::new(&programs)?, Home::new(&programs)?);
    let vault = Vault::start_new(&administrator, "store")?;
    let token = vault.token(&administrator, "m")?;
    let enrolled = Answer::of(agent.umbra().env("UMBRA_TOKEN", &token).arg("enroll"))?;
    enrolled.expect_code(0)?;
    // A help text is shown to everybody.
    let help = Answer::of(agent.umbra().env("UMBRA_TOKEN", &token).args(["enroll", "--help"]))?;
    ensure!(!String::from_utf8_lossy(&help.stdout).contains(&token), "{}", help.describe());
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
    let wrong = Answer::of(home.umbra().env("UMBRA_JSON", "1").args(["snapshots", "--nothing"]))?;
    ensure!(wrong.expect_code(2)?.summary()?["exit_code"] == 2);
    // The command line is stronger than the environment, and that than the file.
    let nowhere = "file:///nowhere";
    Answer::of(home.umbra().env("UMBRA_VAULT", nowhere).arg("snapshots"))?.expect_code(10)?;
    let store = format!("file://{}", home.path("store").display());
    let mut command = home.umbra();
    command.env("UMBRA_VAULT", nowhere).args(["--vault", &store, "snapshots"]);
    Answer::of(&mut command)?.expect_code(0)?;
    let mut patient = home.umbra();
    patient.env("UMBRA_WAIT", u64::MAX.to_string()).arg("snapshots");
    Answer::of(&mut patient)?.expect_code(0)?;
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
