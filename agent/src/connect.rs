//! Reaching a vault: over the network, or by starting one on a local store for this command.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;
use umbra_common::wire::{DEFAULT_PORT, Fingerprint};
use umbra_net::{Client, Connect, Identity};

use crate::cli::Global;
use crate::config::{self, ConfigFile};
use crate::error::{Error, Result};

/// What a command wants of the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only; a local store is opened read-only.
    Read,
    /// Reading and writing.
    Write,
}

/// Where a vault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultUrl {
    /// `umbra://HOST[:PORT]`.
    Network {
        /// `HOST:PORT`.
        address: String,
    },
    /// `file:///DIR`: a store in a directory.
    Embedded {
        /// The directory.
        dir: PathBuf,
    },
}

impl VaultUrl {
    /// Reads a URL; a bare absolute path is a directory.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("file://").or(text.starts_with('/').then_some(text)) {
            if path.starts_with('/') {
                return Ok(Self::Embedded { dir: path.into() });
            }
        } else if let Some(host) = text.strip_prefix("umbra://") {
            let host = host.trim_end_matches('/');
            if !host.is_empty() && !host.contains('/') {
                let has_port = host.rsplit_once(':').is_some_and(|(before, port)| {
                    port.parse::<u16>().is_ok() && (!before.contains(':') || before.ends_with(']'))
                });
                let address = if has_port { host.into() } else { format!("{host}:{DEFAULT_PORT}") };
                return Ok(Self::Network { address });
            }
        }
        Err(Error::Usage {
            what: format!("{text:?} is no vault URL"),
            hint: "use umbra://HOST[:8407] or file:///DIR".into(),
        })
    }
}

impl std::fmt::Display for VaultUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network { address } => write!(f, "umbra://{address}"),
            Self::Embedded { dir } => write!(f, "file://{}", dir.display()),
        }
    }
}

/// A session with a vault, and the vault itself where this command started it.
pub struct Connection {
    /// The session.
    pub client: Client,
    /// The machine that this is to the vault; commands may name another one.
    pub machine: String,
    /// Where the vault is.
    pub url: VaultUrl,
    /// Ends the embedded vault when dropped, after the client.
    _embedded: Option<Embedded>,
}

/// Connects to the vault that the command line, the environment or the configuration names.
///
/// # Errors
/// [`Error::NoVault`] where none is named or none answers, [`Error::Vault`] where it refuses.
pub fn connect(global: &Global, access: Access) -> Result<Connection> {
    let file = ConfigFile::find(global.config.as_deref())?;
    let url = named_url(global, &file)?;
    if let Some(name) = &global.machine {
        config::check_name("machine", name)?;
    }
    match &url {
        VaultUrl::Embedded { dir } => {
            let machine = global.machine.clone().or(file.config.machine);
            let machine = machine.unwrap_or_else(config::host_name);
            let (client, embedded) = connect_embedded(dir, &machine, access, global)?;
            Ok(Connection { client, machine, url, _embedded: embedded })
        }
        VaultUrl::Network { address } => connect_network(global, &file, address, access, &url),
    }
}

/// Tells which vault the command line, the environment or the configuration names.
///
/// # Errors
/// [`Error::NoVault`] where none is named, [`Error::Usage`] where the name is no URL.
pub fn vault_url(global: &Global) -> Result<VaultUrl> {
    named_url(global, &ConfigFile::find(global.config.as_deref())?)
}

fn named_url(global: &Global, file: &ConfigFile) -> Result<VaultUrl> {
    let named = global.vault.clone().or_else(|| file.config.vault.clone());
    let url = named.ok_or_else(|| Error::NoVault {
        url: "(none named)".into(),
        reason: "no vault is configured".into(),
        hint: "run `umbra init /DIR` or `umbra enroll TOKEN`, or give --vault".into(),
    })?;
    VaultUrl::parse(&url)
}

fn software() -> String {
    concat!("umbra ", env!("CARGO_PKG_VERSION")).into()
}

fn connect_network(
    global: &Global,
    file: &ConfigFile,
    address: &str,
    access: Access,
    url: &VaultUrl,
) -> Result<Connection> {
    let no_vault = |reason: &str| Error::NoVault {
        url: url.to_string(),
        reason: reason.into(),
        hint: "run `umbra enroll TOKEN` with a token from `umbra-vault agent token`".into(),
    };
    let hex = file.config.vault_fingerprint.as_deref();
    let vault = hex.and_then(Fingerprint::from_hex);
    let vault = vault.ok_or_else(|| no_vault("this machine is not enrolled there"))?;
    let key = file.key_path();
    if !key.exists() {
        return Err(no_vault(&format!("the key {} is missing", key.display())));
    }
    let identity = Identity::read(&key)?;
    let mut addresses = vec![address.to_owned()];
    addresses.extend(file.config.vault_addresses.iter().filter(|a| *a != address).cloned());
    let mut options = Connect::new(addresses, vault, identity);
    options.software = software();
    options.upload_bytes_per_second = global.limit_upload;
    options.download_bytes_per_second = global.limit_download;
    // Another name than the enrolled one is a question while reading and an error while writing.
    if access == Access::Write {
        options.machine = global.machine.clone();
    }
    let client = Client::connect(options)?;
    let machine = client.welcome()?.machine;
    Ok(Connection { client, machine, url: url.clone(), _embedded: None })
}

/// A vault that lives as long as its standard input is open.
struct Embedded {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // The vault ends when its input closes, after finishing what it acknowledged.
        let _ = self.child.wait();
    }
}

/// The line that an embedded vault answers with.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Answer {
    Ready { address: String, fingerprint: String },
    Error { message: String, exit_code: u8 },
}

fn connect_embedded(
    dir: &Path,
    machine: &str,
    access: Access,
    global: &Global,
) -> Result<(Client, Option<Embedded>)> {
    if !dir.join("FORMAT").exists() {
        return Err(Error::NoVault {
            url: format!("file://{}", dir.display()),
            reason: format!("{} is not a vault", dir.display()),
            hint: format!("make one with `umbra init {}`", dir.display()),
        });
    }
    let identity = Identity::generate()?;
    let (begin, wait) = (Instant::now(), Duration::from_secs(global.wait));
    loop {
        let (embedded, stdout) = spawn(dir, machine, access, &identity)?;
        match read_answer(stdout, dir)? {
            Answer::Ready { address, fingerprint } => {
                let vault = Fingerprint::from_hex(&fingerprint).ok_or_else(|| Error::NoVault {
                    url: format!("file://{}", dir.display()),
                    reason: "umbra-vault answered with something else than a key".into(),
                    hint: "install umbra and umbra-vault of the same version".into(),
                })?;
                let mut options = Connect::new(vec![address], vault, identity);
                options.machine = Some(machine.into());
                options.software = software();
                options.upload_bytes_per_second = global.limit_upload;
                options.download_bytes_per_second = global.limit_download;
                // Nobody starts our own child again: once it is gone, waiting long is in vain.
                options.retry_for = Duration::from_secs(10);
                return Ok((Client::connect(options)?, Some(embedded)));
            }
            Answer::Error { exit_code: 11, .. } if begin.elapsed() < wait => {
                drop(embedded);
                std::thread::sleep(Duration::from_millis(200));
            }
            Answer::Error { message, exit_code } => {
                return Err(Error::Store { message, exit_code });
            }
        }
    }
}

/// Returns the path of the program `umbra-vault` beside this one.
///
/// # Errors
/// [`Error::NoVault`] where there is none.
pub fn vault_program() -> Result<PathBuf> {
    let own = std::env::current_exe().unwrap_or_default();
    let program = own.with_file_name("umbra-vault");
    if program.exists() {
        return Ok(program);
    }
    Err(Error::NoVault {
        url: program.display().to_string(),
        reason: "the program umbra-vault is not beside umbra".into(),
        hint: "install both programs in one directory, or use a vault on the network".into(),
    })
}

fn spawn(
    dir: &Path,
    machine: &str,
    access: Access,
    identity: &Identity,
) -> Result<(Embedded, ChildStdout)> {
    let program = vault_program()?;
    let mut command = Command::new(&program);
    command.arg("embedded").arg("--store").arg(dir);
    if access == Access::Read {
        command.arg("--read-only");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let failed = |source| Error::Io { what: "start", path: program.clone(), source };
    let mut child = command.spawn().map_err(failed)?;
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let mut embedded = Embedded { child, stdin };
    let hello = serde_json::json!({
        "fingerprint": identity.fingerprint().to_string(),
        "machine": machine,
    });
    if let Some(stdin) = &mut embedded.stdin {
        // A vault that ended already says why on its output.
        let _ = writeln!(stdin, "{hello}");
    }
    let stdout = stdout.ok_or_else(|| Error::Internal("no pipe from umbra-vault".into()))?;
    Ok((embedded, stdout))
}

fn read_answer(stdout: ChildStdout, dir: &Path) -> Result<Answer> {
    let mut line = String::new();
    let read = BufReader::new(stdout).read_line(&mut line);
    read.ok().and_then(|_| serde_json::from_str(&line).ok()).ok_or_else(|| Error::NoVault {
        url: format!("file://{}", dir.display()),
        reason: "umbra-vault ended without an answer".into(),
        hint: format!("try `umbra-vault status --store {}`", dir.display()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_are_read() {
        let parse = |text| VaultUrl::parse(text).map(|url| url.to_string());
        assert_eq!(parse("umbra://vault").unwrap(), "umbra://vault:8407");
        assert_eq!(parse("umbra://vault:1/").unwrap(), "umbra://vault:1");
        assert_eq!(parse("umbra://[::1]").unwrap(), "umbra://[::1]:8407");
        assert_eq!(parse("umbra://[::1]:99").unwrap(), "umbra://[::1]:99");
        assert_eq!(parse("file:///srv/v").unwrap(), "file:///srv/v");
        assert_eq!(parse("/srv/v").unwrap(), "file:///srv/v");
        for bad in ["file://srv", "http://x", "umbra://", "", "umbra://a/b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
