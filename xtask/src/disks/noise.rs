//! Numbers and bytes without a pattern, the same in every run.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;

/// Deterministic numbers (splitmix64): every run is the same.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// The next one.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Shuffles, always the same way.
pub(crate) fn shuffle<T>(items: &mut [T]) {
    let mut numbers = Numbers(2);
    for last in (1..items.len()).rev() {
        let other = numbers.next() % (last as u64 + 1);
        items.swap(last, usize::try_from(other).unwrap_or(0));
    }
}

/// Bytes that do not compress; rounded down to eight.
pub(crate) fn noise(numbers: &mut Numbers, len: u64) -> Vec<u8> {
    (0..len / 8).flat_map(|_| numbers.next().to_le_bytes()).collect()
}

/// Writes a file of bytes that do not compress.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_noise(path: &Path, len: u64, seed: u64) -> Result<()> {
    let mut numbers = Numbers(seed << 32);
    let mut file = BufWriter::new(File::create(path)?);
    for _ in 0..len / 8 {
        file.write_all(&numbers.next().to_le_bytes())?;
    }
    file.flush()?;
    Ok(())
}

/// 64 bytes that compress to about a half: digits of random numbers.
pub(crate) fn row(numbers: &mut Numbers) -> [u8; 64] {
    let mut row = [0; 64];
    for part in row.chunks_exact_mut(16) {
        let number = numbers.next();
        for (place, digit) in part.iter_mut().enumerate() {
            *digit = match (number >> (4 * place)) & 15 {
                // Below 16, so it fits.
                low @ 0..10 => b'0' + low as u8,
                high => b'a' + (high as u8 - 10),
            };
        }
    }
    row
}

/// Writes a file of rows.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_rows(path: &Path, len: u64, seed: u64) -> Result<()> {
    let mut numbers = Numbers(seed << 32);
    let mut file = BufWriter::new(File::create(path)?);
    for _ in 0..len / 64 {
        file.write_all(&row(&mut numbers))?;
    }
    file.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Numbers, noise, row};

    #[test]
    fn rows_are_hexadecimal_digits_and_differ() {
        let mut numbers = Numbers(9);
        let first = row(&mut numbers);
        assert!(first.iter().all(u8::is_ascii_hexdigit), "{first:?}");
        assert_ne!(first, row(&mut numbers));
    }

    #[test]
    fn noise_is_the_same_for_the_same_seed() {
        assert_eq!(noise(&mut Numbers(1), 64), noise(&mut Numbers(1), 64));
        assert_ne!(noise(&mut Numbers(1), 64), noise(&mut Numbers(2), 64));
        assert_eq!(noise(&mut Numbers(1), 65).len(), 64);
    }
}
