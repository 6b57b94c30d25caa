//! What is done to a sound disk, from a seed.

use umbra_fsparse::testing::Mender;

use super::*;
use crate::monitor::Quiet;
use crate::survey::{Options, ParsePolicy};

/// An ext on the disk, and where what describes it stands.
struct Target {
    range: std::ops::Range<usize>,
    mender: Mender,
    /// Inodes with a name, and where the blocks of directories stand in the volume.
    inodes: Vec<u64>,
    directories: Vec<(u64, u64)>,
    /// Every block of metadata: first byte in the volume.
    blocks: Vec<usize>,
    journal: Option<u64>,
}

/// What can be damaged on a disk.
pub(super) struct Plan {
    targets: Vec<Target>,
    has_table: bool,
}

/// Values that numbers of a format like least.
const HOSTILE: &[u64] = &[
    0,
    1,
    2,
    3,
    7,
    11,
    12,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0xffff_fffe,
    8192,
    8193,
    1024,
    4096,
];

impl Plan {
    /// Looks at the sound disk with the parser: the damage is to hit what it reads.
    pub(super) fn of(disk: &[u8]) -> Self {
        let memory = MemoryDisk::new(disk.to_vec());
        let options = Options { parse: ParsePolicy::Parse, free: FreePolicy::Keep };
        let survey = crate::survey::survey(&memory, options, &Quiet::default());
        let targets = survey.volumes.iter().filter_map(|volume| {
            let at = |offset: ByteOffset| usize::try_from(offset.0).unwrap();
            let range = at(volume.range.start())..at(volume.range.end());
            let tree = volume.tree.as_ref()?;
            Some(Target::of(&disk[range.clone()], range, tree))
        });
        Self { targets: targets.collect(), has_table: survey.table.kind != TableKind::None }
    }

    /// Damages a copy of the disk in one to four ways and tells which.
    pub(super) fn damage(&self, disk: &[u8], random: &mut Random) -> (Vec<u8>, String) {
        let mut bytes = disk.to_vec();
        let mut told = Vec::new();
        for _ in 0..=random.below(4) {
            let target = match self.targets.len() as u64 {
                0 => None,
                count => self.targets.get(random.below(count) as usize),
            };
            let table = self.has_table && random.below(4) == 0;
            told.push(match target {
                Some(target) if !table => target.damage(&mut bytes, random),
                _ if self.has_table => damage_table(&mut bytes, random),
                _ => truncate(&mut bytes, random),
            });
        }
        (bytes, told.join("+"))
    }
}

fn hostile(random: &mut Random, near: u64) -> u64 {
    match random.below(4) {
        0 => near.wrapping_add(random.below(5)).wrapping_sub(2),
        1 => random.next(),
        _ => HOSTILE[random.below(HOSTILE.len() as u64) as usize],
    }
}

/// Writes the low bytes of a number, as many as the place and `len` allow.
fn put(bytes: &mut [u8], at: u64, value: u64, len: usize) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    for (place, byte) in bytes.iter_mut().skip(at).take(len).zip(value.to_le_bytes()) {
        *place = byte;
    }
}

fn truncate(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    let len = random.below(bytes.len() as u64 + 1) as usize;
    let len = if random.below(2) == 0 { len / 4096 * 4096 } else { len };
    // Nothing at all is refused as a source, long before it is parsed.
    bytes.truncate(len.max(512));
    "truncated".into()
}

/// Damages the partition tables at both ends.
fn damage_table(bytes: &mut [u8], random: &mut Random) -> String {
    let sector = if bytes[4096..].starts_with(b"EFI PART") { 4096 } else { 512 };
    let kind = random.below(3);
    match kind {
        0 => {
            // An entry of the MBR, its type or a number.
            let at = 446 + random.below(4) * 16 + [4, 8, 12][random.below(3) as usize];
            put(bytes, at, hostile(random, 34), 4);
        }
        1 => {
            let all = (bytes.len() as u64).min(34 * sector);
            for _ in 0..1 + random.below(40) {
                put(bytes, random.below(all), random.next(), 1);
            }
        }
        _ => {
            // A field of the GPT's header, or of its first entries.
            let header = sector;
            match random.below(2) {
                0 => put(bytes, header + 8 + random.below(84) / 4 * 4, hostile(random, 34), 8),
                _ => put(bytes, 2 * sector + random.below(512) / 8 * 8, hostile(random, 34), 8),
            }
            mend_gpt(bytes, sector as usize);
        }
    }
    format!("table-{kind}")
}

/// Makes both checksums of the first GPT right.
fn mend_gpt(bytes: &mut [u8], sector: usize) {
    let Some(header) = bytes.get(sector..2 * sector) else { return };
    let number = |at: usize| u32::from_le_bytes(*header[at..].first_chunk().unwrap()) as usize;
    let (len, entries, count, entry) = (number(12), number(72), number(80), number(84));
    let start = entries.saturating_mul(sector);
    let end = count.checked_mul(entry).and_then(|len| start.checked_add(len));
    if let Some(list) = end.and_then(|end| bytes.get(start..end)) {
        let sum = crc32(list);
        put(bytes, sector as u64 + 88, sum.into(), 4);
    }
    put(bytes, sector as u64 + 16, 0, 4);
    if let Some(header) = sector.checked_add(len).and_then(|end| bytes.get(sector..end)) {
        let sum = crc32(header);
        put(bytes, sector as u64 + 16, sum.into(), 4);
    }
}

/// CRC-32 as GPT uses it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

impl Target {
    fn of(volume: &[u8], range: std::ops::Range<usize>, tree: &FileTree) -> Self {
        let mender = Mender::of(volume).unwrap();
        let size = mender.block_size;
        let of_type = |file_type: FileType| {
            tree.inodes().iter().filter(move |inode| inode.file_type == file_type)
        };
        let directories: Vec<(u64, u64)> = of_type(FileType::Dir)
            .flat_map(|inode| inode.extents.iter().map(|e| (inode.number.0, e)))
            .filter(|(_, extent)| extent.kind == ExtentKind::Data)
            .map(|(number, extent)| (number, extent.volume.start().0))
            .collect();
        let mut blocks: Vec<u64> = directories.iter().map(|(_, at)| at / size).collect();
        for group in 0..mender.groups {
            blocks.extend(mender.descriptor_at(group).map(|at| at / size));
            for low in [0, 4] {
                blocks.extend(mender.block_at(volume, group, low).map(|at| at / size));
            }
            let table = mender.block_at(volume, group, 8).map(|at| at / size);
            let len = (mender.inodes_per_group * mender.inode_size).div_ceil(size).min(8);
            blocks.extend(table.into_iter().flat_map(|first| first..first + len));
        }
        blocks.push(1024 / size);
        blocks.sort_unstable();
        blocks.dedup();
        let fits = |block: &u64| ((block + 1) * size) as usize <= volume.len();
        let blocks = blocks.into_iter().filter(fits).map(|block| (block * size) as usize);
        let inodes = tree.inodes().iter().map(|inode| inode.number.0).collect();
        let journal = mender.inode_at(volume, 8).map(|at| at as usize + 0x28).and_then(|map| {
            let word = |at: usize| {
                let bytes: &[u8; 4] = volume.get(at..)?.first_chunk()?;
                Some(u64::from(u32::from_le_bytes(*bytes)))
            };
            let first = if word(map)? & 0xffff == 0xf30a { word(map + 20)? } else { word(map)? };
            let at = first * size;
            volume.get(at as usize..)?.starts_with(&[0xc0, 0x3b, 0x39, 0x98]).then_some(at)
        });
        Self { range, mender, inodes, directories, blocks: blocks.collect(), journal }
    }

    fn damage(&self, disk: &mut Vec<u8>, random: &mut Random) -> String {
        let kind = random.below(14);
        if kind == 0 {
            return truncate(disk, random);
        }
        // What was cut off before is not damaged further.
        let Some(volume) = disk.get_mut(self.range.clone()) else { return "gone".into() };
        let (blocks, size) = (&self.blocks, self.mender.block_size as usize);
        let mut block = || blocks[random.below(blocks.len() as u64) as usize];
        let (one, other) = (block(), block());
        match kind {
            1 | 2 => {
                for _ in 0..1 + random.below(64) {
                    put(volume, one as u64 + random.below(size as u64), random.next(), 1);
                }
                "noise".into()
            }
            3 => {
                volume[one..one + size].fill(0);
                "zeroed".into()
            }
            4 => {
                volume.copy_within(one..one + size, other);
                "doubled".into()
            }
            5 => {
                let copy = volume[other..other + size].to_vec();
                volume.copy_within(one..one + size, other);
                volume[one..one + size].copy_from_slice(&copy);
                "swapped".into()
            }
            _ => self.forge(kind, volume, random),
        }
    }

    /// Changes a field and makes the checksums right. A structure that can no longer be found,
    /// after earlier damage, is left alone.
    fn forge(&self, kind: u64, volume: &mut [u8], random: &mut Random) -> String {
        let mender = &self.mender;
        let blocks = volume.len() as u64 / mender.block_size;
        let number = self.inodes[random.below(self.inodes.len() as u64) as usize];
        let group = random.below(mender.groups.clamp(1, 4096));
        let told;
        let forged = match kind {
            6 => {
                told = "superblock";
                put(volume, 1024 + random.below(0x150) / 2 * 2, hostile(random, blocks), 4);
                mender.superblock(volume)
            }
            7 => {
                told = "descriptor";
                let at = mender.descriptor_at(group);
                at.and_then(|at| {
                    put(volume, at + random.below(32) / 2 * 2, hostile(random, blocks), 4);
                    mender.group(volume, group)
                })
            }
            8 | 9 => {
                told = "inode";
                mender.inode_at(volume, number).and_then(|at| {
                    for _ in 0..=random.below(2) {
                        put(volume, at + random.below(128) / 2 * 2, hostile(random, blocks), 4);
                    }
                    mender.inode(volume, number)
                })
            }
            10 => {
                told = "extents";
                mender.inode_at(volume, number).and_then(|at| {
                    put(volume, at + 0x28 + random.below(30) * 2, hostile(random, blocks / 2), 4);
                    mender.inode(volume, number)
                })
            }
            11 => {
                told = "dirents";
                let (number, at) =
                    self.directories[random.below(self.directories.len() as u64) as usize];
                let within = random.below(mender.block_size - 12) / 4 * 4;
                put(volume, at + within, hostile(random, 12), 2);
                mender.directory_block(volume, at, number)
            }
            12 => {
                told = "crossed";
                let other = self.inodes[random.below(self.inodes.len() as u64) as usize];
                self.cross(volume, number, other)
            }
            _ if random.below(2) == 0 && self.journal.is_some() => {
                told = "journal";
                self.forge_journal(volume, random)
            }
            _ => {
                told = "bitmap";
                self.forge_bitmap(volume, group, random)
            }
        };
        if forged.is_some() { told.into() } else { format!("no-{told}") }
    }

    /// Lets an inode claim what another one has.
    fn cross(&self, volume: &mut [u8], from: u64, to: u64) -> Option<()> {
        let at = [from, to].map(|number| self.mender.inode_at(volume, number));
        let [from, to_at] = [at[0]? as usize, at[1]? as usize];
        // Flags and block map; the size stays.
        volume.get(from..from + 128).and(volume.get(to_at..to_at + 128))?;
        volume.copy_within(from + 0x20..from + 0x24, to_at + 0x20);
        volume.copy_within(from + 0x28..from + 0x64, to_at + 0x28);
        self.mender.inode(volume, to)
    }

    /// Says that the journal holds changes, whatever it holds, with fields to the forger's taste.
    fn forge_journal(&self, volume: &mut [u8], random: &mut Random) -> Option<()> {
        let at = self.journal?;
        for _ in 0..random.below(3) {
            let value = hostile(random, 1).swap_bytes() >> 32;
            put(volume, at + random.below(0x50) / 4 * 4, value, 4);
        }
        // The log begins with its first block, with the number of the transaction there.
        let first = at as usize + self.mender.block_size as usize;
        let sequence: [u8; 4] = *volume.get(first + 8..)?.first_chunk()?;
        put(volume, at + 0x18, u32::from_le_bytes(sequence).into(), 4);
        put(volume, at + 0x1c, u64::from(1_u32.swap_bytes()), 4);
        self.mender.journal_superblock(volume, at)?;
        let features = *volume.get(1024 + 0x60)? | 4;
        put(volume, 1024 + 0x60, features.into(), 1);
        self.mender.superblock(volume)
    }

    /// Says that blocks are free, with the count that goes with it.
    fn forge_bitmap(&self, volume: &mut [u8], group: u64, random: &mut Random) -> Option<()> {
        let bitmap = self.mender.block_at(volume, group, 0)? as usize;
        let bits = volume.get_mut(bitmap..bitmap + self.mender.block_size as usize)?;
        let mut freed = 0;
        for _ in 0..1 + random.below(200) {
            let bit = random.below(bits.len() as u64 * 8) as usize;
            freed += u64::from(bits[bit / 8] >> (bit % 8) & 1);
            bits[bit / 8] &= !(1 << (bit % 8));
        }
        let count = self.mender.descriptor_at(group)? + 0xc;
        let old: [u8; 2] = *volume.get(count as usize..)?.first_chunk()?;
        put(volume, count, u64::from(u16::from_le_bytes(old)) + freed, 2);
        self.mender.bitmaps(volume, group)
    }
}
