//! What a program answered with `--json`: one object a line, the summary last.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::NamedTempFile;

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Answer {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Standard output as it came.
    pub stdout: Vec<u8>,
    /// Standard error, for messages.
    pub stderr: String,
}

impl Answer {
    /// Runs a command to its end, without standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn of(command: &mut Command) -> Result<Self> {
        let line = command_line(command);
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {line}"))?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Self { command: line, code: output.status.code(), stdout: output.stdout, stderr })
    }

    /// Itself, where it ended with the exit code that was expected.
    ///
    /// # Errors
    /// When it ended with another one.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code != Some(code) {
            bail!("expected exit code {code}: {}", self.describe());
        }
        Ok(self)
    }

    /// Every object of standard output, in order.
    ///
    /// # Errors
    /// When a line is not a JSON object with a type.
    pub fn objects(&self) -> Result<Vec<Value>> {
        let text = std::str::from_utf8(&self.stdout).context("standard output is not UTF-8")?;
        let mut objects = Vec::new();
        for line in text.lines() {
            let object: Value = serde_json::from_str(line)
                .with_context(|| format!("not JSON: {line:?} in {}", self.describe()))?;
            ensure!(object["type"].is_string(), "no type in {line:?}");
            objects.push(object);
        }
        Ok(objects)
    }

    /// The last object, which must be the summary.
    ///
    /// # Errors
    /// When it is not.
    pub fn summary(&self) -> Result<Value> {
        let last = self.objects()?.pop().context("standard output is empty")?;
        ensure!(last["type"] == "summary", "the last line is no summary: {}", self.describe());
        Ok(last)
    }

    /// The objects of one type.
    ///
    /// # Errors
    /// When a line is not a JSON object with a type.
    pub fn of_type(&self, kind: &str) -> Result<Vec<Value>> {
        Ok(self.objects()?.into_iter().filter(|object| object["type"] == kind).collect())
    }

    /// Command, exit code and what was said, shortened.
    pub fn describe(&self) -> String {
        let said = String::from_utf8_lossy(&self.stdout);
        let tail = |text: &str| {
            let from = text.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
            text.get(from..).unwrap_or_default().to_owned()
        };
        format!(
            "{}\nexit code {:?}\nstdout: {}\nstderr: {}",
            self.command,
            self.code,
            tail(&said),
            tail(&self.stderr)
        )
    }
}

/// Program and arguments, without the surroundings that every test sets.
fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// A command that runs while the test goes on. Its output goes to files: a pipe that nobody reads would stop it.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
}

impl Running {
    /// Starts a command.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let line = command_line(command);
        let (stdout, stderr) = (NamedTempFile::new()?, NamedTempFile::new()?);
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout.reopen()?)
            .stderr(stderr.reopen()?)
            .spawn()
            .with_context(|| format!("cannot start {line}"))?;
        Ok(Self { line, child, stdout, stderr })
    }

    /// True until it has ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The process id, by which its children are found.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as a power cut would, and waits for its end.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When its output cannot be read.
    pub fn answer(mut self) -> Result<Answer> {
        let status = self.child.wait()?;
        Ok(Answer {
            command: self.line.clone(),
            code: status.code(),
            stdout: std::fs::read(self.stdout.path())?,
            stderr: String::from_utf8_lossy(&std::fs::read(self.stderr.path())?).into_owned(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has usually ended; a failing test must not leave it behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number of a summary that must be there.
///
/// # Errors
/// When the field is missing or no unsigned number.
pub fn number(object: &Value, field: &str) -> Result<u64> {
    object[field].as_u64().with_context(|| format!("no number {field:?} in {object}"))
}

/// A text of a summary that must be there.
///
/// # Errors
/// When the field is missing or no text.
pub fn text<'o>(object: &'o Value, field: &str) -> Result<&'o str> {
    object[field].as_str().with_context(|| format!("no text {field:?} in {object}"))
}
