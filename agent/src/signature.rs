//! Names file systems and containers by their magic bytes, for people and for warnings only.

use umbra_fsparse::{ByteOffset, ReadAt};

/// Offset, magic bytes, name. SOURCE: util-linux libblkid/src/superblocks.
const SIGNATURES: &[(u64, &[u8], &str)] = &[
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (0, b"XFSB", "xfs"),
    (0, b"hsqs", "squashfs"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0x218, b"LVM2 001", "lvm2"),
    (0x18, b"LVM2 001", "lvm2"),
    (4086, b"SWAPSPACE2", "swap"),
    (0x52, b"FAT32   ", "fat32"),
    (0x36, b"FAT16   ", "fat16"),
    (0x36, b"FAT12   ", "fat12"),
    (0x8001, b"CD001", "iso9660"),
];

/// Returns the name of what the magic bytes say, or `None`.
pub fn identify(volume: &dyn ReadAt) -> Option<&'static str> {
    let mut buf = [0_u8; 16];
    SIGNATURES.iter().find_map(|&(at, magic, name)| {
        let found = buf.get_mut(..magic.len())?;
        volume.read_at(ByteOffset(at), found).ok()?;
        (*found == *magic).then_some(name)
    })
}
