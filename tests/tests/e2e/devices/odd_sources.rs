//! Sources of odd lengths, of no length, and that are no disks at all.

use umbra_tests::images::expect_equal;

use super::*;
use crate::bad_input::expect_refusal;

/// Lengths around sectors, blocks, spans and windows.
const LENGTHS: [u64; 14] = [
    1,
    100,
    511,
    512,
    513,
    4095,
    4097,
    65_535,
    (2 << 20) + 1,
    (16 << 20) - 1,
    16 << 20,
    (16 << 20) + 1,
    (33 << 20) + 511,
    (48 << 20) + 4096,
];

#[test]
fn images_of_every_length_come_back() -> Result<()> {
    let test = "devices::images_of_every_length_come_back";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let mut noise = Noise::new(71);
    for len in LENGTHS {
        let image = home.path("disk.img");
        // Noise in front and at the very end, a hole between.
        let file = File::create(&image)?;
        file.set_len(len)?;
        let head = len.min(300_000);
        file.write_all_at(&noise.bytes(usize::try_from(head)?), 0)?;
        let tail = len.min(777);
        file.write_all_at(&noise.bytes(usize::try_from(tail)?), len - tail)?;
        let summary = backup(&home, &format!("d{len}"), &image, &[])?.expect_code(0)?.summary()?;
        ensure!(summary["bytes_total"] == len, "{len}: {summary}");
        let back = home.path("back.img");
        home.recover(text(&summary, "snapshot")?, &back)?;
        expect_equal(&image, &back).with_context(|| format!("{len} bytes"))?;
        fs::remove_file(&back)?;
        // The same bytes through a pipe are the same disk.
        let mut piped = home.umbra();
        piped.args(["--json", "--machine", "m", "--disk", &format!("p{len}"), "backup", "-"]);
        let piped = feed(&mut piped, &fs::read(&image)?)?.expect_code(0)?.summary()?;
        ensure!(piped["image_hash"] == summary["image_hash"], "{len}: {piped}");
        home.recover(text(&piped, "snapshot")?, &back)?;
        expect_equal(&image, &back).with_context(|| format!("{len} bytes from a pipe"))?;
        fs::remove_file(&back)?;
    }
    Ok(())
}

#[test]
fn devices_of_every_length_come_back_onto_devices_full_of_garbage() -> Result<()> {
    let test = "devices::devices_of_every_length_come_back_onto_devices_full_of_garbage";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let mut noise = Noise::new(72);
    for (len, sector) in
        [(512, 512), ((16 << 20) + 512, 512), (4096, 4096), ((20 << 20) + 4096, 4096)]
    {
        let (image, garbage) = (home.path("disk.img"), home.path("garbage.img"));
        let file = File::create(&image)?;
        file.set_len(len)?;
        file.write_all_at(&noise.bytes(500), len - 500)?;
        write_noise(&garbage, len, &mut noise)?;
        let sectors = sector.to_string();
        let device = Loop::with(&image, &["--sector-size", &sectors])?;
        let summary =
            backup(&home, &format!("d{len}"), &device.path, &[])?.expect_code(0)?.summary()?;
        let target = Loop::with(&garbage, &["--sector-size", &sectors])?;
        let said = recover_over(&home, text(&summary, "snapshot")?, &target.path)?;
        ensure!(said["verified"] == true && said["bytes_beyond"] == 0, "{len}: {said}");
        must(Command::new("cmp").arg(&image).arg(&target.path))?;
        drop(target);
        expect_equal(&image, &garbage).with_context(|| format!("{len} bytes"))?;
    }
    Ok(())
}

#[test]
fn what_is_empty_or_no_disk_is_refused_at_once() -> Result<()> {
    let test = "devices::what_is_empty_or_no_disk_is_refused_at_once";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let empty = home.path("empty.img");
    File::create(&empty)?;
    expect_refusal(backup(&home, "d", &empty, &[])?, 5, &["empty.img", "0 bytes"])?;
    let pipe = home.path("pipe");
    must(Command::new("mkfifo").arg(&pipe))?;
    // It would wait for ever for somebody who writes.
    let mut waits = Command::new("timeout");
    let program = home.umbra();
    waits.arg("20").arg(program.get_program()).args(["--disk", "d", "backup"]).arg(&pipe);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => waits.env(name, value),
            None => waits.env_remove(name),
        };
    }
    expect_refusal(Answer::of(&mut waits)?, 5, &["pipe", "neither"])?;
    for path in [Path::new("/dev/zero"), home.dir()] {
        expect_refusal(backup(&home, "d", path, &[])?, 5, &["neither"])?;
    }
    expect_refusal(backup(&home, "d", &home.path("missing"), &[])?, 1, &["missing"])?;

    let mut nothing = home.umbra();
    nothing.args(["--json", "--disk", "d", "backup", "-"]);
    expect_refusal(feed(&mut nothing, b"")?, 5, &["standard input", "0 bytes"])?;
    expect_refusal(umbra(&home, &["backup", "-"])?, 2, &["--disk"])?;
    let list = umbra(&home, &["--json", "snapshots", "--all-machines"])?.expect_code(0)?;
    ensure!(list.of_type("entry")?.is_empty(), "{}", list.describe());
    if !is_root() {
        skip(test, "a device without a medium needs root");
        return Ok(());
    }
    // A loop device that is attached to nothing; another test may attach it meanwhile, so that it is found again.
    for _ in 0..20 {
        let free = String::from_utf8(must(Command::new("losetup").arg("--find"))?)?;
        let answer = backup(&home, "d", Path::new(free.trim()), &[])?;
        if answer.code == Some(5) && answer.stderr.contains("0 bytes") {
            return Ok(());
        }
    }
    bail!("no device without a medium was refused as empty")
}

#[test]
fn two_sources_never_become_one_disk() -> Result<()> {
    let test = "devices::two_sources_never_become_one_disk";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    for dir in ["a", "b"] {
        fs::create_dir(home.path(dir))?;
        fs::write(home.path(dir).join("disk.img"), dir)?;
    }
    expect_refusal(
        umbra(&home, &["backup", "a/disk.img", "b/disk.img"])?,
        2,
        &["disk.img", "--disk"],
    )?;
    fs::rename(home.path("b/disk.img"), home.path("b/other.img"))?;
    let both = umbra(&home, &["--json", "backup", "a/disk.img", "b/other.img"])?.expect_code(0)?;
    let summaries = both.of_type("summary")?;
    ensure!(summaries.len() == 2, "{}", both.describe());
    ensure!(summaries[0]["run"] == summaries[1]["run"], "{}", both.describe());
    Ok(())
}

#[test]
fn a_device_as_standard_input_is_looked_at_too() -> Result<()> {
    let test = "devices::a_device_as_standard_input_is_looked_at_too";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = ext4_image(&home, "disk.img", 8)?;
    let device = Loop::attach(&image)?;
    let stream = |from: &Path, more: &[&str]| -> Result<Answer> {
        let mut command = home.umbra();
        command.args(["--json", "--machine", "m", "--disk", "d", "backup", "-"]).args(more);
        let output = command.stdin(File::open(from)?).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let command = format!("backup - < {}", from.display());
        Ok(Answer { command, code: output.status.code(), stdout: output.stdout, stderr })
    };
    let mount = Mounted::new(&device.path, &home.path("mnt"), "rw")?;
    for from in [&device.path, &image] {
        expect_refusal(stream(from, &[])?, 5, &["standard input", "mounted read-write"])?;
        let fuzzy = stream(from, &["--inconsistent-ok"])?.expect_code(0)?.summary()?;
        ensure!(fuzzy["consistency"] == "fuzzy", "{fuzzy}");
    }
    drop(mount);
    let quiet = stream(&device.path, &[])?.expect_code(0)?.summary()?;
    ensure!(quiet["consistency"] == "offline", "{quiet}");
    let own = home.path("store/image");
    fs::copy(&image, &own)?;
    expect_refusal(stream(&own, &["--inconsistent-ok"])?, 5, &["standard input", "vault"])
}
