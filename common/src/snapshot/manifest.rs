//! The manifest: what a snapshot is.

use umbra_fsparse::Timestamp;

use crate::cbor::{Reader, Writer, expect_array, read_timestamp, write_timestamp};
use crate::image_hash::ImageHash;
use crate::map::{self, MapRoot};
use crate::node::{Link, Node, References};
use crate::{ByteOffset, Error, Kind, Reference, Result};

use super::parts::WHAT;
use super::{
    Consistency, Counts, DiskLabel, FreePolicy, MAX_TEXT_BYTES, MAX_VOLUMES, MAX_WARNING_BYTES,
    MAX_WARNINGS, Method, Parameters, RunId, SessionNonce, Signature, Volume, checked, read_name,
    read_signature, read_texts, shortened,
};

/// The version that this program writes and the newest that it reads.
const VERSION: u64 = 1;

/// A snapshot, as the agent describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The disk.
    pub disk: DiskLabel,
    /// Name of the machine: 1 to 64 of `[A-Za-z0-9._-]`. A label; the receipt says whose it is.
    pub machine: String,
    /// Host name of the machine.
    pub host: String,
    /// The agent's clock when the backup began.
    pub agent_time: Timestamp,
    /// The user's tags.
    pub tags: Vec<String>,
    /// How chunks were cut.
    pub parameters: Parameters,
    /// `gpt`, `mbr`, or empty where there is no partition table.
    pub partition_table: String,
    /// The volumes, in disk order.
    pub volumes: Vec<Volume>,
    /// The image map.
    pub map: MapRoot,
    /// The proof of the disk as `recover` writes it.
    pub image_hash: ImageHash,
    /// What was counted.
    pub counts: Counts,
    /// What became of free space.
    pub free: FreePolicy,
    /// The first [`MAX_WARNINGS`] warnings.
    pub warnings: Vec<ManifestWarning>,
    /// How many warnings there were.
    pub warnings_total: u64,
    /// Number of ranges that the device did not give.
    pub unreadable_ranges: u64,
    /// How the disk was read.
    pub method: Method,
    /// The run that this snapshot belongs to.
    pub run: RunId,
    /// The session that made it.
    pub nonce: SessionNonce,
    /// A signature over the encoding without this field.
    pub signature: Option<Signature>,
}

/// Something that went wrong and did not stop the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestWarning {
    /// Path of the volume, empty where it concerns the disk.
    pub volume: String,
    /// Which structure.
    pub structure: String,
    /// Where on the disk.
    pub offset: Option<ByteOffset>,
    /// Which inode.
    pub inode: Option<u64>,
    /// What is wrong.
    pub message: String,
}

impl ManifestWarning {
    /// Makes a warning of texts of any length, which are cut to what a manifest takes.
    pub fn new(volume: &str, structure: &str, message: &str) -> Self {
        Self {
            volume: shortened(volume, MAX_WARNING_BYTES),
            structure: shortened(structure, MAX_WARNING_BYTES),
            offset: None,
            inode: None,
            message: shortened(message, MAX_WARNING_BYTES),
        }
    }

    fn write(&self, writer: &mut Writer) -> Result<()> {
        let texts = [&self.volume, &self.structure, &self.message];
        checked(writer, WHAT, |record| {
            texts.iter().for_each(|text| record.limit(text.len(), MAX_WARNING_BYTES));
            record.text(0, &self.volume);
            record.text(1, &self.structure);
            if let Some(offset) = self.offset {
                record.record.field(2).uint(offset.0);
            }
            if let Some(inode) = self.inode {
                record.record.field(3).uint(inode);
            }
            record.text(4, &self.message);
        })
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut fields = reader.record()?;
        let warning = Self {
            volume: fields.text(reader, 0, MAX_WARNING_BYTES)?,
            structure: fields.text(reader, 1, MAX_WARNING_BYTES)?,
            offset: fields.optional(reader, 2, Reader::uint)?.map(ByteOffset),
            inode: fields.optional(reader, 3, Reader::uint)?,
            message: fields.text(reader, 4, MAX_WARNING_BYTES)?,
        };
        fields.finish(reader)?;
        Ok(warning)
    }
}

impl Manifest {
    /// Returns the node; its id is the snapshot's id.
    ///
    /// # Errors
    /// `Limit` where a text, a list or the whole is too long; `Corrupt` where names, counts or
    /// the map's height contradict each other.
    pub fn to_node(&self) -> Result<Node> {
        self.check()?;
        let mut refs = References::new();
        refs.number(self.map.reference);
        let mut writer = Writer::new();
        self.write(&mut writer, &mut refs)?;
        let node = Node { kind: Kind::Manifest, refs: refs.into_list(), body: writer.into_bytes() };
        node.check()?;
        Ok(node)
    }

    /// Reads a manifest; every other encoding of the same manifest is refused.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported`, `UnknownNumber` or `Limit`.
    pub fn from_node(node: &Node) -> Result<Self> {
        if node.kind != Kind::Manifest {
            return Err(Error::Corrupt { what: WHAT, at: 0, reason: "a node of another kind" });
        }
        let mut reader = Reader::new(WHAT, &node.body);
        let manifest = Self::read(&mut reader, node)?;
        reader.finish()?;
        node.same(&manifest.to_node()?)?;
        Ok(manifest)
    }

    /// Returns its reference list: the map's root first, then the overlays' roots.
    pub fn references(&self) -> Vec<Reference> {
        let mut refs = References::new();
        refs.number(self.map.reference);
        for root in self.volumes.iter().filter_map(|volume| volume.overlay) {
            refs.number(root);
        }
        refs.into_list()
    }

    /// Returns the link to one of its children, given the manifest's own reference.
    pub fn link(&self, own: Reference, target: Reference) -> Option<Link> {
        let number = self.references().iter().position(|reference| *reference == target)?;
        Some(Link { parent: own, number: u32::try_from(number).ok()?, target })
    }

    /// Returns the link to the map's root, given the manifest's own reference.
    pub fn map_link(&self, own: Reference) -> Link {
        Link { parent: own, number: 0, target: self.map.reference }
    }

    fn check(&self) -> Result<()> {
        let corrupt = |reason| Err(Error::Corrupt { what: WHAT, at: 0, reason });
        let length = self.disk.length;
        if !self.counts.adds_up(length) {
            return corrupt("the counted bytes do not add up to the disk's length");
        }
        if self.map.levels != map::levels(length) {
            return corrupt("the map's height is not that of a disk of this length");
        }
        if self.map.reference.kind != Kind::MapNode {
            return corrupt("the map's root is no map node");
        }
        let overlays = self.volumes.iter().filter_map(|volume| volume.overlay);
        if overlays.into_iter().any(|root| root.kind != Kind::Directory) {
            return corrupt("an overlay's root is no directory node");
        }
        let kept = crate::cbor::wide(self.warnings.len());
        if kept > self.warnings_total {
            return corrupt("more warnings stand there than were counted");
        }
        Ok(())
    }

    fn write(&self, writer: &mut Writer, refs: &mut References) -> Result<()> {
        let mut inner = Ok(());
        checked(writer, WHAT, |fields| {
            fields.record.field(0).uint(VERSION);
            inner = self.disk.write(fields.record.field(1));
            fields.name(2, &self.machine);
            fields.text(3, &self.host);
            write_timestamp(fields.record.field(4), self.agent_time);
            fields.texts(5, &self.tags);
            self.parameters.write(fields.record.field(6));
            fields.text(7, &self.partition_table);
            fields.limit(self.volumes.len(), MAX_VOLUMES);
            fields.record.list(8, &self.volumes, |writer, volume| {
                let overlay = volume.overlay.map(|root| refs.number(root));
                keep_first(&mut inner, volume.write(writer, overlay));
            });
            let map = fields.record.field(9);
            map.array(2);
            map.uint(refs.number(self.map.reference));
            map.uint(self.map.levels);
            fields.record.field(10).bytes(&self.image_hash.0);
            fields.record.field(11).record(|record| self.counts.write(record));
            fields.record.uint(12, self.free.number());
            fields.limit(self.warnings.len(), MAX_WARNINGS);
            fields.record.list(13, &self.warnings, |writer, warning| {
                keep_first(&mut inner, warning.write(writer));
            });
            fields.record.uint(14, self.warnings_total);
            fields.record.uint(15, self.unreadable_ranges);
            fields.record.uint(16, self.method.consistency.number());
            fields.text(17, &self.method.text);
            fields.record.field(18).bytes(&self.run.0);
            fields.record.field(19).bytes(&self.nonce.0);
            fields.signature(20, self.signature.as_ref());
        })?;
        inner
    }

    fn read(reader: &mut Reader<'_>, node: &Node) -> Result<Self> {
        let mut fields = reader.record()?;
        let version = fields.required(reader, 0, Reader::uint)?;
        if version != VERSION {
            return Err(Error::Unsupported { what: WHAT, found: version, known: VERSION });
        }
        let overlay = |number| node.child(number);
        let manifest = Self {
            disk: fields.required(reader, 1, DiskLabel::read)?,
            machine: read_name(&mut fields, reader, 2)?,
            host: fields.text(reader, 3, MAX_TEXT_BYTES)?,
            agent_time: fields.required(reader, 4, read_timestamp)?,
            tags: read_texts(&mut fields, reader, 5)?,
            parameters: fields.required(reader, 6, Parameters::read)?,
            partition_table: fields.text(reader, 7, MAX_TEXT_BYTES)?,
            volumes: fields.list(reader, 8, MAX_VOLUMES, |reader| Volume::read(reader, overlay))?,
            map: fields.required(reader, 9, |reader| {
                expect_array(reader, 2)?;
                let reference = node.child(reader.narrow()?)?;
                Ok(MapRoot { reference, levels: reader.narrow()? })
            })?,
            image_hash: ImageHash(fields.required(reader, 10, Reader::exactly)?),
            counts: fields.required(reader, 11, Counts::read)?,
            free: fields.optional(reader, 12, FreePolicy::read)?.unwrap_or_default(),
            warnings: fields.list(reader, 13, MAX_WARNINGS, ManifestWarning::read)?,
            warnings_total: fields.uint(reader, 14)?,
            unreadable_ranges: fields.uint(reader, 15)?,
            method: Method {
                consistency: fields
                    .optional(reader, 16, Consistency::read)?
                    .unwrap_or(Consistency::Offline),
                text: fields.text(reader, 17, MAX_TEXT_BYTES)?,
            },
            run: RunId(fields.required(reader, 18, Reader::exactly)?),
            nonce: SessionNonce(fields.required(reader, 19, Reader::exactly)?),
            signature: read_signature(&mut fields, reader, 20)?,
        };
        fields.finish(reader)?;
        Ok(manifest)
    }
}

/// Keeps the first of several errors.
fn keep_first(kept: &mut Result<()>, result: Result<()>) {
    if kept.is_ok() {
        *kept = result;
    }
}
