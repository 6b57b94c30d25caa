//! What the agent remembers: which vault, its key, which machine this is.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The file's content. Everything is optional; the command line and the environment win.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The vault's URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault: Option<String>,
    /// The vault's key, 64 hex digits; for vaults on the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault_fingerprint: Option<String>,
    /// Further addresses of the vault, `HOST:PORT`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vault_addresses: Vec<String>,
    /// This machine's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// Where a configuration was found, or would be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// The file.
    pub path: PathBuf,
    /// What it says; empty where there is none.
    pub config: Config,
}

impl ConfigFile {
    /// Finds the configuration: the file named, else `/etc/umbra/agent.toml` for root and the
    /// user's own otherwise; under sudo the invoking user's is read where root has none.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that is there and cannot be read, [`Error::Usage`] for one that
    /// does not parse or was named and is not there.
    pub fn find(named: Option<&Path>) -> Result<Self> {
        if let Some(path) = named {
            return Self::read(path);
        }
        let own = default_path();
        if !own.exists()
            && let Some(path) = sudo_user_path().filter(|path| path.exists())
        {
            return Self::read(&path);
        }
        Self::read(&own)
    }

    fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(Error::Io {
                    what: "read the configuration",
                    path: path.into(),
                    source,
                });
            }
        };
        let config = toml::from_str(&text).map_err(|error| Error::Usage {
            what: format!(
                "the configuration {} cannot be read: {}",
                path.display(),
                error.message()
            ),
            hint: "correct or remove it".into(),
        })?;
        Ok(Self { path: path.into(), config })
    }

    /// Returns the path of the key that goes with this configuration.
    pub fn key_path(&self) -> PathBuf {
        self.path.with_extension("key")
    }

    /// Writes the configuration aside and renames it into place.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn write(&self) -> Result<()> {
        let context =
            |source| Error::Io { what: "write the configuration", path: self.path.clone(), source };
        let text =
            toml::to_string(&self.config).map_err(|error| context(std::io::Error::other(error)))?;
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir).map_err(context)?;
        }
        let aside = self.path.with_extension("toml.tmp");
        // Under sudo the directory may be another user's: nothing that lies there is followed.
        let _ = std::fs::remove_file(&aside);
        let mut file = File::create_new(&aside).map_err(context)?;
        file.write_all(text.as_bytes()).map_err(context)?;
        // And a file that was his stays his.
        if let (true, Ok(old)) = (is_root(), self.path.symlink_metadata()) {
            fchown(&file, Some(old.uid()), Some(old.gid())).map_err(context)?;
        }
        std::fs::rename(&aside, &self.path).map_err(context)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

fn xdg(variable: &str, fallback: &str) -> PathBuf {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| home().join(fallback))
}

fn default_path() -> PathBuf {
    if is_root() {
        return PathBuf::from("/etc/umbra/agent.toml");
    }
    xdg("XDG_CONFIG_HOME", ".config").join("umbra/agent.toml")
}

/// A user of this system. SOURCE: passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
}

/// Finds a user by name in `/etc/passwd`.
pub fn user(name: &str) -> Option<User> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| parse_user(line, name))
}

fn parse_user(line: &str, name: &str) -> Option<User> {
    let mut fields = line.split(':');
    if fields.next() != Some(name) {
        return None;
    }
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User { uid, gid, home: fields.nth(1)?.into() })
}

/// Returns the invoking user's file under sudo.
fn sudo_user_path() -> Option<PathBuf> {
    let name = std::env::var("SUDO_USER").ok().filter(|_| is_root())?;
    Some(user(&name)?.home.join(".config/umbra/agent.toml"))
}

/// Returns the directory for tables that can be made again.
pub fn cache_dir(named: Option<&Path>) -> PathBuf {
    match named {
        Some(path) => path.into(),
        None if is_root() => PathBuf::from("/var/cache/umbra"),
        None => xdg("XDG_CACHE_HOME", ".cache").join("umbra"),
    }
}

/// Returns the host's name, made to fit the rule for names.
pub fn host_name() -> String {
    let uname = rustix::system::uname();
    fit_name(&uname.nodename().to_string_lossy(), "machine")
}

/// Makes a name of 1 to 64 characters of `[A-Za-z0-9._-]` of any text.
pub fn fit_name(text: &str, fallback: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = text.chars().map(|c| if fits(c) { c } else { '_' }).take(64).collect();
    if name.is_empty() { fallback.into() } else { name }
}

/// Checks a name that a person gave.
///
/// # Errors
/// [`Error::Usage`] where it is not 1 to 64 characters of `[A-Za-z0-9._-]`.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    if !name.is_empty() && fit_name(name, "") == name {
        return Ok(());
    }
    Err(Error::Usage {
        what: format!("{name:?} cannot be the name of a {what}"),
        hint: "use 1 to 64 characters of A-Z a-z 0-9 . _ -".into(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_configuration_survives_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/agent.toml");
        let config = Config { vault: Some("file:///v".into()), ..Config::default() };
        ConfigFile { path: path.clone(), config: config.clone() }.write().unwrap();
        assert_eq!(ConfigFile::find(Some(&path)).unwrap().config, config);
        std::fs::write(&path, "vualt = 1").unwrap();
        assert_eq!(ConfigFile::find(Some(&path)).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn users_are_read() {
        let line = "ada:x:1000:100:Ada Lovelace,,,:/home/ada:/bin/bash";
        let ada = User { uid: 1000, gid: 100, home: "/home/ada".into() };
        assert_eq!(parse_user(line, "ada"), Some(ada));
        assert_eq!(parse_user(line, "ad"), None);
        assert_eq!(user("root").map(|user| user.uid), Some(0));
    }

    #[test]
    fn names_are_checked_and_made_to_fit() {
        assert!(check_name("disk", "nvme-SAMSUNG_1.5").is_ok());
        for bad in ["", "a/b", "ä", &"x".repeat(65)] {
            assert!(check_name("disk", bad).is_err(), "{bad:?}");
        }
        assert_eq!(fit_name("my disk.img", "x"), "my_disk.img");
    }
}
