//! One volume, our walk and the kernel's mount of it, from the bytes to the differences.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use umbra_fsparse::{
    ByteRange, Error, ReadAt, Slice,
    ext::{Ext, Journal},
};

use crate::{
    compare::{Compared, Difference, Places, compare_tree},
    image::ImageFile,
    kernel::Mount,
    tree::Tree,
};

/// How a volume was compared, or why it was not.
#[derive(Debug)]
pub enum Verdict {
    /// No ext file system is there.
    NoExt,
    /// The kernel does not mount it: there is no witness. What our own parser says.
    NoWitness {
        /// The kernel's words.
        kernel: String,
        /// What our walk came to.
        ours: String,
    },
    /// It was compared.
    Compared {
        /// What the kernel says.
        manifest: Vec<Value>,
        /// One comparison, or of a dirty file system two.
        stages: Vec<Stage>,
    },
}

/// One comparison of a volume.
#[derive(Debug)]
pub struct Stage {
    /// Which bytes our walk read.
    pub name: &'static str,
    /// What was compared.
    pub compared: Compared,
    /// Where the two differ.
    pub differences: Vec<Difference>,
    /// What our walk warned of.
    pub warnings: Vec<String>,
    /// The blocks that our walk read from the journal.
    pub replayed_blocks: usize,
}

impl Verdict {
    /// Returns the stages of the comparison, none where there was none.
    pub fn stages(&self) -> &[Stage] {
        match self {
            Self::Compared { stages, .. } => stages,
            _ => &[],
        }
    }
}

/// Compares the volume at `range` of the disk with the kernel's mount of that range of `copy`, a
/// copy of the disk that the kernel may recover.
///
/// A dirty file system is compared twice: as it stands, where our walk replays the journal and
/// blocks may stand there alone, and as the kernel left it, the places of extents with it.
///
/// # Errors
/// When the copy cannot be read, or the mounted tree not be listed.
pub fn diff(disk: &dyn ReadAt, range: ByteRange, copy: &Path, scratch: &Path) -> Result<Verdict> {
    let volume = Slice::new(disk, range);
    let opened = Ext::open(&volume, Journal::Replay);
    if matches!(opened, Err(Error::NotFound { .. })) {
        return Ok(Verdict::NoExt);
    }
    // Read-only it recovers too, and writes nothing else; a fast commit it replays only otherwise.
    let mount = |options| Mount::new(copy, Some(range), scratch.join("kernel"), options);
    let mount = match mount("ro,noatime").or_else(|_| mount("rw,noatime")) {
        Ok(mount) => mount,
        Err(error) => {
            let ours = opened.and_then(|ext| Tree::of(&ext));
            let ours = match ours {
                Ok(tree) => {
                    format!("{} names, {} warnings", tree.entries.len(), tree.warnings.len())
                }
                Err(error) => error.to_string(),
            };
            return Ok(Verdict::NoWitness { kernel: format!("{error:#}"), ours });
        }
    };
    let manifest = mount.manifest()?;
    mount.unmount()?;
    // What our parser does not open may be one that it opens when the kernel has recovered it.
    let dirty = opened.as_ref().map_or(true, Ext::needs_recovery);
    let places = if dirty { Places::Journal } else { Places::Compared };
    let mut stages = vec![stage("as it stands", &volume, opened, &manifest, places)];
    if dirty {
        let copy = ImageFile::open(copy).context("the recovered copy")?;
        let volume = Slice::new(&copy, range);
        let opened = Ext::open(&volume, Journal::Replay);
        let name = "as the kernel recovered it";
        stages.push(stage(name, &volume, opened, &manifest, Places::Compared));
    }
    Ok(Verdict::Compared { manifest, stages })
}

fn stage(
    name: &'static str,
    volume: &dyn ReadAt,
    opened: umbra_fsparse::Result<Ext<'_>>,
    manifest: &[Value],
    places: Places,
) -> Stage {
    let walked = opened.and_then(|ext| Ok((Tree::of(&ext)?, ext.replayed_blocks())));
    match walked {
        Ok((tree, replayed_blocks)) => {
            let (compared, differences) = compare_tree(volume, &tree, manifest, places);
            let warnings = tree.warnings.iter().map(|warning| match warning.inode {
                Some(inode) => format!("inode {}: {}", inode.0, warning.error),
                None => warning.error.to_string(),
            });
            let warnings = warnings.collect();
            Stage { name, compared, differences, warnings, replayed_blocks }
        }
        Err(error) => {
            let refused = Difference {
                path: String::new(),
                field: "file system",
                ours: error.to_string(),
                theirs: format!("{} paths", manifest.len()),
            };
            Stage {
                name,
                compared: Compared::default(),
                differences: vec![refused],
                warnings: Vec::new(),
                replayed_blocks: 0,
            }
        }
    }
}
