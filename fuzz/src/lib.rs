//! Everything that decodes bytes of others, as functions that a fuzzer calls.
//!
//! A target takes any bytes and panics where something that must hold does not: no panic of the
//! code under test, decode(encode(x)) == x, everything found lies inside what was given, and no
//! more memory or reads than the input's size allows. Checksums are mended on the way in, so that
//! the fuzzer gets past them. The first bytes of an input often say how the rest is used.

mod disks;
mod ext;
mod input;
mod limits;
mod nodes;
mod snapshots;
mod structures;
mod wire;

pub use input::{BASES, Patched, patch};

/// A fuzz target: a name, as in `fuzz_targets` and `corpus`, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("partition", disks::partition),
    ("ext", ext::ext),
    ("ext_superblock", structures::superblock),
    ("ext_inode", structures::inode),
    ("ext_extents", structures::extents),
    ("ext_directory", structures::entries),
    ("ext_xattrs", structures::attributes),
    ("jbd2", disks::jbd2),
    ("directory", nodes::directory),
    ("extent_list", nodes::extent_list),
    ("xattrs", nodes::xattrs),
    ("map", nodes::map),
    ("manifest", snapshots::manifest),
    ("receipt", snapshots::receipt),
    ("pack", umbra_store::testing::fuzz::pack),
    ("footer", umbra_store::testing::fuzz::footer),
    ("parity", umbra_store::testing::fuzz::parity),
    ("sweep_list", umbra_store::testing::fuzz::sweep_list),
    ("log", umbra_store::testing::fuzz::log),
    ("format", umbra_store::testing::fuzz::format),
    ("lock", umbra_store::testing::fuzz::lock),
    ("known_ids", snapshots::known_ids),
    ("wire_to_vault", wire::to_vault),
    ("wire_to_agent", wire::to_agent),
    ("token", wire::token),
    ("cbor", wire::cbor),
];

/// What any input may cost beyond a multiple of its length, in bytes of memory.
const BASE_BYTES: usize = 24 << 20;
/// The multiple: a reference of 33 bytes becomes a reference, a map's entry and a list's.
const BYTES_PER_BYTE: usize = 64;

/// Runs one target on one input, and checks what it took of memory.
///
/// # Panics
/// Where something that must hold does not, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.expect("the name is one of TARGETS");
    let limit = BASE_BYTES + BYTES_PER_BYTE * data.len();
    limits::within(limit, || target(data));
}
