//! The vault's side of a backup over the network client.

use umbra_common::snapshot::Receipt;
use umbra_common::wire::{Begin, Commit, Label, Object};
use umbra_common::{ObjectId, Reference};
use umbra_net::{Client, NetError, Upload};

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

    fn send(&self, objects: Vec<Object>) -> Result<()> {
        Ok(self.upload.send_all(objects)?)
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
        receipt_for(manifest, &self.upload.commit(commit)?)
    }

    fn bytes_sent(&self) -> u64 {
        self.client.traffic().bytes_sent.saturating_sub(self.sent_before)
    }
}

/// Reads a receipt: the one word that a backup stands by must be about its snapshot.
fn receipt_for(manifest: ObjectId, bytes: &[u8]) -> Result<Receipt> {
    let receipt = Receipt::decode(bytes)?;
    if receipt.snapshot != manifest {
        let reason = "the vault gave the receipt of another snapshot";
        return Err(NetError::Protocol { reason, source: None }.into());
    }
    Ok(receipt)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use umbra_common::snapshot::{MachineId, RunId, SessionNonce, StoreId};
    use umbra_fsparse::Timestamp;

    #[test]
    fn the_receipt_of_another_snapshot_is_none() {
        let receipt = Receipt {
            store: StoreId([1; 16]),
            sequence: 1,
            previous: None,
            snapshot: ObjectId([5; 32]),
            domain: 0,
            machine: MachineId([6; 16]),
            machine_name: "m".into(),
            disk: "sda".into(),
            nonce: SessionNonce([2; 16]),
            run: RunId([1; 16]),
            received: Timestamp { seconds: 1_790_000_000, nanos: 0 },
            gc_generation: 0,
            tags: Vec::new(),
            labels: std::collections::BTreeMap::new(),
            signature: None,
        };
        let bytes = receipt.to_bytes().unwrap();
        assert_eq!(receipt_for(receipt.snapshot, &bytes).unwrap(), receipt);
        assert!(receipt_for(ObjectId([6; 32]), &bytes).is_err());
    }
}
