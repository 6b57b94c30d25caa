//! Deterministic CBOR (RFC 8949, 4.2.1): the one encoding of every stored object.
//!
//! [`Writer`] cannot write anything else: heads are the shortest, lengths definite, the keys of a
//! [`Record`] ascending. [`Reader`] refuses anything else, and compares every claimed length with
//! what is left of the input before its caller can allocate or loop by it. Only these types are
//! used: unsigned and negative integers, byte and text strings, arrays, maps with unsigned keys,
//! booleans.

use std::convert::Infallible;

use minicbor::{Decoder, Encoder};
use umbra_fsparse::Timestamp;

use crate::{Error, Result};

/// Writes deterministic CBOR into memory.
#[derive(Debug)]
pub struct Writer {
    encoder: Encoder<Vec<u8>>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes the result of writing to memory, which cannot fail.
fn written<T>(result: Result<T, minicbor::encode::Error<Infallible>>) {
    debug_assert!(result.is_ok(), "memory takes every byte");
}

impl Writer {
    /// Makes an empty writer.
    pub fn new() -> Self {
        Self { encoder: Encoder::new(Vec::new()) }
    }

    /// Writes an unsigned integer.
    pub fn uint(&mut self, value: impl Into<u64>) {
        written(self.encoder.u64(value.into()));
    }

    /// Writes an integer that may be negative.
    pub fn int(&mut self, value: i64) {
        written(self.encoder.i64(value));
    }

    /// Writes a byte string.
    pub fn bytes(&mut self, value: &[u8]) {
        written(self.encoder.bytes(value));
    }

    /// Writes a text string.
    pub fn text(&mut self, value: &str) {
        written(self.encoder.str(value));
    }

    /// Writes a boolean.
    pub fn bool(&mut self, value: bool) {
        written(self.encoder.bool(value));
    }

    /// Writes the head of an array; its `len` items follow.
    pub fn array(&mut self, len: usize) {
        written(self.encoder.array(wide(len)));
    }

    /// Appends what another writer wrote.
    pub fn append(&mut self, other: &Self) {
        self.encoder.writer_mut().extend_from_slice(other.encoder.writer());
    }

    /// Writes a map with unsigned keys: calls `fill` and then writes how many fields it gave.
    pub fn record(&mut self, fill: impl FnOnce(&mut Record)) {
        let mut record = Record { fields: Self::new(), count: 0, last: None };
        fill(&mut record);
        written(self.encoder.map(record.count));
        self.append(&record.fields);
    }

    /// Returns the number of bytes written so far.
    pub fn len(&self) -> usize {
        self.encoder.writer().len()
    }

    /// Tells whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.encoder.into_writer()
    }
}

/// The fields of a map that is being written; fields at their default are simply not written.
#[derive(Debug)]
pub struct Record {
    fields: Writer,
    count: u64,
    last: Option<u64>,
}

impl Record {
    /// Starts a field; exactly one item must be written to what it returns.
    ///
    /// # Panics
    /// Where the keys do not ascend: the order stands in the code, not in data.
    pub fn field(&mut self, key: u64) -> &mut Writer {
        assert!(self.last.is_none_or(|last| last < key), "the keys of a record ascend");
        self.last = Some(key);
        self.count += 1;
        self.fields.uint(key);
        &mut self.fields
    }

    /// Writes an unsigned field, unless it is 0.
    pub fn uint(&mut self, key: u64, value: impl Into<u64>) {
        let value = value.into();
        if value != 0 {
            self.field(key).uint(value);
        }
    }

    /// Writes a byte string field, unless it is empty.
    pub fn bytes(&mut self, key: u64, value: &[u8]) {
        if !value.is_empty() {
            self.field(key).bytes(value);
        }
    }

    /// Writes a text field, unless it is empty.
    pub fn text(&mut self, key: u64, value: &str) {
        if !value.is_empty() {
            self.field(key).text(value);
        }
    }

    /// Writes an array field of one item per element, unless it is empty.
    pub fn list<T>(&mut self, key: u64, items: &[T], mut write: impl FnMut(&mut Writer, &T)) {
        if !items.is_empty() {
            let writer = self.field(key);
            writer.array(items.len());
            items.iter().for_each(|item| write(writer, item));
        }
    }
}

/// Reads deterministic CBOR and refuses every other encoding.
#[derive(Debug)]
pub struct Reader<'a> {
    decoder: Decoder<'a>,
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Makes a reader of `bytes`; `what` names the structure in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { decoder: Decoder::new(bytes), what }
    }

    /// Returns the offset of the next item.
    pub fn at(&self) -> u64 {
        wide(self.decoder.position())
    }

    /// Makes the error that says why the bytes near here are refused.
    pub fn corrupt(&self, reason: &'static str) -> Error {
        Error::Corrupt { what: self.what, at: self.at(), reason }
    }

    /// Makes the error for a number (a field's, a kind's) that no released version knows.
    pub fn unknown(&self, number: u64) -> Error {
        Error::UnknownNumber { what: self.what, at: self.at(), number }
    }

    fn remaining(&self) -> usize {
        self.decoder.input().len().saturating_sub(self.decoder.position())
    }

    /// Reads one item; it must have had the shortest head for what `parts` says of its value: the
    /// head's argument and the length of the bytes after the head.
    fn shortest<T>(
        &mut self,
        reason: &'static str,
        read: impl FnOnce(&mut Decoder<'a>) -> Result<T, minicbor::decode::Error>,
        parts: impl FnOnce(&T) -> (u64, usize),
    ) -> Result<T> {
        let start = self.decoder.position();
        let value = read(&mut self.decoder).map_err(|_| self.corrupt(reason))?;
        let consumed = self.decoder.position().saturating_sub(start);
        let (argument, payload) = parts(&value);
        if consumed != head_len(argument).saturating_add(payload) {
            return Err(self.corrupt("a length or number is not in its shortest form"));
        }
        Ok(value)
    }

    /// Reads an unsigned integer.
    ///
    /// # Errors
    /// `Corrupt` where another type or a longer form stands there (so for every reading method).
    pub fn uint(&mut self) -> Result<u64> {
        self.shortest("no unsigned number", Decoder::u64, |value| (*value, 0))
    }

    /// Reads an unsigned integer of a narrower type.
    ///
    /// # Errors
    /// `Corrupt`, also where the number does not fit.
    pub fn narrow<T: TryFrom<u64>>(&mut self) -> Result<T> {
        let value = self.uint()?;
        T::try_from(value).map_err(|_| self.corrupt("a number is too large for its field"))
    }

    /// Reads an integer that may be negative.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn int(&mut self) -> Result<i64> {
        // CBOR encodes a negative n as -1 - n, which is the bitwise complement.
        let argument = |value: &i64| if *value < 0 { !*value } else { *value }.unsigned_abs();
        self.shortest("no integer", Decoder::i64, |value| (argument(value), 0))
    }

    /// Reads a byte string of at most `limit` bytes; the result borrows the input.
    ///
    /// # Errors
    /// `Corrupt`, or `Limit` where it is longer.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8]> {
        let value =
            self.shortest("no byte string", Decoder::bytes, |x| (wide(x.len()), x.len()))?;
        self.within(value.len(), limit)?;
        Ok(value)
    }

    /// Reads a byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn exactly<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(usize::MAX)?;
        bytes.try_into().map_err(|_| self.corrupt("a byte string has the wrong length"))
    }

    /// Reads a text string of at most `limit` bytes of UTF-8.
    ///
    /// # Errors
    /// `Corrupt`, or `Limit` where it is longer.
    pub fn text(&mut self, limit: usize) -> Result<&'a str> {
        let value = self.shortest("no text", Decoder::str, |x| (wide(x.len()), x.len()))?;
        self.within(value.len(), limit)?;
        Ok(value)
    }

    /// Reads a boolean.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn bool(&mut self) -> Result<bool> {
        self.decoder.bool().map_err(|_| self.corrupt("no boolean"))
    }

    /// Reads the head of an array of at most `limit` items and returns their number, which is
    /// no larger than the bytes that are left.
    ///
    /// # Errors
    /// `Corrupt`, or `Limit` where it claims more items.
    pub fn array(&mut self, limit: usize) -> Result<usize> {
        let len = self.definite("no array of definite length", Decoder::array)?;
        if len > self.remaining() {
            return Err(self.corrupt("an array claims more items than there are bytes"));
        }
        self.within(len, limit)?;
        Ok(len)
    }

    /// Tells whether an array stands here (rather than a number or a string).
    pub fn at_array(&self) -> bool {
        matches!(self.decoder.datatype(), Ok(minicbor::data::Type::Array))
    }

    /// Tells whether a byte string stands here (rather than a number).
    pub fn at_bytes(&self) -> bool {
        matches!(self.decoder.datatype(), Ok(minicbor::data::Type::Bytes))
    }

    /// Reads the head of a map with unsigned keys.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn record(&mut self) -> Result<Fields> {
        let len = self.definite("no map of definite length", Decoder::map)?;
        if len > self.remaining() / 2 {
            return Err(self.corrupt("a map claims more fields than there are bytes"));
        }
        let mut fields = Fields { left: len, next: None };
        fields.advance(self, None)?;
        Ok(fields)
    }

    fn definite(
        &mut self,
        reason: &'static str,
        read: impl FnOnce(&mut Decoder<'a>) -> Result<Option<u64>, minicbor::decode::Error>,
    ) -> Result<usize> {
        // An indefinite head is one byte; the argument u64::MAX never is, so it is refused.
        let len = self.shortest(reason, read, |len| (len.unwrap_or(u64::MAX), 0))?;
        let len = len.ok_or_else(|| self.corrupt(reason))?;
        usize::try_from(len).map_err(|_| self.corrupt("a length is too large"))
    }

    fn within(&self, len: usize, limit: usize) -> Result<()> {
        if len > limit {
            return Err(Error::Limit { what: self.what, limit: wide(limit) });
        }
        Ok(())
    }

    /// Ends reading.
    ///
    /// # Errors
    /// `Corrupt` where bytes are left.
    pub fn finish(self) -> Result<()> {
        if self.remaining() != 0 {
            return Err(self.corrupt("bytes follow the end"));
        }
        Ok(())
    }
}

/// The fields of a map that is being read, asked for in ascending order of their keys.
#[derive(Debug)]
pub struct Fields {
    left: usize,
    next: Option<u64>,
}

impl Fields {
    /// Reads the key of the next field, where there is one.
    fn advance(&mut self, reader: &mut Reader<'_>, last: Option<u64>) -> Result<()> {
        self.next = None;
        if self.left > 0 {
            self.left -= 1;
            let key = reader.uint()?;
            if last.is_some_and(|last| key <= last) {
                return Err(reader.corrupt("the keys of a map do not ascend"));
            }
            self.next = Some(key);
        }
        Ok(())
    }

    /// Reads field `key` with `read`, or returns `None` where the map leaves it out.
    ///
    /// # Errors
    /// Those of `read`; `UnknownNumber` where a field stands there that nobody asked for.
    pub fn optional<'a, T>(
        &mut self,
        reader: &mut Reader<'a>,
        key: u64,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T>,
    ) -> Result<Option<T>> {
        match self.next {
            Some(next) if next < key => Err(reader.unknown(next)),
            Some(next) if next == key => {
                let value = read(reader)?;
                self.advance(reader, Some(key))?;
                Ok(Some(value))
            }
            _ => Ok(None),
        }
    }

    /// Reads field `key`, which must be there.
    ///
    /// # Errors
    /// As [`Fields::optional`], and `Corrupt` where it is left out.
    pub fn required<'a, T>(
        &mut self,
        reader: &mut Reader<'a>,
        key: u64,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T>,
    ) -> Result<T> {
        let value = self.optional(reader, key, read)?;
        value.ok_or_else(|| reader.corrupt("a field is missing"))
    }

    /// Reads an unsigned field that is left out where it is 0.
    ///
    /// # Errors
    /// As [`Fields::optional`].
    pub fn uint<T: TryFrom<u64> + Default>(
        &mut self,
        reader: &mut Reader<'_>,
        key: u64,
    ) -> Result<T> {
        Ok(self.optional(reader, key, Reader::narrow)?.unwrap_or_default())
    }

    /// Reads a text field that is left out where it is empty.
    ///
    /// # Errors
    /// As [`Fields::optional`], and `Limit` where it is longer than `limit` bytes.
    pub fn text(&mut self, reader: &mut Reader<'_>, key: u64, limit: usize) -> Result<String> {
        let text = self.optional(reader, key, |reader| reader.text(limit))?;
        Ok(text.unwrap_or_default().to_owned())
    }

    /// Reads an array field that is left out where it is empty.
    ///
    /// # Errors
    /// As [`Fields::optional`], and `Limit` where it has more than `limit` items.
    pub fn list<'a, T>(
        &mut self,
        reader: &mut Reader<'a>,
        key: u64,
        limit: usize,
        mut read: impl FnMut(&mut Reader<'a>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let list = self.optional(reader, key, |reader| {
            let len = reader.array(limit)?;
            (0..len).map(|_| read(reader)).collect::<Result<Vec<T>>>()
        })?;
        Ok(list.unwrap_or_default())
    }

    /// Ends the map.
    ///
    /// # Errors
    /// `UnknownNumber` where a field is left that nobody asked for.
    pub fn finish(self, reader: &Reader<'_>) -> Result<()> {
        self.next.map_or(Ok(()), |key| Err(reader.unknown(key)))
    }
}

/// Checks that a decoded value encodes to the very bytes it came from: the last proof that there
/// is one encoding only (fields at their default, references out of order, runs not merged).
///
/// # Errors
/// `Corrupt` naming the first byte that differs.
pub fn same_bytes(what: &'static str, found: &[u8], canonical: &[u8]) -> Result<()> {
    if found == canonical {
        return Ok(());
    }
    let at = found.iter().zip(canonical).take_while(|(a, b)| a == b).count();
    Err(Error::Corrupt { what, at: wide(at), reason: "not the canonical encoding" })
}

/// Writes a time: an array of seconds (signed) and nanoseconds.
pub(crate) fn write_timestamp(writer: &mut Writer, time: Timestamp) {
    writer.array(2);
    writer.int(time.seconds);
    writer.uint(time.nanos);
}

/// Reads a time, whose nanoseconds are below 1 000 000 000.
pub(crate) fn read_timestamp(reader: &mut Reader<'_>) -> Result<Timestamp> {
    expect_array(reader, 2)?;
    let time = Timestamp { seconds: reader.int()?, nanos: reader.narrow()? };
    if time.nanos >= 1_000_000_000 {
        return Err(reader.corrupt("a time has a second or more in its nanoseconds"));
    }
    Ok(time)
}

/// Reads the head of an array of exactly `len` items.
pub(crate) fn expect_array(reader: &mut Reader<'_>, len: usize) -> Result<()> {
    if reader.array(len)? != len {
        return Err(reader.corrupt("an array has the wrong length"));
    }
    Ok(())
}

/// Returns the length of the shortest head for `argument`, in bytes.
fn head_len(argument: u64) -> usize {
    match argument {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// Widens a length; no platform has more than 64 bits.
pub(crate) fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
