//! The error of this crate: bytes that are not what a format says.

/// The result of decoding.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why bytes were refused or a node could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes contradict the format.
    #[error("{what} is damaged: {reason} (at byte {at})")]
    Corrupt {
        /// Which structure.
        what: &'static str,
        /// Offset in its encoding.
        at: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The bytes are of a version or use a field that this program does not know.
    #[error("{what} has version {found}; this program reads up to version {known}")]
    Unsupported {
        /// Which structure.
        what: &'static str,
        /// Version found.
        found: u64,
        /// Newest version known.
        known: u64,
    },
    /// A number in the bytes (of a field, a kind) that no version up to this program's knows.
    #[error("{what} uses number {number} (at byte {at}), which this program does not know")]
    UnknownNumber {
        /// Which structure.
        what: &'static str,
        /// Offset in its encoding.
        at: u64,
        /// The number.
        number: u64,
    },
    /// A bound was passed.
    #[error("{what} passes its limit of {limit}")]
    Limit {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The object behind a reference could not be had.
    #[error("{} {} cannot be read", .reference.kind.name(), .reference.id)]
    Unavailable {
        /// The object.
        reference: crate::Reference,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object's bytes do not hash to its id.
    #[error("{} {} is damaged: its bytes hash to {found}", .reference.kind.name(), .reference.id)]
    WrongBytes {
        /// The object asked for.
        reference: crate::Reference,
        /// What the bytes hash to.
        found: crate::ObjectId,
    },
    /// The image hash was given bytes twice or past the disk's end, or not all of them.
    #[error("image hash, {range}: {reason}")]
    ImageHash {
        /// Which bytes of the disk.
        range: crate::ByteRange,
        /// What is wrong with them.
        reason: &'static str,
    },
}
