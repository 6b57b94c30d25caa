//! Targets: written to the last byte, or not touched at all.

use std::os::unix::fs::{PermissionsExt, symlink};

use umbra_tests::images::expect_equal;
use umbra_tests::json::Running;
use umbra_tests::programs::{as_ordinary_user, give_to_ordinary_user};

use super::*;
use crate::bad_input::expect_refusal;

/// A home with a store and a snapshot of a partitioned disk.
struct Backed {
    home: Home,
    image: PathBuf,
    snapshot: String,
}

fn backed_up(programs: &Programs) -> Result<Backed> {
    let home = Home::new(programs)?;
    home.init_store()?;
    let image = partitioned(&home, "disk.img", SECTOR)?;
    let snapshot = text(&home.backup(&image, "d")?, "snapshot")?.to_owned();
    Ok(Backed { home, image, snapshot })
}

/// A device of `len` bytes of noise.
fn garbage(home: &Home, name: &str, len: u64, options: &[&str]) -> Result<(PathBuf, Loop)> {
    let image = home.path(name);
    write_noise(&image, len, &mut Noise::new(len))?;
    let device = Loop::with(&image, options)?;
    Ok((image, device))
}

/// The target must be refused for the reason in `words`, and not a byte of it may change.
fn expect_untouched(backed: &Backed, target: &Path, more: &[&str], words: &[&str]) -> Result<()> {
    let before = blake3::hash(&bytes_of(target)?);
    let answer = recover(&backed.home, &backed.snapshot, target, more)?;
    expect_refusal(answer, 5, words).with_context(|| format!("{} {more:?}", target.display()))?;
    ensure!(blake3::hash(&bytes_of(target)?) == before, "{} was written to", target.display());
    Ok(())
}

#[test]
fn a_larger_device_keeps_its_bytes_behind_the_disk() -> Result<()> {
    let test = "devices::a_larger_device_keeps_its_bytes_behind_the_disk";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let backed = backed_up(&programs)?;
    let len = fs::metadata(&backed.image)?.len();
    let (file, device) = garbage(&backed.home, "large.img", 64 << 20, &[])?;
    let before = fs::read(&file)?;
    let name = device.path.to_string_lossy().into_owned();
    let answer = recover(&backed.home, &backed.snapshot, &device.path, &["--yes-destroy", &name])?;
    let answer = answer.expect_code(0)?;
    let summary = answer.summary()?;
    ensure!(summary["bytes_beyond"] == (64 << 20) - len, "{summary}");
    let warnings = answer.of_type("warning")?;
    let told = warnings.iter().any(|warning| {
        let message = warning["message"].as_str().unwrap_or_default();
        message.contains("stay as they are") && message.contains("sgdisk --move-second-header")
    });
    ensure!(told, "{warnings:?}");
    drop(device);
    let after = fs::read(&file)?;
    let split = usize::try_from(len)?;
    ensure!(after[..split] == fs::read(&backed.image)?[..], "the disk is not on the device");
    ensure!(after[split..] == before[split..], "bytes behind the disk have changed");
    // What the note says works.
    must(sgdisk().arg("--move-second-header").arg(&file))?;
    let verdict = must(sgdisk().arg("--verify").arg(&file))?;
    ensure!(String::from_utf8_lossy(&verdict).contains("No problems found"), "sgdisk is unhappy");
    Ok(())
}

#[test]
fn other_sectors_than_the_disk_had_are_told() -> Result<()> {
    let test = "devices::other_sectors_than_the_disk_had_are_told";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    for (own, other) in [("512", "4096"), ("4096", "512")] {
        let image = partitioned(&home, "disk.img", own.parse()?)?;
        let backup = home.backup(&image, own)?;
        let snapshot = text(&backup, "snapshot")?;
        // From the file alone: its partition table tells what it is an image of.
        ensure!(show(&home, &backup)?["sector_bytes"] == own.parse::<u64>()?, "{backup}");
        for (sector, told) in [(own, false), (other, true)] {
            let (_, device) = garbage(&home, "target.img", 48 << 20, &["--sector-size", sector])?;
            let name = device.path.to_string_lossy().into_owned();
            let answer = recover(&home, snapshot, &device.path, &["--yes-destroy", &name])?;
            let warnings = answer.expect_code(0)?.of_type("warning")?;
            let says = warnings
                .iter()
                .any(|w| w["message"].as_str().is_some_and(|m| m.contains("sectors of")));
            ensure!(says == told, "{own} onto {sector}: {warnings:?}");
            let both = [bytes_of(&device.path)?, fs::read(&image)?];
            ensure!(both[0].starts_with(&both[1]), "{own} onto {sector}");
        }
        fs::remove_file(image)?;
    }
    Ok(())
}

#[test]
fn what_is_in_use_or_not_confirmed_is_not_touched() -> Result<()> {
    let test = "devices::what_is_in_use_or_not_confirmed_is_not_touched";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let backed = backed_up(&programs)?;
    let home = &backed.home;
    let (_, device) = garbage(home, "target.img", 48 << 20, &[])?;
    let (_, other) = garbage(home, "other.img", 48 << 20, &[])?;
    let (name, other_name) = (device.path.display().to_string(), other.path.display().to_string());
    expect_untouched(&backed, &device.path, &[], &["--yes-destroy", &name])?;
    expect_untouched(&backed, &device.path, &["--yes"], &["--yes-destroy"])?;
    expect_untouched(&backed, &device.path, &["--yes-destroy", &other_name], &[&other_name])?;
    expect_untouched(
        &backed,
        &device.path,
        &["--yes-destroy", "/dev/nothing"],
        &["--yes-destroy"],
    )?;
    // A name that leads to the other device.
    let link = home.path("by-id");
    symlink(&other.path, &link)?;
    let link_name = link.display().to_string();
    expect_untouched(&backed, &device.path, &["--yes-destroy", &link_name], &["--yes-destroy"])?;
    // `--plan` asks nothing and writes nothing.
    let before = blake3::hash(&bytes_of(&device.path)?);
    for more in [&["--plan"][..], &["--plan", "--yes-destroy", &name]] {
        let plan =
            recover(home, &backed.snapshot, &device.path, more)?.expect_code(0)?.summary()?;
        ensure!(plan["plan"] == true && plan["confirmed"] == (more.len() > 1), "{plan}");
    }
    let dry = umbra(home, &["--dry-run", "recover", &backed.snapshot, "--to", &name])?;
    ensure!(String::from_utf8_lossy(&dry.expect_code(0)?.stdout).contains("would be refused"));
    ensure!(blake3::hash(&bytes_of(&device.path)?) == before, "--plan wrote");
    // A loop device on it, a partition of it mounted.
    let holder = Loop::attach(&device.path)?;
    expect_untouched(&backed, &device.path, &["--yes-destroy", &name], &["in use", "loop"])?;
    drop(holder);
    // One that may only be read.
    let (file, read_only) = garbage(home, "ro.img", 48 << 20, &["--read-only"])?;
    let ro_name = read_only.path.display().to_string();
    expect_untouched(&backed, &read_only.path, &["--yes-destroy", &ro_name], &["read-only"])?;
    // The file under a loop device.
    let file_name = file.display().to_string();
    expect_untouched(&backed, &file, &["--yes-destroy", &file_name], &["in use", "loop"])?;
    drop(read_only);

    // The right device by another name, as source name and as confirmation.
    let by_id = home.path("by-id-of-target");
    symlink(&device.path, &by_id)?;
    recover(home, &backed.snapshot, &by_id, &["--yes-destroy", &name])?.expect_code(0)?;
    must(Command::new("cmp").args(["-n", "46138880"]).arg(&backed.image).arg(&device.path))?;
    ensure!(fs::symlink_metadata(&by_id)?.is_symlink(), "the link was replaced");
    // Now it has partitions; one of them mounted is enough.
    let partition = device.partition(2)?;
    let _mount = Mounted::new(&partition, &home.path("mnt"), "ro,noload")?;
    expect_untouched(&backed, &device.path, &["--yes-destroy", &name], &["in use", "mnt"])
}

#[test]
fn a_killed_recovery_leaves_no_file_that_passes_for_whole() -> Result<()> {
    let test = "devices::a_killed_recovery_leaves_no_file_that_passes_for_whole";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    write_noise(&image, 400 << 20, &mut Noise::new(81))?;
    let snapshot = text(&home.backup(&image, "d")?, "snapshot")?.to_owned();
    let (target, partial) = (home.path("back.img"), home.path("back.img.umbra-partial"));
    let start = || {
        let mut command = home.umbra();
        command.args(["--json", "recover", &snapshot, "--to"]).arg(&target);
        Running::start(&mut command)
    };
    let mut running = start()?;
    let some = |path: &Path| bytes_on_medium(path) > 20 << 20;
    wait_until("the recovery writes", || Ok(some(&partial) || !running.is_running()?))?;
    ensure!(running.is_running()?, "it was too fast to be killed");
    // Nobody else writes the same file meanwhile.
    expect_refusal(recover(&home, &snapshot, &target, &[])?, 5, &["another"])?;
    running.kill()?;
    ensure!(!target.exists(), "a killed recovery left a file under its final name");
    ensure!(partial.exists(), "there was nothing to kill");
    start()?.answer()?.expect_code(0)?;
    ensure!(!partial.exists(), "the partial file is still there");
    expect_equal(&image, &target)
}

fn bytes_on_medium(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

#[test]
fn a_full_or_closed_directory_gets_no_half_file() -> Result<()> {
    let test = "devices::a_full_or_closed_directory_gets_no_half_file";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    write_noise(&image, 20 << 20, &mut Noise::new(82))?;
    let snapshot = text(&home.backup(&image, "d")?, "snapshot")?.to_owned();
    fs::create_dir(home.path("nothing"))?;
    make_ext4(&home.path("small.img"), 12 << 20, &home.path("nothing"), &["-O", "^has_journal"])?;
    let device = Loop::attach(&home.path("small.img"))?;
    let mount = Mounted::new(&device.path, &home.path("mnt"), "rw")?;
    let precious = mount.dir.join("precious.img");
    fs::write(&precious, "precious")?;
    for target in [mount.dir.join("out.img"), precious.clone()] {
        let name = target.to_string_lossy().into_owned();
        let answer = recover(&home, &snapshot, &target, &["--yes-destroy", &name])?;
        expect_refusal(answer, 14, &["space", "mnt"])?;
    }
    ensure!(fs::read(&precious)? == b"precious", "the file to be replaced is gone");
    let left: Vec<_> = fs::read_dir(&mount.dir)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.len() == 2, "lost+found and precious.img, but {left:?}");
    must(Command::new("mount").args(["-o", "remount,ro"]).arg(&mount.dir))?;
    let read_only = recover(&home, &snapshot, &mount.dir.join("out.img"), &[])?;
    expect_refusal(read_only, 5, &["read-only"])?;
    drop((mount, device));

    let closed = home.path("closed");
    fs::create_dir(&closed)?;
    give_to_ordinary_user(home.dir())?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555))?;
    let mut command = home.umbra();
    command.args(["--json", "recover", &snapshot, "--to"]).arg(closed.join("out.img"));
    let answer = Answer::of(&mut as_ordinary_user(&command))?;
    expect_refusal(answer, 5, &["closed/out.img", "may not write"])?;
    ensure!(fs::read_dir(&closed)?.next().is_none(), "something was made in a closed directory");
    Ok(())
}

#[test]
fn an_existing_file_is_replaced_whole_and_keeps_its_mode() -> Result<()> {
    let test = "devices::an_existing_file_is_replaced_whole_and_keeps_its_mode";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = ext4_image(&home, "disk.img", 83)?;
    let snapshot = text(&home.backup(&image, "d")?, "snapshot")?.to_owned();
    let target = home.path("vm.img");
    // Longer than the disk, so that a tail would show.
    write_noise(&target, 20 << 20, &mut Noise::new(84))?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o664))?;
    recover_over(&home, &snapshot, &target)?;
    expect_equal(&image, &target)?;
    ensure!(fs::metadata(&target)?.permissions().mode() & 0o777 == 0o664, "the mode has changed");
    let new = home.path("new.img");
    recover(&home, &snapshot, &new, &[])?.expect_code(0)?;
    ensure!(fs::metadata(&new)?.permissions().mode() & 0o077 == 0, "others may read the disk");
    Ok(())
}

#[test]
fn what_is_read_back_comes_from_the_device() -> Result<()> {
    let test = "devices::what_is_read_back_comes_from_the_device";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let backed = backed_up(&programs)?;
    let (_, device) = garbage(&backed.home, "target.img", 48 << 20, &[])?;
    let before = sectors_read(&device)?;
    recover_over(&backed.home, &backed.snapshot, &device.path)?;
    expect_read(&backed, sectors_read(&device)? - before)
}

/// Sectors of 512 bytes that were ever read from a device itself: the third field of its statistics.
fn sectors_read(device: &Loop) -> Result<u64> {
    let name = device.path.file_name().context("a name")?;
    let said = fs::read_to_string(PathBuf::from("/sys/block").join(name).join("stat"))?;
    Ok(said.split_whitespace().nth(2).context("a field")?.parse()?)
}

fn expect_read(backed: &Backed, sectors: u64) -> Result<()> {
    let len = fs::metadata(&backed.image)?.len();
    ensure!(sectors * 512 >= len, "{sectors} sectors were read to prove {len} bytes");
    Ok(())
}

#[test]
fn a_killed_recovery_leaves_no_device_that_passes_for_a_disk() -> Result<()> {
    let test = "devices::a_killed_recovery_leaves_no_device_that_passes_for_a_disk";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let tree = home.path("tree");
    fs::create_dir(&tree)?;
    write_noise(&tree.join("noise"), 300 << 20, &mut Noise::new(85))?;
    let image = home.path("disk.img");
    make_ext4(&image, 340 << 20, &tree, &[])?;
    let snapshot = text(&home.backup(&image, "d")?, "snapshot")?.to_owned();
    let file = home.path("target.img");
    // What stood there before is no disk any more either.
    must(Command::new("cp").arg(&image).arg(&file))?;
    let device = Loop::attach(&file)?;
    let name = device.path.to_string_lossy().into_owned();
    let signature = || -> Result<bool> {
        let said = must(Command::new("wipefs").arg(&device.path))?;
        Ok(String::from_utf8_lossy(&said).contains("ext4"))
    };
    ensure!(signature()?, "wipefs does not know an ext4");
    let mut command = home.umbra();
    command.args(["recover", &snapshot, "--to", &name, "--yes-destroy", &name]);
    let mut running = Running::start(&mut command)?;
    wait_until("the recovery begins", || Ok(!signature()? || !running.is_running()?))?;
    std::thread::sleep(Duration::from_millis(100));
    ensure!(running.is_running()?, "it was too fast to be killed");
    running.kill()?;
    ensure!(!signature()?, "a half written device passes for an ext4");
    Answer::of(&mut command)?.expect_code(0)?;
    ensure!(signature()?, "the recovered device is none");
    must(Command::new("cmp").arg(&image).arg(&device.path))?;
    Ok(())
}

/// Without CAP_SYS_ADMIN the kernel's copies of a device cannot be dropped: it must be asked past them.
#[test]
fn what_is_read_back_comes_from_the_device_without_privileges_too() -> Result<()> {
    let test = "devices::what_is_read_back_comes_from_the_device_without_privileges_too";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let backed = backed_up(&programs)?;
    let (_, device) = garbage(&backed.home, "target.img", 48 << 20, &[])?;
    let name = device.path.to_string_lossy().into_owned();
    let program = backed.home.umbra();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", "--"]);
    command.arg(program.get_program()).args(["--json", "recover", &backed.snapshot]);
    command.args(["--to", &name, "--yes-destroy", &name]).current_dir(backed.home.dir());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let before = sectors_read(&device)?;
    let summary = Answer::of(&mut command)?.expect_code(0)?.summary()?;
    ensure!(summary["verified"] == true, "{summary}");
    expect_read(&backed, sectors_read(&device)? - before)
}
