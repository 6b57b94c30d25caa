//! Images made on the spot: file systems that the kernel filled, and some copied while it did.

mod variants;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use tempfile::TempDir;

pub use self::variants::{VARIANTS, Variant};
use crate::{kernel::Mount, run};

const WORKLOAD: &str = include_str!("workload.py");
const LEN: u64 = 64 << 20;

/// What a file system went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Filled once.
    Fresh,
    /// Changed for a while: deleted, renamed, truncated, written over.
    Aged,
    /// Full, in part emptied, and full again.
    Full,
    /// Files written block by block in turn, with holes and unwritten ranges: deep maps.
    Fragmented,
    /// Copied while writers had it mounted. Without a journal everything was synced before.
    Dirty,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Fresh, Self::Aged, Self::Full, Self::Fragmented, Self::Dirty];
}

/// An image in a directory of its own.
#[derive(Debug)]
pub struct Made {
    dir: TempDir,
    image: PathBuf,
}

impl Made {
    /// Returns the image's path.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Returns the directory, which goes away with the image.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Reads the image.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        Ok(fs::read(&self.image)?)
    }

    /// Copies the image beside itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn copy(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        run(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&path))?;
        Ok(path)
    }
}

/// What came of the wish for an image.
#[derive(Debug)]
pub enum Outcome {
    /// The image.
    Made(Made),
    /// This machine's kernel or e2fsprogs cannot make it, and why.
    Refused(String),
}

impl Outcome {
    /// Returns the image; without one says why and returns nothing.
    #[allow(clippy::print_stdout, reason = "what tests skip they say where the others do")]
    pub fn or_say(self, variant: &Variant) -> Option<Made> {
        match self {
            Self::Made(made) => Some(made),
            Self::Refused(reason) => {
                println!("SKIPPED: {}: {reason}", variant.name);
                None
            }
        }
    }
}

/// Makes an image. `finish` is called when the writers of [`State::Dirty`] have stopped and
/// nothing was synced, in the other states before the file system is unmounted.
///
/// # Errors
/// When a writer fails, or `finish`.
pub fn make(
    variant: &Variant,
    state: State,
    seed: u32,
    finish: impl FnOnce(&Mount) -> Result<()>,
) -> Result<Outcome> {
    let dir = directory()?;
    let live = dir.path().join("live.img");
    fs::File::create(&live)?.set_len(LEN)?;
    let made = run(Command::new("mke2fs").args(["-q", "-F"]).args(variant.mkfs).arg(&live));
    if let Err(error) = made {
        return Ok(Outcome::Refused(format!("{error:#}")));
    }
    let mount = match Mount::new(&live, None, dir.path().join("live"), variant.mount) {
        Ok(mount) => mount,
        // Some kinds it mounts read-only: mke2fs can fill those.
        Err(_) if state == State::Fresh => return filled_by_mke2fs(variant, seed, dir),
        Err(error) => return Ok(Outcome::Refused(format!("{error:#}"))),
    };
    for extra in variant.extra.iter().filter(|extra| **extra != "late") {
        work(&mount, seed, extra)?;
    }
    for (number, what) in (0..).zip(state.works()) {
        // So far everything comes home; the last writers' work stands in the journal alone.
        if state == State::Dirty && number > 0 {
            mount.sync()?;
        }
        work(&mount, seed + number, what)?;
    }
    if variant.extra.contains(&"late") {
        mount.sync()?;
        work(&mount, seed, "late")?;
    }
    finish(&mount)?;
    let image = dir.path().join("made.img");
    if state == State::Dirty {
        if !variant.has_journal() {
            mount.sync()?;
        }
        run(Command::new("cp").arg("--sparse=always").arg(&live).arg(&image))?;
        mount.unmount()?;
        fs::remove_file(&live)?;
    } else {
        mount.unmount()?;
        fs::rename(&live, &image)?;
    }
    Ok(Outcome::Made(Made { dir, image }))
}

/// Makes a fresh image without mounting it.
fn filled_by_mke2fs(variant: &Variant, seed: u32, dir: TempDir) -> Result<Outcome> {
    let (tree, image) = (dir.path().join("tree"), dir.path().join("made.img"));
    fs::create_dir(&tree)?;
    write_into(&tree, seed, "write")?;
    fs::File::create(&image)?.set_len(LEN)?;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F"]).args(variant.mkfs).arg("-d").arg(&tree).arg(&image);
    Ok(match run(&mut mke2fs) {
        Ok(_) => Outcome::Made(Made { dir, image }),
        Err(error) => Outcome::Refused(format!("{error:#}")),
    })
}

impl State {
    /// Lists what of `workload.py` is run, in order.
    fn works(self) -> &'static [&'static str] {
        match self {
            Self::Fresh => &["write"],
            Self::Aged => &["write", "write", "write", "write"],
            Self::Full => &["write", "fill", "fill"],
            Self::Fragmented => &["write", "fragment"],
            Self::Dirty => &["write", "write"],
        }
    }
}

/// Makes a directory in memory where there is room: each fsync of the writers costs a real one
/// elsewhere.
fn directory() -> Result<TempDir> {
    let memory = fs::metadata("/dev/shm").and_then(|_| TempDir::new_in("/dev/shm"));
    Ok(memory.or_else(|_| TempDir::new())?)
}

fn work(mount: &Mount, seed: u32, what: &str) -> Result<()> {
    write_into(mount.dir(), seed, what)
}

fn write_into(dir: &Path, seed: u32, what: &str) -> Result<()> {
    let mut python = Command::new("python3");
    python.args(["-c", WORKLOAD]).arg(dir).arg(seed.to_string()).arg(what);
    run(&mut python).map(|_| ())
}
