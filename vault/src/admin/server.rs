//! The socket of a running vault.

use super::{Answer, MAX_LINE_BYTES, Request, Serving, answer, socket_paths};
use crate::backend::StoreBackend;
use crate::error::{Result, VaultError};
use crate::place::{OpenStore, Place};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use umbra_common::wire::Fingerprint;
use umbra_store::Store;

/// A socket that is answered by threads of its own; removed when dropped.
#[derive(Debug)]
pub struct AdminServer {
    path: PathBuf,
    ending: Arc<AtomicBool>,
}

/// Told why the store can be served no longer.
pub type OnBroken = Arc<dyn Fn(VaultError) + Send + Sync>;

/// What the threads hold on to: nothing, so that the store can be closed.
#[derive(Clone)]
struct Scene {
    store: Weak<Store>,
    backend: Weak<StoreBackend>,
    place: Place,
    serving: Serving,
    broken: OnBroken,
    /// What takes long stops.
    ending: Arc<AtomicBool>,
}

impl AdminServer {
    /// Makes the socket. After `broken` the store refuses to be read or written: the vault must
    /// end.
    ///
    /// # Errors
    /// [`VaultError::Twin`] where a vault of a copy of this store runs, [`VaultError::Io`].
    pub fn start(
        open: &OpenStore,
        backend: &Arc<StoreBackend>,
        serving: Serving,
        broken: OnBroken,
    ) -> Result<Self> {
        let id = open.store.id();
        let path = socket_paths(id)
            .into_iter()
            .next()
            .ok_or(VaultError::Internal("there is no place for a socket"))?;
        if let Ok(stream) = UnixStream::connect(&path) {
            return Err(VaultError::Twin { store: id.to_string(), other: other(stream) });
        }
        let io = |source| VaultError::Io {
            what: format!("cannot make the socket {}", path.display()),
            source,
        };
        if let Some(dir) = path.parent() {
            // Whoever can enter the directory administers the vault.
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
            std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).map_err(io)?;
        }
        // Nobody answers it, and the store's lock is ours: left behind by a vault that was killed.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(io)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).map_err(io)?;
        let ending = Arc::new(AtomicBool::new(false));
        let scene = Scene {
            store: Arc::downgrade(&open.store),
            backend: Arc::downgrade(backend),
            place: open.place.clone(),
            serving,
            broken,
            ending: Arc::clone(&ending),
        };
        std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || accept(&listener, &scene))
            .map_err(io)?;
        Ok(Self { path, ending })
    }

    /// Returns where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, scene: &Scene) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let scene = scene.clone();
        let serve = move || {
            let mut granted = Vec::new();
            // The other end has gone, or says nonsense: either way it is over.
            let _ = serve(&scene, stream, &mut granted);
            if let Some(backend) = scene.backend.upgrade() {
                granted.iter().for_each(|key| backend.revoke(key));
            }
        };
        // Without a thread the connection is dropped, and the other end says so.
        let _ = std::thread::Builder::new().name("admin".to_owned()).spawn(serve);
    }
}

fn serve(scene: &Scene, stream: UnixStream, granted: &mut Vec<Fingerprint>) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(MAX_LINE_BYTES).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_str(&line) {
            Ok(request) => scene.answer(&request, granted),
            Err(error) => Err(VaultError::Usage {
                what: format!("not a request: {error}"),
                hint: "use umbra-vault of the same version as the running one".to_owned(),
            }),
        };
        let (answer, broken) = match answer {
            Ok(answer) => (answer, None),
            Err(error @ VaultError::RebuildFailed(_)) => (Answer::error(&error), Some(error)),
            Err(error) => (Answer::error(&error), None),
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        let written = writer.write_all(&line);
        // Told last, so that whoever asked hears of it; whether or not he still listens.
        if let Some(error) = broken {
            (scene.broken)(error);
        }
        written?;
    }
}

impl Scene {
    fn answer(&self, request: &Request, granted: &mut Vec<Fingerprint>) -> Result<Answer> {
        let ending = VaultError::Internal("the vault is stopping");
        let (Some(store), Some(backend)) = (self.store.upgrade(), self.backend.upgrade()) else {
            return Err(ending);
        };
        if matches!(request, Request::Gc(asked) if asked.at_once && !asked.dry_run) {
            // An agent that was refused for want of room waits for a day, and the room for it.
            backend.release_parked();
        }
        let Request::Grant { fingerprint } = request else {
            let stop = || self.ending.load(Ordering::Acquire);
            let answer = answer(&store, &self.place, Some(self.serving), &stop, request);
            return answer.map_err(|error| match request {
                Request::RebuildIndex => VaultError::RebuildFailed(Box::new(error)),
                _ => error,
            });
        };
        let key = Fingerprint::from_hex(fingerprint).ok_or_else(|| VaultError::Usage {
            what: "not a key's fingerprint".to_owned(),
            hint: "64 hexadecimal digits".to_owned(),
        })?;
        backend.grant(key);
        granted.push(key);
        Ok(Answer::Granted {
            address: local(self.serving.listen).to_string(),
            fingerprint: self.serving.fingerprint.to_string(),
        })
    }
}

/// Says how to reach an address that may stand for all of this machine's from here.
fn local(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Asks the vault at the other end which directory it serves.
fn other(stream: UnixStream) -> String {
    let mut reader = BufReader::new(stream);
    let hello = Request::Hello { device: 0, inode: 0 };
    let mut line = serde_json::to_vec(&hello).unwrap_or_default();
    line.push(b'\n');
    let mut answer = String::new();
    let asked = reader
        .get_mut()
        .write_all(&line)
        .and_then(|()| reader.by_ref().take(MAX_LINE_BYTES).read_line(&mut answer));
    match asked.ok().and_then(|_| serde_json::from_str(&answer).ok()) {
        Some(Answer::Hello { path, .. }) => path,
        _ => "an unknown directory".to_owned(),
    }
}
