//! Receipts as objects of the store: their names, and their hashes.
//!
//! What stands in one is [`Receipt`]; its layout: `docs/formats/receipt-file.md`.

use umbra_common::snapshot::Receipt;

use crate::error::{Error, Result};
use crate::ids::Digest;

/// Longest receipt file that is read, in bytes.
pub(crate) const MAX_RECEIPT_FILE_BYTES: u64 = 512 << 10;

/// Returns the name of a receipt's object.
pub(crate) fn receipt_name(sequence: u64) -> String {
    format!("receipts/{sequence:016}")
}

/// Reads the sequence number from the name of a receipt's object.
pub(crate) fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("receipts/")?;
    let sequence = digits.parse().ok()?;
    (receipt_name(sequence) == name).then_some(sequence)
}

/// Encodes a receipt and returns it with its hash.
pub(crate) fn encode(receipt: &Receipt) -> Result<(Vec<u8>, Digest)> {
    let fail = |source| Error::Decode { path: receipt_name(receipt.sequence), source };
    let bytes = receipt.to_bytes().map_err(fail)?;
    Ok((bytes, Digest(receipt.hash().map_err(fail)?)))
}

/// Decodes a receipt's file and returns it with its hash.
pub(crate) fn decode(bytes: &[u8], name: &str) -> Result<(Receipt, Digest)> {
    let fail = |source| Error::Decode { path: name.to_owned(), source };
    let receipt = Receipt::decode(bytes).map_err(fail)?;
    let hash = Digest(receipt.hash().map_err(fail)?);
    Ok((receipt, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(receipt_name(7), "receipts/0000000000000007");
        assert_eq!(sequence_of("receipts/0000000000000007"), Some(7));
        assert_eq!(sequence_of("receipts/7"), None);
        assert_eq!(sequence_of("receipts/000000000000000x"), None);
    }
}
