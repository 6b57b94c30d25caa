//! A cold page cache: what is measured reads its source from the disk.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::measure::sync;
use crate::env::BuildEnv;
use crate::process;

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// How the cache is made cold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cold {
    /// The kernel drops everything: sources, stores, programs.
    Dropped,
    /// Not root: it is advised to drop the sources (posix_fadvise); the rest stays.
    Advised,
}

impl Cold {
    /// Tries what is allowed here.
    pub(super) fn find() -> Self {
        if fs::write(DROP_CACHES, "3").is_ok() { Self::Dropped } else { Self::Advised }
    }

    /// How, for the reader of the table.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::Dropped => "page cache dropped before each run",
            Self::Advised => {
                "not root: only the pages of what is read were dropped before each run (posix_fadvise)"
            }
        }
    }

    /// Writes out what is in memory and makes the cache cold for a file or the files of a directory.
    ///
    /// # Errors
    /// When a tool fails.
    pub(super) fn make(self, env: &BuildEnv, source: &Path) -> Result<()> {
        sync(env, source)?;
        match self {
            Self::Dropped => fs::write(DROP_CACHES, "3")?,
            Self::Advised => {
                // Empty copies that advise to drop the whole file (info dd, `nocache`).
                let mut find = env.command("find");
                find.arg(source).args(["-type", "f", "-exec", "dd", "if={}", "iflag=nocache"]);
                process::output(find.args(["count=0", "status=none", ";"]))?;
            }
        }
        Ok(())
    }
}
