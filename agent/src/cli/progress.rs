//! Progress on standard error: bars on a terminal, plain lines otherwise.
#![allow(clippy::print_stderr)]

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::{self, Output};
use crate::monitor::{Monitor, Notice, Stage};

/// How often a plain line is written.
const LINE_INTERVAL: Duration = Duration::from_secs(30);
/// How many warnings are shown; all are counted and the snapshot keeps up to 1000.
const SHOWN_WARNINGS: u64 = 20;

/// Whether and how progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    Bars,
    Lines,
    Nothing,
}

struct Current {
    stage: Stage,
    bar: Option<ProgressBar>,
    total: Option<u64>,
    since: Instant,
    last_line: Instant,
}

/// Progress and warnings of one command.
pub struct Progress {
    output: Output,
    show: Show,
    current: Mutex<Option<Current>>,
    done: AtomicU64,
    new: AtomicU64,
    warnings: AtomicU64,
    kept: Mutex<Vec<Notice>>,
}

impl Progress {
    /// Makes the monitor of a command.
    pub fn new(output: Output, no_progress: bool) -> Self {
        let show = if no_progress || output.quiet || output.json {
            Show::Nothing
        } else if std::io::stderr().is_terminal() {
            Show::Bars
        } else {
            Show::Lines
        };
        Self {
            output,
            show,
            current: Mutex::new(None),
            done: AtomicU64::new(0),
            new: AtomicU64::new(0),
            warnings: AtomicU64::new(0),
            kept: Mutex::new(Vec::new()),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Ok(mut current) = self.current.lock()
            && let Some(bar) = current.take().and_then(|current| current.bar)
        {
            bar.finish_and_clear();
        }
    }

    fn line(&self, current: &Current) {
        let done = self.done.load(Ordering::Relaxed);
        let seconds = current.since.elapsed().as_secs_f64().max(0.001);
        let rate = output::bytes((done as f64 / seconds) as u64);
        let of = current.total.map(|total| format!(" of {}", output::bytes(total)));
        eprintln!(
            "{}: {}{}, {rate}/s, new {}",
            name(current.stage),
            output::bytes(done),
            of.unwrap_or_default(),
            output::bytes(self.new.load(Ordering::Relaxed)),
        );
    }
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Survey => "looking at the disk",
        Stage::Backup => "backing up",
        Stage::Commit => "committing",
        Stage::Restore => "writing",
        Stage::Verify => "verifying",
    }
}

fn new_bar(stage: Stage, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg} eta {eta}",
        ),
        None => {
            (ProgressBar::new_spinner(), "{prefix} {binary_bytes} {binary_bytes_per_sec} {msg}")
        }
    };
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(name(stage));
    bar
}

impl Monitor for Progress {
    fn begin(&self, stage: Stage, total: Option<u64>) {
        self.finish();
        self.done.store(0, Ordering::Relaxed);
        let bar = (self.show == Show::Bars).then(|| new_bar(stage, total));
        let now = Instant::now();
        if let Ok(mut current) = self.current.lock() {
            *current = Some(Current { stage, bar, total, since: now, last_line: now });
        }
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.show == Show::Nothing {
            return;
        }
        let Ok(mut guard) = self.current.lock() else { return };
        let Some(current) = guard.as_mut() else { return };
        if let Some(bar) = &current.bar {
            bar.inc(bytes);
        } else if current.last_line.elapsed() >= LINE_INTERVAL {
            current.last_line = Instant::now();
            self.line(current);
        }
    }

    fn new_bytes(&self, bytes: u64) {
        let total = self.new.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.show == Show::Bars
            && let Ok(guard) = self.current.lock()
            && let Some(bar) = guard.as_ref().and_then(|current| current.bar.as_ref())
        {
            bar.set_message(format!("new {}", output::bytes(total)));
        }
    }

    fn warning(&self, notice: Notice) {
        let count = self.warnings.fetch_add(1, Ordering::Relaxed);
        if count < SHOWN_WARNINGS || self.output.verbose {
            let show = || self.output.warning(&notice);
            match self.current.lock() {
                Ok(guard) => match guard.as_ref().and_then(|current| current.bar.as_ref()) {
                    Some(bar) => bar.suspend(show),
                    None => show(),
                },
                Err(_) => show(),
            }
        }
        if let Ok(mut kept) = self.kept.lock()
            && kept.len() < crate::tree::KEPT_WARNINGS
        {
            kept.push(notice);
        }
    }

    fn warnings(&self) -> (Vec<Notice>, u64) {
        let kept = self.kept.lock().map(|kept| kept.clone()).unwrap_or_default();
        (kept, self.warnings.load(Ordering::Relaxed))
    }
}
