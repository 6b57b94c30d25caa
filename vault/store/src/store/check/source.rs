//! Nodes, read from packs by their place; what is lost cannot be had.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use umbra_common::node::{Node, NodeSource};
use umbra_common::{Error as NodeError, Reference};

use crate::error::{Error, chain};
use crate::ids::DomainId;
use crate::index::Key;
use crate::store::check::lost::Lost;
use crate::store::check::nodes::{NodePlace, Nodes};
use crate::store::check::report::{Finding, FindingKind};
use crate::store::contents::range;
use crate::store::inner::{Inner, locked};

/// Bytes of nodes that are kept; beyond that the cache starts anew.
const KEPT_BYTES: usize = 32 << 20;

/// Why a node cannot be had.
#[derive(Debug, thiserror::Error)]
enum Unavailable {
    /// The check has found that before.
    #[error("it is lost")]
    Lost,
    /// No pack has it.
    #[error("no pack has it")]
    Missing,
    /// Its record is damaged.
    #[error(transparent)]
    Damaged(Error),
}

/// Reads the nodes of one domain.
pub(super) struct PackNodes<'a> {
    inner: &'a Inner,
    nodes: &'a Nodes,
    lost: &'a Lost,
    domain: DomainId,
    kept: Mutex<(HashMap<Reference, Arc<Node>>, usize)>,
    found: Mutex<Vec<Finding>>,
}

impl<'a> PackNodes<'a> {
    pub(super) fn new(
        inner: &'a Inner,
        nodes: &'a Nodes,
        lost: &'a Lost,
        domain: DomainId,
    ) -> Self {
        Self { inner, nodes, lost, domain, kept: Mutex::default(), found: Mutex::default() }
    }

    /// Takes what was found to be damaged while reading.
    pub(super) fn take_findings(&self) -> Vec<Finding> {
        std::mem::take(&mut *locked(&self.found))
    }

    /// Reads a node, proves its id, and keeps it for a while.
    ///
    /// # Errors
    /// `Unavailable` where no copy of it is sound.
    pub(super) fn read(&self, reference: Reference) -> umbra_common::Result<Arc<Node>> {
        if let Some(node) = locked(&self.kept).0.get(&reference) {
            return Ok(Arc::clone(node));
        }
        let refuse =
            |why| NodeError::Unavailable { reference, source: Box::<Unavailable>::new(why) };
        if self.lost.hits(self.domain, reference) {
            return Err(refuse(Unavailable::Lost));
        }
        let mut last = Unavailable::Missing;
        for place in self.nodes.copies(self.domain, reference) {
            match self.read_copy(reference, place) {
                Ok(node) => {
                    let node = Arc::new(node);
                    self.keep(reference, &node);
                    return Ok(node);
                }
                Err(error) => {
                    let path = crate::pack::sealed_name(place.pack);
                    let reason = chain(&error);
                    let key = Key { domain: self.domain, id: reference.id };
                    let finding = Finding::at(FindingKind::Record, &path, place.offset, reason);
                    locked(&self.found).push(finding.of(key, reference.kind));
                    last = Unavailable::Damaged(error);
                }
            }
        }
        Err(refuse(last))
    }

    fn read_copy(&self, reference: Reference, place: &NodePlace) -> Result<Node, Error> {
        let path = crate::pack::sealed_name(place.pack);
        let wanted = range(place.offset, place.len.into())?;
        let bytes = self.inner.pack_ranges(place.pack, &[wanted])?.pop().unwrap_or_default();
        let (domain, object) = self.inner.open_record(&bytes, &path, place.offset)?;
        if domain != self.domain || object.reference != reference {
            let reason = "another object stands there";
            return Err(Error::Corrupt { what: "a record", path, at: place.offset, reason });
        }
        let fail = |source| Error::Decode { path: path.clone(), source };
        let plain = object.open().map_err(fail)?;
        let node = Node { kind: plain.reference.kind, refs: plain.refs, body: plain.body };
        node.check().map_err(fail)?;
        Ok(node)
    }

    fn keep(&self, reference: Reference, node: &Arc<Node>) {
        let mut kept = locked(&self.kept);
        let (nodes, bytes) = &mut *kept;
        let size = node.encoded_len().saturating_mul(2);
        if bytes.saturating_add(size) > KEPT_BYTES {
            nodes.clear();
            *bytes = 0;
        }
        nodes.insert(reference, Arc::clone(node));
        *bytes = bytes.saturating_add(size);
    }
}

impl NodeSource for PackNodes<'_> {
    fn child(&self, _: &Reference, _: u32, want: &Reference) -> umbra_common::Result<Arc<Node>> {
        self.read(*want)
    }
}
