//! Files back from a snapshot, below one directory and never outside it.
//!
//! Directories first, then files in the order of the disk, further names, device nodes, symbolic
//! links; metadata of directories last, from below. Everything is made under a temporary name and
//! renamed when it is whole.

use std::io;
use std::path::{Path, PathBuf};

use umbra_common::node::NodeSource;
use umbra_fsparse::FileType;

use crate::browse::Browser;
use crate::content::ContentReader;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Stage};

mod confined;
mod dirs;
mod files;
mod filter;
mod links;
mod metadata;
mod report;
mod run;
mod select;

pub use filter::{Filter, Verdict};
pub use report::{Named, RefusedCounts, Summary};
pub use select::{Selection, Strip, check_distinct, paths_in, select, select_all};

use confined::Dir;
use dirs::Dirs;
use run::Run;

/// When something that stands there is written over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Never: what is different stays and is named.
    Never,
    /// Where type, size or modification time differ.
    IfChanged,
    /// In any case.
    Always,
}

/// What all parts of a restore look at.
struct Setting<'a> {
    nodes: &'a dyn NodeSource,
    monitor: &'a dyn Monitor,
    overwrite: Overwrite,
    target: PathBuf,
}

impl Setting<'_> {
    /// Makes the error that ends a restore after `files` whole files.
    fn fatal(&self, path: &[u8], error: io::Error, files: u64) -> Error {
        use std::os::unix::ffi::OsStrExt;
        let path = self.target.join(std::ffi::OsStr::from_bytes(path));
        let full =
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if !full {
            return Error::Io { what: "write", path, source: error };
        }
        let text = format!(
            "{error}; {files} files are whole; make room or choose another --target and run the \
             same command again, files that are whole are not written again"
        );
        Error::Io { what: "write", path, source: io::Error::new(io::ErrorKind::StorageFull, text) }
    }
}

/// Tells whether an error of one file will be that of every other.
fn is_fatal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Restores what was selected into the directory `target`, which is made where it is missing.
///
/// # Errors
/// [`Error::Io`] where the target cannot be written at all (a full one is `StorageFull`),
/// [`Error::Vault`]. What concerns single files stands in the summary.
pub fn restore(
    browser: &Browser<'_>,
    content: ContentReader<'_>,
    selections: &[Selection],
    target: &Path,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Summary> {
    let context = |what| move |source| Error::Io { what, path: target.into(), source };
    std::fs::create_dir_all(target).map_err(context("make the directory"))?;
    let dir = Dir::open_target(target).map_err(context("open the directory"))?;
    let fresh = dir.is_empty().map_err(context("read the directory"))?;
    rustix::fs::access(target, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|error| context("write into")(error.into()))?;
    let overwrite = options.overwrite;
    let setting = Setting { nodes: content.nodes, monitor, overwrite, target: target.into() };
    let mut run = Run::new(content, &setting, Dirs::new(dir, fresh, overwrite));
    monitor.begin(Stage::Restore, None);
    if let Err(error) = run.all(browser, selections, &options.filter) {
        // What was made shall not stay closed to everybody until the next attempt; the error that
        // led here says more than what goes wrong now.
        let _ = run.finish_dirs();
        return Err(error);
    }
    let synced = Dir::open_target(target).and_then(|dir| dir.sync());
    synced.map_err(context("write everything to"))?;
    Ok(run.into_summary())
}

/// How a restore goes about.
#[derive(Clone, Debug)]
pub struct Options {
    /// What becomes of what stands there.
    pub overwrite: Overwrite,
    /// Which paths are wanted.
    pub filter: Filter,
}

/// Counts what [`restore`] would bring back into an empty directory; nothing is written.
///
/// # Errors
/// [`Error::Vault`].
pub fn plan(browser: &Browser<'_>, selections: &[Selection], filter: &Filter) -> Result<Summary> {
    let mut summary = Summary::default();
    for selection in selections {
        select::visit(browser, selection, filter, false, |in_encrypted, _, visited| {
            let found = match visited {
                select::Visited::Lost { path, reason } => {
                    summary.damaged.add(&path, &reason);
                    return Ok(None);
                }
                select::Visited::Found(found) => found,
            };
            let wanted = u64::from(found.verdict == Verdict::Include);
            let record = &found.entry.record;
            let is_dir = record.file_type == FileType::Dir;
            if *in_encrypted || (record.is_encrypted() && !is_dir) {
                summary.encrypted.total += wanted;
                return Ok(Some(record.is_encrypted()));
            }
            match record.file_type {
                FileType::File => {
                    summary.files += wanted;
                    summary.bytes_written += wanted * record.size.0;
                }
                FileType::Dir => summary.dirs += wanted,
                FileType::Symlink => summary.symlinks += wanted,
                _ => summary.special += wanted,
            }
            Ok(Some(record.is_encrypted()))
        })?;
    }
    Ok(summary)
}

#[cfg(test)]
mod tests;
