//! The corpus of disk images beside the checkout: unpacked once, its manifests, its checker.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::skip;

/// The corpus.
#[derive(Clone, Debug)]
pub struct Corpus {
    dir: PathBuf,
    cache_dir: PathBuf,
}

impl Corpus {
    /// Finds `shared/corpus` beside the checkout, walking up; without it the test is skipped.
    pub fn find(test: &str) -> Option<Self> {
        let start = Path::new(env!("CARGO_MANIFEST_DIR"));
        let found = start.ancestors().map(|dir| dir.join("shared/corpus")).find(|dir| dir.is_dir());
        let Some(dir) = found else {
            skip(test, "no shared/corpus stands beside the checkout");
            return None;
        };
        let cache_dir = std::env::var_os("UMBRA_TEST_CACHE_DIR")
            .map_or_else(|| std::env::temp_dir().join("umbra-test-cache"), PathBuf::from);
        Some(Self { dir, cache_dir })
    }

    /// Names of all images.
    ///
    /// # Errors
    /// When the directory cannot be read or holds no image.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if let Some(name) = name.to_string_lossy().strip_suffix(".img.zst") {
                names.push(name.to_owned());
            }
        }
        names.sort();
        if names.is_empty() {
            bail!("{} holds no image", self.dir.display());
        }
        Ok(names)
    }

    /// The unpacked image, kept for the next run under a name that holds its hash. Not to be written to.
    ///
    /// # Errors
    /// When it cannot be unpacked.
    pub fn image(&self, name: &str) -> Result<PathBuf> {
        let meta = self.meta(name)?;
        let hash = meta["image_sha256"]
            .as_str()
            .or(meta["sha256"].as_str())
            .and_then(|hash| hash.get(..16))
            .with_context(|| format!("{name}.meta.json names no hash"))?;
        fs::create_dir_all(&self.cache_dir)?;
        let path = self.cache_dir.join(format!("{name}-{hash}.img"));
        if !path.exists() {
            // Another test may unpack the same image now: each writes its own file, the last rename wins.
            let part = tempfile::Builder::new().suffix(".part").tempfile_in(&self.cache_dir)?;
            let mut zstd = Command::new("zstd");
            zstd.args(["-d", "-f", "-q", "--sparse", "--long=27", "-o"]).arg(part.path());
            crate::must(zstd.arg(self.dir.join(format!("{name}.img.zst"))))?;
            crate::must(Command::new("chmod").arg("0644").arg(part.path()))?;
            part.persist(&path)?;
        }
        Ok(path)
    }

    /// What the corpus says of an image.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn meta(&self, name: &str) -> Result<Value> {
        let path = self.dir.join(format!("{name}.meta.json"));
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The lines of the manifest of an image.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn manifest(&self, name: &str) -> Result<Vec<Value>> {
        let path = self.dir.join(format!("{name}.manifest.jsonl.zst"));
        let text = crate::must(Command::new("zstd").arg("-dcq").arg(path))?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).context("a manifest line")).collect()
    }

    /// Runs `verify_manifest.py` on a manifest and returns what it printed.
    ///
    /// # Errors
    /// When it found a difference, which is part of the message.
    pub fn verify(&self, manifest: &Path, arguments: &[&str]) -> Result<String> {
        let output = crate::python()
            .arg(self.dir.join("verify_manifest.py"))
            .arg(manifest)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("cannot start python")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "verify_manifest.py {arguments:?}: {}\n{said}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(said)
    }
}

/// Writes JSON objects, one a line.
///
/// # Errors
/// When the file cannot be written.
pub fn write_lines(path: &Path, lines: &[Value]) -> Result<()> {
    let mut file = File::create(path)?;
    for line in lines {
        writeln!(file, "{line}")?;
    }
    Ok(())
}
