//! `init`: an embedded store, and the configuration that remembers it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::cli::{Global, InitArgs, Output};
use crate::config::{self, ConfigFile, User};
use crate::connect::{VaultUrl, vault_program};
use crate::error::{Error, Result};

/// Makes a store with the vault's own program and remembers it.
///
/// # Errors
/// [`Error::Usage`] for a URL that is no directory, [`Error::Store`] with the vault's words.
pub fn run(global: &Global, args: &InitArgs, output: &Output) -> Result<()> {
    let absolute = std::path::absolute(&args.url).unwrap_or_else(|_| (&args.url).into());
    let text =
        if args.url.contains("://") { args.url.clone() } else { absolute.display().to_string() };
    let VaultUrl::Embedded { dir } = VaultUrl::parse(&text)? else {
        return Err(Error::Usage {
            what: format!("{} is on the network", args.url),
            hint: "make it there with `umbra-vault init DIR`, then `umbra enroll TOKEN` here"
                .into(),
        });
    };
    let owner = args.owner.as_deref().map(find_owner).transpose()?;
    let mut file = ConfigFile::find(global.config.as_deref())?;
    let url = VaultUrl::Embedded { dir: dir.clone() }.to_string();
    if global.dry_run {
        check_new(&dir)?;
        output.text(&format!("would make the store {}", dir.display()))?;
        output.text(&format!("would remember it in {}", file.path.display()))?;
        return output.object("summary", summary(&url, &file, true));
    }
    let program = vault_program()?;
    let made = Command::new(&program)
        .arg("init")
        .arg(&dir)
        .output()
        .map_err(|source| Error::Io { what: "start", path: program.clone(), source })?;
    if !made.status.success() {
        let words = String::from_utf8_lossy(&made.stderr);
        let words = words.trim();
        return Err(Error::Store {
            message: words.strip_prefix("umbra-vault: ").unwrap_or(words).to_owned(),
            exit_code: made.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        });
    }
    if let Some(owner) = owner {
        give_to(&dir, &owner).map_err(|source| Error::Io {
            what: "change the owner of",
            path: dir.clone(),
            source,
        })?;
    }
    file.config.vault = Some(url.clone());
    file.config.vault_fingerprint = None;
    file.config.vault_addresses.clear();
    if global.machine.is_some() {
        file.config.machine.clone_from(&global.machine);
    }
    file.write()?;
    output.text(&format!("made the store {}", dir.display()))?;
    output
        .text("it is NOT encrypted: whoever can read the directory can read every backup in it")?;
    output.text(&format!("remembered it in {}", file.path.display()))?;
    output.object("summary", summary(&url, &file, false))
}

fn summary(url: &str, file: &ConfigFile, dry_run: bool) -> Value {
    json!({"vault": url, "config": file.path, "encrypted": false, "dry_run": dry_run})
}

/// Refuses what the vault's program would refuse: a file, or a directory that is not empty.
fn check_new(dir: &Path) -> Result<()> {
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(Error::Io { what: "make a store in", path: dir.into(), source });
        }
    };
    if entries.next().is_none() {
        return Ok(());
    }
    Err(Error::Store {
        message: format!("{} is not empty; name a new or an empty directory", dir.display()),
        exit_code: 1,
    })
}

fn find_owner(name: &str) -> Result<User> {
    config::user(name).ok_or_else(|| Error::Usage {
        what: format!("there is no user {name}"),
        hint: "name one that /etc/passwd lists".into(),
    })
}

/// Gives a new store and everything in it to a user; links are not followed.
fn give_to(path: &Path, owner: &User) -> std::io::Result<()> {
    std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give_to(&entry?.path(), owner)?;
        }
    }
    Ok(())
}
