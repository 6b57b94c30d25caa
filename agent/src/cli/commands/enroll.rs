//! `enroll`: this machine's key becomes known to a vault.

use serde_json::{Value, json};
use umbra_common::wire::Token;
use umbra_net::{Client, Identity};

use crate::cli::{EnrollArgs, Global, Output};
use crate::config::{self, ConfigFile};
use crate::error::{Error, Result};
use crate::monitor::Notice;

/// Enrols with a token and remembers the vault.
///
/// # Errors
/// [`Error::Usage`] for a token that is none, [`Error::Vault`] where the vault refuses it.
pub fn run(global: &Global, args: &EnrollArgs, output: &Output) -> Result<()> {
    let text = if args.token == "-" {
        std::io::read_to_string(std::io::stdin()).map_err(|source| Error::Io {
            what: "read the token from",
            path: "standard input".into(),
            source,
        })?
    } else {
        args.token.clone()
    };
    let token = Token::from_text(text.trim()).map_err(|error| Error::Usage {
        what: format!("this is no token: {error}"),
        hint: "copy the whole line that `umbra-vault agent token` printed".into(),
    })?;
    let mut file = ConfigFile::find(global.config.as_deref())?;
    let machine = global.machine.clone().unwrap_or_else(config::host_name);
    config::check_name("machine", &machine)?;
    let address = token.addresses.first().cloned().unwrap_or_default();
    let url = format!("umbra://{address}");
    if global.dry_run {
        // The vault alone knows whether the token is good, and asking would use it up.
        output.text(&format!("would enrol at {url}, as {machine} if the token names no other"))?;
        output.text(&format!("would remember it in {}", file.path.display()))?;
        return output.object("summary", summary(&url, &machine, &file, true));
    }
    let key = file.key_path();
    let identity = if key.exists() {
        Identity::read(&key)?
    } else {
        let identity = Identity::generate()?;
        let dir = key.parent().unwrap_or(std::path::Path::new("/"));
        std::fs::create_dir_all(dir).map_err(|source| Error::Io {
            what: "make",
            path: dir.into(),
            source,
        })?;
        identity.write_new(&key)?;
        identity
    };
    let software = concat!("umbra ", env!("CARGO_PKG_VERSION"));
    let enrolled = Client::enroll(&token, &identity, &machine, software)?;
    file.config.vault = Some(url.clone());
    file.config.vault_fingerprint = Some(token.vault.to_string());
    file.config.vault_addresses = token.addresses.iter().skip(1).cloned().collect();
    file.config.machine = Some(enrolled.machine.clone());
    file.write()?;
    output.text(&format!("enrolled at {url} as {}", enrolled.machine))?;
    if global.machine.as_ref().is_some_and(|asked| *asked != enrolled.machine) {
        output.warning(&Notice {
            subject: "--machine".into(),
            at: None,
            message: format!("the token is for {}, so not {machine}", enrolled.machine),
        });
    }
    output.text(&format!("remembered it in {}", file.path.display()))?;
    output.object("summary", summary(&url, &enrolled.machine, &file, false))
}

fn summary(url: &str, machine: &str, file: &ConfigFile, dry_run: bool) -> Value {
    json!({"vault": url, "machine": machine, "config": file.path, "dry_run": dry_run})
}
