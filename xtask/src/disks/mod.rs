//! Disks made without root: sgdisk, mke2fs and debugfs work on image files.

mod content;
mod fragmented;
mod noise;
mod system;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::env::BuildEnv;
use crate::process;

pub(crate) use content::{Content, Debian};
pub(crate) use noise::{Numbers, noise, row, shuffle, write_noise, write_rows};
pub(crate) use system::System;

/// Number of the partition that holds the system; partition 1 is swap.
pub(crate) const ROOT_PARTITION: u32 = 2;
const SWAP_OFFSET: u64 = 1 << 20;
const SWAP_BYTES: u64 = 64 << 20;
const ROOT_OFFSET: u64 = SWAP_OFFSET + SWAP_BYTES;
/// Room for the backup GPT behind the last partition, a whole alignment unit.
const TAIL_BYTES: u64 = 1 << 20;
/// What a disk has beside its root file system.
const EDGE_BYTES: u64 = ROOT_OFFSET + TAIL_BYTES;

/// A disk image with a GPT, swap and an ext4 root.
pub(crate) struct Disk {
    /// The image.
    pub(crate) path: PathBuf,
    /// Its file name, for the transcript.
    pub(crate) name: String,
}

impl Disk {
    /// The root file system inside an image (this one or a copy), in the notation of e2fsprogs.
    pub(crate) fn root_in(&self, image: &Path) -> String {
        format!("{}?offset={ROOT_OFFSET}", image.display())
    }

    /// Where the root file system begins, in bytes.
    pub(crate) const fn root_offset() -> u64 {
        ROOT_OFFSET
    }

    /// Copies the root file system into a file of its own.
    ///
    /// # Errors
    /// When dd fails.
    pub(crate) fn copy_root_to(&self, env: &BuildEnv, to: &Path) -> Result<()> {
        let bytes = fs::metadata(&self.path)?.len().saturating_sub(ROOT_OFFSET + TAIL_BYTES);
        let mut dd = env.command("dd");
        dd.arg(format!("if={}", self.path.display())).arg(format!("of={}", to.display()));
        dd.args(["bs=1M", "conv=sparse", "status=none"]);
        dd.arg(format!("skip={}", ROOT_OFFSET >> 20)).arg(format!("count={}", bytes >> 20));
        process::output(&mut dd).map(drop)
    }
}

/// Makes disks in a directory.
pub(crate) struct Maker<'e> {
    /// Where the tools come from.
    pub(crate) env: &'e BuildEnv,
    /// The directory.
    pub(crate) place: PathBuf,
}

impl Maker<'_> {
    /// A sparse image with a GPT, swap and an ext4 with the files of a directory, made with these options of mke2fs.
    ///
    /// # Errors
    /// When a tool fails.
    pub(crate) fn make(
        &self,
        name: &str,
        root_bytes: u64,
        from: Option<&Path>,
        options: &[&str],
    ) -> Result<Disk> {
        let root_mebibytes = root_bytes.div_ceil(1 << 20);
        let path = self.place.join(name);
        File::create(&path)?.set_len(ROOT_OFFSET + (root_mebibytes << 20) + TAIL_BYTES)?;
        let swap = format!("1:{}:+{}M", SWAP_OFFSET / 512, SWAP_BYTES >> 20);
        let root = format!("{ROOT_PARTITION}:{}:+{root_mebibytes}M", ROOT_OFFSET / 512);
        process::output(
            self.env
                // It ends with a sync of the whole machine, which no image file needs.
                .command("eatmydata")
                .arg("sgdisk")
                .args(["-n", &swap, "-t", "1:8200", "-n", &root, "-t", "2:8300"])
                .arg(&path),
        )?;
        self.make_swap(&path)?;
        let mut mke2fs = self.env.command("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-E", &format!("offset={ROOT_OFFSET}")]);
        mke2fs.args(options);
        if let Some(from) = from {
            mke2fs.arg("-d").arg(from);
        }
        process::output(mke2fs.arg(&path).arg(format!("{root_mebibytes}M")))?;
        Ok(Disk { path, name: name.to_owned() })
    }

    /// Only the first page of a swap area says that it is one.
    fn make_swap(&self, disk: &Path) -> Result<()> {
        let area = self.place.join("swap");
        File::create(&area)?.set_len(SWAP_BYTES)?;
        fs::set_permissions(&area, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        process::output(self.env.command("mkswap").arg(&area))?;
        let mut page = [0; 4096];
        File::open(&area)?.read_exact(&mut page)?;
        File::options().write(true).open(disk)?.write_all_at(&page, SWAP_OFFSET)?;
        fs::remove_file(area)?;
        Ok(())
    }

    /// Runs requests on the root file system. debugfs goes on after a failed one; e2fsck and the counts tell later.
    ///
    /// # Errors
    /// When debugfs cannot be started or fails as a whole.
    pub(crate) fn debugfs(&self, disk: &Disk, script: &str) -> Result<()> {
        let requests = self.place.join("requests");
        fs::write(&requests, script)?;
        let log = File::create(self.place.join("debugfs.log"))?;
        let mut debugfs = self.env.command("debugfs");
        debugfs.arg("-w").arg("-f").arg(&requests).arg(disk.root_in(&disk.path));
        let line = process::command_line(&debugfs);
        let status = debugfs
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .context("cannot start debugfs")?;
        ensure!(status.success(), "`{line}` failed: {status}");
        Ok(())
    }
}
