//! Snapshots: the agent's manifest and the vault's receipt.
//!
//! The manifest is a node whose id IS the snapshot's id; it refers to the image map and to the
//! overlays. The receipt says what only the vault knows: whose disk it is, when it came, as which
//! in the row. Layouts: docs/formats/manifest.md and docs/formats/receipt.md.

use std::collections::BTreeMap;
use std::fmt;

use crate::cbor::{Fields, Reader, Record, Writer, expect_array};
use crate::{Error, Result};

mod ids;
mod manifest;
mod parts;
mod receipt;

pub use ids::{MachineId, RunId, SessionNonce, StoreId};
pub use manifest::{Manifest, ManifestWarning};
pub use parts::{Consistency, Counts, DiskLabel, FreePolicy, Method, Parameters, Parsed, Volume};
pub use receipt::{MAX_RECEIPT_BYTES, Receipt};

/// The longest name of a machine or a disk, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// The most tags or labels of one snapshot or disk.
pub const MAX_LABELS: usize = 64;
/// The longest tag, label, path or other text of the agent, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024;
/// The most warnings that a manifest keeps; all are counted.
pub const MAX_WARNINGS: usize = 1000;
/// The longest text of one warning, in bytes.
pub const MAX_WARNING_BYTES: usize = 384;
/// The most volumes of one disk.
pub const MAX_VOLUMES: usize = 1024;
/// The longest signature, in bytes.
pub const MAX_SIGNATURE_BYTES: usize = 8192;

/// A signature over everything else in the object that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Number of the algorithm; none is defined yet.
    pub algorithm: u32,
    /// BLAKE3 of the public key that verifies it.
    pub key: [u8; 32],
    /// The signature.
    pub bytes: Vec<u8>,
}

/// Tells whether `name` can name a machine or a disk: 1 to 64 of `[A-Za-z0-9._-]`.
pub fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(good)
}

/// Cuts `text` to at most `limit` bytes, at the end of a character.
pub fn shortened(text: &str, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default().to_owned()
}

/// A record that is being written: like [`Record`], but longer texts than a reader takes are
/// refused here already.
struct Checked<'r> {
    what: &'static str,
    record: &'r mut Record,
    failure: Option<Error>,
}

impl Checked<'_> {
    fn limit(&mut self, len: usize, limit: usize) {
        if len > limit {
            let limit = crate::cbor::wide(limit);
            self.failure.get_or_insert(Error::Limit { what: self.what, limit });
        }
    }

    fn name(&mut self, key: u64, name: &str) {
        if !is_name(name) {
            let reason = "a machine's or disk's name is not 1 to 64 of [A-Za-z0-9._-]";
            self.failure.get_or_insert(Error::Corrupt { what: self.what, at: 0, reason });
        }
        self.record.text(key, name);
    }

    fn text(&mut self, key: u64, text: &str) {
        self.limit(text.len(), MAX_TEXT_BYTES);
        self.record.text(key, text);
    }

    fn texts(&mut self, key: u64, texts: &[String]) {
        self.limit(texts.len(), MAX_LABELS);
        let longest = texts.iter().map(String::len).max();
        self.limit(longest.unwrap_or_default(), MAX_TEXT_BYTES);
        self.record.list(key, texts, |writer, text| writer.text(text));
    }

    fn labels(&mut self, key: u64, labels: &BTreeMap<String, String>) {
        self.limit(labels.len(), MAX_LABELS);
        let longest = labels.iter().flat_map(|(name, value)| [name.len(), value.len()]).max();
        self.limit(longest.unwrap_or_default(), MAX_TEXT_BYTES);
        let labels: Vec<_> = labels.iter().collect();
        self.record.list(key, &labels, |writer, (name, value)| {
            writer.array(2);
            writer.text(name);
            writer.text(value);
        });
    }

    fn signature(&mut self, key: u64, signature: Option<&Signature>) {
        if let Some(signature) = signature {
            self.limit(signature.bytes.len(), MAX_SIGNATURE_BYTES);
            let writer = self.record.field(key);
            writer.array(3);
            writer.uint(signature.algorithm);
            writer.bytes(&signature.key);
            writer.bytes(&signature.bytes);
        }
    }

    fn finish(self) -> Result<()> {
        self.failure.map_or(Ok(()), Err)
    }
}

/// Writes a map whose texts are checked against the limits of the reader.
fn checked(
    writer: &mut Writer,
    what: &'static str,
    fill: impl FnOnce(&mut Checked<'_>),
) -> Result<()> {
    let mut result = Ok(());
    writer.record(|record| {
        let mut checked = Checked { what, record, failure: None };
        fill(&mut checked);
        result = checked.finish();
    });
    result
}

fn read_name(fields: &mut Fields, reader: &mut Reader<'_>, key: u64) -> Result<String> {
    let name = fields.text(reader, key, MAX_NAME_BYTES)?;
    if !is_name(&name) {
        return Err(reader.corrupt("a machine's or disk's name has bytes that no name has"));
    }
    Ok(name)
}

fn read_texts(fields: &mut Fields, reader: &mut Reader<'_>, key: u64) -> Result<Vec<String>> {
    fields.list(reader, key, MAX_LABELS, |reader| Ok(reader.text(MAX_TEXT_BYTES)?.to_owned()))
}

fn read_labels(
    fields: &mut Fields,
    reader: &mut Reader<'_>,
    key: u64,
) -> Result<BTreeMap<String, String>> {
    let pairs = fields.list(reader, key, MAX_LABELS, |reader| {
        expect_array(reader, 2)?;
        let name = reader.text(MAX_TEXT_BYTES)?.to_owned();
        Ok((name, reader.text(MAX_TEXT_BYTES)?.to_owned()))
    })?;
    // Order and repeated names are found when the object is encoded again.
    Ok(pairs.into_iter().collect())
}

fn read_signature(
    fields: &mut Fields,
    reader: &mut Reader<'_>,
    key: u64,
) -> Result<Option<Signature>> {
    fields.optional(reader, key, |reader| {
        expect_array(reader, 3)?;
        let (algorithm, key) = (reader.narrow()?, reader.exactly()?);
        Ok(Signature { algorithm, key, bytes: reader.bytes(MAX_SIGNATURE_BYTES)?.to_vec() })
    })
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests;
