//! `umbra` and `umbra-vault` as demo and bench run them: each machine in a home of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::disks::Disk;
use crate::env::{BuildEnv, is_root};
use crate::process;
use crate::transcript::{mebibytes, seconds};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const GROWTH_TIMEOUT: Duration = Duration::from_secs(300);
/// The ordinary user under which umbra runs where we are root.
const ORDINARY_USER: &str = "65534";

/// Whom umbra runs as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Somebody without any right, where we are root.
    Ordinary,
    /// Whoever we are.
    Same,
}

/// A program with nothing of the user's settings: configuration, cache and home stand in `home`.
fn isolated(env: &BuildEnv, program: &Path, home: &Path, user: User) -> Command {
    let mut command = if user == User::Ordinary && is_root() {
        let mut command = env.command("setpriv");
        command.args(["--reuid", ORDINARY_USER, "--regid", ORDINARY_USER, "--clear-groups", "--"]);
        command.arg(program);
        command
    } else {
        Command::new(program)
    };
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("UMBRA_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(home)
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("XDG_STATE_HOME", home.join("state"))
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env("UMBRA_CONFIG", home.join("agent.toml"))
        .env("UMBRA_CACHE_DIR", home.join("cache"));
    command
}

/// A vault served on loopback; killed when dropped.
pub(crate) struct Vault<'e> {
    env: &'e BuildEnv,
    home: PathBuf,
    store: PathBuf,
    port: u16,
    child: Child,
}

impl<'e> Vault<'e> {
    /// `umbra-vault init` and `serve`.
    ///
    /// # Errors
    /// When one of them fails.
    pub(crate) fn create(env: &'e BuildEnv, place: &Path) -> Result<Self> {
        let home = place.join("vault");
        fs::create_dir(&home)?;
        let store = home.join("store");
        let mut init = isolated(env, &env.bin_dir().join("umbra-vault"), &home, User::Same);
        init.arg("init").arg(&store);
        println!("$ umbra-vault init store");
        process::output(&mut init)?;
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let child = Self::serve(env, &home, &store, port)?;
        Ok(Self { env, home, store, port, child })
    }

    fn serve(env: &BuildEnv, home: &Path, store: &Path, port: u16) -> Result<Child> {
        println!("$ umbra-vault serve --store store --listen 127.0.0.1:{port} &");
        let log_path = home.join("serve.log");
        let log = File::options().create(true).append(true).open(&log_path)?;
        let said_before = usize::try_from(log.metadata()?.len())?;
        let mut child = isolated(env, &env.bin_dir().join("umbra-vault"), home, User::Same)
            .arg("serve")
            .arg("--store")
            .arg(store)
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start umbra-vault")?;
        let begin = Instant::now();
        loop {
            let said = fs::read(&log_path)?;
            let said = String::from_utf8_lossy(said.get(said_before..).unwrap_or_default());
            if said.contains("umbra-vault serves ") {
                return Ok(child);
            }
            if child.try_wait()?.is_some() || begin.elapsed() > START_TIMEOUT {
                // It may have ended already; then there is nothing to kill.
                let _ = child.kill();
                bail!("umbra-vault does not serve:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A one-time token for a machine.
    fn token(&self, machine: &str) -> Result<String> {
        let mut command =
            isolated(self.env, &self.env.bin_dir().join("umbra-vault"), &self.home, User::Same);
        command.args(["agent", "token", "--store"]).arg(&self.store).args(["--machine", machine]);
        println!("$ umbra-vault agent token --store store --machine {machine}");
        let said = String::from_utf8(process::output(&mut command)?)?;
        Ok(said.split_whitespace().last().context("no token was printed")?.to_owned())
    }

    /// Waits until the store holds so many bytes more than now.
    ///
    /// # Errors
    /// When nothing arrives for minutes.
    pub(crate) fn wait_until_it_grows(&self, bytes: u64) -> Result<()> {
        let (begin, before) = (Instant::now(), self.stored_bytes()?);
        loop {
            let grown = self.stored_bytes()?.saturating_sub(before);
            if grown >= bytes {
                println!("    {} have reached the vault", mebibytes(grown));
                return Ok(());
            }
            if begin.elapsed() > GROWTH_TIMEOUT {
                bail!("only {} reach the vault", mebibytes(grown));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn stored_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for dir in ["packs", "open"] {
            bytes += tree_bytes(&self.store.join(dir));
        }
        Ok(bytes)
    }

    /// SIGKILL, and the same store served again on the same port.
    ///
    /// # Errors
    /// When it does not serve again.
    pub(crate) fn kill_and_serve_again(mut self) -> Result<Self> {
        println!("$ kill -9 {}   # the vault", self.child.id());
        self.child.kill()?;
        self.child.wait()?;
        self.child = Self::serve(self.env, &self.home, &self.store, self.port)?;
        Ok(self)
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory of the store.
    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// Ends the vault.
    pub(crate) fn end(self) {}
}

impl Drop for Vault<'_> {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sum of the file sizes below a directory; what vanishes meanwhile counts nothing.
pub(crate) fn tree_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => tree_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// A machine that backs up to the vault.
pub(crate) struct Machine<'e> {
    env: &'e BuildEnv,
    /// Its home; files that umbra makes go here.
    pub(crate) home: PathBuf,
    name: String,
    user: User,
}

impl<'e> Machine<'e> {
    /// Makes a home and enrols the machine with a token of the vault.
    ///
    /// # Errors
    /// When the vault gives no token or refuses it.
    pub(crate) fn enroll(
        env: &'e BuildEnv,
        place: &Path,
        vault: &Vault<'_>,
        name: &str,
        user: User,
    ) -> Result<Self> {
        let machine = Self::at_home(env, place, name, user)?;
        let token = vault.token(name)?;
        println!("{name}$ umbra enroll TOKEN");
        process::output(machine.umbra().args(["enroll", &token]))?;
        Ok(machine)
    }

    /// Makes a home and an embedded store in it.
    ///
    /// # Errors
    /// When the store cannot be made.
    pub(crate) fn with_store(env: &'e BuildEnv, place: &Path, name: &str) -> Result<Self> {
        let machine = Self::at_home(env, place, name, User::Same)?;
        println!("{name}$ umbra init store");
        process::output(machine.umbra().arg("init").arg(machine.home.join("store")))?;
        Ok(machine)
    }

    fn at_home(env: &'e BuildEnv, place: &Path, name: &str, user: User) -> Result<Self> {
        let home = place.join(name);
        fs::create_dir(&home)?;
        if user == User::Ordinary && is_root() {
            let owner = format!("{ORDINARY_USER}:{ORDINARY_USER}");
            process::output(env.command("chown").arg(owner).arg(&home))?;
        }
        Ok(Self { env, home, name: name.to_owned(), user })
    }

    /// `umbra` on this machine.
    pub(crate) fn umbra(&self) -> Command {
        isolated(self.env, &self.env.bin_dir().join("umbra"), &self.home, self.user)
    }

    /// Runs umbra, prints the command line, and returns standard output and the time it took.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<(Vec<u8>, Duration)> {
        println!("{}$ umbra {}", self.name, shortened(arguments));
        let begin = Instant::now();
        let said = process::output(self.umbra().args(arguments))?;
        Ok((said, begin.elapsed()))
    }

    /// Backs a disk up; returns the summary.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn back_up(&self, disk: &Disk) -> Result<(Value, Duration)> {
        let image = disk.path.to_string_lossy().into_owned();
        // The disk is compared with `cmp` afterwards, deleted files and all.
        let arguments = ["--json", "--disk", "system", "backup", "--free", "keep", &image];
        let (said, took) = self.run(&arguments)?;
        Ok((summary(&said)?, took))
    }

    /// Recovers a snapshot to a new file; returns the summary.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn recover(&self, snapshot: &str, to: &Path) -> Result<(Value, Duration)> {
        let to = to.to_string_lossy().into_owned();
        let (said, took) = self.run(&["--json", "recover", snapshot, "--to", &to])?;
        Ok((summary(&said)?, took))
    }

    /// Starts a backup that goes on meanwhile.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start_backup(&self, disk: &Disk) -> Result<Running> {
        println!("{}$ umbra --disk system backup --free keep {} &", self.name, disk.name);
        let log = File::create(self.home.join("backup.log"))?;
        let child = self
            .umbra()
            .args(["--json", "--disk", "system", "backup", "--free", "keep"])
            .arg(&disk.path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Running { child, begin: Instant::now() })
    }
}

/// A backup that goes on meanwhile.
pub(crate) struct Running {
    child: Child,
    begin: Instant,
}

impl Running {
    /// Waits for its end; the exit code.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub(crate) fn wait(mut self) -> Result<Option<i32>> {
        let status = self.child.wait()?;
        println!("    the backup ended after {}", seconds(self.begin.elapsed()));
        Ok(status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Usually it has ended; after a failed step it must not stay behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last line of `--json` output.
///
/// # Errors
/// When it is no summary.
pub(crate) fn summary(said: &[u8]) -> Result<Value> {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().last().context("umbra printed nothing")?;
    let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
    if value["type"] != "summary" {
        bail!("the last line is no summary: {line}");
    }
    Ok(value)
}

/// The arguments as a reader wants them: no `--json`, ids and paths short.
fn shortened(arguments: &[&str]) -> String {
    let words = arguments.iter().filter(|word| **word != "--json").map(|word| {
        if word.starts_with('/') {
            return word.rsplit('/').next().unwrap_or(word).to_owned();
        }
        let (id, rest) = word.split_once(':').unwrap_or((word, ""));
        let is_id = id.len() >= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (is_id, id.get(..12), rest.is_empty()) {
            (true, Some(short), true) => short.to_owned(),
            (true, Some(short), false) => format!("{short}:{rest}"),
            _ => (*word).to_owned(),
        }
    });
    words.collect::<Vec<String>>().join(" ")
}
