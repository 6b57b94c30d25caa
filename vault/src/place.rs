//! Where a store lies: its directory, its keys, its socket.

use crate::clock::{now, random};
use crate::error::{Result, VaultError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use umbra_net::Identity;
use umbra_store::{
    CheckOptions, CheckReport, Error as StoreError, InitOptions, OpenMode, OpenOptions, ReadData,
    RealVfs, SalvageOptions, SalvageReport, Store, StoreId, Vfs,
};

/// How a store is opened.
pub type Mode = OpenMode;

/// The directory of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    dir: PathBuf,
}

/// An open store with its directory.
pub struct OpenStore {
    /// The store.
    pub store: Arc<Store>,
    /// Where it lies.
    pub place: Place,
}

impl Place {
    /// Names a directory; it need not exist.
    pub fn new(dir: &Path) -> Self {
        Self { dir: std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()) }
    }

    /// Returns the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a store with a key of its own.
    ///
    /// # Errors
    /// [`VaultError::Store`] where the directory is not empty or cannot hold a store,
    /// [`VaultError::Io`].
    pub fn init(&self) -> Result<(StoreId, Identity)> {
        let vfs: Arc<dyn Vfs> = Arc::new(RealVfs::new(&self.dir));
        make_durably(&self.dir).map_err(|source| self.io("cannot make the directory", source))?;
        let store = StoreId(random()?);
        Store::init(&vfs, &InitOptions { store, now: now() }).map_err(|e| self.store_error(e))?;
        let identity = self.identity()?;
        Ok((store, identity))
    }

    /// Reads the vault's key, or makes it where there is none.
    ///
    /// # Errors
    /// [`VaultError::Net`] where the file is no key, [`VaultError::Io`].
    pub fn identity(&self) -> Result<Identity> {
        let keys = self.dir.join("keys");
        let path = keys.join("vault.key");
        if path.exists() {
            return Ok(Identity::read(&path)?);
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&keys)
            // Root may open a store that is somebody else's: no symlink leads out of it.
            .and_then(|()| match std::fs::symlink_metadata(&keys)?.is_dir() {
                true => Ok(()),
                false => Err(std::io::ErrorKind::NotADirectory.into()),
            })
            .and_then(|()| std::fs::set_permissions(&keys, PermissionsExt::from_mode(0o700)))
            .map_err(|source| self.io("cannot make the directory keys", source))?;
        let identity = Identity::generate()?;
        // Written aside and linked, so that a crash leaves a whole key or none.
        let aside = keys.join(format!("vault.key.{}", std::process::id()));
        let _ = std::fs::remove_file(&aside);
        identity.write_new(&aside)?;
        let linked = std::fs::hard_link(&aside, &path);
        let _ = std::fs::remove_file(&aside);
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Ok(Identity::read(&path)?);
            }
            Err(source) => return Err(self.io("cannot write keys/vault.key", source)),
        }
        std::fs::File::open(&keys)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| self.io("cannot sync the directory keys", source))?;
        Ok(identity)
    }

    /// Opens the store.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    pub fn open(&self, mode: Mode) -> Result<OpenStore> {
        let index = self.index();
        let options = match mode {
            OpenMode::ReadWrite => OpenOptions::owner(index, random()?, std::process::id(), now()),
            OpenMode::ReadOnly => OpenOptions::reader(index, now()),
        };
        let vfs: Arc<dyn Vfs> = Arc::new(RealVfs::new(&self.dir));
        let store = Store::open(vfs, options).map_err(|error| self.store_error(error))?;
        Ok(OpenStore { store: Arc::new(store), place: self.clone() })
    }

    /// Returns the usual options of a check.
    pub fn check_options(&self, read: ReadData) -> CheckOptions {
        CheckOptions::new(self.index(), read)
    }

    /// Checks the store without changing it, beside whoever owns it.
    ///
    /// # Errors
    /// [`VaultError::Store`]; damage stands in the report.
    pub fn check(&self, options: &CheckOptions) -> Result<CheckReport> {
        let vfs: Arc<dyn Vfs> = Arc::new(RealVfs::new(&self.dir));
        umbra_store::check(&vfs, options).map_err(|error| self.store_error(error))
    }

    /// Copies what verifies into a new or empty directory, with the vault's key; tells whether the
    /// key came along.
    ///
    /// # Errors
    /// [`VaultError::Store`], [`VaultError::Io`]; what is lost stands in the report.
    pub fn salvage(&self, to: &Self) -> Result<(SalvageReport, bool)> {
        make_durably(&to.dir).map_err(|source| to.io("cannot make the directory", source))?;
        let from: Arc<dyn Vfs> = Arc::new(RealVfs::new(&self.dir));
        let target: Arc<dyn Vfs> = Arc::new(RealVfs::new(&to.dir));
        let options = SalvageOptions { seed: random()?, now: now() };
        let report = umbra_store::salvage(&from, &target, &options).map_err(|error| {
            // Which of the two it is, the error itself names.
            match error.root() {
                StoreError::NotEmpty { .. } => to.store_error(error),
                _ => self.store_error(error),
            }
        })?;
        let Ok(identity) = Identity::read(&self.dir.join("keys").join("vault.key")) else {
            return Ok((report, false));
        };
        let keys = to.dir.join("keys");
        std::fs::set_permissions(&keys, PermissionsExt::from_mode(0o700))
            .map_err(|source| to.io("cannot close the directory keys", source))?;
        identity.write_new(&keys.join("vault.key"))?;
        std::fs::File::open(&keys)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| to.io("cannot sync the directory keys", source))?;
        Ok((report, true))
    }

    /// Reads the store's id from its `FORMAT` file (docs/formats/store.md), without opening it.
    /// `None` where there is no such file or it is none of ours; opening tells why.
    pub fn store_id(&self) -> Option<StoreId> {
        let text = std::fs::read_to_string(self.dir.join("FORMAT")).ok()?;
        let digits = text.lines().nth(1)?.strip_prefix("id ")?.as_bytes();
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        (digits.len() == 32).then_some(StoreId(id))
    }

    /// Tells one directory from another, whatever their names: device and inode of `FORMAT`.
    pub fn signature(&self) -> Option<(u64, u64)> {
        let metadata = std::fs::metadata(self.dir.join("FORMAT")).ok()?;
        Some((metadata.dev(), metadata.ino()))
    }

    /// Returns the user whom the store belongs to: the owner of `FORMAT`.
    pub fn owner(&self) -> Option<u32> {
        std::fs::metadata(self.dir.join("FORMAT")).ok().map(|metadata| metadata.uid())
    }

    /// Puts the directory into a store's error.
    pub fn store_error(&self, source: StoreError) -> VaultError {
        VaultError::Store { dir: self.dir.clone(), source }
    }

    fn io(&self, what: &str, source: std::io::Error) -> VaultError {
        VaultError::Io { what: format!("{}: {what}", self.dir.display()), source }
    }

    fn index(&self) -> Box<dyn umbra_store::IndexOpener> {
        Box::new(umbra_index_rocksdb::RocksIndexOpener::new(self.dir.join("index")))
    }
}

/// How long the end waits for requests that are under way: a step of a collection.
const STILL_IN_USE: std::time::Duration = std::time::Duration::from_secs(60);

/// Makes a directory with those above it; the names of the new ones are durable afterwards.
fn make_durably(dir: &Path) -> std::io::Result<()> {
    let new: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    for dir in new {
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
        match std::fs::File::open(above.unwrap_or(Path::new("."))) {
            // One that this user may enter and not list cannot be synced by it.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            other => other?.sync_all()?,
        }
    }
    Ok(())
}

impl OpenStore {
    /// Settles everything and gives the lock back.
    ///
    /// # Errors
    /// [`VaultError::Store`]; [`VaultError::Internal`] where somebody still uses the store.
    pub fn close(self) -> Result<()> {
        let mut shared = self.store;
        let started = std::time::Instant::now();
        let store = loop {
            match Arc::try_unwrap(shared) {
                Ok(store) => break store,
                // An administrator's request that was told to stop does so soon.
                Err(again) if started.elapsed() < STILL_IN_USE => {
                    shared = again;
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                Err(_) => {
                    return Err(VaultError::Internal("the store is still in use at the end"));
                }
            }
        };
        store.close().map_err(|error| self.place.store_error(error))
    }
}
