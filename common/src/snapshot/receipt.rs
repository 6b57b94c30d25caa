//! The receipt: what the vault says of a snapshot that it holds.

use std::collections::BTreeMap;

use umbra_fsparse::Timestamp;

use crate::cbor::{Reader, Writer, read_timestamp, same_bytes, wide, write_timestamp};
use crate::{Error, ObjectId, Result};

use super::{
    MachineId, RunId, SessionNonce, Signature, StoreId, checked, read_labels, read_name,
    read_signature, read_texts,
};

/// The first eight bytes.
const MAGIC: [u8; 8] = *b"umbraRCP";

/// The version that this program writes and the newest that it reads.
const VERSION: u16 = 1;

/// The longest receipt, in bytes.
pub const MAX_RECEIPT_BYTES: usize = 512 << 10;

const WHAT: &str = "receipt";
/// Magic, version, length of the body.
const HEADER_BYTES: usize = 8 + 2 + 4;
const CHECKSUM_BYTES: usize = 32;

/// A committed snapshot, as the vault describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The store that holds it.
    pub store: StoreId,
    /// Its number in the store, from 1 on.
    pub sequence: u64,
    /// [`Receipt::hash`] of the receipt before it; `None` for the first.
    pub previous: Option<[u8; 32]>,
    /// The snapshot: id of its manifest.
    pub snapshot: ObjectId,
    /// The dedup domain that its objects stand in.
    pub domain: u32,
    /// Whose disk.
    pub machine: MachineId,
    /// The machine's name at that time.
    pub machine_name: String,
    /// The disk's name.
    pub disk: String,
    /// The session, as in the manifest.
    pub nonce: SessionNonce,
    /// The run, as in the manifest.
    pub run: RunId,
    /// The vault's clock when it was committed.
    pub received: Timestamp,
    /// GC generation of the store at that time.
    pub gc_generation: u64,
    /// The user's tags.
    pub tags: Vec<String>,
    /// What the agent says of itself (host, time). Labels, never identity.
    pub labels: BTreeMap<String, String>,
    /// A signature over the encoding without this field.
    pub signature: Option<Signature>,
}

impl Receipt {
    /// Encodes it: magic, version (u16), length of the body (u32), body, BLAKE3 of all before.
    ///
    /// # Errors
    /// `Limit` where a text or a list is too long, `Corrupt` where a name is none.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::new();
        self.write(&mut writer)?;
        let body = writer.into_bytes();
        let limit = Error::Limit { what: WHAT, limit: wide(MAX_RECEIPT_BYTES) };
        if body.len() > MAX_RECEIPT_BYTES - HEADER_BYTES - CHECKSUM_BYTES {
            return Err(limit);
        }
        let Ok(len) = u32::try_from(body.len()) else { return Err(limit) };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + CHECKSUM_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&body);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        Ok(bytes)
    }

    /// Decodes exactly what [`Receipt::to_bytes`] writes.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported`, `UnknownNumber` or `Limit`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |at, reason| Error::Corrupt { what: WHAT, at, reason };
        if bytes.len() > MAX_RECEIPT_BYTES {
            return Err(Error::Limit { what: WHAT, limit: wide(MAX_RECEIPT_BYTES) });
        }
        let rest = bytes.strip_prefix(&MAGIC).ok_or_else(|| corrupt(0, "no magic"))?;
        let short = || corrupt(wide(bytes.len()), "it ends too early");
        let (version, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            let (found, known) = (u64::from(version), u64::from(VERSION));
            return Err(Error::Unsupported { what: WHAT, found, known });
        }
        let (len, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (body, checksum) = rest.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(short)?;
        if usize::try_from(u32::from_le_bytes(*len)) != Ok(body.len()) {
            return Err(corrupt(10, "its length is not what it says"));
        }
        let (hashed, _) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(short)?;
        if blake3::hash(hashed) != *checksum {
            return Err(corrupt(wide(hashed.len()), "its checksum does not match"));
        }
        let mut reader = Reader::new(WHAT, body);
        let receipt = Self::read(&mut reader)?;
        reader.finish()?;
        same_bytes(WHAT, bytes, &receipt.to_bytes()?)?;
        Ok(receipt)
    }

    /// Returns the hash that the next receipt and the LOG name it by: BLAKE3 in key derivation
    /// mode (context `umbra 1 receipt`) of the whole encoding.
    ///
    /// # Errors
    /// As [`Receipt::to_bytes`].
    pub fn hash(&self) -> Result<[u8; 32]> {
        Ok(blake3::derive_key("umbra 1 receipt", &self.to_bytes()?))
    }

    fn write(&self, writer: &mut Writer) -> Result<()> {
        checked(writer, WHAT, |fields| {
            fields.record.field(0).bytes(&self.store.0);
            fields.record.uint(1, self.sequence);
            if let Some(previous) = &self.previous {
                fields.record.field(2).bytes(previous);
            }
            fields.record.field(3).bytes(&self.snapshot.0);
            fields.record.uint(4, self.domain);
            fields.record.field(5).bytes(&self.machine.0);
            fields.name(6, &self.machine_name);
            fields.name(7, &self.disk);
            fields.record.field(8).bytes(&self.nonce.0);
            fields.record.field(9).bytes(&self.run.0);
            write_timestamp(fields.record.field(10), self.received);
            fields.record.uint(11, self.gc_generation);
            fields.texts(12, &self.tags);
            fields.labels(13, &self.labels);
            fields.signature(14, self.signature.as_ref());
        })
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut fields = reader.record()?;
        let receipt = Self {
            store: StoreId(fields.required(reader, 0, Reader::exactly)?),
            sequence: fields.uint(reader, 1)?,
            previous: fields.optional(reader, 2, Reader::exactly)?,
            snapshot: ObjectId(fields.required(reader, 3, Reader::exactly)?),
            domain: fields.uint(reader, 4)?,
            machine: MachineId(fields.required(reader, 5, Reader::exactly)?),
            machine_name: read_name(&mut fields, reader, 6)?,
            disk: read_name(&mut fields, reader, 7)?,
            nonce: SessionNonce(fields.required(reader, 8, Reader::exactly)?),
            run: RunId(fields.required(reader, 9, Reader::exactly)?),
            received: fields.required(reader, 10, read_timestamp)?,
            gc_generation: fields.uint(reader, 11)?,
            tags: read_texts(&mut fields, reader, 12)?,
            labels: read_labels(&mut fields, reader, 13)?,
            signature: read_signature(&mut fields, reader, 14)?,
        };
        fields.finish(reader)?;
        Ok(receipt)
    }
}
