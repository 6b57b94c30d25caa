//! The token that lets a machine enrol: `umbra1-` and base32 of CBOR and a checksum.

use super::{Fingerprint, frame};
use crate::{Error, Result};
use minicbor::{Decode, Encode};

const PREFIX: &str = "umbra1-";
const CHECKSUM_BYTES: usize = 4;
const MAX_TEXT_BYTES: usize = 4096;

/// Where a vault is, which key it has, and the secret that it waits for.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// `HOST:PORT`, the likeliest first; at least one.
    pub addresses: Vec<String>,
    /// The vault's key.
    pub vault: Fingerprint,
    /// The secret, known to the vault by its hash.
    pub secret: [u8; 16],
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Fields {
    #[n(0)]
    addresses: Vec<String>,
    #[cbor(n(1), with = "minicbor::bytes")]
    vault: [u8; 32],
    #[cbor(n(2), with = "minicbor::bytes")]
    secret: [u8; 16],
}

impl Token {
    /// Prints it: lower case letters and digits, one word.
    ///
    /// # Errors
    /// [`Error::Limit`] where the addresses are absurdly long.
    pub fn to_text(&self) -> Result<String> {
        let fields =
            Fields { addresses: self.addresses.clone(), vault: self.vault.0, secret: self.secret };
        let framed = frame::encode(&fields, MAX_TEXT_BYTES / 2)?;
        let mut bytes = framed.get(super::FRAME_HEADER_BYTES..).unwrap_or_default().to_vec();
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let text = data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
        Ok(format!("{PREFIX}{text}"))
    }

    /// Reads what [`to_text`](Self::to_text) printed; white space around it does not matter.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming what is wrong with it: not a token at all, or mistyped.
    pub fn from_text(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.len() > MAX_TEXT_BYTES {
            return Err(corrupt("it is too long"));
        }
        let word = text.strip_prefix(PREFIX).ok_or(corrupt("it does not begin with umbra1-"))?;
        let bytes = data_encoding::BASE32_NOPAD
            .decode(word.to_ascii_uppercase().as_bytes())
            .map_err(|_| corrupt("it holds a character that no token has"))?;
        let (bytes, found) =
            bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(corrupt("it is cut off"))?;
        if checksum(bytes) != *found {
            return Err(corrupt("a character is wrong or missing"));
        }
        let fields: Fields = frame::decode(bytes)?;
        if fields.addresses.is_empty() {
            return Err(corrupt("it names no address"));
        }
        Ok(Self {
            addresses: fields.addresses,
            vault: Fingerprint(fields.vault),
            secret: fields.secret,
        })
    }
}

impl std::fmt::Debug for Token {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("addresses", &self.addresses)
            .field("vault", &self.vault)
            .finish_non_exhaustive()
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::derive_key("umbra 1 token checksum", bytes);
    hash.first_chunk().copied().unwrap_or_default()
}

fn corrupt(reason: &'static str) -> Error {
    Error::Corrupt { what: "token", at: 0, reason }
}
