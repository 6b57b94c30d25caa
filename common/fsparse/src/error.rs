//! The error of every parser in this crate.

use crate::{ByteOffset, ByteRange, ReadError, partition::PartitionProblem};

/// The result of a parser.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Why bytes were refused. Offsets count from the start of the device given to the parser.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device did not give the bytes.
    #[error("{structure}: {source}")]
    Io {
        /// What was being read.
        structure: &'static str,
        /// The failed read.
        source: ReadError,
    },
    /// No structure of this kind stands there at all (wrong magic): try another parser.
    #[error("no {structure} at {at}")]
    NotFound {
        /// What was looked for.
        structure: &'static str,
        /// Where.
        at: ByteOffset,
    },
    /// The structure contradicts itself or its checksum.
    #[error("{structure} at {at} is damaged: {reason}")]
    Corrupt {
        /// Which structure.
        structure: &'static str,
        /// Where it starts.
        at: ByteOffset,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The structure is sound and uses something that this version cannot read.
    #[error("{structure} at {at} needs {feature}, which this version cannot read")]
    Unsupported {
        /// Which structure.
        structure: &'static str,
        /// Where it starts.
        at: ByteOffset,
        /// The feature's name.
        feature: &'static str,
    },
    /// A bound was reached (depth, count, steps): hostile or damaged input.
    #[error("{structure} at {at} passes the limit of {limit} {unit}")]
    Limit {
        /// Which structure.
        structure: &'static str,
        /// Where it starts.
        at: ByteOffset,
        /// The bound.
        limit: u64,
        /// What the bound counts.
        unit: &'static str,
    },
    /// A partition of the table was cut off or left out.
    #[error("partition {number} ({range}) {problem}")]
    Partition {
        /// Its number.
        number: u32,
        /// The bytes that the table gives it.
        range: ByteRange,
        /// What is wrong with it, and what was done.
        problem: PartitionProblem,
    },
}
