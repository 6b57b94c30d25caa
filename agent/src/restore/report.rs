//! What a restore came to.

use super::metadata::Refused;

/// Names kept of each sort; all are counted.
const KEPT_NAMES: usize = 1000;

/// Paths with a reason each: the first of them, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// `path: reason`, the first 1000.
    pub list: Vec<String>,
    /// How many there were.
    pub total: u64,
}

impl Named {
    /// Adds one.
    pub fn add(&mut self, path: &[u8], reason: &str) {
        self.total += 1;
        if self.list.len() < KEPT_NAMES {
            self.list.push(format!("{}: {reason}", crate::browse::display(path)));
        }
    }
}

/// How many objects lack something that the caller could not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusedCounts {
    /// Another owner or group than in the snapshot.
    pub owners: u64,
    /// Other permission bits; setuid and setgid are left out where the owner is another.
    pub modes: u64,
    /// Another modification time.
    pub times: u64,
    /// Extended attributes left out.
    pub xattrs: u64,
    /// Device nodes left out.
    pub devices: u64,
}

impl RefusedCounts {
    /// Counts what was refused on one object.
    pub fn add(&mut self, refused: &Refused) {
        self.owners += u64::from(refused.owner);
        self.modes += u64::from(refused.mode);
        self.times += u64::from(refused.times);
        self.xattrs += refused.xattrs.len() as u64;
    }

    /// Tells whether anything was refused.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// What a restore came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Regular files written.
    pub files: u64,
    /// Directories made.
    pub dirs: u64,
    /// Further names of files that were written.
    pub hard_links: u64,
    /// Symbolic links made.
    pub symlinks: u64,
    /// Device nodes, fifos and sockets made.
    pub special: u64,
    /// Bytes of content written, holes not counted.
    pub bytes_written: u64,
    /// What stood there already as it should be.
    pub equal: u64,
    /// Directories that stood there and keep another owner or mode than in the snapshot.
    pub dirs_kept: u64,
    /// What stands there, is different and stays.
    pub kept: Named,
    /// What could not be written.
    pub failed: Named,
    /// What is damaged in the vault and was left out.
    pub damaged: Named,
    /// Files with zeros where the backup could not read the disk.
    pub incomplete: Named,
    /// What is encrypted, or lies in an encrypted directory, and was left out.
    pub encrypted: Named,
    /// What an ordinary user may not set.
    pub refused: RefusedCounts,
}
