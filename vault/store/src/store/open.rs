//! Making and opening a store.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock};

use crate::cipher::Cipher;
use crate::error::{Error, Result};
use crate::failpoint::{Point, pass};
use crate::format::{FORMAT_NAME, MAX_FORMAT_BYTES, StoreFormat};
use crate::ids::{StoreId, Timestamp};
use crate::index::{
    INDEX_VERSION, Index, IndexFormat, IndexOpener, LayeredIndex, MemoryIndex, MemoryIndexOpener,
};
use crate::journal::{Journal, LocalJournal, SealTo};
use crate::lock::Lock;
use crate::log::{Entry, Log, LogWriter, Replayed, replay};
use crate::objects::{LocalObjects, ObjectStore};
use crate::pack::PackKind;
use crate::session::Leases;
use crate::store::adopt::{Adopted, NO_ROOM};
use crate::store::gc::{Maintenance, Readers};
use crate::store::in_flight::InFlight;
use crate::store::inner::{DATA_LANES, IndexState, Inner, PackNames, locked};
use crate::store::lane::Lane;
use crate::store::parity::ParityQueue;
use crate::store::receipts::Receipts;
use crate::store::reserve::give_up_when_full;
use crate::store::{InitOptions, OpenMode, OpenOptions, Store};
use crate::vfs::{Access, Vfs, make_dirs, read_exact};

/// The directories of a store.
pub(crate) const DIRS: [&str; 8] =
    ["log", "keys", "receipts", "packs", "open", "index", "gc", "tmp"];

/// Makes a store; `FORMAT` comes last, so that a half-made one is none.
pub(crate) fn init(vfs: &Arc<dyn Vfs>, options: &InitOptions) -> Result<()> {
    vfs.mkdir("").map_err(|error| Error::io("make", "", error))?;
    let names = vfs.list("").map_err(|error| Error::io("list", "", error))?;
    if let Some(found) = names.into_iter().find(|name| name != "lost+found") {
        return Err(Error::NotEmpty { found });
    }
    for dir in DIRS {
        make_dirs(&**vfs, dir)?;
    }
    let lock = Arc::new(Lock::take(vfs, 0, options.now, || Ok(0))?);
    let store = options.store;
    let journal: Arc<dyn Journal> = Arc::new(LocalJournal::new(Arc::clone(vfs), SealTo::Rename));
    let log = Log::new(
        Replayed { next_segment: 1, ..Replayed::default() },
        Some(LogWriter { journal, lock: Arc::clone(&lock), store }),
    );
    log.append(Entry::StoreCreated { store }, options.now)?;
    let format = StoreFormat::new(store, options.now);
    LocalObjects::new(Arc::clone(vfs)).put_new(FORMAT_NAME, &format.encode())?;
    lock.end_in_order()
}

/// Reads `FORMAT`.
pub(crate) fn read_format(vfs: &dyn Vfs, mode: OpenMode) -> Result<StoreFormat> {
    let file = vfs.open(FORMAT_NAME, Access::Read).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::NotAStore { reason: "it has no FORMAT file" }
        }
        _ => Error::io("open", FORMAT_NAME, error),
    })?;
    let len = file.len().map_err(|error| Error::io("measure", FORMAT_NAME, error))?;
    let bytes = read_exact(&*file, FORMAT_NAME, 0, len.min(MAX_FORMAT_BYTES))?;
    let format = StoreFormat::decode(&bytes)?;
    format.check_features(mode == OpenMode::ReadWrite)?;
    Ok(format)
}

/// Opens the index for the owner; one that is bad is destroyed and made anew.
fn open_index(
    opener: &dyn IndexOpener,
    unusable: Option<String>,
) -> Result<(Arc<dyn Index>, Option<String>)> {
    let reason = match unusable {
        Some(reason) => reason,
        None => match opener.open() {
            Ok(index) => return Ok((Arc::from(index), None)),
            // With the index goes how far each pack was synced, and making it anew reads every
            // table of a store that may be large: not for want of room or of a right.
            Err(error) if !shows_bad_index(&error) => return Err(error),
            Err(error) => error.to_string(),
        },
    };
    opener.destroy()?;
    Ok((Arc::from(opener.open()?), Some(reason)))
}

/// Tells whether an error of opening the index may be one of what stands in it.
fn shows_bad_index(error: &Error) -> bool {
    match error.root() {
        Error::NoSpace { .. } => false,
        Error::Io { .. } => error.is_unreadable() || error.is_not_found(),
        _ => true,
    }
}

/// Tells whether an error is one of the index, which can be made anew.
pub(crate) fn is_of_index(error: &Error) -> bool {
    match error.root() {
        Error::Index { .. } => true,
        Error::Corrupt { path, .. } => path == "index",
        _ => false,
    }
}

/// Opens the index for a reader; one that cannot be opened, or is not this store's, is replaced
/// by what the packs say.
fn open_index_for_reading(opener: &dyn IndexOpener, expected: IndexFormat) -> LayeredIndex {
    let opened = opener.open_read_only().ok();
    let ours = opened.filter(|index| matches!(index.format(), Ok(Some(f)) if f == expected));
    LayeredIndex::new(ours.unwrap_or_else(|| Box::new(MemoryIndex::default())))
}

/// Where packs, receipts and journal lie.
fn storage(
    vfs: &Arc<dyn Vfs>,
    objects: Option<Arc<dyn ObjectStore>>,
) -> (Arc<dyn ObjectStore>, Arc<dyn Journal>, SealTo) {
    let (objects, seal_to) = match objects {
        Some(objects) => (Arc::clone(&objects), SealTo::PutNew(objects)),
        None => {
            let local: Arc<dyn ObjectStore> = Arc::new(LocalObjects::new(Arc::clone(vfs)));
            (local, SealTo::Rename)
        }
    };
    let journal = Arc::new(LocalJournal::new(Arc::clone(vfs), seal_to.clone()));
    (objects, journal, seal_to)
}

/// Opens a store as its owner.
pub(crate) fn open_owner(vfs: &Arc<dyn Vfs>, options: &OpenOptions) -> Result<Store> {
    match try_open_owner(vfs, options, None) {
        Err(error) if is_of_index(&error) => try_open_owner(vfs, options, Some(error.to_string())),
        other => other,
    }
}

/// Opens a store as its owner; without its index where that is known to be `unusable`.
fn try_open_owner(
    vfs: &Arc<dyn Vfs>,
    options: &OpenOptions,
    unusable: Option<String>,
) -> Result<Store> {
    let format = read_format(&**vfs, OpenMode::ReadWrite)?;
    let (objects, journal, seal_to) = storage(vfs, options.objects.clone());
    let lock = Arc::new(Lock::take(vfs, options.pid, options.now, || {
        Ok(replay(&*journal, format.store)?.epoch)
    })?);
    give_up_when_full(&**vfs);
    pass(Point::OpenLocked);
    for dir in DIRS {
        make_dirs(&**vfs, dir)?;
    }
    if matches!(seal_to, SealTo::Rename) && !lock.after_orderly_end() {
        settle_names(vfs)?;
    }
    LocalObjects::new(Arc::clone(vfs)).clear_aside()?;
    pass(Point::OpenCleared);
    let mut replayed = replay(&*journal, format.store)?;
    if let Some(damage) = replayed.damage.take() {
        return Err(damage);
    }
    if let Some((path, at)) = replayed.torn.take()
        && lock.after_orderly_end()
    {
        let reason = "the store was closed in order, and its last entry is not whole";
        return Err(Error::Corrupt { what: "the LOG", path, at, reason });
    }
    let newest = replayed.newest.take().filter(|_| !lock.after_orderly_end());
    let (index, lost) = open_index(&*options.index, unusable)?;
    pass(Point::OpenIndexed);
    let writer =
        LogWriter { journal: Arc::clone(&journal), lock: Arc::clone(&lock), store: format.store };
    let lane = |kind| Lane::new(kind, options.pack_bytes);
    let mut lanes: Vec<Lane> = (0..DATA_LANES).map(|_| lane(PackKind::Data)).collect();
    lanes.push(lane(PackKind::Nodes));
    let parts = Parts { vfs: Arc::clone(vfs), objects, journal, index, store: format.store };
    let log = Log::new(replayed, Some(writer));
    let names = PackNames::new(options.seed, lock.epoch());
    let inner = Arc::new(Inner {
        mode: OpenMode::ReadWrite,
        lock: Some(lock),
        names,
        lanes,
        parity: ParityQueue::new(options.parity && matches!(seal_to, SealTo::Rename)),
        ..parts.into_inner(log, options)
    });
    inner.log.write_again(newest, options.now)?;
    pass(Point::OpenLogAgain);
    let store = Store::start(Arc::clone(&inner), format.created, options.group_commit)?;
    let [a, b, c, d, ..] = options.seed;
    let seed = u32::from_le_bytes([a, b, c, d]).into();
    prepare(&inner, lost, seed, options.now).inspect_err(|_| inner.doubt())?;
    inner.look_after_reserve();
    Ok(store)
}

/// What a store is made of, whether it is owned or read.
struct Parts {
    vfs: Arc<dyn Vfs>,
    objects: Arc<dyn ObjectStore>,
    journal: Arc<dyn Journal>,
    index: Arc<dyn Index>,
    store: StoreId,
}

impl Parts {
    /// Makes the insides of a store that is only read.
    fn into_inner(self, log: Log, options: &OpenOptions) -> Inner {
        Inner {
            vfs: self.vfs,
            objects: self.objects,
            journal: self.journal,
            index: self.index,
            cipher: options.cipher.clone(),
            store: self.store,
            mode: OpenMode::ReadOnly,
            lock: None,
            log,
            receipts: Mutex::new(Receipts::default()),
            leases: Arc::new(Leases::default()),
            in_flight: InFlight::default(),
            lanes: Vec::new(),
            parity: ParityQueue::default(),
            damage: Mutex::default(),
            names: PackNames::new(options.seed, 0),
            gate: RwLock::new(IndexState::Whole),
            node_order: Mutex::new(()),
            refreshing: Mutex::new(()),
            condemned: RwLock::default(),
            readers: Readers::default(),
            maintenance: Maintenance::default(),
            doomed: Mutex::default(),
            in_doubt: AtomicBool::new(false),
        }
    }
}

/// Brings index, receipts and LOG to one state.
fn prepare(inner: &Inner, lost: Option<String>, seed: u64, now: Timestamp) -> Result<()> {
    inner.load_receipts()?;
    pass(Point::OpenReceiptsRead);
    let log_end = inner.log.with_state(|state| state.sequence);
    let mark = inner.index.log_mark()?.sequence;
    if mark > log_end && inner.index.format()? == Some(inner.index_format()) {
        return Err(Error::Corrupt {
            what: "the LOG",
            path: "log".to_owned(),
            at: 0,
            reason: "entries that were durable are gone from its end",
        });
    }
    let mut lost = lost;
    match inner.log.with_state(|state| inner.read_sweep_list(state)) {
        Ok(list) => *locked(&inner.doomed) = list.map(Arc::new),
        // Which packs it was about nobody knows any more: all of them count again.
        Err(error @ Error::Corrupt { .. }) => {
            inner.report_error(&error);
            lost.get_or_insert(error.to_string());
        }
        Err(error) => return Err(error),
    }
    let reason = match lost {
        Some(reason) => Some(reason),
        None => inner.why_rebuild(seed)?.map(str::to_owned),
    };
    let reason = match reason {
        None if inner.catch_up()? == Adopted::LeftOpen => Some(NO_ROOM.to_owned()),
        reason => reason,
    };
    match reason {
        // The index is not lost, and the LOG may have no room either.
        Some(reason) if reason == NO_ROOM => drop(inner.rebuild(now)?),
        Some(reason) => {
            let news = !inner.index.is_volatile() && !inner.sealed_packs()?.is_empty();
            if news {
                inner.log.append(Entry::IndexLost { reason }, now)?;
            }
            let report = inner.rebuild(now)?;
            if news {
                inner.log.append(Entry::IndexRebuilt { objects: report.objects }, now)?;
            }
        }
        None => {}
    }
    pass(Point::OpenCaughtUp);
    inner.log_receipts(now)?;
    inner.remove_leftovers()?;
    pass(Point::OpenReceiptsLogged);
    inner.log.mark_in(Arc::clone(&inner.index))?;
    for damage in locked(&inner.damage).iter() {
        let text = format!("damage: {} at byte {}: {}", damage.path, damage.at, damage.reason);
        inner.log.append(Entry::Audit { machine: None, text }, now)?;
    }
    inner.queue_missing_parity()
}

/// Makes names durable that a killed process may have left unsynced.
fn settle_names(vfs: &Arc<dyn Vfs>) -> Result<()> {
    let sync = |dir: &str| vfs.sync_dir(dir).map_err(|error| Error::io("sync", dir, error));
    for dir in std::iter::once("").chain(DIRS) {
        sync(dir)?;
    }
    for name in vfs.list("packs").map_err(|error| Error::io("list", "packs", error))? {
        if name.len() == 2 {
            sync(&format!("packs/{name}"))?;
        }
    }
    Ok(())
}

/// Makes the insides of a store for a check: `FORMAT` is read and nothing else, no lock is taken,
/// and there is no index.
///
/// # Errors
/// As [`Store::open`].
pub(crate) fn insides(
    vfs: &Arc<dyn Vfs>,
    objects: Option<Arc<dyn ObjectStore>>,
    cipher: Option<Arc<dyn Cipher>>,
) -> Result<Inner> {
    let format = read_format(&**vfs, OpenMode::ReadOnly)?;
    let (objects, journal, _) = storage(vfs, objects);
    let index = Arc::new(MemoryIndex::default());
    let parts = Parts { vfs: Arc::clone(vfs), objects, journal, index, store: format.store };
    let options = OpenOptions::reader(Box::new(MemoryIndexOpener), Timestamp(0));
    let inner = parts.into_inner(Log::new(Replayed::default(), None), &options);
    Ok(Inner { cipher, ..inner })
}

/// Opens a store for reading, beside its owner or on media that cannot be written.
pub(crate) fn open_reader(vfs: &Arc<dyn Vfs>, options: &OpenOptions) -> Result<Store> {
    let format = read_format(&**vfs, OpenMode::ReadOnly)?;
    let (objects, journal, _) = storage(vfs, options.objects.clone());
    let mut replayed = replay(&*journal, format.store)?;
    let damage = replayed.damage.take();
    let gc_generation = replayed.state.gc_generation;
    let expected = IndexFormat { version: INDEX_VERSION, store: format.store, gc_generation };
    let index = Arc::new(open_index_for_reading(&*options.index, expected));
    let parts = Parts { vfs: Arc::clone(vfs), objects, journal, index, store: format.store };
    let inner = Arc::new(parts.into_inner(Log::new(replayed, None), options));
    if let Some(damage) = damage {
        // Restoring must still be possible: the LOG counts up to the damage.
        if let Err(damage) = inner.unless_unreadable(Err(damage)) {
            inner.report_error(&damage);
        }
    }
    inner.refresh()?;
    Store::start(inner, format.created, options.group_commit)
}
