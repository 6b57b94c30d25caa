//! An index that cannot be opened for want of room, or for any reason that says nothing about the index.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::index::{Index, IndexOpener};

/// An index of a machine that lacks something just now.
#[derive(Clone, Default)]
struct Failing {
    index: KeptIndex,
    error: Option<io::ErrorKind>,
    destroyed: Arc<AtomicBool>,
}

impl IndexOpener for Failing {
    fn open(&self) -> Result<Box<dyn Index>> {
        match self.error {
            Some(kind) if !self.destroyed.load(Ordering::SeqCst) => {
                Err(Error::io("open", "index", kind.into()))
            }
            _ => self.index.open(),
        }
    }

    fn open_read_only(&self) -> Result<Box<dyn Index>> {
        self.index.open_read_only()
    }

    fn destroy(&self) -> Result<()> {
        self.destroyed.store(true, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn an_index_that_cannot_be_opened_just_now_is_not_destroyed() {
    let rig = Rig { index: Some(KeptIndex::default()), ..sim_rig(&SimVfs::default()) };
    init(&rig);
    let objects = disk_objects("d", 0, 20);
    let store = rig.open();
    back_up(&store, "d", &objects);
    store.close().unwrap();
    let index = rig.index.clone().unwrap();
    let rows = index.rows().unwrap();
    for error in [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::OutOfMemory,
    ] {
        let failing = Failing { index: index.clone(), error: Some(error), ..Failing::default() };
        let opener = Box::new(failing.clone());
        let options = OpenOptions::owner(opener, fresh_seed(), 1234, Timestamp(5));
        let found = Store::open(Arc::clone(&rig.vfs), options).err().unwrap();
        assert!(matches!(found.root(), Error::NoSpace { .. } | Error::Io { .. }), "{found:?}");
        assert!(!failing.destroyed.load(Ordering::SeqCst), "{error:?}: the index was destroyed");
    }
    assert_eq!(index.rows().unwrap(), rows);
    assert_holds(&rig.open(), &objects);
}
