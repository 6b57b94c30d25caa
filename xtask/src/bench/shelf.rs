//! The disks that are measured, made when they are first asked for and kept in one directory.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::changes::{Pattern, change};
use super::crowd;
use crate::disks::{Content, Debian, Disk, Maker, System, write_noise, write_rows};
use crate::env::BuildEnv;
use crate::process;
use crate::transcript::timed;

/// A machine on which programs are written.
const WORKSTATION: Debian = Debian {
    archive_name: "debian-bookworm-workstation-1.tar.zst",
    packages: "nano,git,less,vim-tiny,openssh-client,procps,iproute2,python3,linux-image-cloud-amd64,\
               gcc,libc6-dev,make,man-db,locales,tmux,curl",
    cost: "a minute or two and 200 MB of downloads",
};

/// A machine that serves.
const SERVER: Debian = Debian {
    archive_name: "debian-bookworm-server-1.tar.zst",
    packages: "nginx-light,postgresql,redis-server,openssh-server,procps,iproute2,python3,\
               linux-image-cloud-amd64,rsync,php-fpm",
    cost: "a minute or two and 230 MB of downloads",
};

const DISK_BYTES: u64 = 2 << 30;
const LARGE_BYTES: u64 = 16 << 30;
/// Noise on the large disk beside the system, so that it is as full as the one of 2 GiB.
const LARGE_NOISE_FILES: u64 = 144;
const NOISE_FILE_BYTES: u64 = 32 << 20;
const VM_BYTES: u64 = 4 << 30;
/// The database inside the virtual machine; its bytes compress to about a half.
const DATABASE_BYTES: u64 = 2560 << 20;
/// Where it stands there.
const DATABASE: &str = "/database";
const SPARSE_BYTES: u64 = 1 << 40;

/// Whether the images of real disks have holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeros {
    /// What was never written is a hole.
    Holes,
    /// It is written out, as on a device.
    Written,
}

/// The disks.
pub(super) struct Shelf<'e> {
    env: &'e BuildEnv,
    dir: PathBuf,
    zeros: Zeros,
    workstation: OnceCell<System<'e>>,
}

impl<'e> Shelf<'e> {
    /// The disks of this directory; half-made ones are thrown away.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub(super) fn new(env: &'e BuildEnv, dir: PathBuf, zeros: Zeros) -> Result<Self> {
        crate::env::make_world_readable_dir(&dir)?;
        for leftover in ["making", "workstation", "server"] {
            remove(&dir.join(leftover))?;
        }
        Ok(Self { env, dir, zeros, workstation: OnceCell::new() })
    }

    /// Whether the images have holes.
    pub(super) fn zeros(&self) -> Zeros {
        self.zeros
    }

    /// 2 GiB with the workstation's system.
    ///
    /// # Errors
    /// When a tool fails; so do all others.
    pub(super) fn system(&self) -> Result<Disk> {
        self.once("system.img", |name| {
            self.written(self.workstation()?.disk_of(name, DISK_BYTES, &[])?)
        })
    }

    /// The same disk a day later.
    pub(super) fn next_day(&self) -> Result<Disk> {
        let today = self.system()?;
        self.once("next-day.img", |name| {
            let disk = self.copy(&today, name)?;
            self.workstation()?.next_day(&disk)?;
            self.written(disk)
        })
    }

    /// The workstation's files in another order, in many pieces.
    pub(super) fn fragmented(&self) -> Result<Disk> {
        self.once("fragmented.img", |name| self.written(self.workstation()?.fragmented_disk(name)?))
    }

    /// 2 GiB with the server's system.
    pub(super) fn server(&self) -> Result<Disk> {
        self.once("server.img", |name| {
            let server = self.unpacked("server", &SERVER)?;
            self.written(server.disk_of(name, DISK_BYTES, &[])?)
        })
    }

    /// 16 GiB with the workstation's system, and as full as the disk of 2 GiB.
    pub(super) fn large(&self) -> Result<Disk> {
        self.once("large.img", |name| {
            let disk = self.workstation()?.disk_of(name, LARGE_BYTES, &[])?;
            let maker = self.maker();
            maker.debugfs(&disk, "mkdir /noise\n")?;
            for number in 0..LARGE_NOISE_FILES {
                let path = self.dir.join("making/noise");
                write_noise(&path, NOISE_FILE_BYTES, 1000 + number)?;
                let request = format!("write {} /noise/{number}\n", path.display());
                maker.debugfs(&disk, &request)?;
            }
            self.written(disk)
        })
    }

    /// A virtual machine's disk of 4 GiB; the same after 1 % of it was written at random places of the database inside,
    /// in pages of 4 KiB; the same after another 1 % in pieces of 4 MiB.
    pub(super) fn vm(&self) -> Result<[Disk; 3]> {
        let first = self.once("vm.img", |name| {
            let disk = self.workstation()?.disk_of(name, VM_BYTES, &[])?;
            let database = self.dir.join("making/database");
            write_rows(&database, DATABASE_BYTES, 1)?;
            let request = format!("write {} {DATABASE}\n", database.display());
            self.maker().debugfs(&disk, &request)?;
            Ok(disk)
        })?;
        let changed = |before: &Disk, name: &str, pattern: Pattern| {
            self.once(name, |name| {
                let disk = self.copy(before, name)?;
                change(self.env, &disk, DATABASE, pattern, VM_BYTES / 100)?;
                Ok(disk)
            })
        };
        let random = changed(&first, "vm-random.img", Pattern::Random)?;
        let clustered = changed(&random, "vm-clustered.img", Pattern::Clustered)?;
        Ok([first, random, clustered])
    }

    /// Two disks with the same 1 GiB of files: one of 2 GiB and a sparse image of 1 TiB.
    pub(super) fn sparse(&self) -> Result<[Disk; 2]> {
        let with_noise = |name: &str, bytes: u64, options: &[&str]| {
            self.once(name, |name| {
                let disk = self.workstation()?.disk_of(name, bytes, options)?;
                self.workstation()?.add_noise(&disk)?;
                Ok(disk)
            })
        };
        Ok([
            with_noise("filled.img", DISK_BYTES, &[])?,
            with_noise("sparse.img", SPARSE_BYTES, &["-J", "size=64"])?,
        ])
    }

    /// A disk with a million files, and among them one of 1 MiB.
    pub(super) fn crowded(&self) -> Result<Disk> {
        self.once("crowded.img", |name| crowd::make(&self.maker(), name))
    }

    /// A disk that is there already, or is made now: in a directory of its own, so that none is ever half made.
    fn once(&self, name: &str, make: impl FnOnce(&str) -> Result<Disk>) -> Result<Disk> {
        let path = self.dir.join(name);
        if !path.exists() {
            let making = self.dir.join("making");
            crate::env::make_world_readable_dir(&making)?;
            let made = timed(&format!("made {name}"), || make(name))?;
            fs::rename(&made.path, &path).with_context(|| made.path.display().to_string())?;
            remove(&making)?;
        }
        Ok(Disk { path, name: name.to_owned() })
    }

    fn maker(&self) -> Maker<'e> {
        Maker { env: self.env, place: self.dir.join("making") }
    }

    fn workstation(&self) -> Result<&System<'e>> {
        if let Some(system) = self.workstation.get() {
            return Ok(system);
        }
        let system = self.unpacked("workstation", &WORKSTATION)?;
        Ok(self.workstation.get_or_init(|| system))
    }

    fn unpacked(&self, name: &str, debian: &'static Debian) -> Result<System<'e>> {
        let place = self.dir.join(name);
        crate::env::make_world_readable_dir(&place)?;
        System::prepare(self.env, &place, Content::Debian(debian))
    }

    fn copy(&self, disk: &Disk, name: &str) -> Result<Disk> {
        let path = self.dir.join("making").join(name);
        let mut copy = self.env.command("cp");
        process::output(copy.arg("--sparse=always").arg(&disk.path).arg(&path))?;
        Ok(Disk { path, name: name.to_owned() })
    }

    /// The same disk, its zeros written out where that was asked for.
    fn written(&self, disk: Disk) -> Result<Disk> {
        if self.zeros == Zeros::Written {
            let written = disk.path.with_extension("written");
            let mut copy = self.env.command("cp");
            process::output(copy.arg("--sparse=never").arg(&disk.path).arg(&written))?;
            fs::rename(&written, &disk.path)?;
        }
        Ok(disk)
    }
}

/// Removes a directory that may be missing.
///
/// # Errors
/// When it is there and stays.
pub(super) fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}
