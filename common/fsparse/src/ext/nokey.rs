//! The names of an encrypted directory, as Linux shows them to whoever has not its key.
//!
//! A stored name is ciphertext: any bytes, NUL and `/` among them. Linux shows the base64url of
//! the name's hash in the directory (zeros where the directory has none), the first 149 bytes of
//! the ciphertext and, of a longer one, the SHA-256 of the rest. So a listing made here and one
//! made on the machine without the key have the same names.
//!
//! SOURCE: Linux `fs/crypto/fname.c` (`struct fscrypt_nokey_name`, `fscrypt_fname_disk_to_usr`),
//! `fs/ext4/dir.c` (`ext4_readdir`, `is_dx_dir`), `fs/ext4/namei.c` (`htree_dirblock_to_tree`).

use alloc::vec::Vec;

use sha2::{Digest, Sha256};

use super::{
    dir::Entry,
    dirhash::{HashRules, NameHash},
};

/// `FSCRYPT_FNAME_MIN_MSG_LEN`: no ciphertext of a name is shorter.
const MIN_LEN: usize = 16;
/// Bytes of the ciphertext that are shown as they are.
const SHOWN: usize = 149;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// How the names of a directory are shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Names {
    /// As they are stored.
    Plain,
    /// Encrypted, in a directory without hashes.
    Unhashed,
    /// Encrypted, with the hash of this version.
    Hashed(HashRules, u8),
    /// Encrypted, with the hash that stands behind each name (a folded directory's).
    Stored,
}

impl Names {
    /// Writes the name of an entry to `out`; `None` where no encrypted name is so short.
    pub(super) fn show<'o>(self, entry: &Entry<'o>, out: &'o mut Vec<u8>) -> Option<&'o [u8]> {
        let hash = match self {
            Self::Plain => return Some(entry.name),
            Self::Unhashed => NameHash::default(),
            Self::Hashed(rules, version) => rules.hash(version, entry.name).unwrap_or_default(),
            Self::Stored => entry.stored_hash(),
        };
        if entry.name.len() < MIN_LEN {
            return None;
        }
        // The kernel leaves the second half out with the first.
        let minor = if hash.major == 0 { 0 } else { hash.minor };
        let mut bytes = Vec::with_capacity(SHOWN.saturating_add(40));
        bytes.extend_from_slice(&hash.major.to_le_bytes());
        bytes.extend_from_slice(&minor.to_le_bytes());
        match entry.name.split_at_checked(SHOWN) {
            Some((shown, rest)) if !rest.is_empty() => {
                bytes.extend_from_slice(shown);
                bytes.extend_from_slice(&Sha256::digest(rest));
            }
            _ => bytes.extend_from_slice(entry.name),
        }
        out.clear();
        base64url(&bytes, out);
        Some(out)
    }
}

/// RFC 4648 section 5, without padding.
fn base64url(bytes: &[u8], out: &mut Vec<u8>) {
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..=group.len() {
            let shift = 18_u32.saturating_sub(u32::try_from(digit).unwrap_or(3).saturating_mul(6));
            let index = usize::try_from(bits >> shift & 63).unwrap_or_default();
            out.push(ALPHABET.get(index).copied().unwrap_or_default());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::string::String;

    fn shown(names: Names, name: &[u8], behind: &[u8]) -> Option<String> {
        let entry = Entry { inode: 12, name, behind };
        let mut out = Vec::new();
        let shown = names.show(&entry, &mut out)?;
        Some(String::from_utf8(shown.to_vec()).unwrap())
    }

    /// Made by hand: Python's `base64.urlsafe_b64encode(struct.pack("<II", ...) + name)` and
    /// `hashlib.sha256`.
    #[test]
    fn names_are_hash_and_ciphertext() {
        let name: Vec<u8> = (0_u8..16).map(|n| n.wrapping_mul(17)).collect();
        let unhashed = shown(Names::Unhashed, &name, &[]).unwrap();
        assert_eq!(unhashed, "AAAAAAAAAAAAESIzRFVmd4iZqrvM3e7_");
        let behind = [0xfe, 0xca, 0xef, 0xbe, 1, 2, 3, 4];
        let stored = shown(Names::Stored, &name, &behind).unwrap();
        assert_eq!(stored, "_srvvgECAwQAESIzRFVmd4iZqrvM3e7_");
        // A record too short for its hash; the kernel would read past it.
        assert_eq!(shown(Names::Stored, &name, &behind[..7]).unwrap(), unhashed);
        assert_eq!(shown(Names::Unhashed, &name[..15], &[]), None);
        assert_eq!(shown(Names::Plain, b"a", &[]).unwrap(), "a");
        assert_eq!(shown(Names::Unhashed, &[b'/'; 149], &[]).unwrap().len(), 210);
        let long = shown(Names::Unhashed, &[0; 160], &[]).unwrap();
        assert_eq!(long.len(), 252);
        assert!(long.ends_with(LONG_END), "{long}");
    }

    const LONG_END: &str = "HG2wdU4MveJp_JDWnxikkX6N2GthId3Xr9JVzMCE6cG";
}
