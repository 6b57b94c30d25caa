//! What every command that reads a snapshot starts with.

use std::ffi::OsStr;

use umbra_net::Reader;

use crate::catalog::{Catalog, Snapshot};
use crate::cli::Global;
use crate::connect::{Access, Connection, connect};
use crate::content::ContentReader;
use crate::error::{Error, Result};
use crate::select;
use crate::vault_nodes::VaultNodes;

/// An open snapshot and the ways to what it holds.
pub(super) struct Opened {
    pub(super) snapshot: Snapshot,
    pub(super) nodes: VaultNodes,
    reader: Reader,
    /// Ends after everything that reads through it.
    _connection: Connection,
}

impl Opened {
    /// Opens the snapshot that `name` names.
    pub(super) fn new(global: &Global, name: &[u8]) -> Result<Self> {
        let name = std::str::from_utf8(name).map_err(|_| Error::Usage {
            what: format!("{} names no snapshot", crate::browse::display(name)),
            hint: "`umbra snapshots` lists what there is".into(),
        })?;
        // What can mean nothing is said before anything is started.
        select::parse(name)?;
        let connection = connect(global, Access::Read)?;
        let snapshot = Catalog::read(&connection, global)?.open(name)?;
        let reader = connection.client.reader();
        let nodes = VaultNodes::new(connection.client.reader());
        Ok(Self { snapshot, nodes, reader, _connection: connection })
    }

    /// Returns the snapshot's id.
    pub(super) fn id(&self) -> String {
        self.snapshot.reference.id.to_string()
    }

    /// Returns a reader of file contents.
    pub(super) fn content(&self) -> Result<ContentReader<'_>> {
        ContentReader::new(&self.snapshot, &self.nodes, &self.reader)
    }
}

/// Splits `SNAP:PATH` where a path is needed.
pub(super) fn split_path(target: &OsStr) -> Result<(&[u8], &[u8])> {
    let (snapshot, path) = select::split_target(target);
    let path = path.ok_or_else(|| Error::Usage {
        what: format!("{} names no file", target.display()),
        hint: "use SNAP:/PATH or SNAP:part/N/PATH, such as latest:/etc/fstab".into(),
    })?;
    Ok((snapshot, path))
}
