//! Much unique data: what agent and vault need of memory.

use std::io::Write;
use std::process::ChildStdin;

use anyhow::Result;

use super::{Section, Table, memory_targets};
use crate::bench::figures::{Row, Sample};
use crate::bench::measure::Job;
use crate::bench::tools::{Kind, Tool, Umbra};
use crate::bench::{Bench, Scenario, stored_bytes};
use crate::disks::Numbers;

const STREAM_BYTES: u64 = 64 << 30;
const PIECE_BYTES: usize = 1 << 20;

/// Measures it; one round is enough for memory.
///
/// # Errors
/// When umbra fails.
pub(super) fn run(bench: &Bench<'_>) -> Result<Section> {
    let umbra = Umbra::running(bench.env, &bench.empty_dir("store")?)?;
    let done = bench.meter.run(Job {
        command: umbra.stream(),
        vault: umbra.vault(),
        written: umbra.store(),
        feed: Some(Box::new(feed)),
    })?;
    bench.tell(1, "64 GiB", &done);
    let sample = Sample { cost: done.cost, stored_bytes: Some(stored_bytes(&umbra)) };
    let row = Row::of(Kind::Running.name(), &[sample]);
    Ok(Section {
        scenario: Scenario::Stream,
        method:
            "64 GiB of data that occurs only once, made while it is read from standard input; one \
                 round. Each byte holds one random bit, so that the store stays small."
                .to_owned(),
        targets: memory_targets("64 GiB of unique data", 0, row.as_ref()).to_vec(),
        tables: vec![Table { title: String::new(), rows: row.into_iter().collect() }],
    })
}

/// Writes bytes with one random bit each.
fn feed(mut stdin: ChildStdin) -> std::io::Result<()> {
    let mut numbers = Numbers(11);
    let mut piece = vec![0; PIECE_BYTES];
    for _ in 0..STREAM_BYTES / PIECE_BYTES as u64 {
        for eight in piece.chunks_exact_mut(8) {
            eight.copy_from_slice(&bits(numbers.next()).to_le_bytes());
        }
        stdin.write_all(&piece)?;
    }
    Ok(())
}

/// Eight bytes, each with one bit of the number in a place where it makes a letter.
fn bits(number: u64) -> u64 {
    0x6060_6060_6060_6060 | (number & 0x0101_0101_0101_0101)
}

#[cfg(test)]
mod tests {
    use super::bits;

    #[test]
    fn each_byte_holds_one_bit() {
        assert_eq!(bits(0).to_le_bytes(), [0x60; 8]);
        assert_eq!(bits(u64::MAX).to_le_bytes(), [0x61; 8]);
        assert_eq!(bits(0xff00).to_le_bytes(), [0x60, 0x61, 0x60, 0x60, 0x60, 0x60, 0x60, 0x60]);
    }
}
