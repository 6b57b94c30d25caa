//! The vault's side of a backup over the network client.

use umbra_common::snapshot::Receipt;
use umbra_common::wire::{Begin, Commit, Label, Object};
use umbra_common::{ObjectId, Reference};
use umbra_net::{Client, Upload};

use crate::backup::Uplink;
use crate::error::Result;

/// A backup session with a vault.
pub struct VaultUplink {
    client: Client,
    upload: Upload,
    sent_before: u64,
}

impl VaultUplink {
    /// Begins the backup of a disk.
    ///
    /// # Errors
    /// What the vault answers.
    pub fn begin(client: &Client, begin: Begin) -> Result<Self> {
        let sent_before = client.traffic().bytes_sent;
        let upload = client.upload(begin)?;
        Ok(Self { client: client.clone(), upload, sent_before })
    }

    /// Returns the session, for its answer to the beginning.
    pub fn upload(&self) -> &Upload {
        &self.upload
    }
}

impl Uplink for VaultUplink {
    fn ask(&self, references: &[Reference]) -> Result<Vec<bool>> {
        Ok(self.upload.ask(references)?.wait()?)
    }

    fn send(&self, object: Object) -> Result<()> {
        Ok(self.upload.send(object)?)
    }

    fn settle(&self) -> Result<()> {
        Ok(self.upload.flush()?)
    }

    fn commit(
        &self,
        manifest: ObjectId,
        tags: &[String],
        figures: &[(&str, u64)],
    ) -> Result<Receipt> {
        let label =
            |(name, value): &(&str, u64)| Label { name: (*name).into(), value: value.to_string() };
        let labels = figures.iter().map(label).collect();
        let commit = Commit { manifest, labels, tags: tags.to_vec() };
        Ok(Receipt::decode(&self.upload.commit(commit)?)?)
    }

    fn bytes_sent(&self) -> u64 {
        self.client.traffic().bytes_sent.saturating_sub(self.sent_before)
    }
}
