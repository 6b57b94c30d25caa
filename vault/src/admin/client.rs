//! Asking a running vault.

use super::{Answer, MAX_LINE_BYTES, Request, socket_paths};
use crate::error::{Result, VaultError};
use crate::place::Place;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a running vault may take for one answer; a rebuild of the index takes its time.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// A connection to the vault that serves a store.
#[derive(Debug)]
pub struct Remote {
    stream: BufReader<UnixStream>,
}

impl Remote {
    /// Connects to the vault that serves the directory, if one does and lets us.
    ///
    /// # Errors
    /// [`VaultError::Io`] where a vault is there but does not answer.
    pub fn find(place: &Place) -> Result<Option<Self>> {
        let (Some(store), Some((device, inode))) = (place.store_id(), place.signature()) else {
            return Ok(None);
        };
        for path in socket_paths(store) {
            let Ok(stream) = UnixStream::connect(&path) else { continue };
            let mut remote = Self { stream: BufReader::new(stream) };
            let hello = remote.ask(&Request::Hello { device, inode })?;
            if matches!(hello, Answer::Hello { same: true, .. }) {
                return Ok(Some(remote));
            }
        }
        Ok(None)
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// [`VaultError::Running`] with the vault's words, [`VaultError::Io`].
    pub fn ask(&mut self, request: &Request) -> Result<Answer> {
        let io = |source| VaultError::Io {
            what: "the running vault does not answer on its socket".to_owned(),
            source,
        };
        let mut line = serde_json::to_vec(request).map_err(|e| io(e.into()))?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
        stream.write_all(&line).map_err(io)?;
        let mut answer = String::new();
        self.stream.by_ref().take(MAX_LINE_BYTES).read_line(&mut answer).map_err(io)?;
        match serde_json::from_str(&answer).map_err(|e| io(e.into()))? {
            Answer::Error { message, hint, exit_code } => {
                Err(VaultError::Running { message, hint, exit_code })
            }
            answer => Ok(answer),
        }
    }
}
