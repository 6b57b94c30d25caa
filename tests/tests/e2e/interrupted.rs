//! Commands that are interrupted in the middle: exit code, what they leave, and that the next one brings it to its end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use umbra_tests::images::{Noise, expect_equal, make_ext4, write_noise};
use umbra_tests::json::{Answer, text};
use umbra_tests::must;
use umbra_tests::programs::{Home, Programs};

/// Bytes of a disk that takes some seconds at [`RATE`].
const SLOW_BYTES: u64 = 48 << 20;
const RATE: &str = "8M";

/// Runs `umbra` and sends it a signal after two seconds; the exit code is what a shell would show.
fn interrupted(home: &Home, signal: &str, arguments: &[&str]) -> Result<Answer> {
    let umbra = home.umbra();
    let mut command = Command::new("timeout");
    // As a terminal does, it tells the whole group; only of a kill it would die itself.
    if signal == "KILL" {
        command.arg("--foreground");
    }
    command.args(["--preserve-status", "-s", signal, "2"]).arg(umbra.get_program());
    for (name, value) in umbra.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Answer::of(command.current_dir(home.dir()).args(["--machine", "m"]).args(arguments))
}

fn umbra(home: &Home, arguments: &[&str]) -> Result<Answer> {
    Answer::of(home.umbra().args(["--json", "--machine", "m"]).args(arguments))
}

#[test]
fn a_backup_that_is_interrupted_leaves_no_snapshot_and_no_lock() -> Result<()> {
    let test = "interrupted::a_backup_that_is_interrupted_leaves_no_snapshot_and_no_lock";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    write_noise(&home.path("disk.img"), SLOW_BYTES, &mut Noise::new(41))?;
    home.init_store()?;
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        interrupted(&home, signal, &["--limit-upload", RATE, "backup", "disk.img"])?
            .expect_code(code)?;
        let list = umbra(&home, &["snapshots"])?.expect_code(0)?;
        ensure!(list.of_type("entry")?.is_empty(), "{signal}: {}", list.describe());
    }
    let summary = umbra(&home, &["backup", "disk.img"])?.expect_code(0)?.summary()?;
    home.recover(text(&summary, "snapshot")?, &home.path("back.img"))?;
    expect_equal(&home.path("disk.img"), &home.path("back.img"))
}

#[test]
fn a_recovery_that_is_interrupted_passes_for_no_disk() -> Result<()> {
    let test = "interrupted::a_recovery_that_is_interrupted_passes_for_no_disk";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    let image = home.path("disk.img");
    write_noise(&image, SLOW_BYTES, &mut Noise::new(42))?;
    home.init_store()?;
    let backup = home.backup(&image, "d")?;
    let snapshot = text(&backup, "snapshot")?;
    let arguments = ["--limit-download", RATE, "recover", snapshot, "--to", "back.img"];
    for (signal, code) in [("INT", 130), ("TERM", 143), ("KILL", 137)] {
        interrupted(&home, signal, &arguments)?.expect_code(code)?;
        ensure!(!home.path("back.img").exists(), "{signal}: it has its final name");
    }
    home.recover(snapshot, &home.path("back.img"))?;
    expect_equal(&image, &home.path("back.img"))?;
    ensure!(
        !home.path("back.img.umbra-partial").exists(),
        "what the killed one left is still there"
    );
    Ok(())
}

#[test]
fn a_restore_that_is_interrupted_is_brought_to_its_end_by_the_next() -> Result<()> {
    let test = "interrupted::a_restore_that_is_interrupted_is_brought_to_its_end_by_the_next";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    let tree = home.path("tree");
    let mut noise = Noise::new(43);
    for number in 0..6 {
        let dir = tree.join(format!("dir{number}/inner"));
        fs::create_dir_all(&dir)?;
        write_noise(&dir.join("noise"), SLOW_BYTES / 6, &mut noise)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750))?;
        fs::set_permissions(dir.parent().unwrap_or(&dir), fs::Permissions::from_mode(0o751))?;
    }
    make_ext4(&home.path("disk.img"), SLOW_BYTES + (16 << 20), &tree, &[])?;
    home.init_store()?;
    let backup = home.backup(&home.path("disk.img"), "d")?;
    let restore = ["restore", text(&backup, "snapshot")?, "--target", "out"];
    let slow = [&["--limit-download", RATE][..], &restore].concat();
    interrupted(&home, "INT", &slow)?.expect_code(130)?;
    ensure!(files_of(&home.path("out"))? < 6, "the restore was too fast");
    umbra(&home, &restore)?.expect_code(0)?;
    let mut diff = Command::new("diff");
    diff.args(["-r", "--exclude", "lost+found", "--exclude", ".umbra-partial-*"]);
    must(diff.arg(&tree).arg(home.path("out")))?;
    ensure!(modes(&tree)? == modes(&home.path("out"))?, "directories have other modes");
    Ok(())
}

fn files_of(dir: &Path) -> Result<usize> {
    let found = must(Command::new("find").arg(dir).args(["-name", "noise"]))?;
    Ok(found.iter().filter(|byte| **byte == b'\n').count())
}

/// Modes and times of the directories that the test made.
fn modes(dir: &Path) -> Result<Vec<String>> {
    let mut find = Command::new("find");
    find.current_dir(dir).args([".", "-mindepth", "1", "-type", "d", "-path", "./dir*"]);
    let found = String::from_utf8(must(find.args(["-printf", "%p %m\n"]))?)?;
    let mut lines: Vec<String> = found.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}
