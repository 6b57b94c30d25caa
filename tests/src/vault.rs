//! A running `umbra-vault serve`, ended with the test that started it.

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::json::Answer;
use crate::programs::Home;

/// How long a vault may take until it serves.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A vault that serves a store on loopback. It is killed when this is dropped: our own child, by its handle.
#[derive(Debug)]
pub struct Vault {
    child: Child,
    /// The store that it serves.
    pub store: PathBuf,
    /// The UDP port on 127.0.0.1.
    pub port: u16,
}

/// What became of a vault that was started.
#[derive(Debug)]
pub enum Started {
    /// It serves.
    Serving(Vault),
    /// It ended before.
    Ended {
        /// How.
        status: ExitStatus,
        /// Its words.
        said: String,
    },
}

impl Vault {
    /// Makes a store `name` in the home and serves it.
    ///
    /// # Errors
    /// When `umbra-vault init` or `serve` fails.
    pub fn start_new(home: &Home, name: &str) -> Result<Self> {
        let store = home.path(name);
        Answer::of(home.vault().arg("init").arg(&store))?.expect_code(0)?;
        Self::start(home, &store, free_udp_port()?)
    }

    /// Serves a store on a port, and returns once it answers on its administration socket.
    ///
    /// # Errors
    /// When the vault ends at once, or does not serve in time.
    pub fn start(home: &Home, store: &Path, port: u16) -> Result<Self> {
        match Self::start_with(home, store, port, &mut |_| {})? {
            Started::Serving(vault) => Ok(vault),
            Started::Ended { status, said } => {
                bail!("umbra-vault serve ended at once: {status}\n{said}")
            }
        }
    }

    /// The same, with whatever `change` does to the command; that it ends before it serves is no error.
    ///
    /// # Errors
    /// When the vault cannot be started, or neither serves nor ends in time.
    pub fn start_with(
        home: &Home,
        store: &Path,
        port: u16,
        change: &mut dyn FnMut(&mut Command),
    ) -> Result<Started> {
        let log_path = home.path(&format!("vault-{port}.log"));
        let log = File::options().create(true).append(true).open(&log_path)?;
        let said_before = usize::try_from(log.metadata()?.len())?;
        let mut command = home.vault();
        command
            .arg("serve")
            .arg("--store")
            .arg(store)
            .arg("--listen")
            .arg(format!("127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        change(&mut command);
        let child = command.spawn().context("cannot start umbra-vault serve")?;
        let mut vault = Self { child, store: store.to_owned(), port };
        let begin = Instant::now();
        // Its own word and not a trial of the port: a trial binds it for a moment, and a vault that wants it just then
        // ends with "address in use"; and the port is there before the administration socket is.
        loop {
            let ended = vault.child.try_wait()?;
            let said = std::fs::read(&log_path)?;
            let said = String::from_utf8_lossy(said.get(said_before..).unwrap_or_default());
            if let Some(status) = ended {
                return Ok(Started::Ended { status, said: said.into_owned() });
            }
            if said.contains("umbra-vault serves ") {
                return Ok(Started::Serving(vault));
            }
            if begin.elapsed() > START_TIMEOUT {
                bail!("umbra-vault does not serve after {START_TIMEOUT:?}: {said}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A new one-time token for a machine.
    ///
    /// # Errors
    /// When the running vault gives none.
    pub fn token(&self, home: &Home, machine: &str) -> Result<String> {
        let mut command = home.vault();
        command.args(["agent", "token", "--store"]).arg(&self.store).args(["--machine", machine]);
        let answer = Answer::of(&mut command)?.expect_code(0)?;
        let text = String::from_utf8(answer.stdout).context("a token is text")?;
        let token = text.split_whitespace().last().context("no token was printed")?;
        Ok(token.to_owned())
    }

    /// Enrols the machine of `home` in this vault.
    ///
    /// # Errors
    /// When no token can be had or the vault refuses it.
    pub fn enroll(&self, administrator: &Home, home: &Home, machine: &str) -> Result<()> {
        let token = self.token(administrator, machine)?;
        Answer::of(home.umbra().args(["enroll", &token]))?.expect_code(0)?;
        Ok(())
    }

    /// Kills the vault as a power cut would: no signal handler runs.
    ///
    /// # Errors
    /// When it cannot be killed or waited for.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("cannot kill the vault")?;
        self.child.wait().context("cannot wait for the vault")?;
        Ok(())
    }

    /// Kills it, unless it has ended; it is still to be waited for.
    pub fn send_kill(&mut self) {
        // It fails only where it has ended.
        let _ = self.child.kill();
    }

    /// Asks the vault to end in order, as the service manager does.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn terminate(&self) -> Result<()> {
        crate::must(Command::new("kill").arg(self.child.id().to_string()))?;
        Ok(())
    }

    /// How it ended by itself; none where it still runs after that time.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn ended_within(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let begin = Instant::now();
        loop {
            let status = self.child.try_wait().context("cannot wait for the vault")?;
            if status.is_some() || begin.elapsed() > limit {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The process id, by which others must name it.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        // It may have ended by itself or been killed by the test; then there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A UDP port of loopback that nobody has at this moment, below those that the kernel gives to sockets that name none:
/// a vault that is started again must find its port free.
///
/// # Errors
/// When no socket can be bound.
pub fn free_udp_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id().wrapping_mul(37).wrapping_add(step)) % 20_000;
        let port = u16::try_from(port)?;
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free UDP port on loopback");
}
