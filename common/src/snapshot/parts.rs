//! The parts of a manifest, each with its encoding.

use std::collections::BTreeMap;

use crate::cbor::{Reader, Record, Writer, expect_array};
use crate::chunker::{self, ChunkParams};
use crate::{ByteLen, ByteOffset, ByteRange, Reference, Result};

use super::{MAX_TEXT_BYTES, checked, read_labels, read_name};

/// What the manifest calls itself in errors.
pub(super) const WHAT: &str = "manifest";

/// The disk, as the agent describes it. All but name and length are labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskLabel {
    /// Its name: 1 to 64 of `[A-Za-z0-9._-]`.
    pub name: String,
    /// Its length.
    pub length: ByteLen,
    /// Size of its logical sectors in bytes, 0 where the source has none (a stream).
    pub sector_bytes: u32,
    /// Path of the source, other bytes than UTF-8 replaced.
    pub source: String,
    /// GUID of its GPT, bytes as on the disk.
    pub guid: Option<[u8; 16]>,
    /// Further labels (model, serial, ...).
    pub labels: BTreeMap<String, String>,
}

/// The numbers that decide where chunks end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Number of cutter and zero rule together ([`ChunkParams::ALGORITHM`]).
    pub algorithm: u32,
    /// `[min, avg, max]` in bytes, for files and residue.
    pub parsed: [u32; 3],
    /// `[min, avg, max]` in bytes, for volumes without a parse.
    pub unparsed: [u32; 3],
    /// Zero rule: side of the grid in bytes.
    pub zero_block: u64,
    /// Zero rule: shortest run in bytes.
    pub zero_run: u64,
}

impl Parameters {
    /// Returns those that this program chunks with.
    pub fn current() -> Self {
        Self {
            algorithm: ChunkParams::ALGORITHM,
            parsed: ChunkParams::PARSED.sizes(),
            unparsed: ChunkParams::UNPARSED.sizes(),
            zero_block: chunker::ZERO_BLOCK,
            zero_run: chunker::ZERO_RUN,
        }
    }
}

/// How far a volume was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// All of it.
    Full,
    /// A part; what is left is residue.
    Partial {
        /// Why not all.
        reason: String,
    },
    /// Nothing: kept in disk order.
    None {
        /// Why not.
        reason: String,
    },
}

/// A volume of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// `part/2`, `lvm/vg0/root`, or `disk` where the file system covers the whole disk.
    pub path: String,
    /// The file system's name, or `unknown`.
    pub kind: String,
    /// The file system's label, empty where it has none.
    pub label: String,
    /// The file system's UUID in its usual text form, empty where it has none.
    pub uuid: String,
    /// The bytes of the disk that it has.
    pub range: ByteRange,
    /// How far it was understood.
    pub parsed: Parsed,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Sum of the sizes of its regular files, in bytes.
    pub bytes: u64,
    /// Root of its overlay, where there is one.
    pub overlay: Option<Reference>,
}

/// Bytes of the disk by what the map says of them, and what else was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Length of the disk; the sum of the next five.
    pub bytes_total: u64,
    /// Bytes in chunks.
    pub bytes_data: u64,
    /// Bytes that are zero.
    pub bytes_zero: u64,
    /// Bytes of free space left out.
    pub bytes_free: u64,
    /// Bytes that the device did not give.
    pub bytes_unreadable: u64,
    /// Bytes left out on request.
    pub bytes_excluded: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Regular files.
    pub files: u64,
    /// Files whose content was read.
    pub files_read: u64,
    /// Files whose map runs were taken from the base.
    pub files_inherited: u64,
    /// Windows whose hash was taken from the base.
    pub windows_inherited: u64,
    /// Bytes of the disk that the files taken from the base have.
    pub bytes_inherited: u64,
    /// Unchanged files that were read all the same, to see whether they are.
    pub files_reread: u64,
    /// Bytes of the disk that those have.
    pub bytes_reread: u64,
    /// Files that turned out to be others than their metadata said; everything was read then.
    pub files_differing: u64,
    /// Snapshots since everything was read; 0 where it was for this one.
    pub runs_since_full: u64,
}

/// What becomes of free space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FreePolicy {
    /// It is data.
    #[default]
    Keep,
    /// It is left out.
    Skip,
}

/// How sound the reading was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Nobody could write.
    Offline,
    /// Read from a snapshot of the volume manager.
    Lvm,
    /// Read while the file systems were frozen.
    Freeze,
    /// Read live, what changed read again while frozen.
    Precopy,
    /// Read by no sound method.
    Fuzzy,
}

/// How the disk was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// How sound that is.
    pub consistency: Consistency,
    /// In words, for people.
    pub text: String,
}

impl FreePolicy {
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Keep => 0,
            Self::Skip => 1,
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.uint()? {
            0 => Ok(Self::Keep),
            1 => Ok(Self::Skip),
            number => Err(reader.unknown(number)),
        }
    }
}

impl Consistency {
    /// Returns its name, as commands show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Lvm => "lvm",
            Self::Freeze => "freeze",
            Self::Precopy => "precopy",
            Self::Fuzzy => "fuzzy",
        }
    }

    pub(super) fn number(self) -> u64 {
        match self {
            Self::Offline => 0,
            Self::Lvm => 1,
            Self::Freeze => 2,
            Self::Precopy => 3,
            Self::Fuzzy => 4,
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.uint()? {
            0 => Ok(Self::Offline),
            1 => Ok(Self::Lvm),
            2 => Ok(Self::Freeze),
            3 => Ok(Self::Precopy),
            4 => Ok(Self::Fuzzy),
            number => Err(reader.unknown(number)),
        }
    }
}

impl DiskLabel {
    pub(super) fn write(&self, writer: &mut Writer) -> Result<()> {
        checked(writer, WHAT, |record| {
            record.name(0, &self.name);
            record.record.uint(1, self.length.0);
            record.record.uint(2, self.sector_bytes);
            record.text(3, &self.source);
            if let Some(guid) = &self.guid {
                record.record.field(4).bytes(guid);
            }
            record.labels(5, &self.labels);
        })
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut fields = reader.record()?;
        let disk = Self {
            name: read_name(&mut fields, reader, 0)?,
            length: ByteLen(fields.uint(reader, 1)?),
            sector_bytes: fields.uint(reader, 2)?,
            source: fields.text(reader, 3, MAX_TEXT_BYTES)?,
            guid: fields.optional(reader, 4, Reader::exactly)?,
            labels: read_labels(&mut fields, reader, 5)?,
        };
        fields.finish(reader)?;
        Ok(disk)
    }
}

impl Parameters {
    pub(super) fn write(&self, writer: &mut Writer) {
        let sizes = |writer: &mut Writer, sizes: [u32; 3]| {
            writer.array(3);
            sizes.into_iter().for_each(|size| writer.uint(size));
        };
        writer.array(5);
        writer.uint(self.algorithm);
        sizes(writer, self.parsed);
        sizes(writer, self.unparsed);
        writer.uint(self.zero_block);
        writer.uint(self.zero_run);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let sizes = |reader: &mut Reader<'_>| {
            expect_array(reader, 3)?;
            Ok([reader.narrow()?, reader.narrow()?, reader.narrow()?])
        };
        expect_array(reader, 5)?;
        Ok(Self {
            algorithm: reader.narrow()?,
            parsed: sizes(reader)?,
            unparsed: sizes(reader)?,
            zero_block: reader.uint()?,
            zero_run: reader.uint()?,
        })
    }
}

impl Volume {
    /// Writes it; `overlay` is the number of the overlay's root in the reference list.
    pub(super) fn write(&self, writer: &mut Writer, overlay: Option<u32>) -> Result<()> {
        let (number, reason) = match &self.parsed {
            Parsed::Full => (0_u32, ""),
            Parsed::Partial { reason } => (1, reason.as_str()),
            Parsed::None { reason } => (2, reason.as_str()),
        };
        checked(writer, WHAT, |record| {
            record.text(0, &self.path);
            record.text(1, &self.kind);
            record.text(2, &self.label);
            record.text(3, &self.uuid);
            record.record.uint(4, self.range.start().0);
            record.record.uint(5, self.range.len().0);
            record.record.uint(6, number);
            record.text(7, reason);
            record.record.uint(8, self.files);
            record.record.uint(9, self.dirs);
            record.record.uint(10, self.bytes);
            if let Some(overlay) = overlay {
                record.record.field(11).uint(overlay);
            }
        })
    }

    /// Reads it; `child` finds a reference by its number in the list.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        child: impl Fn(u32) -> Result<Reference>,
    ) -> Result<Self> {
        let mut fields = reader.record()?;
        let path = fields.text(reader, 0, MAX_TEXT_BYTES)?;
        let kind = fields.text(reader, 1, MAX_TEXT_BYTES)?;
        let label = fields.text(reader, 2, MAX_TEXT_BYTES)?;
        let uuid = fields.text(reader, 3, MAX_TEXT_BYTES)?;
        let (start, len) = (fields.uint(reader, 4)?, fields.uint(reader, 5)?);
        let range = ByteRange::new(ByteOffset(start), ByteLen(len));
        let range = range.ok_or_else(|| reader.corrupt("a volume ends past 2^64"))?;
        let number = fields.uint(reader, 6)?;
        let reason = fields.text(reader, 7, MAX_TEXT_BYTES)?;
        let parsed = match number {
            0_u64 => Parsed::Full,
            1 => Parsed::Partial { reason },
            2 => Parsed::None { reason },
            number => return Err(reader.unknown(number)),
        };
        let (files, dirs) = (fields.uint(reader, 8)?, fields.uint(reader, 9)?);
        let bytes = fields.uint(reader, 10)?;
        let overlay = fields.optional(reader, 11, Reader::narrow)?.map(child).transpose()?;
        fields.finish(reader)?;
        Ok(Self { path, kind, label, uuid, range, parsed, files, dirs, bytes, overlay })
    }
}

impl Counts {
    pub(super) fn write(&self, record: &mut Record) {
        self.each().into_iter().zip(0_u64..).for_each(|(count, key)| record.uint(key, count));
    }

    fn each(&self) -> [u64; 16] {
        [
            self.bytes_total,
            self.bytes_data,
            self.bytes_zero,
            self.bytes_free,
            self.bytes_unreadable,
            self.bytes_excluded,
            self.chunks,
            self.files,
            self.files_read,
            self.files_inherited,
            self.windows_inherited,
            self.bytes_inherited,
            self.files_reread,
            self.bytes_reread,
            self.files_differing,
            self.runs_since_full,
        ]
    }

    /// Tells whether the bytes of the disk add up to `length`.
    pub(super) fn adds_up(&self, length: ByteLen) -> bool {
        let parts = [
            self.bytes_data,
            self.bytes_zero,
            self.bytes_free,
            self.bytes_unreadable,
            self.bytes_excluded,
        ];
        let sum = parts.into_iter().try_fold(0_u64, u64::checked_add);
        sum == Some(self.bytes_total) && self.bytes_total == length.0
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut fields = reader.record()?;
        let counts = Self {
            bytes_total: fields.uint(reader, 0)?,
            bytes_data: fields.uint(reader, 1)?,
            bytes_zero: fields.uint(reader, 2)?,
            bytes_free: fields.uint(reader, 3)?,
            bytes_unreadable: fields.uint(reader, 4)?,
            bytes_excluded: fields.uint(reader, 5)?,
            chunks: fields.uint(reader, 6)?,
            files: fields.uint(reader, 7)?,
            files_read: fields.uint(reader, 8)?,
            files_inherited: fields.uint(reader, 9)?,
            windows_inherited: fields.uint(reader, 10)?,
            bytes_inherited: fields.uint(reader, 11)?,
            files_reread: fields.uint(reader, 12)?,
            bytes_reread: fields.uint(reader, 13)?,
            files_differing: fields.uint(reader, 14)?,
            runs_since_full: fields.uint(reader, 15)?,
        };
        fields.finish(reader)?;
        Ok(counts)
    }
}
