//! `kill -9` of the vault at random moments of backups: what was acknowledged is there afterwards, to the last byte.
//!
//! The served form kills `umbra-vault serve`, the embedded form the vault that `umbra` started for itself. The disk
//! changes before every backup. Of each snapshot whose receipt the agent got, the hash of the image at that time is
//! kept, made by b3sum's algorithm from the file and not from the store.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umbra_tests::images::{Noise, make_ext4, write_noise};
use umbra_tests::json::{Answer, Running, text};
use umbra_tests::programs::{Home, Programs};
use umbra_tests::vault::Vault;
use umbra_tests::{is_full, must};

/// How long one backup may take, killed vault and waiting included.
const BACKUP_TIMEOUT: Duration = Duration::from_secs(180);

/// The latest moment of a kill after the start of a backup.
const LATEST_KILL_MS: u64 = 900;

/// A disk that changes, and the snapshots of it that were acknowledged.
struct Disk {
    image: PathBuf,
    len: u64,
    noise: Noise,
    acknowledged: Vec<(String, blake3::Hash)>,
    /// Bytes recovered and compared.
    compared: u64,
}

impl Disk {
    fn new(place: &Home, name: &str, megabytes: u64, seed: u64) -> Result<Self> {
        let mut noise = Noise::new(seed);
        let tree = place.path(&format!("{name}-tree"));
        fs::create_dir(&tree)?;
        for number in 0..megabytes / 2 {
            write_noise(&tree.join(format!("file{number:03}")), (2 << 20) - 4321, &mut noise)?;
        }
        let image = place.path(&format!("{name}.img"));
        let len = (megabytes + megabytes / 4 + 16) << 20;
        make_ext4(&image, len, &tree, &[])?;
        fs::remove_dir_all(tree)?;
        Ok(Self { image, len, noise, acknowledged: Vec::new(), compared: 0 })
    }

    /// Overwrites some ranges in the second half of the disk, where the files' contents are.
    fn change(&mut self) -> Result<()> {
        let file = File::options().write(true).open(&self.image)?;
        for _ in 0..12 {
            let at = self.len / 2 + self.noise.below(self.len / 4);
            let len = usize::try_from(1 + self.noise.below(2 << 20))?;
            file.write_all_at(&self.noise.bytes(len), at)?;
        }
        Ok(())
    }

    /// A command that backs it up.
    fn backup(&self, agent: &Home, url: &str) -> Command {
        let mut command = agent.umbra();
        command.args(["--json", "--vault", url, "--machine", "m", "--disk", "d", "backup"]);
        command.args(["--free", "keep"]);
        command.arg(&self.image);
        command
    }

    /// Notes a snapshot whose receipt the agent got.
    fn acknowledge(&mut self, answer: &Answer) -> Result<()> {
        let summary = answer.summary()?;
        self.acknowledged.push((text(&summary, "snapshot")?.to_owned(), hash_of(&self.image)?));
        Ok(())
    }

    /// Verifies the snapshots from `first` on, and recovers them.
    fn check(&mut self, agent: &Home, url: &str, first: usize) -> Result<()> {
        for (snapshot, expected) in self.acknowledged.iter().skip(first) {
            let command = |args: &[&str]| {
                let mut command = agent.umbra();
                command.args(["--json", "--machine", "m", "--vault", url]).args(args);
                command
            };
            Answer::of(&mut command(&["verify", snapshot, "--deep"]))?
                .expect_code(0)
                .with_context(|| format!("LOST: {snapshot}"))?;
            let back = agent.path("back.img");
            let to = back.to_str().context("a path is text")?;
            Answer::of(&mut command(&["recover", snapshot, "--to", to]))?
                .expect_code(0)
                .with_context(|| format!("LOST: {snapshot}"))?;
            ensure!(hash_of(&back)? == *expected, "WRONG BYTES: {snapshot}");
            self.compared += fs::metadata(&back)?.len();
            fs::remove_file(back)?;
        }
        Ok(())
    }
}

fn hash_of(path: &Path) -> Result<blake3::Hash> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            count => hasher.update(&buffer[..count]),
        };
    }
}

fn seed() -> u64 {
    let seed = std::env::var("UMBRA_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed} (UMBRA_TEST_SEED)");
    seed
}

/// Waits for a backup, or ends it.
fn finish(mut running: Running) -> Result<Answer> {
    let begin = Instant::now();
    while running.is_running()? {
        if begin.elapsed() > BACKUP_TIMEOUT {
            running.kill()?;
            anyhow::bail!("hangs: {}", running.answer()?.describe());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    running.answer()
}

#[test]
fn a_served_vault_that_is_killed_loses_nothing_it_acknowledged() -> Result<()> {
    let test = "kills::a_served_vault_that_is_killed_loses_nothing_it_acknowledged";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let (kills, megabytes) = if is_full() { (40, 96) } else { (5, 24) };
    let (administrator, agent) = (Home::new(&programs)?, Home::new(&programs)?);
    let mut disk = Disk::new(&agent, "served", megabytes, seed())?;
    let mut vault = Vault::start_new(&administrator, "store")?;
    vault.enroll(&administrator, &agent, "m")?;
    let (store, port) = (vault.store.clone(), vault.port);
    let url = format!("umbra://127.0.0.1:{port}");
    let mut given_up = 0;
    for _ in 0..kills {
        disk.change()?;
        let running = Running::start(&mut disk.backup(&agent, &url))?;
        std::thread::sleep(Duration::from_millis(disk.noise.below(LATEST_KILL_MS)));
        vault.kill()?;
        vault = Vault::start(&administrator, &store, port)?;
        let answer = finish(running)?;
        if answer.code == Some(0) {
            disk.acknowledge(&answer)?;
        } else {
            ensure!(answer.code == Some(10), "{}", answer.describe());
            given_up += 1;
            let answer = Answer::of(&mut disk.backup(&agent, &url))?.expect_code(0)?;
            disk.acknowledge(&answer)?;
        }
        let newest = disk.acknowledged.len() - 1;
        disk.check(&agent, &url, newest)?;
    }
    vault.kill()?;
    let _vault = Vault::start(&administrator, &store, port)?;
    disk.check(&agent, &url, 0)?;
    println!(
        "{} kills, {} snapshots acknowledged ({given_up} agents gave up once), {} bytes compared",
        kills + 1,
        disk.acknowledged.len(),
        disk.compared
    );
    Ok(())
}

/// The vault that `umbra` started, by its parent's process id.
fn embedded_vault(parent: u32) -> Result<Option<String>> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        if name.trim() == "umbra-vault" {
            return Ok(Some(child.to_owned()));
        }
    }
    Ok(None)
}

#[test]
fn an_embedded_vault_that_is_killed_loses_nothing_it_acknowledged() -> Result<()> {
    let test = "kills::an_embedded_vault_that_is_killed_loses_nothing_it_acknowledged";
    let Some(programs) = Programs::find(test) else { return Ok(()) };
    let (rounds, megabytes) = if is_full() { (20, 96) } else { (3, 24) };
    let agent = Home::new(&programs)?;
    let mut disk = Disk::new(&agent, "embedded", megabytes, seed())?;
    let url = agent.init_store()?;
    let mut kills = 0;
    for _ in 0..rounds {
        disk.change()?;
        let mut running = Running::start(&mut disk.backup(&agent, &url))?;
        std::thread::sleep(Duration::from_millis(disk.noise.below(LATEST_KILL_MS)));
        if running.is_running()?
            && let Some(vault) = embedded_vault(running.process_id())?
        {
            must(Command::new("kill").args(["-9", &vault]))?;
            kills += 1;
        }
        let answer = finish(running)?;
        if answer.code == Some(0) {
            disk.acknowledge(&answer)?;
        }
        let again = Answer::of(&mut disk.backup(&agent, &url))?.expect_code(0)?;
        disk.acknowledge(&again)?;
        let newest = disk.acknowledged.len() - 1;
        disk.check(&agent, &url, newest)?;
    }
    disk.check(&agent, &url, 0)?;
    println!(
        "{kills} kills, {} snapshots acknowledged, {} bytes compared",
        disk.acknowledged.len(),
        disk.compared
    );
    Ok(())
}
