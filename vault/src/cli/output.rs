//! What is printed: text for people, or JSON lines.

use crate::error::{Result, VaultError};
use crate::report::{MachineReport, Status};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use umbra_store::CheckProgress;

/// How often a long check says how far it is.
const PROGRESS_PAUSE: Duration = Duration::from_secs(10);

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a line for people.
    pub(super) fn text(&self, line: &str) -> Result<()> {
        if self.json { Ok(()) } else { write_line(line) }
    }

    /// Prints an object of a type for programs.
    pub(super) fn object(&self, kind: &str, mut object: Value) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        if let Some(fields) = object.as_object_mut() {
            fields.insert("type".to_owned(), kind.into());
        }
        write_line(&object.to_string())
    }

    /// Returns what tells on standard error, now and then, how far a check is; `None` for
    /// programs, and where nobody looks.
    pub(super) fn progress(&self) -> Option<Box<dyn Fn(CheckProgress) + Send + Sync>> {
        if self.json || !std::io::stderr().is_terminal() {
            return None;
        }
        let last = Mutex::new(Instant::now());
        Some(Box::new(move |progress| {
            let Ok(mut last) = last.try_lock() else { return };
            if last.elapsed() >= PROGRESS_PAUSE {
                *last = Instant::now();
                let line = format!(
                    "read {} of {} packs, {}\n",
                    progress.packs,
                    progress.packs_total,
                    size(progress.bytes)
                );
                let _ = std::io::stderr().lock().write_all(line.as_bytes());
            }
        }))
    }

    /// Prints the last object.
    pub(super) fn summary(&self, object: Value) -> Result<()> {
        self.object("summary", object)
    }

    /// Prints an error: what, where, what to do next.
    pub(super) fn error(&self, message: &str, hint: Option<&str>, exit_code: u8) {
        if self.json {
            let object = json!({ "message": message, "hint": hint, "exit_code": exit_code });
            // Where even that cannot be printed, the exit code still tells.
            let _ = self.object("error", object);
        }
        let mut text = format!("umbra-vault: {message}\n");
        if let Some(hint) = hint {
            text.push_str(&format!("  {hint}\n"));
        }
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    pub(super) fn status(&self, status: &Status) -> Result<()> {
        for machine in status.machines.iter().filter(|machine| machine.stale) {
            let last = machine.latest.as_deref().unwrap_or("never");
            self.text(&format!("NO SNAPSHOT IN 24 H: {} (last: {last})", machine.machine))?;
        }
        for damage in &status.damage {
            let line = format!("DAMAGE: {} at byte {}: {}", damage.path, damage.at, damage.reason);
            self.text(&line)?;
            self.object("warning", json!({ "message": line }))?;
        }
        self.text(&format!("store {} in {}", status.store, status.path))?;
        match &status.listen {
            Some(listen) => self.text(&format!("served on {listen} by process {}", status.pid))?,
            None => self.text("not served")?,
        }
        self.text(&format!(
            "{} machines, {} snapshots{}, {} objects in {}, {} free of {}",
            status.machines.len(),
            status.snapshots,
            match status.forgotten {
                0 => String::new(),
                forgotten => format!(" ({forgotten} more are forgotten)"),
            },
            status.objects,
            size(status.bytes_stored),
            size(status.bytes_free),
            size(status.bytes_total),
        ))?;
        let object = serde_json::to_value(status).unwrap_or_default();
        self.summary(object)
    }

    pub(super) fn machines(&self, machines: &[MachineReport]) -> Result<()> {
        for machine in machines {
            let last = machine.latest.as_deref().unwrap_or("never");
            let role = machine.role.as_deref().unwrap_or("embedded");
            let line = format!(
                "{:24} {role:9} {:>5} snapshots  last {last}",
                machine.machine, machine.snapshots
            );
            self.text(&line)?;
            self.object("entry", serde_json::to_value(machine).unwrap_or_default())?;
        }
        if machines.is_empty() {
            self.text("no machine is enrolled; make a token with `umbra-vault agent token`")?;
        }
        Ok(())
    }
}

/// Prints a number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut whole = bytes;
    let mut tenths = 0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"B");
    while whole >= 1024 {
        let Some(next) = units.next() else { break };
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit = next;
    }
    if *unit == "B" { format!("{whole} B") } else { format!("{whole}.{tenths} {unit}") }
}

/// Prints one line at once, so that a reader of a pipe sees it.
pub(super) fn write_line(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .map_err(|source| VaultError::Io {
            what: "cannot write to standard output".to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16383.9 PiB");
    }
}
