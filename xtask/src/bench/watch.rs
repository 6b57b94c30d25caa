//! Looks at a running process and all below it, and remembers how much memory each had at most.
//!
//! The kernel keeps each process' own peak (`VmHWM` of `/proc/PID/status`, see proc_pid_status(5)); what is
//! asked every [`PERIOD`] is this peak, not the present size, so that only what a process gains
//! between the last look and its end is missed.

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How often is looked. One look takes about a millisecond.
pub(super) const PERIOD: Duration = Duration::from_millis(50);

/// Clock ticks a second in `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux that Debian runs on.
const TICKS_PER_SECOND: u64 = 100;

/// Programs that only start others.
const STARTERS: &[&str] = &["time", "bash", "sh"];

/// How much memory a program had at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peak {
    /// The program's name as the kernel knows it (15 bytes at most).
    pub(super) program: String,
    /// Resident bytes.
    pub(super) bytes: u64,
}

/// A process as `/proc/PID/stat` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    program: String,
    parent: u32,
    /// User and system time of the process and its threads, without its children.
    pub(super) cpu: Duration,
}

impl Stat {
    /// Reads the line of `/proc/PID/stat` (proc_pid_stat(5)).
    ///
    /// # Errors
    /// When a field is missing.
    pub(super) fn parse(line: &str) -> Result<Self> {
        // The name stands in parentheses and may hold some itself.
        let (before, rest) = line.rsplit_once(')').context("no name in a stat line")?;
        let (_, program) = before.split_once('(').context("no name in a stat line")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // proc_pid_stat(5) counts from 1 and the name is 2: parent 4, utime 14, stime 15.
        let field = |number: usize| -> Result<u64> {
            let text = fields.get(number - 3).context("a stat line is too short")?;
            text.parse().with_context(|| format!("field {number} of a stat line is {text:?}"))
        };
        let ticks = field(14)? + field(15)?;
        Ok(Self {
            program: program.to_owned(),
            parent: u32::try_from(field(4)?)?,
            cpu: Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND),
        })
    }

    /// The process with this number.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let line = fs::read(format!("/proc/{pid}/stat")).context("a process has ended")?;
        Self::parse(&String::from_utf8_lossy(&line))
    }
}

/// The line `VmHWM` of `/proc/PID/status` in bytes; kernel threads and zombies have none.
fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Makes a running process' peak begin anew (proc_pid_clear_refs(5)).
///
/// # Errors
/// When the process is not ours.
pub(super) fn forget_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
        .with_context(|| format!("cannot reset the peak memory of process {pid}"))
}

/// Watches in a thread of its own.
pub(super) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Seen>,
}

/// The peak of each process and name; a process that becomes another program begins anew.
type Seen = BTreeMap<(u32, String), u64>;

impl Watch {
    /// Begins to look at a process, all below it, and one more beside it.
    pub(super) fn begin(root: u32, beside: Option<u32>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut seen = Seen::new();
            loop {
                look(root, beside, &mut seen);
                if stopped.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout) {
                    // Once more for the one beside, which goes on.
                    look(root, beside, &mut seen);
                    return seen;
                }
            }
        });
        Self { stop, thread }
    }

    /// Ends it; the peaks, largest first.
    ///
    /// # Errors
    /// When the watching thread panicked.
    pub(super) fn end(self) -> Result<Vec<Peak>> {
        // The thread may have ended by a panic; joining tells.
        let _ = self.stop.send(());
        let Ok(seen) = self.thread.join() else { bail!("the watching thread panicked") };
        let mut peaks: BTreeMap<String, u64> = BTreeMap::new();
        for ((_, program), bytes) in seen {
            if !STARTERS.contains(&program.as_str()) {
                *peaks.entry(program).or_default() += bytes;
            }
        }
        let mut peaks: Vec<Peak> =
            peaks.into_iter().map(|(program, bytes)| Peak { program, bytes }).collect();
        peaks.sort_by_key(|peak| std::cmp::Reverse(peak.bytes));
        Ok(peaks)
    }
}

fn look(root: u32, beside: Option<u32>, seen: &mut Seen) {
    let running: BTreeMap<u32, Stat> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, Stat::of(pid).ok()?))
        })
        .collect();
    for pid in family(root, &running).into_iter().chain(beside) {
        let Some(stat) = running.get(&pid) else { continue };
        let Ok(status) = fs::read(format!("/proc/{pid}/status")) else { continue };
        if let Some(bytes) = peak_in(&String::from_utf8_lossy(&status)) {
            let peak = seen.entry((pid, stat.program.clone())).or_default();
            *peak = bytes.max(*peak);
        }
    }
}

/// A process and all below it.
fn family(root: u32, running: &BTreeMap<u32, Stat>) -> Vec<u32> {
    let mut members = vec![root];
    let mut next = 0;
    while let Some(parent) = members.get(next).copied() {
        next += 1;
        members.extend(running.iter().filter(|(_, s)| s.parent == parent).map(|(pid, _)| *pid));
    }
    members
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::process::Command;
    use std::time::Duration;

    use super::{Stat, Watch, family, peak_in};

    fn line(pid: u32, name: &str, parent: u32) -> String {
        format!("{pid} ({name}) S {parent} 1 1 0 -1 4194560 123 456 0 0 250 75 9999 8888 20 0 1 0")
    }

    #[test]
    fn a_stat_line_is_read_whatever_the_name_is() {
        for name in ["umbra", "a) S 1 (b", "two words", ""] {
            let stat = Stat::parse(&line(7, name, 3)).unwrap();
            assert_eq!((stat.program.as_str(), stat.parent), (name, 3));
            assert_eq!(stat.cpu, Duration::from_millis(3250));
        }
        assert!(Stat::parse("7 (umbra) S 3 1").is_err());
        assert!(Stat::parse("7 umbra S 3 1").is_err());
    }

    #[test]
    fn the_peak_is_the_high_water_mark_in_bytes() {
        let status = "Name:\tx\nVmPeak:\t  9999 kB\nVmHWM:\t    2064 kB\nVmRSS:\t    1000 kB\n";
        assert_eq!(peak_in(status), Some(2064 * 1024));
        assert_eq!(peak_in("Name:\tkthreadd\n"), None);
        assert_eq!(peak_in("VmHWM:\t many kB\n"), None);
    }

    #[test]
    fn a_family_is_all_generations_and_nobody_else() {
        let parents = [(1, 0), (5, 1), (6, 5), (9, 6), (4, 9), (7, 1), (8, 7)];
        let running: BTreeMap<u32, Stat> = parents
            .iter()
            .map(|(pid, parent)| (*pid, Stat::parse(&line(*pid, "x", *parent)).unwrap()))
            .collect();
        assert_eq!(family(5, &running), [5, 6, 9, 4]);
    }

    #[test]
    fn a_grandchild_is_seen() {
        let mut child = Command::new("sh").args(["-c", "sleep 0.3 & wait"]).spawn().unwrap();
        let watch = Watch::begin(child.id(), None);
        child.wait().unwrap();
        let peaks = watch.end().unwrap();
        assert_eq!(peaks.len(), 1, "{peaks:?}");
        assert_eq!(peaks[0].program, "sleep");
        assert!(peaks[0].bytes > 100_000, "{peaks:?}");
    }
}
