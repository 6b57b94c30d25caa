//! Objects as they come from the wire and go back to it, and the proof of their ids.

use umbra_common::node::{MAX_NODE_BYTES, REFERENCE_BYTES};
use umbra_common::wire::object::id_of;
use umbra_common::wire::{Codec, MAX_PLAIN_BYTES, Object, zip};
use umbra_common::{Kind, Reference};

use crate::bytes::{narrow, narrow32, wide};
use crate::error::{Error, Result};

/// Longest stored body in bytes: room for incompressible content, a frame header, a cipher's tag.
pub const MAX_STORED_BYTES: u32 = MAX_PLAIN_BYTES + (1 << 16);

/// Most references of one node: what fits into 1 MiB at 33 bytes each.
pub const MAX_REFERENCES: u32 = MAX_PLAIN_BYTES / 33;

/// Decompresses an object's body, and proves that its id is that of its bytes.
///
/// # Errors
/// [`Error::WrongBytes`] where it is not, or the body does not decompress to `plain_len` bytes;
/// [`Error::Limit`] where a length passes its bound (before anything is allocated).
pub fn prove(object: &Object) -> Result<()> {
    check_limits(object)?;
    let wrong = |reason| Error::WrongBytes { reference: object.reference, reason };
    let expected = narrow(object.plain_len.into());
    let look = |plain: &[u8]| {
        if plain.len() != expected {
            return Err(wrong("its plain length is another"));
        }
        if id_of(object.reference.kind, &object.refs, plain) != object.reference.id {
            return Err(wrong("its hash is another"));
        }
        Ok(())
    };
    match object.codec {
        Codec::None => look(&object.body),
        Codec::Zstd => zip::with_plain(&object.body, expected, look)
            .map_err(|_| wrong("it does not decompress"))?,
    }
}

/// Compares every length with its bound.
fn check_limits(object: &Object) -> Result<()> {
    let within = |what, found: u64, limit: u64| {
        if found > limit { Err(Error::Limit { what, found, limit }) } else { Ok(()) }
    };
    within("a stored body", wide(object.body.len()), MAX_PLAIN_BYTES.into())?;
    within("a reference list", wide(object.refs.len()), MAX_REFERENCES.into())?;
    within("a plain body", object.plain_len.into(), MAX_PLAIN_BYTES.into())?;
    if object.reference.kind == Kind::Chunk {
        if !object.refs.is_empty() {
            let reason = "a chunk has no references";
            return Err(Error::WrongBytes { reference: object.reference, reason });
        }
        return Ok(());
    }
    let listed = u64::from(narrow32(object.refs.len())).saturating_mul(wide(REFERENCE_BYTES));
    let found = listed.saturating_add(object.plain_len.into()).saturating_add(4);
    within("a node", found, wide(MAX_NODE_BYTES))
}

/// Proves that a node's list names only kinds that it may refer to, each object once.
///
/// # Errors
/// [`Error::WrongBytes`] naming the node.
pub(crate) fn check_references(reference: Reference, refs: &[Reference]) -> Result<()> {
    let mut seen = std::collections::HashSet::with_capacity(refs.len());
    for child in refs {
        if !umbra_common::node::may_refer(reference.kind, child.kind) {
            let reason = "it refers to a kind that a node of its kind may not refer to";
            return Err(Error::WrongBytes { reference, reason });
        }
        if !seen.insert(child) {
            let reason = "it refers to one object twice";
            return Err(Error::WrongBytes { reference, reason });
        }
    }
    Ok(())
}
