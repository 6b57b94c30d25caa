//! Marks of others than an ext file system on a volume that looks like one.
//!
//! What is given a partition afterwards does not always overwrite the old superblock: ZFS leaves
//! the first 8 KiB alone, a virtual machine's partition table takes one sector. The old bitmaps
//! then call free what is somebody's data. So free space is left out only where nothing else
//! has left a mark, however old: a mark too many costs space, one too few costs data.
//!
//! SOURCE: util-linux libblkid/src/superblocks; OpenZFS `include/sys/vdev_impl.h` (labels,
//! uberblocks); Linux `drivers/md/md.c`.

use umbra_fsparse::partition::{self, PartitionType, TableKind};
use umbra_fsparse::{ByteOffset, ReadAt};

/// Offset, magic bytes, name.
const MARKS: &[(u64, &[u8], &str)] = &[
    (0, b"XFSB", "XFS"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0x4000, b"SKUL\xba\xbe", "LUKS"),
    (24, b"LVM2 001", "LVM"),
    (512 + 24, b"LVM2 001", "LVM"),
    (1536 + 24, b"LVM2 001", "LVM"),
    (0, b"\xfc\x4e\x2b\xa9", "an md array"),
    (4096, b"\xfc\x4e\x2b\xa9", "an md array"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (4086, b"SWAPSPACE2", "swap"),
    (4086, b"SWAP-SPACE", "swap"),
    (65526, b"SWAPSPACE2", "swap"),
    (4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
    (3, b"NTFS    ", "NTFS"),
    (3, b"EXFAT   ", "exFAT"),
    (3, b"-FVE-FS-", "BitLocker"),
    (0x52, b"FAT32   ", "FAT"),
    (0x36, b"FAT16   ", "FAT"),
    (0x36, b"FAT12   ", "FAT"),
    (32, b"NXSB", "APFS"),
    (32, b"ORCLDISK", "Oracle ASM"),
    (0, b"hsqs", "squashfs"),
    (0, b"bluestore block device", "Ceph"),
    (0, b"dmvdo001", "VDO"),
    (0, b"integrt\0", "dm-integrity"),
    (0, b"verity\0\0", "dm-verity"),
    (0, b"SnAp", "an LVM snapshot"),
    (516, b"!Stra0tis", "Stratis"),
    (0x8001, b"CD001", "ISO 9660"),
    (0x8001, b"BEA01", "UDF"),
    (0x8000, b"JFS1", "JFS"),
    (0x1_0034, b"ReIsEr", "ReiserFS"),
    (0x1_0000, b"\x01\x16\x19\x70", "GFS2"),
    (0x10_0000, b"\x0d\xd0\x01\xc0", "VMFS"),
];
const MARK_BYTES: usize = 24;

/// The magic number of an md array, little-endian.
const MD_MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];

/// A ZFS label is 256 KiB long; its second half holds uberblocks, each a multiple of 1 KiB.
const ZFS_LABEL_BYTES: u64 = 256 << 10;
const ZFS_UBERBLOCKS_AT: u64 = 128 << 10;
const ZFS_UBERBLOCK_STEP: usize = 1 << 10;
const ZFS_MAGIC: u64 = 0x00ba_b10c;

/// Types of partitions that hold no ext: swap, LVM, md, ZFS, LUKS, BSD.
const FOREIGN_MBR: &[u8] = &[0x82, 0x8e, 0xa5, 0xa6, 0xa9, 0xbf, 0xfd];
const FOREIGN_GPT: &[[u8; 16]] = &[
    // 0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, swap.
    [0x6d, 0xfd, 0x57, 0x06, 0xab, 0xa4, 0xc4, 0x43, 0x84, 0xe5, 9, 0x33, 0xc8, 0x4b, 0x4f, 0x4f],
    // E6D6D379-F507-44C2-A23C-238F2A3DF928, LVM.
    [0x79, 0xd3, 0xd6, 0xe6, 7, 0xf5, 0xc2, 0x44, 0xa2, 0x3c, 0x23, 0x8f, 0x2a, 0x3d, 0xf9, 0x28],
    // A19D880F-05FC-4D3B-A006-743F0F84911E, md.
    [0x0f, 0x88, 0x9d, 0xa1, 0xfc, 5, 0x3b, 0x4d, 0xa0, 6, 0x74, 0x3f, 0x0f, 0x84, 0x91, 0x1e],
    // 6A898CC3-1DD2-11B2-99A6-080020736631, ZFS.
    [0xc3, 0x8c, 0x89, 0x6a, 0xd2, 0x1d, 0xb2, 0x11, 0x99, 0xa6, 8, 0, 0x20, 0x73, 0x66, 0x31],
    // CA7D7CCB-63ED-4C53-861C-1742536059CC, LUKS.
    [
        0xcb, 0x7c, 0x7d, 0xca, 0xed, 0x63, 0x53, 0x4c, 0x86, 0x1c, 0x17, 0x42, 0x53, 0x60, 0x59,
        0xcc,
    ],
];

/// Returns whose partition it is by its type, where that is none of a file system's.
pub(crate) fn by_type(type_id: PartitionType) -> Option<&'static str> {
    let foreign = match type_id {
        PartitionType::Mbr(byte) => FOREIGN_MBR.contains(&byte),
        PartitionType::Gpt(guid) => FOREIGN_GPT.contains(&guid),
    };
    foreign.then_some("something else, as its partition's type says")
}

/// Returns what else left a mark on the volume, or where that could not be told.
pub(crate) fn of(volume: &dyn ReadAt) -> Option<&'static str> {
    let mut buf = [0_u8; MARK_BYTES];
    for &(at, magic, name) in MARKS {
        match has(volume, at, magic, &mut buf) {
            Some(true) => return Some(name),
            Some(false) => {}
            None => return Some("something that cannot be read"),
        }
    }
    // A virtual machine's disk; one volume over the whole disk has none.
    if partition::read(volume).kind != TableKind::None {
        return Some("a partition table");
    }
    for at in md_places(volume.len().0) {
        if has(volume, at, &MD_MAGIC, &mut buf) != Some(false) {
            return Some("an md array");
        }
    }
    zfs(volume)
}

/// Tells whether the bytes stand there; false past the end, `None` where that cannot be read.
fn has(volume: &dyn ReadAt, at: u64, magic: &[u8], buf: &mut [u8]) -> Option<bool> {
    let found = buf.get_mut(..magic.len())?;
    if at.saturating_add(magic.len() as u64) > volume.len().0 {
        return Some(false);
    }
    volume.read_at(ByteOffset(at), found).ok()?;
    Some(found == magic)
}

/// Where md superblocks of versions 0.90 and 1.0 stand, near the end.
fn md_places(len: u64) -> impl Iterator<Item = u64> {
    let old = (len & !0xffff).checked_sub(0x1_0000);
    let new = (len / 512).checked_sub(16).map(|sector| (sector & !7) * 512);
    [old, new].into_iter().flatten()
}

/// Looks for uberblocks in the four labels: two at the start, two at the end.
fn zfs(volume: &dyn ReadAt) -> Option<&'static str> {
    let end = volume.len().0 / ZFS_LABEL_BYTES * ZFS_LABEL_BYTES;
    let labels = [Some(0), Some(ZFS_LABEL_BYTES)]
        .into_iter()
        .chain([end.checked_sub(2 * ZFS_LABEL_BYTES), end.checked_sub(ZFS_LABEL_BYTES)]);
    let mut buf = vec![0_u8; usize::try_from(ZFS_LABEL_BYTES - ZFS_UBERBLOCKS_AT).unwrap_or(0)];
    for label in labels.flatten() {
        let at = label + ZFS_UBERBLOCKS_AT;
        if at.saturating_add(buf.len() as u64) > volume.len().0 {
            continue;
        }
        if volume.read_at(ByteOffset(at), &mut buf).is_err() {
            return Some("something that cannot be read");
        }
        let magic = |block: &[u8]| block.first_chunk::<8>().map(|first| u64::from_le_bytes(*first));
        let mut magics = buf.chunks(ZFS_UBERBLOCK_STEP).filter_map(magic);
        if magics.any(|magic| magic == ZFS_MAGIC || magic.swap_bytes() == ZFS_MAGIC) {
            return Some("ZFS");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    const LEN: usize = 8 << 20;

    struct Image(Vec<u8>);

    impl ReadAt for Image {
        fn len(&self) -> umbra_fsparse::ByteLen {
            umbra_fsparse::ByteLen(self.0.len() as u64)
        }

        fn read_at(
            &self,
            offset: ByteOffset,
            buf: &mut [u8],
        ) -> Result<(), umbra_fsparse::ReadError> {
            self.0[..].read_at(offset, buf)
        }
    }

    fn with(at: usize, bytes: &[u8]) -> Image {
        let mut volume = vec![0_u8; LEN + 12_345];
        volume[at..at + bytes.len()].copy_from_slice(bytes);
        Image(volume)
    }

    #[test]
    fn an_ext_alone_has_no_rivals_and_others_have() {
        assert_eq!(of(&with(1080, b"\x53\xef")), None);
        for &(at, magic, name) in MARKS {
            assert_eq!(of(&with(usize::try_from(at).unwrap(), magic)), Some(name));
        }
        let uberblock = ZFS_MAGIC.to_le_bytes();
        let swapped = ZFS_MAGIC.to_be_bytes();
        let end = LEN;
        for label in [0, 256 << 10, end - (512 << 10), end - (256 << 10)] {
            for (slot, bytes) in [(0, uberblock), (4 << 10, swapped), (127 << 10, uberblock)] {
                let at = label + (128 << 10) + slot;
                assert_eq!(of(&with(at, &bytes)), Some("ZFS"), "{label} {slot}");
            }
        }
        for at in md_places((LEN + 12_345) as u64) {
            assert!(at as usize + 8192 > LEN - 65536);
            assert_eq!(of(&with(usize::try_from(at).unwrap(), &MD_MAGIC)), Some("an md array"));
        }
    }

    #[test]
    fn a_partition_table_inside_is_a_rival() {
        let mut volume = with(1080, b"\x53\xef");
        volume.0[446..462].copy_from_slice(&[0, 0, 2, 0, 7, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]);
        volume.0[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(of(&volume), Some("a partition table"));
    }

    /// What mke2fs makes is nobody else's, whatever stood there before.
    #[test]
    fn what_mke2fs_makes_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ext.img");
        std::fs::write(&path, vec![0xff_u8; LEN]).unwrap();
        let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&path).status();
        if made.is_ok_and(|status| status.success()) {
            assert_eq!(of(&Image(std::fs::read(&path).unwrap())), None);
        }
        assert_eq!(by_type(PartitionType::Mbr(0x83)), None);
        assert!(by_type(PartitionType::Mbr(0x8e)).is_some());
        assert!(by_type(PartitionType::Gpt(FOREIGN_GPT[3])).is_some());
    }
}
