//! The store's lock: one owner at a time, who is told from the others by an epoch.
//!
//! Layout: `docs/formats/store.md`. `LOCK` is the one file that is written in place; nothing in
//! it is data.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::bytes::Cursor;
use crate::error::{Error, Result};
use crate::ids::Timestamp;
use crate::vfs::{Access, Vfs, VfsFile, read_exact, write_all};

/// Its name.
pub(crate) const LOCK_NAME: &str = "LOCK";
const LOCK_MAGIC: [u8; 8] = *b"UMBRALCK";
const LOCK_BYTES: u64 = 64;

/// How often a taken lock is tried again. A process that starts another shares its files with it
/// for a moment, so a lock may outlive its owner by that.
const TRIES: u32 = 10;

/// How long between.
const PAUSE: Duration = Duration::from_millis(5);

/// What the lock file says about its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) pid: u32,
    epoch: u64,
    pub(crate) since: Timestamp,
    /// It ended in order: everything that it wrote is durable.
    pub(crate) ended: bool,
}

impl Owner {
    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&LOCK_MAGIC);
        bytes.extend_from_slice(&1u16.to_le_bytes());
        bytes.extend_from_slice(&u16::from(self.ended).to_le_bytes());
        bytes.extend_from_slice(&self.pid.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.since.0.to_le_bytes());
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Cursor::new(bytes);
        let (magic, _version) = (fields.array::<8>()?, fields.u16()?);
        let (ended, pid) = (fields.u16()? == 1, fields.u32()?);
        let (epoch, since) = (fields.u64()?, Timestamp(fields.i64()?));
        let check: [u8; 32] = fields.array()?;
        let sound = magic == LOCK_MAGIC && *blake3::hash(bytes.get(..32)?).as_bytes() == check;
        sound.then_some(Self { pid, epoch, since, ended })
    }
}

/// The lock, held until it is dropped.
pub(crate) struct Lock {
    vfs: Arc<dyn Vfs>,
    held: Arc<dyn VfsFile>,
    ours: Owner,
    after_orderly_end: bool,
}

impl Lock {
    /// Takes the lock; `min_epoch` is the newest epoch that the store shows elsewhere.
    ///
    /// # Errors
    /// [`Error::Locked`] with what the owner wrote; what the storage says.
    pub(crate) fn take(
        vfs: &Arc<dyn Vfs>,
        pid: u32,
        now: Timestamp,
        min_epoch: impl FnOnce() -> Result<u64>,
    ) -> Result<Self> {
        let fail = |action| move |error| Error::io(action, LOCK_NAME, error);
        let file = match vfs.create_new(LOCK_NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                vfs.open(LOCK_NAME, Access::Write).map_err(fail("open"))?
            }
            Err(error) => return Err(fail("create")(error)),
        };
        let mut held = file.try_lock().map_err(fail("lock"))?;
        for _ in 0..TRIES {
            if held {
                break;
            }
            std::thread::sleep(PAUSE);
            held = file.try_lock().map_err(fail("lock"))?;
        }
        let owner = read_owner(&*file);
        if !held {
            let (pid, since) = owner.map_or((0, Timestamp(0)), |owner| (owner.pid, owner.since));
            return Err(Error::Locked { pid, since });
        }
        let last = min_epoch()?.max(owner.map_or(0, |owner| owner.epoch));
        let epoch = last.saturating_add(1);
        let ours = Owner { pid, epoch, since: now, ended: false };
        write_all(&*file, LOCK_NAME, &ours.encode(), 0)?;
        file.sync_data().map_err(fail("sync"))?;
        vfs.sync_dir("").map_err(fail("sync the directory of"))?;
        let after_orderly_end = owner.is_some_and(|owner| owner.ended);
        Ok(Self { vfs: Arc::clone(vfs), held: file, ours, after_orderly_end })
    }

    /// Returns our epoch.
    pub(crate) fn epoch(&self) -> u64 {
        self.ours.epoch
    }

    /// Tells whether the owner before us ended in order.
    pub(crate) fn after_orderly_end(&self) -> bool {
        self.after_orderly_end
    }

    /// Notes that everything we wrote is durable, and that we write no more.
    ///
    /// # Errors
    /// What the storage says; the next owner is then just more careful.
    pub(crate) fn end_in_order(&self) -> Result<()> {
        self.check()?;
        let ended = Owner { ended: true, ..self.ours };
        write_all(&*self.held, LOCK_NAME, &ended.encode(), 0)?;
        self.held.sync_data().map_err(|error| Error::io("sync", LOCK_NAME, error))
    }

    /// Proves that the lock is still ours: on a shared file system a lock can be lost unseen.
    ///
    /// # Errors
    /// [`Error::LockLost`]; what the storage says.
    pub(crate) fn check(&self) -> Result<()> {
        let lost = |found| Error::LockLost { ours: self.ours.epoch, found };
        let file = match self.vfs.open(LOCK_NAME, Access::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(lost(0)),
            Err(error) => return Err(Error::io("open", LOCK_NAME, error)),
        };
        let found = read_owner(&*file).map_or(0, |owner| owner.epoch);
        if found == self.ours.epoch { Ok(()) } else { Err(lost(found)) }
    }
}

/// What the lock of a store shows to somebody who does not want it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ownership {
    /// Who owns it, or did last; `None` where the file is not there or damaged.
    pub(crate) owner: Option<Owner>,
    /// Somebody holds it now.
    pub(crate) held: bool,
}

/// Looks at the lock. It is taken for a moment to see whether it is free, which nobody notices
/// who tries as often as [`Lock::take`] does.
///
/// # Errors
/// What the storage says.
pub(crate) fn look(vfs: &dyn Vfs) -> Result<Ownership> {
    let file = match vfs.open(LOCK_NAME, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Ownership { owner: None, held: false });
        }
        Err(error) => return Err(Error::io("open", LOCK_NAME, error)),
    };
    let owner = read_owner(&*file);
    // A file system without locks cannot tell; then what changes meanwhile looks like damage.
    let held = !file.try_lock().unwrap_or(true);
    Ok(Ownership { owner, held })
}

/// Reads what the owner wrote, where it can be read.
fn read_owner(file: &dyn VfsFile) -> Option<Owner> {
    let bytes = read_exact(file, LOCK_NAME, 0, LOCK_BYTES).ok()?;
    Owner::decode(&bytes)
}

/// Decodes a lock file and encodes it again, for the fuzz target.
pub(crate) fn encoded_again(bytes: &[u8]) -> Option<Vec<u8>> {
    Owner::decode(bytes).map(Owner::encode)
}

/// The bytes of a lock file, for the golden test.
#[cfg(test)]
pub(crate) fn golden_lock() -> Vec<u8> {
    Owner { pid: 4711, epoch: 8, since: Timestamp(1_700_000_000_000_000_000), ended: true }.encode()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::vfs::RealVfs;

    #[test]
    fn a_second_owner_is_turned_away_and_a_stolen_lock_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let vfs: Arc<dyn Vfs> = Arc::new(RealVfs::new(dir.path()));
        let take = |pid, now| Lock::take(&vfs, pid, Timestamp(now), || Ok(0));
        let first = take(10, 100).unwrap();
        first.check().unwrap();
        let Err(Error::Locked { pid: 10, since: Timestamp(100) }) = take(11, 200) else {
            panic!("the second owner was let in")
        };
        drop(first);
        let second = take(11, 300).unwrap();
        assert_eq!(second.epoch(), 2);
        std::fs::remove_file(dir.path().join("LOCK")).unwrap();
        assert!(matches!(second.check(), Err(Error::LockLost { ours: 2, found: 0 })));
        let thief = Lock::take(&vfs, 12, Timestamp(400), || Ok(2)).unwrap();
        assert!(matches!(second.check(), Err(Error::LockLost { ours: 2, found: 3 })));
        thief.check().unwrap();
    }
}
