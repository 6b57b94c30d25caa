//! Writes into a file on a disk from below, as a program inside a virtual machine changes the image of its disk.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

use crate::disks::{Disk, Numbers, row};
use crate::env::BuildEnv;
use crate::process;

const BLOCK_BYTES: u64 = 4096;
/// Blocks of one piece of a clustered write: 4 MiB.
const CLUSTER_BLOCKS: u64 = 1024;

/// Where writes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// To single blocks anywhere.
    Random,
    /// To long pieces.
    Clustered,
}

/// A part of a file that lies in one piece: block of the file system, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    first: u64,
    blocks: u64,
}

/// Overwrites so many bytes of a file.
///
/// # Errors
/// When the file has no blocks, or the disk cannot be written.
pub(super) fn change(
    env: &BuildEnv,
    disk: &Disk,
    path: &str,
    pattern: Pattern,
    bytes: u64,
) -> Result<()> {
    let request = format!("dump_extents -l {path}");
    let said = process::output(
        env.command("debugfs").args(["-R", &request]).arg(disk.root_in(&disk.path)),
    )?;
    let pieces = pieces(&String::from_utf8_lossy(&said))?;
    let image = File::options().write(true).open(&disk.path)?;
    for (number, block) in blocks(&pieces, pattern, bytes / BLOCK_BYTES).into_iter().enumerate() {
        let clustered = u64::from(pattern == Pattern::Clustered);
        let seed = block ^ ((number as u64) << 32) ^ (clustered << 63);
        let mut numbers = Numbers(seed);
        let content: Vec<u8> = (0..BLOCK_BYTES / 64).flat_map(|_| row(&mut numbers)).collect();
        image.write_all_at(&content, Disk::root_offset() + block * BLOCK_BYTES)?;
    }
    image.sync_all()?;
    Ok(())
}

/// The leaves that `dump_extents -l` shows: level, entry, logical range, physical range, length.
fn pieces(said: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for line in said.lines().skip(1) {
        // "1/ 1   3/ 20   4096 -   6143   34816 -  36863   2048"
        let words: Vec<&str> = line.split(['-', ' ', '/']).filter(|w| !w.is_empty()).collect();
        let number = |index: usize| -> Result<u64> {
            let word = words.get(index).with_context(|| format!("debugfs said {line:?}"))?;
            word.parse().with_context(|| format!("debugfs said {line:?}"))
        };
        let piece = Piece { first: number(6)?, blocks: number(8)? };
        ensure!(number(7)?.checked_sub(piece.first) == piece.blocks.checked_sub(1), "{line:?}");
        pieces.push(piece);
    }
    ensure!(!pieces.is_empty(), "the file has no extents");
    Ok(pieces)
}

/// So many different blocks of the pieces, always the same ones.
fn blocks(pieces: &[Piece], pattern: Pattern, count: u64) -> Vec<u64> {
    let all: Vec<u64> =
        pieces.iter().flat_map(|piece| piece.first..piece.first + piece.blocks).collect();
    let run = match pattern {
        Pattern::Random => 1,
        Pattern::Clustered => CLUSTER_BLOCKS,
    };
    let mut runs: Vec<&[u64]> = all.chunks(usize::try_from(run).unwrap_or(1)).collect();
    crate::disks::shuffle(&mut runs);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut chosen: Vec<u64> = runs.into_iter().flatten().copied().take(count).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{CLUSTER_BLOCKS, Pattern, Piece, blocks, pieces};

    const SAID: &str = "\
Level Entries       Logical      Physical Length Flags
 1/ 1   1/ 20     0 -  2047   34816 -  36863   2048
 1/ 1   2/ 20  2048 -  2048   40000 -  40000      1 
";

    #[test]
    fn extents_are_read() {
        let read = pieces(SAID).unwrap();
        assert_eq!(read, [Piece { first: 34816, blocks: 2048 }, Piece { first: 40000, blocks: 1 }]);
        assert!(pieces("Level Entries\n").is_err());
        assert!(pieces("Level\n 1/ 1 1/ 20 0 - 2047 34816 - 36863 2047\n").is_err());
    }

    #[test]
    fn blocks_are_different_ones_of_the_file() {
        let pieces = [Piece { first: 100, blocks: 5000 }, Piece { first: 9000, blocks: 3000 }];
        for (pattern, runs_at_most) in [(Pattern::Random, 2048), (Pattern::Clustered, 4)] {
            let mut chosen = blocks(&pieces, pattern, 2 * CLUSTER_BLOCKS);
            assert_eq!(chosen.len(), 2048);
            assert!(chosen.iter().all(|b| (100..5100).contains(b) || (9000..12000).contains(b)));
            chosen.dedup();
            assert_eq!(chosen.len(), 2048, "{pattern:?}");
            let runs = 1 + chosen.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
            assert!(runs <= runs_at_most, "{pattern:?}: {runs} runs");
            if pattern == Pattern::Random {
                assert!(runs > 1000, "{runs} runs");
            }
        }
    }
}
