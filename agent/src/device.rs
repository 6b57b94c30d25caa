//! The few calls to the kernel about block devices that no safe wrapper offers.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use umbra_common::ByteRange;

/// `_IO(0x12, 97)` of linux/fs.h.
const BLKFLSBUF: rustix::ioctl::Opcode = 0x1261;
/// `_IO(0x12, 95)` of linux/fs.h.
const BLKRRPART: rustix::ioctl::Opcode = 0x125f;
/// The byte that QEMU locks in an image that it may write: `RAW_LOCK_PERM_BASE` (100) and the
/// number of the bit `BLK_PERM_WRITE`. SOURCE: block/file-posix.c, include/block/block-common.h.
const EMULATOR_WRITES: libc::off_t = 101;
/// The number of `cachestat` in asm-generic/unistd.h and the tables that number new calls alike
/// (x86-64, aarch64, riscv, powerpc, s390).
const CACHESTAT: libc::c_long = 451;
/// How often a device is asked for that another program may hold for a moment only.
const CLAIM_TRIES: u32 = 4;
const CLAIM_PAUSE: Duration = Duration::from_millis(50);

/// Writes back and drops what the kernel holds of a block device (`BLKFLSBUF`).
///
/// Needs CAP_SYS_ADMIN; without it nothing happens, which is sound for a device that nobody
/// else writes.
pub(crate) fn drop_cached_blocks(device: &File) {
    // SAFETY: BLKFLSBUF takes no argument and touches no memory of this process.
    let _ =
        unsafe { rustix::ioctl::ioctl(device.as_fd(), rustix::ioctl::NoArg::<BLKFLSBUF>::new()) };
}

/// Has the kernel read the partition table of a whole disk again (`BLKRRPART`).
///
/// # Errors
/// EBUSY where a partition is in use, EINVAL for what has no partitions, EACCES without
/// CAP_SYS_ADMIN.
pub(crate) fn reread_partitions(device: &File) -> rustix::io::Result<()> {
    // SAFETY: BLKRRPART takes no argument and touches no memory of this process.
    unsafe { rustix::ioctl::ioctl(device.as_fd(), rustix::ioctl::NoArg::<BLKRRPART>::new()) }
}

/// Returns the logical sector size of a block device, 512 where the kernel does not say.
pub(crate) fn sector_bytes(device: &File) -> u64 {
    rustix::fs::ioctl_blksszget(device).map_or(512, u64::from)
}

/// Opens a block device so that neither a mount nor another program of this kind gets it too
/// (`O_EXCL` without `O_CREAT`, open(2)).
pub(crate) fn open_exclusive(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let mut tries = 1;
    loop {
        match options.custom_flags(libc::O_EXCL).open(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < CLAIM_TRIES => {
                tries += 1;
                std::thread::sleep(CLAIM_PAUSE);
            }
            other => return other,
        }
    }
}

/// Has the kernel begin to write what it holds of a file, and does not wait for it. A failure is
/// not asked for here: the next sync tells it.
pub(crate) fn begin_write_out(file: &File) {
    // SAFETY: sync_file_range takes numbers alone. Length 0 is to the end of the file.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Opens an open file once more, for reading past the system's cache; `None` where that is not
/// known to work. A block device does it; a regular file on a file system that does it without
/// falling back to its cache or to other bytes.
pub(crate) fn open_direct(file: &File, is_device: bool) -> Option<File> {
    let is_known = || {
        let found = rustix::fs::fstatfs(file).ok()?;
        let known = [libc::EXT4_SUPER_MAGIC, libc::XFS_SUPER_MAGIC, libc::BTRFS_SUPER_MAGIC];
        known.iter().any(|&magic| i128::from(magic) == i128::from(found.f_type)).then_some(())
    };
    if !is_device {
        is_known()?;
    }
    // The same inode, whatever has become of its name.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok()
}

/// Returns how many bytes of a file the system has in its cache, 0 where it does not say
/// (`cachestat`, Linux 6.5).
pub(crate) fn cached_bytes(file: &File, range: ByteRange) -> u64 {
    #[repr(C)]
    struct Range {
        offset: u64,
        len: u64,
    }
    /// `struct cachestat` of linux/mman.h, in pages.
    #[repr(C)]
    #[derive(Default)]
    struct Counts {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    let asked = Range { offset: range.start().0, len: range.len().0 };
    let mut counts = Counts::default();
    // SAFETY: cachestat reads the one struct and writes the other, which both live until it
    // returns; a kernel without it answers ENOSYS.
    let answer = unsafe {
        libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const asked, &raw mut counts, 0_u32)
    };
    // SAFETY: sysconf only looks a number up.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = u64::try_from(page).unwrap_or_default();
    if answer == 0 { counts.cached.saturating_mul(page) } else { 0 }
}

/// Tells whether somebody has a block device for himself: a mount in any namespace, a pool, a
/// mapped device, a program.
pub(crate) fn is_claimed(path: &Path) -> bool {
    let opened = open_exclusive(OpenOptions::new().read(true), path);
    opened.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
}

/// Tells whether QEMU has an image open for a virtual machine that may write it.
pub(crate) fn is_written_by_emulator(image: &File) -> bool {
    // SAFETY: an all-zero flock is a valid value of this plain C struct.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = EMULATOR_WRITES;
    lock.l_len = 1;
    // SAFETY: F_OFD_GETLK reads and writes the one flock, which lives until the call returns.
    let asked = unsafe { libc::fcntl(image.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    asked == 0 && lock.l_type != F_UNLCK
}

// libc has these as the type of an argument, and struct flock has them as a short.
#[allow(clippy::cast_possible_truncation, clippy::unnecessary_cast)]
const F_WRLCK: libc::c_short = libc::F_WRLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation, clippy::unnecessary_cast)]
const F_UNLCK: libc::c_short = libc::F_UNLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation, clippy::unnecessary_cast)]
const SEEK_SET: libc::c_short = libc::SEEK_SET as libc::c_short;
