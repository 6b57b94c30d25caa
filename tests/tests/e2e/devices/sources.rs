//! Devices as sources: the same bytes give the same snapshot, and what is in use is refused or marked.

use umbra_tests::images::expect_equal;

use super::*;
use crate::bad_input::expect_refusal;

/// Backs up a device and the file with the same bytes: one map, one hash; and the device's snapshot comes back.
fn same_as_its_file(home: &Home, device: &Path, file: &Path, name: &str) -> Result<()> {
    let of_file = backup(home, &format!("{name}-file"), file, &[])?.expect_code(0)?.summary()?;
    let of_device = backup(home, &format!("{name}-dev"), device, &[])?.expect_code(0)?.summary()?;
    let (file_shown, device_shown) = (show(home, &of_file)?, show(home, &of_device)?);
    for field in ["map_root", "overlay_roots", "image_hash", "bytes_total", "partition_table"] {
        let (a, b) = (&file_shown[field], &device_shown[field]);
        ensure!(a == b && !a.is_null(), "{name}: {field}: {a} of the file, {b} of the device");
    }
    ensure!(of_device["bytes_new"].as_u64() < Some(100_000), "the same bytes are new: {of_device}");
    let back = home.path(&format!("{name}-back.img"));
    home.recover(text(&of_device, "snapshot")?, &back)?;
    expect_equal(file, &back)?;
    fs::remove_file(back)?;
    Ok(())
}

#[test]
fn a_device_gives_the_same_snapshot_as_its_file() -> Result<()> {
    let test = "devices::a_device_gives_the_same_snapshot_as_its_file";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    for sector in [512, 4096] {
        let home = Home::new(&programs)?;
        home.init_store()?;
        let image = partitioned(&home, "disk.img", sector)?;
        let device = Loop::with(&image, &["--sector-size", &sector.to_string()])?;
        same_as_its_file(&home, &device.path, &image, &format!("disk{sector}"))?;
        let disks = umbra(&home, &["--json", "disks", &device.path.to_string_lossy()])?;
        let entry = disks.expect_code(0)?.of_type("entry")?.pop().context("no entry")?;
        ensure!(entry["sector_bytes"] == sector && entry["method"] == "offline", "{entry}");

        // One partition, as a device of its own and as a file of its own.
        let part = home.path("part.img");
        let bytes = bytes_of(&image)?;
        fs::write(&part, bytes.get(17 << 20..33 << 20).context("the second partition")?)?;
        let partition = device.partition(2)?;
        same_as_its_file(&home, &partition, &part, &format!("part{sector}"))?;
    }
    Ok(())
}

#[test]
fn a_mounted_device_is_refused_or_marked_fuzzy_wherever_it_is_shown() -> Result<()> {
    let test = "devices::a_mounted_device_is_refused_or_marked_fuzzy_wherever_it_is_shown";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = partitioned(&home, "disk.img", SECTOR)?;
    let device = Loop::attach(&image)?;
    let partition = device.partition(1)?;
    // A blank in the name: the kernel writes it as \040.
    let mount = Mounted::new(&partition, &home.path("m nt"), "rw")?;
    for (name, source) in [("disk", &device.path), ("partition", &partition), ("file", &image)] {
        let refused = backup(&home, name, source, &[])?;
        let words = ["mounted read-write", "m nt", "--inconsistent-ok", "unmount"];
        expect_refusal(refused, 5, &words).with_context(|| name.to_owned())?;
        let marked =
            backup(&home, name, source, &["--inconsistent-ok"])?.expect_code(0)?.summary()?;
        ensure!(marked["consistency"] == "fuzzy", "{name}: {marked}");
        ensure!(show(&home, &marked)?["consistency"] == "fuzzy", "{name}: show");
        let list = umbra(&home, &["--json", "--disk", name, "snapshots"])?.expect_code(0)?;
        let entries = list.of_type("entry")?;
        ensure!(entries.iter().all(|entry| entry["consistency"] == "fuzzy"), "{entries:?}");
        let snapshot = text(&marked, "snapshot")?;
        for command in [&["show", snapshot][..], &["snapshots"]] {
            let said = umbra(&home, command)?.expect_code(0)?.stdout;
            ensure!(String::from_utf8_lossy(&said).contains("fuzzy"), "{name}: {command:?}");
        }
        // Fuzzy or not: it comes back as it was read.
        home.recover(snapshot, &home.path(&format!("{name}-back.img")))?;
    }
    // The other partition is not in use.
    let other = backup(&home, "other", &device.partition(2)?, &[])?.expect_code(0)?.summary()?;
    ensure!(other["consistency"] == "offline", "{other}");
    drop(mount);
    let _mount = Mounted::new(&partition, &home.path("mnt"), "ro,noload")?;
    let offline = backup(&home, "disk", &device.path, &[])?.expect_code(0)?.summary()?;
    ensure!(offline["consistency"] == "offline", "{offline}");
    ensure!(show(&home, &offline)?["method"].as_str().is_some_and(|m| m.contains("read-only")));
    Ok(())
}

#[test]
fn swap_and_mounts_of_other_namespaces_are_in_use() -> Result<()> {
    let test = "devices::swap_and_mounts_of_other_namespaces_are_in_use";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = ext4_image(&home, "disk.img", 5)?;
    let device = Loop::attach(&image)?;
    fs::create_dir(home.path("hidden"))?;
    // The namespace begins as a copy and would keep the mounts of other tests: it lets go of them at once.
    let script = format!(
        "mount --make-rprivate / && sed -n 's/^[^ ]* \\([^ ]*umbra-e2e[^ ]*\\) .*/\\1/p' /proc/mounts | \
         while read -r place; do umount -l \"$(printf %b \"$place\")\"; done; \
         mount {} {} && echo ready && cat",
        device.path.display(),
        home.path("hidden").display()
    );
    let hidden = Helper::start(Command::new("unshare").args(["--mount", "sh", "-c", &script]))?;
    let refused = backup(&home, "d", &device.path, &[])?;
    expect_refusal(refused, 5, &["held", "--inconsistent-ok"])?;
    let fuzzy = backup(&home, "d", &device.path, &["--inconsistent-ok"])?.expect_code(0)?;
    ensure!(fuzzy.summary()?["consistency"] == "fuzzy", "{}", fuzzy.describe());
    let name = device.path.to_string_lossy().into_owned();
    let refused = recover(&home, "latest", &device.path, &["--yes-destroy", &name])?;
    expect_refusal(refused, 5, &["another program"])?;
    drop(hidden);
    wait_until("the namespace is gone", || {
        Ok(backup(&home, "d", &device.path, &[])?.code == Some(0))
    })?;

    let area = home.path("swap.img");
    fs::write(&area, vec![0; 8 << 20])?;
    let device = Loop::attach(&area)?;
    must(Command::new("mkswap").arg(&device.path))?;
    let on = Command::new("swapon").arg(&device.path).output()?;
    if !on.status.success() {
        skip(test, "swapon is refused here");
        return Ok(());
    }
    let source = backup(&home, "swap", &device.path, &[]);
    let name = device.path.to_string_lossy().into_owned();
    let target = recover(&home, "latest", &device.path, &["--yes-destroy", &name]);
    let below = recover(&home, "latest", &area, &["--yes-destroy", &area.to_string_lossy()]);
    must(Command::new("swapoff").arg(&device.path))?;
    expect_refusal(source?, 5, &["swap"])?;
    expect_refusal(target?, 5, &["in use", "swap"])?;
    expect_refusal(below?, 5, &["in use"])
}

#[test]
fn a_mounted_btrfs_is_seen_though_its_mount_has_a_number_of_its_own() -> Result<()> {
    let test = "devices::a_mounted_btrfs_is_seen_though_its_mount_has_a_number_of_its_own";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let Some(corpus) = umbra_tests::corpus::Corpus::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    must(
        Command::new("cp").arg("--sparse=always").arg(corpus.image("btrfs-default")?).arg(&image),
    )?;
    let device = Loop::attach(&image)?;
    let Ok(_mount) = Mounted::new(&device.path, &home.path("mnt"), "rw") else {
        skip(test, "this kernel does not mount btrfs");
        return Ok(());
    };
    expect_refusal(backup(&home, "d", &device.path, &[])?, 5, &["mounted read-write", "mnt"])?;
    expect_refusal(backup(&home, "d", &image, &[])?, 5, &["mounted read-write", "mnt"])
}

#[test]
fn the_image_of_a_running_virtual_machine_is_in_use() -> Result<()> {
    let test = "devices::the_image_of_a_running_virtual_machine_is_in_use";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = ext4_image(&home, "disk.img", 6)?;
    // As QEMU does it: a shared lock on the byte that says "I write" (block/file-posix.c).
    let script = "import fcntl, sys\nf = open(sys.argv[1], 'r+b')\n\
                  fcntl.lockf(f, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, int(sys.argv[2]))\n\
                  print('ready', flush=True)\nsys.stdin.read()\n";
    let lock = |byte: &str| {
        Helper::start(umbra_tests::python().args(["-c", script]).arg(&image).arg(byte))
    };
    let running = lock("101")?;
    expect_refusal(backup(&home, "d", &image, &[])?, 5, &["virtual machine", "--inconsistent-ok"])?;
    let fuzzy = backup(&home, "d", &image, &["--inconsistent-ok"])?.expect_code(0)?.summary()?;
    ensure!(fuzzy["consistency"] == "fuzzy", "{fuzzy}");
    drop(running);
    // One that only reads (byte 100) is no harm.
    let _reading = lock("100")?;
    let offline = backup(&home, "d", &image, &[])?.expect_code(0)?.summary()?;
    ensure!(offline["consistency"] == "offline", "{offline}");
    Ok(())
}
