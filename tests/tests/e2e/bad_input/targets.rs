//! Targets that must not be written to, and targets that are too small.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use umbra_tests::images::{Mount, Noise, make_ext4, write_noise};
use umbra_tests::json::{Answer, text};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::{is_root, must, skip};

use super::expect_refusal;

/// A home with a store and one snapshot of a 16 MiB disk.
fn backed_up(programs: &Programs) -> Result<(Home, String, PathBuf)> {
    let home = Home::new(programs)?;
    home.init_store()?;
    let tree = home.path("tree");
    fs::create_dir(&tree)?;
    write_noise(&tree.join("noise"), 5 << 20, &mut Noise::new(41))?;
    fs::write(tree.join("file"), "ours\n")?;
    let image = home.path("disk.img");
    make_ext4(&image, 16 << 20, &tree, &[])?;
    let backup = home.backup(&image, "d")?;
    let snapshot = text(&backup, "snapshot")?.to_owned();
    Ok((home, snapshot, image))
}

fn recover(home: &Home, snapshot: &str, to: &Path, more: &[&str]) -> Result<Answer> {
    Answer::of(home.umbra().args(["recover", snapshot, "--to"]).arg(to).args(more))
}

/// A loop device, detached when dropped.
struct Loop(String);

impl Loop {
    fn attach(image: &Path) -> Result<Self> {
        let said = must(Command::new("losetup").args(["--find", "--show"]).arg(image))?;
        Ok(Self(String::from_utf8(said)?.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A device that stays attached would only waste a number; the test's verdict is told elsewhere.
        let _ = Command::new("losetup").args(["-d", &self.0]).output();
    }
}

#[test]
fn an_existing_file_is_kept_unless_it_is_named() -> Result<()> {
    let test = "bad_input::an_existing_file_is_kept_unless_it_is_named";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let (home, snapshot, image) = backed_up(&programs)?;
    let target = home.path("precious");
    fs::write(&target, "precious")?;
    expect_refusal(recover(&home, &snapshot, &target, &[])?, 5, &["precious", "yes-destroy"])?;
    // `--yes` is no `--yes-destroy`.
    expect_refusal(recover(&home, &snapshot, &target, &["--yes"])?, 5, &["yes-destroy"])?;
    ensure!(fs::read(&target)? == b"precious", "the refused target was written to");
    let name = target.to_string_lossy().into_owned();
    recover(&home, &snapshot, &target, &["--yes-destroy", &name])?.expect_code(0)?;
    umbra_tests::images::expect_equal(&image, &target)
}

#[test]
fn a_device_that_is_too_small_or_mounted_is_refused() -> Result<()> {
    let test = "bad_input::a_device_that_is_too_small_or_mounted_is_refused";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    if !is_root() {
        skip(test, "loop devices and mounts need root");
        return Ok(());
    }
    let (home, snapshot, image) = backed_up(&programs)?;
    let small = home.path("small.img");
    File::create(&small)?.set_len(8 << 20)?;
    let device = Loop::attach(&small)?;
    let answer = recover(&home, &snapshot, Path::new(&device.0), &["--yes-destroy", &device.0])?;
    expect_refusal(answer, 5, &["8388608", "16777216", &device.0])?;
    ensure!(fs::read(&small)?.iter().all(|byte| *byte == 0), "the small target was written to");

    let busy = home.path("busy.img");
    fs::copy(&image, &busy)?;
    let device = Loop::attach(&busy)?;
    let dir = home.path("mnt");
    fs::create_dir(&dir)?;
    must(Command::new("mount").args([&device.0]).arg(&dir))?;
    let answer = recover(&home, &snapshot, Path::new(&device.0), &["--yes-destroy", &device.0]);
    let source = Answer::of(home.umbra().args(["--disk", "x", "backup", &device.0]));
    must(Command::new("umount").arg(&dir))?;
    expect_refusal(answer?, 5, &["in use", "unmount"])?;
    // As a source it is in use too, and there is no sound method for it yet.
    expect_refusal(source?, 5, &["mounted", "inconsistent-ok"])?;

    // A fitting device is written and proven.
    let right = home.path("right.img");
    write_noise(&right, 16 << 20, &mut Noise::new(42))?;
    let device = Loop::attach(&right)?;
    recover(&home, &snapshot, Path::new(&device.0), &["--yes-destroy", &device.0])?
        .expect_code(0)?;
    must(Command::new("cmp").arg(&image).arg(&device.0))?;
    let again = Answer::of(home.umbra().args(["--json", "--disk", "dev", "backup", &device.0]))?;
    let again = again.expect_code(0)?.summary()?;
    let mut show = home.umbra();
    let first = Answer::of(show.args(["--json", "show", &snapshot]))?.expect_code(0)?.summary()?;
    ensure!(first["image_hash"] == again["image_hash"], "device and image hash differ");
    Ok(())
}

#[test]
fn a_target_that_fills_up_says_so() -> Result<()> {
    let test = "bad_input::a_target_that_fills_up_says_so";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    if !is_root() {
        skip(test, "a small file system must be mounted, which needs root");
        return Ok(());
    }
    let (home, snapshot, _image) = backed_up(&programs)?;
    let disk = home.path("tiny.img");
    fs::create_dir(home.path("nothing"))?;
    make_ext4(&disk, 4 << 20, &home.path("nothing"), &["-O", "^has_journal"])?;
    let mount = Mount::new(&disk, &home.path("mnt"), "")?;
    let file = mount.dir().join("out.img");
    expect_refusal(recover(&home, &snapshot, &file, &[])?, 14, &["space"])?;
    let target = mount.dir().join("tree");
    let answer = Answer::of(home.umbra().args(["restore", &snapshot, "--target"]).arg(&target))?;
    expect_refusal(answer, 14, &["space"]).context("restore")?;
    let half = fs::metadata(target.join("noise"));
    ensure!(half.is_err(), "half a file stands under its name");
    Ok(())
}

#[test]
fn an_existing_different_file_stays() -> Result<()> {
    let test = "bad_input::an_existing_different_file_stays";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let (home, snapshot, _image) = backed_up(&programs)?;
    let target = home.path("out");
    fs::create_dir(&target)?;
    fs::write(target.join("file"), "theirs\n")?;
    let restore = |more: &[&str]| {
        let mut command = home.umbra();
        command.args(["restore", &format!("{snapshot}:/file"), "--target"]).arg(&target);
        Answer::of(command.args(more))
    };
    expect_refusal(restore(&[])?, 3, &["file"])?;
    ensure!(fs::read(target.join("file"))? == b"theirs\n", "the existing file was overwritten");
    restore(&["--overwrite", "always"])?.expect_code(0)?;
    ensure!(fs::read(target.join("file"))? == b"ours\n", "the file was not restored");
    Ok(())
}
