//! Packs: a header, records, and at the end (once sealed) a table of contents.
//!
//! Layout: `docs/formats/pack.md`.

mod footer;
mod header;
mod parity;
mod record;
mod scan;

pub(crate) use footer::{Contents, Entry, TRAILER_BYTES};
pub(crate) use header::{PACK_HEADER_BYTES, PackHeader, PackKind};
pub(crate) use parity::Parity;
pub(crate) use record::{Record, RecordDraft, RecordHeader};
pub(crate) use scan::{Found, scan};

use crate::ids::PackId;

/// A pack is sealed when its next record would pass this length.
pub(crate) const PACK_BYTES: u64 = 16 << 20;

/// Returns the name of a sealed pack.
pub(crate) fn sealed_name(pack: PackId) -> String {
    let hex = pack.to_string();
    format!("packs/{}/{hex}", hex.get(..2).unwrap_or_default())
}

/// Returns the name of the contents that stand beside a pack that could not get a footer.
pub(crate) fn contents_name(pack: PackId) -> String {
    format!("{}.contents", sealed_name(pack))
}

/// Returns the name of the parity that stands beside a pack.
pub(crate) fn parity_name(pack: PackId) -> String {
    format!("{}.parity", sealed_name(pack))
}

/// Returns the name of an open pack.
pub(crate) fn open_name(pack: PackId) -> String {
    format!("open/{pack}")
}
