//! A running `umbra-vault serve`, ended with the test that started it.

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
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
        let log_path = home.path(&format!("vault-{port}.log"));
        let log = File::options().create(true).append(true).open(&log_path)?;
        let child = home
            .vault()
            .arg("serve")
            .arg("--store")
            .arg(store)
            .arg("--listen")
            .arg(format!("127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start umbra-vault serve")?;
        let mut vault = Self { child, store: store.to_owned(), port };
        let begin = Instant::now();
        while !is_udp_port_taken(port) {
            if let Some(status) = vault.child.try_wait()? {
                let said = std::fs::read_to_string(&log_path).unwrap_or_default();
                bail!("umbra-vault serve ended at once: {status}\n{said}");
            }
            if begin.elapsed() > START_TIMEOUT {
                bail!("umbra-vault does not listen after {START_TIMEOUT:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(vault)
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

/// A UDP port of loopback that nobody has at this moment.
///
/// # Errors
/// When no socket can be bound.
pub fn free_udp_port() -> Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn is_udp_port_taken(port: u16) -> bool {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_err()
}
