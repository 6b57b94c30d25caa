//! The store's own disk is never a source and never a target, whatever is said with it.

use super::*;
use crate::bad_input::expect_refusal;

/// A file system on a loop device that has a store, in a home whose configuration names it.
struct Ground {
    home: Home,
    snapshot: String,
    disk: PathBuf,
    // Unmounted before it is detached.
    _mount: Mounted,
    device: Loop,
    partition: Option<PathBuf>,
}

fn ground(programs: &Programs, on_partition: bool) -> Result<Ground> {
    let home = Home::new(programs)?;
    let image = home.path("ground.img");
    let (device, partition) = if on_partition {
        File::create(&image)?.set_len(528 << 20)?;
        must(sgdisk().args(["-n", "1:2048:+16M", "-n", "2:0:0"]).arg(&image))?;
        let device = Loop::attach(&image)?;
        let partition = device.partition(2)?;
        (device, Some(partition))
    } else {
        File::create(&image)?.set_len(512 << 20)?;
        (Loop::attach(&image)?, None)
    };
    let fs = partition.as_deref().unwrap_or(&device.path);
    must(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(fs))?;
    let mount = Mounted::new(fs, &home.path("mnt"), "rw")?;
    let url = format!("file://{}/store", mount.dir.display());
    umbra(&home, &["init", &url])?.expect_code(0)?;
    let disk = ext4_image(&home, "disk.img", 9)?;
    let snapshot = text(&home.backup(&disk, "d")?, "snapshot")?.to_owned();
    Ok(Ground { home, snapshot, disk, _mount: mount, device, partition })
}

fn expect_own(ground: &Ground, path: &Path) -> Result<()> {
    let home = &ground.home;
    let words = ["the vault file://", "--vault"];
    for more in [&[][..], &["--inconsistent-ok"]] {
        let answer = backup(home, "own", path, more)?;
        expect_refusal(answer, 5, &words).with_context(|| path.display().to_string())?;
    }
    let name = path.to_string_lossy().into_owned();
    let target = recover(home, &ground.snapshot, path, &["--yes-destroy", &name])?;
    expect_refusal(target, 5, &["the vault file://", "another disk"])?;
    let plan = recover(home, &ground.snapshot, path, &["--plan"])?;
    expect_refusal(plan, 5, &["the vault file://"])?;
    let disks = umbra(home, &["--json", "disks", &name])?.expect_code(0)?;
    let entry = disks.of_type("entry")?.pop().context("no entry")?;
    let method = text(&entry, "method")?;
    ensure!(method.starts_with("refused: the vault"), "{entry}");
    Ok(())
}

#[test]
fn a_store_on_a_device_keeps_it_from_being_source_or_target() -> Result<()> {
    let test = "devices::a_store_on_a_device_keeps_it_from_being_source_or_target";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let ground = ground(&programs, false)?;
    expect_own(&ground, &ground.device.path)?;
    // The image under the loop device is that disk too, by any of its names.
    let second = ground.home.path("second-name.img");
    fs::hard_link(ground.home.path("ground.img"), &second)?;
    for image in [ground.home.path("ground.img"), second] {
        expect_own(&ground, &image)?;
    }
    // And another loop device on it, or on its device.
    for below in [ground.home.path("ground.img"), ground.device.path.clone()] {
        let twin = Loop::attach(&below)?;
        expect_own(&ground, &twin.path).with_context(|| below.display().to_string())?;
    }
    // What only shares the file system is fine.
    let beside = ground.home.path("mnt/beside.img");
    home_copy(&ground.disk, &beside)?;
    backup(&ground.home, "beside", &beside, &[])?.expect_code(0)?;
    Ok(())
}

#[test]
fn a_store_on_a_partition_keeps_the_whole_disk() -> Result<()> {
    let test = "devices::a_store_on_a_partition_keeps_the_whole_disk";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let ground = ground(&programs, true)?;
    expect_own(&ground, &ground.device.path)?;
    expect_own(&ground, ground.partition.as_deref().context("a partition")?)?;
    // Its neighbour has nothing of the store.
    let neighbour = ground.device.partition(1)?;
    backup(&ground.home, "neighbour", &neighbour, &[])?.expect_code(0)?;
    Ok(())
}

#[test]
fn files_in_the_store_are_neither_sources_nor_targets() -> Result<()> {
    let test = "devices::files_in_the_store_are_neither_sources_nor_targets";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let disk = ext4_image(&home, "disk.img", 10)?;
    let snapshot = text(&home.backup(&disk, "d")?, "snapshot")?.to_owned();
    let inside = home.path("store/packs/disk.img");
    home_copy(&disk, &inside)?;
    std::os::unix::fs::symlink(home.path("store"), home.path("link"))?;
    for path in
        [inside, home.path("link/packs/disk.img"), home.path("link/../store/packs/disk.img")]
    {
        let answer = backup(&home, "x", &path, &["--inconsistent-ok"])?;
        expect_refusal(answer, 5, &["vault", "own directory"])?;
        let name = path.to_string_lossy().into_owned();
        let answer = recover(&home, &snapshot, &path, &["--yes-destroy", &name])?;
        expect_refusal(answer, 5, &["vault", "own directory"])?;
        let new = path.with_file_name("new.img");
        expect_refusal(recover(&home, &snapshot, &new, &[])?, 5, &["vault", "own directory"])?;
        ensure!(!new.exists(), "{} was made", new.display());
    }
    // Packs that were moved to another place and are linked from the store.
    let elsewhere = home.path("elsewhere");
    fs::rename(home.path("store/packs"), &elsewhere)?;
    std::os::unix::fs::symlink(&elsewhere, home.path("store/packs"))?;
    let answer = backup(&home, "x", &elsewhere.join("disk.img"), &[])?;
    expect_refusal(answer, 5, &["vault", "own directory"])
}

fn home_copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| to.display().to_string())?;
    Ok(())
}
