//! The place of a cipher between records and bodies. Plain mode has none.

use umbra_common::ObjectId;

use crate::ids::DomainId;

/// What a cipher binds a body to.
#[derive(Clone, Copy, Debug)]
pub struct CipherContext {
    /// The domain whose key is used.
    pub domain: DomainId,
    /// The key's epoch.
    pub key_epoch: u32,
    /// The object.
    pub id: ObjectId,
}

/// Encrypts the stored bodies of records; header and references stay in the clear.
pub trait Cipher: Send + Sync {
    /// Its number in records; never 0.
    fn number(&self) -> u8;

    /// Encrypts a body. The result is at most 4096 bytes longer.
    fn seal(&self, context: &CipherContext, body: Vec<u8>) -> Vec<u8>;

    /// Decrypts a body, or `None` where it is not one that this key sealed.
    fn open(&self, context: &CipherContext, body: Vec<u8>) -> Option<Vec<u8>>;
}
