//! Disk images that tests make themselves, and kernel mounts as witnesses.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Deterministic bytes that do not compress: splitmix64 of a seed.
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// Starts a sequence; the seed belongs into the test's output.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_number() % bound.max(1)
    }

    /// The next bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next_number().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

/// Writes a file of noise, in pieces.
///
/// # Errors
/// When it cannot be written.
pub fn write_noise(path: &Path, len: u64, noise: &mut Noise) -> Result<()> {
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let mut left = len;
    while left > 0 {
        let piece = left.min(1 << 20);
        file.write_all(&noise.bytes(usize::try_from(piece)?))?;
        left -= piece;
    }
    Ok(())
}

/// Makes an ext4 image of `size` bytes filled from a directory, without mounting anything.
///
/// # Errors
/// When mke2fs fails.
pub fn make_ext4(image: &Path, size: u64, from: &Path, options: &[&str]) -> Result<()> {
    File::create(image)?.set_len(size)?;
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4"]).args(options).arg("-d").arg(from).arg(image);
    crate::must(&mut command)?;
    Ok(())
}

/// Compares two files byte for byte; a difference is told with its position.
///
/// # Errors
/// When they differ or cannot be read.
pub fn expect_equal(expected: &Path, found: &Path) -> Result<()> {
    let (mut a, mut b) = (File::open(expected)?, File::open(found)?);
    let (a_len, b_len) = (a.metadata()?.len(), b.metadata()?.len());
    if a_len != b_len {
        bail!("{} has {a_len} bytes, {} has {b_len}", expected.display(), found.display());
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0_u64;
    while at < a_len {
        let piece = usize::try_from((a_len - at).min(1 << 20))?;
        let (x, y) = (&mut left[..piece], &mut right[..piece]);
        a.read_exact(x)?;
        b.read_exact(y)?;
        if let Some(where_) = x.iter().zip(y.iter()).position(|(x, y)| x != y) {
            let position = at + u64::try_from(where_)?;
            bail!("{} and {} differ at byte {position}", expected.display(), found.display());
        }
        at += u64::try_from(piece)?;
    }
    Ok(())
}

/// A file system image mounted by the kernel, unmounted when dropped. Needs root.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
}

impl Mount {
    /// Mounts an image (or one partition of it) at a new directory. `options` go to `mount -o` beside `loop`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(image: &Path, dir: &Path, options: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let options = match options.is_empty() {
            true => "loop".to_owned(),
            false => format!("loop,{options}"),
        };
        crate::must(Command::new("mount").args(["-o", &options]).arg(image).arg(dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Unmounts it, which writes everything out.
    ///
    /// # Errors
    /// When it is busy.
    pub fn unmount(self) -> Result<()> {
        crate::must(Command::new("umount").arg(&self.dir))?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A mount that a failing test leaves behind must go, even where something still holds it.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).output();
    }
}
