//! Block devices, image files and pipes as sources and targets, in a system that is not kind to them.

mod changing;
mod odd_sources;
mod own_store;
mod sources;
mod targets;
mod together;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use umbra_tests::images::{Noise, make_ext4, write_noise};
use umbra_tests::json::{Answer, text};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::{is_root, must, sgdisk, skip};

const SECTOR: u64 = 512;

/// The programs, where loop devices can be had.
fn programs_as_root(test: &str) -> Option<Programs> {
    let programs = Programs::find(test)?;
    if !is_root() {
        skip(test, "loop devices and mounts need root");
        return None;
    }
    Some(programs)
}

/// A loop device, detached when dropped.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn attach(image: &Path) -> Result<Self> {
        Self::with(image, &[])
    }

    fn with(image: &Path, options: &[&str]) -> Result<Self> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).args(options).arg(image);
        let said = String::from_utf8(must(&mut losetup)?)?;
        let device = Self { path: said.trim().into() };
        device.forget_partitions();
        Ok(device)
    }

    /// Removes partitions that were added to the device or to another one of its number: they outlive it.
    fn forget_partitions(&self) {
        let _ = Command::new("partx").arg("--delete").arg(&self.path).output();
    }

    /// Has the kernel know the partitions, and returns the device of one.
    fn partition(&self, number: u32) -> Result<PathBuf> {
        let device = PathBuf::from(format!("{}p{number}", self.path.display()));
        if !device.exists() {
            must(Command::new("partx").arg("--add").arg(&self.path))?;
        }
        ensure!(device.exists(), "{} did not appear", device.display());
        Ok(device)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.forget_partitions();
        // A device that stays attached would only waste a number; the test's verdict is told elsewhere.
        let _ = Command::new("losetup").arg("-d").arg(&self.path).output();
    }
}

/// A device mounted by the kernel, unmounted when dropped.
struct Mounted {
    dir: PathBuf,
}

impl Mounted {
    fn new(device: &Path, dir: &Path, options: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mount = || must(Command::new("mount").args(["-o", options]).arg(device).arg(dir));
        // Another test's mount namespace may still have a copy of the last one.
        if mount().is_err() {
            std::thread::sleep(Duration::from_secs(1));
            mount()?;
        }
        Ok(Self { dir: dir.to_owned() })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A mount that a failing test leaves behind must go, even where something still holds it.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).output();
    }
}

/// A child that is told to end by closing its standard input, and killed when dropped.
struct Helper {
    child: Child,
}

impl Helper {
    /// Starts a program and waits for the line "ready" from it.
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = [0; 6];
        let mut stdout = child.stdout.take().context("a pipe")?;
        let read = stdout.read_exact(&mut line);
        let helper = Self { child };
        read.with_context(|| format!("{command:?} is not ready"))?;
        ensure!(&line == b"ready\n", "{command:?} said {line:?}");
        Ok(helper)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends by itself; a second later it is ended.
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `umbra` with some arguments, to its end.
fn umbra(home: &Home, arguments: &[&str]) -> Result<Answer> {
    Answer::of(home.umbra().args(["--machine", "m"]).args(arguments))
}

fn backup(home: &Home, disk: &str, source: &Path, more: &[&str]) -> Result<Answer> {
    let mut command = home.umbra();
    command.args(["--json", "--machine", "m", "--disk", disk, "backup"]).args(more).arg(source);
    Answer::of(&mut command)
}

fn recover(home: &Home, snapshot: &str, to: &Path, more: &[&str]) -> Result<Answer> {
    let mut command = home.umbra();
    command.args(["--json", "--machine", "m", "recover", snapshot, "--to"]).arg(to).args(more);
    Answer::of(&mut command)
}

/// Recovers over whatever stands there.
fn recover_over(home: &Home, snapshot: &str, to: &Path) -> Result<Value> {
    let name = to.to_string_lossy().into_owned();
    recover(home, snapshot, to, &["--yes-destroy", &name])?.expect_code(0)?.summary()
}

/// What `show` says of the snapshot that a backup's summary names.
fn show(home: &Home, backup: &Value) -> Result<Value> {
    umbra(home, &["--json", "show", text(backup, "snapshot")?])?.expect_code(0)?.summary()
}

/// A directory with some files.
fn some_tree(home: &Home, seed: u64) -> Result<PathBuf> {
    let tree = home.path(&format!("tree{seed}"));
    fs::create_dir_all(tree.join("dir"))?;
    let mut noise = Noise::new(seed);
    for number in 0..8_u64 {
        let len = 1 + noise.below(600_000);
        write_noise(&tree.join(format!("dir/file{number}")), len, &mut noise)?;
    }
    fs::write(tree.join("small"), "small\n")?;
    Ok(tree)
}

/// An image of an ext4 of 16 MiB with some files.
fn ext4_image(home: &Home, name: &str, seed: u64) -> Result<PathBuf> {
    let image = home.path(name);
    make_ext4(&image, 16 << 20, &some_tree(home, seed)?, &[])?;
    Ok(image)
}

/// A disk with a GPT of these sectors, two ext4 and noise behind them; its length is no multiple of 4 KiB where the
/// sectors are smaller, and never one of 16 MiB.
fn partitioned(home: &Home, name: &str, sector: u64) -> Result<PathBuf> {
    let image = home.path(name);
    let file = File::create(&image)?;
    file.set_len((44 << 20) + 3 * sector)?;
    let device = Loop::with(&image, &["--sector-size", &sector.to_string()])?;
    let first = (1 << 20) / sector;
    let mut sgdisk = sgdisk();
    sgdisk.args(["-a", "8", "-n", &format!("1:{first}:+16M"), "-n", "2:0:+16M"]).arg(&device.path);
    must(&mut sgdisk)?;
    must(Command::new("blockdev").arg("--flushbufs").arg(&device.path))?;
    for (seed, start) in [(1_u64, 1_u64 << 20), (2, 17 << 20)] {
        let inner = ext4_image(home, &format!("inner{seed}.img"), seed)?;
        File::options().write(true).open(&image)?.write_all_at(&fs::read(&inner)?, start)?;
    }
    let mut noise = Noise::new(sector);
    file.write_all_at(&noise.bytes(300_001), 40 << 20)?;
    Ok(image)
}

/// Everything that stands at a path, a device's bytes included.
fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Waits until a condition holds.
fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !holds()? {
        if begin.elapsed() > Duration::from_secs(60) {
            bail!("a minute passed and not: {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Bytes that the files of a directory have; what goes meanwhile counts nothing.
fn bytes_below(dir: &Path) -> Result<u64> {
    let output = Command::new("du").args(["-sb"]).arg(dir).output()?;
    let said = String::from_utf8(output.stdout)?;
    Ok(said.split_whitespace().next().context("du says nothing")?.parse()?)
}

/// Pipes bytes into a command, and tells how it ended.
fn feed(command: &mut Command, bytes: &[u8]) -> Result<Answer> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    // A command that refuses its input closes the pipe.
    let _ = stdin.write_all(bytes);
    drop(stdin);
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let command = "umbra with a pipe as standard input".into();
    Ok(Answer { command, code: output.status.code(), stdout: output.stdout, stderr })
}
