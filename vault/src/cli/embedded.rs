//! `umbra-vault embedded`: a vault for the length of one command.
//!
//! The command writes one line to standard input: a JSON object with the `fingerprint` of the key
//! that it made for this connection. It reads one line from standard output:
//! `{"type":"ready","address":...,"fingerprint":...}` or
//! `{"type":"error","message":...,"hint":...,"exit_code":...}`. The vault ends when its standard
//! input closes. Where `umbra-vault serve` serves the store, that vault is asked to let the key in,
//! and named.

use super::output::write_line;
use super::serve::{finish, start};
use crate::admin::{Answer, Remote, Request};
use crate::backend::StoreBackend;
use crate::error::{Result, VaultError};
use crate::place::{Mode, Place};
use crate::signals::{self, Ending};
use serde::Deserialize;
use serde_json::json;
use std::io::{BufRead, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use umbra_common::wire::Fingerprint;
use umbra_net::Identity;

/// Longest line of the command, in bytes.
const MAX_LINE_BYTES: u64 = 64 << 10;

#[derive(Deserialize)]
struct Hello {
    fingerprint: String,
}

/// Serves the command that started this; returns the exit code.
pub(super) fn run(place: &Place, read_only: bool) -> u8 {
    match serve(place, read_only) {
        Ok(()) => 0,
        Err(error) => {
            let answer = with_hint(Answer::error(&error));
            // The command may have gone; the exit code still tells.
            let line = serde_json::to_string(&answer);
            let _ = line.map(|line| write_line(&line));
            error.exit_code()
        }
    }
}

/// Puts the hint into the message, which is what the command shows.
fn with_hint(answer: Answer) -> Answer {
    match answer {
        Answer::Error { message, hint: Some(hint), exit_code } => {
            let message = format!("{message}; {hint}");
            Answer::Error { message, hint: Some(hint), exit_code }
        }
        other => other,
    }
}

fn serve(place: &Place, read_only: bool) -> Result<()> {
    let (send, endings) = mpsc::channel();
    signals::watch(send.clone())?;
    let mut line = String::new();
    let read = std::io::stdin().lock().take(MAX_LINE_BYTES).read_line(&mut line);
    let key = read
        .ok()
        .and_then(|_| serde_json::from_str::<Hello>(&line).ok())
        .and_then(|hello| Fingerprint::from_hex(&hello.fingerprint))
        .ok_or_else(|| VaultError::Usage {
            what: "this command is for `umbra`, which says on a pipe who may connect".to_owned(),
            hint: "use `umbra-vault serve`".to_owned(),
        })?;
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = send.send(Ending::InputClosed);
    });
    if let Some(remote) = Remote::find(place)? {
        return join(remote, key, &endings);
    }
    let mode = if read_only { Mode::ReadOnly } else { Mode::ReadWrite };
    let open = place.open(mode)?;
    // A key for this command alone: the vault's own may be unreadable to whoever reads the store.
    let identity = Identity::generate()?;
    let backend = Arc::new(StoreBackend::new(Arc::clone(&open.store)));
    backend.grant(key);
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = start(listen, &open, &identity, &backend)?;
    ready(&server.address().to_string(), &server.fingerprint().to_string())?;
    wait(&endings);
    server.stop();
    finish(open, backend)
}

/// Has the vault that serves the store let the key in, for as long as the command runs.
fn join(mut remote: Remote, key: Fingerprint, endings: &Receiver<Ending>) -> Result<()> {
    match remote.ask(&Request::Grant { fingerprint: key.to_string() })? {
        Answer::Granted { address, fingerprint } => {
            ready(&address, &fingerprint)?;
            wait(endings);
            Ok(())
        }
        _ => Err(VaultError::Internal("the running vault answered something else than asked")),
    }
}

fn ready(address: &str, fingerprint: &str) -> Result<()> {
    let line = json!({ "type": "ready", "address": address, "fingerprint": fingerprint });
    write_line(&line.to_string())
}

/// Waits for the end. What a terminal sends to the whole group is left to the command, which
/// closes the pipe when it has finished with us.
fn wait(endings: &Receiver<Ending>) {
    while let Ok(Ending::Interrupted) = endings.recv() {}
}
