//! Asking a running vault.

use super::{Answer, MAX_ANSWER_BYTES, Request, socket_paths};
use crate::error::{Result, VaultError};
use crate::place::Place;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a running vault may take for one answer; a rebuild of the index takes its time.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Tells whether whoever answers on a socket is root, this user, or the store's owner: the
/// directory must be theirs alone, where a name below `/tmp` can be taken by anybody who comes
/// first.
fn is_trusted(socket: &Path, store_owner: u32) -> bool {
    let Some(dir) = socket.parent() else { return false };
    let Ok(found) = std::fs::symlink_metadata(dir) else { return false };
    let trusted = [0, rustix::process::geteuid().as_raw(), store_owner];
    found.is_dir() && trusted.contains(&found.uid()) && found.mode() & 0o022 == 0
}

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
        let Some(owner) = place.owner() else { return Ok(None) };
        for path in socket_paths(store) {
            if !is_trusted(&path, owner) {
                continue;
            }
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
        self.stream.by_ref().take(MAX_ANSWER_BYTES).read_line(&mut answer).map_err(io)?;
        match serde_json::from_str(&answer).map_err(|e| io(e.into()))? {
            Answer::Error { message, hint, exit_code } => {
                Err(VaultError::Running { message, hint, exit_code })
            }
            answer => Ok(answer),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_in_a_place_that_others_can_take_is_not_trusted() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("umbra");
        std::fs::create_dir(&dir).unwrap();
        let socket = dir.join("x.sock");
        let with_mode = |mode| {
            std::fs::set_permissions(&dir, PermissionsExt::from_mode(mode)).unwrap();
            is_trusted(&socket, 0)
        };
        assert!(with_mode(0o700));
        assert!(!with_mode(0o777));
        assert!(with_mode(0o700));
        std::os::unix::fs::symlink(&dir, base.path().join("link")).unwrap();
        assert!(!is_trusted(&base.path().join("link/x.sock"), 0));
        assert!(!is_trusted(&base.path().join("absent/x.sock"), 0));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&dir, Some(12_345), None).unwrap();
            assert!(!with_mode(0o700));
            // A vault that runs as the store's owner.
            assert!(is_trusted(&socket, 12_345));
        }
    }
}
