//! Extents: which bytes of the disk hold which part of a file.

use umbra_fsparse::{Codec, ExtentKind};

use crate::cbor::{Reader, Writer};
use crate::{ByteLen, ByteOffset, ByteRange, Error, Result};

/// A piece of a file's content and the bytes of the disk that hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Position in the file's content.
    pub logical: ByteOffset,
    /// The bytes of the DISK (not of the volume); never empty.
    pub disk: ByteRange,
    /// Data, unwritten or inline.
    pub kind: ExtentKind,
    /// How the bytes become content.
    pub codec: Codec,
    /// Which of the decoded bytes stand at `logical`; `None` for all, as always with
    /// [`Codec::None`]. The compressing codecs always say it, as their bytes do not.
    pub part: Option<ByteRange>,
}

impl Extent {
    /// Makes an extent of what a parser said of a volume that starts at `volume_start`.
    ///
    /// # Errors
    /// `Corrupt` where it is empty, leaves the disk's 2^64 bytes, or is compressed without saying
    /// which part it shows.
    pub fn on_disk(extent: &umbra_fsparse::Extent, volume_start: ByteOffset) -> Result<Self> {
        let start = extent.volume.start().0.checked_add(volume_start.0);
        let disk = start.and_then(|start| ByteRange::new(ByteOffset(start), extent.volume.len()));
        let disk = disk.ok_or_else(|| corrupt("an extent ends past 2^64"))?;
        let (kind, codec) = (extent.kind, extent.codec);
        let made = Self { logical: extent.logical, disk, kind, codec, part: None };
        made.check()?;
        Ok(made)
    }

    /// Returns the bytes of the content that it holds.
    pub fn content(&self) -> ByteRange {
        ByteRange::new(self.logical, self.len()).unwrap_or_default()
    }

    /// Returns the length of the content that it holds.
    pub fn len(&self) -> ByteLen {
        self.part.map_or(self.disk.len(), ByteRange::len)
    }

    /// Tells whether it holds nothing, which no valid extent does.
    pub fn is_empty(&self) -> bool {
        self.len().0 == 0
    }

    /// Checks everything that one extent can be checked for.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_empty() || self.disk.is_empty() {
            return Err(corrupt("an extent is empty"));
        }
        if ByteRange::new(self.logical, self.len()).is_none() {
            return Err(corrupt("an extent ends past 2^64 of its file"));
        }
        let plain = self.codec == Codec::None;
        if self.kind == ExtentKind::Unwritten && !plain {
            return Err(corrupt("an unwritten extent has a codec"));
        }
        let says_part = self.part.is_some();
        let good = match self.codec {
            Codec::None => !says_part,
            // As many bytes as on the disk, so that a part beyond them is none.
            Codec::Jbd2Escaped => {
                let shown = self.part.is_none_or(|part| part.end().0 <= self.disk.len().0);
                shown && self.normal() == *self
            }
            Codec::Zlib | Codec::Lzo | Codec::Zstd | Codec::Lznt1 => says_part,
        };
        if !good {
            return Err(corrupt("an extent says which part it shows and should not, or not"));
        }
        Ok(())
    }

    /// Leaves the part out where it is everything and may be left out.
    fn normal(mut self) -> Self {
        let whole = ByteRange::new(ByteOffset(0), self.disk.len());
        if self.codec == Codec::Jbd2Escaped && self.part == whole {
            self.part = None;
        }
        self
    }

    /// Cuts it at a position of the content strictly inside it.
    pub(super) fn cut(self, at: ByteOffset) -> Result<(Self, Self)> {
        let head = at.0.checked_sub(self.logical.0).filter(|head| *head < self.len().0);
        let head = head.ok_or_else(|| corrupt("an extent is cut outside"))?;
        let (mut left, mut right) = (self, Self { logical: at, ..self });
        let cut = |range: ByteRange| {
            let middle = ByteOffset(range.start().0.saturating_add(head));
            let before = ByteRange::between(range.start(), middle).unwrap_or_default();
            (before, ByteRange::between(middle, range.end()).unwrap_or_default())
        };
        if self.codec == Codec::None {
            (left.disk, right.disk) = cut(self.disk);
        } else {
            let whole = ByteRange::new(ByteOffset(0), self.disk.len()).unwrap_or_default();
            let (before, after) = cut(self.part.unwrap_or(whole));
            (left.part, right.part) = (Some(before), Some(after));
        }
        Ok((left.normal(), right.normal()))
    }

    /// Returns both as one extent, where `next` continues this one in the file and on the disk.
    pub(super) fn joined(self, next: Self) -> Option<Self> {
        let same = self.kind == next.kind && self.codec == next.codec;
        if !same || self.content().end() != next.logical {
            return None;
        }
        if self.codec == Codec::None {
            let disk = join(self.disk, next.disk)?;
            return Some(Self { disk, ..self });
        }
        let part = join(self.part?, next.part?)?;
        (self.disk == next.disk).then(|| Self { part: Some(part), ..self }.normal())
    }

    fn write(&self, writer: &mut Writer, gap: u64) {
        let code = code(self.kind, self.codec);
        writer.array(match (code, self.part) {
            (0, None) => 3,
            (_, None) => 4,
            (_, Some(_)) => 6,
        });
        writer.uint(gap);
        writer.uint(self.disk.start().0);
        writer.uint(self.disk.len().0);
        if code != 0 || self.part.is_some() {
            writer.uint(code);
        }
        if let Some(part) = self.part {
            writer.uint(part.start().0);
            writer.uint(part.len().0);
        }
    }

    /// Reads an extent whose gap counts from `end`.
    fn read(reader: &mut Reader<'_>, end: u64) -> Result<Self> {
        let items = reader.array(6)?;
        let logical = end.checked_add(reader.uint()?);
        let logical = logical.ok_or_else(|| reader.corrupt("an extent starts past 2^64"))?;
        let disk = read_range(reader)?;
        let (kind, codec) = if items > 3 { read_code(reader)? } else { Default::default() };
        let part = match items {
            3 | 4 => None,
            6 => Some(read_range(reader)?),
            _ => return Err(reader.corrupt("an extent has the wrong number of items")),
        };
        let kind = kind_of(kind).ok_or_else(|| reader.unknown(kind))?;
        let extent = Self { logical: ByteOffset(logical), disk, kind, codec, part };
        extent.check()?;
        Ok(extent)
    }
}

fn read_range(reader: &mut Reader<'_>) -> Result<ByteRange> {
    let (start, len) = (ByteOffset(reader.uint()?), ByteLen(reader.uint()?));
    ByteRange::new(start, len).ok_or_else(|| reader.corrupt("an extent ends past 2^64"))
}

fn join(left: ByteRange, right: ByteRange) -> Option<ByteRange> {
    let adjacent = left.end() == right.start();
    adjacent.then(|| ByteRange::between(left.start(), right.end())).flatten()
}

/// Numbers kind and codec: `kind | codec << 2`, 0 for data without a codec.
fn code(kind: ExtentKind, codec: Codec) -> u64 {
    let kind = match kind {
        ExtentKind::Data => 0,
        ExtentKind::Unwritten => 1,
        ExtentKind::Inline => 2,
    };
    let codec = match codec {
        Codec::None => 0,
        Codec::Zlib => 1,
        Codec::Lzo => 2,
        Codec::Zstd => 3,
        Codec::Lznt1 => 4,
        Codec::Jbd2Escaped => 5,
    };
    kind | (codec << 2)
}

fn kind_of(number: u64) -> Option<ExtentKind> {
    match number {
        0 => Some(ExtentKind::Data),
        1 => Some(ExtentKind::Unwritten),
        2 => Some(ExtentKind::Inline),
        _ => None,
    }
}

/// Reads what [`code`] wrote; the kind is still a number.
fn read_code(reader: &mut Reader<'_>) -> Result<(u64, Codec)> {
    let code = reader.uint()?;
    let codec = match code >> 2 {
        0 => Codec::None,
        1 => Codec::Zlib,
        2 => Codec::Lzo,
        3 => Codec::Zstd,
        4 => Codec::Lznt1,
        5 => Codec::Jbd2Escaped,
        _ => return Err(reader.unknown(code)),
    };
    Ok((code & 3, codec))
}

/// Joins extents that continue each other in the file and on the disk: the form in which the
/// overlay keeps them, so that equal files have equal records.
///
/// # Errors
/// `Corrupt` where they are not sorted by `logical`, overlap there, or one is not valid.
pub fn maximal(extents: &[Extent]) -> Result<Vec<Extent>> {
    let mut joined: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        extent.check()?;
        let Some(last) = joined.last_mut() else {
            joined.push(*extent);
            continue;
        };
        if extent.logical < last.content().end() {
            return Err(corrupt("extents overlap, or are out of order"));
        }
        match last.joined(*extent) {
            Some(both) => *last = both,
            None => joined.push(*extent),
        }
    }
    Ok(joined)
}

/// Writes extents as items of an array whose head the caller wrote; gaps count from `start`.
pub(super) fn write_list(writer: &mut Writer, extents: &[Extent], start: ByteOffset) {
    let mut end = start.0;
    for extent in extents {
        extent.write(writer, extent.logical.0.saturating_sub(end));
        end = extent.content().end().0;
    }
}

/// Reads `count` extents; they are valid, sorted and maximal.
pub(super) fn read_list(
    reader: &mut Reader<'_>,
    count: usize,
    start: ByteOffset,
) -> Result<Vec<Extent>> {
    // Grows with what was read: `count` is only a claim.
    let mut extents: Vec<Extent> = Vec::new();
    let mut end = start.0;
    for _ in 0..count {
        let extent = Extent::read(reader, end)?;
        end = extent.content().end().0;
        if extents.last().is_some_and(|last| last.joined(extent).is_some()) {
            return Err(reader.corrupt("an extent continues the one before it"));
        }
        extents.push(extent);
    }
    Ok(extents)
}

fn corrupt(reason: &'static str) -> Error {
    Error::Corrupt { what: "extent", at: 0, reason }
}
