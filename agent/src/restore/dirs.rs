//! The directories of a restore: made when they are needed, finished at the very end.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use rustix::fs::FileType as Kind;
use umbra_common::overlay::Entry;

use super::Overwrite;
use super::confined::{Dir, Name};

/// Directories held open at once.
const OPEN_DIRS: usize = 256;

/// Position of a directory in [`Dirs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirId(usize);

impl DirId {
    /// The target itself.
    pub const TARGET: Self = Self(0);
}

/// What became of a directory so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not needed yet.
    Planned,
    /// Made by this run.
    Made,
    /// It stood there.
    Existed,
    /// It cannot be had; that was reported.
    Failed,
}

#[derive(Debug)]
struct Planned {
    parent: DirId,
    name: Vec<u8>,
    path: Vec<u8>,
    entry: Option<Entry>,
    state: State,
}

/// Why a directory cannot be had.
#[derive(Debug)]
pub enum DirError {
    /// Something else stands in its place and stays.
    Kept,
    /// The system says no.
    Io(io::Error),
    /// It, or one above it, was reported before.
    Reported,
}

/// All directories of a restore, each after its parent.
pub struct Dirs {
    list: Vec<Planned>,
    known: HashMap<(DirId, Vec<u8>), DirId>,
    open: HashMap<DirId, Arc<Dir>>,
    target: Arc<Dir>,
    overwrite: Overwrite,
}

/// A directory that gets its metadata now.
pub struct Finish<'a> {
    /// Its path below the target.
    pub path: &'a [u8],
    /// What it shall be.
    pub entry: &'a Entry,
    /// The open directory, or why it cannot be opened.
    pub dir: io::Result<Arc<Dir>>,
    /// True where it stood there and keeps what it has.
    pub stays: bool,
}

impl Dirs {
    /// Starts with the target; `fresh` where nothing stood in it.
    pub fn new(target: Dir, fresh: bool, overwrite: Overwrite) -> Self {
        if fresh {
            target.mark_unfinished();
        }
        let own = fresh || target.is_unfinished();
        let state = if own { State::Made } else { State::Existed };
        let (name, path) = (Vec::new(), Vec::new());
        let root = Planned { parent: DirId::TARGET, name, path, entry: None, state };
        Self {
            list: vec![root],
            known: HashMap::new(),
            open: HashMap::new(),
            target: Arc::new(target),
            overwrite,
        }
    }

    /// Plans the directory `name` in `parent`; nothing is made. Where it is planned already, an
    /// entry that was missing is filled in.
    pub fn plan(&mut self, parent: DirId, name: &[u8], entry: Option<&Entry>) -> DirId {
        if let Some(id) = self.known.get(&(parent, name.to_vec())) {
            let id = *id;
            self.describe(id, entry);
            return id;
        }
        let id = DirId(self.list.len());
        let path = self.path_in(parent, name);
        let (name, entry, state) = (name.to_vec(), entry.cloned(), State::Planned);
        self.known.insert((parent, name.clone()), id);
        self.list.push(Planned { parent, name, path, entry, state });
        id
    }

    /// Says what a directory shall be.
    pub fn describe(&mut self, id: DirId, entry: Option<&Entry>) {
        if let Some(planned) = self.list.get_mut(id.0)
            && planned.entry.is_none()
        {
            planned.entry = entry.cloned();
        }
    }

    /// Returns a path below the target.
    pub fn path_in(&self, parent: DirId, name: &[u8]) -> Vec<u8> {
        let mut path = self.path(parent).to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Returns a directory's path below the target.
    pub fn path(&self, id: DirId) -> &[u8] {
        self.list.get(id.0).map_or(b"", |planned| &planned.path)
    }

    /// Tells whether the names in a directory are ciphertext.
    pub fn is_encrypted(&self, id: DirId) -> bool {
        let entry = self.list.get(id.0).and_then(|planned| planned.entry.as_ref());
        entry.is_some_and(|entry| entry.record.is_encrypted())
    }

    /// Opens a directory, which is made first where that is still to be done.
    ///
    /// # Errors
    /// [`DirError`]; each directory is reported once.
    pub fn open(&mut self, id: DirId) -> Result<Arc<Dir>, DirError> {
        if let Some(dir) = self.open.get(&id) {
            return Ok(Arc::clone(dir));
        }
        let mut way = Vec::new();
        let mut at = id;
        while at != DirId::TARGET && !self.open.contains_key(&at) {
            way.push(at);
            at = self.list.get(at.0).map_or(DirId::TARGET, |planned| planned.parent);
        }
        let mut dir = self.open.get(&at).map_or_else(|| Arc::clone(&self.target), Arc::clone);
        for id in way.into_iter().rev() {
            dir = self.enter(&dir, id)?;
        }
        Ok(dir)
    }

    fn enter(&mut self, parent: &Dir, id: DirId) -> Result<Arc<Dir>, DirError> {
        let overwrite = self.overwrite;
        let Some(planned) = self.list.get_mut(id.0) else { return Err(DirError::Reported) };
        if planned.state == State::Failed {
            return Err(DirError::Reported);
        }
        match make(parent, planned, overwrite) {
            Ok(dir) => {
                if planned.state == State::Planned {
                    planned.state = State::Existed;
                }
                let dir = Arc::new(dir);
                if self.open.len() >= OPEN_DIRS {
                    self.open.clear();
                }
                self.open.insert(id, Arc::clone(&dir));
                Ok(dir)
            }
            Err(error) => {
                planned.state = State::Failed;
                Err(error)
            }
        }
    }

    /// Counts the directories that this run made, the target left out.
    pub fn count_made(&self) -> u64 {
        let made = self.list.iter().skip(1).filter(|planned| planned.state == State::Made);
        made.count() as u64
    }

    /// Hands over each directory that gets its metadata, those below before those above.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn finish<E>(
        &mut self,
        mut each: impl FnMut(Finish<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for index in (0..self.list.len()).rev() {
            let id = DirId(index);
            let stays = match self.list.get(index).map(|planned| planned.state) {
                Some(State::Made) => false,
                Some(State::Existed) => self.overwrite == Overwrite::Never,
                Some(State::Planned | State::Failed) | None => continue,
            };
            let dir = self.open(id).map_err(|error| match error {
                DirError::Io(error) => error,
                DirError::Kept | DirError::Reported => io::ErrorKind::NotADirectory.into(),
            });
            // Before it gets its mode: who may not write it could not take the mark away.
            if let Some(made) = dir.as_ref().ok().filter(|_| !stays) {
                made.mark_finished();
            }
            if let Some(Planned { path, entry: Some(entry), .. }) = self.list.get(index) {
                each(Finish { path, entry, dir, stays })?;
            }
        }
        Ok(())
    }
}

/// Opens what is planned in `parent`, and makes it first where nothing stands there.
fn make(parent: &Dir, planned: &mut Planned, overwrite: Overwrite) -> Result<Dir, DirError> {
    let hostile = || io::Error::new(io::ErrorKind::InvalidInput, "no file can have this name");
    let name = Name::new(&planned.name).ok_or_else(|| DirError::Io(hostile()))?;
    if planned.state != State::Planned {
        return parent.open_dir(name).map_err(DirError::Io);
    }
    match parent.find(name).map_err(DirError::Io)? {
        Some(stat) if Kind::from_raw_mode(stat.st_mode) == Kind::Directory => {
            let dir = parent.open_dir(name).map_err(DirError::Io)?;
            if dir.is_unfinished() {
                planned.state = State::Made;
            }
            return Ok(dir);
        }
        Some(_) if overwrite == Overwrite::Never => return Err(DirError::Kept),
        found => {
            if found.is_some() {
                parent.remove_file(name).map_err(DirError::Io)?;
            }
            parent.make_dir(name).map_err(DirError::Io)?;
            planned.state = State::Made;
        }
    }
    let dir = parent.open_dir(name).map_err(DirError::Io)?;
    dir.mark_unfinished();
    Ok(dir)
}
