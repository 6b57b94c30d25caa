//! A key pair with its self-signed certificate.

use crate::error::{NetError, Result};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use umbra_common::wire::Fingerprint;

/// A file with a key is no longer than this.
const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;

/// The name in every certificate. Peers look at keys, never at names or dates.
pub(crate) const CERTIFICATE_NAME: &str = "umbra";

/// An Ed25519 key pair and a self-signed certificate for it.
///
/// Only the key counts and only the key is kept: the certificate is made anew from it, since peers
/// pin the public key.
#[derive(Clone)]
pub struct Identity {
    key: Arc<KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Identity {
    /// Makes a new key pair from the system's randomness.
    ///
    /// # Errors
    /// [`NetError::Key`] where the system gives no randomness.
    pub fn generate() -> Result<Self> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .map_err(|error| key_error("cannot make a key pair", error))?;
        Self::from_key(key)
    }

    /// Reads a PEM file that [`write_new`](Self::write_new) wrote.
    ///
    /// # Errors
    /// [`NetError::Io`] where it cannot be read, [`NetError::Key`] where it is no private key.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |source| NetError::Io { what: format!("cannot read {}", path.display()), source };
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_KEY_FILE_BYTES).read_to_string(&mut text))
            .map_err(io)?;
        let key = KeyPair::from_pem(&text).map_err(|error| {
            key_error(&format!("{} does not hold a private key in PEM", path.display()), error)
        })?;
        Self::from_key(key)
    }

    /// Writes the private key to a new file, PKCS #8 in PEM, readable by the owner alone, and syncs
    /// it. An existing file is never overwritten.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn write_new(&self, path: &Path) -> Result<()> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| {
                file.write_all(self.key.serialize_pem().as_bytes())?;
                file.sync_all()
            })
            .map_err(|source| NetError::Io {
                what: format!("cannot write {}", path.display()),
                source,
            })
    }

    /// Names its public key.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_spki(&self.key.subject_public_key_info())
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    /// Derives a secret from the private key: the same each time, telling nothing about the key.
    pub(crate) fn derive(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, self.key.serialized_der())
    }

    fn from_key(key: KeyPair) -> Result<Self> {
        let certificate = CertificateParams::new(vec![CERTIFICATE_NAME.to_owned()])
            .and_then(|params| params.self_signed(&key))
            .map_err(|error| key_error("cannot make a certificate for the key", error))?;
        Ok(Self { certificate: certificate.der().clone(), key: Arc::new(key) })
    }
}

impl std::fmt::Debug for Identity {
    /// Shows the public key's name only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.fingerprint()).finish()
    }
}

fn key_error(what: &str, error: rcgen::Error) -> NetError {
    NetError::Key { what: what.to_owned(), source: Box::new(error) }
}
