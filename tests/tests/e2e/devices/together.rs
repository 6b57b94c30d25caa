//! Several agents at once.

use umbra_tests::images::expect_equal;
use umbra_tests::json::Running;
use umbra_tests::vault::Vault;

use super::*;
use crate::bad_input::expect_refusal;

const BYTES: u64 = 64 << 20;

fn start(home: &Home, image: &Path, more: &[&str]) -> Result<Running> {
    let mut command = home.umbra();
    command.args(["--json", "--disk", "d"]).args(more).arg("backup").arg(image);
    Running::start(&mut command)
}

#[test]
fn a_second_backup_into_a_local_store_waits_and_then_says_who_has_it() -> Result<()> {
    let test = "devices::a_second_backup_into_a_local_store_waits_and_then_says_who_has_it";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let home = Home::new(&programs)?;
    home.init_store()?;
    let image = home.path("disk.img");
    write_noise(&image, BYTES, &mut Noise::new(101))?;
    let machine = ["--machine", "m"];
    let first = start(&home, &image, &[&machine[..], &["--limit-upload", "8M"]].concat())?;
    wait_until("the first one sends", || Ok(bytes_below(&home.path("store"))? > 8 << 20))?;
    let begin = Instant::now();
    let second = start(&home, &image, &[&machine[..], &["--wait", "1"]].concat())?.answer()?;
    ensure!(begin.elapsed() >= Duration::from_secs(1), "it did not wait");
    ensure!(begin.elapsed() < Duration::from_secs(6), "it waited {:?}", begin.elapsed());
    expect_refusal(second, 11, &["since"])?;
    let patient = start(&home, &image, &[&machine[..], &["--wait", "120"]].concat())?;
    let first = first.answer()?.expect_code(0)?.summary()?;
    let patient = patient.answer()?.expect_code(0)?.summary()?;
    ensure!(first["image_hash"] == patient["image_hash"], "{first} {patient}");
    ensure!(patient["chunks_new"] == 0, "what the first one brought was sent again: {patient}");
    let back = home.path("back.img");
    home.recover(text(&patient, "snapshot")?, &back)?;
    expect_equal(&image, &back)
}

#[test]
fn two_agents_at_one_vault_both_come_through() -> Result<()> {
    let test = "devices::two_agents_at_one_vault_both_come_through";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let administrator = Home::new(&programs)?;
    let vault = Vault::start_new(&administrator, "store")?;
    let mut agents = Vec::new();
    // Two disks that share their first half, and two agents that have the same disk.
    for (machine, seed) in [("m1", 1_u64), ("m2", 2), ("m3", 2)] {
        let home = Home::new(&programs)?;
        vault.enroll(&administrator, &home, machine)?;
        let image = home.path("disk.img");
        write_noise(&image, BYTES, &mut Noise::new(102))?;
        let own = Noise::new(seed).bytes(usize::try_from(BYTES / 2)?);
        File::options().write(true).open(&image)?.write_all_at(&own, BYTES / 2)?;
        agents.push((home, image));
    }
    let running: Vec<Running> =
        agents.iter().map(|(home, image)| start(home, image, &[])).collect::<Result<_>>()?;
    for ((home, image), running) in agents.iter().zip(running) {
        let summary = running.answer()?.expect_code(0)?.summary()?;
        let back = home.path("back.img");
        home.recover(text(&summary, "snapshot")?, &back)?;
        expect_equal(image, &back)?;
    }
    Ok(())
}

/// Two readers of one device at the same moment are no reason to call it in use.
#[test]
fn one_device_is_read_by_two_agents_at_once() -> Result<()> {
    let test = "devices::one_device_is_read_by_two_agents_at_once";
    let Some(programs) = programs_as_root(test) else { return Ok(()) };
    let maker = Home::new(&programs)?;
    let image = ext4_image(&maker, "disk.img", 103)?;
    let device = Loop::attach(&image)?;
    let homes = [Home::new(&programs)?, Home::new(&programs)?, Home::new(&programs)?];
    for home in &homes {
        home.init_store()?;
    }
    for _ in 0..5 {
        let running: Vec<Running> =
            homes.iter().map(|home| start(home, &device.path, &[])).collect::<Result<_>>()?;
        for running in running {
            let summary = running.answer()?.expect_code(0)?.summary()?;
            ensure!(summary["consistency"] == "offline", "{summary}");
        }
    }
    Ok(())
}
