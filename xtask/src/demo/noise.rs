//! Numbers and bytes without a pattern, the same in every run of the demo.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Result;

/// Deterministic numbers (splitmix64): every run of the demo is the same.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Shuffles, always the same way.
pub(super) fn shuffle<T>(items: &mut [T]) {
    let mut numbers = Numbers(2);
    for last in (1..items.len()).rev() {
        let other = numbers.next() % (last as u64 + 1);
        items.swap(last, usize::try_from(other).unwrap_or(0));
    }
}

/// Writes a file of bytes that do not compress.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write_noise(path: &Path, len: u64, seed: u64) -> Result<()> {
    let mut numbers = Numbers(seed << 32);
    let mut file = std::io::BufWriter::new(File::create(path)?);
    for _ in 0..len / 8 {
        file.write_all(&numbers.next().to_le_bytes())?;
    }
    file.flush()?;
    Ok(())
}
