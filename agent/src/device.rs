//! The few calls to the kernel about block devices that no safe wrapper offers.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;

/// `_IO(0x12, 97)` of linux/fs.h.
const BLKFLSBUF: rustix::ioctl::Opcode = 0x1261;

/// Writes back and drops what the kernel holds of a block device (`BLKFLSBUF`).
///
/// Needs CAP_SYS_ADMIN; without it nothing happens, which is sound for a device that nobody
/// else writes.
pub(crate) fn drop_cached_blocks(device: &File) {
    // SAFETY: BLKFLSBUF takes no argument and touches no memory of this process.
    let _ =
        unsafe { rustix::ioctl::ioctl(device.as_fd(), rustix::ioctl::NoArg::<BLKFLSBUF>::new()) };
}

/// Returns the logical sector size of a block device, 512 where the kernel does not say.
pub(crate) fn sector_bytes(device: &File) -> u64 {
    rustix::fs::ioctl_blksszget(device).map_or(512, u64::from)
}

/// Opens a block device so that neither a mount nor another program of this kind gets it too
/// (`O_EXCL` without `O_CREAT`, open(2)).
pub(crate) fn open_exclusive(
    options: &mut std::fs::OpenOptions,
    path: &std::path::Path,
) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    options.custom_flags(libc::O_EXCL).open(path)
}
