//! The snapshots that a vault shows, and one of them opened.

use umbra_common::node::{Link, Node};
use umbra_common::snapshot::{Manifest, Receipt, Volume};
use umbra_common::wire::{List, Plain};
use umbra_common::{Kind, ObjectId, Reference};
use umbra_net::Reader;

use crate::cli::Global;
use crate::connect::Connection;
use crate::error::{Error, Result};
use crate::select::{self, Scope};

/// The receipts that the vault shows to this session.
pub struct Catalog {
    reader: Reader,
    receipts: Vec<Receipt>,
    manifests: Vec<Option<Manifest>>,
    damaged: usize,
    machine: Option<String>,
    disk: Option<String>,
}

/// Whether the manifests come with the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    Receipts,
    Manifests,
}

impl Catalog {
    /// Lists the snapshots of all machines, without their manifests. Names are looked for on the
    /// machine and disk that the command line names, else on this machine.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn read(connection: &Connection, global: &Global) -> Result<Self> {
        Self::list(connection, global, Detail::Receipts)
    }

    /// Lists the snapshots of all machines with their manifests.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn read_with_manifests(connection: &Connection, global: &Global) -> Result<Self> {
        Self::list(connection, global, Detail::Manifests)
    }

    fn list(connection: &Connection, global: &Global, detail: Detail) -> Result<Self> {
        let reader = connection.client.reader();
        let manifests = detail == Detail::Manifests;
        let entries = reader.list(&List { machine: None, disk: None, manifests })?;
        let mut found = Vec::with_capacity(entries.len());
        let mut damaged = 0;
        for entry in entries {
            // One damaged receipt must not hide the others.
            match Receipt::decode(&entry.receipt) {
                Ok(receipt) => {
                    let decode = |plain| manifest_of(plain, receipt.snapshot).ok();
                    let manifest = entry.manifest.and_then(decode);
                    found.push((receipt, manifest));
                }
                Err(_) => damaged += 1,
            }
        }
        found.sort_by_key(|(receipt, _)| receipt.sequence);
        let (receipts, manifests) = found.into_iter().unzip();
        Ok(Self {
            reader,
            receipts,
            manifests,
            damaged,
            machine: Some(global.machine.clone().unwrap_or_else(|| connection.machine.clone())),
            disk: global.disk.clone(),
        })
    }

    /// Returns the receipts, oldest first.
    pub fn receipts(&self) -> &[Receipt] {
        &self.receipts
    }

    /// Returns each receipt with its manifest, where that was asked for and can be read; oldest
    /// first.
    pub fn snapshots(&self) -> impl DoubleEndedIterator<Item = (&Receipt, Option<&Manifest>)> {
        self.receipts.iter().zip(self.manifests.iter().map(Option::as_ref))
    }

    /// Counts the receipts that do not decode.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// Returns whose snapshots a name means that does not say it.
    pub fn scope(&self) -> Scope<'_> {
        Scope { machine: self.machine.as_deref(), disk: self.disk.as_deref() }
    }

    /// Finds the snapshot that `name` names.
    ///
    /// # Errors
    /// Those of [`select::parse`] and [`select::resolve`].
    pub fn find(&self, name: &str) -> Result<&Receipt> {
        select::resolve(&self.receipts, &select::parse(name)?, self.scope())
    }

    /// Opens the snapshot that `name` names.
    ///
    /// # Errors
    /// Those of [`Catalog::find`], [`Error::Vault`], [`Error::Format`].
    pub fn open(&self, name: &str) -> Result<Snapshot> {
        let receipt = self.find(name)?.clone();
        let plain = self.reader.open(receipt.snapshot)?;
        let manifest = manifest_of(plain, receipt.snapshot)?;
        let reference = Reference { kind: Kind::Manifest, id: receipt.snapshot };
        Ok(Snapshot { reference, manifest, receipt })
    }
}

pub(crate) fn manifest_of(plain: Plain, id: ObjectId) -> umbra_common::Result<Manifest> {
    let node = Node { kind: plain.reference.kind, refs: plain.refs, body: plain.body };
    let wanted = Reference { kind: Kind::Manifest, id };
    if node.kind != Kind::Manifest || plain.reference.id != id {
        let found = plain.reference.id;
        return Err(umbra_common::Error::WrongBytes { reference: wanted, found });
    }
    Manifest::from_node(&node)
}

/// A snapshot that was opened.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The manifest's reference; its id is the snapshot's.
    pub reference: Reference,
    /// What the agent says about it.
    pub manifest: Manifest,
    /// What the vault says about it.
    pub receipt: Receipt,
}

impl Snapshot {
    /// Returns how to reach the image map.
    ///
    /// # Errors
    /// [`Error::Internal`]: a manifest always refers to its map.
    pub fn map_link(&self) -> Result<Link> {
        Ok(self.manifest.map_link(self.reference))
    }

    /// Returns how to reach the files of a volume; `None` where there are none.
    ///
    /// # Errors
    /// [`Error::Internal`]: a manifest always refers to its overlays.
    pub fn overlay_link(&self, volume: &Volume) -> Result<Option<Link>> {
        volume.overlay.map(|root| self.link(root)).transpose()
    }

    fn link(&self, target: Reference) -> Result<Link> {
        let link = self.manifest.link(self.reference, target);
        link.ok_or_else(|| Error::Internal("a manifest that does not refer to its parts".into()))
    }
}
