//! `demo`: the whole job on a small disk, with the commands that a person would type.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::cli::output::duration;
use crate::cli::{DemoArgs, Global, Output};
use crate::error::{Error, Result};

/// A GPT disk of 32 MiB with one ext4; `agent/assets/make-demo-disk.sh` makes it.
static DISK: &[u8] = include_bytes!("../../../assets/demo-disk.img.zst");
/// The length of the disk in bytes.
const DISK_BYTES: usize = 32 << 20;
/// The file that is pulled out, and what it begins with.
const LETTER: &str = "/home/ada/letters/hello.txt";
/// What is written over the beginning of the word list on the "next day".
const EDIT: &[u8] = b"edited on the next day, in place: a new beginning\n";

/// Runs the demo.
///
/// # Errors
/// [`Error::Damage`] where anything that comes back is not what went in; whatever a step answers.
pub fn run(global: &Global, args: &DemoArgs, output: &Output) -> Result<()> {
    let started = Instant::now();
    let temporary = tempfile::tempdir().map_err(|source| Error::Io {
        what: "make",
        path: "a temporary directory".into(),
        source,
    })?;
    let dir = args.keep.clone().unwrap_or_else(|| temporary.path().into());
    std::fs::create_dir_all(&dir).map_err(|source| Error::Io {
        what: "make",
        path: dir.clone(),
        source,
    })?;
    let demo = Demo { dir, output, wait: global.wait };
    demo.write_disk()?;
    demo.note("a disk of 32 MiB with a partition table and an ext4 file system: disk.img")?;
    demo.step(&["init", "vault"])?;
    let first = demo.step(&["backup", "disk.img"])?;
    demo.edit_in_place()?;
    demo.note("the next day: one file was edited in place")?;
    let second = demo.step(&["backup", "disk.img"])?;
    demo.step(&["snapshots"])?;
    demo.step(&["ls", "latest:/home/ada"])?;
    let letter = demo.capture(&["cat", &format!("latest:{LETTER}")])?;
    demo.say_command(&["cat", &format!("latest:{LETTER}")])?;
    demo.note(String::from_utf8_lossy(&letter).trim_end())?;
    demo.expect(letter.starts_with(b"Dear reader"), LETTER, "another content came back")?;
    demo.step(&["recover", "latest", "--to", "recovered.img"])?;
    demo.expect_equal("disk.img", "recovered.img")?;
    demo.step(&["verify", "latest~1"])?;
    let new = |summary: &Value| summary.get("bytes_new").and_then(Value::as_u64).unwrap_or(0);
    demo.expect(new(&second) < new(&first) / 4, "the second backup", "it was not incremental")?;
    let took = duration(started.elapsed());
    output.text(&format!("\nThe recovered disk equals the original, byte for byte. ({took})"))?;
    output.object("summary", json!({"equal": true, "bytes_new": [new(&first), new(&second)]}))
}

struct Demo<'a> {
    dir: PathBuf,
    output: &'a Output,
    wait: u64,
}

impl Demo<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn failed(&self, what: &'static str, name: &str) -> impl FnOnce(std::io::Error) -> Error {
        let path = self.path(name);
        move |source| Error::Io { what, path, source }
    }

    fn write_disk(&self) -> Result<()> {
        let disk =
            zstd::bulk::decompress(DISK, DISK_BYTES).map_err(self.failed("make", "disk.img"))?;
        std::fs::write(self.path("disk.img"), disk).map_err(self.failed("write", "disk.img"))
    }

    /// Changes the first bytes of the word list where they lie on the disk.
    fn edit_in_place(&self) -> Result<()> {
        let listing =
            self.capture(&["--json", "ls", "--extents", "latest:/usr/share/dict/words"])?;
        let offset = String::from_utf8_lossy(&listing)
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|entry| entry.pointer("/extents/0/1")?.as_u64());
        let offset = offset.ok_or_else(|| self.damage("the listing", "no extents of the words"))?;
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(self.path("disk.img"))
            .map_err(self.failed("open", "disk.img"))?;
        file.write_all_at(EDIT, offset).map_err(self.failed("write", "disk.img"))
    }

    fn note(&self, line: &str) -> Result<()> {
        self.output.note(line)
    }

    fn say_command(&self, words: &[&str]) -> Result<()> {
        self.note(&format!("\n$ umbra {}", words.join(" ")))
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let program = std::env::current_exe().map_err(self.failed("find", "umbra"))?;
        let mut command = Command::new(program);
        command
            .args(words)
            .current_dir(&self.dir)
            .env("UMBRA_CONFIG", self.path("agent.toml"))
            .env("UMBRA_CACHE_DIR", self.path("cache"))
            .env("UMBRA_WAIT", self.wait.to_string())
            .env("UMBRA_NO_PROGRESS", "true");
        for name in ["UMBRA_VAULT", "UMBRA_JSON", "UMBRA_DISK", "UMBRA_MACHINE", "UMBRA_DRY_RUN"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Runs a command and returns what it printed.
    fn capture(&self, words: &[&str]) -> Result<Vec<u8>> {
        let result = self.command(words)?.output().map_err(self.failed("run", "umbra"))?;
        if result.status.success() {
            return Ok(result.stdout);
        }
        let why = String::from_utf8_lossy(&result.stderr).trim().to_owned();
        Err(self.damage(&format!("umbra {}", words.join(" ")), &why))
    }

    /// Shows a command and what it prints, and returns its summary.
    fn step(&self, words: &[&str]) -> Result<Value> {
        self.say_command(words)?;
        if !self.output.json && !self.output.quiet && words.first() != Some(&"backup") {
            let text = self.capture(words)?;
            self.note(String::from_utf8_lossy(&text).trim_end())?;
            return Ok(Value::Null);
        }
        let words: Vec<&str> = std::iter::once("--json").chain(words.iter().copied()).collect();
        let printed = self.capture(&words)?;
        let last = String::from_utf8_lossy(&printed);
        let summary: Value = last
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_default();
        if let Some(new) = summary.get("bytes_new").and_then(Value::as_u64) {
            let of = |name: &str| summary.get(name).and_then(Value::as_u64).unwrap_or_default();
            self.note(&format!(
                "{} read, {} new, {} stored, {} names, {} ms",
                crate::cli::output::bytes(of("bytes_read")),
                crate::cli::output::bytes(new),
                crate::cli::output::bytes(of("bytes_stored")),
                of("files"),
                of("duration_ms"),
            ))?;
        }
        Ok(summary)
    }

    fn damage(&self, what: &str, detail: &str) -> Error {
        Error::Damage {
            what: what.into(),
            detail: detail.into(),
            hint: "this is a bug or a broken disk; please report it".into(),
        }
    }

    fn expect(&self, holds: bool, what: &str, otherwise: &str) -> Result<()> {
        if holds { Ok(()) } else { Err(self.damage(what, otherwise)) }
    }

    fn expect_equal(&self, a: &str, b: &str) -> Result<()> {
        let read = |path: &Path, name| std::fs::read(path).map_err(self.failed("read", name));
        let equal = read(&self.path(a), "disk.img")? == read(&self.path(b), "recovered.img")?;
        self.expect(equal, "recovered.img", "it differs from disk.img")
    }
}
