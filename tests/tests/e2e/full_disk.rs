//! A vault whose file system is full to the last byte: it refuses, loses nothing, and what only reads goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umbra_tests::images::{Mount, Noise, expect_equal, write_noise};
use umbra_tests::json::{Answer, text};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::torture::Campaign;
use umbra_tests::torture::trouble::{Trouble, fill};
use umbra_tests::vault::Started;
use umbra_tests::vault::Vault;
use umbra_tests::{is_root, must, skip};

/// Bytes of the file system; a quarter of it is the reserve that no pack is begun in.
const BYTES: u64 = 600 << 20;

/// A machine with the real agent, and a snapshot of its disk.
struct Agent {
    home: Home,
    image: PathBuf,
    snapshot: String,
}

impl Agent {
    fn new(programs: &Programs, campaign: &mut Campaign) -> Result<Self> {
        let home = Home::new(programs)?;
        let vault = campaign.vault()?;
        let token = vault.token(&home, "real")?;
        Answer::of(home.umbra().args(["enroll", &token]))?.expect_code(0)?;
        let image = home.path("disk.img");
        write_noise(&image, 5 << 20, &mut Noise::new(7))?;
        let mut agent = Self { home, image, snapshot: String::new() };
        let summary = Answer::of(&mut agent.backup())?.expect_code(0)?.summary()?;
        agent.snapshot = text(&summary, "snapshot")?.to_owned();
        Ok(agent)
    }

    fn backup(&self) -> Command {
        let mut command = self.home.umbra();
        command.args(["--json", "--disk", "d", "backup"]).arg(&self.image);
        command
    }

    /// Recovers the snapshot and compares it; `vault` names another way to the store.
    fn recovers(&self, vault: &[&str]) -> Result<()> {
        let back = self.home.path("back.img");
        let mut command = self.home.umbra();
        command.args(vault).args(["--json", "--yes", "recover", &self.snapshot, "--to"]);
        Answer::of(command.arg(&back))?.expect_code(0)?;
        expect_equal(&self.home.path("first.img"), &back)?;
        fs::remove_file(back)?;
        Ok(())
    }
}

/// Status and check, which only read, whether a vault serves the store or not.
fn looks_whole(campaign: &Campaign) -> Result<()> {
    let store = campaign.store();
    let status =
        Answer::of(campaign.home().vault().args(["--json", "status", "--store"]).arg(store))?;
    ensure!(matches!(status.code, Some(0 | 3)), "{}", status.describe());
    let mut check = campaign.home().vault();
    check.args(["--json", "check", "--read-data", "--store"]).arg(store);
    let summary = Answer::of(&mut check)?.expect_code(0)?.summary()?;
    // What cannot be made anew for want of room must not be thrown away for want of room.
    ensure!(text(&summary, "index")? == "compared", "the index is gone: {summary}");
    Ok(())
}

fn free_bytes(dir: &Path) -> Result<u64> {
    let told = must(Command::new("df").args(["-B1", "--output=avail"]).arg(dir))?;
    let told = String::from_utf8(told)?;
    told.lines().nth(1).and_then(|line| line.trim().parse().ok()).context("df told no number")
}

#[test]
fn a_vault_on_a_full_disk_refuses_and_loses_nothing() -> Result<()> {
    let test = "full_disk::a_vault_on_a_full_disk_refuses_and_loses_nothing";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    if !is_root() {
        skip(test, "not root: no file system can be mounted");
        return Ok(());
    }
    let home = Home::new(&programs)?;
    let place = Home::new(&programs)?;
    let image = place.path("fs.img");
    fs::File::create(&image)?.set_len(BYTES)?;
    must(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-m", "0"]).arg(&image))?;
    let mount = Mount::new(&image, &place.path("fs"), "")?;
    let foreign = mount.dir().join("foreign");
    let mut campaign = Campaign::in_store(home, mount.dir().join("store"), 11)?;
    let mut agent = Agent::new(&programs, &mut campaign)?;
    fs::copy(&agent.image, agent.home.path("first.img"))?;
    campaign.round(&Trouble::End { after: Duration::from_millis(200) })?;

    // Full beside a vault that serves.
    fill(&foreign)?;
    ensure!(free_bytes(mount.dir())? == 0, "it is not full");
    agent.image = agent.home.path("more.img");
    write_noise(&agent.image, 24 << 20, &mut Noise::new(8))?;
    Answer::of(&mut agent.backup())?.expect_code(14)?;
    looks_whole(&campaign)?;
    agent.recovers(&[])?;
    fs::remove_file(&foreign)?;
    Answer::of(&mut agent.backup())?.expect_code(0)?;

    // Filled under eight writers, and the vault ends one way or the other.
    for kill in [true, false] {
        let (after, then) = (Duration::from_millis(150), Duration::from_millis(700));
        campaign.work(&Trouble::Fill { file: foreign.clone(), after, then, kill })?;
        ensure!(campaign.figures.refused > 0, "nobody was refused");
        ensure!(campaign.words.contains("space"), "refused for what? {}", campaign.words);
        fill(&foreign)?;
        stopped_and_full(&agent, &campaign)?;
        fs::remove_file(&foreign)?;
        campaign.prove(umbra_tests::torture::proof::Depth::All)?;
    }
    agent.recovers(&[])?;
    campaign.round(&Trouble::End { after: Duration::from_millis(200) })?;
    campaign.finish()?;
    println!("{:?}", campaign.figures);
    drop(campaign);
    mount.unmount()
}

/// A store with no byte of room that nobody serves.
fn stopped_and_full(agent: &Agent, campaign: &Campaign) -> Result<()> {
    looks_whole(campaign)?;
    let url = format!("file://{}", campaign.store().display());
    agent.recovers(&["--vault", &url, "--machine", "real"])?;
    let port = umbra_tests::vault::free_udp_port()?;
    match Vault::start_with(campaign.home(), campaign.store(), port, &mut |_| {})? {
        Started::Serving(vault) => vault.kill()?,
        // Taking the open packs over takes some room, as long as nothing is kept for that.
        Started::Ended { status, said } => {
            ensure!(status.code() == Some(14), "{status}: {said}");
        }
    }
    looks_whole(campaign)
}

#[test]
fn room_can_be_made_where_there_is_none() -> Result<()> {
    let test = "full_disk::room_can_be_made_where_there_is_none";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    if !is_root() {
        skip(test, "not root: no file system can be mounted");
        return Ok(());
    }
    let home = Home::new(&programs)?;
    let image = home.path("fs.img");
    fs::File::create(&image)?.set_len(BYTES)?;
    must(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-m", "0"]).arg(&image))?;
    let mount = Mount::new(&image, &home.path("fs"), "")?;
    let store = mount.dir().join("store");
    let vault = |arguments: &[&str], code: i32| {
        let mut command = home.vault();
        command.args(["--json", arguments[0], "--store"]).arg(&store).args(&arguments[1..]);
        Answer::of(&mut command)?.expect_code(code)?.summary()
    };
    must(home.vault().arg("init").arg(&store))?;
    let url = format!("file://{}", store.display());
    let umbra = |arguments: &[&str]| {
        let mut command = home.umbra();
        command.args(["--json", "--vault", &url, "--machine", "m", "--disk", "d"]);
        Answer::of(command.args(arguments))?.expect_code(0)?.summary()
    };
    let disk = home.path("disk.img");
    let path = disk.to_str().context("a path is text")?;
    let mut snapshots = Vec::new();
    for seed in 1..3 {
        write_noise(&disk, 40 << 20, &mut Noise::new(seed))?;
        snapshots.push(text(&umbra(&["backup", path])?, "snapshot")?.to_owned());
    }
    fill(&mount.dir().join("foreign"))?;
    ensure!(free_bytes(mount.dir())? == 0, "it is not full");
    vault(&["forget", &snapshots[0]], 0)?;
    // It can still be taken back: nothing goes.
    let kept = vault(&["gc"], 0)?;
    ensure!(kept["packs_deleted"].as_u64() == Some(0), "{kept}");
    let collected = vault(&["gc", "--now"], 0)?;
    ensure!(collected["bytes_freed"].as_u64() > Some(30 << 20), "{collected}");
    ensure!(free_bytes(mount.dir())? > 30 << 20, "the room did not come back");
    vault(&["check", "--read-data"], 0)?;
    let back = home.path("back.img");
    umbra(&["--yes", "recover", &snapshots[1], "--to", back.to_str().context("text")?])?;
    expect_equal(&disk, &back)?;
    mount.unmount()
}
