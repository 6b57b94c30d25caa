//! A small writer of journals, with checksums of its own (bit by bit), so that the reader is not
//! compared with itself. It writes what `fs/jbd2/commit.c` and `fs/jbd2/revoke.c` of Linux write.

use std::{vec, vec::Vec};

use crate::{ByteLen, ByteOffset, ByteRange, ReadAt, ReadError, jbd2::JournalGeometry};

pub(super) const BLOCK: usize = 1024;
pub(super) const FS_BLOCKS: u64 = 200;
/// Where the journal stands, in blocks: two pieces.
const PIECES: [(u64, u64); 2] = [(150, 20), (100, 12)];
pub(super) const JOURNAL_BLOCKS: u32 = 32;
pub(super) const UUID: [u8; 16] = *b"0123456789abcdef";
pub(super) const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sums {
    None,
    V1,
    V2,
    V3,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) version: u32,
    pub(super) sums: Sums,
    pub(super) wide: bool,
    pub(super) async_commit: bool,
    pub(super) fast_commit_blocks: u32,
    pub(super) first_tid: u32,
    /// Where the log begins.
    pub(super) start: u32,
}

pub(super) const PLAIN: Options = Options {
    version: 2,
    sums: Sums::None,
    wide: false,
    async_commit: false,
    fast_commit_blocks: 0,
    first_tid: 7,
    start: 1,
};

/// The bytes of a volume.
pub(super) struct Volume<'a>(pub(super) &'a [u8]);

impl ReadAt for Volume<'_> {
    fn len(&self) -> ByteLen {
        ReadAt::len(self.0)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_at(offset, buf)
    }
}

/// An image of a file system and its journal.
pub(super) struct Writer {
    pub(super) image: Vec<u8>,
    options: Options,
    next: u32,
    pub(super) tid: u32,
    pub(super) seconds: u64,
    sum: u32,
}

impl Writer {
    pub(super) fn new(options: Options) -> Self {
        let mut image = Vec::new();
        for block in 0..FS_BLOCKS {
            image.extend(home(block));
        }
        let mut writer = Self {
            image,
            options,
            next: options.start,
            tid: options.first_tid,
            seconds: 1000,
            sum: u32::MAX,
        };
        writer.superblock(options.start);
        writer
    }

    /// Writes the superblock; a `start` of 0 says that the log is empty.
    pub(super) fn superblock(&mut self, start: u32) {
        let o = self.options;
        let mut block = [0; BLOCK];
        put(&mut block, 0, &MAGIC);
        put(&mut block, 4, &(2 + o.version).to_be_bytes());
        put(&mut block, 0xc, &1024_u32.to_be_bytes());
        put(&mut block, 0x10, &JOURNAL_BLOCKS.to_be_bytes());
        put(&mut block, 0x14, &1_u32.to_be_bytes());
        put(&mut block, 0x18, &o.first_tid.to_be_bytes());
        put(&mut block, 0x1c, &start.to_be_bytes());
        if o.version == 2 {
            let incompat = 1
                | u32::from(o.wide) << 1
                | u32::from(o.async_commit) << 2
                | u32::from(o.sums == Sums::V2) << 3
                | u32::from(o.sums == Sums::V3) << 4
                | u32::from(o.fast_commit_blocks > 0) << 5;
            put(&mut block, 0x24, &u32::from(o.sums == Sums::V1).to_be_bytes());
            put(&mut block, 0x28, &incompat.to_be_bytes());
            put(&mut block, 0x30, &UUID);
            put(&mut block, 0x40, &1_u32.to_be_bytes());
            put(&mut block, 0x54, &o.fast_commit_blocks.to_be_bytes());
            if self.has_tails() {
                block[0x50] = 4;
                let sum = crc32c(u32::MAX, &block);
                put(&mut block, 0xfc, &sum.to_be_bytes());
            }
        }
        self.write(0, &block);
    }

    /// Writes one descriptor block and the copies after it.
    pub(super) fn copies(&mut self, copies: &[(u64, Vec<u8>)]) {
        let tail = if self.has_tails() { 4 } else { 0 };
        let mut block = self.header(1);
        let mut at = 12;
        let mut data = Vec::new();
        for (index, (number, content)) in copies.iter().enumerate() {
            let mut content = content.clone();
            let escaped = content.starts_with(&MAGIC);
            if escaped {
                put(&mut content, 0, &[0; 4]);
            }
            let flags = u16::from(escaped)
                | if index == 0 { 0 } else { 2 }
                | if index + 1 == copies.len() { 8 } else { 0 };
            let sum = crc32c(crc32c(self.seed(), &self.tid.to_be_bytes()), &content);
            let mut tag = Vec::from((*number as u32).to_be_bytes());
            match self.options.sums {
                Sums::V3 => tag.extend(u32::from(flags).to_be_bytes()),
                Sums::V2 => tag.extend([(sum as u16).to_be_bytes(), flags.to_be_bytes()].concat()),
                _ => tag.extend([[0; 2], flags.to_be_bytes()].concat()),
            }
            if self.options.wide || self.options.sums == Sums::V3 {
                tag.extend(((number >> 32) as u32).to_be_bytes());
            }
            match self.options.sums {
                Sums::V3 => tag.extend(sum.to_be_bytes()),
                Sums::V2 => tag.extend([0; 2]),
                _ => {}
            }
            put(&mut block, at, &tag);
            at += tag.len();
            if index == 0 {
                put(&mut block, at, &UUID);
                at += 16;
            }
            assert!(at <= BLOCK - tail, "too many copies for one descriptor block");
            data.push(content);
        }
        self.append_with_tail(block);
        for content in data {
            self.sum = crc32_be(self.sum, &content);
            self.append(&content);
        }
    }

    /// Writes a revoke block.
    pub(super) fn revoke(&mut self, blocks: &[u64]) {
        let mut block = self.header(5);
        let mut at = 16;
        for number in blocks {
            if self.options.wide {
                put(&mut block, at, &number.to_be_bytes());
                at += 8;
            } else {
                put(&mut block, at, &(*number as u32).to_be_bytes());
                at += 4;
            }
        }
        put(&mut block, 12, &(at as u32).to_be_bytes());
        // Revoke blocks are no part of the checksum of version 1.
        let sum = self.sum;
        self.append_with_tail(block);
        self.sum = sum;
    }

    /// Writes a commit block and begins the next transaction; returns its place in the image.
    pub(super) fn commit(&mut self) -> usize {
        let mut block = self.header(2);
        put(&mut block, 48, &self.seconds.to_be_bytes());
        match self.options.sums {
            Sums::None => {}
            Sums::V1 => {
                put(&mut block, 12, &[1, 4]);
                put(&mut block, 16, &self.sum.to_be_bytes());
            }
            Sums::V2 | Sums::V3 => {
                let sum = crc32c(self.seed(), &block);
                put(&mut block, 16, &sum.to_be_bytes());
            }
        }
        let at = self.place(self.next);
        self.append(&block);
        self.tid = self.tid.wrapping_add(1);
        self.seconds += 1;
        self.sum = u32::MAX;
        at
    }

    /// Writes fast-commit blocks: `tags` (tag, value) between a head and a tail. Where the next
    /// tag and another after it do not fit a block, padding fills it to its last byte.
    pub(super) fn fast_commit(&mut self, tid: u32, tags: &[(u16, Vec<u8>)]) {
        let mut bytes = tlv(9, &[&[0; 4], tid.to_le_bytes().as_slice()].concat());
        for (tag, value) in tags {
            pad(&mut bytes, 4 + value.len());
            bytes.extend(tlv(*tag, value));
        }
        pad(&mut bytes, 12);
        let tail = tlv(8, &[tid.to_le_bytes(), [0; 4]].concat());
        bytes.extend(&tail[..8]);
        // Its length says that it fills the block.
        let at = bytes.len() - 6;
        put(&mut bytes, at, &((BLOCK - at % BLOCK - 2) as u16).to_le_bytes());
        let sum = crc32c(0, &bytes);
        bytes.extend(sum.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let first = JOURNAL_BLOCKS - self.options.fast_commit_blocks + 1;
        for (block, bytes) in (first..).zip(bytes.chunks(BLOCK)) {
            self.write(block, bytes);
        }
    }

    /// Returns where a block of the journal stands in the image.
    pub(super) fn place(&self, block: u32) -> usize {
        let [(first, len), (second, _)] = PIECES;
        let number = u64::from(block);
        let block = if number < len { first + number } else { second + number - len };
        block as usize * BLOCK
    }

    /// Writes a block of the journal.
    pub(super) fn write(&mut self, block: u32, bytes: &[u8]) {
        let at = self.place(block);
        put(&mut self.image, at, bytes);
    }

    fn has_tails(&self) -> bool {
        matches!(self.options.sums, Sums::V2 | Sums::V3)
    }

    fn seed(&self) -> u32 {
        crc32c(u32::MAX, &UUID)
    }

    fn header(&self, kind: u32) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        put(&mut block, 0, &MAGIC);
        put(&mut block, 4, &kind.to_be_bytes());
        put(&mut block, 8, &self.tid.to_be_bytes());
        block
    }

    fn append_with_tail(&mut self, mut block: [u8; BLOCK]) {
        if self.has_tails() {
            let sum = crc32c(self.seed(), &block);
            put(&mut block, BLOCK - 4, &sum.to_be_bytes());
        }
        self.sum = crc32_be(self.sum, &block);
        self.append(&block);
    }

    /// Writes the next block of the log.
    pub(super) fn append(&mut self, block: &[u8]) {
        self.write(self.next, block);
        self.next += 1;
        if self.next == JOURNAL_BLOCKS - self.options.fast_commit_blocks {
            self.next = 1;
        }
    }
}

/// Returns what stands in a block of the file system before any replay.
pub(super) fn home(block: u64) -> Vec<u8> {
    vec![block as u8; BLOCK]
}

/// Returns a block that no other place holds.
pub(super) fn content(seed: u8) -> Vec<u8> {
    (0..BLOCK).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

/// Returns a block that the journal must escape.
pub(super) fn magic_content(seed: u8) -> Vec<u8> {
    let mut block = content(seed);
    put(&mut block, 0, &MAGIC);
    block
}

pub(super) fn pieces() -> Vec<ByteRange> {
    let piece = |(first, len): (u64, u64)| {
        let start = ByteOffset(first * BLOCK as u64);
        ByteRange::new(start, ByteLen(len * BLOCK as u64)).unwrap()
    };
    PIECES.map(piece).to_vec()
}

pub(super) fn geometry(blocks: &[ByteRange]) -> JournalGeometry<'_> {
    JournalGeometry { block_size: BLOCK as u32, fs_blocks: FS_BLOCKS, blocks, fs_uuid: UUID }
}

fn tlv(tag: u16, value: &[u8]) -> Vec<u8> {
    [&tag.to_le_bytes(), &(value.len() as u16).to_le_bytes(), value].concat()
}

/// SOURCE: `ext4_fc_reserve_space` of Linux 6.2.
fn pad(bytes: &mut Vec<u8>, len: usize) {
    let remaining = BLOCK - 4 - bytes.len() % BLOCK;
    if len > remaining {
        bytes.extend(tlv(7, &vec![0; remaining]));
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ ((sum & 1) * 0x82f6_3b78))
    })
}

fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte) << 24, |sum, _| (sum << 1) ^ ((sum >> 31) * 0x04c1_1db7))
    })
}
