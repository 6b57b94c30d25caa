//! A system's files, and the disks that are made of them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::content::{copy_some_files, debian_archive, unpack};
use super::noise::write_noise;
use super::{Content, Disk, EDGE_BYTES, Maker};
use crate::env::BuildEnv;
use crate::process;
use crate::transcript::timed;

/// The files that several machines have.
pub(crate) struct System<'e> {
    pub(super) maker: Maker<'e>,
    pub(super) tree: PathBuf,
    pub(super) tree_bytes: u64,
    content: Content,
}

impl<'e> System<'e> {
    /// Unpacks the cached Debian system (making it first where it is missing), or copies some files of this machine.
    ///
    /// # Errors
    /// When a tool fails.
    pub(crate) fn prepare(env: &'e BuildEnv, place: &Path, content: Content) -> Result<Self> {
        let tree = place.join("tree");
        fs::create_dir(&tree)?;
        match content {
            Content::SomeFiles => {
                timed("some files of this machine", || copy_some_files(env, &tree))?;
            }
            Content::Debian(debian) => {
                let archive = debian_archive(env, debian)?;
                timed("Debian unpacked", || unpack(env, &archive, &tree))?;
            }
        }
        let said = process::output(env.command("du").args(["-s", "-B1"]).arg(&tree))?;
        let said = String::from_utf8_lossy(&said);
        let tree_bytes = said.split_whitespace().next().context("du told nothing")?.parse()?;
        let maker = Maker { env, place: place.to_owned() };
        Ok(Self { maker, tree, tree_bytes, content })
    }

    /// A directory of the system with files worth looking at.
    pub(crate) fn sample_dir(&self) -> &'static str {
        match self.content {
            Content::SomeFiles => "usr/bin",
            Content::Debian(_) => "etc",
        }
    }

    /// Bytes that [`System::add_noise`] adds.
    pub(crate) fn noise_bytes(&self) -> u64 {
        match self.content {
            Content::SomeFiles => 96 << 20,
            Content::Debian(_) => 384 << 20,
        }
    }

    /// The first machine's disk: the files as mke2fs lays them out.
    ///
    /// # Errors
    /// When a tool fails.
    pub(crate) fn first_disk(&self, name: &str) -> Result<Disk> {
        let root_bytes = self.tree_bytes * 3 / 2 + self.noise_bytes() + (128 << 20);
        self.maker.make(name, root_bytes, Some(&self.tree), &[])
    }

    /// A disk of exactly so many bytes with the files as mke2fs lays them out, made with these options of it.
    ///
    /// # Errors
    /// When a tool fails, for one because the files do not fit.
    pub(crate) fn disk_of(&self, name: &str, disk_bytes: u64, options: &[&str]) -> Result<Disk> {
        self.maker.make(name, disk_bytes - EDGE_BYTES, Some(&self.tree), options)
    }

    /// What a day does: programs replaced, settings changed, a log grown, documents added and removed.
    ///
    /// # Errors
    /// When debugfs fails.
    pub(crate) fn next_day(&self, disk: &Disk) -> Result<()> {
        let mut script = String::new();
        let changed = self.maker.place.join("changed");
        fs::create_dir(&changed)?;
        for (number, path) in self.files_below("usr/bin", 24)?.iter().enumerate() {
            let mut content = fs::read(self.tree.join(path))?;
            // An upgrade: some bytes in the middle differ, and something is appended.
            let middle = content.len() / 2;
            content.splice(middle..middle, *b"upgraded");
            let new = changed.join(number.to_string());
            fs::write(&new, content)?;
            writeln!(script, "rm \"/{path}\"\nwrite {} \"/{path}\"", new.display())?;
        }
        for path in self.files_below("usr/share", 12)? {
            writeln!(script, "rm \"/{path}\"")?;
        }
        let document = changed.join("document");
        write_noise(&document, self.noise_bytes() / 32, 1)?;
        writeln!(script, "mkdir /srv2\nwrite {} /srv2/document", document.display())?;
        self.maker.debugfs(disk, &script)
    }

    /// Adds files that neither compress nor exist anywhere else.
    ///
    /// # Errors
    /// When debugfs fails.
    pub(crate) fn add_noise(&self, disk: &Disk) -> Result<()> {
        let noise = self.maker.place.join("noise");
        let mut script = "mkdir /noise\n".to_owned();
        let files = self.noise_bytes() / (32 << 20);
        for number in 0..files {
            let path = noise.with_extension(number.to_string());
            write_noise(&path, 32 << 20, 100 + number)?;
            writeln!(script, "write {} /noise/{number}", path.display())?;
        }
        self.maker.debugfs(disk, &script)
    }

    /// Some regular files of a directory that have but one name, in order of their names.
    fn files_below(&self, dir: &str, count: usize) -> Result<Vec<String>> {
        let listed =
            process::output(self.maker.env.command("find").arg(self.tree.join(dir)).args([
                "-type",
                "f",
                "-links",
                "1",
                "-readable",
                "-size",
                "+8k",
                "-print0",
            ]))?;
        let mut paths: Vec<String> = listed
            .split(|byte| *byte == 0)
            .filter_map(|path| {
                Path::new(std::str::from_utf8(path).ok()?).strip_prefix(&self.tree).ok()
            })
            .filter_map(|path| path.to_str().map(str::to_owned))
            .filter(|path| !path.is_empty() && !path.contains('"'))
            .collect();
        paths.sort();
        paths.truncate(count);
        ensure!(paths.len() == count, "only {} files in {dir}", paths.len());
        Ok(paths)
    }
}
