//! What goes to standard output: text for people, or one JSON object a line.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::monitor::Notice;

/// Whether a summary was printed, or bytes that are no JSON; no object comes after it.
static SUMMARY_SHOWN: AtomicBool = AtomicBool::new(false);

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// One JSON object a line.
    pub json: bool,
    /// Leave out what is not a result.
    pub quiet: bool,
    /// Show every warning, and what an error came from.
    pub verbose: bool,
}

impl Output {
    /// Prints a line for people; nothing with `--json`.
    ///
    /// # Errors
    /// [`Error::Io`] where standard output cannot be written (a closed pipe).
    pub fn text(&self, line: &str) -> Result<()> {
        if self.json { Ok(()) } else { write_line(line.as_bytes()) }
    }

    /// Prints a line for people that is no result; nothing with `--json` or `--quiet`.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn note(&self, line: &str) -> Result<()> {
        if self.quiet { Ok(()) } else { self.text(line) }
    }

    /// Prints one object of type `kind`; nothing without `--json`.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn object(&self, kind: &str, fields: Value) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        if kind == "summary" {
            SUMMARY_SHOWN.store(true, Ordering::Relaxed);
        }
        let mut object = Map::new();
        object.insert("type".into(), kind.into());
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        write_line(Value::Object(object).to_string().as_bytes())
    }

    /// Reports a warning: an object with `--json`, a line on standard error otherwise.
    pub fn warning(&self, notice: &Notice) {
        let at = notice.at.map(|at| at.0);
        if self.json {
            let fields =
                json!({"subject": notice.subject, "offset": at, "message": notice.message});
            // A warning that cannot be shown must not stop what it warns about.
            let _ = self.object("warning", fields);
        } else {
            eprintln!("warning: {}: {}", notice.subject, notice.message);
        }
    }

    /// Says that the content of a file goes to standard output from here on: objects would only
    /// get into it.
    pub fn content_follows(&self) {
        SUMMARY_SHOWN.store(true, Ordering::Relaxed);
    }

    /// Reports the error that ended the command; with `--json` a summary comes last here too.
    pub fn error(&self, error: &Error) {
        if !SUMMARY_SHOWN.load(Ordering::Relaxed) {
            self.failed(&error.to_string(), error.exit_code());
        }
        let closed = matches!(error, Error::Io { source, .. }
            if source.kind() == std::io::ErrorKind::BrokenPipe);
        // Whoever closed the pipe knows.
        if !closed {
            eprintln!("umbra: {error}");
            let mut source = std::error::Error::source(error).filter(|_| self.verbose);
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
        }
    }

    /// Ends a command that has a summary: the error first, where there is one.
    ///
    /// # Errors
    /// Those of `verdict`, and as [`Output::text`].
    pub fn finish(&self, summary: Value, verdict: Result<()>) -> Result<()> {
        if let Err(error) = &verdict {
            self.error_object(error);
        }
        self.object("summary", summary)?;
        verdict
    }

    fn error_object(&self, error: &Error) {
        let fields = json!({"message": error.to_string(), "exit_code": error.exit_code()});
        // The exit code says it too.
        let _ = self.object("error", fields);
    }

    /// Prints the objects of a command that ended before it had anything to sum up.
    pub(super) fn failed(&self, message: &str, exit_code: u8) {
        let error = json!({"message": message, "exit_code": exit_code});
        let printed = self.object("error", error);
        // Where standard output takes nothing the exit code still tells.
        let _ = printed.and_then(|()| self.object("summary", json!({"exit_code": exit_code})));
    }
}

fn write_line(line: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(line).and_then(|()| out.write_all(b"\n"));
    written.map_err(|source| Error::Io { what: "write to", path: "standard output".into(), source })
}

/// Formats a number of bytes for people: `1.50 GiB`.
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// Formats a span of time for people: `75 ms`, `12.3 s`, `4 min 05 s`.
pub fn duration(time: std::time::Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..=119 => format!("{:.1} s", time.as_secs_f64()),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}
