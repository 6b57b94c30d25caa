//! Sources that change under the reader's hands.

use std::sync::atomic::{AtomicBool, Ordering};

use umbra_tests::json::{Running, number};

use super::*;
use crate::bad_input::expect_refusal;

/// Bytes of a disk that takes some seconds to send.
const SLOW_BYTES: u64 = 192 << 20;
/// Slow enough that the test gets in between.
const RATE: &str = "24M";

/// Starts a slow backup and waits until a part of it has arrived.
fn slow_backup(home: &Home, image: &Path, more: &[&str]) -> Result<Running> {
    let mut command = home.umbra();
    command.args(["--json", "--machine", "m", "--disk", "d", "--limit-upload", RATE, "backup"]);
    let mut running = Running::start(command.args(more).arg(image))?;
    let store = home.path("store");
    wait_until(
        "the backup sends",
        || Ok(bytes_below(&store)? > 8 << 20 || !running.is_running()?),
    )?;
    ensure!(running.is_running()?, "the backup was too fast");
    Ok(running)
}

#[test]
fn an_image_that_is_cut_while_it_is_read_is_kept_as_far_as_it_was() -> Result<()> {
    let test = "devices::an_image_that_is_cut_while_it_is_read_is_kept_as_far_as_it_was";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    write_noise(&image, SLOW_BYTES, &mut Noise::new(91))?;
    let mut expected = fs::read(&image)?;
    let running = slow_backup(&home, &image, &[])?;
    let cut = SLOW_BYTES - (5 << 20) + 77;
    File::options().write(true).open(&image)?.set_len(cut)?;
    let answer = running.answer()?;
    let summary = answer.summary()?;
    let snapshot = text(&summary, "snapshot")?.to_owned();
    let lost = number(&summary, "bytes_unreadable")?;
    let first_lost = cut / 4096 * 4096;
    ensure!(lost == SLOW_BYTES - first_lost, "{lost} lost behind {cut}: {summary}");
    ensure!(summary["unreadable_ranges"] == 1, "{summary}");
    let shown = show(&home, &summary)?;
    ensure!(shown["bytes_unreadable"] == lost && shown["consistency"] == "fuzzy", "{shown}");
    ensure!(shown["method"].as_str().is_some_and(|method| method.contains("cut")), "{shown}");
    expect_refusal(answer, 3, &["could not be read", "umbra show"])?;
    let back = home.path("back.img");
    home.recover(&snapshot, &back)?;
    expected[usize::try_from(first_lost)?..].fill(0);
    ensure!(fs::read(&back)? == expected, "what came back is not what was read");
    Ok(())
}

#[test]
fn an_image_that_is_written_while_it_is_read_is_refused_or_fuzzy() -> Result<()> {
    let test = "devices::an_image_that_is_written_while_it_is_read_is_refused_or_fuzzy";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    write_noise(&image, SLOW_BYTES, &mut Noise::new(92))?;
    let running = slow_backup(&home, &image, &[])?;
    File::options().write(true).open(&image)?.write_all_at(b"changed", SLOW_BYTES / 2)?;
    expect_refusal(running.answer()?, 5, &["written while it was read", "--inconsistent-ok"])?;
    let list = umbra(&home, &["--json", "snapshots"])?.expect_code(0)?;
    ensure!(list.of_type("entry")?.is_empty(), "{}", list.describe());

    // What was sent is known, so that the disk must have other bytes to be slow again.
    write_noise(&image, SLOW_BYTES, &mut Noise::new(93))?;
    let mut command = home.umbra();
    command.args(["--json", "--machine", "m", "--disk", "d", "--limit-upload", RATE, "backup"]);
    let size = bytes_below(&home.path("store"))?;
    let running = Running::start(command.arg("--inconsistent-ok").arg(&image))?;
    wait_until("the backup sends", || Ok(bytes_below(&home.path("store"))? > size + (8 << 20)))?;
    File::options().write(true).open(&image)?.write_all_at(b"changed", SLOW_BYTES / 2)?;
    let summary = running.answer()?.expect_code(0)?.summary()?;
    ensure!(summary["consistency"] == "fuzzy", "{summary}");
    ensure!(show(&home, &summary)?["consistency"] == "fuzzy", "{summary}");
    home.recover(text(&summary, "snapshot")?, &home.path("back.img"))?;
    Ok(())
}

#[test]
fn a_disk_that_is_mounted_while_it_is_read_is_refused() -> Result<()> {
    let test = "devices::a_disk_that_is_mounted_while_it_is_read_is_refused";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    let tree = home.path("tree");
    fs::create_dir(&tree)?;
    write_noise(&tree.join("noise"), SLOW_BYTES, &mut Noise::new(94))?;
    make_ext4(&image, SLOW_BYTES + (32 << 20), &tree, &[])?;
    let device = Loop::attach(&image)?;
    let running = slow_backup(&home, &device.path, &[])?;
    let _mount = Mounted::new(&device.path, &home.path("mnt"), "rw")?;
    expect_refusal(running.answer()?, 5, &["now it is mounted read-write", "mnt"])
}

#[test]
fn a_device_that_is_written_while_it_is_read_is_refused_or_fuzzy() -> Result<()> {
    let test = "devices::a_device_that_is_written_while_it_is_read_is_refused_or_fuzzy";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    write_noise(&image, SLOW_BYTES, &mut Noise::new(97))?;
    let device = Loop::attach(&image)?;
    // Nothing is mounted, and whoever writes does not even say when the medium shall have it.
    let write = |at: u64| -> Result<()> {
        Ok(File::options().write(true).open(&device.path)?.write_all_at(b"changed", at)?)
    };
    write(0)?;
    let running = slow_backup(&home, &device.path, &[])?;
    write(SLOW_BYTES / 2)?;
    expect_refusal(running.answer()?, 5, &["written while it was read", "--inconsistent-ok"])?;
    let list = umbra(&home, &["--json", "snapshots"])?.expect_code(0)?;
    ensure!(list.of_type("entry")?.is_empty(), "{}", list.describe());

    let summary = backup(&home, "d", &device.path, &[])?.expect_code(0)?.summary()?;
    ensure!(summary["consistency"] == "offline", "nobody writes: {summary}");
    write_noise(&device.path, SLOW_BYTES, &mut Noise::new(98))?;
    let size = bytes_below(&home.path("store"))?;
    let mut command = home.umbra();
    command.args(["--json", "--machine", "m", "--disk", "d", "--limit-upload", RATE, "backup"]);
    let running = Running::start(command.arg("--inconsistent-ok").arg(&device.path))?;
    wait_until("the backup sends", || Ok(bytes_below(&home.path("store"))? > size + (8 << 20)))?;
    write(SLOW_BYTES / 2)?;
    let summary = running.answer()?.expect_code(0)?.summary()?;
    ensure!(summary["consistency"] == "fuzzy", "{summary}");
    home.recover(text(&summary, "snapshot")?, &home.path("back.img"))?;
    Ok(())
}

#[test]
fn a_device_that_shrinks_while_it_is_read_is_kept_as_far_as_it_was() -> Result<()> {
    let test = "devices::a_device_that_shrinks_while_it_is_read_is_kept_as_far_as_it_was";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    write_noise(&image, SLOW_BYTES, &mut Noise::new(99))?;
    let device = Loop::attach(&image)?;
    let running = slow_backup(&home, &device.path, &[])?;
    let cut = SLOW_BYTES - (5 << 20);
    File::options().write(true).open(&image)?.set_len(cut)?;
    must(Command::new("losetup").arg("--set-capacity").arg(&device.path))?;
    let answer = running.answer()?;
    let summary = answer.summary()?;
    ensure!(number(&summary, "bytes_unreadable")? == SLOW_BYTES - cut, "{summary}");
    let shown = show(&home, &summary)?;
    ensure!(shown["consistency"] == "fuzzy", "{shown}");
    ensure!(shown["method"].as_str().is_some_and(|method| method.contains("cut")), "{shown}");
    expect_refusal(answer, 3, &["could not be read"])
}

/// The proof of a fuzzy snapshot is that of the bytes that were kept, however often the disk changed meanwhile.
#[test]
fn a_snapshot_of_a_disk_under_load_can_be_recovered_and_verified() -> Result<()> {
    let test = "devices::a_snapshot_of_a_disk_under_load_can_be_recovered_and_verified";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    make_ext4(&image, 128 << 20, &some_tree(&home, 95)?, &[])?;
    let device = Loop::attach(&image)?;
    let mount = Mounted::new(&device.path, &home.path("mnt"), "rw")?;
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| write_and_sync(&mount.dir, &ends));
        for round in 0..4 {
            let answer = backup(&home, "d", &device.path, &["--inconsistent-ok"]);
            let kept = answer.and_then(|answer| answer.expect_code(0)?.summary());
            let proven = kept.and_then(|kept| {
                let snapshot = text(&kept, "snapshot")?.to_owned();
                home.recover(&snapshot, &home.path(&format!("back{round}.img")))?;
                umbra(&home, &["verify", &snapshot])?.expect_code(0)
            });
            if let Err(error) = proven {
                ends.store(true, Ordering::Relaxed);
                return Err(error.context(format!("round {round}")));
            }
        }
        ends.store(true, Ordering::Relaxed);
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?
    })
}

/// Makes, overwrites and removes files of odd lengths until told to end.
fn write_and_sync(dir: &Path, ends: &AtomicBool) -> Result<()> {
    let mut noise = Noise::new(96);
    while !ends.load(Ordering::Relaxed) {
        let path = dir.join(format!("live{}", noise.below(40)));
        let len = usize::try_from(1 + noise.below(200_000))?;
        let mut file = File::create(&path)?;
        file.write_all(&noise.bytes(len))?;
        file.sync_all()?;
        if noise.below(3) == 0 {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
