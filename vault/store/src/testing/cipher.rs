//! A cipher that hides nothing but changes every byte.

use crate::cipher::{Cipher, CipherContext};

/// XORs with a key stream from key and id, and appends a tag of 16 bytes. Never for real data.
#[derive(Clone, Copy, Debug)]
pub struct ToyCipher {
    /// The key.
    pub key: [u8; 32],
}

impl ToyCipher {
    fn stream(&self, context: &CipherContext, body: &mut [u8]) {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&context.domain.0.to_le_bytes());
        hasher.update(&context.id.0);
        let mut stream = hasher.finalize_xof();
        let mut pad = vec![0; body.len()];
        stream.fill(&mut pad);
        body.iter_mut().zip(pad).for_each(|(byte, pad)| *byte ^= pad);
    }

    fn tag(&self, body: &[u8]) -> [u8; 16] {
        let hash = blake3::keyed_hash(&self.key, body);
        let mut tag = [0; 16];
        tag.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        tag
    }
}

impl Cipher for ToyCipher {
    fn number(&self) -> u8 {
        250
    }

    fn seal(&self, context: &CipherContext, body: Vec<u8>) -> Vec<u8> {
        let mut body = body;
        self.stream(context, &mut body);
        let tag = self.tag(&body);
        body.extend_from_slice(&tag);
        body
    }

    fn open(&self, context: &CipherContext, body: Vec<u8>) -> Option<Vec<u8>> {
        let mut body = body;
        let at = body.len().checked_sub(16)?;
        let tag = body.split_off(at);
        if self.tag(&body) != *tag {
            return None;
        }
        self.stream(context, &mut body);
        Some(body)
    }
}
